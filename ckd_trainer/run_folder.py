"""A run's output folder: what is in it, whether this run may use it, and the record it leaves."""

import json
import logging
import platform
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import yaml
from transformers import TrainingArguments

from ckd_trainer.checkpoints import last_checkpoint, tidy_up, what_is_missing
from ckd_trainer.errors import InputError
from ckd_trainer.files import public, write_atomically
from ckd_trainer.recipe import read_recipe

logger = logging.getLogger(__name__)

RECIPE, RECORD, TRAINED = "recipe.yaml", "run.json", "train_results.json"
# What training leaves by a fixed name: a folder with any of it is taken. Overwriting deletes these and RECIPE and
# RECORD, and leaves other files alone.
RESULTS = (
    "checkpoint-*",
    "config.json",
    "model*.safetensors*",
    "*_results.json",
    "trainer_state.json",
    "training_args.bin",
    "predictions",
    "README.md",
)
PACKAGES = ("ckd_trainer", "torch", "transformers", "datasets", "evaluate", "accelerate", "safetensors")
# Options that change neither the data nor the training; a run may be taken up with others.
_MAY_DIFFER = {
    "do_train",
    "do_eval",
    "do_predict",
    "test_file",
    "max_predict_samples",
    "n_best_size",
    "per_device_eval_batch_size",
    "output_dir",
    "overwrite_output_dir",
    "resume_from_checkpoint",
    "save_total_limit",
    "disable_tqdm",
    "report_to",
    "run_name",
    "push_to_hub",
}
# These choose the best checkpoint, and nothing any more once the run is trained.
_MAY_DIFFER_ONCE_TRAINED = {"null_score_diff_threshold", "max_answer_length"}
_MAY_DIFFER_FAMILIES = ("logging_", "log_", "dataloader_", "hub_")


@dataclass
class Start:
    """How a run starts in its output folder.

    Attributes:
        recipe: its resolved recipe.
        checkpoint: the checkpoint to resume from, None for the beginning.
        trains_on: the checkpoint was asked for, so that what was its end need not be that of this run.
        is_trained: an earlier call has trained to the end; its model is used and not trained again.
        overwrites: delete what an earlier run left, once everything else is known to be right.
    """

    recipe: dict
    checkpoint: str | None = None
    trains_on: bool = False
    is_trained: bool = False
    overwrites: bool = False


def look_into(args: TrainingArguments, recipe: dict, *, overwrite: bool) -> Start:
    """Decides how a run starts, by what its output folder holds. Nothing is changed yet.

    Raises:
        InputError: the folder holds another run or something else, or no checkpoint where one was named.
    """
    folder = Path(args.output_dir)
    _check_place(args.output_dir)
    wanted = str(args.resume_from_checkpoint or "no").lower()
    if wanted not in ("no", "false", "0"):
        checkpoint = last_checkpoint(folder) if wanted in ("yes", "true", "1") else args.resume_from_checkpoint
        if checkpoint is None or what_is_missing(Path(checkpoint)) is not None:
            raise InputError(
                f"resume_from_checkpoint is {args.resume_from_checkpoint}, but there is no complete checkpoint "
                f"{checkpoint or f'in {folder}'}: name a checkpoint-* folder, or leave the option out."
            )
        return Start(recipe, checkpoint, trains_on=True)
    found = sorted(str(path.relative_to(folder)) for pattern in RESULTS for path in folder.glob(pattern))
    if not found:
        return Start(recipe)
    if not (folder / RECIPE).is_file():
        raise InputError(
            f"output_dir {folder} already holds {', '.join(found[:5])}, but no run of ours: give another folder, or "
            "move these files away yourself."
        )
    if overwrite:
        return Start(recipe, overwrites=True)
    is_trained = _is_json(folder / TRAINED)
    may_differ = _MAY_DIFFER | (_MAY_DIFFER_ONCE_TRAINED if is_trained else set())
    difference = _difference(read_recipe(folder / RECIPE), recipe, may_differ)
    if difference:
        raise InputError(
            f"output_dir {folder} holds another run ({difference}): give another output_dir, or set "
            "overwrite_output_dir to delete what the earlier run left."
        )
    results = folder / "all_results.json"
    if results.is_file() and not _is_json(results):
        raise InputError(f"{results} is not JSON: an earlier call was cut off there. Delete it, and start again.")
    if is_trained:
        logger.info("The run in %s is trained already; its model is used as it is.", folder)
        return Start(recipe, is_trained=True)
    checkpoint = last_checkpoint(folder)
    if checkpoint:
        logger.info("Resuming the run in %s from %s.", folder, Path(checkpoint).name)
    return Start(recipe, checkpoint)


def _check_place(name: str) -> None:
    """Raises InputError where output_dir cannot be a folder."""
    if not name or "\0" in name:
        raise InputError(f"output_dir is {name!r}: give a folder.")
    try:
        there = next(path for path in (Path(name), *Path(name).absolute().parents) if path.exists())
    except OSError as error:  # too long a name, no access
        raise InputError(f"output_dir is {name}: {error.strerror}: give another folder.") from None
    if not there.is_dir():
        raise InputError(f"output_dir is {name}, but {there} is a file: give a folder.")


def _is_json(path: Path) -> bool:
    try:
        json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return True


def write_record(args: TrainingArguments, start: Start) -> None:
    """Writes the resolved recipe and how the run was started: command, versions, commit, device, time.

    Deletes what an earlier run left before, where that was asked for, and checkpoints that are not whole.
    """
    folder = Path(args.output_dir)
    if start.overwrites:
        _delete(folder)
    tidy_up(folder, start.checkpoint, args.save_total_limit)
    write_atomically(folder / RECIPE, yaml.safe_dump(start.recipe, sort_keys=False, allow_unicode=True))
    record = {
        "command": _command(),
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "versions": {"python": platform.python_version()} | {name: version(name) for name in PACKAGES},
        "commit": _commit(),
        "device": str(args.device),
        "processes": args.world_size,
    }
    write_atomically(folder / RECORD, json.dumps(record, indent=2) + "\n")


def _delete(folder: Path) -> None:
    for pattern in (RECIPE, RECORD, *RESULTS):
        for path in folder.glob(pattern):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()


def _difference(theirs: dict, ours: dict, may_differ: set[str]) -> str:
    """Names the first options in which two resolved recipes differ, and their values."""
    different = [
        key
        for key in {**theirs, **ours}
        if theirs.get(key) != ours.get(key) and key not in may_differ and not key.startswith(_MAY_DIFFER_FAMILIES)
    ]
    return ", ".join(
        f"{key} {theirs.get(key, 'at its default')} there, {ours.get(key, 'at its default')} here"
        for key in different[:3]
    )


def _command() -> list[str]:
    """Returns the command line, without the token and the folders that may be in it."""
    words = [Path(sys.argv[0]).name, *map(_public_word, sys.argv[1:])]
    for place, word in enumerate(words):
        if word.split("=")[0] in ("--hub_token", "--hub-token"):
            words[place] = f"{word.split('=')[0]}=***"
            if "=" not in word and place + 1 < len(words):
                words[place + 1] = ""
    return [word for word in words if word]


def _public_word(word: str) -> str:
    """Returns a word of the command line without folders, also in --option=value."""
    option, equals, value = word.partition("=") if word.startswith("--") else ("", "", word)
    return f"{option}{equals}{public(value)}"


def _commit() -> str | None:
    """Returns the commit of this source tree, None where it is no git checkout."""
    try:
        result = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return result.stdout.strip()
