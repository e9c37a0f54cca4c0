"""The dataclasses whose fields are the options of a command that distills."""

import dataclasses

from transformers import TrainingArguments

from ckd_trainer.arguments import CKDArguments, ModelArguments, RunArguments
from ckd_trainer.data.arguments import DataArguments
from ckd_trainer.methods import METHODS
from ckd_trainer.methods.own_file import methods_of_file
from ckd_trainer.runs.recipe import value_of


def option_types(
    data_arguments: type[DataArguments],
    argv: list[str],
    ckd_arguments: type[CKDArguments] = CKDArguments,
    *more: type,
) -> tuple[type, ...]:
    """Returns the dataclasses for `parse_recipe`: ours, and those of the method_file that the words name.

    Args:
        more: further dataclasses of the command.
    """
    kinds = (ModelArguments, data_arguments, RunArguments, TrainingArguments, ckd_arguments, *METHODS, *more)
    path = value_of("method_file", argv)
    if path is None:
        return kinds
    return kinds + methods_of_file(path, taken={option.name for kind in kinds for option in dataclasses.fields(kind)})
