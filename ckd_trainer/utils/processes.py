"""Coordination of the processes of a run: shared decisions, errors, models and datasets."""

import contextlib
import copy
import gc
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import datasets
import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import broadcast_object_list, gather_object, parse_flag_from_env
from filelock import FileLock, Timeout
from transformers import TrainingArguments
from transformers.integrations.deepspeed import set_hf_deepspeed_config, unset_hf_deepspeed_config

from ckd_trainer.utils.errors import FailedOnAnotherRank, InputError, InputErrorOnAnotherRank
from ckd_trainer.utils.files import input_errors_about, told_without_room

Result = TypeVar("Result")


def check_one_device(args: TrainingArguments) -> None:
    """Raises InputError for several GPUs in one process, which `Trainer` would wrap in torch.nn.DataParallel."""
    if args.n_gpu > 1:
        raise InputError(
            f"there are {args.n_gpu} GPUs but one process, which would use torch.nn.DataParallel: start one process "
            f"per GPU with `accelerate launch --num_processes {args.n_gpu}` instead of `python`, or choose one with "
            "CUDA_VISIBLE_DEVICES=0."
        )


def is_sharded(args: TrainingArguments) -> bool:
    """Returns whether training shards models, by FSDP or DeepSpeed."""
    by_launcher = any(map(parse_flag_from_env, ("ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED")))
    return bool(args.fsdp or args.deepspeed) or by_launcher


def placed_for_evaluation(model: torch.nn.Module, accelerator: Accelerator) -> torch.nn.Module:
    """Returns an inference-only model, on this process's device and with the run's mixed precision.

    Each process holds the whole model. It needs no DDP, as it has no gradients. Sharding by FSDP or ZeRO would cost
    communication and save no gradients or optimizer states. A model that was loaded in shards, as `from_pretrained`
    does under ZeRO 3, stays sharded; DeepSpeed gathers it layer by layer.
    """
    if not any(hasattr(parameter, "ds_id") for parameter in model.parameters()):
        # Under FSDP, sharding would place the model, but this one is not sharded.
        return accelerator.prepare_model(model, device_placement=True, evaluation_mode=True)
    import deepspeed

    config = copy.deepcopy(accelerator.state.deepspeed_plugin.deepspeed_config)
    for training in ("optimizer", "scheduler"):
        config.pop(training, None)
    engine, *_ = deepspeed.initialize(model=model, config=config)
    engine.eval()
    return engine


def broadcast_from_main(function: Callable[[], Result]) -> Result:
    """Runs a function in the main process; returns its result, or raises, in all processes."""
    state = PartialState()
    answer: list[Any] = [in_all_processes(function if state.is_main_process else lambda: None)]
    if state.num_processes > 1:
        broadcast_object_list(answer)
    return answer[0]


def in_all_processes(function: Callable[[], Result]) -> Result:
    """Runs a function in every process and returns its result. If it raises in any, all raise, so that none hangs.

    Raises:
        Exception: the function's own exception in this process. Of several `InputError`s, only that of the first
            process is kept.
        InputErrorOnAnotherRank: it raised an `InputError` in another process, with the same message.
        FailedOnAnotherRank: it raised something else in another process, which prints the traceback.
    """
    result: Any = None
    error: Exception | None = None
    try:
        result = function()
    except Exception as exception:  # of any kind: the other processes must be told
        error = exception
    code = error.exit_code if isinstance(error, InputError) else None
    outcomes = [error and (code, type(error).__name__, str(error))]
    if PartialState().num_processes > 1:
        outcomes = gather_object(outcomes)
    failures = [(rank, *outcome) for rank, outcome in enumerate(outcomes) if outcome]
    bugs = [(rank, f"{kind}: {text}") for rank, code, kind, text in failures if code is None]
    inputs = [(rank, text, code) for rank, code, _, text in failures if code is not None]
    if error is not None and (not isinstance(error, InputError) or inputs[0][0] == PartialState().process_index):
        raise error
    if bugs:
        raise FailedOnAnotherRank(*bugs[0])
    if inputs:
        raise InputErrorOnAnotherRank(*inputs[0][1:])
    return result


@contextlib.contextmanager
def whole_models(args: TrainingArguments) -> Iterator[None]:
    """Models made in this context are whole, even under ZeRO 3, where transformers would shard them."""
    unset_hf_deepspeed_config()
    try:
        yield
    finally:
        if getattr(args, "hf_deepspeed_config", None) is not None:
            set_hf_deepspeed_config(args.hf_deepspeed_config)


def destroy_process_group() -> None:
    """Destroys the process group at the end of a script; a process that exits without this may abort."""
    if PartialState().num_processes > 1:
        gc.collect()  # objects that use the group, such as DDP, would otherwise wait for it forever
        # torch 2.7 destroys a gloo group without releasing the GIL, for which a thread of the group may be waiting to
        # free the tensors of the last all-reduce: both would wait forever. Here, the thread gets the GIL.
        time.sleep(0.1)
        PartialState().destroy_process_group()


@contextlib.contextmanager
def made_once(make: Callable[[], datasets.DatasetDict]) -> Iterator[datasets.DatasetDict]:
    """Makes datasets in one process of each machine; all its processes then memory-map them from disk.

    The files are in the cache folder of `datasets` and are deleted at the end. The next run deletes those of a killed
    run. A single process keeps its datasets in place.
    """
    state = PartialState()
    if state.num_processes == 1:
        yield make()
        return
    with contextlib.ExitStack() as stack:

        def write() -> str | None:
            if not state.is_local_main_process:
                return None
            sets = make()
            with told_without_room(Path(datasets.config.HF_DATASETS_CACHE), "HF_DATASETS_CACHE", "the beginning"):
                folder = stack.enter_context(scratch_folder())
                sets.save_to_disk(folder)
            return str(folder)

        folders = gather_object([in_all_processes(write)])
        folder = folders[state.process_index - state.local_process_index]
        # No process continues, and deletes the folder, before all have opened it.
        yield in_all_processes(lambda: datasets.load_from_disk(folder))


@contextlib.contextmanager
def scratch_folder() -> Iterator[Path]:
    """Makes a folder for this process in the cache folder of `datasets`; it exists as long as the context."""
    parent = Path(datasets.config.HF_DATASETS_CACHE)
    with contextlib.ExitStack() as stack:
        with input_errors_about(parent):
            folder = stack.enter_context(_folder_of_this_process(parent))
        yield folder


@contextlib.contextmanager
def _folder_of_this_process(parent: Path) -> Iterator[Path]:
    """Makes a folder that exists as long as the context, and deletes the folders of killed processes.

    A lock beside it shows that its process is alive.
    """
    parent.mkdir(parents=True, exist_ok=True)
    for path in parent.glob("ckd-trainer-*.lock"):
        with contextlib.suppress(Timeout), FileLock(path, timeout=0):
            shutil.rmtree(path.with_suffix(""), ignore_errors=True)
            path.unlink()
    folder = parent / f"ckd-trainer-{uuid.uuid4().hex}"
    with FileLock(f"{folder}.lock"):
        try:
            folder.mkdir()
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            Path(f"{folder}.lock").unlink(missing_ok=True)
