"""What a model's outputs mean. All that depends on the kind of a model's head is asked of a `Head`."""

import abc
import math
from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedConfig

Batch = Mapping[str, Tensor]


class Head(abc.ABC):
    """The head of a student, and of a teacher whose logits it is compared with.

    Logits are one vector per example, or one per token (`tokens_dim` is then the dimension that runs over tokens). A
    row may have no label: -100, NaN for scores, or no column at all. It counts in every term but the task loss.

    Attributes:
        name: for messages and the card.
        auto_class: the name of the Auto class of transformers that loads such models.
        label_columns: columns of a batch that hold the labels.
        other_columns: columns that the losses read and the model does not.
        tokens_dim: the dimension of the logits that runs over the tokens of a text; None: there is none.
        uncached_because: why a cache of teacher signals cannot hold these logits; None: it can.
        is_score: the logits are a number that `CKDArguments.teacher_score_scale` can map.
    """

    name: str
    auto_class: str
    label_columns: tuple[str, ...] = ("labels",)
    other_columns: tuple[str, ...] = ()
    tokens_dim: int | None = None
    uncached_because: str | None = None
    is_score: bool = False

    def logits(self, outputs: Mapping[str, Tensor]) -> Tensor:
        """Returns the logits of a forward."""
        return outputs["logits"]

    def has_labels(self, batch: Batch) -> bool:
        """Returns whether a batch has the columns of labels."""
        return bool(self.label_columns) and all(name in batch for name in self.label_columns)

    def labels_for_model(self, batch: Batch) -> dict[str, Tensor]:
        """Returns the labels as the model's own loss may read them: finite, also where there is none."""
        return {name: batch[name] for name in self.label_columns if name in batch}

    def task_loss(self, outputs: Mapping[str, Tensor], batch: Batch, own: Tensor) -> Tensor:
        """Returns the loss on the labels, the mean over `task_count` items.

        Args:
            own: what the model itself returns, given `labels_for_model`; returned as it is where it is that mean.
        """
        return own

    def task_count(self, batch: Batch) -> Tensor:
        """Returns the number of labelled items that the task loss averages over, a scalar."""
        return batch["labels"].ne(-100).sum()

    @abc.abstractmethod
    def logit_loss(
        self, student: Tensor, teacher: Tensor, batch: Batch, *, temperature: float, scale_by_temperature: bool
    ) -> Tensor:
        """Returns how far the student's logits are from the teacher's, the mean over `logit_count` items.

        Args:
            student, teacher: logits, in the student's order of labels.
            temperature: softens both.
            scale_by_temperature: multiply by temperature squared where that keeps the gradient's size.
        """

    def logit_count(self, batch: Batch) -> Tensor:
        """Returns the number of items that the logit loss averages over, a scalar; examples by default."""
        ids = batch["input_ids"]
        return ids.new_full((), len(ids))

    def label_order(self, teacher: PreTrainedConfig, student: PreTrainedConfig) -> Sequence[int] | None:
        """Returns for each of the student's labels its index among the teacher's; None: in the same order.

        Raises:
            InputError: the two have other labels.
        """
        return None

    def warn_of_label_order(self, teacher: PreTrainedConfig, student: PreTrainedConfig) -> None:
        """Warns where labels come in another order, or are matched by position alone."""
        return

    def in_order(self, logits: Tensor, order: Sequence[int] | None) -> Tensor:
        """Returns a teacher's logits in the order of labels that `label_order` has found."""
        return logits if order is None else logits[..., order]

    def outputs(self, config: PreTrainedConfig) -> int:
        """Returns how many logits an example has; or, where they go through tokens, a token."""
        return config.num_labels

    def loss_at_chance(self, config: PreTrainedConfig, labels: Collection | None) -> float:
        """Returns about the task loss of a model that knows nothing.

        Args:
            labels: those of the training set; None where they are not known.
        """
        return math.log(max(2, self.outputs(config)))

    def check_columns(self, columns: Collection[str]) -> None:
        """Raises InputError, or warns, where a training set lacks a column that the logit loss reads."""
        return

    def learn_special_tokens(self, ids: Collection[int]) -> None:
        """Receives the ids of special tokens such as [CLS], if a tokenizer is known."""
        return

    @abc.abstractmethod
    def usage(self, model_id: str) -> str:
        """Returns Python code that uses a model, for its card."""


def pipeline_usage(task: str, model_id: str, more: str = "") -> str:
    """Returns code that makes a pipeline of a model, with `more` arguments."""
    return f'from transformers import pipeline\n\nmodel = pipeline("{task}", model="{model_id}"{more})'


def mean_where(values: Tensor, valid: Tensor) -> Tensor:
    """Returns the mean of the values that are valid; NaN where there is none."""
    return torch.where(valid, values, 0).sum() / valid.sum()
