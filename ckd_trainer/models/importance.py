"""Importance of attention heads and neurons, and their order in a dynamic model: the most important come first."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ckd_trainer.models.linear_layers import LinearLayers, linear_layers
from ckd_trainer.models.sizes import SHARED_HEADS, head_size


class Importance(NamedTuple):
    """The importance of the parts of a layer: heads (h), and neurons (n)."""

    heads: Tensor
    neurons: Tensor


def importance(model: PreTrainedModel, losses: Iterable[Callable[[], Tensor]]) -> list[Importance]:
    """Returns the importance of the heads and neurons of each layer, as DynaBERT (Hou et al. 2020) defines it.

    It estimates by how much the loss would change without them. Summed over batches, with the gradients of each batch
    on its own (DynaBERT's code adds them up over batches):

    - of a head, |dL / dx|, where x = 1 multiplies its attention probabilities. As the head acts through the columns
      W_h of the layer after attention alone, this is |sum(W_h * dL/dW_h)|;
    - of neuron i, |sum(W1_i * dL/dW1_i) + b1_i dL/db1_i| + |sum(W2_:i * dL/dW2_:i)|, with the rows W1 and b1 of the
      layer before the neurons, and the columns W2 of the one after them.

    Args:
        model: in the mode in which it is to be measured; evaluation mode is without dropout.
        losses: each returns the loss of a batch.
    """
    layers = linear_layers(model)
    totals: list[Importance] = []
    weights = {name: model.get_submodule(name).weight for layer in layers for name in layer[1:]}
    weights |= {f"{layer.up}.bias": model.get_submodule(layer.up).bias for layer in layers}
    size = head_size(model.config)
    for loss in losses:
        gradients = torch.autograd.grad(loss(), list(weights.values()))
        products = {
            name: (weight.detach() * gradient)
            for (name, weight), gradient in zip(weights.items(), gradients, strict=True)
        }
        found = [_of_layer(layer, products, size) for layer in layers]
        totals = [Importance(*map(torch.add, *pair)) for pair in zip(totals, found, strict=True)] if totals else found
    return totals


def _of_layer(layer: LinearLayers, products: dict[str, Tensor], size: int) -> Importance:
    heads = products[layer.out].sum(0).unflatten(0, (-1, size)).sum(-1).abs()
    before = products[layer.up].sum(1) + products[f"{layer.up}.bias"]
    return Importance(heads, before.abs() + products[layer.down].sum(0).abs())


def rewire(model: PreTrainedModel, found: list[Importance]) -> None:
    """Reorders heads and neurons in each layer so that the most important come first; the outputs stay the same.

    The order of heads is common to all layers where these share a bias per head (MPNet).
    """
    size = head_size(model.config)
    of_heads = [each.heads for each in found]
    shares = model.config.model_type in SHARED_HEADS
    if shares:
        of_heads = [torch.stack(of_heads).sum(0)] * len(found)
    with torch.no_grad():
        for layer, each, values in zip(linear_layers(model), found, of_heads, strict=True):
            heads = _descending(values)
            dims = (heads[:, None] * size + torch.arange(size, device=heads.device)).flatten()
            neurons = _descending(each.neurons)
            for name in layer.projections:
                _reorder(model.get_submodule(name), dims, dim=0)
            _reorder(model.get_submodule(layer.out), dims, dim=1)
            _reorder(model.get_submodule(layer.up), neurons, dim=0)
            _reorder(model.get_submodule(layer.down), neurons, dim=1)
        if shares:
            _reorder(model.base_model.encoder.relative_attention_bias, heads, dim=1)


def _descending(values: Tensor) -> Tensor:
    return values.argsort(descending=True, stable=True)


def _reorder(module: Any, order: Tensor, dim: int) -> None:
    module.weight.copy_(module.weight.index_select(dim, order))
    bias = getattr(module, "bias", None)
    if dim == 0 and bias is not None:
        bias.copy_(bias[order])
