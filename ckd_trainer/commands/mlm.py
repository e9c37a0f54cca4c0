"""Distills a language model on running text: `ckd-trainer mlm` and run_mlm_ckd.py, which shows examples."""

from ckd_trainer.arguments import LanguageModelCKDArguments
from ckd_trainer.commands.options import option_types
from ckd_trainer.data.text_arguments import TextArguments
from ckd_trainer.models.subnetworks import DynamicArguments
from ckd_trainer.runs.recipe import parse_recipe
from ckd_trainer.tasks.masked_lm import run_masked_lm
from ckd_trainer.utils.errors import command_line


@command_line
def main(argv: list[str]) -> dict[str, float]:
    kinds = option_types(TextArguments, argv, (LanguageModelCKDArguments, DynamicArguments))
    return run_masked_lm(*parse_recipe(kinds, argv, prog="ckd-trainer mlm"))
