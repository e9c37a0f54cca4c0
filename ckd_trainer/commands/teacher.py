"""Fine-tunes a pre-trained encoder: `ckd-trainer teacher` and run_teacher.py, which shows examples."""

import dataclasses
from collections.abc import Callable

from transformers import TrainingArguments

from ckd_trainer.arguments import CKDArguments, ModelArguments, RunArguments
from ckd_trainer.commands.options import kind_of
from ckd_trainer.methods import METHODS
from ckd_trainer.models.subnetworks import DynamicArguments
from ckd_trainer.runs.recipe import one_of, parse_recipe, value_of
from ckd_trainer.tasks.question_answering import run_question_answering
from ckd_trainer.tasks.texts import run_text_classification
from ckd_trainer.tasks.token_classification import run_token_classification
from ckd_trainer.utils.errors import InputError, command_line

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
    advice = f"a teacher is fine-tuned, not distilled. To distill a student, use ckd-trainer {command}."
    of_loss = [
        option.name for kind in (CKDArguments, DynamicArguments, *METHODS) for option in dataclasses.fields(kind)
    ]
    arguments = parse_recipe(kinds, argv, prog="ckd-trainer teacher", elsewhere=dict.fromkeys(of_loss, advice))
    model_args = one_of(ModelArguments, arguments)
    if model_args.teacher_model_name_or_path and not model_args.student_is_from_teacher:
        raise InputError(
            f"teacher_model_name_or_path is {model_args.teacher_model_name_or_path}, but {advice} To fine-tune a "
            "teacher, leave it out."
        )
    return run_task(*arguments)
