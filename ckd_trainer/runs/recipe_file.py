"""Reads a recipe's YAML file. Imports no torch, as `ckd-trainer report` needs none."""

import re
from pathlib import Path
from typing import Any

import yaml

from ckd_trainer.utils.errors import InputError, is_mendable
from ckd_trainer.utils.files import user_path


def read_recipe(path: str | Path) -> dict:
    """Returns the mapping in a YAML file.

    Raises:
        InputError: no such file, not YAML, or not a mapping.
    """
    try:
        text = user_path(path).read_text(encoding="utf-8")
    except OSError as error:
        if not is_mendable(error):
            raise
        raise InputError(f"cannot read the recipe {path}: {error.strerror}.") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not YAML: {error}") from None
    try:
        recipe = yaml.load(text, _Loader)
    except _TwiceError as error:
        raise InputError(f"{path} gives {error} twice: leave one out.") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # also malformed numbers and dates
        raise InputError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(recipe, dict) or not all(isinstance(key, str) for key in recipe):
        raise InputError(f"{path} is not a recipe: give one `key: value` per line.")
    return recipe


def with_exponents(value: Any) -> Any:
    """Returns a value of a recipe with text such as 2e-5 as a number, also within mappings and lists.

    YAML 1.1 reads 2.0e-5 as a number, but 2e-5 as text.
    """
    if isinstance(value, dict):
        return {key: with_exponents(one) for key, one in value.items()}
    if isinstance(value, list):
        return [with_exponents(one) for one in value]
    is_number = isinstance(value, str) and re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+", value)
    return float(value) if is_number else value


class _TwiceError(Exception):
    """A mapping has the same key twice."""


_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")


class _Loader(yaml.SafeLoader):
    """`yaml.SafeLoader`, but refuses duplicate keys instead of silently keeping the last.

    The layers 3:6 are a word for it, and 010 is not 8: YAML 1.1 has numbers of base 60 and base 8.
    """

    yaml_implicit_resolvers = {
        first: [
            (tag, re.compile(rf"(?!.*:|[-+]?0\d){pattern.pattern}", re.X) if tag in _NUMBERS else pattern)
            for tag, pattern in resolvers
        ]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.Node, deep: bool = False) -> dict:
        pairs = node.value if isinstance(node, yaml.MappingNode) else ()  # for other nodes, the super class raises
        keys = [key.value for key, _ in pairs if isinstance(key, yaml.ScalarNode)]
        for key in keys:
            if keys.count(key) > 1:
                raise _TwiceError(key)
        return super().construct_mapping(node, deep)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            value = super().construct_object(node, deep)
        except (LookupError, AttributeError):  # PyYAML's errors for a wrong tag, such as `!!bool maybe`
            message = f"{node.value!r} is not of type {node.tag.rpartition(':')[2]}"
            raise yaml.constructor.ConstructorError(None, None, message, node.start_mark) from None
        if isinstance(value, int):
            str(value)  # ValueError: it has more digits than Python writes
        return value
