"""The encoded data of a task, made once on each machine, and samples of it."""

import contextlib
from collections.abc import Iterator
from typing import Any

import datasets
import numpy as np
from datasets import Dataset, DatasetDict

from ckd_trainer.data.tokenizer_pair import Tokenizer
from ckd_trainer.data.unlabeled import load_unlabeled
from ckd_trainer.losses.ranking import GROUP
from ckd_trainer.runs.stages import Stage
from ckd_trainer.runs.unlabeled import mixed_share
from ckd_trainer.tasks.base import ModelInputs, Task
from ckd_trainer.training.unlabeled import sizes_of
from ckd_trainer.utils.files import told_without_room
from ckd_trainer.utils.processes import in_all_processes, made_once, scratch_folder


@contextlib.contextmanager
def unlabeled_texts(task: Task) -> Iterator[Dataset]:
    """Reads the texts without labels once on each machine, and keeps them on disk."""
    with contextlib.ExitStack() as stack:

        def make() -> DatasetDict:
            with told_without_room(datasets.config.HF_DATASETS_CACHE, "HF_DATASETS_CACHE", "the beginning"):
                folder = stack.enter_context(scratch_folder())
                return DatasetDict({"texts": load_unlabeled(task.args, task.unlabeled_columns, folder)})

        yield stack.enter_context(made_once(make))["texts"]


@contextlib.contextmanager
def encoded_inputs(task: Task, tokenizer: Tokenizer, unlabeled: Dataset | None) -> Iterator[ModelInputs]:
    """Encodes the task's data once on each machine."""
    if task.keeps_inputs:
        task.inputs = in_all_processes(lambda: task.encode(tokenizer))
        yield task.inputs
        return

    def make() -> DatasetDict:
        inputs = task.encode(tokenizer)
        sets = {"train": inputs.train} if inputs.train is not None else {}
        if unlabeled is not None:
            with told_without_room(datasets.config.HF_DATASETS_CACHE, "HF_DATASETS_CACHE", "the beginning"):
                sets["unlabeled"] = task.encode_unlabeled(unlabeled, tokenizer)
        sets |= {f"validation-{name}": data for name, data in inputs.validation.items()}
        return DatasetDict(sets | {f"test-{name}": data for name, data in inputs.test.items()})

    with made_once(make) as sets:

        def named(split: str) -> dict[str, Dataset]:
            return {key.removeprefix(split): data for key, data in sets.items() if key.startswith(split)}

        task.inputs = ModelInputs(sets.get("train"), named("validation-"), named("test-"), sets.get("unlabeled"))
        yield task.inputs


def examples_of_epoch(task: Task, stage: Stage) -> int:
    """Returns how many examples an epoch of a stage draws, with those without labels."""
    inputs = task.inputs
    if task.group_size is not None:
        return task.group_size * len(set(inputs.train[GROUP][:]))
    share = mixed_share(task.args, distills=stage.distills)
    if share is None:
        return len(inputs.unlabeled if inputs.train is None else inputs.train)
    labeled, unlabeled = sizes_of(share, stage.args)
    return len(inputs.train) + round(len(inputs.train) * unlabeled / labeled)


def drawn_texts(data: Any, examples: Dataset, seed: int, count: int) -> Iterator[tuple[str, ...]]:
    """Returns a sample of the examples, each with one text per text column."""
    sample = examples.select(drawn(examples, seed, count))
    return zip(*(sample[name] for name in data.text_columns), strict=True)


def drawn(examples: Dataset, seed: int, count: int) -> np.ndarray:
    """Returns the places of up to `count` examples in random order."""
    return np.random.default_rng(seed).permutation(len(examples))[:count]
