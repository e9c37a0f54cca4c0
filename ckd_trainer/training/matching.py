"""Checks that a student and a teacher belong together: by their heads, and by the tokens that they read."""

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import torch
from datasets import Dataset
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from ckd_trainer.data.tokenizer_pair import TokenizerPair
from ckd_trainer.heads import Head, head_of
from ckd_trainer.models.compatibility import (
    check_embeddings,
    check_encoder,
    check_padding_token,
    check_savable,
    check_token_ids,
    check_token_types,
)
from ckd_trainer.models.stored_teacher import StoredTeacher
from ckd_trainer.models.tokenizers import local_tokenizer
from ckd_trainer.teacher.signals import Logits
from ckd_trainer.utils.errors import InputError
from ckd_trainer.utils.wrapped_models import config_of, inner_model, unwrapped


def check_models(student: torch.nn.Module, teacher: torch.nn.Module | StoredTeacher | None) -> None:
    """Raises InputError if a model is not an encoder, if the student cannot be saved, or if both share weights."""
    for model in (student, teacher):
        if model is not None and isinstance(config_of(model), PreTrainedConfig):
            check_encoder(config_of(model))
    if isinstance(unwrapped(student), PreTrainedModel):
        check_savable(config_of(student))
    if teacher is not None and inner_model(teacher) is inner_model(student):
        raise InputError("teacher and student are the same object: the teacher is frozen, so load it twice.")
    if isinstance(teacher, torch.nn.Module):
        theirs = {id(weight) for weight in teacher.parameters()}
        shared = [name for name, one in student.named_parameters() if one.requires_grad and id(one) in theirs]
        if shared:
            raise InputError(
                f"teacher and student share weights, such as {shared[0]}, and those of the teacher are frozen: give "
                "the student copies, as copy.deepcopy makes them."
            )


def tokenizer_pair_of(collator: Any) -> TokenizerPair | None:
    """Returns the tokenizers of student and teacher, if the batches hold an encoding of each."""
    tokenizer = getattr(collator, "tokenizer", None)
    return tokenizer if isinstance(tokenizer, TokenizerPair) else None


def tokenizer_of(processing_class: Any, collator: Any) -> PreTrainedTokenizerBase | None:
    """Returns the student's tokenizer, if it is known."""
    pair = tokenizer_pair_of(collator)
    ours = getattr(collator, "tokenizer", None) if pair is None else pair.student
    for tokenizer in (processing_class, ours):
        if isinstance(tokenizer, PreTrainedTokenizerBase):
            return tokenizer
    return None


class Match(NamedTuple):
    """What a teacher's logits mean for a student.

    Attributes:
        label_order: for each of the student's labels, its index among the teacher's; None if they are the same.
        logits: the teacher's signal of logits that the student's can be compared with; None if the heads differ.
    """

    label_order: Sequence[int] | None = None
    logits: Logits | None = None


def match_heads(
    head: Head,
    config: PreTrainedConfig,
    teacher: PreTrainedModel | StoredTeacher,
    given: Head | None,
    reads_logits: Sequence[str],
    tokenizer: PreTrainedTokenizerBase | None,
    columns: Collection[str] | None,
) -> Match:
    """Returns how a teacher's logits match those of a student.

    Args:
        head, config: those of the student.
        given: the head that the user gave; it is the teacher's too if that is unknown.
        reads_logits: the names of the terms that compare logits.
        tokenizer: the one that encodes the teacher's texts; None if unknown.
        columns: those of the training set; None if unknown.

    Raises:
        InputError: a term compares logits, but the heads, their labels or the columns do not allow it; a teacher that
            cannot tell which tokens are padding.
    """
    theirs: Any = None
    match = Match()
    try:
        theirs = _head_of(teacher, given)
        if theirs.name == head.name and head.label_columns:
            order = head.label_order(config_of(teacher), config)
            match = Match(order, Logits(head, head.outputs(config_of(teacher))))
    except InputError:
        if reads_logits:
            raise
    if theirs is not None:
        check_padding(theirs, config_of(teacher), tokenizer)
    if not reads_logits:
        return match
    if match.logits is None:
        options = ["alpha" if term == "logits" else f"the weight of {term}" for term in reads_logits]
        raise InputError(
            f"the student's head is {head.name}, but the teacher's is {theirs.name}, and their logits cannot be "
            f"compared: set {' and '.join(options)} to 0, or give a teacher with the student's head."
        )
    head.warn_of_label_order(config_of(teacher), config)
    if columns:
        head.check_columns(columns)
    return match


def _head_of(teacher: PreTrainedModel | StoredTeacher, given: Head | None) -> Head:
    if isinstance(teacher, StoredTeacher):
        return teacher.head
    try:
        return head_of(teacher)
    except InputError:
        if given is None:
            raise
        return given


def check_padding(head: Head, config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase | None) -> None:
    """Raises InputError if a model with one result per text cannot tell which tokens are padding."""
    if head.label_columns and head.tokens_dim is None:
        check_padding_token(config, tokenizer)


def check_smoothing(head: Head, factor: float) -> None:
    """Raises InputError if the labels of a head cannot be smoothed, which `Trainer` notices late or never.

    Args:
        factor: `label_smoothing_factor`, above 0.
    """
    if head.unsmoothed_because:
        raise InputError(f"label_smoothing_factor is {factor:g}, but {head.unsmoothed_because}: leave it out.")


def check_encoding(
    config: PreTrainedConfig,
    teacher: PreTrainedModel | StoredTeacher,
    tokenizer: PreTrainedTokenizerBase | None,
    tokenizers: TokenizerPair | None,
) -> None:
    """Raises InputError if student or teacher evidently read other token ids than those of the data.

    Args:
        config: the student's.
        tokenizer: the student's; None if unknown.
        tokenizers: those of student and teacher, if they differ.
    """
    if tokenizers is not None:
        check_embeddings(config, tokenizers.student)
        check_embeddings(config_of(teacher), tokenizers.teacher)
        return
    options = teacher.options if isinstance(teacher, StoredTeacher) else {"trust_remote_code": False}
    stored = local_tokenizer(getattr(inner_model(teacher), "name_or_path", ""), **options) if tokenizer else None
    check_token_ids(config, config_of(teacher), tokenizer, stored)


def check_segments(
    model: torch.nn.Module | StoredTeacher, input_names: Collection[str], examples: Any, prefix: str = ""
) -> None:
    """Raises InputError if a model lacks embeddings for the token types of examples that it reads.

    Args:
        input_names: the arguments of its forward method.
        examples: checked by the first of them, if they are a `datasets.Dataset`.
        prefix: that of the columns that the model reads.
    """
    column = f"{prefix}token_type_ids"
    if isinstance(examples, Dataset) and "token_type_ids" in input_names and column in examples.column_names:
        check_token_types(config_of(model), examples[0][column])
