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

    The model itself stays as it is: it has the same weights under the same names, and outside `running` it runs whole.

    Args:
        model: of a family in `DYNAMIC`.

    Raises:
        InputError: another family, or linear layers that are not plain, such as quantized ones.

    Example::

        dynamic = DynamicModel(model)
        with dynamic.running(SubNetwork(width=0.5, depth=0.5)):
            logits = model(**batch).logits
    """

    def __init__(self, model: PreTrainedModel) -> None:
        check_dynamic(model.config, [])
        self.config = model.config
        self._layers: Any = model.get_submodule(layer_list(model))
        _become(self._layers, nn.ModuleList, _Layers)
        self._layers.kept = range(self.config.num_hidden_layers)
        self._of_heads: list[tuple[nn.Module, str, int]] = []  # module, attribute, and its size per head
        self._of_neurons: list[tuple[nn.Module, str]] = []
        size = head_size(self.config)
        for layer in linear_layers(model):
            projections = [model.get_submodule(name) for name in layer.projections]
            out, up, down = (model.get_submodule(name) for name in (layer.out, layer.up, layer.down))
            for module in (*projections, out, up, down):
                _become(module, nn.Linear, _Linear)
            self._of_heads += [*((module, "rows", size) for module in projections), (out, "columns", size)]
            self._of_neurons += [(up, "rows"), (down, "columns")]
        if self.config.model_type in SHARED_HEADS:
            bias = model.base_model.encoder.relative_attention_bias
            _become(bias, nn.Embedding, _Embedding)
            self._of_heads.append((bias, "columns", 1))
            # MPNet joins the heads by their whole size.
            self._of_heads += [(layer.attention.attn, "all_head_size", size) for layer in self._layers]
        self._use(SubNetwork())

    @contextlib.contextmanager
    def running(self, part: SubNetwork) -> Iterator[None]:
        """Within the context, the model is this sub-network. Checkpointed layers need it in the backward pass too."""
        self._use(part)
        try:
            yield
        finally:
            self._use(SubNetwork())

    def _use(self, part: SubNetwork) -> None:
        heads, neurons = part.heads(self.config), part.neurons(self.config)
        for module, name, size in self._of_heads:
            setattr(module, name, heads * size)
        for module, name in self._of_neurons:
            setattr(module, name, neurons)
        self._layers.kept = [layer - 1 for layer in part.layers(self.config)]


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


def _become(module: Any, plain: type[nn.Module], kind: type[nn.Module]) -> None:
    """Changes the class of a module, which keeps its weights, hooks and place in the model."""
    if type(module) is kind:
        return
    if type(module) is not plain:
        raise InputError(
            f"a layer of the student is a {type(module).__name__}, not a plain {plain.__name__}, so it cannot have "
            "several widths and depths: leave student_widths and student_depths out."
        )
    module.__class__ = kind
