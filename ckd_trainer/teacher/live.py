"""The teacher as a model that runs on each batch."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ckd_trainer.heads import Head
from ckd_trainer.teacher.signals import Listener, Signal
from ckd_trainer.utils.wrapped_models import LABELS, asked_for, forward_arguments


class LiveTeacher:
    """Runs the teacher model on each batch, and nothing else of it is seen than signals.

    Args:
        model: the teacher, placed where the batches are. It is frozen and put in eval mode here, for good.
        signals: what is read of it.

    Example::

        teacher = LiveTeacher(model, [WordGram((0, 2, 4, 6))])
        teacher(batch)[WordGram((0, 2, 4, 6))]
    """

    def __init__(self, model: torch.nn.Module, signals: Sequence[Signal]) -> None:
        self.model: Any = model.eval().requires_grad_(False)
        self.signals = list(signals)
        self.options = asked_for(model, signals)
        self.input_names = forward_arguments(model)
        self.listener = Listener(model, signals)

    @torch.no_grad()
    def __call__(self, batch: Mapping[str, Tensor]) -> dict[Signal, Any]:
        outputs = dict(self.model(**self._inputs(batch), **self.options)) | self.listener.drain()
        return {signal: signal.read(outputs, batch) for signal in self.signals}

    @torch.no_grad()
    def logits(self, batch: Mapping[str, Tensor], head: Head) -> Tensor:
        """Returns the logits alone, in the teacher's own order of labels."""
        outputs = self.model(**self._inputs(batch), **asked_for(self.model, []))
        self.listener.drain()
        return head.logits(outputs)

    def _inputs(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: value for name, value in batch.items() if name in self.input_names and name not in LABELS}
