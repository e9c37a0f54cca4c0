"""Balances terms of the loss: a weight is a share of the gradient.

Unscaled, a term's gradient is 0.00004 to 20 times that of labels and logits, depending on the task, the text length
and the pair of models. No fixed weight fits two tasks, but a share does.
"""

import dataclasses
import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState

from ckd_trainer.arguments import CKDArguments
from ckd_trainer.methods import MethodArguments, Term
from ckd_trainer.objective import Objective
from ckd_trainer.training.gradients import updates_in_backward
from ckd_trainer.utils.errors import InputError

logger = logging.getLogger(__name__)

# Steps 1, 2, 4, 8, ... up to LAST_STEP are measured, or up to LAST_STEP_OF_WARNINGS if the norms are used for warnings
# only. The first steps alone would mislead: the gradient of the task may grow tenfold over the first hundred steps, as
# the student's head adapts to its layers.
LAST_STEP, LAST_STEP_OF_WARNINGS = 128, 8
# Below this share of the gradient of labels and logits, a term's gradient is rounding error. With cached signals it is
# 3e-6 even if teacher and student are the same.
SMALLEST_NORM = 1e-5
MIN_SHARE, MAX_SHARE = 0.01, 10.0  # shares outside this range cause a warning
# Options that, like the weights, do not affect the norms of the terms' gradients.
_NOT_IN_NORMS = {"term_balance", "balance_interval", "log_gradient_norms", "teacher_cache_dir"}


class TermBalance(TrainerCallback, ExportableState):
    """Scales terms so that each, at weight 1, has as much gradient as labels and logits together.

    With |g| the norm of a gradient of the student's encoder over the whole step,

        scale(term) = mean |g((1 - alpha) task + alpha logits)| / mean |g(term)|

    The norms are measured before steps 1, 2, 4, 8, ..., 128, on the step's own examples. Each measurement has the same
    weight as all earlier ones together, which approximates the mean over all steps: the gaps between measurements
    double. After that the scales are fixed, unless `interval` is set: then they are updated every `interval` steps, as
    a moving average. A term without a gradient, because teacher and student agree in it, keeps scale 1.

    This is a callback so that `Trainer` saves its state with every checkpoint, in trainer_state.json.

    Args:
        weights: {term: weight} of the balanced terms.
        rescales: if False, gradients are measured for warnings only, and all scales are 1.
        interval: steps between measurements after step 128; None stops measuring there.
        definition: what the norms depend on, other than the weights. If it differs from a checkpoint's, the norms are
            measured again.
        yardstick: what the norms are relative to, for messages.

    Attributes:
        norms: mean gradient norms of each term at weight 1, and of the rest (labels and logits).
        scales: {term: factor of its weight}.
        first_step, last_step: the first and the last measured step, from 0; None before the first measurement.
    """

    def __init__(
        self,
        weights: Mapping[str, float],
        rescales: bool = True,
        interval: int | None = None,
        definition: Mapping | None = None,
        yardstick: str = "labels and logits",
    ) -> None:
        self.weights, self.rescales, self.interval = dict(weights), rescales, interval
        self.definition, self.yardstick = dict(definition or {}), yardstick
        self.reset()

    def reset(self) -> None:
        """Discards all measurements."""
        self.norms: dict[str, float] = {}
        self.scales = dict.fromkeys(self.weights, 1.0)
        self.first_step: int | None = None
        self.last_step: int | None = None
        self.failures, self.waits_for = 0, 0  # non-finite measurements in a row, and the step of the next attempt

    def state(self) -> dict:
        options = ("weights", "rescales", "interval", "definition")
        values = ("norms", "scales", "first_step", "last_step", "failures", "waits_for")
        return {
            "args": {name: getattr(self, name) for name in options},
            "attributes": {name: getattr(self, name) for name in values},
        }

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Restores the state of a checkpoint, or resets that of an earlier training."""
        self.reset()
        saved = state.stateful_callbacks.get(type(self).__name__) if state.global_step else None
        if saved is not None:
            self.take_over(saved)
        self._save(state)

    def take_over(self, saved: Mapping) -> None:
        """Restores a state, if it has the same terms and definition."""
        ours, theirs = self.state()["args"], saved["args"]
        same = all(theirs[name] == ours[name] for name in ("rescales", "definition"))
        if same and theirs["weights"].keys() == ours["weights"].keys():
            for name, value in saved["attributes"].items():
                setattr(self, name, value)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.weights and self._is_settling():
            self._report()  # training ended before the last measurement
        self._save(state)

    def _save(self, state: TrainerState) -> None:
        # `Trainer` updates this at checkpoints, but only for names that are already there.
        state.stateful_callbacks[type(self).__name__] = self.state()

    def is_due(self, step: int) -> bool:
        """Returns whether to measure before this step (from 0)."""
        if step < self.waits_for or not self.weights:
            return False
        if self.first_step is None or self.last_step is None:
            return True
        if self._is_settling():
            return step >= self.first_step + 2 ** self._steps().bit_length() - 1
        return self.interval is not None and step >= self.last_step + self.interval

    def add(self, step: int, rest: float, norms: Mapping[str, float]) -> None:
        """Adds the norms of a step. If one is not finite, a later step is measured instead."""
        new = {"rest": rest, **norms}
        if not all(map(math.isfinite, new.values())):
            self.failures += 1
            self.waits_for = step + 2 ** (self.failures - 1)
            return
        was_settling = self._is_settling()
        if not self.norms:
            self.first_step, self.norms = step, new
        self.last_step, self.failures = step, 0
        self.norms = {term: (norm + new[term]) / 2 for term, norm in self.norms.items()}
        if self.rescales:
            self.scales = {term: self._scale(term) for term in self.weights}
        if was_settling and not self._is_settling():
            self._report()

    def _steps(self) -> int:
        if self.first_step is None or self.last_step is None:
            return 0
        return self.last_step - self.first_step + 1

    def _is_settling(self) -> bool:
        return self._steps() < (LAST_STEP if self.rescales else LAST_STEP_OF_WARNINGS)

    def _relative_norm(self, term: str) -> float:
        """Returns a term's gradient norm at weight 1 relative to that of the rest; infinite if the rest has none."""
        return self.norms[term] / self.norms["rest"] if self.norms["rest"] else math.inf

    def _scale(self, term: str) -> float:
        norm = self._relative_norm(term)
        return 1 / norm if SMALLEST_NORM < norm < math.inf else 1.0

    def _report(self) -> None:
        if not self.norms or not self.norms["rest"]:
            what = "no finite gradient" if not self.norms else f"no gradient of {self.yardstick}"
            logger.warning("%s was measured, so weights are factors, not shares.", what)
            return
        relative = {term: self._relative_norm(term) for term in self.weights}
        found = ", ".join(f"{term} {norm:.3g}" for term, norm in relative.items())
        together = f"{self.yardstick} together" if self.yardstick not in self.weights else self.yardstick
        logger.info("Gradient of each term at weight 1, relative to that of %s: %s.", together, found)
        if self.rescales:
            logger.info("Weights are multiplied by %s.", ", ".join(f"{s:.4g} ({t})" for t, s in self.scales.items()))
        for term, weight in self.weights.items():
            share = weight * self.scales[term] * relative[term]
            if relative[term] <= SMALLEST_NORM:
                advice = ": teacher and student agree in it, or it does not reach the trained weights"
            elif self.rescales:
                advice = f": change its weight of {weight:g}"
            else:
                advice = f" at weight {weight:g}: with term_balance gradient, the weight would be a share"
            if share < MIN_SHARE:
                logger.warning(
                    "%s has %.2g of the gradient of %s, so it hardly trains the student%s.",
                    term,
                    share,
                    self.yardstick,
                    advice,
                )
            elif share > MAX_SHARE:
                logger.warning(
                    "%s has %.3g times the gradient of %s, and drowns it out%s.", term, share, self.yardstick, advice
                )


