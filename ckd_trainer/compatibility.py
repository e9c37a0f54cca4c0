"""Do teacher, student and data go together? Checks by configuration and tokenizer, before weights are loaded."""

import math
from collections.abc import Iterable, Sequence

import torch
from transformers import AutoModel, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from ckd_trainer.errors import InputError

_PADDED_TO = (8, 16, 32, 64, 128, 256, 512)  # multiples that make a matrix product fast
_ONE_ENCODING = (
    "both read the same token ids, and relations compare them token by token: give a student of the teacher's family, "
    "or use student_init teacher_layers."
)


def label_order(teacher: PreTrainedConfig, student: PreTrainedConfig) -> list[int] | None:
    """Returns for each label of the student its index among the teacher's; None where the orders are the same.

    Names are compared without regard to case. A teacher that has no names but LABEL_0, LABEL_1, ... is taken to have
    the student's order.

    Raises:
        InputError: another number of labels, or other names.
    """
    if teacher.num_labels != student.num_labels:
        raise InputError(
            f"the teacher has {teacher.num_labels} labels, but the data has {student.num_labels}: it was fine-tuned "
            "for another task. Fine-tune a teacher on this data with run_teacher.py."
        )
    if student.num_labels == 1:
        return None
    for config in (teacher, student):
        if set(config.id2label) != set(range(config.num_labels)):
            raise InputError(
                f"a model's id2label is {config.id2label}, which does not name the labels 0 to "
                f"{config.num_labels - 1}: correct its config.json."
            )
    theirs = [str(teacher.id2label[index]).casefold() for index in range(teacher.num_labels)]
    ours = [str(student.id2label[index]).casefold() for index in range(student.num_labels)]
    if theirs == ours:
        return None
    unnamed = [f"label_{index}" for index in range(teacher.num_labels)]
    if theirs == unnamed or ours == unnamed:
        return None
    if sorted(theirs) != sorted(ours):
        raise InputError(
            f"the teacher's labels are {', '.join(theirs)}, but the data has {', '.join(ours)}: give a teacher of "
            "this task, or rename the labels in its config.json (id2label, label2id)."
        )
    return [theirs.index(name) for name in ours]


def check_max_length(
    config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase, max_seq_length: int, **options
) -> None:
    """Raises InputError where a model has fewer positions than max_seq_length, or its tokenizer stops earlier."""
    positions = getattr(config, "max_position_embeddings", None) or 0  # 0 or -1: no limit
    limits = [tokenizer.model_max_length] + ([positions] if positions > 0 else [])
    base = outline(config, AutoModel, **options)
    embeddings = getattr(getattr(base, "embeddings", None), "position_embeddings", None)
    if isinstance(embeddings, torch.nn.Embedding) and embeddings.padding_idx is not None:
        # RoBERTa counts positions from after its padding index.
        limits.append(embeddings.num_embeddings - embeddings.padding_idx - 1)
    special = tokenizer.num_special_tokens_to_add(pair=True)
    if max_seq_length <= special:
        raise InputError(
            f"max_seq_length is {max_seq_length}, but the {special} special tokens of the {config.model_type} model "
            f"leave no room for a text then: give {special + 1} or more."
        )
    if max_seq_length > min(limits):
        raise InputError(
            f"max_seq_length is {max_seq_length}, but the {config.model_type} model reads at most {min(limits)} "
            f"tokens: give {min(limits)}."
        )


def outline(config: PreTrainedConfig, model_class, **options) -> PreTrainedModel:
    """Returns the model of a configuration without weights: modules and shapes, nothing in memory.

    Args:
        model_class: one of transformers' Auto classes.

    Raises:
        InputError: a configuration that makes no model.
    """
    try:
        with torch.device("meta"):
            return model_class.from_config(config, **options)
    except Exception as error:  # each class checks its values in its own way
        raise InputError(
            f"the {config.model_type} model's configuration cannot be used: {' '.join(str(error).split())}"
        ) from error


