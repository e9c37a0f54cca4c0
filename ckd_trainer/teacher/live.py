"""A teacher that runs on each batch."""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from accelerate.utils import recursively_apply
from torch import Tensor

from ckd_trainer.teacher.listener import Listener
from ckd_trainer.teacher.signals import Logits, Signal
from ckd_trainer.utils.units import teachers_view
from ckd_trainer.utils.wrapped_models import (
    LABELS,
    asked_for,
    config_of,
    forward_arguments,
    named_outputs,
    use_eager_attention,
)


class _SignalReader:
    """Runs a model on each batch and returns its signals, see `LiveTeacher`."""

    def __init__(
        self,
        model: torch.nn.Module,
        signals: Sequence[Signal],
        *,
        autocast: Callable[[], contextlib.AbstractContextManager] = contextlib.nullcontext,
    ):
        for signal in signals:
            signal.check(config_of(model))
        if any("attentions" in signal.model_outputs for signal in signals):
            use_eager_attention(model)
        self.model, self.signals, self.autocast = model, list(signals), autocast
        self.differentiates = any(signal.differentiates for signal in signals)
        self.input_names = forward_arguments(model)
        # A decoder would keep the keys and values of each batch, and take texts packed into a row for one.
        self.without_cache = {"use_cache": False} if "use_cache" in self.input_names else {}
        self.options = asked_for(model, signals) | self.without_cache
        self.listener = Listener(model, signals)

    @torch.no_grad()
    def __call__(self, batch: Mapping[str, Tensor]) -> dict[Signal, Any]:
        with torch.set_grad_enabled(self.differentiates), self.autocast(), self.listener.capturing() as captured:
            outputs = self.model(**self._inputs(batch), **self.options)
        outputs = named_outputs(self.model, outputs) | captured
        values = {signal: signal.of_units(signal.read(outputs, batch), batch) for signal in self.signals}
        return recursively_apply(Tensor.detach, values) if self.differentiates else values

    def _inputs(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: value for name, value in batch.items() if name in self.input_names and name not in LABELS}


class LiveTeacher(_SignalReader):
    """Runs the teacher model on each batch and returns its signals.

    Args:
        model: the teacher, on the device of the batches. It is frozen and put in evaluation mode, permanently.
        signals: the signals to read.
        autocast: returns the context for the forward pass; not needed for a model prepared by Accelerate.

    Example::

        teacher = LiveTeacher(model, [WordGram((0, 2, 4, 6))])
        teacher(batch)[WordGram((0, 2, 4, 6))]
    """

    def __init__(self, model: torch.nn.Module, signals: Sequence[Signal], **kwargs: Any):
        super().__init__(model, signals, **kwargs)
        self.model.eval().requires_grad_(False)

    def __call__(self, batch: Mapping[str, Tensor]) -> dict[Signal, Any]:
        return super().__call__(teachers_view(batch))

    @torch.no_grad()
    def logits(self, batch: Mapping[str, Tensor], signal: Logits) -> Tensor:
        """Returns only the logits, in the teacher's own order of labels and, if they are about tokens, for its own."""
        batch = teachers_view(batch)
        outputs = self.model(**self._inputs(batch), **asked_for(self.model, []), **self.without_cache)
        return signal.read(named_outputs(self.model, outputs), batch)


class TeachingStudent(_SignalReader):
    """Runs a student that teaches its own sub-networks: it is in evaluation mode only while it runs."""

    @torch.no_grad()
    def __call__(self, batch: Mapping[str, Tensor]) -> dict[Signal, Any]:
        was_training = self.model.training
        self.model.eval()
        try:
            return super().__call__(batch)
        finally:
            self.model.train(was_training)