def balance_of(
    objective: Objective,
    ckd_args: CKDArguments,
    methods: Sequence[MethodArguments],
    terms: Sequence[Term],
    args: TrainingArguments,
    *,
    is_fsdp_1: bool,
) -> TermBalance | None:
    """Returns the balance of a loss; None if it has no balanced terms.

    Args:
        ckd_args, methods, terms: what the loss is made of; the terms are the user's own.
        is_fsdp_1: whether the student is sharded by FSDP 1.

    Raises:
        InputError: an optimizer or a launcher with which gradients of terms cannot be measured.
    """
    if not objective.balanced:
        return None
    if updates_in_backward(args):
        raise InputError(
            f"optim is {args.optim.value}, which changes weights in every backward pass, but balancing terms needs "
            "backward passes that change nothing: choose another optimizer."
        )
    if is_fsdp_1:
        raise InputError(
            "gradients of terms cannot be measured under FSDP 1: set fsdp_version to 2, as in "
            "recipes/accelerate/fsdp2.yaml."
        )
    return TermBalance(
        objective.balanced,
        rescales=ckd_args.term_balance == "gradient",
        interval=ckd_args.balance_interval,
        definition=_definition(ckd_args, methods, terms),
        yardstick=objective.yardstick,
    )


def _definition(ckd_args: CKDArguments, methods: Sequence[MethodArguments], terms: Sequence[Term]) -> dict[str, Any]:
    """Returns what the norms of the terms' gradients depend on, other than the weights."""
    used: list[Any] = [ckd_args, *(method for method in methods if method.weights)]
    # Options at their defaults are left out, so that an option added later does not invalidate old checkpoints.
    definition: dict[str, Any] = {
        option.name: value
        for arguments in used
        for option in dataclasses.fields(arguments)
        if (value := getattr(arguments, option.name)) != option.default
        and option.name not in _NOT_IN_NORMS
        and not option.name.endswith("_weight")
    }
    if terms:
        definition["terms"] = [[term.name, term.student_signal.key, term.teacher_signal.key] for term in terms]
    return definition
