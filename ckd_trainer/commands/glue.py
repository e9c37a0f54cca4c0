"""Distills a classifier of texts: `ckd-trainer glue` and run_glue_ckd.py, which shows examples."""

from transformers import TrainingArguments

from ckd_trainer.arguments import CKDArguments, ModelArguments, RunArguments
from ckd_trainer.data.glue_arguments import GlueArguments
from ckd_trainer.methods import METHODS
from ckd_trainer.runs.recipe import parse_recipe
from ckd_trainer.tasks.text_classification import run_text_classification
from ckd_trainer.utils.errors import command_line


@command_line
def main(argv: list[str]) -> dict[str, float]:
    kinds = (ModelArguments, GlueArguments, RunArguments, TrainingArguments, CKDArguments, *METHODS)
    return run_text_classification(*parse_recipe(kinds, argv, prog="ckd-trainer glue"))
