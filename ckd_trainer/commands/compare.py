"""Compares methods over several seeds, under equal conditions: `ckd-trainer compare`.

    ckd-trainer compare recipes/glue_mrpc_ckd.yaml --methods fine_tuned logits ckd pkd --seeds 1 2 3 \\
        --output runs/compare_mrpc

Trains every method with every seed, with the options of one recipe, and writes to the output folder:

- compare.json, compare.md and compare.png: scores, differences to the baseline with intervals, and costs
- recipes/: the recipe of each method, for `ckd-trainer glue`, `ner` or `squad`
- runs/: the output folder and the log of each run
- teacher_cache/: the teacher's outputs, computed once for all runs that can be trained from them

The same command resumes an interrupted comparison, and more methods or seeds can be added to a finished one.

With --search, it looks for better options of one method instead (docs/search.md) and writes search.json, search.md and
the best recipe, best.yaml.
"""

import argparse
import contextlib
import dataclasses
import importlib.util
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from transformers import TrainingArguments

from ckd_trainer.arguments import CKDArguments, RunArguments
from ckd_trainer.commands.options import kind_of, language_model_options, option_types
from ckd_trainer.comparison.formats import as_json, as_table
from ckd_trainer.comparison.picture import draw_comparison
from ckd_trainer.comparison.plan import (
    EVALUATIONS,
    Checked,
    cache_fillers,
    check_same_steps,
    checked,
    metric_of,
    shared_options,
)
from ckd_trainer.comparison.results import Comparison, check_same_examples, check_same_inputs, read_comparison
from ckd_trainer.comparison.schedule import Run
from ckd_trainer.comparison.setup import Setup, visible_devices
from ckd_trainer.comparison.variants import (
    FINE_TUNED,
    LOGITS,
    SET_BY_COMPARISON,
    Options,
    Variant,
    check_free,
    variants_of,
    weights_by_method,
)
from ckd_trainer.data.arguments import DataArguments
from ckd_trainer.methods import METHODS
from ckd_trainer.runs.lock import run_lock
from ckd_trainer.runs.recipe import mapping_of, one_of, parse_mapping
from ckd_trainer.runs.recipe_file import read_recipe
from ckd_trainer.utils.errors import ArgumentParser, InputError, command_line, first_of
from ckd_trainer.utils.files import delete, given_path, told_without_room, write_atomically

# What a search cannot vary, beside the data and what it sets itself.
_SAME_IN_TRIALS = (
    "push_to_hub",
    "hub_token",
    "stages",
    "teacher_cache_dir",
    "method_file",
    "data_seed",
    "save_only_model",
)
_DATA_OF_TRIALS = {"unlabeled_share", "unlabeled_min_confidence"}  # the options of the data that it can vary


@command_line
def main(argv: list[str]) -> None:
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError("compare starts its runs itself: start it without accelerate launch or torchrun.")
    options, words = _parse(argv)
    given = mapping_of(words)
    check_free(given, "the command line")
    if options.search:
        check_free(given, "the command line", EVALUATIONS, by="search")
    shared = read_recipe(options.recipe)
    recipe = shared | given
    if of_text := language_model_options(recipe):
        raise InputError(
            f"{of_text[0]} is an option of language models, which are compared by what they learn next: give a recipe "
            "for a task, as recipes/quickstart_mlm_task.yaml does."
        )
    command, data_arguments, task = kind_of(recipe)
    kinds = option_types(data_arguments, [options.recipe, *words])
    groups = parse_mapping(kinds, shared, words, source=options.recipe)
    if token := one_of(TrainingArguments, groups).hub_token:
        os.environ["HF_TOKEN"] = token  # of the checks here, and of the runs
    output, metric = Path(options.output), metric_of(options.metric, groups)
    recipe = shared_options(recipe, groups, output)
    variants = variants_of(options.methods, options.students, recipe, groups)

    def check(variant: Variant, source: str) -> _Parsed:
        parts = parse_mapping(kinds, variant.recipe, [], source=source)
        its_task = task(one_of(DataArguments, parts), seed=0)
        return _Parsed(parts, checked(variant, parts, its_task))

    parsed = [check(variant, f"{options.recipe} ({variant.name})") for variant in variants]
    plan = [one.checked for one in parsed]
    setup = Setup(
        command,
        output,
        metric,
        visible_devices(groups),
        options.jobs,
        one_of(TrainingArguments, groups).seed,
        plan,
    )
    if options.search:
        _search(setup, options, parsed[0].options, check)
    else:
        check_same_steps(plan, one_of(TrainingArguments, groups))
        _compare(setup, options, cache_fillers(plan))


