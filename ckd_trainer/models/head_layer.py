"""Finds the last layer of a model's head, whose rows are the labels."""

from torch import nn
from transformers import PreTrainedModel


def last_layer(model: PreTrainedModel, labels: int) -> nn.Linear | None:
    """Returns the last linear layer outside the base model that has an output for each label; None without one."""
    base = f"{model.base_model_prefix}."
    layers = [
        module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and not name.startswith(base) and module.out_features == labels
    ]
    return layers[-1] if layers else None
