"""Compares methods over several seeds, under equal conditions: `ckd-trainer compare`.

    ckd-trainer compare recipes/glue_mrpc_ckd.yaml --methods fine_tuned logits ckd pkd --seeds 1 2 3 \\
        --output runs/compare_mrpc

Trains every method with every seed, with the options of one recipe, and writes to the output folder:

- compare.json, compare.md and compare.png: scores, differences to the baseline with intervals, and costs
- recipes/: the recipe of each method, for `ckd-trainer glue` or `squad`
- runs/: the output folder and the log of each run
- teacher_cache/: the teacher's outputs, which all runs share that can be trained from them

The same command resumes an interrupted comparison, and more methods or seeds can be added to a finished one.
"""

import argparse
import importlib.util
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
import yaml

from ckd_trainer.commands.options import option_types
from ckd_trainer.comparison.picture import draw_comparison
from ckd_trainer.comparison.plan import checked, metric_of, order_of, shared_options
from ckd_trainer.comparison.results import as_json, as_table, notes, read_comparison
from ckd_trainer.comparison.schedule import Run, run_all
from ckd_trainer.comparison.variants import Variant, check_free, variants_of
from ckd_trainer.data.glue_arguments import GlueArguments
from ckd_trainer.data.squad_arguments import SquadArguments
from ckd_trainer.data.squad_tasks import SQUAD_TASKS
from ckd_trainer.runs.lock import run_lock
from ckd_trainer.runs.recipe import mapping_of, parse_mapping
from ckd_trainer.runs.recipe_file import read_recipe
from ckd_trainer.tasks.question_answering import QuestionAnswering
from ckd_trainer.tasks.text_classification import TextClassification
from ckd_trainer.utils.errors import ArgumentParser, InputError, command_line, first_of
from ckd_trainer.utils.files import expanded, write_atomically


@command_line
def main(argv: list[str]) -> None:
    options, words = _parse(argv)
    given = mapping_of(words)
    check_free(given, "the command line")
    recipe = read_recipe(options.recipe) | given
    is_squad = recipe.get("task_name") in SQUAD_TASKS
    kinds = option_types(SquadArguments if is_squad else GlueArguments, [options.recipe, *words])
    groups = parse_mapping(kinds, recipe, [], source=options.recipe)
    output, metric = Path(options.output), metric_of(options.metric, groups)
    recipe = shared_options(recipe, groups, output)
    variants = variants_of(options.methods, options.students, recipe, groups)
    baseline = _baseline(options.baseline, variants)
    model_class = (QuestionAnswering if is_squad else TextClassification).model_class

    def parsed(variant: Variant) -> tuple:
        return parse_mapping(kinds, variant.recipe, [], source=f"{options.recipe} ({variant.name})")

    variants = [checked(variant, parsed(variant), model_class) for variant in variants]
    with run_lock(str(output)):
        _write_recipes(variants, output)
        command = "squad" if is_squad else "glue"
        runs = [_run(variant, seed, command, output) for seed in options.seeds for variant in order_of(variants)]
        failed = run_all(runs, jobs=options.jobs, devices=_devices(), report=lambda line: print(line, flush=True))
        comparison = read_comparison(variants, runs, metric=metric, baseline=baseline, failed=failed)
        table = "\n".join([as_table(comparison), "", *notes(comparison)])
        write_atomically(output / "compare.json", json.dumps(as_json(comparison), indent=2) + "\n")
        write_atomically(output / "compare.md", table + "\n")
        has_plots = importlib.util.find_spec("matplotlib") is not None
        if has_plots:
            draw_comparison(comparison, output / "compare.png")
    print(f"\n{table}\n")
    print(f"Written to {output}: compare.json, compare.md" + (", compare.png" if has_plots else ""))
    if not has_plots:
        print("For a picture, run pip install 'ckd-trainer[plots]' and this command again.")
    if failed:
        print(f"{len(failed)} runs failed. The same command tries them again:", file=sys.stderr)
        for run in failed:
            print(f"  {run}: {comparison.failed[str(run)]} (log: {run.log})", file=sys.stderr)
        raise SystemExit(1)


