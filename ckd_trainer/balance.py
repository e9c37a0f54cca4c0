"""The weights of relation terms as shares of the gradient.

At weight 1 a term's gradient lies anywhere between 0.00004 and 20 times that of the loss on labels and logits, as
task, length of texts and pair of models have it. No weight serves two tasks; a share does.
"""

import logging
import math
from collections.abc import Mapping

from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState

logger = logging.getLogger(__name__)

# The last steps that are measured, of 1, 2, 4, 8, ...: for the scales, and where only warnings read what is measured.
# The gradient of the task may grow tenfold over the first hundred steps, as the head of the student gets to know its
# layers; so the first steps alone would mislead, and those after hundreds say little new.
LAST_STEP, LAST_STEP_OF_WARNINGS = 128, 8
# A term with a millionth of the rest's gradient is at its minimum, and rounding is what is left of it.
SMALLEST_NORM = 1e-6
FAINT, LOUD = 0.01, 10.0  # shares that are warned of


class TermBalance(TrainerCallback, ExportableState):
    """Scales relation terms so that weight 1 gives each the gradient of the loss on labels and logits together.

    With |g| the norm of a gradient by the weights of the student's encoder, for the whole step,

        scale(term) = mean |g((1 - alpha) task + alpha logits)| / mean |g(term)|

    It is measured before steps 1, 2, 4, 8, ..., 128, each time with the step's own examples, and the mean is that over
    the steps: as half of all steps so far come after the last measurement but one, each measurement counts half, and
    what was before it the other half. Then the scales stay, or with `interval` are measured every so many steps. A
    term that has no gradient, as teacher and student agree in it, keeps scale 1.

    It is a callback so that `Trainer` saves its state with every checkpoint, in trainer_state.json.

    Args:
        weights: {term: weight} of the relation terms.
        scales_terms: False: gradients are measured for the warnings alone, and all scales are 1.
        interval: steps between measurements after the first 128; None: there are no more.

    Attributes:
        norms: mean norms of the gradients: of each term at weight 1, and of the rest, task and logits.
        scales: {term: what its weight is multiplied by}.
    """

    def __init__(self, weights: Mapping[str, float], scales_terms: bool = True, interval: int | None = None):
        self.weights, self.scales_terms, self.interval = dict(weights), scales_terms, interval
        self.norms, self.scales = {}, dict.fromkeys(weights, 1.0)
        self.begin, self.next = None, 0  # the first step that was measured, and the next that will be; from 0

    def state(self) -> dict:
        options = {"weights": self.weights, "scales_terms": self.scales_terms, "interval": self.interval}
        names = ("norms", "scales", "begin", "next")
        return {"args": options, "attributes": {name: getattr(self, name) for name in names}}

    def on_train_begin(self, args, state, control, **kwargs):
        """Goes on from what a checkpoint holds, or begins anew."""
        name = type(self).__name__
        blank = type(self)(self.weights, self.scales_terms, self.interval).state()
        saved = state.stateful_callbacks.get(name, blank) if state.global_step else blank
        if any(saved["args"][option] != blank["args"][option] for option in ("weights", "scales_terms")):
            saved = blank  # a run of other terms
        for attribute, value in saved["attributes"].items():
            setattr(self, attribute, value)
        state.stateful_callbacks.setdefault(name, saved)  # `Trainer` saves the state of those that it finds there

    def on_train_end(self, args, state, control, **kwargs):
        if self.norms and self._is_settling():
            self._tell()  # the training was shorter

    def is_due(self, step: int) -> bool:
        """Returns whether the step after so many others is to be measured."""
        return self.next is not None and step >= self.next

    def add(self, step: int, rest: float, norms: Mapping[str, float]) -> None:
        """Takes in the norms of a step; where one is not finite the next step is measured in its place."""
        new = {"rest": rest, **norms}
        if not all(map(math.isfinite, new.values())):
            return
        if not self.norms:
            self.begin, self.norms = step, new
        self.norms = {term: (norm + new[term]) / 2 for term, norm in self.norms.items()}
        if self.scales_terms:
            self.scales = {term: self._scale(term) for term in self.weights}
        steps, was_settling = step - self.begin + 1, self._is_settling()
        if steps < self._last_step:
            self.next = self.begin + 2 ** steps.bit_length() - 1
        else:
            self.next = step + self.interval if self.interval else None
            if was_settling:
                self._tell()

    def _is_settling(self) -> bool:
        return self.next is not None and self.next < self.begin + self._last_step

    @property
    def _last_step(self) -> int:
        return LAST_STEP if self.scales_terms else LAST_STEP_OF_WARNINGS

    def _relative_norm(self, term: str) -> float:
        """Returns the norm of a term's gradient at weight 1, by that of the rest."""
        return self.norms[term] / self.norms["rest"] if self.norms["rest"] else math.inf

    def _scale(self, term: str) -> float:
        norm = self._relative_norm(term)
        return 1 / norm if SMALLEST_NORM < norm < math.inf else 1.0

    def _tell(self) -> None:
        relative = {term: self._relative_norm(term) for term in self.weights}
        found = ", ".join(f"{term} {norm:.3g}" for term, norm in relative.items())
        logger.info("Gradient of each term at weight 1, by that of task and logits together: %s.", found)
        if self.scales_terms:
            logger.info("Weights are multiplied by %s.", ", ".join(f"{s:.4g} ({t})" for t, s in self.scales.items()))
        for term, weight in self.weights.items():
            share = weight * self.scales[term] * relative[term]
            if relative[term] <= SMALLEST_NORM:
                advice = ": teacher and student agree in it"
            elif self.scales_terms:
                advice = f": change {term}_weight, which is {weight:g}"
            else:
                advice = f" at {term}_weight {weight:g}: term_balance gradient would make the weight a share"
            if share < FAINT:
                logger.warning(
                    "%s has %.2g of the gradient of task and logits, so it hardly trains the student%s.",
                    term,
                    share,
                    advice,
                )
            elif share > LOUD:
                logger.warning(
                    "%s has %.3g times the gradient of task and logits, which it drowns out%s.", term, share, advice
                )
