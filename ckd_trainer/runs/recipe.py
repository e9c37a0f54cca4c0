"""Reads the options of a run from a YAML recipe and the command line; the command line wins."""

import argparse
import dataclasses
import itertools
import json
import re
import types
import typing
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NoReturn, TypeVar

import torch
from transformers import HfArgumentParser, TrainingArguments
from transformers.integrations import is_deepspeed_available
from transformers.trainer_pt_utils import AcceleratorConfig

from ckd_trainer.runs.recipe_file import read_recipe, with_exponents
from ckd_trainer.utils.errors import InputError, about_file, is_mendable, short
from ckd_trainer.utils.files import expanded
from ckd_trainer.utils.nearest import nearest

Kind = TypeVar("Kind")

# Options that only concern this machine or hold a secret: a resolved recipe leaves them out.
_NOT_RECORDED = ("use_cpu", "dataloader_pin_memory", "local_rank", "hub_token")
# Short for options, but with none of their words.
_ABBREVIATIONS = {"lr": "learning_rate"}
# The paths among the fields of TrainingArguments. Our own dataclasses, or the readers of files, expand ~ themselves.
_PATHS = {"output_dir", "logging_dir", "resume_from_checkpoint", "deepspeed", "fsdp_config", "accelerator_config"}


class _Parser(HfArgumentParser):
    def add_argument(self, *args: Any, **kwargs: Any) -> argparse.Action:
        action = super().add_argument(*args, **kwargs)
        if action.const is False:  # --no_<option>, which argparse describes like the option
            action.help = f"The same as --{action.dest} false."
        return action

    def error(self, message: str) -> NoReturn:  # argparse would first print the usage of two hundred options
        raise InputError(message)


def parse_recipe(
    dataclass_types: Sequence[type],
    argv: list[str],
    prog: str | None = None,
    elsewhere: Mapping[str, str] | None = None,
) -> tuple:
    """Returns one instance of each dataclass, filled from `[recipe.yaml] [--key value ...]`.

    A recipe is a flat mapping of field names. YAML's types are converted to the field's: `2e-5` becomes a number, and
    `no` a word if the field takes a word. `null` in a recipe or `none` on the command line means None (for a field
    that takes any word, `None`).

    Args:
        prog: the command that `--help` shows.
        elsewhere: {option that other commands have: what the message about it here says}.

    Raises:
        InputError: a missing or malformed recipe, an unknown key (the message names the nearest one), a value of the
            wrong type, or a combination that a dataclass refuses.

    Example:
        >>> parse_recipe((CKDArguments, TrainingArguments), ["recipe.yaml", "--learning_rate", "3e-5"])
    """
    path = _recipe_path(argv)
    recipe = read_recipe(path) if path else {}
    return parse_mapping(
        dataclass_types, recipe, argv[1:] if path else argv, source=path, prog=prog, elsewhere=elsewhere
    )


def parse_mapping(
    dataclass_types: Sequence[type],
    recipe: Mapping[str, Any],
    words: list[str],
    source: str | None,
    prog: str | None = None,
    elsewhere: Mapping[str, str] | None = None,
) -> tuple:
    """Does what `parse_recipe` does with a recipe that is already read; `source` names it in messages."""
    parser = _Parser(dataclass_types, prog=prog, allow_abbrev=False)
    fields = _kinds(dataclass_types)
    command_line = _join_values(words)
    for option, word in itertools.pairwise(command_line):
        if _is_recipe(word) and option.startswith("--") and _takes(fields.get(_key(option)), bool):
            raise InputError(_stray(word))
    for key in recipe:
        if key not in fields:
            raise InputError(f"{source}: {unknown_option(key, fields, elsewhere)}")

    try:
        from_recipe, nulls = _split_nulls([_option(key, value, fields[key]) for key, value in recipe.items()], fields)
        parser.parse_args(from_recipe)
    except InputError as error:
        raise InputError(f"{source}: {error}") from None
    by_hand, nulls_by_hand = _split_nulls(command_line, fields)
    given = {_key(word) for word in command_line if word.startswith("--")}
    namespace, unknown = parser.parse_known_args([word for word in from_recipe if _key(word) not in given] + by_hand)
    if unknown:
        is_option = unknown[0].startswith("--")
        raise InputError(unknown_option(_key(unknown[0]), fields, elsewhere) if is_option else _stray(unknown[0]))
    nulls = (nulls - given) | nulls_by_hand
    values = vars(namespace) | dict.fromkeys(nulls)
    if "use_cpu" in values and not torch.accelerator.is_available():
        values["use_cpu"] = True  # without it, TrainingArguments refuses bf16 if there is no GPU
    for key, value in values.items():
        if _takes(fields[key], dict):
            _check_json(key, value)
        if key in _PATHS and isinstance(value, str):
            values[key] = expanded(value)
        if isinstance(value, list):  # of words, which a recipe's list or a command line separates by commas
            found: list[Any] = [getattr(word, "value", word) for word in value]
            values[key] = [part for word in found for part in _parts(word)]
    if isinstance(trackers := values.get("report_to"), str):
        values["report_to"] = _parts(trackers) if trackers else "none"
    return tuple(
        _instance(cls, {field.name: values[field.name] for field in dataclasses.fields(cls) if field.init})
        for cls in dataclass_types
    )


