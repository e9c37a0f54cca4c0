"""What a comparison compares: methods and students, as changes to one recipe."""

import dataclasses
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from ckd_trainer.arguments import CKDArguments, ModelArguments, RunArguments, weight_names, weights_of
from ckd_trainer.methods import MethodArguments
from ckd_trainer.runs.recipe import one_of, unknown_option
from ckd_trainer.runs.recipe_file import read_recipe
from ckd_trainer.utils.errors import InputError, first_of, short

FINE_TUNED, LOGITS = "fine_tuned", "logits"
CKD = "ckd"
# All methods have the same part of the gradient: that of CKD's terms together, in the recipe or by default.
TOTAL_SHARE = sum(weights_of(CKDArguments()).values())
SET_BY_COMPARISON = ("output_dir", "seed", "overwrite_output_dir", "resume_from_checkpoint", "do_train", "do_eval")
_NOT_IN_VARIANTS = (*SET_BY_COMPARISON, "push_to_hub", "hub_token")
_INSTEAD = {"seed": "--seeds", "output_dir": "--output"}  # of these, the options of `ckd-trainer compare`
_OF_STUDENTS = ("student_num_layers", "student_layers", "student_config")

Options = dict[str, Any]  # of a recipe


@dataclasses.dataclass(frozen=True, eq=False)
class Variant:
    """One side of a comparison.

    Attributes:
        method: its name: a known method, or one from a file of variants.
        student: the student's layers and width, such as 3x384; None for the recipe's own.
        recipe: all options of its runs, but for output_dir and seed.
    """

    method: str
    student: str | None
    recipe: Options

    @property
    def name(self) -> str:
        """The method, after the student if there are several: "3x384 ckd"."""
        return " ".join(filter(None, (self.student, self.method)))

    @property
    def place(self) -> Path:
        """Where its files are, relative to those of the others."""
        return Path(*filter(None, (self.student, self.method)))


def variants_of(
    words: Sequence[str], students: Sequence[str], recipe: Options, groups: Sequence[Any]
) -> list[Variant]:
    """Returns the variants: each method with each student.

    Args:
        words: names of methods, or YAML files that map names to changed options.
        students: such as 3x384, for 3 layers of width 384; empty for the recipe's student.
        recipe: the options that all variants share.
        groups: the same options, as instances of the dataclasses that define them.

    Raises:
        InputError: an unknown method, a malformed file or student, the same name twice.
    """
    weights = weights_by_method(groups)
    methods: dict[str, Options] = {}
    for word in words:
        found = (
            _from_file(word, students, weights, groups)
            if _is_file(word)
            else {word: method_options(word, weights, groups)}
        )
        twice = [name for name in found if name in methods]
        if twice:
            raise InputError(f"{twice[0]} is compared twice: give each method once.")
        methods |= found
    twice = [student for student in students if list(students).count(student) > 1]
    if twice:
        raise InputError(f"student {twice[0]} is given twice: give each student once.")
    places: list[str | None] = [*students] or [None]
    return [
        Variant(method, student, recipe | (_student_options(student, groups) if student else {}) | options)
        for student in places
        for method, options in methods.items()
    ]


def weights_by_method(groups: Sequence[Any]) -> dict[str, dict[str, float]]:
    """Returns {method: {option: weight}}. PKDArguments is the method pkd, and so on."""
    return {
        type(group).__name__.removesuffix("Arguments").lower(): {
            name: getattr(group, name) for name in weight_names(group)
        }
        for group in groups
        if isinstance(group, CKDArguments | MethodArguments)
    }


