"""Learned projections of the student's hidden states.

They live in the student as the submodule `distillation` while it trains, so the optimizer, gradient clipping, DDP and
FSDP2 treat them like any of its weights. The saved model does not contain them.
"""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from ckd_trainer.teacher.signals import ProjectedStates, Signal
from ckd_trainer.utils.errors import InputError
from ckd_trainer.utils.wrapped_models import has_adapters, unwrapped

MODULE = "distillation"  # its name in the student
FILE = "projections.safetensors"  # in a checkpoint


def projected(signals: Sequence[Signal]) -> list[ProjectedStates]:
    """Returns the signals that need a projection."""
    return [signal for signal in signals if isinstance(signal, ProjectedStates)]


class Projections:
    """The projections that a student's signals need.

    In training, a forward hook appends the projected states, {key of the signal: states}, to the student's hidden
    states. They are then part of its forward pass, as DDP and FSDP2 require.

    Args:
        student: a transformers model, compiled or not.
        signals: those to project.
        seed: initializes them, without drawing from torch's random number generators.

    Raises:
        InputError: the student is wrapped in a way that hides its outputs or its weights.
    """

    def __init__(self, student: torch.nn.Module, signals: Sequence[ProjectedStates], seed: int) -> None:
        self.student: Any = unwrapped(student)
        if not isinstance(self.student, PreTrainedModel) or has_adapters(student):
            obstacle = "has adapters" if has_adapters(student) else f"is a {type(self.student).__name__}"
            raise InputError(
                "a term of the loss learns a projection, which must be part of a transformers model without adapters, "
                f"but the student {obstacle}: set the weight of the term to 0, or use a method without projections."
            )
        self.signals = list(signals)
        with torch.random.fork_rng([]):
            torch.default_generator.manual_seed(seed)
            self.module = torch.nn.ModuleList(signal.projection() for signal in signals)
        self.module.to(self.student.device)
        self._hook: Any = None

    def attach(self) -> None:
        """Puts the projections into the student, unless they are there."""
        if self._hook is None:
            self.student.add_module(MODULE, self.module)
            self._hook = self.student.register_forward_hook(self._project)
            # Saved models and checkpoints leave them out, and loading does not warn about it.
            ignored = {*(self.student._keys_to_ignore_on_save or ()), *self._names()}
            self._before, self.student._keys_to_ignore_on_save = self.student._keys_to_ignore_on_save, ignored

    def detach(self) -> None:
        """Takes the projections out of the student."""
        if self._hook is not None:
            delattr(self.student, MODULE)
            self._hook.remove()
            self._hook = None
            self.student._keys_to_ignore_on_save = self._before

    def join(self, optimizer: torch.optim.Optimizer, learning_rate: float | None, *, is_new: bool) -> None:
        """Gives the projections their own learning rate in an optimizer of the student, if there is one.

        Args:
            is_new: whether `Trainer` made the optimizer, after `attach`.

        Raises:
            InputError: the optimizer does not train the projections, or has its learning rates from elsewhere.
        """
        groups = getattr(optimizer, "param_groups", None)  # DeepSpeed's own optimizers have none here, and train all
        if groups is None:
            if learning_rate is not None:
                raise InputError(
                    "projection_learning_rate is set, but DeepSpeed's configuration defines the optimizer: leave one "
                    "out."
                )
        elif is_new and learning_rate is not None:
            _use_learning_rate(optimizer, self.module, learning_rate)
        elif not {weight for group in groups for weight in group["params"]}.issuperset(self.module.parameters()):
            raise InputError(
                "the optimizer does not train the projections that a term learns: it was given to the trainer, or "
                "made by an earlier call of train(). Leave it out, or set trainer.optimizer to None before train()."
            )

    @contextlib.contextmanager
    def reading(self, signals: Sequence[ProjectedStates]) -> Iterator[None]:
        """Within the context, the same projections are applied to other layers, those of `signals`."""
        before, self.signals = self.signals, list(signals)
        try:
            yield
        finally:
            self.signals = before

    def _names(self) -> list[str]:
        return [f"{MODULE}.{name}" for name in self.module.state_dict()]

    def _project(self, model: torch.nn.Module, inputs: Any, outputs: Any) -> Any:
        states = outputs.get("hidden_states") if model.training else None
        if states is not None:
            projected = {
                # Under FSDP2's mixed precision, weights are narrower than the states.
                signal.key: [linear(states[layer].to(linear.weight.dtype)) for layer in signal.layers]
                for signal, linear in zip(self.signals, self.module, strict=True)
            }
            # Not as an output of their own: DDP rebuilds the outputs from their class, which has no other fields.
            outputs["hidden_states"] = (*states, projected)
        return outputs

    def save(self, folder: str) -> None:
        """Writes the projections to a checkpoint."""
        save_file({name: value.contiguous() for name, value in self.module.state_dict().items()}, Path(folder, FILE))

    def load(self, folder: str) -> None:
        """Reads the projections of a checkpoint."""
        path = Path(folder, FILE)
        saved, ours = load_file(path) if path.is_file() else {}, self.module.state_dict()
        shapes = [{name: value.shape for name, value in side.items()} for side in (saved, ours)]
        if shapes[0] != shapes[1]:
            raise InputError(
                f"the checkpoint {folder} has {'other projections' if saved else f'no {FILE}'}, but terms of this run "
                "learn projections: resume with the options of its run."
            )
        self.module.load_state_dict(saved)


def learned_projections(
    student: torch.nn.Module, signals: Sequence[Signal], *, seed: int, learning_rate: float | None
) -> Projections | None:
    """Returns the projections that a student's signals need; None if they need none.

    Args:
        learning_rate: that of the projections, if it is not the student's.

    Raises:
        InputError: as for `Projections`, or a learning rate without projections.
    """
    found = projected(signals)
    if found:
        return Projections(student, found, seed)
    if signals and learning_rate is not None:
        raise InputError(
            "projection_learning_rate is set, but no term of the loss learns a projection, as tinybert_hidden_weight "
            "does: leave it out."
        )
    return None


def _use_learning_rate(optimizer: torch.optim.Optimizer, module: torch.nn.Module, learning_rate: float) -> None:
    """Moves a module's weights to groups of the optimizer with their own learning rate."""
    weights = set(module.parameters())
    for group in list(optimizer.param_groups):
        moved = [weight for weight in group["params"] if weight in weights]
        if moved:
            group["params"] = [weight for weight in group["params"] if weight not in weights]
            optimizer.add_param_group({**group, "params": moved, "lr": learning_rate})