def _parse(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """Returns the options of this command, and the words that are options of the runs."""
    parser = ArgumentParser(
        prog="ckd-trainer compare",
        description="Trains several methods with several seeds under equal conditions, and shows which differences "
        "are real. Other options, such as --learning_rate 3e-5, are passed on to every run.",
        allow_abbrev=False,
    )
    parser.add_argument("recipe", help="recipe of ckd-trainer glue or squad, which all runs share; the first argument")
    parser.add_argument(
        "--methods",
        nargs="+",
        required=True,
        help="fine_tuned (labels alone), logits, ckd, pkd, distilbert, tinybert, minilm, minilmv2, gram, or the name "
        "of your own method (with --method_file); or a YAML file with lines such as `warm: {method: ckd, temperature: "
        "6}`. Methods for which the recipe has no weights share the gradient that CKD's terms have by default.",
    )
    parser.add_argument("--seeds", nargs="+", type=_seed, default=[1, 2, 3], help="seeds of the runs (default: 1 2 3)")
    parser.add_argument("--students", nargs="+", default=[], help="students as LAYERSxWIDTH, such as 3x384 6x384")
    parser.add_argument("--baseline", help="the method that others are compared with (default: the first)")
    parser.add_argument("--metric", help="score to compare (default: the one that picks the task's best checkpoint)")
    parser.add_argument("--jobs", type=_count, default=1, help="runs at a time, each on one GPU or its share of cores")
    parser.add_argument("--output", required=True, type=expanded, help="folder for the runs and the result")
    if not argv or (argv[0].startswith("-") and argv[0] not in ("-h", "--help")):
        raise InputError("give the recipe first: ckd-trainer compare recipes/glue_mrpc_ckd.yaml --methods ...")
    options, words = parser.parse_known_args(argv)
    for seed in options.seeds:
        if options.seeds.count(seed) > 1:
            raise InputError(f"seed {seed} is given twice: give each seed once.")
    return options, words


def _seed(word: str) -> int:
    return _number(word, 0)


def _count(word: str) -> int:
    return _number(word, 1)


def _number(word: str, least: int) -> int:
    if not word.isdecimal() or int(word) < least:
        raise argparse.ArgumentTypeError(f"{word!r} is not a whole number from {least} on")
    return int(word)


def _baseline(name: str | None, variants: Sequence[Variant]) -> str:
    methods = list(dict.fromkeys(variant.method for variant in variants))
    if len(methods) < 2:
        raise InputError(f"only {methods[0]} is given, so there is nothing to compare: give at least two methods.")
    if name not in (None, *methods):
        raise InputError(f"baseline is {name}, which is not one of the methods: give {' or '.join(methods)}.")
    return name or methods[0]


def _write_recipes(variants: Sequence[Variant], output: Path) -> None:
    """Writes the recipe of each variant; raises InputError if another comparison has written others there."""
    for variant in variants:
        path, text = _recipe_of(variant, output), yaml.safe_dump(variant.recipe, sort_keys=False, allow_unicode=True)
        before = read_recipe(path) if path.is_file() else variant.recipe
        changed = [
            name for name in before | variant.recipe if before.get(name, path) != variant.recipe.get(name, path)
        ]
        if changed:
            raise InputError(
                f"{path} has other options for {variant.name} ({first_of(changed)}), from an earlier comparison: give "
                "another --output."
            )
        write_atomically(path, text)


def _recipe_of(variant: Variant, output: Path) -> Path:
    return output / "recipes" / f"{variant.place}.yaml"


def _run(variant: Variant, seed: int, command: str, output: Path) -> Run:
    folder = output / "runs" / variant.place / f"seed_{seed}"
    words = (command, str(_recipe_of(variant, output)), "--seed", str(seed), "--output_dir", str(folder))
    return Run(variant.name, seed, folder, (sys.executable, "-m", "ckd_trainer", *words))


def _devices() -> list[str]:
    """Returns the GPUs that the runs may use, as CUDA_VISIBLE_DEVICES names them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",") if visible else [str(number) for number in range(torch.cuda.device_count())]
    return names[: torch.cuda.device_count()]


if __name__ == "__main__":
    main()
