"""Text classification with one class per text, and regression."""

import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from transformers import (
    AutoModelForSequenceClassification,
    DataCollatorWithPadding,
    EvalPrediction,
)

from ckd_trainer.data.glue import GLUE_ON_HUB
from ckd_trainer.data.glue_arguments import GlueArguments
from ckd_trainer.data.glue_tasks import GLUE_TASKS
from ckd_trainer.data.hub import hub_name
from ckd_trainer.data.submission import write_predictions
from ckd_trainer.data.text_tasks import (
    compute_metrics_for,
    files_of,
    load_task,
    load_validation_texts,
    metric_of,
    metrics_of,
    predictions_of,
    text_columns_of,
    tokenize,
)
from ckd_trainer.data.tokenizer_pair import Tokenizer
from ckd_trainer.methods import RankingArguments
from ckd_trainer.metrics.glue import glue_scores
from ckd_trainer.models.pair import ModelPair
from ckd_trainer.reports.statistics import contributions
from ckd_trainer.runs.stages import Stage
from ckd_trainer.tasks.base import ModelInputs, Task
from ckd_trainer.tasks.teacher_check import check_classes, check_scores
from ckd_trainer.utils.errors import InputError
from ckd_trainer.utils.padding import longest_first

_ROW = "row"  # column with the number of an example among those of its file


class TextClassification(Task):
    """A GLUE task, a data set by name, or the user's files.

    Args:
        seed: selects the training examples if max_train_samples is set.
    """

    args: GlueArguments
    model_class = AutoModelForSequenceClassification

    def __init__(self, data_args: GlueArguments, seed: int) -> None:
        self.args, self.seed = data_args, seed
        self.best_metric, self.metrics = metrics_of(data_args)
        glue_task = GLUE_TASKS.get(data_args.task_name or "")
        own_classes = not (data_args.regression or data_args.multi_label)
        self.classifies = glue_task.label_names is not None if glue_task else own_classes
        glue = GLUE_ON_HUB if data_args.task_name and not data_args.data_dir else None
        self.hub_dataset = glue or hub_name(data_args)

    def use_stages(self, stages: Sequence[Stage]) -> None:
        for stage in stages:
            ranking = [method for method in stage.methods if isinstance(method, RankingArguments) and method.weights]
            for method in ranking:
                with stage.naming_errors():
                    advice = "" if self.args.multi_label else "name the column of the query, or "
                    raise InputError(
                        f"{next(iter(method.weights))}_weight is set, which compares the candidates of a query, but "
                        f"group_column is not set: {advice}set the weight to 0."
                    )

    def files(self, splits: Sequence[str]) -> dict[str, list[Path]]:
        return files_of(self.args, splits)

    def load(self, splits: Sequence[str]) -> None:
        self.data = load_task(self.args, seed=self.seed, splits=splits)
        self.scores = compute_metrics_for(self.data)

    def load_texts(self) -> None:
        self.data = load_validation_texts(self.args)

    def check(self, pair: ModelPair) -> None:
        pair.fit_max_length(self.args)

    def set_head(self, pair: ModelPair) -> None:
        pair.set_labels(self.data.label_names, examples=self._train_labels)

    @property
    def _train_labels(self) -> list | None:
        return None if self.data.train is None else self.data.train["label"][:]

    def encode(self, tokenizer: Tokenizer) -> ModelInputs:
        def tokenized(data: Dataset) -> Dataset:
            return tokenize(data, self.data, tokenizer, self.args)

        return ModelInputs(
            train=None if self.data.train is None else tokenized(self.data.train),
            validation={name: longest_first(numbered(tokenized(data))) for name, data in self.data.validation.items()},
            test={name: tokenized(data) for name, data in self.data.test.items()},
        )

    @property
    def unlabeled_columns(self) -> dict[str, str]:
        return text_columns_of(self.args)

    def encode_unlabeled(self, texts: Dataset, tokenizer: Tokenizer) -> Dataset:
        return tokenize(texts, self.data, tokenizer, self.args)

    def collator(self, tokenizer: Tokenizer) -> DataCollatorWithPadding:
        return DataCollatorWithPadding(tokenizer)

    def compute_metrics(self, prediction: EvalPrediction) -> dict[str, float]:
        return self.scores(prediction)

    def contributions(self, prediction: EvalPrediction, inputs: Dataset) -> dict[str, np.ndarray]:
        prediction = in_order_of_rows(prediction, inputs)
        labels = np.asarray(prediction.label_ids)
        if len(labels) < 2:
            return {}
        scores = functools.partial(glue_scores, metric_of(self.data))
        return contributions(scores, labels, predictions_of(self.data, prediction))

    def check_teacher(self, logits: torch.Tensor, examples: Dataset, split: str) -> None:
        """See `check_classes` and `check_scores`."""
        labels = examples["labels"][:]
        if self.data.is_regression:
            check_scores(labels, logits[:, 0], split)
        else:
            check_classes(labels, logits.argmax(-1), self.data.label_names, split)

    def write_predictions(self, name: str, logits: np.ndarray, folder: Path) -> Path:
        return write_predictions(self.data, name, logits, folder)


def numbered(examples: Dataset) -> Dataset:
    """Returns examples with their numbers, by which `in_order_of_rows` orders them."""
    return examples.add_column(_ROW, np.arange(len(examples)))


def in_order_of_rows(prediction: EvalPrediction, inputs: Dataset) -> EvalPrediction:
    """Returns the predictions for numbered examples in the order of their numbers.

    Sorted by length, examples would be in another order for each tokenizer and each max_seq_length.
    """
    order = np.argsort(inputs[_ROW][:])
    return EvalPrediction(
        predictions=np.asarray(prediction.predictions)[order], label_ids=np.asarray(prediction.label_ids)[order]
    )
