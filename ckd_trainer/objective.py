"""The terms in the loss of a run, their weights, and their values for a batch."""

import copy
import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig

from ckd_trainer.arguments import CKDArguments
from ckd_trainer.data.tokenizer_pair import TokenizerPair
from ckd_trainer.heads import Head
from ckd_trainer.methods import MethodArguments, Term
from ckd_trainer.teacher.signals import ProjectedStates, Signal
from ckd_trainer.utils.errors import InputError, short

logger = logging.getLogger(__name__)


def listed(given: Any) -> Any:
    """Returns methods or terms that a user gave as a list of its own; all that is not iterable, and text, as it is."""
    return list(given) if isinstance(given, Iterable) and not isinstance(given, str) else given


def check_kinds(
    ckd_args: CKDArguments, methods: Sequence[MethodArguments], terms: Sequence[Term], head: Head | None
) -> None:
    """Raises InputError if what a user's code gives for the loss is of other classes."""
    if not isinstance(ckd_args, CKDArguments):
        raise InputError(f"ckd_args is {short(ckd_args)}: give CKDArguments, such as CKDArguments(alpha=0.5).")
    if not isinstance(head, Head | None):
        raise InputError(f"head is {short(head)}: give an instance from ckd_trainer.heads, such as Classes().")
    for name, values, kind, example in (
        ("methods", methods, MethodArguments, "of options of methods, such as [PKDArguments(pkd_weight=0.3)]"),
        ("terms", terms, Term, "of instances of ckd_trainer.methods.Term"),
    ):
        if not isinstance(values, list):
            raise InputError(f"{name} is {short(values)}: give a list {example}.")
        wrong = [value for value in values if not isinstance(value, kind)]
        if wrong:
            raise InputError(f"{name} holds {short(wrong[0])}: give a list {example}.")


def check_loss(args: CKDArguments, head: Head, wanted: Sequence[str], *, has_teacher: bool) -> None:
    """Raises InputError if options of the loss do not fit the student's head, need a teacher, or leave no loss.

    Args:
        wanted: the names of the terms that compare with the teacher.
        has_teacher: whether one is given.
    """
    if args.maps_scores and not head.is_score:
        raise InputError(
            f"teacher_score_scale is {args.teacher_score_scale:g} and teacher_score_shift "
            f"{args.teacher_score_shift:g}, but the model does not predict a score: leave them out."
        )
    if wanted and not has_teacher:
        raise InputError(
            f"no teacher is given, but the terms {', '.join(wanted)} have a weight: give one, or set alpha and the "
            "weights to 0 for plain fine-tuning."
        )
    if "logits" in args.weights and not head.label_columns:
        raise InputError("a bare encoder has no logits to compare: set alpha to 0.")
    check_any_loss(args, has_terms=bool(wanted))


def check_any_loss(args: CKDArguments, *, has_terms: bool) -> None:
    """Raises InputError if options leave nothing to train with.

    Args:
        has_terms: whether the loss has terms beside the labels.
    """
    if not args.labels_and_logits and not has_terms:
        raise InputError(
            "labels_and_logits is off and no term of the loss has a weight, so there is no loss to train with: give a "
            "term a weight, or set labels_and_logits."
        )


def check_readable(
    terms: Sequence[Term], student: PreTrainedConfig, teacher: PreTrainedConfig, columns: Collection[str] | None
) -> None:
    """Raises InputError if a term reads what a model or the training set lacks.

    Args:
        columns: those of the training set; None if unknown.
    """
    for term in terms:
        term.student_signal.check(student)
        term.teacher_signal.check(teacher)
        lacking = [name for name in term.columns if columns and name not in columns]
        if lacking:
            raise InputError(
                f"the term {term.name} reads the column {lacking[0]!r}, which the training set lacks: add it, or set "
                f"the weight of {term.name} to 0."
            )


