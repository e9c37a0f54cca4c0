"""Text pairs in groups: the candidates of a query are scored one by one, and ranked."""

import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from numpy.typing import ArrayLike
from transformers import EvalPrediction

from ckd_trainer.data.glue_arguments import GlueArguments
from ckd_trainer.data.submission import write_scores
from ckd_trainer.data.text_tasks import metric_of, predictions_of
from ckd_trainer.losses.ranking import GROUP
from ckd_trainer.metrics.glue import glue_scores
from ckd_trainer.metrics.ranking import RankingMetric, scores_of_groups
from ckd_trainer.reports.statistics import contributions
from ckd_trainer.runs.stages import Stage
from ckd_trainer.tasks.teacher_check import check_ranks
from ckd_trainer.tasks.text_classification import TextClassification
from ckd_trainer.training.groups import GroupSampler, check_group_size


class Ranking(TextClassification):
    """A data set by name, or the user's files, with `group_column`."""

    def __init__(self, data_args: GlueArguments, seed: int) -> None:
        super().__init__(data_args, seed)
        self.group_size = data_args.group_size
        self.metric = RankingMetric(keep_in_memory=True)

    def use_stages(self, stages: Sequence[Stage]) -> None:
        for stage in stages:
            with stage.naming_errors():
                if stage.args.do_train:
                    check_group_size(self.args.group_size, stage.args)

    @property
    def _train_labels(self) -> list | None:
        """The labels of one epoch, in which relevant candidates are more frequent than in the data."""
        train = self.data.train
        if train is None:
            return None
        labels = np.asarray(train["label"][:], float)
        drawn = GroupSampler(np.asarray(train[GROUP][:]), labels, self.args.group_size, lambda: 0)
        return labels[[*drawn]].tolist()

    @property
    def _groups(self) -> np.ndarray:
        """The group of each row of the encoded validation set."""
        return np.asarray(self.inputs.validation[""][GROUP][:])

    def compute_metrics(self, prediction: EvalPrediction) -> dict[str, float]:
        """Adds NDCG@10 and MRR@10 to the scores of classes or numbers."""
        return super().compute_metrics(prediction) | self.metric.compute(
            predictions=_scores(prediction.predictions), references=prediction.label_ids, groups=self._groups
        )

    def contributions(self, prediction: EvalPrediction, inputs: Dataset) -> dict[str, np.ndarray]:
        """Returns those of groups, as candidates of the same query are not independent."""
        labels, groups = np.asarray(prediction.label_ids), np.asarray(inputs[GROUP][:])
        ranked = scores_of_groups(labels.astype(float), _scores(prediction.predictions), groups)
        if len(next(iter(ranked.values()))) < 2:
            return {}
        scores = functools.partial(glue_scores, metric_of(self.data))
        return ranked | contributions(scores, labels, predictions_of(self.data, prediction), groups)

    def check_teacher(self, logits: torch.Tensor, examples: Dataset, split: str) -> None:
        """See `check_ranks` for classes, and `check_scores` for numbers, whose scale matters too."""
        if self.data.is_regression:
            super().check_teacher(logits, examples, split)
        else:
            check_ranks(examples["labels"][:], _scores(logits), split)

    def write_predictions(self, name: str, logits: np.ndarray, folder: Path) -> Path:
        return write_scores(_scores(logits), folder)


def _scores(logits: ArrayLike) -> np.ndarray:
    """Returns the score of each pair, (examples,): the log odds of the second of two classes, or the score itself."""
    logits = np.asarray(logits, float)
    logits = logits.reshape(len(logits), -1)
    return logits[:, 0] if logits.shape[1] == 1 else logits[:, 1] - logits[:, 0]
