"""What a narrower model keeps of a wide one: principal components of the hidden states, attention heads and neurons.

All layers read and write the same hidden states, and so share one basis of them. Units behind an activation function
cannot be mixed: of neurons, and of a head's hidden units, those are kept that contribute most. The same goes for
attention heads, whose own dimensions may be mixed again.
"""

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from ckd_trainer.models.linear_layers import LinearLayers, linear_layers, name_of
from ckd_trainer.models.sizes import SHARED_HEADS, head_size, size_of
from ckd_trainer.utils.padding import attention_mask_of

# The modules of a head whose outputs are units of its own, and then the linear layer that reads these.
_HEADS = (
    ("pooler.dense", "classifier"),
    ("classifier.dense", "classifier.out_proj"),
    ("pre_classifier", "classifier"),
    ("head.dense", "head.norm", "classifier"),
)


@dataclass
class Kept:
    """The projections from the wide model's vectors to the narrow model's: matrices (narrow, wide).

    Their rows are orthonormal, but for those of queries and keys: the transpose leads back.

    Attributes:
        hidden: of the hidden states.
        outputs: of what a module returns, by its name, unless these are hidden states.
        inputs: of what a linear layer reads, by its name, unless these are hidden states.
    """

    hidden: Tensor
    outputs: dict[str, Tensor] = field(default_factory=dict)
    inputs: dict[str, Tensor] = field(default_factory=dict)


class Recorded:
    """A model, and what its linear layers read for a batch, by the name of the layer.

    If a layer is called several times, only the first call counts.
    """

    def __init__(self, model: PreTrainedModel, batch: Mapping[str, Tensor]) -> None:
        self.model, self.batch, self.mask = model, batch, attention_mask_of(batch).bool()
        self.modules = dict(model.named_modules())
        self.states: dict[str, Tensor] = {}
        with torch.no_grad(), before_linear_layers(model, self.states.setdefault):
            model(**batch)

    def vectors(self, states: Tensor) -> Tensor:
        """Returns states as a matrix with one vector per row, without those of padding."""
        by_token = states.dim() == 3 and states.shape[:2] == self.mask.shape
        return states[self.mask] if by_token else states.flatten(0, -2)

    def read(self, name: str) -> Tensor:
        """Returns the vectors that a linear layer reads."""
        return self.vectors(self.states[name])

    def written(self, name: str) -> Tensor:
        """Returns the vectors that a linear layer returns."""
        return self.modules[name](self.read(name))

    def importance(self, name: str) -> Tensor:
        """Returns the variance that each input of a linear layer causes in its outputs."""
        return self.read(name).var(0, correction=0) * self.modules[name].weight.square().sum(0)


