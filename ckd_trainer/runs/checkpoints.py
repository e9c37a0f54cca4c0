"""Finds the checkpoints of a run, checks which can be resumed exactly, and deletes incomplete and surplus ones."""

import json
import logging
import os
import shutil
import zipfile
from pathlib import Path

from safetensors import SafetensorError, safe_open
from transformers import TrainingArguments

from ckd_trainer.models.adapters import ADAPTER
from ckd_trainer.utils.errors import InputError
from ckd_trainer.utils.files import delete

logger = logging.getLogger(__name__)

_OPTIMIZERS = {"optimizer.pt", "optimizer.bin", "optimizer_0"}  # the last two are FSDP's: whole, sharded


def last_checkpoint(folder: str | Path, args: TrainingArguments) -> str | None:
    """Returns the newest checkpoint that training can resume from exactly, None if no save was ever completed.

    Raises:
        InputError: there are checkpoints, but all are damaged or lack files. Starting over would overwrite them.
    """
    reasons = []
    for path in reversed(_checkpoints(Path(folder))):
        missing = what_is_missing(path, args)
        if missing is None:
            return str(path)
        logger.warning("%s is skipped: %s.", path.name, missing)
        if _state_of(path) is not None:  # it is written last, so the checkpoint was once complete
            reasons.append(f"{path.name}: {missing}")
    if reasons:
        raise InputError(
            f"output_dir {folder} holds an unfinished run that cannot be resumed exactly ({reasons[0]}). Restore the "
            "missing files, or set overwrite_output_dir to start over, or start a new run from the weights of a "
            "checkpoint: give it as model_name_or_path, with another output_dir."
        )
    return None


def what_is_missing(checkpoint: Path, args: TrainingArguments) -> str | None:
    """Returns why training cannot resume from a checkpoint exactly, None if it can.

    It needs the weights, the optimizer, the schedule and the random number generators of all processes. With float16
    it also needs the loss scaler, and with `load_best_model_at_end` the weights of the best checkpoint so far. The
    shards of FSDP and DeepSpeed are not inspected.
    """
    return _missing_files(checkpoint, args) or (_missing_best(checkpoint) if args.load_best_model_at_end else None)


def ends_training(checkpoint: str | Path) -> bool:
    """Returns whether training ended at this checkpoint: all steps were done, or it stopped early."""
    if not is_whole(checkpoint):  # sharded weights, which `Trainer` gathers
        return False
    state = _state_of(Path(checkpoint))
    control = state.get("stateful_callbacks", {}).get("TrainerControl", {}).get("args", {})
    return state["global_step"] >= state["max_steps"] or control.get("should_training_stop", False)


def is_whole(checkpoint: str | Path) -> bool:
    """Returns whether a checkpoint has the weights of a model, or of an adapter, in one file."""
    return any((Path(checkpoint) / name).is_file() for name in ("model.safetensors", ADAPTER))


def best_of(checkpoint: str | Path) -> Path | None:
    """Returns the best checkpoint at the time this one was saved, None if there was no evaluation yet.

    It is in the same folder. (`best_model_checkpoint` in the state is the path at that time.)
    """
    path = Path(os.path.abspath(checkpoint))
    step = _state_of(path).get("best_global_step")
    return path.with_name(f"checkpoint-{step}") if step else None


def step_of(checkpoint: str | Path) -> int:
    """Returns the step after which a checkpoint was saved, from its name."""
    return int(os.path.basename(os.path.abspath(checkpoint)).removeprefix("checkpoint-"))


