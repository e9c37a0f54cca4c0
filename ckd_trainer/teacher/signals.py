"""Signals: quantities that are read from a forward pass, the same for student and teacher.

A signal says what the forward is asked for, or which modules it listens to, and computes itself from the outputs and
the batch. One that can be cached also says how the teacher's is written for each example and read back, how much room
it takes, and by which key a cache knows it. Equal signals of one model are computed once, whatever terms read them.
"""

import abc
import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
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
from ckd_trainer.utils.padding import attention_mask_of, by_token, in_place

Outputs = Mapping[str, Any]


@dataclass(frozen=True)
class Column:
    """How one tensor of a cached signal is stored: flat for each example, without what padding holds.

    Attributes:
        shape: of an example's part, where "tokens" stands for its number of valid tokens and "pairs" for how many
            pairs of them there are.
        dtype: of its numbers.
    """

    shape: tuple[int | str, ...]
    dtype: str = "float32"

    def sizes(self, tokens: np.ndarray) -> list[np.ndarray | int]:
        """Returns the shape for examples with so many valid tokens."""
        counts = {"tokens": tokens, "pairs": tokens * (tokens - 1) // 2}
        return [counts[size] if isinstance(size, str) else size for size in self.shape]

    def bytes(self, tokens: np.ndarray) -> np.ndarray:
        """Returns how many bytes the numbers of examples with so many valid tokens take."""
        total = np.full(len(tokens), np.dtype(self.dtype).itemsize)
        for size in self.sizes(tokens):
            total = total * size
        return total


class Signal(abc.ABC):
    """A quantity of a forward pass. Subclasses are frozen dataclasses: signals with equal fields are equal.

    Attributes:
        model_outputs: what the forward is asked for: "hidden_states", "attentions".
        uncached_because: why no cache of the teacher can hold it; None: one can.
    """

    model_outputs: ClassVar[frozenset[str]] = frozenset()
    uncached_because: ClassVar[str | None] = "it is too large to store"

    @abc.abstractmethod
    def read(self, outputs: Outputs, batch: Mapping[str, Tensor]) -> Any:
        """Returns the signal of a batch.

        Args:
            outputs: of the model's forward, and what `modules` gave, by name; in float32 or wider.
        """

    def modules(self, model: torch.nn.Module) -> dict[str, torch.nn.Module]:
        """Returns the modules whose outputs it reads beside those of the forward, by the name that it reads."""
        return {}

    def check(self, config: PreTrainedConfig) -> None:
        """Raises InputError for a model that does not have what is read, such as a layer beyond its depth."""
        return

    @property
    def key(self) -> str:
        """What a cache knows it by: its name and the fields that are not at their defaults."""
        fields = [
            f"{field.name}={getattr(self, field.name)}"
            for field in dataclasses.fields(self)  # type: ignore[arg-type]  # each subclass is a dataclass
            if field.compare and getattr(self, field.name) != field.default
        ]
        return f"{type(self).__name__}({', '.join(fields)})"

    def columns(self) -> dict[str, Column]:
        """Returns what a cache stores, by name."""
        raise NotImplementedError(f"{type(self).__name__} is not cached")

    def pack(self, value: Any, mask: Tensor) -> dict[str, Tensor]:
        """Returns the columns of a batch, (batch, ...): what belongs to valid tokens comes first.

        Args:
            mask: (batch, length), true or 1 for valid tokens.
        """
        raise NotImplementedError(f"{type(self).__name__} is not cached")

    def unpack(self, columns: Mapping[str, Tensor], mask: Tensor) -> Any:
        """Returns the signal of a batch from its columns, (batch, ...), padded with 0."""
        raise NotImplementedError(f"{type(self).__name__} is not cached")


@dataclass(frozen=True)
class Logits(Signal):
    """Logits of the model's head, in its own order of labels: see `Head.logits` for their shape.

    Args:
        head: says where they are in the outputs.
        outputs: how many an example has, or, where they go through tokens, a token.
    """

    head: Head = dataclasses.field(compare=False, repr=False)
    outputs: int

    @property
    def uncached_because(self) -> str | None:  # type: ignore[override]  # here it depends on the head
        return self.head.uncached_because

    @property
    def key(self) -> str:
        by_token = ", by token" if self.head.tokens_dim is not None else ""
        return f"Logits({self.outputs}{by_token})"

    def read(self, outputs: Outputs, batch: Mapping[str, Tensor]) -> Tensor:
        return self.head.logits(outputs)

    def columns(self) -> dict[str, Column]:
        return {"logits": Column((self.outputs, "tokens") if self.head.tokens_dim is not None else (self.outputs,))}

    def pack(self, value: Tensor, mask: Tensor) -> dict[str, Tensor]:
        if self.head.tokens_dim is None:
            return {"logits": value.float()}
        return {"logits": by_token(value.float().movedim(self.head.tokens_dim, -1), mask)}

    def unpack(self, columns: Mapping[str, Tensor], mask: Tensor) -> Tensor:
        if self.head.tokens_dim is None:
            return columns["logits"]
        return in_place(columns["logits"], mask).movedim(-1, self.head.tokens_dim)


@dataclass(frozen=True)
class _OfLayers(Signal):
    """Reads some layers, counted from 1."""

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
    """Reads some hidden states: 0 is what the embeddings give, l the output of layer l."""

    first = 0
    model_outputs = frozenset(["hidden_states"])

    def states(self, outputs: Outputs) -> list[Tensor]:
        """Returns the hidden states, (batch, length, width) each."""
        return [outputs["hidden_states"][layer] for layer in self.layers]


@dataclass(frozen=True)
class WordGram(_OfStates):
    """Inner products of an example's tokens in each layer: `Gram` of (batch, layers) sets of `length` items."""

    uncached_because = None

    def read(self, outputs: Outputs, batch: Mapping[str, Tensor]) -> Gram:
        return word_gram(self.states(outputs), attention_mask_of(batch))[0]

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

    uncached_because = None

    def read(self, outputs: Outputs, batch: Mapping[str, Tensor]) -> Gram:
        return layer_gram(self.states(outputs), attention_mask_of(batch))[0]

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
    """The hidden states of the first token that is no padding ([CLS] in BERT-like models), (batch, layers, width).

    Args:
        layers: 0 is what the embeddings give.
        width: of the hidden states, which a cache has to know.
    """

    width: int
    uncached_because = None

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
    """The hidden states themselves, a list of (batch, length, width)."""

    def read(self, outputs: Outputs, batch: Mapping[str, Tensor]) -> list[Tensor]:
        return self.states(outputs)


@dataclass(frozen=True)
class Attentions(_OfLayers):
    """Attention probabilities of layers 1, 2, ...: a list of (batch, heads, length, length).

    The models run with eager attention, as no other kind returns them.
    """

    model_outputs = frozenset(["attentions"])

    def read(self, outputs: Outputs, batch: Mapping[str, Tensor]) -> list[Tensor]:
        return [outputs["attentions"][layer - 1] for layer in self.layers]


@dataclass(frozen=True)
class QueryKeyValue(_OfLayers):
    """Queries, keys and values of layers 1, 2, ...: for each layer three tensors (batch, length, width).

    They come from the projections within the model, see `projections_of` for the families whose modules we know.
    """

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
    # Modules compute in the precision of autocast; the outputs of a forward come in float32.
    return tuple(at_least_float32(part) for part in parts)


class Listener:
    """Captures what some modules of a model return in a forward.

    Args:
        model: whose modules.
        signals: they say which.
    """

    def __init__(self, model: torch.nn.Module, signals: Sequence[Signal]):
        self._captured: dict[str, Tensor] | None = None
        modules = {name: module for signal in signals for name, module in signal.modules(model).items()}
        self._hooks = [module.register_forward_hook(self._keeper(name)) for name, module in modules.items()]

    def _keeper(self, name: str) -> Callable[[torch.nn.Module, Any, Tensor], None]:
        def keep(module: torch.nn.Module, inputs: Any, output: Tensor) -> None:
            # The first call in a forward: DeBERTa projects positions by the same modules. And none outside of one:
            # checkpointed layers run again in the backward pass.
            if self._captured is not None:
                self._captured.setdefault(name, output)

        return keep

    @contextlib.contextmanager
    def capturing(self) -> Iterator[dict[str, Tensor]]:
        """Captures within the context, into the mapping that it gives, by the names that signals read."""
        captured: dict[str, Tensor] = {}
        self._captured = captured
        try:
            yield captured
        finally:
            self._captured = None

    def close(self) -> None:
        """Takes the hooks off the model."""
        for hook in self._hooks:
            hook.remove()
