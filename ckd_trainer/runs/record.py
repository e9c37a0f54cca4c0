"""The record that a run leaves in its folder: its recipe, and how it was started."""

import json
import platform
import sys
import time
from pathlib import Path

import yaml
from transformers import TrainingArguments

from ckd_trainer.runs.checkpoints import bring_best, mixed_precision, tidy_up
from ckd_trainer.runs.folder import Start, overwritten
from ckd_trainer.runs.stages import Stage
from ckd_trainer.utils.files import RECIPE, RECORD, delete, public, recorded_stages, write_atomically
from ckd_trainer.utils.versions import source_commit, versions

# The options about data in run.json, beside the fingerprints.
_DATASET = ("task_name", "dataset_name", "dataset_config_name", "dataset_revision")


def has_record(folder: str | Path) -> bool:
    """Returns whether a run has left its record in a folder."""
    return (Path(folder) / RECIPE).is_file()


def write_record(args: TrainingArguments, start: Start, stage: Stage) -> None:
    """Writes the resolved recipe, and the command, versions, commit, device and time of the start.

    Before that, it deletes the earlier run, if requested, and incomplete checkpoints. If the run resumes from another
    folder, it copies that folder's best checkpoint.

    Args:
        stage: the one to train next; the entries of those before it stay.
    """
    folder = Path(args.output_dir)
    if start.overwrites:
        for path in overwritten(folder):
            delete(path)
    tidy_up(stage.folder, start.checkpoint, stage.args)
    if start.best is not None:
        bring_best(start.best, stage.folder)
    write_atomically(folder / RECIPE, yaml.safe_dump(start.recipe, sort_keys=False, allow_unicode=True))
    record = {
        "command": _command(),
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "versions": {"python": platform.python_version()} | versions(),
        "commit": source_commit(),
        "device": str(args.device),
        "processes": args.world_size,
        "dataset": {name: public(start.recipe.get(name)) for name in _DATASET},
        "inputs": start.inputs,
        "mixed_precision": mixed_precision(args),
    }
    if stage.options is not None:
        record["stages"] = recorded_stages(folder)[: stage.number - 1]
    write_atomically(folder / RECORD, json.dumps(record, indent=2) + "\n")


def _command() -> list[str]:
    """Returns the command line without tokens and folders."""
    words = [Path(sys.argv[0]).name, *map(_public_word, sys.argv[1:])]
    for place, word in enumerate(words):
        if word.split("=")[0] in ("--hub_token", "--hub-token"):
            words[place] = f"{word.split('=')[0]}=***"
            if "=" not in word and place + 1 < len(words):
                words[place + 1] = ""
    return [word for word in words if word]


def _public_word(word: str) -> str:
    """Returns a word of the command line without folders, even in --option=value."""
    option, equals, value = word.partition("=") if word.startswith("--") else ("", "", word)
    if value.startswith(("[", "{")):  # JSON, as of sources
        try:
            value = json.dumps(public(json.loads(value)))
        except (ValueError, RecursionError):
            pass
    return f"{option}{equals}{public(value)}"