class _Parsed(NamedTuple):
    """A variant's options, as instances of the dataclasses that define them, and what follows from them."""

    options: tuple
    checked: Checked


def _compare(setup: Setup, options: argparse.Namespace, fillers: Sequence[Checked]) -> None:
    variants, output = setup.variants, setup.output
    baseline = _baseline(options.baseline, variants)
    seeds = options.seeds or [1, 2, 3]
    runs = [setup.run_of(variant, seed) for seed in seeds for variant in variants]
    todo = [run for run in runs if not run.is_finished]
    examples = None
    if todo:
        setup.check_data()
        examples = setup.validation_examples()

    def check_same() -> None:
        check_same_inputs(runs)
        check_same_examples(runs, setup.metric, examples)

    with _writing(output):
        setup.write_recipes([*(filler.variant for filler in fillers), *variants])
        check_same()
        notes = _fill_caches(setup, fillers, seeds[0]) if todo else []
        if len(todo) < len(runs):
            print(f"{len(runs) - len(todo)} of {len(runs)} runs had already finished.")
        failed = setup.run_all(todo, finished=lambda run: check_same())
        comparison = read_comparison(variants, runs, metric=setup.metric, baseline=baseline, failed=failed)
        _write_results(comparison, [*notes, *_others(setup)], output)
    _exit_if(failed, len(runs))


def _fill_caches(setup: Setup, fillers: Sequence[Checked], seed: int) -> list[str]:
    """Runs what fills the teacher cache, unless it has and the cache is still there; returns notes on what failed."""
    runs = [setup.run_of(one.variant, seed, ["train_results.json"]) for one in fillers]
    for one, run in zip(fillers, runs, strict=True):
        if run.is_finished and not one.has_cache():
            delete(run.folder)
    return [
        f"The teacher's cache was not filled first, so training times may include that of the teacher ({reason}; log: "
        f"{run.log})."
        for run, reason in setup.run_all(runs, jobs=1).items()
    ]


def _search(
    setup: Setup, options: argparse.Namespace, groups: Sequence[Any], check: Callable[[Variant, str], _Parsed]
) -> None:
    from ckd_trainer.comparison.ranges import read_ranges  # both import optuna
    from ckd_trainer.comparison.search import Search, write_results
    from ckd_trainer.training.unlabeled import SHARE

    if len(setup.variants) > 1:
        names = first_of([variant.name for variant in setup.variants])
        raise InputError(f"search improves one method of one student, but {names} are given: give one of them.")
    (base,), output = setup.variants, setup.output
    if one_of(RunArguments, groups).stages:
        raise InputError("the recipe has stages, but a search cannot tell how far they are: leave them out.")
    if setup.metric.startswith("mismatched_"):
        raise InputError(f"metric is {setup.metric}, which is known only after training: give {setup.metric[11:]}.")

    def check_draw(drawn: Options, source: str = options.ranges) -> None:
        one = check(Variant(source, None, base.recipe | EVALUATIONS | drawn), source)
        cache = one_of(CKDArguments, one.options).teacher_cache_dir
        if cache is not None and one.checked.variant.recipe["teacher_cache_dir"] is None:
            raise InputError(
                f"{source} varies a method that compares what a teacher cache cannot hold: set teacher_cache_dir to "
                "null in the recipe (None on the command line), and the teacher runs in every step."
            )

    ranges = read_ranges(options.ranges, base.recipe, _not_varied(base, groups), check_draw)
    values = {field.name: getattr(group, field.name) for group in groups for field in dataclasses.fields(group)}
    if values.get("unlabeled_share") is None:  # a trial names the default
        values["unlabeled_share"] = SHARE
    seed = options.seeds[0] if options.seeds else setup.seed

    def run_of(number: int, drawn: Options) -> Run:
        variant = Variant(f"trial_{number}", None, base.recipe | EVALUATIONS | drawn)
        setup.write_recipes([variant])
        return setup.run_of(variant, seed)

    def finished(run: Run) -> None:
        check_same_inputs(list(search.runs))
        search.finished(run)
        write_results(search, base.recipe | {"seed": seed}, output)

    setup.check_data()
    with _writing(output):
        search = Search(
            output,
            ranges,
            count=options.search,
            seed=seed,
            metric=setup.metric,
            run_of=run_of,
            check=check_draw,
            shared={name: values[name] for name in base.recipe if name != "teacher_cache_dir"},
            start={name: values[name] for name in ranges},
        )
        check_same_inputs(list(search.runs))
        if not search.trials:
            outside = first_of([f"{name} {values[name]}" for name in search.outside])
            print(
                f"The recipe itself is not tried: {outside} out of range."
                if outside
                else "Trial 0 is the recipe itself."
            )
        failed = setup.run_all(
            search, stop=search.stop, finished=finished, refused=search.refused, unavailable=search.unavailable
        )
        search.tidy_up()
        print(f"\n{write_results(search, base.recipe | {'seed': seed}, output)}\n")
        if search.count < options.search:
            print(f"The search ended after {search.count} trials: no other options were found.")
        print(f"Written to {output}: search.json, search.md")
    _exit_if(failed, len(search.trials))


