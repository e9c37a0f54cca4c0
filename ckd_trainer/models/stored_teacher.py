"""A teacher whose weights are loaded only when they are needed: a complete cache needs none."""

import functools
import os
from pathlib import Path
from typing import Any

import transformers
from huggingface_hub import snapshot_download
from transformers import AutoModelForSequenceClassification, PreTrainedConfig, PreTrainedModel

from ckd_trainer.heads import Head
from ckd_trainer.heads.recognition import head_of_auto_class
from ckd_trainer.models.compatibility import outline
from ckd_trainer.models.loading import call, check_all_weights, load_config, load_weights, weight_files
from ckd_trainer.utils.files import expanded, files_fingerprint
from ckd_trainer.utils.random_numbers import random_numbers_given_back
from ckd_trainer.utils.wrapped_models import forward_arguments


class StoredTeacher:
    """A fine-tuned teacher in a folder or on the Hub, whose weights are not loaded yet.

    Args:
        name_or_path: folder or Hub id.
        config: its configuration.
        model_class: the Auto class that loads it.
        allow_unused_weights: accept weights in its files that the model does not use.
        options: passed to `from_pretrained`.
    """

    def __init__(
        self,
        name_or_path: str,
        config: PreTrainedConfig,
        model_class: type[Any] = AutoModelForSequenceClassification,
        *,
        allow_unused_weights: bool = False,
        **options: Any,
    ) -> None:
        self.name_or_path, self.config, self.model_class = expanded(name_or_path), config, model_class
        self.options = options
        self.allow_unused_weights = allow_unused_weights

    @classmethod
    def with_head(cls, head: Head, name_or_path: str | os.PathLike) -> "StoredTeacher":
        """Returns the teacher in a folder or on the Hub, for the Auto class of a head."""
        name, auto_class = str(name_or_path), getattr(transformers, head.auto_class)
        return cls(name, load_config(name, trust_remote_code=False), auto_class, trust_remote_code=False)

    @property
    def head(self) -> Head:
        """The teacher's head."""
        return head_of_auto_class(self.model_class, self.config)

    def load(self) -> PreTrainedModel:
        """Returns the model with its weights (see `load_teacher`)."""
        # A weight that no loss reads, such as a bare encoder's pooler, may be missing and is drawn at random. Training
        # must not depend on it: with a complete cache, the model is not loaded.
        with random_numbers_given_back():
            return load_teacher(
                self.name_or_path, self.model_class, allow_unused_weights=self.allow_unused_weights, **self.options
            )

    @property
    def input_names(self) -> set[str]:
        """The arguments of its forward method."""
        return forward_arguments(self._outline)

    def fingerprint(self) -> str:
        """Returns a fingerprint of the files: weights, configuration and the model's own code."""
        code = self._folder.glob("*.py")
        return files_fingerprint([*weight_files(self._folder), self._folder / "config.json", *code])

    def num_parameters(self) -> int:
        """Returns the number of parameters of the loaded model; tied weights count once."""
        return self._outline.num_parameters()

    @functools.cached_property
    def _outline(self) -> PreTrainedModel:
        return outline(self.config, self.model_class, **self.options)

    @functools.cached_property
    def _folder(self) -> Path:
        folder = Path(self.name_or_path)
        if not folder.is_dir():
            patterns = ["config.json", "model.safetensors*", "model-*-of-*.safetensors", "*.py"]
            folder = Path(call(snapshot_download, self.name_or_path, allow_patterns=patterns))
        return folder


def load_teacher(
    name_or_path: str,
    model_class: type[Any] = AutoModelForSequenceClassification,
    *,
    allow_unused_weights: bool = False,
    **options: Any,
) -> PreTrainedModel:
    """Returns the fine-tuned teacher.

    Raises:
        InputError: it cannot be loaded, or weights are missing or unused (see `check_all_weights`). Such a teacher
            differs from the model that was fine-tuned, and would teach noise.
    """
    model, info = load_weights(name_or_path, model_class, **options)
    check_all_weights(model, info, name_or_path, allow_unused=allow_unused_weights)
    return model