def method_options(method: str, weights: Mapping[str, Mapping[str, float]], groups: Sequence[Any]) -> Options:
    """Returns the changes to the recipe that make it train with one method.

    fine_tuned learns from the labels alone, logits also from the teacher's logits, even if the recipe has neither in
    its loss. The others add their own terms to what it has of these. If the recipe has weights for them, they are
    kept. Otherwise CKD's terms have their default weights, and those of another method share the gradient that CKD's
    have in the recipe (or by default, where these are factors or off), in equal parts. The terms of all other methods
    are off.
    """
    if one_of(RunArguments, groups).stages:
        raise InputError(
            f"the recipe has stages, whose options would win over those of {method}: leave the stages out, and give "
            "each variant its own in a YAML file."
        )
    if method not in (FINE_TUNED, LOGITS, *weights):
        raise InputError(
            f"{short(method)} is not a known method: give {', '.join((FINE_TUNED, LOGITS, *weights))}, or a YAML file "
            "with changed options."
        )
    if method == LOGITS and one_of(CKDArguments, groups).alpha == 0:
        raise InputError(
            "alpha is 0 in the recipe, so logits would be the same as fine_tuned: give an alpha, or leave logits out."
        )
    off: Options = {name: 0.0 for options in weights.values() for name in options}
    if method in (FINE_TUNED, LOGITS):
        labels = {} if one_of(CKDArguments, groups).labels_and_logits else {"labels_and_logits": True}
        return off | labels | ({"alpha": 0.0} if method == FINE_TUNED else {})
    own = dict(weights[method])
    if not own:
        raise InputError(f"{method} has no option that ends in _weight, so it cannot be turned on: give it one.")
    if any(own.values()):
        return off | own
    if method == CKD:
        own = {name: getattr(CKDArguments(), name) for name in own}
    else:
        balances = one_of(CKDArguments, groups).term_balance == "gradient"
        total = (sum(weights[CKD].values()) if balances else 0) or TOTAL_SHARE
        own = dict.fromkeys(own, round(total / len(own), 4))
    return off | own | {"term_balance": "gradient"}


def _is_file(word: str) -> bool:
    return word.endswith((".yaml", ".yml"))


def _from_file(
    path: str, students: Sequence[str], weights: Mapping[str, Mapping[str, float]], groups: Sequence[Any]
) -> dict[str, Options]:
    """Returns the variants in a YAML file, `name: {option: value, ...}` each.

    An option `method` starts from that method; otherwise the changes are to the recipe as it is.
    """
    known = {option.name for group in groups for option in dataclasses.fields(group) if option.init}
    found: dict[str, Options] = {}
    for name, changes in read_recipe(path).items():
        if not re.fullmatch(r"\w[\w.-]*", name):
            raise InputError(f"{path}: {short(name)} becomes a folder: use letters, digits, and . - _ in names.")
        changes = {} if changes is None else changes
        if not isinstance(changes, dict) or not all(isinstance(key, str) for key in changes):
            raise InputError(f"{path}: {name} is {short(changes)}: give changed options, such as {{alpha: 0.3}}.")
        changes = dict(changes)
        method = changes.pop("method", None)
        check_free(changes, f"{path}: {name}", _NOT_IN_VARIANTS)
        unknown = [key for key in changes if key not in known]
        if unknown:
            raise InputError(f"{path}: {name}: {unknown_option(unknown[0], known)}")
        if students:
            check_free(changes, f"{path}: {name}", _OF_STUDENTS)
        found[name] = (method_options(str(method), weights, groups) if method is not None else {}) | changes
    if not found:
        raise InputError(f"{path} has no variants: give `name: {{option: value}}` per line.")
    return found


def check_free(
    options: Collection[str], source: str, taken: Collection[str] = SET_BY_COMPARISON, by: str = "comparison"
) -> None:
    """Raises InputError for options that the comparison (or the search) sets itself."""
    wrong = [name for name in options if name in taken]
    if wrong:
        advice = f"use {_INSTEAD[wrong[0]]}" if wrong[0] in _INSTEAD else "leave it out"
        raise InputError(f"{source} sets {first_of(wrong)}, which the {by} sets: {advice}.")


def _student_options(student: str, groups: Sequence[Any]) -> Options:
    sizes = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", student)
    if sizes is None:
        raise InputError(f"student {short(student)} is not LAYERSxWIDTH: give for example 3x384.")
    layers, width = map(int, sizes.groups())
    config: Any = one_of(ModelArguments, groups).student_config  # a mapping, which ModelArguments has parsed
    return {"student_num_layers": layers, "student_config": {**(config or {}), "hidden_size": width}}