def _not_varied(base: Variant, groups: Sequence[Any]) -> dict[str, str]:
    """Returns the options that a search cannot vary, and why."""
    data = {field.name for field in dataclasses.fields(one_of(DataArguments, groups))} - _DATA_OF_TRIALS
    same = {*SET_BY_COMPARISON, *EVALUATIONS, *_SAME_IN_TRIALS, *data}
    weights = weights_by_method(groups)
    found = dict.fromkeys(same, "must be the same in all trials")
    if base.method in (FINE_TUNED, LOGITS, *weights):  # and not a variant of a file
        others = {name for method, names in weights.items() if method != base.method for name in names}
        if base.method == FINE_TUNED:
            others |= {"alpha", "temperature"}
        found |= dict.fromkeys(others, f"{base.method} does not use")
    return found


@contextlib.contextmanager
def _writing(output: Path) -> Iterator[None]:
    """Locks the output folder, and says so if it cannot be written."""
    with run_lock(str(output)), told_without_room(output, "output", "the last whole checkpoint of each run"):
        yield


def _exit_if(failed: Mapping[Run, str], of: int) -> None:
    if failed:
        print(f"Failed: {len(failed)} of {of} runs. Run the same command to retry:", file=sys.stderr)
        for run, reason in failed.items():
            print(f"  {run}: {reason} (log: {run.log})", file=sys.stderr)
        raise SystemExit(1)


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
        "are real; or searches for better options of one method. Other options, such as --learning_rate 3e-5, are "
        "passed on to every run.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "recipe", help="recipe of ckd-trainer glue, ner or squad, which all runs share; the first argument"
    )
    parser.add_argument(
        "--methods",
        nargs="+",
        required=True,
        help=f"fine_tuned (labels alone), logits, {', '.join(known)}, or the name of your own method (with "
        "--method_file); or a YAML file with lines such as `warm: {method: ckd, temperature: 6}`. Methods for which "
        "the recipe has no weights share the gradient that CKD's terms have in the recipe, or by default if its "
        "weights are factors.",
    )
    parser.add_argument("--seeds", nargs="+", type=_seed, help="seeds of the runs (default: 1 2 3)")
    parser.add_argument("--students", nargs="+", default=[], help="students as LAYERSxWIDTH, such as 3x384 6x384")
    parser.add_argument("--baseline", help="the method that others are compared with (default: the first)")
    parser.add_argument("--metric", help="score to compare (default: the one that picks the task's best checkpoint)")
    parser.add_argument(
        "--search",
        type=_count,
        metavar="N",
        help="search for better options of one method instead: train N students with drawn options and one seed (by "
        "default the recipe's), and stop the worse half after a quarter of its training, and again after half",
    )
    parser.add_argument("--ranges", help="YAML file of what --search varies, such as recipes/search.yaml")
    parser.add_argument("--jobs", type=_count, default=1, help="runs at a time, each on one GPU or its share of cores")
    parser.add_argument("--output", required=True, type=given_path, help="folder for the runs and the result")
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
        if importlib.util.find_spec("optuna") is None:
            raise InputError("search needs optuna: pip install 'ckd-trainer[search]'.")
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


def _others(setup: Setup) -> list[str]:
    """Returns a line about variants of earlier comparisons in this folder that the table leaves out."""
    known, output = {setup.recipe_of(variant) for variant in setup.variants}, setup.output
    paths = sorted(path for path in (output / "recipes").rglob("[!_]*.yaml") if path not in known)
    names = ", ".join(str(path.relative_to(output / "recipes").with_suffix("")) for path in paths)
    return [f"{output} also holds {names}, which this table leaves out."] if names else []


if __name__ == "__main__":
    main()
