"""Measures the gradients of loss terms, without side effects on training."""

import contextlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from transformers import TrainingArguments
from transformers.training_args import OptimizerNames

from ckd_trainer.training.projections import MODULE
from ckd_trainer.utils.wrapped_models import inner_models, unwrapped

# Runs the model, and yields a part of a loss, whose backward pass may run within the context.
ForwardPass = Callable[[torch.nn.Module], contextlib.AbstractContextManager[Tensor]]

_DEEPSPEED_SCALE = 2.0**10  # avoids underflow of small gradients in half precision


def updates_in_backward(args: TrainingArguments) -> bool:
    """Returns whether the optimizer changes weights in backward passes, so that each of these is a step."""
    return "layerwise" in args.optim or args.optim in (OptimizerNames.LOMO, OptimizerNames.ADALOMO)


def encoder_weights(model: torch.nn.Module) -> list[torch.nn.Parameter]:
    """Returns the trained weights that all terms reach: those of the encoder, without head, pooler and projections.

    Falls back to all trained weights if the encoder has none, or if the module holds no transformers model.
    """
    model = unwrapped(model)
    weights = {
        parameter: None  # a dict, so that each is listed once
        for inner in inner_models(model)
        for name, parameter in inner.base_model.named_parameters()
        if parameter.requires_grad and not {"pooler", MODULE} & {*name.split(".")}
    }
    return list(weights) or [parameter for parameter in model.parameters() if parameter.requires_grad]


def gradients(
    model: torch.nn.Module,
    losses: Sequence[Sequence[ForwardPass]],
    accelerator: Accelerator,
    *,
    seed: int,
) -> Iterator[list[Tensor]]:
    """Yields each loss's gradient of the encoder's weights, as an optimizer step would see it.

    Call this between two steps, when weights have no `grad`; afterward they have none either. All losses use the same
    dropout, drawn from `seed`. The states of torch's random number generators, on the CPU and on this process's
    device, are restored.

    Args:
        model: the student, prepared by Accelerate.
        losses: for each loss its forward passes, such as one per batch of the step. The loss of the step is their sum,
            averaged over the processes. A pass runs the model that it is given. All weights of the model take part
            in the last one.
    """
    weights = encoder_weights(model)
    measure = _backward_gradients
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        # A gradient that reaches the outputs of DeepSpeed's engine starts half an optimizer step. Those of the model
        # inside do not, and ZeRO 3 gathers its layers all the same.
        measure, model = _autograd_gradients, unwrapped(model)
    device = accelerator.device
    model.train()
    with torch.random.fork_rng([] if device.type == "cpu" else [device], device_type=device.type):
        for passes in losses:
            torch.manual_seed(seed)
            yield measure(model, weights, passes, accelerator)
            model.zero_grad()


def norm(gradient: Sequence[Tensor]) -> float:
    """Returns the norm of a gradient, even if each process has a shard of it."""
    return _product(gradient, gradient) ** 0.5


def norms_and_cosines(found: Mapping[str, Sequence[Tensor]]) -> dict[str, float]:
    """Returns `gradient_norm_<term>` per term and `cosine_<term>_<other>` per pair, which is 0 if a norm is 0."""
    norms = {term: norm(gradient) for term, gradient in found.items()}
    values = {f"gradient_norm_{term}": value for term, value in norms.items()}
    for one, other in itertools.combinations(found, 2):
        product = norms[one] * norms[other]
        values[f"cosine_{one}_{other}"] = _product(found[one], found[other]) / product if product else 0.0
    return values


def _product(one: Sequence[Tensor], other: Sequence[Tensor]) -> float:
    exact = torch.promote_types(one[0].dtype, torch.float32)
    products = [(a.to(exact) * b.to(exact)).sum() for a, b in zip(one, other, strict=True)]
    total = torch.stack(products).sum()
    return (total.full_tensor() if isinstance(total, DTensor) else total).item()


def _backward_gradients(
    model: torch.nn.Module,
    weights: Sequence[Tensor],
    passes: Sequence[ForwardPass],
    accelerator: Accelerator,
) -> list[Tensor]:
    """Runs the backward pass as training does, so that DDP and FSDP2 reduce gradients across processes."""
    scaler, is_ddp = accelerator.scaler, isinstance(model, DistributedDataParallel)
    for number, forward in enumerate(passes, start=1):
        # DDP waits for the gradients of all weights.
        waits = is_ddp and number < len(passes)
        with accelerator.no_sync(model) if waits else contextlib.nullcontext(), forward(model) as loss:
            (loss if scaler is None else scaler.scale(loss)).backward()
    factor = 1 if scaler is None else scaler.get_scale()
    return [torch.zeros_like(weight) if weight.grad is None else weight.grad / factor for weight in weights]


def _autograd_gradients(
    model: torch.nn.Module,
    weights: Sequence[Tensor],
    passes: Sequence[ForwardPass],
    accelerator: Accelerator,
) -> list[Tensor]:
    """Does not touch `grad` of the weights, which DeepSpeed manages."""
    totals: list[Tensor] = []
    for forward in passes:
        with forward(model) as loss:
            scaled = torch.autograd.grad(_DEEPSPEED_SCALE * loss, weights, allow_unused=True, materialize_grads=True)
        found = [gradient.float() / _DEEPSPEED_SCALE for gradient in scaled]
        totals = [total + new for total, new in zip(totals, found, strict=True)] if totals else found
    return [accelerator.reduce(total, reduction="mean") for total in totals]
