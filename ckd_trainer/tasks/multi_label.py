"""Text classification with any number of labels per text."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from numpy.typing import ArrayLike
from scipy.special import expit
from transformers import EvalPrediction

from ckd_trainer.data.predicted_labels import write_label_sets
from ckd_trainer.data.text_tasks import load_task
from ckd_trainer.heads.labels import THRESHOLDS, thresholds_of
from ckd_trainer.metrics.multi_label import MultiLabelMetric, best_thresholds, decisions_by, overall_scores
from ckd_trainer.models.pair import ModelPair
from ckd_trainer.reports.statistics import contributions
from ckd_trainer.tasks.teacher_check import check_label_sets
from ckd_trainer.tasks.text_classification import TextClassification, in_order_of_rows
from ckd_trainer.utils.errors import InputError


class MultiLabelClassification(TextClassification):
    """A data set by name, or the user's files, with `multi_label`.

    A label is predicted when its probability reaches its threshold. The final evaluation tunes the thresholds on the
    validation set, and saves them in the model's configuration. A model that was trained elsewhere keeps its own.
    """

    _thresholds: Any = None  # an array with that of each label, if the model has them

    def load(self, splits: Sequence[str]) -> None:
        self.data = load_task(self.args, seed=self.seed, splits=splits)
        self.metric = MultiLabelMetric(keep_in_memory=True)

    def set_head(self, pair: ModelPair) -> None:
        pair.set_labels(self.data.label_names, several=True, examples=self._train_labels)
        thresholds = thresholds_of(pair.student_config)
        if thresholds is not None:
            self._thresholds = np.array(thresholds)
        elif self.data.test and not self.data.validation:
            raise InputError(
                "do_predict needs a threshold for each label, but the model has none: add --do_eval, which tunes them "
                "on the validation set."
            )

    @property
    def _given_thresholds(self) -> np.ndarray | None:
        """The thresholds of a model that was trained elsewhere; those of this run's model fit its validation set."""
        return None if self.evaluates_own else self._thresholds

    def compute_metrics(self, prediction: EvalPrediction) -> dict[str, float]:
        # Scores with tuned thresholds depend on the order of the texts, see `held_out_decisions`.
        prediction = in_order_of_rows(prediction, self.inputs.validation[""])
        return self.metric.compute(
            predictions=expit(_floats(prediction.predictions)),
            references=prediction.label_ids.astype(int),
            thresholds=self._given_thresholds,
            label_names=self.data.label_names,
        )

    def contributions(self, prediction: EvalPrediction, inputs: Dataset) -> dict[str, np.ndarray]:
        """Returns those of texts, or of groups of them, by a jackknife: no score is a mean over texts."""
        prediction = in_order_of_rows(prediction, inputs)
        labels, probabilities = prediction.label_ids.astype(int), expit(_floats(prediction.predictions))
        if len(labels) < 2:
            return {}
        decisions = decisions_by(labels, probabilities, self._given_thresholds)

        def scores(labels: np.ndarray, both: np.ndarray) -> dict[str, float]:
            return overall_scores(labels, both[:, 0], both[:, 1].astype(bool))

        return contributions(scores, labels, np.stack([probabilities, decisions], axis=1))

    def settle(self, prediction: EvalPrediction) -> dict[str, Any]:
        """Returns the thresholds, tuned on the validation set."""
        if self._given_thresholds is None:
            probabilities = expit(_floats(prediction.predictions))
            self._thresholds = best_thresholds(prediction.label_ids.astype(int), probabilities)
        return {THRESHOLDS: dict(zip(self.data.label_names, self._thresholds.tolist(), strict=True))}

    def check_teacher(self, logits: torch.Tensor, examples: Dataset, split: str) -> None:
        """See `check_label_sets`."""
        check_label_sets(examples["labels"][:], logits, self.data.label_names, split)

    def write_predictions(self, name: str, logits: np.ndarray, folder: Path) -> Path:
        return write_label_sets(self.data.test[name], self.data.label_names, logits, self._thresholds, folder)


def _floats(logits: ArrayLike) -> np.ndarray:
    return np.asarray(logits, dtype=float)
