"""The linear layers of each layer of an encoder, by model family."""

from typing import NamedTuple

from torch import nn
from transformers import PreTrainedModel

from ckd_trainer.models.student import layer_list
from ckd_trainer.teacher.projections import projections_of

# `model_type` -> within a layer, the linear layers after attention, before the neurons and after the neurons.
_PLACES = {
    **dict.fromkeys(
        ("bert", "camembert", "deberta-v2", "electra", "roberta", "xlm-roberta"),
        ("attention.output.dense", "intermediate.dense", "output.dense"),
    ),
    "distilbert": ("attention.out_lin", "ffn.lin1", "ffn.lin2"),
    "mpnet": ("attention.attn.o", "intermediate.dense", "output.dense"),
    "modernbert": ("attn.Wo", "mlp.Wi", "mlp.Wo"),
}


class LinearLayers(NamedTuple):
    """The names of the linear layers of a layer, within the model.

    Attributes:
        projections: those that compute queries, keys and values, or the one that computes all three.
        out: the one that reads the output of attention.
        up, down: those before and after the neurons.
    """

    projections: list[str]
    out: str
    up: str
    down: str


def linear_layers(model: PreTrainedModel) -> list[LinearLayers]:
    """Returns the linear layers of each layer."""
    names = {module: name for name, module in model.named_modules()}
    prefix = layer_list(model)
    return [
        LinearLayers(
            [names[module] for module in projections_of(model, layer + 1).values()],
            *(f"{prefix}.{layer}.{place}" for place in _PLACES[model.config.model_type]),
        )
        for layer in range(model.config.num_hidden_layers)
    ]


def name_of(model: PreTrainedModel, wanted: nn.Module) -> str:
    """Returns the name of a module within the model: that of a bare encoder's lacks the prefix of one with a head."""
    return next(name for name, module in model.named_modules() if module is wanted)
