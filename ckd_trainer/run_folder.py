"""A run's output folder: what is in it, whether this run may use it, and the record it leaves."""

import json
import logging
import os
import platform
import shutil
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import yaml
from transformers import TrainingArguments

from ckd_trainer.errors import InputError

logger = logging.getLogger(__name__)

RECIPE, RECORD, TRAINED = "recipe.yaml", "run.json", "train_results.json"
# Everything that a run writes by a fixed name; overwriting deletes these and leaves other files alone.
RUN_FILES = (
    RECIPE,
    RECORD,
    "*_results.json",
    "trainer_state.json",
    "training_args.bin",
    "config.json",
    "model*.safetensors*",
    "README.md",
    "predictions",
    "checkpoint-*",
)
PACKAGES = ("ckd_trainer", "torch", "transformers", "datasets", "evaluate", "accelerate", "safetensors")
# Options that change neither the data nor the training; a run may be taken up with others.
_MAY_DIFFER = {
    "do_train",
    "do_eval",
    "do_predict",
    "overwrite_output_dir",
    "resume_from_checkpoint",
    "output_dir",
    "max_predict_samples",
    "test_file",
    "dataloader_num_workers",
    "dataloader_pin_memory",
    "disable_tqdm",
    "log_level",
    "push_to_hub",
    "report_to",
    "save_total_limit",
}


def check_output_dir(args: TrainingArguments, recipe: dict, *, overwrite: bool) -> str | None:
    """Decides how this run starts in its output folder, and makes room if overwriting was asked for.

    Args:
        recipe: what `resolved_recipe` returns for this run.

    Returns:
        the checkpoint to resume from; None to start at the beginning (or, where `is_trained`, not to train).

    Raises:
        InputError: the folder holds another run, or no checkpoint where one was named.
    """
    folder = Path(args.output_dir)
    if args.resume_from_checkpoint:
        checkpoint = last_checkpoint(folder)
        if args.resume_from_checkpoint.lower() not in ("true", "yes", "1"):
            checkpoint = args.resume_from_checkpoint
        if checkpoint is None or not (Path(checkpoint) / "trainer_state.json").is_file():
            raise InputError(
                f"resume_from_checkpoint is {args.resume_from_checkpoint}, but there is no complete checkpoint "
                f"{checkpoint or f'in {folder}'}: name a checkpoint-* folder, or leave the option out."
            )
        return checkpoint
    found = sorted(str(path.relative_to(folder)) for pattern in RUN_FILES for path in folder.glob(pattern))
    if not found:
        return None
    if overwrite:
        if args.should_save:
            _delete(folder)
        return None
    remedy = "give another output_dir, or set overwrite_output_dir to delete what the earlier run left."
    if not (folder / RECIPE).is_file():
        raise InputError(f"output_dir {folder} already holds {', '.join(found[:5])}, but no run of ours: {remedy}")
    difference = _difference(yaml.safe_load((folder / RECIPE).read_text(encoding="utf-8")), recipe)
    if difference:
        raise InputError(f"output_dir {folder} holds another run ({difference}): {remedy}")
    checkpoint = last_checkpoint(folder)
    if is_trained(args):
        logger.info("The run in %s is trained already; its model is used as it is.", folder)
    elif checkpoint:
        logger.info("Resuming the run in %s from %s.", folder, Path(checkpoint).name)
    return checkpoint


def is_trained(args: TrainingArguments) -> bool:
    """True where an earlier call of this run has trained to the end."""
    return (Path(args.output_dir) / TRAINED).is_file()


def last_checkpoint(folder: str | Path) -> str | None:
    """Returns the newest complete checkpoint; `Trainer` writes the state last, so one without it was cut off."""
    complete = [path.parent for path in Path(folder).glob("checkpoint-*/trainer_state.json")]
    numbered = [path for path in complete if path.name.split("-")[-1].isdigit()]
    return str(max(numbered, key=lambda path: int(path.name.split("-")[-1]))) if numbered else None


def write_record(args: TrainingArguments, recipe: dict) -> None:
    """Writes the resolved recipe and how the run was started: command, versions, commit, device, time."""
    folder = Path(args.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / RECIPE, yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True))
    record = {
        "command": _command(),
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "versions": {"python": platform.python_version()} | {name: version(name) for name in PACKAGES},
        "commit": _commit(),
        "device": str(args.device),
        "processes": args.world_size,
    }
    write_atomically(folder / RECORD, json.dumps(record, indent=2) + "\n")


def write_atomically(path: Path, text: str) -> None:
    """Writes a text file so that a reader sees the old or the new one, never half of it."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def _delete(folder: Path) -> None:
    for pattern in RUN_FILES:
        for path in folder.glob(pattern):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _difference(theirs: dict, ours: dict) -> str:
    """Names the options in which two resolved recipes differ, and their values."""
    missing = object()
    keys = [key for key in {**theirs, **ours} if key not in _MAY_DIFFER]
    different = [key for key in keys if theirs.get(key, missing) != ours.get(key, missing)]
    return ", ".join(f"{key} {theirs.get(key, 'unset')} there, {ours.get(key, 'unset')} here" for key in different[:3])


def _command() -> list[str]:
    """Returns the command line, without the token that may be in it."""
    words = [Path(sys.argv[0]).name, *sys.argv[1:]]
    secret = ("--hub_token", "--hub-token", "--push_to_hub_token", "--push-to-hub-token")
    for place, word in enumerate(words):
        if word.split("=")[0] in secret:
            words[place] = f"{word.split('=')[0]}=***"
            if "=" not in word and place + 1 < len(words):
                words[place + 1] = ""
    return [word for word in words if word]


def _commit() -> str | None:
    """Returns the commit of this source tree, None where it is no git checkout."""
    try:
        result = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return result.stdout.strip()
