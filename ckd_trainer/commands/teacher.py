"""Fine-tunes a pre-trained encoder: `ckd-trainer teacher` and run_teacher.py, which shows examples."""

from collections.abc import Callable

from transformers import TrainingArguments

from ckd_trainer.arguments import ModelArguments, RunArguments
from ckd_trainer.commands.options import kind_of
from ckd_trainer.runs.recipe import parse_recipe, value_of
from ckd_trainer.tasks.question_answering import run_question_answering
from ckd_trainer.tasks.texts import run_text_classification
from ckd_trainer.tasks.token_classification import run_token_classification
from ckd_trainer.utils.errors import command_line

_RUN: dict[str, Callable[..., dict[str, float]]] = {  # by the command that distills
    "glue": run_text_classification,
    "ner": run_token_classification,
    "squad": run_question_answering,
}


@command_line
def main(argv: list[str]) -> dict[str, float]:
    command, data_arguments, _ = kind_of({"task_name": value_of("task_name", argv)})
    run_task = _RUN[command]
    kinds = (ModelArguments, data_arguments, RunArguments, TrainingArguments)
    return run_task(*parse_recipe(kinds, argv, prog="ckd-trainer teacher"))
