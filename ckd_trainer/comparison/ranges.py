"""The ranges of a search: a YAML file of values for options."""

import math
from collections.abc import Callable, Mapping
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from ckd_trainer.comparison.variants import Options
from ckd_trainer.runs.recipe_file import read_recipe, with_exponents
from ckd_trainer.utils.errors import InputError, short

_FORM = "give a list of two values or more, or {low: 2e-5, high: 2e-4, log: true}"


def read_ranges(
    path: str, recipe: Options, taken: Mapping[str, str], check: Callable[[Options, str], None]
) -> dict[str, BaseDistribution]:
    """Returns the ranges in a YAML file, each a list of values, or `{low: ..., high: ..., log: true}`.

    Args:
        recipe: the options that all trials share.
        taken: {option: why it cannot be varied}.
        check: raises InputError if a recipe cannot be run; its second argument names the source.

    Raises:
        InputError: a malformed range, an option that does not exist or cannot be varied, a value that it does not
            take.

    Example::

        learning_rate: {low: 2e-5, high: 2e-4, log: true}
        num_train_epochs: [3, 6, 12]
    """
    ranges = {}
    for name, values in read_recipe(path).items():
        if name in taken:
            raise InputError(f"{path} varies {name}, which {taken[name]}: leave it out.")
        ranges[name] = _range(f"{path}: {name}", values)
        for value in values if isinstance(values, list) else (values["low"], values["high"]):
            check(recipe | {name: value}, path)
    if not ranges:
        raise InputError(f"{path} has no ranges: give `option: [value, value]` per line.")
    if "num_train_epochs" in ranges and ("max_steps" in ranges or int(recipe.get("max_steps") or -1) > 0):
        raise InputError(f"{path} varies num_train_epochs, but max_steps would win: leave one of them out.")
    return ranges


def _range(name: str, values: Any) -> BaseDistribution:
    if isinstance(values, list):
        if len(values) < 2 or not all(isinstance(value, str | int | float | bool) for value in values):
            raise InputError(f"{name} is {short(values)}: {_FORM}.")
        choices = with_exponents(values)
        if any(choices.count(choice) > 1 for choice in choices):
            raise InputError(f"{name} is {short(values)}, which holds a value twice: give each once.")
        return CategoricalDistribution(choices)
    if not isinstance(values, dict) or not {"low", "high"} <= values.keys() <= {"low", "high", "log"}:
        raise InputError(f"{name} is {short(values)}: {_FORM}.")
    low, high, log = with_exponents(values["low"]), with_exponents(values["high"]), values.get("log", False)
    numbers = [end for end in (low, high) if isinstance(end, int | float) and not isinstance(end, bool)]
    if len(numbers) < 2 or not isinstance(log, bool) or not all(map(math.isfinite, numbers)):
        raise InputError(f"{name} is {short(values)}: {_FORM}.")
    if not low < high or (log and low <= 0):
        raise InputError(f"{name} is {short(values)}: low must be below high{', and above 0 for log' if log else ''}.")
    kind = IntDistribution if all(isinstance(end, int) for end in numbers) else FloatDistribution
    return kind(low, high, log=log)


def draw_of(distribution: BaseDistribution, value: Any) -> Any:
    """Returns the draw that is an option's value, None if the value does not lie in the range."""
    if isinstance(distribution, CategoricalDistribution):
        return next((choice for choice in distribution.choices if choice == value), None)
    assert isinstance(distribution, IntDistribution | FloatDistribution)
    if not isinstance(value, int | float) or not distribution.low <= value <= distribution.high:
        return None
    if isinstance(distribution, FloatDistribution):
        return float(value)
    return int(value) if float(value).is_integer() else None
