"""Finds the best student for a budget: `ckd-trainer search`.

    ckd-trainer search runs/dynamic --max_latency_ms 5
    ckd-trainer search runs/dynamic runs/ckd runs/fine_tuned --metric pearson --min_score 0.83 --output small

Lists every sub-network of dynamic students, and finished runs of other students, with score, size and latency, and
writes to the output folder, by default runs/dynamic-search:

- model/: the best student within the budget, as a plain model, if it is a sub-network; an ordinary student stays where
  it is, which search.json names
- search.json, search.md and search.png: the table, and scores against latency

Scores are those of the runs, which must have the same validation set. Latency is measured here, on the CPU, with texts
of that set.
"""

import argparse
import dataclasses
import importlib.util
import json
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ckd_trainer.commands.options import kind_of, language_model_options
from ckd_trainer.export.candidates import Budget, Candidate, frontier, measure, read_candidates, weigh
from ckd_trainer.export.subnetworks import export, load_dynamic, load_plain, plain_model
from ckd_trainer.export.validation_texts import batches, check_same_data
from ckd_trainer.metrics.names import less_is_better, without_subnetwork
from ckd_trainer.models.loading import load_config
from ckd_trainer.models.tokenizers import load_tokenizer
from ckd_trainer.reports.frontier import Point, draw_frontier
from ckd_trainer.reports.table import markdown_table
from ckd_trainer.runs.recipe import parse_mapping
from ckd_trainer.runs.recipe_file import read_recipe
from ckd_trainer.tasks.base import Task
from ckd_trainer.utils.errors import ArgumentParser, InputError, command_line
from ckd_trainer.utils.files import RECIPE, check_new, filling, given_path, write_atomically


@command_line
def main(argv: list[str]) -> None:
    options = _parse(argv)
    budget = Budget(options.max_latency_ms, options.max_parameters, options.max_size_mb, options.min_score)
    output = Path(options.output)
    check_new(output)
    tasks = {folder: _task_of(folder) for folder in map(Path, options.runs)}
    options.metric = _metric_of(options.metric, *next(iter(tasks.items())))
    check_same_data(tasks, options.metric.removeprefix("eval_"))
    candidates = read_candidates(options.runs, options.metric)
    budget.check(candidates)  # as early as possible: their scores, then their sizes, then their latencies
    inputs = {folder: _inputs(folder, task, options.batch_size) for folder, task in tasks.items()}
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    dynamic = {one.folder: load_dynamic(one.folder) for one in candidates if one.part is not None}
    models = [
        load_plain(one.folder) if one.part is None else plain_model(dynamic[one.folder], one.part)
        for one in candidates
    ]
    weigh(candidates, models)
    budget.check(candidates)
    measure(candidates, models, [inputs[one.folder] for one in candidates])
    print(f"\n{_table(candidates, options.metric)}\n")
    best = budget.best(candidates)
    with filling(output):
        if best.part is None:
            model = str(best.folder)
        else:
            model = str(output / "model")
            export(dynamic[best.folder], best.part, models[candidates.index(best)], output / "model")
        print(f"The best student within the budget is {best.name}, in {model}.")
        _write(candidates, best, options, model)


