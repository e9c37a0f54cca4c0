"""`evaluate.Metric` without a folder on the disk."""

import os

import evaluate


class InMemoryMetric(evaluate.Metric):
    """A metric that with `keep_in_memory` writes nothing, so that it works where HOME cannot be written.

    `evaluate.Metric` itself makes a folder in its cache in any case.
    """

    def _build_data_dir(self) -> str:
        if not self.keep_in_memory:
            return super()._build_data_dir()
        return os.path.join(self._data_dir_root, self.name, self.config_name)
