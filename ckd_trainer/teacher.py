"""The teacher as a source of signals: what the losses compare with, and nothing else of the model."""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ckd_trainer.losses import Gram, layer_gram, word_gram


@dataclass
class TeacherSignals:
    """What the teacher says about one batch; a field is None where no active loss reads it."""

    logits: Tensor | None = None  # (batch, labels), in the student's label order
    word_gram: Gram | None = None  # sets (batch, matched layers) of tokens
    layer_gram: Gram | None = None  # sets (batch, length) of matched layers


class LiveTeacher:
    """Runs the teacher model on each batch.

    Args:
        model: the teacher, placed where the batches are. It is frozen and put in eval mode here, for good.
        model_outputs: what its forward is asked for, such as {"output_hidden_states": True}.
        word_layers, ltr_layers: the hidden states that the word and the layer-transforming relation read.
        label_order: for each of the student's labels, its index in the teacher's logits; None: the same order.

    Example::

        teacher = LiveTeacher(model, model_outputs={"output_hidden_states": True}, word_layers=[0, 2, 4, 6])
        teacher(batch).word_gram
    """

    def __init__(
        self,
        model: torch.nn.Module,
        *,
        model_outputs: dict[str, bool],
        word_layers: Sequence[int] = (),
        ltr_layers: Sequence[int] = (),
        label_order: Sequence[int] | None = None,
    ):
        self.model = model.eval().requires_grad_(False)
        self.model_outputs = model_outputs
        self.word_layers = word_layers
        self.ltr_layers = ltr_layers
        self.label_order = None if label_order is None else torch.tensor(label_order)
        self.input_names = forward_arguments(model)

    @torch.no_grad()
    def __call__(self, batch: dict[str, Tensor]) -> TeacherSignals:
        inputs = {name: value for name, value in batch.items() if name in self.input_names and name != "labels"}
        outputs = self.model(**inputs, **self.model_outputs)
        signals = TeacherSignals(logits=outputs.logits)
        if self.label_order is not None:
            self.label_order = self.label_order.to(signals.logits.device)  # a copy at the first batch only
            signals.logits = signals.logits.index_select(-1, self.label_order)
        mask = batch["attention_mask"]
        if self.word_layers:
            signals.word_gram, _ = word_gram([outputs.hidden_states[layer] for layer in self.word_layers], mask)
        if self.ltr_layers:
            signals.layer_gram, _ = layer_gram([outputs.hidden_states[layer] for layer in self.ltr_layers], mask)
        return signals


def forward_arguments(model: torch.nn.Module) -> set[str]:
    """Returns the names of the arguments that a model's `forward` takes."""
    return set(inspect.signature(type(model).forward).parameters) - {"self", "kwargs"}
