"""The weights of relation terms as shares of the gradient.

At weight 1 a term's gradient is 0.00004 to 20 times that of task and logits, depending on task, text length and pair
of models. No fixed weight fits two tasks; a share does.
"""

import logging
import math
from collections.abc import Mapping
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState

logger = logging.getLogger(__name__)

# Steps 1, 2, 4, 8, ... up to these are measured: for the scales, and where only warnings read what is measured. The
# gradient of the task may grow tenfold over the first hundred steps, as the student's head gets to know its layers; so
# the first steps alone would mislead.
LAST_STEP, LAST_STEP_OF_WARNINGS = 128, 8
# Below this share of the gradient of task and logits a term's own is rounding: where teacher and student are the same,
# that of signals from a cache is 3e-6.
SMALLEST_NORM = 1e-5
MIN_SHARE, MAX_SHARE = 0.01, 10.0  # what is beyond is warned of


class TermBalance(TrainerCallback, ExportableState):
    """Scales relation terms so that weight 1 gives each the gradient of the loss on labels and logits together.

    With |g| the norm of a gradient by the weights of the student's encoder, for the whole step,

        scale(term) = mean |g((1 - alpha) task + alpha logits)| / mean |g(term)|

    It is measured before steps 1, 2, 4, 8, ..., 128, with the step's own examples. Each measurement counts half and
    all earlier ones the other half, as half of all steps so far came after the last but one: about the mean over the
    steps. After that the scales are fixed; with `interval` they are updated every `interval` steps, as a moving
    average. A term without a gradient, because teacher and student agree in it, keeps scale 1.

    It is a callback so that `Trainer` saves its state with every checkpoint, in trainer_state.json.

    Args:
        weights: {term: weight} of the relation terms.
        rescales: False: gradients are measured for the warnings alone, and all scales are 1.
        interval: steps between measurements after step 128; None: measuring stops there.
        definition: what norms depend on, other than the weights; a checkpoint of another one is measured again.

    Attributes:
        norms: mean norms of the gradients: of each term at weight 1, and of the rest, task and logits.
        scales: {term: what its weight is multiplied by}.
        first_step, last_step: the first and the last step that were measured, from 0; None before there is one.
    """

    def __init__(
        self,
        weights: Mapping[str, float],
        rescales: bool = True,
        interval: int | None = None,
        definition: Mapping | None = None,
    ) -> None:
        self.weights, self.rescales, self.interval = dict(weights), rescales, interval
        self.definition = dict(definition or {})
        self.reset()

    def reset(self) -> None:
        """Forgets what was measured."""
        self.norms: dict[str, float] = {}
        self.scales = dict.fromkeys(self.weights, 1.0)
        self.first_step: int | None = None
        self.last_step: int | None = None
        self.failures, self.waits_for = 0, 0  # measurements that were not finite, and the step to try again

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
        """Restores what a checkpoint holds, or forgets an earlier training."""
        self.reset()
        saved = state.stateful_callbacks.get(type(self).__name__) if state.global_step else None
        if saved is not None:
            self.take_over(saved)
        self._save(state)

    def take_over(self, saved: Mapping) -> None:
        """Goes on from a state, where it is one of the same terms."""
        ours, theirs = self.state()["args"], saved["args"]
        same = all(theirs[name] == ours[name] for name in ("rescales", "definition"))
        if same and theirs["weights"].keys() == ours["weights"].keys():
            for name, value in saved["attributes"].items():
                setattr(self, name, value)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.weights and self._is_settling():
            self._report()  # the training was shorter
        self._save(state)

    def _save(self, state: TrainerState) -> None:
        # `Trainer` does so at checkpoints, for the names that it finds there.
        state.stateful_callbacks[type(self).__name__] = self.state()

    def is_due(self, step: int) -> bool:
        """Returns whether to measure before this step, from 0."""
        if step < self.waits_for or not self.weights:
            return False
        if self._is_settling():
            return self.last_step is None or step >= self.first_step + 2 ** self._steps().bit_length() - 1
        return self.interval is not None and step >= self.last_step + self.interval

    def add(self, step: int, rest: float, norms: Mapping[str, float]) -> None:
        """Adds the norms of a step. Where one is not finite, a later step is measured in its place."""
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
        return 0 if self.last_step is None else self.last_step - self.first_step + 1

    def _is_settling(self) -> bool:
        return self._steps() < (LAST_STEP if self.rescales else LAST_STEP_OF_WARNINGS)

    def _relative_norm(self, term: str) -> float:
        """Returns the norm of a term's gradient at weight 1, by that of the rest; infinite where the rest has none."""
        return self.norms[term] / self.norms["rest"] if self.norms["rest"] else math.inf

    def _scale(self, term: str) -> float:
        norm = self._relative_norm(term)
        return 1 / norm if SMALLEST_NORM < norm < math.inf else 1.0

    def _report(self) -> None:
        if not self.norms or not self.norms["rest"]:
            what = "no gradient that is finite" if not self.norms else "no gradient of task and logits"
            logger.warning("%s was measured, so the weights of relations are factors and not shares.", what)
            return
        relative = {term: self._relative_norm(term) for term in self.weights}
        found = ", ".join(f"{term} {norm:.3g}" for term, norm in relative.items())
        logger.info("Gradient of each term at weight 1, by that of task and logits together: %s.", found)
        if self.rescales:
            logger.info("Weights are multiplied by %s.", ", ".join(f"{s:.4g} ({t})" for t, s in self.scales.items()))
        for term, weight in self.weights.items():
            share = weight * self.scales[term] * relative[term]
            if relative[term] <= SMALLEST_NORM:
                advice = ": teacher and student agree in it, or it does not reach the weights that are trained"
            elif self.rescales:
                advice = f": change its weight, which is {weight:g}"
            else:
                advice = f" at weight {weight:g}: term_balance gradient would make the weight a share"
            if share < MIN_SHARE:
                logger.warning(
                    "%s has %.2g of the gradient of task and logits, so it hardly trains the student%s.",
                    term,
                    share,
                    advice,
                )
            elif share > MAX_SHARE:
                logger.warning(
                    "%s has %.3g times the gradient of task and logits, which it drowns out%s.", term, share, advice
                )
