"""Compares methods over several seeds, under equal conditions: `ckd-trainer compare`.

    ckd-trainer compare recipes/glue_mrpc_ckd.yaml --methods fine_tuned logits ckd pkd --seeds 1 2 3 \\
        --output runs/compare_mrpc

Trains every method with every seed, with the options of one recipe, and writes to the output folder:

- compare.json, compare.md and compare.png: scores, differences to the baseline with intervals, and costs
- recipes/: the recipe of each method, for `ckd-trainer glue` or `squad`
- runs/: the output folder and the log of each run
- teacher_cache/: the teacher's outputs, computed once for all runs that can be trained from them

The same command resumes an interrupted comparison, and more methods or seeds can be added to a finished one.
"""

import argparse
import dataclasses
import functools
import importlib.util
import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from transformers import TrainingArguments

from ckd_trainer.arguments import CKDArguments
from ckd_trainer.commands.options import option_types
from ckd_trainer.comparison.formats import as_json, as_table
from ckd_trainer.comparison.picture import draw_comparison
from ckd_trainer.comparison.plan import Checked, cache_fillers, check_same_steps, checked, metric_of, shared_options
from ckd_trainer.comparison.results import Comparison, check_same_inputs, read_comparison
from ckd_trainer.comparison.schedule import Run, run_all
from ckd_trainer.comparison.variants import Options, Variant, check_free, variants_of, weights_by_method
from ckd_trainer.data.arguments import DataArguments
from ckd_trainer.data.glue_arguments import GlueArguments
from ckd_trainer.data.squad_arguments import SquadArguments
from ckd_trainer.data.squad_tasks import SQUAD_TASKS
from ckd_trainer.data.unlabeled import check_unlabeled
from ckd_trainer.methods import METHODS
from ckd_trainer.runs.lock import run_lock
from ckd_trainer.runs.recipe import mapping_of, one_of, parse_mapping
from ckd_trainer.runs.recipe_file import read_recipe
from ckd_trainer.tasks.base import Task
from ckd_trainer.tasks.question_answering import QuestionAnswering
from ckd_trainer.tasks.text_classification import TextClassification
from ckd_trainer.utils.errors import ArgumentParser, InputError, command_line, first_of
from ckd_trainer.utils.files import expanded, write_atomically

# By whether the recipe answers questions: the command, its data options and its task.
_TASKS: dict[bool, tuple[str, type[DataArguments], type[Any]]] = {
    False: ("glue", GlueArguments, TextClassification),
    True: ("squad", SquadArguments, QuestionAnswering),
}


@command_line
def main(argv: list[str]) -> None:
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError("compare starts its runs itself: start it without accelerate launch or torchrun.")
    options, words = _parse(argv)
    given = mapping_of(words)
    check_free(given, "the command line")
    recipe = read_recipe(options.recipe) | given
    command, data_arguments, task = _TASKS[recipe.get("task_name") in SQUAD_TASKS]
    kinds = option_types(data_arguments, [options.recipe, *words])
    groups = parse_mapping(kinds, recipe, [], source=options.recipe)
    output, metric = Path(options.output), metric_of(options.metric, groups)
    recipe = shared_options(recipe, groups, output)
    variants = variants_of(options.methods, options.students, recipe, groups)

    def check(variant: Variant, source: str) -> tuple[Task, Checked]:
        part = parse_mapping(kinds, variant.recipe, [], source=source)
        its_task = task(one_of(DataArguments, part), seed=0)
        return its_task, checked(variant, part, its_task)

    tasks, plan = zip(*(check(variant, f"{options.recipe} ({variant.name})") for variant in variants), strict=True)
    setup = _Setup(command, output, metric, _devices(groups), options.jobs, [one.variant for one in plan], tasks)
    if options.search:
        _search(setup, options, one_of(TrainingArguments, groups).seed, check)
    else:
        check_same_steps(plan, one_of(TrainingArguments, groups))
        _compare(setup, options, cache_fillers(plan))


@dataclasses.dataclass(frozen=True)
class _Setup:
    """What a comparison and a search need, checked."""

    command: str
    output: Path
    metric: str
    devices: list[str]
    jobs: int
    variants: list[Variant]
    tasks: Sequence[Task]

    def run_of(self, variant: Variant, seed: int, leaves: Sequence[str] = Run.leaves) -> Run:
        folder = self.output / "runs" / variant.place / f"seed_{seed}"
        recipe = str(_recipe_of(variant, self.output))
        words = (self.command, recipe, "--seed", str(seed), "--output_dir", str(folder))
        return Run(variant.name, seed, folder, (sys.executable, "-m", "ckd_trainer", *words), tuple(leaves))

    def run_all(self, runs: Iterable[Run], *, jobs: int | None = None, **hooks: Any) -> dict[Run, str]:
        report = functools.partial(print, flush=True)
        return run_all(runs, jobs=jobs or self.jobs, devices=self.devices, report=report, **hooks)