def parse_options(dataclass_types: Sequence[type], options: Mapping[str, Any]) -> dict[str, Any]:
    """Returns some options of these dataclasses, {name: value}, converted to their types like those of a recipe.

    Raises:
        InputError: a value of the wrong type.
    """
    fields = _kinds(dataclass_types)
    words, nulls = _split_nulls([_option(key, value, fields[key]) for key, value in options.items()], fields)
    namespace = vars(_Parser(dataclass_types, allow_abbrev=False).parse_args(words))
    return {key: None if key in nulls else namespace[key] for key in options}


def with_options(instance: Any, options: Mapping[str, Any]) -> Any:
    """Returns a copy of an instance of a dataclass with some options changed.

    Raises:
        InputError: a value or combination that the dataclass refuses.
    """
    values = {field.name: getattr(instance, field.name) for field in dataclasses.fields(instance) if field.init}
    return _instance(type(instance), {**values, **options})


def _kinds(dataclass_types: Sequence[type]) -> dict[str, Any]:
    """Returns the types of the fields by name."""
    kinds: dict[str, Any] = {}
    for cls in dataclass_types:
        hints = typing.get_type_hints(cls)
        kinds |= {field.name: hints[field.name] for field in dataclasses.fields(cls) if field.init}
    return kinds


def _instance(cls: type, values: dict[str, Any]) -> Any:
    if not issubclass(cls, TrainingArguments):  # ours, which raise InputError themselves
        return cls(**values)
    _check_best_model(values)
    if values["deepspeed"] and not is_deepspeed_available():
        raise InputError("deepspeed is set, but deepspeed is not installed: install it, or leave it out.")
    try:
        return cls(**values)
    except OSError as error:  # a JSON file that an option names
        option = next((key for key, value in values.items() if value == error.filename), None)
        if option is None or not is_mendable(error):
            raise
        raise InputError(f"{option} is {about_file(error)}") from None
    except (ValueError, TypeError, ImportError) as error:  # wrong combinations, missing packages
        if isinstance(error, TypeError) and "unexpected keyword" not in str(error):  # of accelerator_config
            raise
        raise InputError(" ".join(str(error).split())) from None


def _check_best_model(values: Mapping[str, Any]) -> None:
    """Raises InputError if load_best_model_at_end has no evaluated models, or no checkpoints of them."""
    if not values["load_best_model_at_end"]:
        return
    strategies = (values[f"{event}_strategy"] for event in ("eval", "save"))
    evaluation, saving = (getattr(one, "value", one) for one in strategies)
    if evaluation == "no":
        raise InputError(
            "load_best_model_at_end needs evaluations during training: set eval_strategy and save_strategy to the "
            "same value, such as epoch."
        )
    if saving not in (evaluation, "best"):
        raise InputError(
            f"load_best_model_at_end needs checkpoints of the models that are evaluated, but eval_strategy is "
            f"{evaluation} and save_strategy is {saving}: set them to the same value, such as epoch."
        )


def mapping_of(words: Sequence[str]) -> dict[str, Any]:
    """Returns options of a command line as the mapping of a recipe: their words, or True for one without a word.

    `--no_<option>` without a word means False.

    Raises:
        InputError: a word that belongs to no option.

    Example:
        >>> mapping_of(["--learning_rate", "3e-5", "--bf16", "--label-names=a", "--no_scale_by_temperature"])
        {"learning_rate": "3e-5", "bf16": True, "label_names": "a", "scale_by_temperature": False}
    """
    values: dict[str, Any] = {}
    for word in _join_values(list(words)):
        if word.startswith("--"):
            name, equals, value = word.partition("=")
            key = _key(name)
            is_negated = key.startswith("no_") and not equals
            values[key.removeprefix("no_") if is_negated else key] = value if equals else not is_negated
        elif not values or (last := next(reversed(values))) is None or values[last] is not True:
            raise InputError(_stray(word))
        else:
            values[last] = word
    return values


def value_of(option: str, argv: list[str]) -> str | None:
    """Returns the value of an option that takes any word, from the command line or else the recipe; None for `None`.

    The other options are not read.
    """
    parser = _Parser(add_help=False, allow_abbrev=False)
    parser.add_argument(f"--{option}", f"--{option.replace('_', '-')}", dest=option)
    given = getattr(parser.parse_known_args(argv)[0], option)
    path = _recipe_path(argv)
    if given is None and path is not None:
        given = read_recipe(path).get(option)
    return None if given in (None, "None") else str(given)


def one_of(kind: type[Kind], instances: Iterable[Any]) -> Kind:
    """Returns the instance of a dataclass among those of a run."""
    return next(instance for instance in instances if isinstance(instance, kind))


