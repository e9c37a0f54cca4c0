"""An `evaluate.Metric` that needs no folder on disk."""

import os

import evaluate


class InMemoryMetric(evaluate.Metric):
    """A metric that writes nothing with `keep_in_memory`, so it works even if HOME is not writable.

    `evaluate.Metric` itself always creates a folder in its cache.
    """

    def _build_data_dir(self) -> str:
        if not self.keep_in_memory:
            return super()._build_data_dir()
        return os.path.join(self._data_dir_root, self.name, self.config_name)