def _task_of(folder: Path) -> Task:
    """Returns the task of a run.

    Its data options alone are read: other options may need files or devices that are gone.

    Raises:
        InputError: the folder holds no run, or one of `ckd-trainer mlm`.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder: give the output_dir of a finished run.")
    load_config(str(folder))  # refuses adapters by name
    path = folder / RECIPE
    if not path.is_file():
        raise InputError(f"{folder} has no {RECIPE}: give the output_dir of a finished run of ckd-trainer.")
    recipe = read_recipe(path)
    if language_model_options(recipe):
        raise InputError(
            f"{folder} is a run of ckd-trainer mlm, whose model has no score on a task: fine-tune it with ckd-trainer "
            "glue, ner or squad, and give that run."
        )
    _, data_arguments, make_task = kind_of(recipe)
    names = [field.name for field in dataclasses.fields(data_arguments) if field.init and field.name in recipe]
    (arguments,) = parse_mapping((data_arguments,), {name: recipe[name] for name in names}, [], source=str(path))
    return make_task(arguments, seed=0)


def _metric_of(name: str | None, folder: Path, task: Task) -> str:
    """Returns the score to compare.

    By default it is the one that chose the best checkpoint of a run, but of each sub-network instead of their mean. If
    the loss did, or nothing, it is the task's usual one.

    Raises:
        InputError: less of it is better, or it is not that of a single student.
    """
    if name is None:
        score = _of_one_student(read_recipe(folder / RECIPE).get("metric_for_best_model") or "loss")
        return task.best_metric if score not in task.metrics or less_is_better(score) else score
    if less_is_better(name):
        raise InputError(f"metric is {name}, of which less is better: give a score of which more is better.")
    score = _of_one_student(name)
    if score in task.metrics and score != name.removeprefix("eval_"):
        raise InputError(f"metric is {name}, but each sub-network is listed with its own score: give {score}.")
    return name


def _of_one_student(name: str) -> str:
    """Returns the name of a score without a sub-network, and without the mark of a mean over sub-networks."""
    return without_subnetwork(name).removeprefix("eval_").removeprefix("mean_")


def _inputs(folder: Path, task: Task, size: int) -> list[dict[str, Tensor]]:
    """Returns batches of the validation set of a run; raises InputError, with its recipe, if it cannot be read."""
    try:
        task.load_texts()
    except InputError as error:
        raise type(error)(f"{folder / RECIPE}: {error}") from error
    return batches(task, load_tokenizer(str(folder)), size)


def _table(candidates: Sequence[Candidate], metric: str) -> str:
    ahead = frontier(candidates)
    rows = [["student", metric, "latency", "parameters", "size", ""]]
    rows += [
        [
            one.name,
            f"{one.score:.4f}",
            f"{one.latency_ms:.2f} ms",
            f"{one.parameters:,}",
            f"{one.size_mb:.1f} MB",
            "frontier" if one in ahead else "",
        ]
        for one in sorted(candidates, key=lambda one: one.latency_ms)
    ]
    return markdown_table(rows)


def _write(candidates: Sequence[Candidate], best: Candidate, options: argparse.Namespace, model: str) -> None:
    output, ahead = Path(options.output), frontier(candidates)
    content = {
        "metric": options.metric,
        "batch_size": options.batch_size,
        "threads": torch.get_num_threads(),
        "best": best.name,
        "model": model,
        "students": [
            {
                "name": one.name,
                "score": one.score,
                "latency_ms": one.latency_ms,
                "parameters": one.parameters,
                "size_mb": one.size_mb,
                "frontier": one in ahead,
            }
            for one in candidates
        ],
    }
    write_atomically(output / "search.json", json.dumps(content, indent=2) + "\n")
    write_atomically(output / "search.md", _table(candidates, options.metric) + "\n")
    if importlib.util.find_spec("matplotlib") is None:
        print(f"Written to {output}: search.json, search.md")
        print("For a picture, run pip install 'ckd-trainer[plots]' and this command again, with a new --output.")
        return
    points = {
        one.name: Point(
            one.name if one.part is None else str(one.part),
            "students of one size" if one.part is None else one.name.removesuffix(f" {one.part}"),
            one.latency_ms,
            one.score,
            one is best,
        )
        for one in candidates
    }
    draw_frontier(
        list(points.values()),
        [points[one.name] for one in ahead],
        options.metric,
        output / "search.png",
        batch_size=options.batch_size,
    )
    print(f"Written to {output}: search.json, search.md, search.png")


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = ArgumentParser(
        prog="ckd-trainer search",
        description="Finds the best of finished students for a budget. To vary options of the training, use "
        "ckd-trainer compare --search.",
    )
    parser.add_argument(
        "runs", nargs="+", metavar="RUN_DIR", type=given_path, help="output_dir of a finished run, dynamic or not"
    )
    parser.add_argument(
        "--metric",
        help="score to compare, such as accuracy (default: the one that chose the best checkpoint of the first run, "
        "or else the task's usual one)",
    )
    parser.add_argument("--max_latency_ms", type=float, help="the most milliseconds for a batch")
    parser.add_argument("--max_parameters", type=int, help="the most parameters")
    parser.add_argument("--max_size_mb", type=float, help="the largest size of the weights, in 10^6 bytes")
    parser.add_argument("--min_score", type=float, help="the lowest score; the fastest such student is the best")
    parser.add_argument("--batch_size", type=int, default=1, help="texts in a batch, for the latency (default: 1)")
    parser.add_argument("--threads", type=int, help="CPU threads, for the latency (default: as torch chooses)")
    parser.add_argument(
        "--output", type=given_path, help="a new folder for the result (default: RUN_DIR-search, beside the first run)"
    )
    options = parser.parse_args(argv)
    options.output = options.output or f"{_named(Path(options.runs[0]))}-search"
    for name in ("batch_size", "threads"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise InputError(f"{name} is {value}: give 1 or more.")
    for name in ("max_latency_ms", "max_parameters", "max_size_mb"):
        value = getattr(options, name)
        if value is not None and not value > 0:  # nan is not
            raise InputError(f"{name} is {value:g}: give a number above 0.")
    if options.min_score is not None and not math.isfinite(options.min_score):
        raise InputError(f"min_score is {options.min_score}: give a finite number.")
    return options


def _named(folder: Path) -> Path:
    """Returns a path that ends in the name of a folder, unlike "." and ".."."""
    return folder if folder.name not in ("", "..") else folder.resolve()


if __name__ == "__main__":
    main()
