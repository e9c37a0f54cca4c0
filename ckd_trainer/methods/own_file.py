"""Reads a user's own method from a Python file, for the scripts."""

import dataclasses
import sys
import types
from collections.abc import Collection
from importlib.machinery import SourceFileLoader
from pathlib import Path

from ckd_trainer.methods.base import MethodArguments
from ckd_trainer.utils.errors import InputError, first_of
from ckd_trainer.utils.files import user_path

_MODULE = "ckd_trainer_method_file"  # under this name, dataclasses find the types of their fields


def methods_of_file(path: str | Path, taken: Collection[str] = ()) -> tuple[type[MethodArguments], ...]:
    """Executes a Python file and returns the subclasses of `MethodArguments` that it defines.

    Args:
        path: the file.
        taken: names of options that the script already has.

    Raises:
        InputError: there is no such file, it defines no method, or an option has a name that is taken. What the file
            itself raises is passed on.
    """
    file = user_path(path)
    if not file.exists():
        raise InputError(f"method_file is {path}, which does not exist: give an existing file.")
    if not file.is_file() or file.suffix != ".py":
        raise InputError(f"method_file is {path}, which is not a Python file: give one that ends in .py.")
    sys.modules[_MODULE] = module = types.ModuleType(_MODULE)
    SourceFileLoader(_MODULE, str(file)).exec_module(module)
    found = [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, MethodArguments) and value.__module__ == _MODULE
    ]
    if not found:
        raise InputError(
            f"method_file {path} defines no method: derive a dataclass from ckd_trainer.methods.MethodArguments."
        )
    names = [option.name for method in found for option in dataclasses.fields(method)]
    twice = [name for name in names if name in taken or names.count(name) > 1]
    if twice:
        raise InputError(f"method_file {path} defines options that exist already ({first_of(twice)}): rename them.")
    return tuple(found)
