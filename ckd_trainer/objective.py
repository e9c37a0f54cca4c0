"""Which terms the distillation loss has, with which weights, on which layers."""

import logging
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor
from transformers.utils import ModelOutput

from ckd_trainer.arguments import CKDArguments
from ckd_trainer.losses import (
    classification_logit_loss,
    layer_gram,
    pair_count,
    pair_loss,
    regression_logit_loss,
    span_logit_loss,
    triple_count,
    triple_loss,
    word_gram,
)
from ckd_trainer.losses.layer_mapping import Pairs, format_pairs, resolve_layer_mapping, unmatched_layers
from ckd_trainer.teacher.signals import TeacherSignals, head_logits
from ckd_trainer.utils.errors import InputError

logger = logging.getLogger(__name__)

# What a term reads of the models beside their logits; a term without a row reads the logits alone.
READS = {
    "wr_distance": "hidden_states",
    "wr_angle": "hidden_states",
    "ltr_distance": "hidden_states",
    "ltr_angle": "hidden_states",
}
RELATIONS = READS.keys()  # the terms that are balanced
# What the teacher cache can serve: its logits and relations.
CACHED_TERMS = ("logits", *RELATIONS)


class CKDObjective:
    """Computes the terms that have a weight above 0, and nothing for the others.

    Args:
        args: weights and definitions.
        student_layers, teacher_layers: number of layers of the two models.
        head: what the logits are: one per class, a score, or one per token for the start and end of answers (spans).

    Attributes:
        weights: {term: weight} of the terms that compare with the teacher, weight above 0; empty in the control run.
        task_weight: weight of the student's own loss on the labels, 1 - alpha.
        wr_pairs, ltr_pairs: the matched (student state, teacher state) of either relation; empty where it is off.

    Raises:
        InputError: a layer mapping that does not fit the two depths, or an active layer-transforming relation with
            fewer than three matched layers.
    """

    def __init__(
        self,
        args: CKDArguments,
        student_layers: int,
        teacher_layers: int,
        *,
        head: Literal["classes", "score", "spans"] = "classes",
    ):
        self.args = args
        self.head = head
        self.task_weight = 1 - args.alpha
        self.weights = args.weights
        self.student_layers, self.teacher_layers = depths = student_layers, teacher_layers
        self.wr_pairs = _pairs("wr_layer_mapping", args, *depths) if self._reads("wr") else []
        self.ltr_pairs = _pairs("ltr_layer_mapping", args, *depths) if self._reads("ltr") else []
        if self.ltr_pairs and len(self.ltr_pairs) < 3:
            raise InputError(
                f"ltr_layer_mapping {args.ltr_layer_mapping} matches {len(self.ltr_pairs)} layers "
                f"({format_pairs(self.ltr_pairs)}) of a {student_layers}-layer student and a {teacher_layers}-layer "
                "teacher, but with fewer than three its distances are constant and teach nothing: use uniform, or set "
                "ltr_distance_weight and ltr_angle_weight to 0."
            )

    @property
    def model_outputs(self) -> dict[str, bool]:
        """What to ask each forward for. Asked for outright, as a model's own configuration may say otherwise."""
        read = {READS.get(term) for term in self.weights}
        return {f"output_{kind}": kind in read for kind in ("hidden_states", "attentions")}

    def _reads(self, relation: str) -> bool:
        return any(term.startswith(f"{relation}_") for term in self.weights)

    def describe(self, scales: Mapping[str, float] | None = None) -> str:
        """Returns the plan in one line: the weighted terms and the matched layers.

        Args:
            scales: what the weights are multiplied by, where that is known.
        """
        scales = scales or {}
        terms = [f"{self.task_weight:g} task"]
        for term, weight in self.weights.items():
            scale = f" x {scales[term]:.4g}" if term in scales else ""
            unit = " per item" if term.endswith("_distance") and self.args.relation_normalization == "items" else ""
            terms.append(f"{weight:g}{scale} {term}{unit}")
        balance = []
        if self.args.term_balance == "gradient" and RELATIONS & self.weights.keys():
            balance = ["weights of relations are shares of the gradient of task and logits"]
        layers = [
            f"{relation} on layers {format_pairs(pairs)}"
            for relation, pairs in (("word relation", self.wr_pairs), ("layer-transforming relation", self.ltr_pairs))
            if pairs
        ]
        return "; ".join([f"loss = {' + '.join(terms)}", *balance, *layers])

    def log_plan(self) -> None:
        """Logs the plan, and a warning where a skip mapping leaves student layers out."""
        logger.info(self.describe())
        args = self.args
        for option, pairs in (("wr_layer_mapping", self.wr_pairs), ("ltr_layer_mapping", self.ltr_pairs)):
            unmatched = unmatched_layers(pairs, self.student_layers) if pairs else []
            if unmatched and getattr(args, option) in ("skip", "emb+skip"):
                logger.warning(
                    "%s %s leaves student layers %s without a teacher layer, as %d and %d layers share too small a "
                    "divisor; uniform matches them all.",
                    option,
                    getattr(args, option),
                    ", ".join(map(str, unmatched)),
                    self.student_layers,
                    self.teacher_layers,
                )

    def __call__(
        self,
        student: ModelOutput,
        teacher: TeacherSignals,
        attention_mask: Tensor,
        answer_mask: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Returns the unweighted terms, named as in `weights`, as scalars.

        Args:
            student: the student's output, run with `model_outputs`.
            teacher: signals of the same batch, of the teacher layers that the pairs name.
            attention_mask: (batch, length).
            answer_mask: (batch, length), true or 1 where an answer may start or end; for spans alone.
        """
        args, terms = self.args, {}
        if "logits" in self.weights:
            terms["logits"] = self._logit_loss(head_logits(student), teacher.logits, answer_mask)
        relations = (
            ("wr", self.wr_pairs, word_gram, teacher.word_gram, args.window_size),
            ("ltr", self.ltr_pairs, layer_gram, teacher.layer_gram, None),
        )
        for relation, pairs, gram_of, teacher_gram, window_size in relations:
            if not pairs:
                continue
            student_gram, mask = gram_of([student["hidden_states"][state] for state, _ in pairs], attention_mask)
            if f"{relation}_distance" in self.weights:
                terms[f"{relation}_distance"] = pair_loss(
                    student_gram,
                    teacher_gram,
                    mask,
                    distance=args.distance,
                    distance_loss=args.distance_loss,
                    relation_temperature=args.relation_temperature,
                    relation_normalization=args.relation_normalization,
                    normalize_distances=args.normalize_distances,
                )
            if f"{relation}_angle" in self.weights:
                terms[f"{relation}_angle"] = triple_loss(
                    student_gram, teacher_gram, mask, angle_loss=args.angle_loss, window_size=window_size
                )
        return terms

    def counts(self, attention_mask: Tensor) -> dict[str, Tensor]:
        """Returns of how many items each term of a batch is the mean: examples, pairs or triples of words, words.

        A term of a batch is the mean of the terms of its parts, each weighted with its part's count:

            term(batch) = sum_parts count(part) term(part) / sum_parts count(part)

        The layer-transforming relation counts words, as each word has as many pairs and triples of layers.
        """
        count = {
            "logits": lambda: attention_mask.new_full((), len(attention_mask), dtype=torch.long),
            "wr_distance": lambda: pair_count(attention_mask, self.args.relation_normalization),
            "wr_angle": lambda: triple_count(attention_mask, self.args.window_size),
            "ltr_distance": attention_mask.count_nonzero,
            "ltr_angle": attention_mask.count_nonzero,
        }
        return {term: count[term]() for term in self.weights}

    def _logit_loss(self, student: Tensor, teacher: Tensor, answer_mask: Tensor | None) -> Tensor:
        temperature = self.args.temperature
        if self.head == "score":
            return regression_logit_loss(student, self.args.map_scores(teacher), temperature=temperature)
        scale = {"temperature": temperature, "scale_by_temperature": self.args.scale_by_temperature}
        if self.head == "spans":
            if answer_mask is None:
                raise InputError(
                    "the batch has no answer_mask: use ckd_trainer.data.squad.SpanCollator, or set alpha 0."
                )
            return span_logit_loss(*student.unbind(1), *teacher.unbind(1), answer_mask, **scale)
        return classification_logit_loss(student, teacher, **scale)


def _pairs(option: str, args: CKDArguments, student_layers: int, teacher_layers: int) -> Pairs:
    try:
        return resolve_layer_mapping(getattr(args, option), student_layers, teacher_layers)
    except ValueError as error:
        raise InputError(f"{option}: {error}") from None