def check_padding_sides(student: PreTrainedTokenizerBase, teacher: PreTrainedTokenizerBase) -> None:
    """Raises InputError unless the two pad texts on one side."""
    if student.padding_side != teacher.padding_side:
        raise InputError(
            f"the teacher's tokenizer pads on the {teacher.padding_side}, but the student's on the "
            f"{student.padding_side}: both read the same batches, and where a text stands in them counts. Set "
            "padding_side in the tokenizer_config.json of the one that was trained with the other side."
        )


def check_vocabularies(student: PreTrainedTokenizerBase, teacher: PreTrainedTokenizerBase) -> None:
    """Raises InputError unless the two have one vocabulary, entry by entry."""
    ours, theirs = student.get_vocab(), teacher.get_vocab()
    if ours != theirs:
        example = min(token for token, _ in ours.items() ^ theirs.items())
        raise InputError(
            f"teacher and student have different vocabularies ({len(theirs)} and {len(ours)} entries; {example!r} is "
            f"{theirs.get(example, 'missing')} and {ours.get(example, 'missing')}), but {_ONE_ENCODING}"
        )


def check_token_ids(
    student: PreTrainedConfig,
    teacher: PreTrainedConfig,
    tokenizer: PreTrainedTokenizerBase | None,
    teacher_tokenizer: PreTrainedTokenizerBase | None,
) -> None:
    """Raises InputError where it can be seen that the models read different token ids, for use without the scripts.

    With both tokenizers each id must mean the same in both; entries that one has more must have embeddings in the
    teacher. With fewer the numbers of embeddings are compared. They are equal, but for rows that nobody reads: models
    are often padded to a multiple of 8, as BERT's 30,522 to 30,528.

    Args:
        tokenizer: encoded the data; None where it is not known.
        teacher_tokenizer: is stored beside the teacher; None where there is none.
    """
    if tokenizer is not None:
        check_embeddings(teacher, tokenizer)
        # One that does not fit into the teacher is not its own: such a teacher was made of another's configuration.
        if teacher_tokenizer is not None and len(teacher_tokenizer) <= getattr(teacher, "vocab_size", 0):
            _check_same_meaning(tokenizer, teacher_tokenizer)
            return
    ours, theirs = (getattr(config, "vocab_size", None) for config in (student, teacher))
    if ours is None or theirs is None:
        return
    fewer, more = sorted((ours, theirs))
    if fewer != more and not any(more == math.ceil(fewer / multiple) * multiple for multiple in _PADDED_TO):
        raise InputError(
            f"the teacher has embeddings for {theirs} token ids, the student for {ours}, but {_ONE_ENCODING} Where "
            "the two do share a tokenizer, and one has rows for tokens that were added later, give the other as many "
            "with resize_token_embeddings."
        )


def _check_same_meaning(student: PreTrainedTokenizerBase, teacher: PreTrainedTokenizerBase) -> None:
    ours, theirs = ({index: token for token, index in each.get_vocab().items()} for each in (student, teacher))
    differing = [index for index in sorted(ours.keys() & theirs.keys()) if ours[index] != theirs[index]]
    if differing:
        raise InputError(
            f"the teacher's tokenizer, as stored in {teacher.name_or_path}, has another vocabulary than the "
            f"student's: {len(differing)} ids differ, such as {differing[0]}, which is {theirs[differing[0]]!r} to "
            f"the teacher and {ours[differing[0]]!r} to the student, but {_ONE_ENCODING}"
        )


def check_encodings(
    student: PreTrainedTokenizerBase, teacher: PreTrainedTokenizerBase, texts: Iterable[Sequence[str]]
) -> None:
    """Raises InputError unless the teacher's gives for the texts (or pairs of texts) what the student's does."""
    for row in texts:
        theirs = teacher(*row)
        for name, values in student(*row).items():
            if values != theirs[name]:
                raise InputError(
                    f"teacher and student have one vocabulary but encode {row[0]!r} differently ({name}: upper case, "
                    f"special tokens or types, say), but {_ONE_ENCODING}"
                )


def check_embeddings(config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raises InputError where a tokenizer has more entries than a model has embeddings."""
    rows = getattr(config, "vocab_size", None)
    if rows is not None and len(tokenizer) > rows:
        raise InputError(
            f"the tokenizer has {len(tokenizer)} entries, but the {config.model_type} model has embeddings for "
            f"{rows}: they do not belong together."
        )
