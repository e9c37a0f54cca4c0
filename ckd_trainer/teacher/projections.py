"""The modules that compute the queries, keys and values of a layer, by model family."""

import torch

from ckd_trainer.utils.errors import InputError
from ckd_trainer.utils.wrapped_models import config_of, inner_model

_SEPARATE = ("query", "key", "value")
# `model_type` -> the list of layers in the base model, and a layer's three modules, or the one that computes all
# three.
_PLACES = {
    **dict.fromkeys(
        ("bert", "camembert", "electra", "roberta", "xlm-roberta"),
        ("encoder.layer", [f"attention.self.{name}" for name in _SEPARATE]),
    ),
    "distilbert": ("transformer.layer", [f"attention.{name}_lin" for name in "qkv"]),
    "mpnet": ("encoder.layer", [f"attention.attn.{name}" for name in "qkv"]),
    "deberta-v2": ("encoder.layer", [f"attention.self.{name}_proj" for name in _SEPARATE]),
    "modernbert": ("layers", ["attn.Wqkv"]),
}


def projections_of(model: torch.nn.Module, layer: int) -> dict[str, torch.nn.Module]:
    """Returns the projection modules of a layer by what they compute.

    The names are "query", "key" and "value", or a single "query_key_value" whose output is their concatenation.

    Args:
        layer: from 1.

    Raises:
        InputError: the model family is not supported.
    """
    family = config_of(model).model_type
    if family not in _PLACES:
        raise InputError(
            f"a term of the loss reads queries, keys and values, but it is unknown which modules of {family} models "
            f"compute them: give one of {', '.join(_PLACES)}."
        )
    layers, names = _PLACES[family]
    block = inner_model(model).base_model.get_submodule(layers)[layer - 1]
    kinds = _SEPARATE if len(names) == len(_SEPARATE) else ("query_key_value",)
    return {kind: block.get_submodule(name) for kind, name in zip(kinds, names, strict=True)}
