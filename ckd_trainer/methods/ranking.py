"""Distillation of rerankers: terms that compare the scores of a query's candidates with each other."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ckd_trainer.arguments import option
from ckd_trainer.losses.ranking import GROUP, group_count, listwise_loss, margin_mse_loss, score_pair_count
from ckd_trainer.methods.base import MethodArguments, Pair, Term
from ckd_trainer.teacher.signals import Logits
from ckd_trainer.utils.errors import InputError


@dataclass
class RankingArguments(MethodArguments):
    """Listwise and margin distillation of models that score the candidates of a query.

    Batches need a column `group`: the number of each text's query. `DistillationTrainer(..., group_size=8)` draws
    batches of whole groups.

    Example::

        DistillationTrainer(..., methods=[RankingArguments(listwise_weight=1.0)], group_size=8)
    """

    listwise_weight: float = option(
        0.0,
        "Rerankers: share of the gradient for the KL divergence between the teacher's and the student's ranking of a "
        "query's candidates (with term_balance none, a factor).",
    )
    # RocketQAv2 and RankDistil have no temperature, which is 1.
    listwise_temperature: float = option(
        1.0, "Divides the scores before the softmax over a query's candidates; above 0."
    )
    margin_mse_weight: float = option(
        0.0,
        "Rerankers: the same for the squared error of the differences between the scores of a query's candidates.",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.listwise_temperature > 0 and math.isfinite(self.listwise_temperature)):
            raise InputError(
                f"listwise_temperature is {self.listwise_temperature}, but scores are divided by it: give a number "
                "above 0."
            )

    def terms(self, pair: Pair) -> list[Term]:
        if not self.weights:
            return []
        name = next(iter(self.weights))
        # Of the teacher: a student with other labels gets a new head after this check.
        decisions = pair.head.decisions(torch.zeros(1, pair.head.outputs(pair.teacher)))
        if decisions is None or decisions.shape[-1] != 1:
            what = "no decision about a text as a whole" if decisions is None else f"{decisions.shape[-1]} decisions"
            raise InputError(
                f"{name}_weight is set, which ranks texts by one score each, but a model whose head is "
                f"{pair.head.name} makes {what}: set it to 0, or use models with two classes or a score."
            )
        terms: list[Term] = []
        if self.listwise_weight:
            terms.append(ListwiseTerm(self, pair))
        if self.margin_mse_weight:
            terms.append(MarginTerm(self.margin_mse_weight, pair))
        return terms


class _OfGroups(Term):
    """Compares the scores of a text's group.

    The score of a text is the head's only decision about it: the log odds of the second of two classes, or the score
    itself (`Head.decisions`). Works for any widths. Cached: the logits, which every cache has.
    """

    columns = (GROUP,)

    def __init__(self, pair: Pair) -> None:
        super().__init__()
        self.head, self.scale = pair.head, pair.teacher_score_scale
        self.student_signal = Logits(pair.head, pair.head.outputs(pair.student))
        self.teacher_signal = Logits(pair.head, pair.head.outputs(pair.teacher))

    def scores(self, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the scores of student and teacher, (batch,) each."""
        ours, theirs = (self.head.decisions(logits)[:, 0] for logits in (student, teacher))  # type: ignore[index]
        return ours, self.scale * theirs  # a shift would cancel


class ListwiseTerm(_OfGroups):
    """T^2 KL(softmax(t / T) || softmax(s / T)) over the candidates of a query, mean over queries (`listwise_loss`).

    Sources: ListNet (Cao et al. 2007) for the softmax over candidates; RocketQAv2 (Ren et al. 2021, arXiv 2110.07367)
    for its divergence between two models.

    Args:
        args: with the weight and the temperature.
        pair: with the head.
    """

    name = "listwise"

    def __init__(self, args: RankingArguments, pair: Pair) -> None:
        super().__init__(pair)
        self.weight, self.temperature = args.listwise_weight, args.listwise_temperature

    def forward(self, student: Tensor, teacher: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        return listwise_loss(*self.scores(student, teacher), batch[GROUP], temperature=self.temperature)

    def count(self, batch: Mapping[str, Tensor]) -> Tensor:
        return group_count(batch[GROUP])


class MarginTerm(_OfGroups):
    """((s_i - s_j) - (t_i - t_j))^2, mean over all pairs of a query's candidates (`margin_mse_loss`).

    Source: Hofstaetter et al. 2020 (arXiv 2010.02666), whose pairs are one relevant and one non-relevant text each.

    Args:
        weight: of the term.
        pair: with the head.
    """

    name = "margin_mse"

    def __init__(self, weight: float, pair: Pair) -> None:
        super().__init__(pair)
        self.weight = weight

    def forward(self, student: Tensor, teacher: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        return margin_mse_loss(*self.scores(student, teacher), batch[GROUP])

    def count(self, batch: Mapping[str, Tensor]) -> Tensor:
        return score_pair_count(batch[GROUP])