def _compare(setup: _Setup, options: argparse.Namespace, fillers: Sequence[Variant]) -> None:
    variants, output = setup.variants, setup.output
    baseline = _baseline(options.baseline, variants)
    seeds = options.seeds or [1, 2, 3]
    runs = [setup.run_of(variant, seed) for seed in seeds for variant in variants]
    todo = [run for run in runs if not run.is_finished]
    if todo:
        _check_data(setup.tasks)
    with run_lock(str(output)):
        _write_recipes([*fillers, *variants], output)
        check_same_inputs(runs)
        if todo:
            setup.run_all([setup.run_of(one, seeds[0], ["train_results.json"]) for one in fillers], jobs=1)
        if len(todo) < len(runs):
            print(f"{len(runs) - len(todo)} of {len(runs)} runs had already finished.")
        failed = setup.run_all(todo, finished=lambda run: check_same_inputs(runs))
        comparison = read_comparison(variants, runs, metric=setup.metric, baseline=baseline, failed=failed)
        _write_results(comparison, _others(variants, output), output)
    _exit_if(failed, len(runs))


def _search(setup: _Setup, options: argparse.Namespace, seed: int, check: Callable[[Variant, str], Any]) -> None:
    if importlib.util.find_spec("optuna") is None:
        raise InputError("search needs optuna: pip install 'ckd-trainer[search]'.")
    from ckd_trainer.comparison import search as searching  # which imports optuna

    if len(setup.variants) > 1:
        names = first_of([variant.name for variant in setup.variants])
        raise InputError(f"search improves one method of one student, but {names} are given: give one of them.")
    base, output = setup.variants[0], setup.output
    seed = options.seeds[0] if options.seeds else seed
    ranges = searching.read_ranges(
        options.ranges, base.recipe, lambda recipe, source: check(Variant(source, None, recipe), source)
    )
    runs: list[Run] = []

    def run_of(number: int, drawn: Options) -> Run:
        variant = Variant(f"trial_{number}", None, base.recipe | searching.EVALUATIONS | drawn)
        _write_recipes([variant], output)
        runs.append(setup.run_of(variant, seed))
        return runs[-1]

    def finished(run: Run) -> None:
        check_same_inputs(runs)
        search.finished(run)

    _check_data(setup.tasks)
    with run_lock(str(output)):
        search = searching.Search(
            output,
            ranges,
            count=options.search,
            seed=seed,
            metric=setup.metric,
            run_of=run_of,
            recipe=base.recipe,
        )
        failed = setup.run_all(search, stop=search.stop, finished=finished)
        search.tidy_up()
        searching.write_results(search.trials, setup.metric, base.recipe | {"seed": seed}, output)
    _exit_if(failed, options.search)


def _exit_if(failed: Mapping[Run, str], of: int) -> None:
    if failed:
        print(f"Failed: {len(failed)} of {of} runs. Run the same command to retry:", file=sys.stderr)
        for run, reason in failed.items():
            print(f"  {run}: {reason} (log: {run.log})", file=sys.stderr)
        raise SystemExit(1)


def _check_data(tasks: Sequence[Task]) -> None:
    """Reads the local data of all variants once, so that a mistake in it is told before the first run starts."""
    read: list[DataArguments] = []
    for task in tasks:
        if task.args not in read:
            read.append(task.args)
            if task.hub_dataset is None:
                task.load(("train", "validation"))
            if task.args.has_unlabeled:
                check_unlabeled(task.args, task.unlabeled_columns)


def _write_results(comparison: Comparison, notes: Sequence[str], output: Path) -> None:
    """Writes and prints the table; writes the numbers, and the picture if matplotlib is there."""
    table = "\n".join([as_table(comparison), "", *comparison.notes, *notes])
    write_atomically(output / "compare.json", json.dumps(as_json(comparison), indent=2, allow_nan=False) + "\n")
    write_atomically(output / "compare.md", table + "\n")
    print(f"\n{table}\n")
    if importlib.util.find_spec("matplotlib") is None:
        print(f"Written to {output}: compare.json, compare.md")
        print("For a picture, run pip install 'ckd-trainer[plots]' and this command again.")
    else:
        draw_comparison(comparison, output / "compare.png")
        print(f"Written to {output}: compare.json, compare.md, compare.png")


