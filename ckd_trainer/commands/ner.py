"""Distills a model that finds named entities: `ckd-trainer ner` and run_ner_ckd.py, which shows examples."""

from ckd_trainer.commands.options import option_types
from ckd_trainer.data.ner_arguments import NerArguments
from ckd_trainer.runs.recipe import parse_recipe
from ckd_trainer.tasks.token_classification import run_token_classification
from ckd_trainer.utils.errors import command_line


@command_line
def main(argv: list[str]) -> dict[str, float]:
    kinds = option_types(NerArguments, argv)
    return run_token_classification(*parse_recipe(kinds, argv, prog="ckd-trainer ner"))
