"""A sub-network of a dynamic model as a plain model of transformers."""

import copy
import math

import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from ckd_trainer.heads.labels import THRESHOLDS
from ckd_trainer.models.linear_layers import linear_layers, name_of
from ckd_trainer.models.sizes import SHARED_HEADS, head_size, set_size
from ckd_trainer.models.student import student_from_layers
from ckd_trainer.models.subnetworks import SUBNETWORKS, SubNetwork, config_at_depth


def extract(model: PreTrainedModel, part: SubNetwork) -> PreTrainedModel:
    """Returns a plain model that computes what a sub-network computes, up to rounding.

    Neurons and layers are those of the sub-network. Configurations of these families define the size of a head as
    hidden_size / num_attention_heads, so transformers has no model with fewer heads of the same size. The heads are
    made larger instead: a sub-network's k heads become the smallest number of heads, at least k, that divides the
    hidden size, each padded with zeros. The projections of attention keep their full size, but there are fewer
    attention matrices to compute.

    Args:
        model: a whole dynamic model, whose weights are copied.
    """
    config = config_at_depth(model.config, part)
    vars(config).pop(SUBNETWORKS, None)
    if part != SubNetwork():
        vars(config).pop(THRESHOLDS, None)  # those of the whole student
    heads = padded_heads(model.config, part)
    narrow = copy.deepcopy(config)
    narrow.num_attention_heads = heads
    set_size(narrow, "intermediate_size", part.neurons(model.config))
    plain = student_from_layers(model, part.layers(model.config), config).to(model.dtype)
    result = type(plain)(narrow).to(model.dtype).eval()
    kept, neurons = part.heads(model.config), part.neurons(model.config)
    size, padded = head_size(model.config), head_size(narrow)
    state = plain.state_dict()

    def pad(weight: Tensor, dim: int) -> Tensor:
        """Spreads the kept heads over the larger ones."""
        by_head = weight.narrow(dim, 0, kept * size).unflatten(dim, (kept, size))
        shape = list(by_head.shape)
        shape[dim : dim + 2] = heads, padded
        target = by_head.new_zeros(shape)
        target.narrow(dim, 0, kept).narrow(dim + 1, 0, size).copy_(by_head)
        return target.flatten(dim, dim + 1)

    for layer in linear_layers(plain):
        for place, name in enumerate(layer.projections):
            # Attention divides by the root of the size of a head.
            factor = math.sqrt(padded / size) if place == 0 else 1.0
            for kind in ("weight", "bias"):
                state[f"{name}.{kind}"] = factor * pad(state[f"{name}.{kind}"], 0)
        state[f"{layer.out}.weight"] = pad(state[f"{layer.out}.weight"], 1)
        for kind in ("weight", "bias"):
            state[f"{layer.up}.{kind}"] = state[f"{layer.up}.{kind}"][:neurons]
        state[f"{layer.down}.weight"] = state[f"{layer.down}.weight"][:, :neurons]
    if config.model_type in SHARED_HEADS:
        name = f"{name_of(plain, plain.base_model.encoder.relative_attention_bias)}.weight"
        bias = state[name]
        state[name] = torch.cat([bias[:, :kept], bias.new_zeros(len(bias), heads - kept)], dim=1)
    result.load_state_dict(state)
    return result


def padded_heads(config: PreTrainedConfig, part: SubNetwork) -> int:
    """Returns the number of heads of a plain model for a sub-network."""
    kept = part.heads(config)
    return next(count for count in range(kept, config.num_attention_heads + 1) if config.hidden_size % count == 0)
