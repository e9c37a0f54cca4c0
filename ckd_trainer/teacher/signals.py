"""The teacher as a source of signals: what the losses compare with, and nothing else of the model."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers.utils import ModelOutput

from ckd_trainer.losses import Gram, layer_gram, word_gram
from ckd_trainer.teacher.compact_gram import CompactGram, unpack_layers, unpack_words
from ckd_trainer.utils.padding import in_place
from ckd_trainer.utils.wrapped_models import LABELS, config_of, forward_arguments, output_options

PREFIX = "teacher_"  # of the cached signals in a batch, see `cache.SignalCollator`


@dataclass
class TeacherSignals:
    """What the teacher says about one batch; a field is None where no active loss reads it."""

    logits: Tensor | None = None  # see `head_logits`; in the student's label order
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
        self.by_name = outputs_by_name(model)
        self.model_outputs = output_options(model, model_outputs) | self.by_name
        self.word_layers = word_layers
        self.ltr_layers = ltr_layers
        self.label_order = label_order
        self.input_names = forward_arguments(model)

    @torch.no_grad()
    def __call__(self, batch: dict[str, Tensor]) -> TeacherSignals:
        outputs = self.model(**self._inputs(batch), **self.model_outputs)
        signals = TeacherSignals(logits=in_order(head_logits(outputs), self.label_order))
        mask = attention_mask_of(batch)
        if self.word_layers:
            signals.word_gram, _ = word_gram([outputs["hidden_states"][layer] for layer in self.word_layers], mask)
        if self.ltr_layers:
            signals.layer_gram, _ = layer_gram([outputs["hidden_states"][layer] for layer in self.ltr_layers], mask)
        return signals

    @torch.no_grad()
    def logits(self, batch: dict[str, Tensor]) -> Tensor:
        """Returns the logits alone."""
        return in_order(head_logits(self.model(**self._inputs(batch), **self.by_name)), self.label_order)

    def _inputs(self, batch):
        return {name: value for name, value in batch.items() if name in self.input_names and name not in LABELS}


class CachedTeacher:
    """Reads the signals that a batch carries, put there by `cache.SignalCollator`; runs no model.

    What is float32 there travels as int32 of the same bits, as some backends round every floating input of a batch.

    Args:
        label_order: as for `LiveTeacher`; the cache holds logits in the teacher's own order.
    """

    def __init__(self, *, label_order: Sequence[int] | None = None):
        self.label_order = label_order

    def __call__(self, batch: dict[str, Tensor]) -> TeacherSignals:
        signals, mask = TeacherSignals(logits=self._logits(batch)), attention_mask_of(batch)
        if PREFIX + "word_cosines" in batch:
            signals.word_gram = unpack_words(self._compact(batch, "word"), mask)
        if PREFIX + "layer_cosines" in batch:
            signals.layer_gram = unpack_layers(self._compact(batch, "layer"), mask)
        return signals

    def _logits(self, batch):
        if PREFIX + "logits" not in batch:
            raise ValueError(
                "the batch carries no teacher signals: with teacher_cache_dir, batches have to come from the "
                "trainer's get_train_dataloader()."
            )
        logits = batch[PREFIX + "logits"].view(torch.float32)
        if logits.dim() == 3:  # of spans, by token
            return in_place(logits, attention_mask_of(batch))
        return in_order(logits, self.label_order)

    def _compact(self, batch, relation):
        return CompactGram(
            batch[f"{PREFIX}{relation}_cosines"], batch[f"{PREFIX}{relation}_scales"].view(torch.float32)
        )


def head_logits(outputs: ModelOutput) -> Tensor:
    """Returns the logits of a model's head: (batch, labels), or (batch, 2, length) for where answers start and end."""
    if "start_logits" in outputs:
        return torch.stack((outputs["start_logits"], outputs["end_logits"]), dim=1)
    return outputs["logits"]


def outputs_by_name(model: torch.nn.Module) -> dict[str, bool]:
    """Returns what to ask a forward for where a model's configuration says that outputs come as a tuple."""
    return {} if getattr(config_of(model), "return_dict", True) else {"return_dict": True}


def in_order(logits: Tensor, label_order: Sequence[int] | None) -> Tensor:
    """Returns the teacher's logits in the student's label order."""
    return logits if label_order is None else logits[..., label_order]


def attention_mask_of(batch: dict[str, Tensor]) -> Tensor:
    """Returns the batch's attention mask; all ones where it has none, as nothing is padded then."""
    mask = batch.get("attention_mask")
    return torch.ones_like(batch["input_ids"]) if mask is None else mask
