"""Distills a classifier of texts: `ckd-trainer glue` and run_glue_ckd.py, which shows examples."""

from ckd_trainer.commands.options import option_types
from ckd_trainer.data.glue_arguments import GlueArguments
from ckd_trainer.runs.recipe import parse_recipe
from ckd_trainer.tasks.texts import run_text_classification
from ckd_trainer.utils.errors import command_line


@command_line
def main(argv: list[str]) -> dict[str, float]:
    kinds = option_types(GlueArguments, argv)
    return run_text_classification(*parse_recipe(kinds, argv, prog="ckd-trainer glue"))
