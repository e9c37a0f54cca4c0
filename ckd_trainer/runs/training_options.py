"""Checks of `TrainingArguments`: values that it accepts, but `Trainer` fails on or does not do what they say."""

import inspect
import logging
import math

import torch
from accelerate.utils import DynamoBackend
from torch.utils.checkpoint import checkpoint
from transformers import TrainingArguments
from transformers.debug_utils import DebugOption
from transformers.integrations import INTEGRATION_TO_CALLBACK, get_available_reporting_integrations

from ckd_trainer.utils.errors import InputError

logger = logging.getLogger(__name__)

SCHEDULES_BY_METRIC = ("reduce_lr_on_plateau", "greedy")  # of the learning rate, by the scores of the validation set
_UNLISTED_TRACKERS = ("azure_ml", "flyte")  # that transformers does not list as available where they are
# What is refused, and why.
_REFUSED = {
    "batch_eval_metrics": "scores are of whole sets, not of batches: leave it out. eval_accumulation_steps moves "
    "predictions off the device while a set is evaluated",
    "auto_find_batch_size": "it would train with smaller batches than the recipe says where memory runs out: set a "
    "smaller per_device_train_batch_size and a larger gradient_accumulation_steps, which train alike",
    "enable_jit_checkpoint": "a run that SIGTERM stops would pass for a trained one: leave it out. SIGTERM and SIGINT "
    "save a checkpoint without it",
}


def check_options(args: TrainingArguments) -> None:
    """Raises InputError for values that `Trainer` fails on, or with which it would not do what they say."""
    for name, why in _REFUSED.items():
        if getattr(args, name, False):  # the oldest transformers 5 do not have all of them
            raise InputError(f"{name} is set, but {why}.")
    for name in ("fp16", "bf16"):
        if args.do_train and getattr(args, f"{name}_full_eval"):
            raise InputError(
                f"{name}_full_eval is set, but it would turn the trained weights to {name} for good: set {name}, "
                "which leaves them alone."
            )
    for name in ("warmup_steps", "eval_delay", "data_seed"):
        value = getattr(args, name)
        if value is not None and not (value >= 0 and math.isfinite(value)):
            raise InputError(f"{name} is {value}: give a number that is not negative.")
    if args.data_seed is not None and args.data_seed >= 2**32:
        raise InputError(f"data_seed is {args.data_seed}: give a number below {2**32}.")
    if args.max_steps != -1 and args.max_steps < 1:
        raise InputError(f"max_steps is {args.max_steps}: give 1 or more, or leave it out to train num_train_epochs.")
    for event in ("logging", "eval", "save"):
        steps = getattr(args, f"{event}_steps")
        if getattr(args, f"{event}_strategy") == "steps" and not (steps > 0 and math.isfinite(steps)):
            raise InputError(f"{event}_steps is {steps}: give a number above 0, or set {event}_strategy to no.")
    if args.save_total_limit is not None and args.save_total_limit < 1:
        raise InputError(
            f"save_total_limit is {args.save_total_limit}: give 1 or more, leave it out to keep all checkpoints, or "
            "set save_strategy to no."
        )
    if args.debug:
        why = (
            "it cannot look into the boolean masks that attention reads. Training stops with an error as soon as a "
            "weight is not finite"
            if DebugOption.UNDERFLOW_OVERFLOW in args.debug
            else "there are no TPUs here"
        )
        raise InputError(f"debug is {', '.join(args.debug)}, but {why}: leave it out.")
    _check_workers(args)
    _check_torch_options(args)
    _check_trackers(args)


def check_steps(args: TrainingArguments, examples: int) -> None:
    """Raises InputError where dataloader_drop_last leaves no step of this many training examples."""
    batch = args.per_device_train_batch_size
    if not args.accelerator_config.split_batches:
        batch *= args.world_size
    if args.dataloader_drop_last and examples < batch:
        raise InputError(
            f"dataloader_drop_last leaves nothing to train on: there are {examples} training examples, and a batch "
            f"takes {batch} (per_device_train_batch_size on each of {args.world_size} processes). Give a smaller "
            "per_device_train_batch_size, or leave dataloader_drop_last out."
        )
    if args.max_steps < 0 and args.num_train_epochs == 0:
        logger.warning("num_train_epochs is 0: the model is saved as it is, without training.")


def _check_workers(args: TrainingArguments) -> None:
    """Raises InputError for options of a data loader's workers where it has none, or that they cannot have."""
    if args.dataloader_num_workers == 0:
        # The oldest transformers 5 do not have dataloader_multiprocessing_context.
        for name in ("dataloader_persistent_workers", "dataloader_multiprocessing_context"):
            if getattr(args, name, None):
                raise InputError(f"{name} is set, but dataloader_num_workers is 0: set that to 1 or more.")
    if args.dataloader_prefetch_factor is not None and args.dataloader_prefetch_factor < 1:
        raise InputError(f"dataloader_prefetch_factor is {args.dataloader_prefetch_factor}: give 1 or more.")


def _check_trackers(args: TrainingArguments) -> None:
    """Raises InputError for a tracker that transformers does not know, or whose package is not installed."""
    for name in args.report_to:
        if name not in INTEGRATION_TO_CALLBACK:
            known = ", ".join(INTEGRATION_TO_CALLBACK)
            raise InputError(f"report_to is {name}, which transformers does not know: give none or some of {known}.")
        if name not in {*get_available_reporting_integrations(), *_UNLISTED_TRACKERS}:
            raise InputError(
                f"report_to is {name}, which is not installed or not set up: do so, or set report_to to none."
            )


def _check_torch_options(args: TrainingArguments) -> None:
    """Raises InputError for values that only torch knows, and refuses when training has begun."""
    known = inspect.signature(checkpoint).parameters.keys() - {"function", "args", "kwargs"}
    for name in args.gradient_checkpointing_kwargs or {}:  # activation_checkpointing_kwargs by its older name
        if name not in known:
            raise InputError(
                f"gradient_checkpointing_kwargs names {name}, which torch.utils.checkpoint does not have: it has "
                f"{', '.join(sorted(known))}."
            )
    backends = [backend.lower() for backend in DynamoBackend.list()]
    if args.torch_compile_backend and args.torch_compile_backend.lower() not in backends:
        raise InputError(f"torch_compile_backend is {args.torch_compile_backend}: give one of {', '.join(backends)}.")
    if args.torch_compile_mode:
        try:
            torch.compile(torch.nn.Identity(), mode=args.torch_compile_mode)  # compiles nothing before it is called
        except RuntimeError as error:
            if "mode" not in str(error):  # "Unrecognized mode=..., should be one of: ..."
                raise
            raise InputError(f"torch_compile_mode is {args.torch_compile_mode}: {error}.") from None
