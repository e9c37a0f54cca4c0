"""Inspects wrapped models: torch.compile, PEFT, DDP, or a user's module.

A wrapper's signature reveals little about what its forward method reads. `PeftModelForSequenceClassification.forward`
names `input_ids` but passes `token_type_ids` on in `**kwargs`, and a compiled model names no arguments.
"""

import inspect
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from accelerate.utils import extract_model_from_parallel, is_compiled_module
from transformers import PreTrainedConfig, PreTrainedModel

from ckd_trainer.utils.errors import InputError

LABELS = ("labels", "start_positions", "end_positions")  # columns that a task loss reads
_COMPILED = "_orig_mod."  # prefix that torch.compile adds to the names of weights
_PASSED_ON = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def unwrapped(model: torch.nn.Module) -> torch.nn.Module:
    """Returns the model without the wrappers of torch, Accelerate and DeepSpeed, which do not change its outputs."""
    return extract_model_from_parallel(model, keep_torch_compile=False)


def has_adapters(model: torch.nn.Module) -> bool:
    """Returns whether a model has PEFT adapters, from a wrapper or from `PreTrainedModel.add_adapter`."""
    return hasattr(model, "peft_config")


def use_inner_weight_names(model: torch.nn.Module) -> None:
    """Makes `state_dict` and `load_state_dict` of a compiled model use the weight names of the model inside.

    `Trainer` saves the `state_dict`, and `from_pretrained` does not recognize names that start with `_orig_mod.`.
    """
    if not is_compiled_module(model):
        return

    def strip(module: torch.nn.Module, state_dict: dict[str, Any], prefix: str, local_metadata: Any) -> None:
        for name in [name for name in state_dict if name.startswith(prefix + _COMPILED)]:
            state_dict[prefix + name.removeprefix(prefix + _COMPILED)] = state_dict.pop(name)

    def restore(module: torch.nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
        for name in [name for name in state_dict if name.startswith(prefix)]:
            if not name.startswith(prefix + _COMPILED):
                state_dict[prefix + _COMPILED + name.removeprefix(prefix)] = state_dict.pop(name)

    model.register_state_dict_post_hook(strip)
    model.register_load_state_dict_pre_hook(restore)


def inner_models(model: torch.nn.Module) -> list[PreTrainedModel]:
    """Returns the outermost transformers models in a module: the module itself, or those that it contains."""
    if isinstance(model, PreTrainedModel):
        return [model]
    found = [inner for child in model.children() for inner in inner_models(child)]
    return list({id(inner): inner for inner in found}.values())


def inner_model(model: Any) -> Any:
    """Returns the only transformers model in a module; if there is none, or several, the module itself."""
    inner = inner_models(model) if isinstance(model, torch.nn.Module) else []
    return inner[0] if len(inner) == 1 else model


def config_of(model: Any) -> PreTrainedConfig:
    """Returns a model's configuration: its own `config`, or that of the only transformers model that it wraps.

    Raises:
        InputError: there is none, or it lacks a field that distillation reads.
    """
    config = getattr(model, "config", None)
    if config is None:
        config = getattr(inner_model(model), "config", None)
    missing = [name for name in ("num_hidden_layers", "num_labels", "id2label") if not hasattr(config, name)]
    if missing:
        raise InputError(
            f"the model {type(model).__name__} has no config with {', '.join(missing)}: set its `config`, preferably "
            "to that of the transformers model inside."
        )
    return config


def forward_arguments(model: torch.nn.Module) -> set[str]:
    """Returns the names of the arguments of a model's forward method.

    A wrapper that passes on `*args` or `**kwargs` also accepts those of the transformers models inside.

    Raises:
        InputError: the wrapper passes on all arguments, and contains no transformers model.
    """
    model = unwrapped(model)
    parameters = inspect.signature(type(model).forward).parameters
    names = {name for name, parameter in parameters.items() if parameter.kind not in _PASSED_ON} - {"self"}
    if isinstance(model, PreTrainedModel) or not _passes_on(model):
        return names
    names = names.union(*map(forward_arguments, inner_models(model)))
    if not names.difference(LABELS):
        raise InputError(
            f"{type(model).__name__}.forward does not name its arguments and contains no transformers model, so it is "
            "unknown which columns of the data it reads: name them in its forward method, such as `def forward(self, "
            "input_ids, attention_mask=None, labels=None, **kwargs)`."
        )
    return names


def output_options(model: torch.nn.Module, wanted: dict[str, bool]) -> dict[str, bool]:
    """Returns the options that request outputs from a forward pass, without unwanted ones that a wrapper lacks.

    Args:
        wanted: such as {"output_hidden_states": True, "output_attentions": False}.

    Raises:
        InputError: the forward method does not support a wanted output.
    """
    model = unwrapped(model)
    if _passes_on(model):
        return wanted
    options = {name: value for name, value in wanted.items() if name in forward_arguments(model)}
    refused = [name for name, value in wanted.items() if value and name not in options]
    if refused:
        raise InputError(
            f"a term of the loss reads outputs that {type(model).__name__}.forward cannot return: give it the "
            f"argument {', '.join(refused)} and pass it on to the model inside, or set the relations' weights to 0."
        )
    return options


def use_eager_attention(model: torch.nn.Module) -> None:
    """Makes a model return attentions on request, and have second derivatives: other implementations do not."""
    for inner in inner_models(model):
        if inner.config.model_type == "modernbert":
            # It reads its configuration in each forward pass, but transformers 5.6 takes it for a model that does not.
            inner.config._attn_implementation = "eager"
        else:
            inner.set_attn_implementation("eager")


def asked_for(model: torch.nn.Module, signals: Iterable) -> dict[str, bool]:
    """Returns the options of a forward pass that returns the outputs that signals read, by name.

    Each output is explicitly requested or turned off, overriding the model's configuration.

    Args:
        signals: each with `model_outputs`.

    Raises:
        InputError: as for `output_options`.
    """
    wanted = {kind for signal in signals for kind in signal.model_outputs}
    options = output_options(model, {f"output_{kind}": kind in wanted for kind in ("hidden_states", "attentions")})
    return options | outputs_by_name(model)


def outputs_by_name(model: torch.nn.Module) -> dict[str, bool]:
    """Returns the option that requests outputs by name, if the configuration sets return_dict to False."""
    return {} if getattr(config_of(model), "return_dict", True) else {"return_dict": True}


def named_outputs(model: torch.nn.Module, outputs: Any) -> dict[str, Any]:
    """Returns what a model's forward method has returned as a mapping; raises InputError if it has no names."""
    if not isinstance(outputs, Mapping):
        raise InputError(
            f"{type(unwrapped(model)).__name__}.forward returns a {type(outputs).__name__}, in which outputs have no "
            "names: return a ModelOutput of transformers, or a mapping such as {'loss': loss, 'logits': logits}."
        )
    return dict(outputs)


def _passes_on(model: torch.nn.Module) -> bool:
    parameters = inspect.signature(type(model).forward).parameters.values()
    return any(parameter.kind in _PASSED_ON for parameter in parameters)
