"""Fine-tunes a pre-trained encoder: `ckd-trainer teacher` and run_teacher.py, which shows examples."""

from collections.abc import Callable

from transformers import TrainingArguments

from ckd_trainer.arguments import ModelArguments, RunArguments
from ckd_trainer.data.glue_arguments import GlueArguments
from ckd_trainer.data.squad_arguments import SquadArguments
from ckd_trainer.data.squad_tasks import SQUAD_TASKS
from ckd_trainer.runs.recipe import parse_recipe, value_of
from ckd_trainer.tasks.question_answering import run_question_answering
from ckd_trainer.tasks.text_classification import run_text_classification
from ckd_trainer.utils.errors import command_line


@command_line
def main(argv: list[str]) -> dict[str, float]:
    run_task: Callable[..., dict[str, float]]
    data_arguments: type
    if value_of("task_name", argv) in SQUAD_TASKS:
        run_task, data_arguments = run_question_answering, SquadArguments
    else:
        run_task, data_arguments = run_text_classification, GlueArguments
    kinds = (ModelArguments, data_arguments, RunArguments, TrainingArguments)
    return run_task(*parse_recipe(kinds, argv, prog="ckd-trainer teacher"))
