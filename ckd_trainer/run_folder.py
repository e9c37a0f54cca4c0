"""A run's output folder: what is in it, whether this run may use it, and the record it leaves."""

import json
import logging
import platform
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Collection
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import yaml
from safetensors import SafetensorError, safe_open
from transformers import TrainingArguments

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
    "dataloader_num_workers",
    "dataloader_persistent_workers",
    "dataloader_prefetch_factor",
    "dataloader_multiprocessing_context",
    "dataloader_in_order",
    "disable_tqdm",
    "report_to",
    "run_name",
    "push_to_hub",
    "allow_unused_weights",
}
# These choose the best checkpoint, and nothing any more once the run is trained.
_MAY_DIFFER_ONCE_TRAINED = {"null_score_diff_threshold", "max_answer_length"}
_MAY_DIFFER_FAMILIES = ("logging_", "log_", "hub_")


@dataclass
class Start:
    """How a run starts in its output folder.

    Attributes:
        recipe: its resolved recipe.
        checkpoint: the checkpoint to resume from, None for the beginning.
        trains_on: the checkpoint was asked for, so that what was its end need not be that of this run.
        is_trained: an earlier call has trained to the end; its model is used and not trained again.
        overwrites: delete what an earlier run left, once everything else is known to be right.
        recorded: what the earlier run in the folder had for options that are left to their defaults now.
        inputs: fingerprints of what training reads, see `ckd_trainer.inputs`.
    """

    recipe: dict
    checkpoint: str | None = None
    trains_on: bool = False
    is_trained: bool = False
    overwrites: bool = False
    recorded: dict = field(default_factory=dict)
    inputs: dict = field(default_factory=dict)

    def settle(self, folder: str, values: dict) -> None:
        """Records what options came to whose defaults depend on the models.

        Raises:
            InputError: the run that is in the folder had other values.
        """
        if difference := _difference(self.recorded, {name: values[name] for name in self.recorded}, set()):
            raise _another_run(folder, difference)
        self.recipe |= values


def look_into(
    args: TrainingArguments, recipe: dict, *, overwrite: bool, by_default: Collection[str] = frozenset()
) -> Start:
    """Decides how a run starts, by what its output folder holds. Nothing is changed yet.

    Args:
        by_default: options of the recipe that the models may still lower, so that they are compared in `Start.settle`.

    Raises:
        InputError: the folder holds another run or something else, or no checkpoint where one was named.
    """
    folder = Path(args.output_dir)
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
    theirs = read_recipe(folder / RECIPE)
    difference = _difference(theirs, recipe, may_differ | set(by_default))
    if difference:
        raise _another_run(folder, difference)
    recorded = {name: theirs[name] for name in by_default if name in theirs}
    results = folder / "all_results.json"
    if results.is_file() and not _is_json(results):
        raise InputError(f"{results} is not JSON: an earlier call was cut off there. Delete it, and start again.")
    if is_trained:
        logger.info("The run in %s is trained already; its model is used as it is.", folder)
        return Start(recipe, is_trained=True, recorded=recorded)
    checkpoint = last_checkpoint(folder)
    if checkpoint:
        logger.info("Resuming the run in %s from %s.", folder, Path(checkpoint).name)
    return Start(recipe, checkpoint, recorded=recorded)


def _another_run(folder: str | Path, difference: str) -> InputError:
    return InputError(
        f"output_dir {folder} holds another run ({difference}): give another output_dir, or set overwrite_output_dir "
        "to delete what the earlier run left."
    )


def check_place(name: str) -> None:
    """Raises InputError where output_dir cannot be a folder."""
    if not name or "\0" in name:
        raise InputError(f"output_dir is {name!r}: give a folder.")
    try:
        there = next(path for path in (Path(name), *Path(name).absolute().parents) if path.exists())
    except OSError as error:  # too long a name, no access
        raise InputError(f"output_dir is {name}: {error.strerror}: give another folder.") from None
    if not there.is_dir():
        raise InputError(f"output_dir is {name}, but {there} is a file: give a folder.")


def last_checkpoint(folder: str | Path) -> str | None:
    """Returns the newest complete checkpoint, None where there is none."""
    for path in reversed(_checkpoints(Path(folder))):
        missing = what_is_missing(path)
        if missing is None:
            return str(path)
        logger.warning("%s is passed over, as %s.", path.name, missing)
    return None


def _tidy_up(folder: Path, checkpoint: str | None, limit: int | None) -> None:
    """Deletes what an interrupted save or deletion has left of checkpoints, down to as many as a run keeps.

    `Trainer` goes by the time at which a folder was changed, which a deletion that was cut short is, too.
    """
    paths = []
    for path in _checkpoints(folder):
        if what_is_missing(path) is None:
            paths.append(path)
        else:
            shutil.rmtree(path)
    if checkpoint is None or not limit:
        return
    state = json.loads((Path(checkpoint) / "trainer_state.json").read_text(encoding="utf-8"))
    best = [path for path in paths[:-1] if path.name == Path(state.get("best_model_checkpoint") or "").name]
    ordered = [path for path in paths[:-1] if path not in best] + best + paths[-1:]  # as `Trainer` keeps them
    for path in ordered[: -max(limit, 1 + len(best))]:
        if path != Path(checkpoint):
            shutil.rmtree(path)


def _checkpoints(folder: Path) -> list[Path]:
    """Returns the checkpoints of a run, whole or not, in the order of their steps."""
    paths = [path for path in folder.glob("checkpoint-*") if path.name.removeprefix("checkpoint-").isdigit()]
    return sorted(paths, key=lambda path: int(path.name.removeprefix("checkpoint-")))


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
    _tidy_up(folder, start.checkpoint, args.save_total_limit)
    write_atomically(folder / RECIPE, yaml.safe_dump(start.recipe, sort_keys=False, allow_unicode=True))
    record = {
        "command": _command(),
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "versions": {"python": platform.python_version()} | {name: version(name) for name in PACKAGES},
        "commit": _commit(),
        "device": str(args.device),
        "processes": args.world_size,
        "inputs": start.inputs,
    }
    write_atomically(folder / RECORD, json.dumps(record, indent=2) + "\n")


def what_is_missing(checkpoint: Path) -> str | None:
    """Returns what a checkpoint lacks to go on from it exactly, None where it is whole.

    Sharded weights and optimizers in folders of their own (FSDP, DeepSpeed) are not looked into.
    """
    try:
        state = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
        if not isinstance(state, dict) or "global_step" not in state:
            return "trainer_state.json is no state"
        for path in checkpoint.glob("*.safetensors"):
            with safe_open(path, framework="pt") as file:  # reads the head, and compares it with the file's size
                file.keys()
        for path in (*checkpoint.glob("*.pt"), *checkpoint.glob("*.pth")):
            if not zipfile.is_zipfile(path):
                return f"{path.name} is not whole"
    except (OSError, ValueError, SafetensorError) as error:
        return f"it cannot be read ({error})"
    if not (any(checkpoint.glob("*.safetensors")) or any(path.is_dir() for path in checkpoint.iterdir())):
        return "it has no weights"
    if (checkpoint / "scheduler.pt").exists() and not any(checkpoint.glob("rng_state*.pth")):
        return "it has no rng_state.pth"
    return None


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