def bring_best(best: str | Path, folder: str | Path) -> None:
    """Copies the best checkpoint of another folder into this one, unless it is already there."""
    target = Path(folder) / Path(best).name
    if target.exists():
        return
    temporary = target.with_name(f".{target.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    shutil.copytree(best, temporary)
    os.replace(temporary, target)


def processes_of(checkpoint: str | Path) -> int:
    """Returns the number of processes that saved a checkpoint: each saves the state of its random generators."""
    return max(1, len(list(Path(checkpoint).glob("rng_state_*.pth"))))


def sharded_by(checkpoint: str | Path) -> str | None:
    """Returns "FSDP" or "DeepSpeed" if it sharded a checkpoint's model; None if the model is whole."""
    if any(Path(checkpoint).glob("pytorch_model_fsdp*")):
        return "FSDP"
    return "DeepSpeed" if any(Path(checkpoint).glob("global_step*")) else None


def mixed_precision(args: TrainingArguments) -> str:
    """Returns the mixed precision of `TrainingArguments`, or else of the launcher: no, bf16 or fp16."""
    if args.fp16 or args.bf16:
        return "fp16" if args.fp16 else "bf16"
    return os.environ.get("ACCELERATE_MIXED_PRECISION", "no")


def tidy_up(folder: Path, checkpoint: str | None, args: TrainingArguments) -> None:
    """Deletes incomplete checkpoints that an interruption left, and surplus ones.

    `Trainer` goes by the modification time of a folder, which an interrupted deletion changes too. Without a
    `save_total_limit`, `Trainer` deletes nothing, so the user must have removed a missing optimizer: that checkpoint
    is kept.
    """
    limit = args.save_total_limit
    best = None if checkpoint is None else best_of(checkpoint)
    paths = []
    for path in _checkpoints(folder):
        is_broken = _state_of(path) is None or (limit and _missing_files(path, args) is not None)
        if not is_broken or path == Path(checkpoint or "") or (best is not None and path.name == best.name):
            paths.append(path)
        else:
            delete(path)
    if checkpoint is None or not limit:
        return
    kept = [path for path in paths[:-1] if best is not None and path.name == best.name]
    ordered = [path for path in paths[:-1] if path not in kept] + kept + paths[-1:]  # in the order of `Trainer`
    for path in ordered[: -max(limit, 1 + len(kept))]:
        if path != Path(checkpoint):
            delete(path)


def _checkpoints(folder: Path) -> list[Path]:
    """Returns the checkpoints of a run, complete or not, in the order of their steps."""
    paths = [path for path in folder.glob("checkpoint-*") if path.name.removeprefix("checkpoint-").isdigit()]
    return sorted(paths, key=step_of)


def _state_of(checkpoint: Path) -> dict | None:
    """Returns the trainer state, which is saved last; None if it is missing or incomplete."""
    try:
        state = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None  # a failing disk must raise: `tidy_up` deletes incomplete checkpoints
    return state if isinstance(state, dict) and "global_step" in state else None


def _missing_files(checkpoint: Path, args: TrainingArguments) -> str | None:
    state = _state_of(checkpoint)
    if state is None:
        return "its trainer_state.json is missing or incomplete"
    if os.path.basename(os.path.abspath(checkpoint)) != f"checkpoint-{state['global_step']}":
        return f"it was renamed: its run called it checkpoint-{state['global_step']}"
    missing = _missing_weights(checkpoint)
    if missing is not None or (args.save_only_model and ends_training(checkpoint)):
        return missing
    names = {path.name for path in checkpoint.iterdir()}
    if not names & _OPTIMIZERS and sharded_by(checkpoint) != "DeepSpeed":  # which saves its own
        return "it has no optimizer.pt"
    needed = [] if sharded_by(checkpoint) == "DeepSpeed" else ["scheduler.pt"]
    if mixed_precision(args) == "fp16" and "optimizer.pt" in names:
        needed.append("scaler.pt")
    count = processes_of(checkpoint)
    needed += ["rng_state.pth"] if count == 1 else [f"rng_state_{rank}.pth" for rank in range(count)]
    lacking = [name for name in needed if name not in names]
    if lacking:
        return f"it has no {' and no '.join(lacking)}"
    broken = [name for name in names if name.endswith((".pt", ".pth")) and not zipfile.is_zipfile(checkpoint / name)]
    return f"{broken[0]} is incomplete" if broken else None


def _missing_weights(checkpoint: Path) -> str | None:
    try:
        for path in checkpoint.glob("*.safetensors"):
            with safe_open(path, framework="pt") as file:  # compares the header with the file's size
                file.keys()
        index = checkpoint / "model.safetensors.index.json"
        shards = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values() if index.is_file() else ()
    except (FileNotFoundError, ValueError, SafetensorError) as error:
        return f"its weights cannot be read ({error})"
    lacking = sorted(name for name in set(shards) if not (checkpoint / name).is_file())
    if lacking:
        return f"it has no {lacking[0]}"
    has_weights = any(checkpoint.glob("*.safetensors")) or any(path.is_dir() for path in checkpoint.iterdir())
    return None if has_weights else "it has no model.safetensors"


def _missing_best(checkpoint: Path) -> str | None:
    best = best_of(checkpoint)
    if best is None or best == Path(os.path.abspath(checkpoint)):
        return None
    if not best.is_dir():
        return f"{best.name}, the best model so far, is not in the same folder"
    missing = _missing_weights(best)
    return None if missing is None else f"{best.name}, the best model so far, cannot be used: {missing}"
