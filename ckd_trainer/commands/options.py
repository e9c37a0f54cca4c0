"""What a recipe is for, and the dataclasses whose fields are the options of a command that distills."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from transformers import TrainingArguments

from ckd_trainer.arguments import CKDArguments, ModelArguments, RunArguments
from ckd_trainer.data.arguments import DataArguments
from ckd_trainer.data.glue_arguments import GlueArguments
from ckd_trainer.data.ner_arguments import NER, NerArguments
from ckd_trainer.data.squad_arguments import SquadArguments
from ckd_trainer.data.squad_tasks import SQUAD_TASKS
from ckd_trainer.data.text_arguments import TextArguments
from ckd_trainer.methods import METHODS
from ckd_trainer.methods.own_file import methods_of_file
from ckd_trainer.models.subnetworks import DynamicArguments
from ckd_trainer.runs.recipe import value_of
from ckd_trainer.tasks.base import Task
from ckd_trainer.tasks.question_answering import QuestionAnswering
from ckd_trainer.tasks.texts import text_task
from ckd_trainer.tasks.token_classification import TokenClassification

# A command, its data options, and what makes its task of these and a seed.
Kind = tuple[str, type[DataArguments], Callable[..., Task]]

_CLASSIFICATION: Kind = ("glue", GlueArguments, text_task)
# By task_name; all other names are those of classification.
_TASKS: dict[str, Kind] = dict.fromkeys(SQUAD_TASKS, ("squad", SquadArguments, QuestionAnswering)) | {
    NER: ("ner", NerArguments, TokenClassification)
}
_OF_TEXT = {option.name for option in dataclasses.fields(TextArguments)} - {
    option.name for kind in (GlueArguments, NerArguments, SquadArguments) for option in dataclasses.fields(kind)
}


def language_model_options(recipe: Mapping[str, Any]) -> list[str]:
    """Returns the options of `ckd-trainer mlm` alone that a recipe sets; a recipe for a task has none."""
    return [name for name in recipe if name in _OF_TEXT]


def kind_of(recipe: Mapping[str, Any]) -> Kind:
    """Returns the command of a recipe for a task, its data options, and what makes its task."""
    return _TASKS.get(str(recipe.get("task_name")), _CLASSIFICATION)


def option_types(
    data_arguments: type[DataArguments],
    argv: list[str],
    loss: Sequence[type] = (CKDArguments, DynamicArguments),
) -> tuple[type, ...]:
    """Returns the dataclasses for `parse_recipe`: ours, and those of the method_file that the words name.

    Args:
        loss: those of the loss and of the student that it trains, beside the methods.
    """
    kinds = (ModelArguments, data_arguments, RunArguments, TrainingArguments, *loss, *METHODS)
    path = value_of("method_file", argv)
    if path is None:
        return kinds
    return kinds + methods_of_file(path, taken={option.name for kind in kinds for option in dataclasses.fields(kind)})