def _parse(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """Returns the options of this command, and the words that are options of the runs."""
    known = weights_by_method([CKDArguments(), *(method() for method in METHODS)])
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
        help=f"fine_tuned (labels alone), logits, {', '.join(known)}, or the name of your own method (with "
        "--method_file); or a YAML file with lines such as `warm: {method: ckd, temperature: 6}`. Methods for which "
        "the recipe has no weights share the gradient that CKD's terms have by default.",
    )
    parser.add_argument("--seeds", nargs="+", type=_seed, help="seeds of the runs (default: 1 2 3)")
    parser.add_argument("--students", nargs="+", default=[], help="students as LAYERSxWIDTH, such as 3x384 6x384")
    parser.add_argument("--baseline", help="the method that others are compared with (default: the first)")
    parser.add_argument("--metric", help="score to compare (default: the one that picks the task's best checkpoint)")
    parser.add_argument(
        "--search",
        type=_count,
        metavar="N",
        help="search for better options of one method instead: train N draws with one seed (default: the recipe's), "
        "and stop the worse half early, twice",
    )
    parser.add_argument("--ranges", help="YAML file of what --search varies, such as recipes/search.yaml")
    parser.add_argument("--jobs", type=_count, default=1, help="runs at a time, each on one GPU or its share of cores")
    parser.add_argument("--output", required=True, type=expanded, help="folder for the runs and the result")
    if not argv or (argv[0].startswith("-") and argv[0] not in ("-h", "--help")):
        raise InputError("give the recipe first: ckd-trainer compare recipes/glue_mrpc_ckd.yaml --methods ...")
    options, words = parser.parse_known_args(argv)
    _check_search(options)
    for seed in options.seeds or []:
        if options.seeds.count(seed) > 1:
            raise InputError(f"seed {seed} is given twice: give each seed once.")
    return options, words


def _check_search(options: argparse.Namespace) -> None:
    """Raises InputError for options that do not go together."""
    if (options.search is None) != (options.ranges is None):
        raise InputError("search and ranges go together: --search 20 --ranges recipes/search.yaml.")
    if options.search is not None:
        if options.baseline is not None:
            raise InputError("baseline is given, but a search compares no methods: leave it out.")
        if len(options.seeds or []) > 1:
            raise InputError("a search trains with one seed: give one, and compare the best recipe with several.")


def _seed(word: str) -> int:
    return _number(word, 0)


def _count(word: str) -> int:
    return _number(word, 1)


def _number(word: str, least: int) -> int:
    if not word.isdecimal() or int(word) < least:
        raise argparse.ArgumentTypeError(f"{word!r} is not a whole number of at least {least}")
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
        path = _recipe_of(variant, output)
        before = read_recipe(path) if path.is_file() else variant.recipe
        names = before | variant.recipe
        changed = [name for name in names if _as_text(before, name) != _as_text(variant.recipe, name)]
        if changed:
            raise InputError(
                f"{path} has other options for {variant.name} ({first_of(changed)}), from an earlier comparison: give "
                "another --output."
            )
        write_atomically(path, yaml.safe_dump(variant.recipe, sort_keys=False, allow_unicode=True))


def _as_text(recipe: Mapping[str, Any], name: str) -> str:
    """Returns an option as words on a command line would give it; the cache may have moved with the folder."""
    return "" if name == "teacher_cache_dir" else str(recipe.get(name, "")).lower()


def _recipe_of(variant: Variant, output: Path) -> Path:
    return output / "recipes" / f"{variant.place}.yaml"


def _others(variants: Sequence[Variant], output: Path) -> list[str]:
    """Returns a line about variants of earlier comparisons in this folder that the table leaves out."""
    known = {_recipe_of(variant, output) for variant in variants}
    paths = sorted(path for path in (output / "recipes").rglob("[!_]*.yaml") if path not in known)
    names = ", ".join(str(path.relative_to(output / "recipes").with_suffix("")) for path in paths)
    return [f"{output} also holds {names}, which this table leaves out."] if names else []


def _devices(groups: Sequence[Any]) -> list[str]:
    """Returns the GPUs that the runs may use, as CUDA_VISIBLE_DEVICES names them."""
    if any(isinstance(group, TrainingArguments) and group.use_cpu for group in groups):
        return []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",") if visible else [str(number) for number in range(torch.cuda.device_count())]
    return names[: torch.cuda.device_count()]


if __name__ == "__main__":
    main()