def check_aligned(terms: Sequence[Term], tokenizers: TokenizerPair) -> None:
    """Raises InputError if a term reads what models with different tokenizers do not have in common."""
    for term in terms:
        reason = term.teacher_signal.unaligned_because or term.student_signal.unaligned_because
        if term.teacher_signal.reads_first_token and not tokenizers.begins_with_special:
            reason = "it is about the special token that begins a text, such as [CLS], which one of them lacks"
        if reason is not None:
            raise InputError(
                f"teacher and student have different tokenizers, so {term.name} cannot compare them: {reason}. Set "
                f"{'alpha' if term.name == 'logits' else 'the weight of the term'} to 0, or give a student with the "
                "teacher's tokenizer."
            )


class Objective:
    """The loss: (1 - alpha) task + alpha logits + weights x other terms.

    Args:
        terms: the terms that compare with the teacher, with weights above 0; empty in the control run.
        task_weight: the weight of the loss on the labels, 1 - alpha; None if there is no such loss.
        counts_examples: whether the loss on the labels is the user's function, which may not read the head's labels.
        balances: whether the weights of balanced terms are shares of the gradient.
        tokenizers: those of student and teacher, if they differ.

    Attributes:
        terms: by name.
        weights: {term: weight}, "task" first.
        student_signals, teacher_signals: the signals that the terms read, without duplicates.

    Raises:
        InputError: two terms with the same name, a term with parameters, or no loss at all; what `check_aligned`
            refuses.
    """

    def __init__(
        self,
        head: Head,
        terms: Sequence[Term],
        *,
        task_weight: float | None,
        counts_examples: bool,
        balances: bool,
        tokenizers: TokenizerPair | None = None,
    ):
        self.head, self.counts_examples, self.balances = head, counts_examples, balances
        self.aligns = tokenizers is not None
        if tokenizers is not None:
            check_aligned(terms, tokenizers)
        self.terms = {term.name: term for term in terms}
        names = [term.name for term in terms]
        duplicates = [name for name in [*names, "task"] if [*names, "task"].count(name) > 1]
        if duplicates:
            raise InputError(f"two terms of the loss are called {duplicates[0]}: give each its own name.")
        for term in terms:
            if next(term.parameters(), None) is not None:
                raise InputError(
                    f"the term {term.name} has parameters, which no optimizer trains and no checkpoint saves: read "
                    "ProjectedStates to learn a projection, or make them buffers if they are not trained."
                )
        self.weights = ({"task": task_weight} if task_weight is not None else {}) | {
            name: term.weight for name, term in self.terms.items()
        }
        if not self.weights:
            raise InputError(
                f"the model has no head ({head.name}) and no term of the loss has a weight, so there is no loss to "
                "train with: give a term a weight, or give a compute_loss_func."
            )
        self._read_signals()

    def _read_signals(self) -> None:
        terms = self.terms.values()
        self.student_signals = list(dict.fromkeys(term.student_signal for term in terms))
        self.teacher_signals = list(dict.fromkeys(term.teacher_signal for term in terms))

    def with_terms(self, terms: Sequence[Term]) -> "Objective":
        """Returns the objective with the same terms for a student of another depth."""
        other = copy.copy(self)
        other.terms = {term.name: term for term in terms}
        other._read_signals()
        return other

    def of_labels(self) -> "Objective":
        """Returns the objective with the loss on the labels alone, at weight 1."""
        other = self.with_terms([])
        other.weights = {"task": 1.0}
        return other

    def without_projections(self) -> "Objective":
        """Returns the objective without the terms that learn a projection, which exists only in training."""
        other = copy.copy(self)
        projected = {name for name, term in self.terms.items() if isinstance(term.student_signal, ProjectedStates)}
        other.terms = {name: term for name, term in self.terms.items() if name not in projected}
        other.weights = {name: weight for name, weight in self.weights.items() if name not in projected}
        other._read_signals()
        return other

    @property
    def balanced(self) -> dict[str, float]:
        """{term: weight} of the terms whose weights may be shares of the gradient."""
        return {name: term.weight for name, term in self.terms.items() if term.is_balanced}

    @property
    def yardstick(self) -> str:
        """What a share of the gradient is relative to: labels and logits, or the first term if the loss lacks them."""
        balanced = self.balanced
        return next(iter(balanced)) if balanced and balanced.keys() == self.weights.keys() else "labels and logits"

    def check_cacheable(self) -> None:
        """Raises InputError if a term reads a signal of the teacher that a cache cannot hold."""
        for name, term in self.terms.items():
            reason = term.teacher_signal.uncached_because
            if reason is not None:
                raise InputError(
                    f"teacher_cache_dir is set, but a cache cannot hold the teacher's signal for {name}: {reason}. "
                    f"Leave teacher_cache_dir out, or set {'alpha' if name == 'logits' else 'the weight of the term'} "
                    "to 0."
                )

    def describe(self, scales: Mapping[str, float] | None = None) -> str:
        """Returns the loss in one line: the weighted terms, described by themselves, and their notes.

        Args:
            scales: the factors of the weights, once they are known.
        """
        scales, parts = scales or {}, []
        for name, weight in self.weights.items():
            scale = f" x {scales[name]:.4g}" if name in scales else ""
            parts.append(f"{weight:g}{scale} {self.terms[name].describe() if name in self.terms else name}")
        notes = dict.fromkeys(note for term in self.terms.values() for note in term.notes())
        if self.balances and self.balanced:
            other = "other weights" if self.yardstick not in self.balanced else "weights"
            notes = {f"{other} are shares of the gradient of {self.yardstick}": None} | notes
        if self.aligns and self.terms:
            notes |= {"teacher and student have different tokenizers: relations compare words": None}
        return "; ".join([f"loss = {' + '.join(parts)}", *notes])

    def log_plan(self, prefix: str = "") -> None:
        """Logs the loss and the warnings of its terms, each after `prefix`."""
        logger.info("%s%s", prefix, self.describe())
        for warning in dict.fromkeys(warning for term in self.terms.values() for warning in term.warnings()):
            logger.warning("%s%s", prefix, warning)

    def __call__(
        self, outputs: Mapping[str, Any], teacher: Mapping[Signal, Any], batch: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Returns the unweighted terms, named as in `terms`, as scalars.

        Args:
            outputs: the student's outputs, with those that its signals read.
            teacher: the values of `teacher_signals`.

        Raises:
            InputError: a term returns something else than a scalar.
        """
        student = {signal: signal.read(outputs, batch) for signal in self.student_signals}
        values = {
            name: term(student[term.student_signal], teacher[term.teacher_signal], batch)
            for name, term in self.terms.items()
        }
        for name, value in values.items():
            _check_scalar(value, f"forward of the term {name}", "the mean over its items")
        return values

    def counts(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Returns the number of items that each term averages over, the task loss among them, see `Term.count`.

        Raises:
            InputError: a term returns something else than a scalar.
        """
        device = next(value.device for value in batch.values() if isinstance(value, Tensor))
        counts = {name: torch.as_tensor(term.count(batch), device=device) for name, term in self.terms.items()}
        for name, count in counts.items():
            _check_scalar(count, f"count of the term {name}", "the number of items of the whole batch")
        if "task" in self.weights:
            ids = batch["input_ids"]
            unlabeled = ids.new_full((), len(ids) if self.counts_examples else 0)
            # The labels of a user's function may be of any kind, and `Trainer` counts them for it.
            is_of_function = self.counts_examples and "labels" in batch
            reads_head = self.head.has_labels(batch) and not is_of_function
            labeled = self.head.task_count(batch) if reads_head else unlabeled
            counts = {"task": labeled} | counts
        return counts


def _check_scalar(value: Tensor, method: str, should: str) -> None:
    """Raises InputError if what a term's method has returned is not a scalar, as it `should` be."""
    if value.dim():
        raise InputError(f"{method} returns a tensor of shape {tuple(value.shape)}, not a scalar: return {should}.")
