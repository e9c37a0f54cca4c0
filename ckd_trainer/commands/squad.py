"""Distills a model that answers questions: `ckd-trainer squad` and run_squad_ckd.py, which shows examples."""

from ckd_trainer.commands.options import option_types
from ckd_trainer.data.squad_arguments import SquadArguments
from ckd_trainer.runs.recipe import parse_recipe
from ckd_trainer.tasks.question_answering import run_question_answering
from ckd_trainer.utils.errors import command_line


@command_line
def main(argv: list[str]) -> dict[str, float]:
    kinds = option_types(SquadArguments, argv)
    return run_question_answering(*parse_recipe(kinds, argv, prog="ckd-trainer squad"))
