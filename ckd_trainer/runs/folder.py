"""A run's output folder: whether this run may use it, and how it starts there."""

import json
import logging
import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import TrainingArguments

from ckd_trainer.runs.checkpoints import (
    best_of,
    ends_training,
    last_checkpoint,
    mixed_precision,
    processes_of,
    step_of,
    what_is_missing,
)
from ckd_trainer.runs.recipe_file import read_recipe
from ckd_trainer.runs.resuming import check_same_processes
from ckd_trainer.runs.same_options import MAY_DIFFER, MAY_DIFFER_ONCE_TRAINED, MAY_DIFFER_WHEN_NAMED, difference_of
from ckd_trainer.runs.stages import Stage, run_folder, stage_folder
from ckd_trainer.utils.errors import InputError, is_mendable
from ckd_trainer.utils.files import CONTRIBUTIONS, RECIPE, RECORD

logger = logging.getLogger(__name__)

TRAINED = "train_results.json"
# Files that training leaves under fixed names: a folder with any of them is taken.
RESULTS = (
    "checkpoint-*",
    "_stage_*",
    "config.json",
    "model*.safetensors*",
    "adapter_*",
    "*_results.json",
    CONTRIBUTIONS,
    "trainer_state.json",
    "training_args.bin",
    "predictions",
    "README.md",
)
_YES, _NO = ("yes", "true", "1"), ("no", "false", "0")  # values of resume_from_checkpoint


@dataclass
class Start:
    """How a run starts in its output folder.

    Attributes:
        recipe: the run's resolved recipe.
        trained_stages: the number of stages that an earlier call has trained.
        checkpoint: the checkpoint of the next stage to resume from, None to start from its beginning.
        best: the best checkpoint up to there; None if there was no evaluation, or the run does not load the best.
        trains_on: the user named this checkpoint: keep training even if its own run ended there.
        is_trained: an earlier call finished training: use its model without training again.
        overwrites: delete the files of an earlier run, once everything else has been checked.
        recorded: the earlier run's values of options that are left to their defaults now.
        inputs: fingerprints of the inputs of training, see `ckd_trainer.runs.inputs`.
    """

    recipe: dict
    trained_stages: int = 0
    checkpoint: str | None = None
    best: str | None = None
    trains_on: bool = False
    is_trained: bool = False
    overwrites: bool = False
    recorded: dict = field(default_factory=dict)
    inputs: dict = field(default_factory=dict)

    def at_next_stage(self) -> "Start":
        """Returns the start of the stage after the one that this call has trained."""
        return Start(self.recipe, self.trained_stages + 1, inputs=self.inputs)

    def settle(self, values: dict) -> None:
        """Records the final values of options whose defaults depend on the models.

        Raises:
            InputError: the run to resume had other values.
        """
        if difference := difference_of(self.recorded, {name: values[name] for name in self.recorded}, set()):
            raise InputError(
                f"the run that this one would resume had other options ({difference}): set them as they were, or give "
                "another output_dir."
            )
        self.recipe |= values


def look_into(
    args: TrainingArguments,
    recipe: dict,
    stages: Sequence[Stage],
    *,
    overwrite: bool,
    by_default: Collection[str] = frozenset(),
) -> Start:
    """Decides from its output folder how a run starts. Nothing is changed yet.

    Args:
        stages: all stages of the run; one for a run without stages.
        by_default: options of the recipe that the models may still lower; `Start.settle` compares them later.

    Raises:
        InputError: the folder holds another run or other files, or the checkpoint to resume from is incomplete or
            comes from a run with other options.
    """
    folder = Path(args.output_dir)
    is_trained = _is_json(folder / TRAINED)
    may_differ = MAY_DIFFER | {*by_default} | (MAY_DIFFER_ONCE_TRAINED if is_trained else set())

    def difference() -> str:
        return difference_of(read_recipe(folder / RECIPE), recipe, may_differ)

    # A job that always requests the last checkpoint may find that its run has ended.
    has_ended = is_trained and _asks(args) in _YES and not difference()
    named = _named_checkpoint(args, recipe, by_default) if args.do_train and not has_ended else None
    if named is not None and _is_in(named, folder):
        return _resume(named, args, recipe, by_default, trains_on=True)
    found = sorted(str(path.relative_to(folder)) for pattern in RESULTS for path in folder.glob(pattern))
    if found and not (folder / RECIPE).is_file():
        raise InputError(
            f"output_dir {folder} already holds {', '.join(found[:5])}, but no run of ckd-trainer: give another "
            "folder, or move these files elsewhere."
        )
    if not found or overwrite:
        if named is not None:
            return _resume(named, args, recipe, by_default, trains_on=True, overwrites=bool(found))
        return Start(recipe, overwrites=bool(found))
    if different := difference():
        raise InputError(
            f"output_dir {folder} holds another run ({different}): give another output_dir, or set "
            "overwrite_output_dir to delete the earlier run."
        )
    results = folder / "all_results.json"
    if results.is_file() and not _is_json(results):
        raise InputError(
            f"{results} is not JSON: an earlier call was interrupted while writing it. Delete it, and start again."
        )
    recorded = _recorded(folder, by_default)
    if is_trained:
        logger.info("The run in %s is already trained; its model is used as it is.", folder)
        return Start(recipe, is_trained=True, recorded=recorded)
    if not args.do_train:
        return Start(recipe, recorded=recorded)
    trained = [_is_json(stage.folder / TRAINED) for stage in stages].index(False)
    stage = stages[trained]
    checkpoint = last_checkpoint(stage.folder, stage.args)
    if named is not None and (checkpoint is None or step_of(checkpoint) <= step_of(named)):
        return _resume(named, args, recipe, by_default, trains_on=True)
    if checkpoint is not None:
        return _resume(checkpoint, stage.args, recipe, by_default, trains_on=False, trained_stages=trained)
    if trained:
        _check_processes(folder / RECORD, stage_folder(folder, trained), args)
        _check_device(folder / RECORD, args)
        logger.info("Resuming the run in %s after stage %d of %d.", folder, trained, len(stages))
    return Start(recipe, trained, recorded=recorded)