def resolved_recipe(*arguments: Any) -> dict:
    """Returns the recipe that reproduces these options: all of ours, and the non-defaults of TrainingArguments."""
    recipe: dict[str, Any] = {}
    for instance in arguments:
        options = [option.name for option in dataclasses.fields(instance) if option.init]
        values = {name: value for name, value in dataclasses.asdict(instance).items() if name in options}
        if isinstance(instance, TrainingArguments):
            values = {key: value for key, value in instance.to_dict().items() if not _is_default(instance, key, value)}
        recipe |= {key: value for key, value in values.items() if key not in _NOT_RECORDED}
    return recipe


def _is_default(args: TrainingArguments, key: str, value: Any) -> bool:
    if key == "accelerator_config":
        return value.items() <= AcceleratorConfig().to_dict().items()  # TrainingArguments removes one of these
    default = args.__dataclass_fields__[key].default
    # TrainingArguments turns defaults such as None, "" and "none" into False or an empty list.
    return value == default or (not value and default in (None, "", "none", dataclasses.MISSING))


def _check_json(key: str, value: Any) -> None:
    """Raises InputError for malformed JSON, as TrainingArguments would not name the option."""
    if isinstance(value, str) and value.startswith("{"):
        try:
            json.loads(value)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{key} is {short(value)}, which is not JSON ({error}).") from None


def _recipe_path(argv: list[str]) -> str | None:
    return argv[0] if argv and not argv[0].startswith("-") else None


def _option(key: str, value: Any, kind: Any) -> str:
    """Returns a recipe's value in the form of the command line."""
    if value is None and not _takes(kind, types.NoneType):
        raise InputError(f"{key} has no value.")
    if not _takes(kind, bool):
        value = [_word(item) for item in value] if isinstance(value, list) else _word(value)
    is_json = isinstance(value, dict) or (isinstance(value, list) and list in typing.get_args(kind))
    if isinstance(value, list) and not is_json:  # such as 2,4,6 or the pairs 0:0,1:2
        value = ",".join(":".join(map(str, item)) if isinstance(item, list) else str(item) for item in value)
    if is_json:
        try:
            value = json.dumps(with_exponents(json.loads(json.dumps(value))))
        except (TypeError, ValueError, RecursionError) as error:  # such as a date, or an alias of the mapping itself
            what = "mapping" if isinstance(value, dict) else "list"
            raise InputError(f"{key} is a {what} that JSON cannot represent ({error}).") from None
    return f"--{key}={value}"


def _parts(word: Any) -> list[Any]:
    """Returns the words between the commas of a word; a number alone."""
    return [part.strip() for part in word.split(",")] if isinstance(word, str) else [word]


def _word(value: Any) -> Any:
    """Returns yes or no for a boolean, as which YAML reads these words, and all else as it is."""
    return ("yes" if value else "no") if isinstance(value, bool) else value


def _join_values(command_line: list[str]) -> list[str]:
    """Writes `--key none` as `--key=none`, like a recipe's options, and joins -1e-5, which argparse takes for one."""
    joined: list[str] = []
    for word in command_line:
        is_value = word.lower() == "none" or re.fullmatch(r"-[\d.]+e[+-]?\d+", word.lower())
        if is_value and joined and joined[-1].startswith("--") and "=" not in joined[-1]:
            joined[-1] += f"={word}"
        else:
            joined.append(word)
    return joined


def _split_nulls(options: list[str], fields: dict) -> tuple[list[str], set[str]]:
    """Separates the options that mean None: `--key=none`, and for words a recipe's null (`--key=None`)."""
    rest, nulls = [], set()
    for option in options:
        key, value = _key(option), option.partition("=")[2]
        may_be_none = key in fields and _takes(fields[key], types.NoneType)
        if may_be_none and value.lower() == "none" and not _takes(fields[key], str):
            nulls.add(key)
        elif not (may_be_none and value == "None"):
            nulls.discard(key)
            rest.append(option)
    return rest, nulls


def _takes(kind: Any, wanted: type) -> bool:
    return wanted in {typing.get_origin(one) or one for one in (kind, *typing.get_args(kind))}


def _key(option: str) -> str:
    return option.lstrip("-").split("=")[0].replace("-", "_")


def unknown_option(key: str, fields: Collection[str], elsewhere: Mapping[str, str] | None = None) -> str:
    """Returns the message about an option that does not exist: where it belongs, or the nearest name."""
    if elsewhere and key in elsewhere:
        return f"{key} is not a known option: {elsewhere[key]}"
    likely = nearest(_ABBREVIATIONS.get(key, key), fields)
    hint = f"did you mean {likely}?" if likely else "see --help for all options."
    return f"{key} is not a known option: {hint}"


def _is_recipe(word: str) -> bool:
    return word.endswith((".yaml", ".yml"))


def _stray(word: str) -> str:
    """Returns the message about a word of the command line that is no option's name or value."""
    if _is_recipe(word):
        return f"{word} comes after other options: give the recipe first."
    return f"{short(word)} belongs to no option: options are written --name value."
