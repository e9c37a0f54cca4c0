"""Captures the outputs of modules that a forward pass does not return."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from ckd_trainer.teacher.signals import Signal
from ckd_trainer.utils.wrapped_models import inner_model


class Listener:
    """Captures the outputs of a model's modules during a forward pass.

    Args:
        model: the model.
        signals: define the modules.
    """

    def __init__(self, model: torch.nn.Module, signals: Sequence[Signal]):
        self._captured: dict[str, Any] | None = None
        modules = {name: module for signal in signals for name, module in signal.modules(model).items()}
        self._hooks = [module.register_forward_hook(self._keeper(name)) for name, module in modules.items()]
        if any(signal.differentiates for signal in signals):
            self._hooks.append(inner_model(model).get_input_embeddings().register_forward_hook(self._record))

    def _record(self, module: torch.nn.Module, inputs: Any, output: Tensor) -> None:
        """Records the operations after the embeddings, even if these are frozen."""
        if self._captured is not None:
            output.requires_grad_()

    def _keeper(self, name: str) -> Callable[[torch.nn.Module, Any, Any], None]:
        def keep(module: torch.nn.Module, inputs: Any, output: Any) -> None:
            # Only the first call in a forward pass, because DeBERTa projects positions with the same modules. Nothing
            # is captured outside a forward pass, because checkpointed layers run again in the backward pass.
            if self._captured is not None:
                self._captured.setdefault(name, output)

        return keep

    @contextlib.contextmanager
    def capturing(self) -> Iterator[dict[str, Any]]:
        """Captures outputs within the context into the mapping that it yields, by the names that signals read."""
        captured: dict[str, Any] = {}
        self._captured = captured
        try:
            yield captured
        finally:
            self._captured = None

    def close(self) -> None:
        """Removes the hooks from the model."""
        for hook in self._hooks:
            hook.remove()
