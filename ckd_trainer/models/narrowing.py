"""Makes a model narrower: fewer dimensions of the hidden states, attention heads and neurons.

What is kept is chosen on a batch of texts (see `ckd_trainer.models.kept_dimensions`). Then the narrow model is fitted
to the wide one on the same texts. Each of its linear layers, in the order of the forward pass, reads the narrow
model's own states, and least squares bring its outputs close to those of the wide model. So what was dropped is
predicted from what was kept.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from ckd_trainer.models.kept_dimensions import Kept, Recorded, before_linear_layers, kept_dimensions
from ckd_trainer.utils.errors import InputError

_RIDGE = 0.1  # of the mean variance: draws the fit toward weights that are only projected


def narrow(model: PreTrainedModel, config: PreTrainedConfig, batch: Mapping[str, Tensor]) -> PreTrainedModel:
    """Returns a narrower model that computes what the model does as closely as its size permits.

    Args:
        model: a model of one of the families in `ckd_trainer.models.sizes`, in float32 on the CPU.
        config: the model's, with smaller sizes (see `narrowed_config`).
        batch: inputs of the model: a hundred texts or more of the data that the narrow model will train on. What the
            linear layers read for these texts is held in memory.

    Raises:
        InputError: the model is a language model.

    Example::

        config = narrowed_config(teacher.config, {"hidden_size": 384})
        student = narrow(teacher, config, tokenizer(texts, padding=True, truncation=True, return_tensors="pt"))
    """
    if model.get_output_embeddings() is not None:
        raise InputError(
            f"{type(model).__name__} is a language model, whose outputs share weights with its embeddings, and cannot "
            "be made narrower: give a model with a head for classification or questions."
        )
    narrower = type(model)(config)
    training = model.training
    wide = Recorded(model.eval(), batch)
    with torch.no_grad():
        kept = kept_dimensions(wide, config)
        _project(wide, narrower, kept)
        _fit(wide, narrower.eval(), kept)
    model.train(training)
    return narrower.train(training)


def _project(wide: Recorded, narrower: PreTrainedModel, kept: Kept) -> None:
    """Sets the weights of the narrow model to projections of the wide model's.

    A projection of hidden states keeps their norm, as far as their variance lies in the basis, in fewer coordinates:
    `LayerNorm` has larger weights.
    """
    for full_name, parameter in narrower.named_parameters():
        name, _, kind = full_name.rpartition(".")
        weight = wide.model.get_parameter(full_name)
        given = [kept.outputs.get(name), kept.inputs.get(name)]
        for dim, size in enumerate(parameter.shape):
            projection = given[dim] if dim < len(given) else None
            if projection is None and weight.shape[dim] != size:
                projection = kept.hidden
            if projection is not None:
                if isinstance(wide.modules[name], nn.LayerNorm) and kind == "weight":  # of a diagonal matrix
                    factor = math.sqrt(weight.shape[dim] / size) if projection is kept.hidden else 1
                    projection = factor * projection.square()
                weight = (weight.movedim(dim, -1) @ projection.T).movedim(-1, dim)
        parameter.copy_(weight)


def _fit(wide: Recorded, narrower: PreTrainedModel, kept: Kept) -> None:
    """Fits each linear layer of the projected model to the wide one, just before it runs."""
    fitted: set[str] = set()
    solved: tuple[Any, ...] = (None, None)

    def fit(name: str, states: Tensor) -> None:
        nonlocal solved
        if name in fitted:
            return
        fitted.add(name)
        source, module = wide.modules[name], narrower.get_submodule(name)
        full, own = wide.read(name), wide.vectors(states)
        if torch.equal(full, own):
            return
        if solved[0] is not states:  # queries, keys and values are read from one tensor
            back = kept.inputs.get(name, kept.hidden if own.shape[1] != full.shape[1] else torch.eye(own.shape[1]))
            solved = states, _regression(full, own, back.T, centered=source.bias is not None)
        inverse, shift = solved[1]
        weight, bias = source.weight @ inverse, source.weight @ shift
        if source.bias is not None:
            bias += source.bias
        outputs = kept.outputs.get(name, kept.hidden if len(weight) != module.out_features else None)
        if outputs is not None:
            weight, bias = outputs @ weight, outputs @ bias
        module.weight.copy_(weight)
        if module.bias is not None:
            module.bias.copy_(bias)

    with before_linear_layers(narrower, fit):
        narrower(**wide.batch)


def _regression(wide: Tensor, own: Tensor, back: Tensor, *, centered: bool) -> tuple[Tensor, Tensor]:
    """Returns the matrix A (wide, own) and the vector b with which A x + b predicts wide vectors from own vectors x.

    Args:
        back: what A is drawn to: its value without any vectors.
        centered: whether to fit b, which is 0 otherwise.
    """
    # Vectors without variance, such as those of a single text, are left to `back`.
    floor = 1e-6 * own.square().mean().double() + 1e-30
    means = [vectors.mean(0) if centered else torch.zeros(vectors.shape[1]) for vectors in (wide, own)]
    wide, own = wide - means[0], own - means[1]
    products, covariance = ((vectors.T @ own / len(own)).double() for vectors in (wide, own))
    ridge = (_RIDGE * covariance.diagonal().mean()).clamp_min(floor)
    covariance = covariance + ridge * torch.eye(len(covariance))
    matrix = torch.linalg.solve(covariance, (products + ridge * back).T).T
    return matrix.float(), (means[0] - matrix @ means[1].double()).float()
