"""Matches a model's labels with the data's: by name, or by position if one side has only numbers."""

import logging
from collections.abc import Mapping

from transformers import PreTrainedConfig

from ckd_trainer.utils.errors import InputError, first_of, short

logger = logging.getLogger(__name__)

# The entry of a model's configuration with the threshold of each of several labels, {name: probability}. Models that
# were trained elsewhere lack it.
THRESHOLDS = "label_thresholds"


def label_order(theirs: PreTrainedConfig, ours: PreTrainedConfig, *, whose: str = "the teacher") -> list[int] | None:
    """Returns the index in `theirs` of each of our labels; None if the order is the same.

    Labels are matched by name, ignoring case if necessary. If one side has only numbers (LABEL_0, LABEL_1, ... or 0,
    1, ...), they are matched by position (see `match_by_position`).

    Args:
        theirs: configuration of a model for the task.
        ours: configuration with the data's labels.
        whose: the model's name in error messages.

    Raises:
        InputError: the number or the names of the labels differ.
    """
    if theirs.num_labels != ours.num_labels:
        if ours.num_labels == 1:
            what = f"has {theirs.num_labels} labels, but the data has numbers to predict"
        elif theirs.num_labels == 1:
            what = f"predicts a number, but the data has {ours.num_labels} labels"
        else:
            what = f"has {theirs.num_labels} labels, but the data has {ours.num_labels}"
        raise InputError(f"{whose} {what}{_difference(theirs, ours)}")
    if ours.num_labels == 1:
        return None
    their_names, our_names = _names(theirs), _names(ours)
    order = _order_by_name(their_names, our_names)
    if order is None:
        numbers = _numbers(their_names), _numbers(our_names)
        if numbers == (None, None):
            # Names that the other side lacks come first.
            named = sorted(their_names, key=set(our_names).__contains__)
            wanted = sorted(our_names, key=set(their_names).__contains__)
            raise InputError(
                f"{whose}'s labels are {first_of(named)}, but the data has {first_of(wanted)}: give a model of this "
                "task, or rename the labels in its config.json (id2label, label2id)."
            )
        positions = list(range(len(our_names)))
        order = [(numbers[0] or positions).index(number) for number in numbers[1] or positions]
    return None if order == sorted(order) else order


def _difference(theirs: PreTrainedConfig, ours: PreTrainedConfig) -> str:
    """Returns the end of the message about another number of labels: if some are the same, which are not."""
    known, wanted = _names(theirs), _names(ours)
    added, lacking = _without(wanted, known), _without(known, wanted)
    # A single label is a score, and has no name; numbers are the same by chance.
    shares_names = len(added) < len(wanted) and _numbers(wanted) is None and 1 not in (len(known), len(wanted))
    if not shares_names or not (added or lacking):
        return ": it was fine-tuned for another task. Fine-tune one on this data with ckd-trainer teacher."
    parts = [f"{verb} {first_of(names)}" for verb, names in (("also has", added), ("lacks", lacking)) if names]
    return f". The data {' and '.join(parts)}: correct that, or fine-tune a model on it with ckd-trainer teacher."


def _without(names: list[str], others: list[str]) -> list[str]:
    """Returns the names that are not among others, ignoring case."""
    folded = {name.casefold() for name in others}
    return [name for name in names if name.casefold() not in folded]


def match_by_position(theirs: PreTrainedConfig, ours: PreTrainedConfig) -> bool:
    """Returns whether labels can be matched by position only: numbers on one side, words on the other."""
    names = _names(theirs), _names(ours)
    return len(names[0]) > 1 and _order_by_name(*names) is None and None in map(_numbers, names)


def warn_of_label_order(theirs: PreTrainedConfig, ours: PreTrainedConfig, *, whose: str = "the teacher") -> None:
    """Warns if labels are in another order, and loudly if they can be matched by position only."""
    order = label_order(theirs, ours, whose=whose)
    places = order or range(ours.num_labels)
    pairs = [f"{theirs.id2label[place]} is {name}" for place, name in zip(places, _names(ours), strict=True)]
    if match_by_position(theirs, ours):
        logger.warning(
            "LABELS ARE MATCHED BY POSITION, because one side has only numbers: %s's %s. If that is wrong, name "
            "the labels in the model's config.json (id2label, label2id).",
            whose,
            first_of(pairs, 10),
        )
    elif order is not None:
        logger.warning(
            "%s has its labels in another order than the data. They are matched by name.", whose.capitalize()
        )


def thresholds_of(config: PreTrainedConfig) -> list[float] | None:
    """Returns the threshold of each label, in the order of the labels; None if the model has none.

    Raises:
        InputError: there is no threshold for one of the labels.
    """
    thresholds = getattr(config, THRESHOLDS, None)
    if thresholds is None:
        return None
    names = _names(config)
    if not isinstance(thresholds, Mapping) or any(not isinstance(thresholds.get(name), float) for name in names):
        raise InputError(
            f"a model's {THRESHOLDS} are {short(thresholds)}, which are not thresholds of its labels "
            f"({first_of(names)}): correct its config.json, or delete the entry."
        )
    return [thresholds[name] for name in names]


def _names(config: PreTrainedConfig) -> list[str]:
    if set(config.id2label) != set(range(config.num_labels)):
        raise InputError(
            f"a model's id2label is {short(config.id2label)}, which does not name the labels 0 to "
            f"{config.num_labels - 1}: correct its config.json."
        )
    return [str(config.id2label[index]) for index in range(config.num_labels)]


def _order_by_name(theirs: list[str], ours: list[str]) -> list[int] | None:
    """Returns the index in `theirs` of each of our names; None if the names differ."""
    for fold in (str, str.casefold):
        folded = [fold(name) for name in theirs]
        wanted = [fold(name) for name in ours]
        if len(set(folded)) == len(folded) and sorted(folded) == sorted(wanted):
            return [folded.index(name) for name in wanted]
    return None


def _numbers(names: list[str]) -> list[int] | None:
    """Returns the numbers of names such as LABEL_0, LABEL_1, ... or 0, 1, ... (in any order); None for other names."""
    numbers = [name.casefold().removeprefix("label_") for name in names]
    return list(map(int, numbers)) if sorted(numbers) == sorted(map(str, range(len(names)))) else None
