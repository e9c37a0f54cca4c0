"""Makes new pairs of texts out of those of a task, for the teacher to answer: `ckd-trainer recombine`.

    ckd-trainer recombine --task_name stsb --output_file pairs.parquet
    ckd-trainer glue recipes/best/stsb.yaml --unlabeled_file pairs.parquet --max_steps 2000

See `ckd_trainer.data.recombination`.
"""

from dataclasses import dataclass
from itertools import islice

from tqdm.auto import tqdm

from ckd_trainer.arguments import option
from ckd_trainer.data.glue_arguments import GlueArguments
from ckd_trainer.data.recombination import recombined
from ckd_trainer.data.text_tasks import check_training_alone, text_columns_of, training_texts
from ckd_trainer.data.texts_file import check_output_file, texts_file
from ckd_trainer.runs.recipe import parse_recipe
from ckd_trainer.utils.errors import InputError, command_line
from ckd_trainer.utils.files import user_path

_TEXTS = 1024  # first texts whose pairs are written at a time


@dataclass
class RecombineArguments:
    """Which pairs are made."""

    output_file: str = option("", "The .parquet file to write, for --unlabeled_file.")
    neighbors: int = option(
        2, "The number of second texts for each first text: those that share the most words with it."
    )
    random_pairs: int = option(1, "The number of further second texts for each first text, drawn at random.")
    seed: int = option(42, "Seeds the random draws.")

    def __post_init__(self) -> None:
        for name in ("neighbors", "random_pairs", "seed"):
            if getattr(self, name) < 0:
                raise InputError(f"{name} is {getattr(self, name)}: give 0 or more.")
        if self.neighbors + self.random_pairs == 0:
            raise InputError("neighbors and random_pairs are both 0, so there are no pairs to make: set one of them.")
        check_output_file(self.output_file)


@command_line
def main(argv: list[str]) -> None:
    data_args, args = parse_recipe([GlueArguments, RecombineArguments], argv, prog="ckd-trainer recombine")
    check_training_alone(data_args, "paired")
    columns = list(text_columns_of(data_args).values())
    if len(columns) == 1:
        raise InputError(
            f"the examples have one text, {columns[0]}, but only pairs are recombined: give a task of pairs, or set "
            "text_pair_column."
        )
    rows = 0
    with texts_file(user_path(args.output_file), columns) as write:
        firsts, seconds = training_texts(data_args, seed=args.seed)
        found = recombined(firsts, seconds, neighbors=args.neighbors, random_pairs=args.random_pairs, seed=args.seed)
        shown = iter(tqdm(found, total=len(set(firsts)), unit=" texts", desc="Recombining"))
        while block := list(islice(shown, _TEXTS)):
            rows += write([pair for pairs in block for pair in pairs])
        if not rows:
            raise InputError("no new pair can be made of these texts: give more examples, or raise random_pairs.")
    print(f"{rows} new pairs out of {len(firsts)} written to {args.output_file}.")
