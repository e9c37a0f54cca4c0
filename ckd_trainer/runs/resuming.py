"""Checks that a run can resume from a checkpoint exactly: same model, processes and position in the data."""

import math
import os
from pathlib import Path

from safetensors import safe_open
from torch import Tensor
from transformers import PreTrainedModel, Trainer, TrainerState, TrainingArguments

from ckd_trainer.data.streams import BlockStream
from ckd_trainer.models.adapters import ADAPTER, adapter_weights
from ckd_trainer.runs.checkpoints import ends_training, sharded_by
from ckd_trainer.utils.errors import InputError
from ckd_trainer.utils.processes import broadcast_from_main
from ckd_trainer.utils.wrapped_models import has_adapters

# Configuration entries set by loading, training and saving, which do not affect the meaning of the weights.
_OF_NO_MATTER = {"_name_or_path", "transformers_version", "architectures", "dtype", "torch_dtype", "problem_type"}


def check_same_processes(saved: str, there: int, args: TrainingArguments) -> None:
    """Raises InputError if `there` processes saved a checkpoint or a stage, and this run has another number."""
    here = args.world_size
    if there == here or args.save_on_each_node:  # each machine has only its own processes' states
        return
    batch, accumulated = args.per_device_train_batch_size, args.gradient_accumulation_steps
    step = batch * accumulated * there
    restart = f"accelerate launch --num_processes {there}" if there > 1 else "python in place of accelerate launch"
    same_step = (
        f"gradient_accumulation_steps {step // (batch * here)} keeps"
        if step % (batch * here) == 0
        else f"per_device_train_batch_size x gradient_accumulation_steps x {here} = {step} keeps"
    )
    raise InputError(
        f"{saved} was saved by {_processes(there)}, but this run has {here}: a step would have "
        f"{batch * accumulated * here} examples instead of {step}, and other random numbers. Start "
        f"{_processes(there)} ({restart}). Or train a new run with {_processes(here)} in another output_dir, where "
        f"{same_step} a step at {step} examples."
    )


def check_resumes_exactly(trainer: Trainer, checkpoint: str, *, trains_on: bool) -> None:
    """Raises InputError if a checkpoint has another model, sharding or position in the data than this run."""
    broadcast_from_main(lambda: check_same_model(trainer.model, checkpoint))
    if not trains_on and broadcast_from_main(lambda: ends_training(checkpoint)):
        return
    theirs = broadcast_from_main(lambda: sharded_by(checkpoint))
    ours = "FSDP" if trainer.is_fsdp_enabled else "DeepSpeed" if trainer.is_deepspeed_enabled else None
    if ours != theirs:
        raise InputError(
            f"{checkpoint} was saved {_with(theirs)}, but this run is {_with(ours)}: start it as before, with the "
            "same configuration of accelerate launch."
        )
    if not trainer.args.ignore_data_skip:  # with it, training starts at the first batch
        _check_same_place(trainer, checkpoint)


def check_same_model(model: PreTrainedModel, checkpoint: str) -> None:
    """Raises InputError if a checkpoint's configuration or weights are not those of this model."""
    ours = model.config.to_dict()
    theirs = type(model.config).from_json_file(os.path.join(checkpoint, "config.json")).to_dict()
    different = [
        f"{name} {value!r} there, {ours.get(name)!r} here"
        for name, value in theirs.items()
        if ours.get(name) != value and name not in _OF_NO_MATTER and not name.endswith("_token_id")
    ]
    adapts = has_adapters(model)
    weights = Path(checkpoint) / (ADAPTER if adapts else "model.safetensors")
    if not different and weights.is_file():
        different = _different_shapes(adapter_weights(model) if adapts else model.state_dict(), weights)
    if different:
        raise InputError(
            f"{checkpoint} is from another model than the student ({', '.join(different[:3])}): resume with the "
            "options of its run, or use it as the student of a new one (model_name_or_path)."
        )


def steps_of(trainer: Trainer) -> tuple[int, int, int]:
    """Returns the batches per epoch and process, the steps per epoch, and the steps of the whole training."""
    args = trainer.args
    batches = len(trainer.get_train_dataloader())
    steps = max(1, math.ceil(batches / args.gradient_accumulation_steps))
    return batches, steps, args.max_steps if args.max_steps > 0 else math.ceil(args.num_train_epochs * steps)


def _check_same_place(trainer: Trainer, checkpoint: str) -> None:
    """Raises InputError if a checkpoint's step is at another position in the data than in this run."""
    if isinstance(trainer.train_dataset, BlockStream):
        return  # it has no end, so its length, and with it the epoch, only says how long this run trains
    state = TrainerState.load_from_json(os.path.join(checkpoint, "trainer_state.json"))
    batches, steps, _ = steps_of(trainer)
    epochs, more = divmod(state.global_step, steps)
    epoch = epochs + min(1, more * trainer.args.gradient_accumulation_steps / batches)
    if not math.isclose(epoch, state.epoch, abs_tol=1e-6):
        raise InputError(
            f"{checkpoint} is at epoch {state.epoch:.4g} of its run, but step {state.global_step} of this one is at "
            f"epoch {epoch:.4g}: it resumes only with the same number of training examples, the same batches and the "
            "same steps. To train its weights in another way, use it as the student of a new run "
            "(model_name_or_path)."
        )


def _different_shapes(tensors: dict[str, Tensor], weights: Path) -> list[str]:
    with safe_open(weights, framework="pt") as file:
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}
    saved = {tensors[name].data_ptr() for name in shapes if name in tensors}
    different = [f"{name} is not in the student" for name in shapes if name not in tensors]
    for name, tensor in tensors.items():
        if name in shapes and shapes[name] != tuple(tensor.shape):
            different.append(f"{name} {shapes[name]} there, {tuple(tensor.shape)} here")
        elif name not in shapes and tensor.data_ptr() not in saved:  # only one of tied weights is saved
            different.append(f"{name} is only in the student")
    return different


def _processes(count: int) -> str:
    return f"{count} processes" if count > 1 else "1 process"


def _with(sharding: str | None) -> str:
    return f"with {sharding}" if sharding else "without FSDP and DeepSpeed"
