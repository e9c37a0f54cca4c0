"""The checkpoints of a run: which there are, which are whole, and which stay."""

import json
import logging
import shutil
import zipfile
from pathlib import Path

from safetensors import SafetensorError, safe_open

logger = logging.getLogger(__name__)


def last_checkpoint(folder: str | Path) -> str | None:
    """Returns the newest complete checkpoint, None where there is none."""
    for path in reversed(_checkpoints(Path(folder))):
        missing = what_is_missing(path)
        if missing is None:
            return str(path)
        logger.warning("%s is passed over, as %s.", path.name, missing)
    return None


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


def tidy_up(folder: Path, checkpoint: str | None, limit: int | None) -> None:
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
