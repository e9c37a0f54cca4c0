"""Wrappers that users put around a model: their own modules, torch.compile, PEFT adapters."""

import pytest
import torch


class PassesOn(torch.nn.Module):
    """Names no arguments, like a compiled model or PEFT without a task type."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, *args, **kwargs):
        return self.model(*args, **kwargs)


def compiled(model):
    return torch.compile(model, backend="eager")


def lora(task_type, rank=4, **kwargs):
    """Returns a function that adds PEFT adapters to a model. They change its outputs from the start."""
    peft = pytest.importorskip("peft")

    def wrap(model):
        torch.manual_seed(7)
        config = peft.LoraConfig(
            task_type=task_type, r=rank, target_modules=["query", "value"], init_lora_weights=False, **kwargs
        )
        return peft.get_peft_model(model, config)

    return wrap
