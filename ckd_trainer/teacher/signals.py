"""Signals: quantities that are read from a forward pass, in the same way for student and teacher.

A signal defines which outputs of the forward pass, or which modules, it needs, and computes itself from them and the
batch. A cacheable signal also defines how it is stored per example, its size and its key. Equal signals of a model are
computed once, however many terms read them.
"""

import abc
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedConfig

from ckd_trainer.heads import Head
from ckd_trainer.losses import Gram, layer_gram, word_gram
from ckd_trainer.losses.logits import at_least_float32
from ckd_trainer.teacher.compact_gram import CompactGram, pack_layers, pack_words, unpack_layers, unpack_words
from ckd_trainer.teacher.projections import projections_of
from ckd_trainer.utils.errors import InputError
from ckd_trainer.utils.padding import attention_mask_of, by_token, to_positions
from ckd_trainer.utils.units import item_mask_of, pooled, pooling_of

Outputs = Mapping[str, Any]


@dataclass(frozen=True)
class Column:
    """The storage layout of one tensor of a cached signal: flat per example, without padding.

    Attributes:
        shape: the shape for one example, where "tokens" is its number of valid tokens and "pairs" the number of pairs
            of them.
        dtype: type of the elements.
    """

    shape: tuple[int | str, ...]
    dtype: str = "float32"

    def sizes(self, tokens: np.ndarray) -> list[np.ndarray | int]:
        """Returns the shape for examples with these numbers of valid tokens."""
        counts = {"tokens": tokens, "pairs": tokens * (tokens - 1) // 2}
        return [counts[size] if isinstance(size, str) else size for size in self.shape]

    def bytes(self, tokens: np.ndarray) -> np.ndarray:
        """Returns the bytes that examples with these numbers of valid tokens take."""
        total = np.full(len(tokens), np.dtype(self.dtype).itemsize)
        for size in self.sizes(tokens):
            total = total * size
        return total


class Signal(abc.ABC):
    """A quantity of a forward pass. Subclasses are frozen dataclasses: signals with equal fields are equal.

    Attributes:
        model_outputs: outputs that the forward pass must return: "hidden_states", "attentions".
        uncached_because: why the teacher cache cannot hold it; None if it can.
        unaligned_because: why it cannot be compared between models with different tokenizers; None if it can. Then
            `read`, or for the teacher `of_units`, returns the value of each unit instead of each token, if the batch
            has units (see `ckd_trainer.utils.units`).
        reads_first_token: whether it is about the special token that begins a text.
        reads_labels: whether it reads logits, so that student and teacher need the same labels.
        differentiates: whether `read` takes gradients of outputs. The forward pass then records its operations from
            the embeddings on, even if no weight is trained, as in the teacher. Training differentiates the student's
            gradients once more, which fused attention does not support: the student uses eager attention.
    """

    model_outputs: ClassVar[frozenset[str]] = frozenset()
    uncached_because: ClassVar[str | None] = "it is too large to store"
    unaligned_because: ClassVar[str | None] = "it describes tokens, and does not say how to combine those of a word"
    reads_first_token: ClassVar[bool] = False
    reads_labels: ClassVar[bool] = False
    differentiates: ClassVar[bool] = False

    @abc.abstractmethod
    def read(self, outputs: Outputs, batch: Mapping[str, Tensor]) -> Any:
        """Returns the signal of a batch.

        Args:
            outputs: those of the forward pass, and those of `modules`, by name; in float32 or wider.
        """

    def modules(self, model: torch.nn.Module) -> dict[str, torch.nn.Module]:
        """Returns further modules whose outputs `read` needs, by the name that it uses."""
        return {}

    def check(self, config: PreTrainedConfig) -> None:
        """Raises InputError if a model lacks what is read, such as a layer."""
        return

    def of_units(self, value: Any, batch: Mapping[str, Tensor]) -> Any:
        """Returns a value of the teacher that `read` has left as one of tokens as one of units, if there are any."""
        return value

    def in_order(self, value: Any, order: Sequence[int] | None) -> Any:
        """Returns a value of the teacher with its labels in the student's order, see `Head.label_order`."""
        return value

    @property
    def key(self) -> str:
        """The signal's identity in a cache: its class name and the fields that differ from their defaults."""
        fields = [
            f"{field.name}={getattr(self, field.name)}"
            for field in dataclasses.fields(self)  # type: ignore[arg-type]  # each subclass is a dataclass
            if field.compare and getattr(self, field.name) != field.default
        ]
        return f"{type(self).__name__}({', '.join(fields)})"

    def columns(self) -> dict[str, Column]:
        """Returns the columns that a cache stores, by name."""
        raise NotImplementedError(f"{type(self).__name__} is not cached")

    def pack(self, value: Any, mask: Tensor) -> dict[str, Tensor]:
        """Returns the columns of a batch, (batch, ...), with the values of valid tokens first.

        Args:
            mask: (batch, length), true or 1 for valid tokens, or (batch, units) for units.
        """
        raise NotImplementedError(f"{type(self).__name__} is not cached")

    def unpack(self, columns: Mapping[str, Tensor], mask: Tensor) -> Any:
        """Returns the signal of a batch from its columns, (batch, ...), padded with 0."""
        raise NotImplementedError(f"{type(self).__name__} is not cached")


@dataclass(frozen=True)
class Logits(Signal):
    """Logits of the model's head, in the model's own order of labels; `Head.logits` defines their shape.

    Args:
        head: reads them from the outputs.
        outputs: number of logits per example, or per token if the head classifies tokens.
    """

    head: Head = dataclasses.field(compare=False, repr=False)
    outputs: int
    reads_labels = True

    @property
    def uncached_because(self) -> str | None:  # type: ignore[override]  # here it depends on the head
        return self.head.uncached_because

    @property
    def unaligned_because(self) -> str | None:  # type: ignore[override]
        return self.head.unaligned_because

    @property
    def reads_first_token(self) -> bool:  # type: ignore[override]
        return self.head.reads_first_token

    @property
    def key(self) -> str:
        by_token = ", by token" if self.head.tokens_dim is not None else ""
        return f"Logits({self.outputs}{by_token})"

    def read(self, outputs: Outputs, batch: Mapping[str, Tensor]) -> Tensor:
        return self.head.logits(outputs)

    def of_units(self, value: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        return self.head.of_units(value, batch)

    def in_order(self, value: Tensor, order: Sequence[int] | None) -> Tensor:
        return self.head.in_order(value, order)

    def columns(self) -> dict[str, Column]:
        return {"logits": Column((self.outputs, "tokens") if self.head.tokens_dim is not None else (self.outputs,))}

    def pack(self, value: Tensor, mask: Tensor) -> dict[str, Tensor]:
        if self.head.tokens_dim is None:
            return {"logits": value.float()}
        return {"logits": by_token(value.float().movedim(self.head.tokens_dim, -1), mask)}

    def unpack(self, columns: Mapping[str, Tensor], mask: Tensor) -> Tensor:
        if self.head.tokens_dim is None:
            return columns["logits"]
        return to_positions(columns["logits"], mask).movedim(-1, self.head.tokens_dim)


@dataclass(frozen=True)
class _OfLayers(Signal):
    """Reads the outputs of some layers, counted from 1."""

    layers: tuple[int, ...]
    first: ClassVar[int] = 1

    def check(self, config: PreTrainedConfig) -> None:
        depth = config.num_hidden_layers
        outside = [layer for layer in self.layers if not self.first <= layer <= depth]
        if outside:
            raise InputError(
                f"{type(self).__name__} reads layer {outside[0]}, but the {config.model_type} model has layers "
                f"{self.first} to {depth}."
            )


@dataclass(frozen=True)
class _OfStates(_OfLayers):
    """Reads some hidden states: 0 is the output of the embeddings, l the output of layer l."""

    first = 0
    model_outputs = frozenset(["hidden_states"])

    def states(self, outputs: Outputs) -> list[Tensor]:
        """Returns the hidden states, (batch, length, width) each."""
        return [outputs["hidden_states"][layer] for layer in self.layers]


@dataclass(frozen=True)
class WordGram(_OfStates):
    """Inner products of an example's tokens in each layer: `Gram` of (batch, layers) sets of `length` items."""

    uncached_because = unaligned_because = None

    def read(self, outputs: Outputs, batch: Mapping[str, Tensor]) -> Gram:
        return word_gram(self.states(outputs), item_mask_of(batch), pooling_of(batch))[0]

    def columns(self) -> dict[str, Column]:
        layers = len(self.layers)
        return {"cosines": Column((layers, "pairs"), "int16"), "scales": Column((layers, 2, "tokens"))}

    def pack(self, value: Gram, mask: Tensor) -> dict[str, Tensor]:
        packed = pack_words(value, mask)
        return {"cosines": packed.cosines, "scales": packed.scales}

    def unpack(self, columns: Mapping[str, Tensor], mask: Tensor) -> Gram:
        return unpack_words(CompactGram(**columns), mask)


@dataclass(frozen=True)
class LayerGram(_OfStates):
    """Inner products of a token's states in all layers: `Gram` of (batch, length) sets of `layers` items."""

    uncached_because = unaligned_because = None

    def read(self, outputs: Outputs, batch: Mapping[str, Tensor]) -> Gram:
        return layer_gram(self.states(outputs), item_mask_of(batch), pooling_of(batch))[0]

    def columns(self) -> dict[str, Column]:
        layers = len(self.layers)
        cosines = Column(("tokens", layers * (layers - 1) // 2), "int16")
        return {"cosines": cosines, "scales": Column(("tokens", 2, layers))}

    def pack(self, value: Gram, mask: Tensor) -> dict[str, Tensor]:
        packed = pack_layers(value, mask)
        return {"cosines": packed.cosines, "scales": packed.scales}

    def unpack(self, columns: Mapping[str, Tensor], mask: Tensor) -> Gram:
        return unpack_layers(CompactGram(**columns), mask)


@dataclass(frozen=True)
class FirstToken(_OfStates):
    """The hidden states of the first token after any padding ([CLS] in BERT-like models), (batch, layers, width).

    Args:
        layers: hidden states to read; 0 is the output of the embeddings.
        width: of the hidden states; the cache needs it.
    """

    width: int
    uncached_because = unaligned_because = None
    reads_first_token = True

    def read(self, outputs: Outputs, batch: Mapping[str, Tensor]) -> Tensor:
        first = attention_mask_of(batch).bool().int().argmax(-1)
        rows = torch.arange(len(first), device=first.device)
        return torch.stack([state[rows, first] for state in self.states(outputs)], dim=1)

    def columns(self) -> dict[str, Column]:
        return {"states": Column((len(self.layers), self.width))}

    def pack(self, value: Tensor, mask: Tensor) -> dict[str, Tensor]:
        return {"states": value.float()}

    def unpack(self, columns: Mapping[str, Tensor], mask: Tensor) -> Tensor:
        return columns["states"]


@dataclass(frozen=True)
class HiddenStates(_OfStates):
    """The hidden states themselves: a list of (batch, length, width)."""

    unaligned_because = None

    def read(self, outputs: Outputs, batch: Mapping[str, Tensor]) -> list[Tensor]:
        pooling = pooling_of(batch)
        return [pooled(state, pooling) for state in self.states(outputs)]


@dataclass(frozen=True)
class ProjectedStates(_OfStates):
    """Hidden states of the student after one learned linear layer: a list of (batch, length, width).

    The trainer puts the linear layer into the student while it trains, see `ckd_trainer.training.projections`. A term
    compares the states with `HiddenStates` of the teacher.

    Args:
        layers: hidden states to read; 0 is the output of the embeddings.
        own_width: of the student's hidden states.
        width: of the projected states.
    """

    own_width: int
    width: int
    unaligned_because = None

    def projection(self) -> torch.nn.Linear:
        """Returns the linear layer, newly initialized."""
        return torch.nn.Linear(self.own_width, self.width)

    def read(self, outputs: Outputs, batch: Mapping[str, Tensor]) -> list[Tensor]:
        pooling = pooling_of(batch)
        return [pooled(at_least_float32(state), pooling) for state in outputs["hidden_states"][-1][self.key]]


@dataclass(frozen=True)
class Attentions(_OfLayers):
    """Attention probabilities of layers 1, 2, ...: a list of (batch, heads, length, length).

    The models run with eager attention, the only implementation that returns them.
    """

    model_outputs = frozenset(["attentions"])
    unaligned_because = "each token's attention is divided among the tokens of its own model"

    def check(self, config: PreTrainedConfig) -> None:
        super().check(config)
        if config.model_type == "longformer":
            raise InputError(
                "a term of the loss reads attentions, which longformer models return for a window around each token, "
                "not for all pairs of tokens: set the weight of the term to 0."
            )

    def read(self, outputs: Outputs, batch: Mapping[str, Tensor]) -> list[Tensor]:
        return [outputs["attentions"][layer - 1] for layer in self.layers]


@dataclass(frozen=True)
class QueryKeyValue(_OfLayers):
    """Queries, keys and values of layers 1, 2, ...: for each layer three tensors (batch, length, width).

    They are outputs of the model's projection modules; `projections_of` knows these for some model families.
    """

    unaligned_because = "queries and keys describe attention between the tokens of one model"

    def modules(self, model: torch.nn.Module) -> dict[str, torch.nn.Module]:
        return {
            f"{part} {layer}": module for layer in self.layers for part, module in projections_of(model, layer).items()
        }

    def read(self, outputs: Outputs, batch: Mapping[str, Tensor]) -> list[tuple[Tensor, ...]]:
        return [_query_key_value(outputs, layer) for layer in self.layers]


def _query_key_value(outputs: Outputs, layer: int) -> tuple[Tensor, ...]:
    joint = outputs.get(f"query_key_value {layer}")
    if joint is None:
        parts = [outputs[f"{part} {layer}"] for part in ("query", "key", "value")]
    else:
        parts = joint.chunk(3, dim=-1)
    # Modules return the precision of autocast, whereas a forward pass returns float32.
    return tuple(at_least_float32(part) for part in parts)
