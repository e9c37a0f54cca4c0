"""Dynamic models: one set of weights that holds students of several widths and depths, as in DynaBERT."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from ckd_trainer.models.linear_layers import linear_layers
from ckd_trainer.models.sizes import SHARED_HEADS, head_size
from ckd_trainer.models.student import layer_list
from ckd_trainer.models.subnetworks import SubNetwork, check_dynamic
from ckd_trainer.utils.errors import InputError


class DynamicModel:
    """Runs sub-networks of a model. They are slices of its weights, without copies.

    Outside `running`, the model is as it was: it has the same weights under the same names, in layers of the same
    classes.

    Args:
        model: of a family in `DYNAMIC`.

    Raises:
        InputError: another family, or linear layers that are not plain, such as quantized ones or adapters.

    Example::

        dynamic = DynamicModel(model)
        with dynamic.running(SubNetwork(width=0.5, depth=0.5)):
            logits = model(**batch).logits
    """

    def __init__(self, model: PreTrainedModel) -> None:
        check_dynamic(model.config, [])
        self.config = model.config
        self._layers: Any = model.get_submodule(layer_list(model))
        self._of_heads: list[tuple[nn.Module, str, int]] = []  # module, attribute, and its size per head
        self._of_neurons: list[tuple[nn.Module, str]] = []
        self._attentions: list[Any] = []
        self._head_size = size = head_size(self.config)
        for layer in linear_layers(model):
            projections = [model.get_submodule(name) for name in layer.projections]
            out, up, down = (model.get_submodule(name) for name in (layer.out, layer.up, layer.down))
            self._of_heads += [*((module, "rows", size) for module in projections), (out, "columns", size)]
            self._of_neurons += [(up, "rows"), (down, "columns")]
        if self.config.model_type in SHARED_HEADS:
            self._of_heads.append((model.base_model.encoder.relative_attention_bias, "columns", 1))
            self._attentions = [layer.attention.attn for layer in self._layers]
        for module, *_ in (*self._of_heads, *self._of_neurons, (self._layers,)):
            _check_plain(module)

    @contextlib.contextmanager
    def running(self, part: SubNetwork) -> Iterator[None]:
        """Within the context, the model is this sub-network. Checkpointed layers need it in the backward pass too.

        Contexts do not nest.
        """
        heads, neurons = part.heads(self.config), part.neurons(self.config)
        values: list[tuple[Any, str, Any]] = [(module, name, heads * size) for module, name, size in self._of_heads]
        values += [(module, name, neurons) for module, name in self._of_neurons]
        values.append((self._layers, "kept", [layer - 1 for layer in part.layers(self.config)]))
        for module, name, value in values:
            module.__class__ = _SLICED[type(module)]
            setattr(module, name, value)
        for attention in self._attentions:
            attention.all_head_size = heads * self._head_size  # by which MPNet joins the heads
        try:
            yield
        finally:
            for module, name, _ in values:
                delattr(module, name)
                module.__class__ = _PLAIN[type(module)]
            for attention in self._attentions:
                attention.all_head_size = self.config.num_attention_heads * self._head_size


class _Linear(nn.Linear):
    """A linear layer that uses its first rows and columns."""

    rows: int | None = None
    columns: int | None = None

    def forward(self, inputs: Tensor) -> Tensor:
        weight = self.weight[: self.rows, : self.columns]
        if weight.shape == self.weight.shape:
            return super().forward(inputs)
        return F.linear(inputs, weight, None if self.bias is None else self.bias[: self.rows])


class _Embedding(nn.Embedding):
    """An embedding that returns its first columns."""

    columns: int | None = None

    def forward(self, inputs: Tensor) -> Tensor:
        return super().forward(inputs)[..., : self.columns]


class _Layers(nn.ModuleList):
    """A list of layers, of which some are left out when they are run. It still names and saves all of them."""

    kept: Sequence[int]

    def __iter__(self) -> Iterator[nn.Module]:
        layers = list(self.children())
        return iter([layers[index] for index in self.kept])

    def __len__(self) -> int:
        return len(self.kept)

    def __getitem__(self, index: int) -> nn.Module:  # type: ignore[override]  # no model takes slices of its layers
        return list(self)[index]


# The class of a layer -> its class while a sub-network runs.
_SLICED: dict[type[nn.Module], type[nn.Module]] = {
    nn.Linear: _Linear,
    nn.Embedding: _Embedding,
    nn.ModuleList: _Layers,
}
_PLAIN = {sliced: plain for plain, sliced in _SLICED.items()}


def _check_plain(module: nn.Module) -> None:
    if type(module) not in _SLICED:
        kind = type(module)
        raise InputError(
            f"a layer of the student is a {kind.__module__}.{kind.__qualname__}, not a plain layer of torch, so it "
            "cannot have several widths and depths: merge adapters into the model first and give one that is not "
            "quantized, or leave student_widths and student_depths out."
        )
