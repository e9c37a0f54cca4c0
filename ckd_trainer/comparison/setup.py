"""What the runs of a comparison or of a search share: their recipes, their data, and how they are started."""

import dataclasses
import functools
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from transformers import TrainingArguments

from ckd_trainer.comparison.plan import Checked
from ckd_trainer.comparison.schedule import Run, run_all
from ckd_trainer.comparison.variants import Variant
from ckd_trainer.data.unlabeled import check_unlabeled
from ckd_trainer.runs.folder import RESULTS
from ckd_trainer.runs.inputs import rows_fingerprint
from ckd_trainer.runs.lock import is_locked
from ckd_trainer.runs.recipe_file import read_recipe
from ckd_trainer.tasks.base import Task
from ckd_trainer.utils.errors import InputError, first_of
from ckd_trainer.utils.files import RECIPE, RECORD, write_atomically


@dataclasses.dataclass(frozen=True)
class Setup:
    """What the runs of a comparison or of a search share, checked.

    Attributes:
        command: of ckd-trainer, that each run calls.
        metric: the score, as the evaluation names it without `eval_`.
        devices: the GPUs that runs may use, as CUDA_VISIBLE_DEVICES names them.
        seed: of the recipe.
        plan: what is trained.
    """

    command: str
    output: Path
    metric: str
    devices: list[str]
    jobs: int
    seed: int
    plan: list[Checked]

    @property
    def variants(self) -> list[Variant]:
        return [one.variant for one in self.plan]

    def run_of(self, variant: Variant, seed: int, leaves: Sequence[str] = Run.leaves) -> Run:
        folder = self.output / "runs" / variant.place / f"seed_{seed}"
        recipe = str(self.recipe_of(variant))
        words = (self.command, recipe, "--seed", str(seed), "--output_dir", str(folder))
        return Run(variant.name, seed, folder, (sys.executable, "-m", "ckd_trainer", *words), tuple(leaves))

    def run_all(self, runs: Iterable[Run], *, jobs: int | None = None, **hooks: Any) -> dict[Run, str]:
        report = functools.partial(print, flush=True)
        return run_all(runs, jobs=jobs or self.jobs, devices=self.devices, report=report, **hooks)

    def recipe_of(self, variant: Variant) -> Path:
        return self.output / "recipes" / f"{variant.place}.yaml"

    def write_recipes(self, variants: Sequence[Variant]) -> None:
        """Writes the recipe of each variant; raises InputError if runs there have been started with others."""
        for variant in variants:
            path = self.recipe_of(variant)
            before = read_recipe(path) if path.is_file() and self._is_started(variant) else variant.recipe
            names = before | variant.recipe
            changed = [name for name in names if _as_text(before, name) != _as_text(variant.recipe, name)]
            if changed:
                raise InputError(
                    f"{path} has other options for {variant.name} ({first_of(changed)}), from an earlier comparison: "
                    "give another --output."
                )
            write_atomically(path, yaml.safe_dump(variant.recipe, sort_keys=False, allow_unicode=True))

    def _is_started(self, variant: Variant) -> bool:
        """Returns whether any run of a variant is being trained, or has left files; a refused one has not."""
        folders = (self.output / "runs" / variant.place).glob("seed_*")
        return any(
            is_locked(folder) or any(next(folder.glob(pattern), None) for pattern in (RECIPE, RECORD, *RESULTS))
            for folder in folders
        )

    def check_data(self) -> None:
        """Reads the local data of all variants once, so that a mistake in it is told before the first run starts."""
        read: list[Task] = []
        predicts = any(stage.args.do_predict for one in self.plan for stage in one.stages)
        splits = ("train", "validation", *(["test"] if predicts else []))
        for one in self.plan:
            task, args = one.task, one.task.args
            before = next((other for other in read if other.args == args), None)
            if before is None:
                read.append(task)
                if task.hub_dataset is None:
                    task.load(splits)
                if args.has_unlabeled:
                    check_unlabeled(args, task.unlabeled_columns)
            elif task.hub_dataset is None:
                task.data = before.data
            if task.hub_dataset is None:
                one.check_loaded()

    def validation_examples(self) -> str | None:
        """Returns the fingerprint of the examples that the score is computed on; None if they are on the Hub.

        Call it after `check_data`.

        Raises:
            InputError: variants are evaluated on different examples.
        """
        name = "mismatched" if self.metric.startswith("mismatched_") else ""
        local = [one for one in self.plan if one.task.hub_dataset is None]
        found: dict[int, str] = {}  # variants share what they read
        for one in local:
            examples = one.task.data.validation[name]
            if len(examples) < 2:
                raise InputError("there is one validation example, but a comparison needs several: give more.")
            if id(examples) not in found:
                found[id(examples)] = rows_fingerprint(examples)
            if found[id(examples)] != next(iter(found.values())):
                raise InputError(
                    f"{local[0].variant.name} and {one.variant.name} are evaluated on different validation examples, "
                    "so they cannot be compared: give them the same options of the data."
                )
        return next(iter(found.values()), None)


def _as_text(recipe: Mapping[str, Any], name: str) -> str:
    """Returns an option as words on a command line would give it, but for those that may change.

    The cache may have moved with the folder. Recipes of earlier versions hold the token.
    """
    text = "" if name in ("teacher_cache_dir", "hub_token") else str(recipe.get(name, ""))
    return text.lower() if text.lower() in ("true", "false", "none") else text


def visible_devices(groups: Sequence[Any]) -> list[str]:
    """Returns the GPUs that the runs may use, as CUDA_VISIBLE_DEVICES names them."""
    if any(isinstance(group, TrainingArguments) and group.use_cpu for group in groups):
        return []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",") if visible else [str(number) for number in range(torch.cuda.device_count())]
    return names[: torch.cuda.device_count()]
