"""Where a trainer's teacher signals come from: the model, run on each batch, or a cache of the training set."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedModel, TrainingArguments

from ckd_trainer.heads import Head
from ckd_trainer.models.stored_teacher import StoredTeacher
from ckd_trainer.teacher.cache import Contents, TeacherCache, is_complete, open_or_build
from ckd_trainer.teacher.cached import CachedTeacher, columns_of
from ckd_trainer.teacher.fingerprint import check_has_fingerprint, examples_fingerprint, model_fingerprint
from ckd_trainer.teacher.live import LiveTeacher
from ckd_trainer.teacher.signals import Logits, Signal
from ckd_trainer.utils.errors import InputError
from ckd_trainer.utils.processes import broadcast_from_main, placed_for_evaluation, whole_models
from ckd_trainer.utils.units import TEACHERS, UNITS, check_has_units, item_mask_of, teachers_view
from ckd_trainer.utils.wrapped_models import LABELS, asked_for, forward_arguments


class TeacherSource:
    """Returns the teacher's signals for a trainer's batches, the logits in the student's order of labels.

    Args:
        model: the teacher, or a `StoredTeacher`, whose weights are loaded only if they are needed.
        args, accelerator: those of the trainer.

    Attributes:
        also_cached: further signals for the cache, which later trainings read.
    """

    def __init__(self, model: PreTrainedModel | StoredTeacher, args: TrainingArguments, accelerator: Accelerator):
        self.model: Any = model
        self.args, self.accelerator = args, accelerator
        self.also_cached: list[Signal] = []
        self._placed: torch.nn.Module | None = None
        self._live: LiveTeacher | None = None
        self.cache: TeacherCache | None = None

    def fit(
        self,
        signals: Sequence[Signal],
        *,
        head: Head,
        logits: Logits | None,
        label_order: Sequence[int] | None,
        cache_dir: str | None,
        has_tokenizer: bool = False,
    ) -> None:
        """Sets what is read for a new student. On a copy, it leaves the original as it was.

        Args:
            signals: the signals that the terms read.
            head: the student's.
            logits: the signal of logits that the student's can be compared with, even if no term reads it; None if
                the heads differ.
            label_order: for each of the student's labels, its index among the teacher's; None if they are the same.
            cache_dir: the folder of caches; None to run the model on each batch.
            has_tokenizer: whether the teacher reads an encoding of its own, see `ckd_trainer.utils.units`.

        Raises:
            InputError: the model cannot be loaded, does not return what the signals read, or cannot be cached.
        """
        self.signals, self.head, self.logits, self.label_order = list(signals), head, logits, label_order
        self.cache_dir, self.has_tokenizer = cache_dir, has_tokenizer
        self.cache = self._live = None
        if not self.caches:
            self.model = self._loaded()
            asked_for(self.model, self.signals)
        elif not isinstance(self.model, StoredTeacher):
            check_has_fingerprint(self.model)

    def close(self) -> None:
        """Removes the hooks from the model."""
        if self._live is not None:
            self._live.listener.close()
            self._live = None

    @property
    def caches(self) -> bool:
        """Whether batches hold cached signals."""
        return bool(self.cache_dir)

    @property
    def input_names(self) -> set[str]:
        """The arguments of the model's forward method."""
        with whole_models(self.args):
            return self.model.input_names if isinstance(self.model, StoredTeacher) else forward_arguments(self.model)

    @property
    def columns(self) -> set[str]:
        """The columns of examples that the model and its signals read."""
        return {TEACHERS + name for name in {*self.input_names, UNITS}} if self.has_tokenizer else self.input_names

    def __call__(self, batch: Mapping[str, Tensor]) -> dict[Signal, Any]:
        """Returns the signals of a training batch."""
        return self._ordered(CachedTeacher(self.signals) if self.caches else self.live(), batch)

    def uncached(self) -> Callable[[Mapping[str, Tensor]], dict[Signal, Any]]:
        """Returns a function that runs the model on a batch of any examples and returns its signals."""
        return functools.partial(self._ordered, self.live())

    def _ordered(self, read: CachedTeacher | LiveTeacher, batch: Mapping[str, Tensor]) -> dict[Signal, Any]:
        if self.has_tokenizer:
            check_has_units(batch)
        return {signal: signal.in_order(value, self.label_order) for signal, value in read(batch).items()}

    def live(self) -> LiveTeacher:
        """Returns the teacher with its weights, even if batches hold cached signals."""
        if self.caches:
            return LiveTeacher(self._loaded().to(self.args.device), self.signals)
        if self._live is None:
            self._live = LiveTeacher(self.model, self.signals)
            if self._placed is None:  # once, however many students there are
                self._placed = placed_for_evaluation(self.model, self.accelerator)
            self._live.model = self._placed
        return self._live

    def live_logits(self, teacher: LiveTeacher, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor | None]:
        """Returns the logits of a batch, (batch, labels), and what `Head.unmapped` returns for them.

        Logits over tokens are (batch, labels, tokens), in token positions (see `ckd_trainer.utils.padding`), or
        (batch, labels, units) if the batch has units.
        """
        logits, view = teacher.logits(batch, self.logits), teachers_view(batch)
        packed = self.logits.pack(self.logits.of_units(logits, view), item_mask_of(batch))["logits"]
        return self._in_order(packed), self.head.unmapped(logits, view)

    def cached_logits(self, rows: Sequence[int] | np.ndarray) -> Tensor:
        """Returns the logits of some training examples from the open cache, shaped like those of `live_logits`."""
        columns = columns_of([self.logits])
        ((name, _),) = columns.items()
        return self._in_order(torch.from_numpy(self.cache.read(rows, columns)[name]))

    def _in_order(self, logits: Tensor) -> Tensor:
        return logits if self.label_order is None else logits[:, self.label_order]

    def has_cache(self, examples: Dataset) -> bool:
        """Returns whether the cache of these examples is complete: then the model's weights are not needed."""
        wanted = self._contents(examples)
        return broadcast_from_main(lambda: is_complete(self.cache_dir, wanted))

    def open_cache(
        self, examples: Dataset, collate: Callable[[list[dict]], dict[str, Tensor]], *, show_progress: bool
    ) -> None:
        """Opens the cache of these examples, and builds it first if there is none, see `open_or_build`."""
        stored = isinstance(self.model, StoredTeacher)
        origin = None if stored else self.model.device
        self.cache = open_or_build(
            self.cache_dir,
            self._contents(examples),
            self.cached_signals,
            examples,
            # Not prepared by Accelerate, which would keep a reference after the cache is complete.
            load_teacher=lambda: LiveTeacher(
                self._loaded().to(self.args.device), self.cached_signals, autocast=self.accelerator.autocast
            ),
            collate=collate,
            batch_size=self.args.per_device_eval_batch_size,
            accelerator=self.accelerator,
            show_progress=show_progress,
        )
        if origin is not None:
            self.model.to(origin)  # to free the device's memory for the student

    @property
    def cached_signals(self) -> list[Signal]:
        """The signals in the cache: the logits even if no term reads them, so that alpha may change."""
        logits, signals = self.logits, [*self.signals, *self.also_cached]
        if logits is not None and not logits.uncached_because:
            signals = [logits, *signals]
        return list(dict.fromkeys(signals))

    def _contents(self, examples: Dataset) -> Contents:
        check_has_rows(examples)
        model, reads = self.model, self.columns - {*LABELS}
        columns = [name for name in examples.column_names if name in reads]
        return broadcast_from_main(
            lambda: Contents(
                teacher=model.fingerprint() if isinstance(model, StoredTeacher) else model_fingerprint(model),
                examples=examples_fingerprint(examples, columns),
                precision=self.accelerator.mixed_precision,
                signals=tuple(sorted(signal.key for signal in self.cached_signals)),
            ),
        )

    def _loaded(self) -> PreTrainedModel:
        if not isinstance(self.model, StoredTeacher):
            return self.model
        with whole_models(self.args):
            return self.model.load()


def check_has_rows(examples: Any) -> None:
    """Raises InputError unless the examples can be cached: they have row numbers, and token ids are stored."""
    if not isinstance(examples, Dataset):
        raise InputError(
            f"teacher_cache_dir is set, but the training set is a {type(examples).__name__}: the cache needs a "
            "datasets.Dataset, whose rows have numbers."
        )
    if "input_ids" not in examples.column_names:
        raise InputError(
            "teacher_cache_dir is set, but the training set stores no input_ids, by which a cache knows its examples: "
            "encode the texts with map instead of a transform or a data collator, or leave teacher_cache_dir out."
        )
