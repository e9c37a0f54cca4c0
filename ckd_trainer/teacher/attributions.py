"""A signal that takes gradients: how much each token contributes to what a model decides about its text."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig

from ckd_trainer.heads import Head
from ckd_trainer.losses.attributions import token_attributions
from ckd_trainer.losses.logits import at_least_float32
from ckd_trainer.teacher.signals import Column, Outputs, Signal
from ckd_trainer.utils.errors import InputError
from ckd_trainer.utils.padding import by_token, to_positions
from ckd_trainer.utils.wrapped_models import inner_model


@dataclass(frozen=True)
class Attributions(Signal):
    """How much each token contributes to the decisions of the model about its text: (batch, decisions, length).

    |dz/de * e|, with z a decision of the head and e the token's embedding, with position and normalization (hidden
    state 0).

    Args:
        head: reads the decisions from the outputs.
        decisions: their number.
        top_k: only this many elements of dz/de * e, the largest, count; None for all.
    """

    head: Head = dataclasses.field(compare=False, repr=False)
    decisions: int
    top_k: int | None = None
    model_outputs = frozenset(["hidden_states"])
    uncached_because = None
    unaligned_because = "a word's share in a decision is not the mean of what its tokens contribute"
    reads_labels = True
    differentiates = True

    def check(self, config: PreTrainedConfig) -> None:
        if config.model_type == "longformer":
            raise InputError(
                "a term of the loss, such as attribution, takes gradients by the embeddings, but longformer models "
                "return copies of them, cut to the length of the text: set the weight of the term to 0."
            )

    @property
    def key(self) -> str:
        top = "" if self.top_k is None else f", top {self.top_k}"
        return f"Attributions({self.decisions}, {self.head.name}{top})"

    def modules(self, model: torch.nn.Module) -> dict[str, torch.nn.Module]:
        # The states in the outputs of a model that is prepared for training may be copies, which its logits do not
        # depend on: mixed precision converts them, and DDP clones them.
        return {"base model": inner_model(model).base_model}

    def read(self, outputs: Outputs, batch: Mapping[str, Tensor]) -> Tensor:
        embeddings = outputs["base model"]["hidden_states"][0]
        with torch.autocast(embeddings.device.type, enabled=False):  # not made for backward passes
            with torch.enable_grad():
                decisions: Any = self.head.decisions(at_least_float32(self.head.logits(outputs)))
                # Texts do not depend on each other: the gradient of their sum is that of each.
                sums = decisions.sum(0).unbind()
            gradients = [
                torch.autograd.grad(one, embeddings, retain_graph=True, create_graph=torch.is_grad_enabled())[0]
                for one in sums
            ]
            return torch.stack([token_attributions(one, embeddings, self.top_k) for one in gradients], dim=1)

    def in_order(self, value: Tensor, order: Sequence[int] | None) -> Tensor:
        return value if order is None or len(order) != self.decisions else value[:, order]

    def columns(self) -> dict[str, Column]:
        return {"attributions": Column((self.decisions, "tokens"))}

    def pack(self, value: Tensor, mask: Tensor) -> dict[str, Tensor]:
        return {"attributions": by_token(value.float(), mask)}

    def unpack(self, columns: Mapping[str, Tensor], mask: Tensor) -> Tensor:
        return to_positions(columns["attributions"], mask)
