"""The interface between a run and its task."""

import abc
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from datasets import Dataset
from transformers import EvalPrediction

from ckd_trainer.data.arguments import DataArguments
from ckd_trainer.data.tokenizer_pair import Tokenizer
from ckd_trainer.dynamic_trainer import DynamicTrainer
from ckd_trainer.models.pair import ModelPair
from ckd_trainer.runs.stages import Stage
from ckd_trainer.trainer import DistillationTrainer


class ModelInputs(NamedTuple):
    """The encoded sets of a task. `validation` and `test` hold sets by key: "" for the only or first one.

    `unlabeled` holds training examples without labels; it is None where no term would read them.
    """

    train: Dataset | None
    validation: dict[str, Dataset]
    test: dict[str, Dataset]
    unlabeled: Dataset | None = None


class Task(abc.ABC):
    """The interface between a run and its task.

    Attributes:
        args: its data options.
        has_labels: whether its examples have labels, from which scores are computed. If not, evaluation reports the
            terms of the loss, and the methods from `unlabeled_columns` to `write_predictions` are not called.
        classifies: whether it has classes.
        holds_out: whether the validation set is held out of the training data.
        one_tokenizer_because: why teacher and student need the same tokenizer; None if they do not.
        keeps_inputs: whether `encode` keeps the inputs on disk and returns the same ones when it is called again.
        group_size: how many examples of each group a step takes; None if they are in no groups.
        model_class: the Auto class of its models.
        trainer_class, dynamic_trainer_class: the trainers of its models, and of those with several widths or depths.
        best_metric, metrics: the score that picks the best checkpoint, and the names of all scores.
        hub_dataset: the name of the data set if it comes from the Hub, else None.
        data: the sets `train`, `validation` and `test` as in `ModelInputs`, and the names of its `text_columns`; set
            by `load`.
        inputs: the encoded data, set once `encode` is done.
        evaluates_own: whether the model that is evaluated was trained by this run, in this call or an earlier one.
    """

    args: DataArguments
    has_labels: bool = True
    classifies: bool
    holds_out: bool = False
    one_tokenizer_because: str | None = None
    keeps_inputs: bool = False
    group_size: int | None = None
    model_class: type[Any]
    trainer_class: type[DistillationTrainer] = DistillationTrainer
    dynamic_trainer_class: type[DynamicTrainer] = DynamicTrainer
    best_metric: str
    metrics: Sequence[str]
    hub_dataset: str | None
    data: Any
    inputs: ModelInputs
    evaluates_own: bool = True

    def use_stages(self, stages: Sequence[Stage]) -> None:
        """Fits the task to the losses of the run, before it is used; raises InputError if they do not fit it."""
        return

    @abc.abstractmethod
    def files(self, splits: Sequence[str]) -> dict[str, list[Path]]:
        """Returns the files of these splits (train, validation) by the option that names them."""

    @abc.abstractmethod
    def load(self, splits: Sequence[str]) -> None:
        """Reads the data of these splits (train, validation, test)."""

    def load_texts(self) -> None:
        """Reads the validation set for its texts alone. Its labels may be left out, and no other set is needed."""
        self.load(["validation"])

    @abc.abstractmethod
    def check(self, pair: ModelPair) -> None:
        """Raises InputError if the models' configurations or tokenizers do not fit; called before `load`."""

    @abc.abstractmethod
    def set_head(self, pair: ModelPair) -> None:
        """Gives the student the task's head and checks the teacher's."""

    @abc.abstractmethod
    def encode(self, tokenizer: Tokenizer) -> ModelInputs:
        """Turns the data into model inputs."""

    @abc.abstractmethod
    def collator(self, tokenizer: Tokenizer) -> Callable[[list], Mapping[str, torch.Tensor]]:
        """Returns the function that makes a batch of encoded examples."""

    def prepare(self, trainer: DistillationTrainer, pair: ModelPair) -> None:
        """Sets what a new trainer of the task needs beside its arguments."""
        return

    def sets_by_name(self, splits: Sequence[str]) -> dict[str, dict[str, Dataset | None]]:
        """Returns the sets that training depends on by the option that names them; empty if files do."""
        if self.hub_dataset is None and not self.args.dataset_name:
            return {}
        sets = {"train": self.data.train}
        if "validation" in splits:
            sets |= {f"validation {name}".rstrip(): data for name, data in self.data.validation.items()}
        return {"dataset_name" if self.args.dataset_name else "task_name": sets}

    @property
    def unlabeled_columns(self) -> dict[str, str]:
        """The columns of texts without labels: {its name in `data`: its name in the source}."""
        raise NotImplementedError

    def encode_unlabeled(self, texts: Dataset, tokenizer: Tokenizer) -> Dataset:
        """Turns texts without labels into model inputs."""
        raise NotImplementedError

    def compute_metrics(self, prediction: EvalPrediction) -> dict[str, float]:
        """Returns the scores of the validation set."""
        raise NotImplementedError

    def contributions(self, prediction: EvalPrediction, inputs: Dataset) -> dict[str, np.ndarray]:
        """Returns what each example of a validation set contributes to the scores, to compare runs by.

        The mean of a score's values is the score, see `ckd_trainer.reports.statistics`. Scores may be left out. The
        order of the values depends on the examples alone, not on their encoding, which may differ between runs.

        Args:
            inputs: the encoded examples that were predicted.
        """
        raise NotImplementedError

    def settle(self, prediction: EvalPrediction) -> dict[str, Any]:
        """Returns entries of the model's configuration that follow from its predictions for the validation set.

        The run saves them with the model, unless it only evaluates a model from elsewhere.
        """
        return {}

    def check_teacher(self, logits: torch.Tensor, examples: Dataset, split: str) -> None:
        """Warns loudly if a teacher's answers to a sample of encoded examples have nothing to do with the labels.

        Args:
            logits: as `Head.logits` returns them, in the data's order of labels and on their scale; for spans, in
                token positions.

        Raises:
            InputError: the answers fit labels in another order or on another scale.
        """
        raise NotImplementedError

    def write_predictions(self, name: str, logits: Any, folder: Path) -> Path:
        """Writes the predictions for the test set `name`; returns the file."""
        raise NotImplementedError