@contextlib.contextmanager
def before_linear_layers(model: nn.Module, call: Callable[[str, Tensor], Any]) -> Iterator[None]:
    """Calls `call(name, states)` before a linear layer reads states, within the context."""

    def hook(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def before(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            call(name, inputs[0])

        return before

    hooks = [
        module.register_forward_pre_hook(hook(name))
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
    ]
    try:
        yield
    finally:
        for each in hooks:
            each.remove()


def kept_dimensions(wide: Recorded, config: PreTrainedConfig) -> Kept:
    """Returns what a model of this configuration keeps."""
    model = wide.model
    layers = linear_layers(model)
    readers = [name for layer in layers for name in (layer.projections[0], layer.up)]
    kept = Kept(
        _hidden_basis(torch.stack([_covariance(wide.read(name)) for name in readers]).sum(0), config.hidden_size)
    )
    _keep_heads(kept, wide, layers, config)
    for layer in layers:
        units = _largest(wide.importance(layer.down), size_of(config, "intermediate_size"))
        gates = wide.modules[layer.up].out_features // wide.modules[layer.down].in_features  # 2 with a gate
        kept.inputs[layer.down], kept.outputs[layer.up] = units, torch.block_diag(*[units] * gates)
    for first, *others, last in _HEADS:
        found = [name for name in (first, f"{model.base_model_prefix}.{first}") if name in wide.states]
        if found and last in wide.states:
            kept.inputs[last] = _largest(wide.importance(last), config.hidden_size)
            kept.outputs |= dict.fromkeys([*found, *others], kept.inputs[last])
    return kept


def _hidden_basis(covariance: Tensor, size: int) -> Tensor:
    """Returns an orthonormal basis (size, width) of most of the variance of hidden states.

    Of the states, `LayerNorm` subtracts the mean over dimensions and divides by their standard deviation. It does the
    same in the basis, as far as the states lie in it: the vector of ones is in the span and has equal coordinates.
    Otherwise the basis is turned at random, because the weights of `LayerNorm` act on single coordinates.
    """
    width = len(covariance)
    if size == width:
        return torch.eye(width)
    ones = torch.ones(width, 1).double() / math.sqrt(width)
    centering = torch.eye(width) - ones @ ones.T
    components = torch.linalg.eigh(centering @ covariance @ centering).eigenvectors[:, width - size + 1 :]
    noise = torch.randn(size, size - 1, generator=torch.Generator().manual_seed(0))
    turn = torch.linalg.qr(torch.cat([torch.ones(size, 1), noise], dim=1).double()).Q
    return (turn * turn[0, 0].sign() @ torch.cat([ones, components], dim=1).T).float()


def _keep_heads(kept: Kept, wide: Recorded, layers: list[LinearLayers], config: PreTrainedConfig) -> None:
    """Adds the attention heads that a model of this configuration keeps.

    A head that is smaller than the wide model's is one of these, projected. A larger one is several, joined: their
    scores add up.
    """
    model = wide.model
    heads, size, narrow_size = model.config.num_attention_heads, head_size(model.config), head_size(config)
    joined = max(1, narrow_size // size)
    importance = [_head_importance(wide, layer.out, heads) for layer in layers]
    if model.config.model_type in SHARED_HEADS:
        importance = [torch.stack(importance).sum(0)] * len(layers)
    for (projections, out, _, _), values in zip(layers, importance, strict=True):
        chosen = _largest(values, config.num_attention_heads * joined)
        parts = [chosen.kron(torch.eye(size))] * 3
        if narrow_size < size:
            parts = _smaller_heads(wide, projections, out, chosen.argmax(1).tolist(), (size, narrow_size))
        kept.inputs[out] = parts[2]
        parts[0] = parts[0] * math.sqrt(narrow_size / size)  # attention divides the scores by the root of the size
        if len(projections) == 1:
            parts = [torch.block_diag(*parts)]
        for name, part in zip(projections, parts, strict=True):
            module, _, projection = name.rpartition(".")
            kept.outputs |= {name: part, f"{module}.pos_{projection}": part}  # DeBERTa projects positions too
    if model.config.model_type in SHARED_HEADS:
        positions = chosen.view(config.num_attention_heads, joined, heads).sum(1)
        kept.inputs[name_of(model, model.base_model.encoder.relative_attention_bias)] = positions


def _head_importance(wide: Recorded, out: str, heads: int) -> Tensor:
    """Returns the variance that each attention head adds to the hidden states."""
    weight = wide.modules[out].weight
    shares = _covariance(wide.read(out)) * (weight.T @ weight)
    return shares.view(heads, len(shares) // heads, heads, -1).sum((1, 3)).diagonal()


def _smaller_heads(
    wide: Recorded, projections: list[str], out: str, chosen: list[int], sizes: tuple[int, int]
) -> list[Tensor]:
    """Returns the projections of queries, keys and values to smaller heads.

    Args:
        chosen: the heads.
        sizes: dimensions of a head, now and then.
    """
    size, narrow_size = sizes
    query, key, value = wide.written(projections[0]), wide.written(projections[1]), wide.read(out)
    parts = torch.zeros(3, len(chosen), narrow_size, query.shape[1])
    for index, head in enumerate(chosen):
        dims = slice(head * size, (head + 1) * size)
        components = torch.linalg.eigh(_covariance(value[:, dims])).eigenvectors[:, -narrow_size:].T
        of_scores = _score_components(query[:, dims], key[:, dims], narrow_size)
        parts[:, index, :, dims] = torch.stack([*of_scores, components.float()])
    return list(parts.flatten(1, 2))


def _score_components(query: Tensor, key: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Returns the projections of queries and keys (n, width) to a size that change their products least."""
    roots = []
    for vectors in (query, key):
        values, basis = torch.linalg.eigh((vectors.T @ vectors / len(vectors)).double())
        roots.append(basis * values.clamp_min(0).sqrt() @ basis.T)
    left, strength, right = torch.linalg.svd(roots[0] @ roots[1])
    scale = strength[:size].clamp_min(1e-12).rsqrt()
    return ((roots[1] @ right[:size].T * scale).T.float(), (roots[0] @ left[:, :size] * scale).T.float())


def _largest(values: Tensor, count: int) -> Tensor:
    """Returns the matrix (count, n) that selects the largest of n values, in their order."""
    return torch.eye(len(values))[values.topk(count).indices.sort().values]


def _covariance(vectors: Tensor) -> Tensor:
    return torch.cov(vectors.T, correction=0).double()
