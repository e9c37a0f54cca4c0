"""The trainer of language models: it evaluates every term of the loss, and saves the student with a head."""

import copy
import math
from collections.abc import Callable
from typing import Any

import torch
from accelerate.utils import send_to_device
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import TrainerCallback

from ckd_trainer.data.masking import MaskingCollator
from ckd_trainer.dynamic_trainer import DynamicTrainer
from ckd_trainer.heads import NoHead
from ckd_trainer.models.language_head import HeadWeights, attach
from ckd_trainer.trainer import DistillationTrainer


class _Progress(TrainerCallback):
    """Sets the collator's epoch before each epoch, and counts the tokens that earlier calls have trained on."""

    def __init__(self, collator: MaskingCollator, epoch: Callable[[], int]) -> None:
        self.collator, self.epoch, self.tokens_before = collator, epoch, 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.tokens_before = state.num_input_tokens_seen

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.collator.epoch = self.epoch()


class LanguageModelTrainer(DistillationTrainer):
    """A `DistillationTrainer` for running text: evaluation reports every term of the loss on held-out text.

    `eval_loss` is the weighted sum of the terms, as in training, and `eval_loss_<term>` each of them, unweighted: the
    mean over all its items. Terms that learn a projection are left out, as it exists only in training. With a loss on
    masked tokens, `eval_perplexity` is its exponential. Masks of the validation set are the same in each evaluation
    and for each seed.

    Attributes:
        language_head: the head to put on the encoder whenever it is saved in the output folder, see
            `ckd_trainer.models.language_head`; None to save it as it is.
        head_of: the model that the head is from.
    """

    language_head: HeadWeights | None = None
    head_of = ""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._progress = _Progress(self.data_collator, self._epoch)
        self.add_callback(self._progress)
        self._held_out: dict[str, Tensor] = {}  # for each term, the sum over its items and their number
        self._uncached_teacher: Callable[..., Any] | None = None

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Adds the tokens per second to the results."""
        output = super().train(*args, **kwargs)
        tokens = self.state.num_input_tokens_seen - self._progress.tokens_before
        seconds = output.metrics.get("train_runtime")
        if seconds and tokens:
            output.metrics["train_tokens_per_second"] = round(tokens / seconds, 3)
        return output

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader:
        """Uses the same masks in each evaluation, and evaluates no block twice to fill up the last batches."""
        collator = self.data_collator
        self.data_collator = copy.copy(collator)
        self.data_collator.epoch = None
        even, self.accelerator.even_batches = self.accelerator.even_batches, False
        try:
            return super().get_eval_dataloader(eval_dataset)
        finally:
            self.data_collator, self.accelerator.even_batches = collator, even

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Runs the teacher, even if it is cached: the cache holds the training set."""
        self._uncached_teacher = None if self.teacher is None else self.teacher.uncached()
        try:
            return super().evaluate(*args, **kwargs)
        finally:
            self._uncached_teacher = None  # frees a teacher that was loaded beside a cache

    def evaluation_loop(
        self, dataloader: DataLoader, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any
    ) -> Any:
        """Returns the terms on a set, instead of its logits, which a vocabulary makes too large to keep."""
        objective, weights = self.distillation_objective, self.term_weights
        self.distillation_objective = objective.without_projections()
        self._held_out = {
            term: torch.zeros(2, device=self.args.device) for term in self.distillation_objective.weights
        }
        try:
            output = super().evaluation_loop(dataloader, *args, metric_key_prefix=metric_key_prefix, **kwargs)
        finally:
            self.distillation_objective = objective
        sums = {term: self.accelerator.reduce(pair, reduction="sum").tolist() for term, pair in self._held_out.items()}
        means = {term: total / count for term, (total, count) in sums.items() if count}
        metrics = {f"loss_{term}": mean for term, mean in means.items()}
        if means:
            metrics["loss"] = sum(weights[term] * mean for term, mean in means.items() if weights[term])
        if "task" in means:
            metrics["perplexity"] = math.exp(min(means["task"], 700))  # finite
        output.metrics.update({f"{metric_key_prefix}_{name}": value for name, value in metrics.items()})
        return output

    def prediction_step(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[None, None, None]:
        """Adds the terms of a batch to those of the set."""
        inputs = send_to_device(inputs, self.args.device)
        with torch.no_grad(), self.compute_loss_context_manager():
            terms, _ = self._terms(model, inputs, None, self._uncached_teacher)
        for term, count in zip(terms, self._counts(inputs), strict=True):
            mean = torch.where(count > 0, terms[term], 0)  # the mean over zero items is NaN
            self._held_out[term] += torch.stack([mean * count, count.to(mean.dtype)])
        return None, None, None

    def describe_head(self) -> str:
        if not isinstance(self.head, NoHead):
            return "The language-model head was trained with the rest of the model."
        if self.language_head is None:
            return "The model has no language-model head: train one before you use the model to fill in masks."
        return (
            f"The language-model head is that of {self.head_of}, and was not trained on the hidden states of this "
            "model: train it before you use the model to fill in masks."
        )

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Saves the model; in the output folder, with its language-model head. Checkpoints do not need it."""
        super().save_model(output_dir, _internal_call)  # which may push it, and save it once more for that
        folder = output_dir or self.args.output_dir
        if self.language_head is not None and folder == self.args.output_dir and self.args.should_save:
            attach(folder, self.model.config, self.language_head)


class DynamicLanguageModelTrainer(DynamicTrainer, LanguageModelTrainer):
    """A `LanguageModelTrainer` for a student of several widths and depths: it evaluates each sub-network.

    Heads and neurons are ordered by their importance for the loss on masked tokens.
    """
