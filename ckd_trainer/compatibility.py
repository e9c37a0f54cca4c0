"""Do teacher, student and data go together? Checks by configuration and tokenizer, before weights are loaded."""

import logging
from collections.abc import Iterable, Sequence

import torch
from transformers import AutoModel, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from ckd_trainer.errors import InputError

logger = logging.getLogger(__name__)

_ONE_ENCODING = (
    "both read the same token ids, and relations compare them token by token: give a student of the teacher's family, "
    "or use student_init teacher_layers."
)


def label_order(theirs: PreTrainedConfig, ours: PreTrainedConfig, *, whose: str = "the teacher") -> list[int] | None:
    """Returns for each of our labels its index among theirs; None where the orders are the same.

    Equal names decide, if need be without regard to case. Where one side has only numbers (LABEL_0, LABEL_1, ... or 0,
    1, ...), a number stands for the position, see `match_by_position`.

    Args:
        theirs: configuration of a model that knows the task.
        ours: configuration with the data's labels.
        whose: what an error message calls the model.

    Raises:
        InputError: another number of labels, or other names.
    """
    if theirs.num_labels != ours.num_labels:
        raise InputError(
            f"{whose} has {theirs.num_labels} labels, but the data has {ours.num_labels}: it was fine-tuned for "
            "another task. Fine-tune one on this data with run_teacher.py."
        )
    if ours.num_labels == 1:
        return None
    their_names, our_names = _names(theirs), _names(ours)
    order = _order_by_name(their_names, our_names)
    if order is None:
        numbers = _numbers(their_names), _numbers(our_names)
        if numbers == (None, None):
            raise InputError(
                f"{whose}'s labels are {_listed(their_names)}, but the data has {_listed(our_names)}: give a model of "
                "this task, or rename the labels in its config.json (id2label, label2id)."
            )
        positions = list(range(len(our_names)))
        order = [(numbers[0] or positions).index(number) for number in numbers[1] or positions]
    return None if order == sorted(order) else order


def match_by_position(theirs: PreTrainedConfig, ours: PreTrainedConfig) -> bool:
    """Returns whether only positions tell which label is which: numbers on one side, words on the other."""
    names = _names(theirs), _names(ours)
    return len(names[0]) > 1 and _order_by_name(*names) is None and None in map(_numbers, names)


def warn_of_label_order(theirs: PreTrainedConfig, ours: PreTrainedConfig, *, whose: str = "the teacher") -> None:
    """Warns where labels come in another order, and loudly where they can be matched by position alone."""
    order = label_order(theirs, ours, whose=whose)
    places = order or range(ours.num_labels)
    pairs = [f"{theirs.id2label[place]} = {name}" for place, name in zip(places, _names(ours), strict=True)]
    if match_by_position(theirs, ours):
        logger.warning(
            "LABELS ARE MATCHED BY POSITION, as names on one side are only numbers (%s's label = the data's): %s. If "
            "that is wrong, name the labels in the model's config.json (id2label, label2id).",
            whose,
            _listed(pairs),
        )
    elif order is not None:
        logger.warning(
            "%s has its labels in another order than the data; they are matched by name.", whose.capitalize()
        )


def _names(config: PreTrainedConfig) -> list[str]:
    if set(config.id2label) != set(range(config.num_labels)):
        raise InputError(
            f"a model's id2label is {config.id2label}, which does not name the labels 0 to {config.num_labels - 1}: "
            "correct its config.json."
        )
    return [str(config.id2label[index]) for index in range(config.num_labels)]


def _order_by_name(theirs: list[str], ours: list[str]) -> list[int] | None:
    """Returns for each of our names its index among theirs, None where the names are not the same."""
    for fold in (str, str.casefold):
        folded = [fold(name) for name in theirs]
        wanted = [fold(name) for name in ours]
        if len(set(folded)) == len(folded) and sorted(folded) == sorted(wanted):
            return [folded.index(name) for name in wanted]
    return None


def _numbers(names: list[str]) -> list[int] | None:
    """Returns the numbers of LABEL_0, LABEL_1, ... or 0, 1, ... in any order; None for other names."""
    numbers = [name.casefold().removeprefix("label_") for name in names]
    return list(map(int, numbers)) if sorted(numbers) == sorted(map(str, range(len(names)))) else None


def _listed(names: list[str]) -> str:
    return ", ".join(names[:10]) + (f", ... ({len(names)} in all)" if len(names) > 10 else "")


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
