"""The interface of heads: everything that depends on what a model's outputs mean."""

import abc
import math
from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedConfig

from ckd_trainer.utils.padding import example_count
from ckd_trainer.utils.units import at_first_tokens

Batch = Mapping[str, Tensor]


class Head(abc.ABC):
    """The head of a student, and of a teacher whose logits it is compared with.

    Logits are one vector per example, or one per token; `tokens_dim` is then the dimension of the tokens. A row may
    lack a label: -100, NaN for scores, or no column at all. Such a row counts in every term but the task loss.

    Attributes:
        name: used in messages and the model card.
        auto_class: the name of transformers' Auto class for such models.
        label_columns: columns of a batch that hold the labels.
        other_columns: columns that the losses read but the model does not.
        tokens_dim: the dimension of the logits that runs over the tokens of a text, or None.
        uncached_because: why the teacher cache cannot hold these logits; None if it can.
        unaligned_because: why models with different tokenizers cannot be compared by their logits; None if they can.
        unsmoothed_because: why `label_smoothing_factor` cannot smooth the labels; None if it can.
        reads_first_token: whether the logits include one for the special token that begins a text.
        is_score: whether the logits are a number that `CKDArguments.teacher_score_scale` can map.
        causal: whether a token sees only those before it.
    """

    name: str
    auto_class: str
    label_columns: tuple[str, ...] = ("labels",)
    other_columns: tuple[str, ...] = ()
    tokens_dim: int | None = None
    uncached_because: str | None = None
    unaligned_because: str | None = None
    unsmoothed_because: str | None = None
    reads_first_token: bool = False
    is_score: bool = False
    causal: bool = False

    def logits(self, outputs: Mapping[str, Tensor]) -> Tensor:
        """Returns the logits from the outputs of a forward pass."""
        return outputs["logits"]

    def of_units(self, logits: Tensor, batch: Batch) -> Tensor:
        """Returns a teacher's logits for the units of a batch, see `ckd_trainer.utils.units`.

        If teacher and student have different tokenizers, `logit_loss` and the cache get these. Logits per token
        become logits per unit, here those of its first token. Other logits stay as they are.
        """
        if self.tokens_dim is None:
            return logits
        return at_first_tokens(logits.movedim(self.tokens_dim, 1), batch).movedim(1, self.tokens_dim)

    def unmapped(self, logits: Tensor, batch: Batch) -> Tensor | None:
        """Returns the share of a teacher's probability that `of_units` leaves out, (batch,).

        It is that of tokens without a unit. None if the logits are not probabilities of tokens.
        """
        return None

    def has_labels(self, batch: Batch) -> bool:
        """Returns whether a batch has all label columns."""
        return bool(self.label_columns) and all(name in batch for name in self.label_columns)

    def labels_for_model(self, batch: Batch) -> dict[str, Tensor]:
        """Returns labels that the model's own loss can read: finite, even where a label is missing."""
        return {name: batch[name] for name in self.label_columns if name in batch}

    def task_loss(self, outputs: Mapping[str, Tensor], batch: Batch, own: Tensor) -> Tensor:
        """Returns the loss on the labels, the mean over `task_count` items.

        Args:
            own: the loss that the model returns for `labels_for_model`; returned unchanged if it is that mean.
        """
        return own

    def task_count(self, batch: Batch) -> Tensor:
        """Returns the number of labeled items that the task loss averages over, a scalar."""
        return batch["labels"].ne(-100).sum()

    @abc.abstractmethod
    def logit_loss(
        self,
        student: Tensor,
        teacher: Tensor,
        batch: Batch,
        *,
        temperature: float,
        scale_by_temperature: bool,
        loss: str = "kl",
    ) -> Tensor:
        """Returns the loss between the student's and the teacher's logits, the mean over `logit_count` items.

        Args:
            student, teacher: logits, in the student's order of labels; the teacher's are those of units if the batch
                has units.
            temperature: softens both.
            scale_by_temperature: multiply by temperature squared, if that preserves the size of the gradient.
            loss: one of `ckd_trainer.losses.logits.LOGIT_LOSSES`; passed only if it is not the default.
        """

    def logit_count(self, batch: Batch) -> Tensor:
        """Returns the number of items that the logit loss averages over, a scalar; by default, of examples."""
        return example_count(batch)

    def label_order(self, teacher: PreTrainedConfig, student: PreTrainedConfig) -> Sequence[int] | None:
        """Returns the teacher's index of each of the student's labels; None if the order is the same.

        Raises:
            InputError: teacher and student have different labels.
        """
        return None

    def warn_of_label_order(self, teacher: PreTrainedConfig, student: PreTrainedConfig) -> None:
        """Warns if the labels are in another order, or are matched by position only."""
        return

    def in_order(self, logits: Tensor, order: Sequence[int] | None) -> Tensor:
        """Returns a teacher's logits with their labels in `order`, from `label_order`."""
        return logits if order is None else logits[..., order]

    def decisions(self, logits: Tensor) -> Tensor | None:
        """Returns what the model decides about a text as a whole, (batch, decisions), from its logits.

        A decision is a number that grows with the probability of an answer, or falls with it. None if the logits
        are about something else, such as the tokens.
        """
        return None

    def outputs(self, config: PreTrainedConfig) -> int:
        """Returns the number of logits per example, or per token if the head classifies tokens."""
        return config.num_labels

    def loss_at_chance(self, config: PreTrainedConfig, labels: Collection | None) -> float:
        """Returns the approximate task loss of an untrained model.

        Args:
            labels: those of the training set; None if unknown.
        """
        return math.log(max(2, self.outputs(config)))

    def check_columns(self, columns: Collection[str]) -> None:
        """Raises InputError, or warns, if a training set lacks a column that the logit loss reads."""
        return

    def learn_special_tokens(self, ids: Collection[int]) -> None:
        """Sets the ids of special tokens such as [CLS]; called if there is a tokenizer."""
        return

    @abc.abstractmethod
    def usage(self, model_id: str) -> str:
        """Returns Python code that uses a model, for its model card."""


def pipeline_usage(task: str, model_id: str, more: str = "") -> str:
    """Returns code that builds a pipeline from a model, with `more` arguments."""
    return f'from transformers import pipeline\n\nmodel = pipeline("{task}", model="{model_id}"{more})'


def mean_where(values: Tensor, valid: Tensor) -> Tensor:
    """Returns the mean of the valid values; NaN if there are none."""
    return torch.where(valid, values, 0).sum() / valid.sum()
