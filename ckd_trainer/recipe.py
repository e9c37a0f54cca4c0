"""A YAML recipe and the command line become the options of a run; the command line wins."""

import dataclasses
import difflib
import json
import types
import typing
from pathlib import Path

import torch
import yaml
from transformers import HfArgumentParser, TrainingArguments
from transformers.trainer_pt_utils import AcceleratorConfig

from ckd_trainer.errors import InputError

# Options that only concern this machine or hold a secret: no part of a resolved recipe.
_NOT_RECORDED = ("use_cpu", "dataloader_pin_memory", "local_rank", "hub_token", "push_to_hub_token")


class _Parser(HfArgumentParser):
    def error(self, message):  # argparse would print the usage of two hundred options first
        raise InputError(message)


def parse_recipe(dataclass_types, argv: list[str]) -> tuple:
    """Returns one instance of each dataclass, filled from `[recipe.yaml] [--key value ...]`.

    A recipe is a flat mapping of field names. YAML's own types are converted by the field's: `2e-5` is a number and
    `no` is a word where the field wants one. `null` in a recipe or `none` on the command line means None.

    Raises:
        InputError: a missing or malformed recipe, an unknown key (the nearest known one is named), a value of the
            wrong type, or a combination that a dataclass refuses.

    Example:
        >>> parse_recipe((CKDArguments, TrainingArguments), ["recipe.yaml", "--learning_rate", "3e-5"])
    """
    parser = _Parser(dataclass_types, allow_abbrev=False)
    fields = {
        field.name: typing.get_type_hints(cls)[field.name]
        for cls in dataclass_types
        for field in dataclasses.fields(cls)
        if field.init
    }
    path, command_line = (argv[0], argv[1:]) if argv and not argv[0].startswith("-") else (None, argv)
    recipe = read_recipe(path) if path else {}
    for key in recipe:
        if key not in fields:
            raise InputError(f"{path}: {_unknown(key, fields)}")

    from_recipe = [option for key, value in recipe.items() for option in _options(path, key, value, fields[key])]
    try:
        parser.parse_args(from_recipe)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    command_line, nulls = _split_nulls(command_line, fields)
    namespace, unknown = parser.parse_known_args(from_recipe + command_line)
    if unknown:
        raise InputError(_unknown(unknown[0].lstrip("-").split("=")[0], fields))
    set_by_hand = {option.lstrip("-").split("=")[0].replace("-", "_") for option in command_line}
    nulls |= {key for key in recipe.keys() - set_by_hand if recipe[key] is None and _nullable(fields[key])}
    values = vars(namespace) | dict.fromkeys(nulls)
    if "use_cpu" in values and not torch.accelerator.is_available():
        values["use_cpu"] = True  # without it, TrainingArguments refuses bf16 where there is no GPU
    try:
        return parser.parse_dict(values)
    except (ValueError, ImportError) as error:  # TrainingArguments checks its own combinations
        raise InputError(str(error)) from None


def read_recipe(path: str | Path) -> dict:
    """Returns the mapping in a YAML file.

    Raises:
        InputError: no such file, not YAML, or not a mapping.
    """
    try:
        recipe = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read the recipe {path}: {error.strerror}.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not YAML: {error}") from None
    if not isinstance(recipe, dict) or not all(isinstance(key, str) for key in recipe):
        raise InputError(f"{path} is no recipe: give one `key: value` a line.")
    return recipe


def resolved_recipe(*arguments) -> dict:
    """Returns the recipe that gives these options again: all of ours, and of TrainingArguments what was changed."""
    recipe = {}
    for instance in arguments:
        if isinstance(instance, TrainingArguments):
            defaults = {field.name: field.default for field in dataclasses.fields(instance)}
            defaults |= {"accelerator_config": AcceleratorConfig().to_dict()}
            nothing = (None, "", "none", dataclasses.MISSING)
            # Its defaults None, "" and "none" have become False or an empty list here.
            values = {
                key: value
                for key, value in instance.to_dict().items()
                if value != defaults[key] and (value or defaults[key] not in nothing)
            }
        else:
            values = dataclasses.asdict(instance)
        recipe |= {key: value for key, value in values.items() if key not in _NOT_RECORDED}
    return recipe


def _options(path, key, value, kind) -> list[str]:
    """Returns a recipe's value as it would stand on the command line; None is no option."""
    if value is None:
        if not _takes(kind, types.NoneType):
            raise InputError(f"{path}: {key} has no value.")
        return []
    if isinstance(value, bool) and not _takes(kind, bool):
        value = "yes" if value else "no"  # YAML's reading of a bare yes or no
    if isinstance(value, list):
        return [f"--{key}", *map(str, value)]
    return [f"--{key}", json.dumps(value) if isinstance(value, dict) else str(value)]


def _takes(kind, wanted) -> bool:
    return kind is wanted or wanted in typing.get_args(kind)


def _nullable(kind) -> bool:
    """True where None is a value to set; for a word that may be None it is the default, and "none" is a word."""
    return _takes(kind, types.NoneType) and not _takes(kind, str)


def _split_nulls(command_line, fields) -> tuple[list[str], set[str]]:
    """Takes `--key none` out of a command line for fields that None can be set to."""
    rest, nulls = [], set()
    for option in command_line:
        key = rest[-1].lstrip("-").replace("-", "_") if rest and rest[-1].startswith("--") else None
        if option.lower() == "none" and key in fields and _nullable(fields[key]):
            nulls.add(key)
            rest.pop()
        else:
            rest.append(option)
    return rest, nulls


def _unknown(key, fields) -> str:
    nearest = difflib.get_close_matches(key, fields, n=1)
    hint = f"did you mean {nearest[0]}?" if nearest else "see --help for all options."
    return f"{key} is no known option: {hint}"