def overwritten(folder: Path) -> list[Path]:
    """Returns the files and folders of an earlier run that overwriting it deletes; it deletes no others."""
    return [path for pattern in (RECIPE, RECORD, *RESULTS) for path in folder.glob(pattern)]


def _asks(args: TrainingArguments) -> str:
    return str(args.resume_from_checkpoint or "no").lower()


def _recorded(folder: Path, names: Collection[str]) -> dict:
    """Returns the values of these options in a folder's recipe."""
    recipe = read_recipe(folder / RECIPE) if (folder / RECIPE).is_file() else {}
    return {name: recipe[name] for name in names if name in recipe}


def _named_checkpoint(args: TrainingArguments, recipe: dict, by_default: Collection[str]) -> str | None:
    """Returns the checkpoint that `resume_from_checkpoint` requests, None if it requests none.

    Raises:
        InputError: training cannot resume from it, or its run has other options.
    """
    if _asks(args) in _NO:
        return None
    is_path = _asks(args) not in _YES
    checkpoint = args.resume_from_checkpoint if is_path else last_checkpoint(args.output_dir, args)
    missing = None if checkpoint is None else what_is_missing(Path(checkpoint), args)
    if checkpoint is None or missing is not None:
        place = f"in {args.output_dir}" if checkpoint is None else f"{checkpoint} ({missing})"
        raise InputError(
            f"resume_from_checkpoint is {args.resume_from_checkpoint}, but there is no complete checkpoint {place}: "
            "name a checkpoint-* folder, or leave the option out."
        )
    its_recipe = run_folder(checkpoint) / RECIPE
    if its_recipe.is_file():
        difference = difference_of(read_recipe(its_recipe), recipe, MAY_DIFFER | MAY_DIFFER_WHEN_NAMED | {*by_default})
        if difference:
            raise InputError(
                f"resume_from_checkpoint is {args.resume_from_checkpoint}, which is from a run with other options "
                f"({difference}): give the same, or use it as the student of a new run (model_name_or_path)."
            )
    return checkpoint


def _resume(
    checkpoint: str, args: TrainingArguments, recipe: dict, by_default: Collection[str], **start: Any
) -> Start:
    """Returns the start from a checkpoint; raises InputError if its next step would differ from that of its run."""
    folder, origin = Path(args.output_dir), run_folder(checkpoint)
    if start["trains_on"] or not ends_training(checkpoint):
        check_same_processes(checkpoint, processes_of(checkpoint), args)
        _check_device(origin / RECORD, args)
    name = os.path.relpath(checkpoint, folder) if str(origin) == os.path.abspath(folder) else checkpoint
    logger.info("Resuming the run in %s from %s.", folder, name)
    best = best_of(checkpoint) if args.load_best_model_at_end else None
    recorded = _recorded(origin, by_default)
    return Start(recipe, checkpoint=checkpoint, best=None if best is None else str(best), recorded=recorded, **start)


def _check_processes(record: Path, stage: Path, args: TrainingArguments) -> None:
    """Raises InputError if another number of processes trained the last stage."""
    check_same_processes(str(stage), _read_record(record).get("processes", args.world_size), args)


def _check_device(record: Path, args: TrainingArguments) -> None:
    """Raises InputError if the run was trained in another precision; warns if on another kind of device."""
    recorded = _read_record(record)
    there, here = recorded.get("mixed_precision"), mixed_precision(args)
    if there not in (None, here):
        raise InputError(
            f"the run was trained with mixed precision {there}, but the launcher sets {here}: start it as before."
        )
    there, here = recorded.get("device", "").partition(":")[0], args.device.type
    if there not in ("", here):
        logger.warning("The run was trained on %s and resumes on %s: results may differ in rounding.", there, here)


def _read_record(path: Path) -> dict:
    """Returns a run's record; empty if there is none or it is damaged."""
    record = json.loads(path.read_text(encoding="utf-8")) if _is_json(path) else {}
    return record if isinstance(record, dict) else {}


def _is_in(checkpoint: str, folder: Path) -> bool:
    return os.path.dirname(os.path.abspath(checkpoint)) == os.path.abspath(folder)


def check_place(name: str) -> None:
    """Raises InputError if output_dir cannot be a folder."""
    if not name or "\0" in name:
        raise InputError(f"output_dir is {name!r}: give a folder.")
    try:
        there = next(path for path in (Path(name), *Path(name).absolute().parents) if path.exists())
    except OSError as error:  # the name is too long, or there is no access
        if not is_mendable(error):
            raise
        raise InputError(f"output_dir is {name}: {error.strerror}: give another folder.") from None
    if not there.is_dir():
        raise InputError(f"output_dir is {name}, but {there} is a file: give a folder.")


def _is_json(path: Path) -> bool:
    try:
        json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return False
    return True
