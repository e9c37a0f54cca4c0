"""Checks the values of options that come from Python: those of a recipe are converted to the types of their fields."""

import dataclasses
import os
import types
import typing
from numbers import Integral, Real
from typing import Any, Literal

from ckd_trainer.utils.errors import InputError, short

# {type of a field: (the types of its values, what a message asks for)}
_KINDS: dict[Any, tuple[tuple[type, ...], str]] = {
    bool: ((bool,), "True or False"),
    int: ((Integral,), "a whole number"),
    float: ((Real,), "a number"),
    str: ((str, os.PathLike), "a string"),
    types.NoneType: ((types.NoneType,), "None"),
}


def check_types(arguments: Any) -> None:
    """Raises InputError if an option of a dataclass has a value of another type than its field.

    Types that no recipe can hold, such as a method of your own may have, are not checked.

    Example:
        >>> CKDArguments(logit_loss="MSE")
        InputError: logit_loss is 'MSE': give 'kl', 'reverse_kl', 'skewed_kl' or 'mse'.
    """
    try:
        hints = typing.get_type_hints(type(arguments))
    except NameError:  # annotations that only a type checker can resolve
        return
    for option in dataclasses.fields(arguments):
        value, kind = getattr(arguments, option.name), hints[option.name]
        kinds = typing.get_args(kind) if typing.get_origin(kind) in (typing.Union, types.UnionType) else (kind,)
        if not any(_fits(value, one) for one in kinds):
            *most, last = [words for one in kinds for words in _words(one)]
            wanted = f"{', '.join(most)} or {last}" if most else last
            raise InputError(f"{option.name} is {short(value)}: give {wanted}.")


def _fits(value: Any, kind: Any) -> bool:
    if typing.get_origin(kind) is Literal:
        return value in typing.get_args(kind)
    if kind not in _KINDS:
        return True
    is_of_kind = isinstance(value, _KINDS[kind][0])
    return is_of_kind and (kind is bool or not isinstance(value, bool))  # for Python, True is a number


def _words(kind: Any) -> list[str]:
    """Returns what a message asks for."""
    if typing.get_origin(kind) is Literal:
        return [repr(choice) for choice in typing.get_args(kind)]
    return [_KINDS[kind][1]]
