"""The supported heads: classes, multiple labels, a score, tokens, spans, a vocabulary, and no head."""

import logging
import math
from collections.abc import Collection, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedConfig

from ckd_trainer.heads.base import Batch, Head, mean_where, pipeline_usage
from ckd_trainer.heads.labels import THRESHOLDS, label_order, warn_of_label_order
from ckd_trainer.losses import (
    classification_logit_loss,
    multilabel_logit_loss,
    regression_logit_loss,
    span_logit_loss,
    span_task_count,
    span_task_loss,
    token_logit_loss,
)
from ckd_trainer.losses.logits import at_least_float32
from ckd_trainer.utils.errors import InputError
from ckd_trainer.utils.padding import attention_mask_of
from ckd_trainer.utils.units import UNIT_MASK, UNITS, added_up, at_first_tokens, at_outer_tokens

logger = logging.getLogger(__name__)

ANSWER_MASK = "answer_mask"  # column for question answering: 1 where an answer may start or end


class _Labels(Head):
    """A head with named labels: those of teacher and student are matched by name."""

    def label_order(self, teacher: PreTrainedConfig, student: PreTrainedConfig) -> list[int] | None:
        return label_order(teacher, student)

    def warn_of_label_order(self, teacher: PreTrainedConfig, student: PreTrainedConfig) -> None:
        warn_of_label_order(teacher, student)

    def usage(self, model_id: str) -> str:
        return pipeline_usage("text-classification", model_id)


class Classes(_Labels):
    """One class per text; logits (batch, classes).

    Task: cross entropy, mean over labeled examples. Logits: T^2 KL, mean over examples.
    """

    name = "classes"
    auto_class = "AutoModelForSequenceClassification"

    def task_count(self, batch: Batch) -> Tensor:
        labels = batch["labels"]
        if labels.is_floating_point():
            raise InputError(
                "the labels of the batch are not integers, but the model predicts one of several classes: set "
                'problem_type="multi_label_classification" in its configuration for several labels at once (0 and 1 '
                "for each), or num_labels=1 for a score."
            )
        return labels.ne(-100).sum()

    def logit_loss(self, student: Tensor, teacher: Tensor, batch: Batch, **scale: Any) -> Tensor:
        return classification_logit_loss(student, teacher, **scale)

    def decisions(self, logits: Tensor) -> Tensor:
        """Returns the log odds of each class; of two classes, those of the second alone, as the first's mirror it."""
        if logits.shape[-1] == 2:
            return logits[:, 1:] - logits[:, :1]
        itself = torch.eye(logits.shape[-1], dtype=torch.bool, device=logits.device)
        others = logits[:, None].masked_fill(itself, -torch.inf)  # (batch, class, other class)
        return logits - others.logsumexp(-1)


class MultiLabel(_Labels):
    """Any number of labels per text; logits (batch, labels), with a sigmoid each.

    Task: binary cross entropy, mean over labeled examples x labels; -100 and NaN mark missing labels. Logits: T^2 KL
    per label, mean over examples x labels.
    """

    name = "several labels"
    auto_class = "AutoModelForSequenceClassification"
    unsmoothed_because = "a text can have several labels"

    def labels_for_model(self, batch: Batch) -> dict[str, Tensor]:
        labels = batch.get("labels")
        return {} if labels is None else {"labels": _filled(labels, _is_given(labels))}

    def task_loss(self, outputs: Mapping[str, Tensor], batch: Batch, own: Tensor) -> Tensor:
        labels, given = batch["labels"], _is_given(batch["labels"])
        logits = at_least_float32(self.logits(outputs))
        losses = F.binary_cross_entropy_with_logits(
            logits, torch.where(given, labels, 0).to(logits.dtype), reduction="none"
        )
        return torch.where(given.all(), own, mean_where(losses, given))

    def task_count(self, batch: Batch) -> Tensor:
        return _is_given(batch["labels"]).sum()

    def logit_loss(self, student: Tensor, teacher: Tensor, batch: Batch, **scale: Any) -> Tensor:
        return multilabel_logit_loss(student, teacher, **scale)

    def decisions(self, logits: Tensor) -> Tensor:
        """Returns the log odds of each label."""
        return logits

    def loss_at_chance(self, config: PreTrainedConfig, labels: Collection | None) -> float:
        return math.log(2)

    def usage(self, model_id: str) -> str:
        return (
            f"{pipeline_usage('text-classification', model_id, ', top_k=None')}\n\n"
            "# Each label has its own threshold, if the model was evaluated.\n"
            f'thresholds = getattr(model.model.config, "{THRESHOLDS}", {{}})\n'
            '[one for one in model(["Thank you!"])[0] if one["score"] >= thresholds.get(one["label"], 0.5)]'
        )


class Score(Head):
    """One number per text; logits (batch, 1).

    Task: squared error, mean over labeled examples; NaN, or -100 among whole numbers, marks a missing label. Logits:
    squared error of scores / T.
    """

    name = "a score"
    auto_class = "AutoModelForSequenceClassification"
    unsmoothed_because = "the model predicts a score"
    is_score = True

    def labels_for_model(self, batch: Batch) -> dict[str, Tensor]:
        labels = batch.get("labels")
        return {} if labels is None else {"labels": _filled(labels, _has_score(labels))}

    def task_loss(self, outputs: Mapping[str, Tensor], batch: Batch, own: Tensor) -> Tensor:
        labels, given = batch["labels"], _has_score(batch["labels"])
        scores = at_least_float32(self.logits(outputs)).reshape(labels.shape)
        errors = (scores - torch.where(given, labels, 0)).square()
        return torch.where(given.all(), own, mean_where(errors, given))

    def task_count(self, batch: Batch) -> Tensor:
        return _has_score(batch["labels"]).sum()

    def logit_loss(
        self, student: Tensor, teacher: Tensor, batch: Batch, *, temperature: float, **others: Any
    ) -> Tensor:
        return regression_logit_loss(student, teacher, temperature=temperature)

    def decisions(self, logits: Tensor) -> Tensor:
        """Returns the score."""
        return logits

    def label_order(self, teacher: PreTrainedConfig, student: PreTrainedConfig) -> list[int] | None:
        return label_order(teacher, student)  # raises if the teacher has classes

    def loss_at_chance(self, config: PreTrainedConfig, labels: Collection | None) -> float:
        """Returns the squared error of a model that always predicts 0."""
        labels = torch.as_tensor([] if labels is None else labels)
        labels = labels[_has_score(labels)].double()
        return max(1.0, float(labels.square().mean())) if len(labels) else 1.0

    def usage(self, model_id: str) -> str:
        return pipeline_usage("text-classification", model_id, ', function_to_apply="none"')


class Tokens(_Labels):
    """One class per token; logits (batch, length, classes).

    Task: cross entropy, mean over tokens whose label is not -100. Logits: T^2 KL, mean over tokens that are neither
    padding nor special, labeled or not. Between models with different tokenizers, the logits of a word are those of
    its first token.
    """

    name = "a class for each token"
    auto_class = "AutoModelForTokenClassification"
    other_columns = ("special_tokens_mask",)
    tokens_dim = 1

    def __init__(self) -> None:
        self._special = torch.tensor([], dtype=torch.long)

    def learn_special_tokens(self, ids: Collection[int]) -> None:
        self._special = torch.tensor(sorted(ids), dtype=torch.long)

    def check_columns(self, columns: Collection[str]) -> None:
        if "special_tokens_mask" not in columns and not len(self._special):
            logger.warning(
                "The logits of special tokens such as [CLS] count, because it is unknown which tokens are special. "
                "Give the trainer a processing_class, or the training set a column special_tokens_mask."
            )

    def _counts(self, batch: Batch) -> Tensor:
        """Returns a mask of items, (batch, length) or (batch, units), true for those of the text itself."""
        mask = self._of_text(batch)
        return at_first_tokens(mask, batch) & batch[UNIT_MASK].bool() if UNIT_MASK in batch else mask

    def _of_text(self, batch: Batch) -> Tensor:
        """Returns a mask (batch, length), true for the tokens of the text itself."""
        mask = attention_mask_of(batch).bool()
        if "special_tokens_mask" in batch:
            return mask & ~batch["special_tokens_mask"].bool()
        ids = batch["input_ids"]
        self._special = self._special.to(ids.device)  # copied once: a copy per step would synchronize
        return mask & ~torch.isin(ids, self._special)

    def logit_loss(self, student: Tensor, teacher: Tensor, batch: Batch, **scale: Any) -> Tensor:
        return token_logit_loss(at_first_tokens(student, batch), teacher, self._counts(batch), **scale)

    def logit_count(self, batch: Batch) -> Tensor:
        return self._counts(batch).sum()

    def usage(self, model_id: str) -> str:
        # The first piece of a word decides: usually it alone has a label in training.
        return pipeline_usage("token-classification", model_id, ', aggregation_strategy="first"')


class Spans(Head):
    """The start and end of an answer; logits (batch, 2, length).

    Task: cross entropy of starts and ends, mean over both. Logits: T^2 KL over the positions of `answer_mask`, mean
    over starts and ends. Between models with different tokenizers, the probability that an answer starts in a word is
    the sum over the teacher's tokens of it, and belongs to the student's first token of it; for ends, to the last.
    """

    name = "spans"
    auto_class = "AutoModelForQuestionAnswering"
    label_columns = ("start_positions", "end_positions")
    other_columns = (ANSWER_MASK,)
    tokens_dim = -1
    unsmoothed_because = "the labels are positions in a text, not classes"
    reads_first_token = True  # "no answer"

    def logits(self, outputs: Mapping[str, Tensor]) -> Tensor:
        return torch.stack((outputs["start_logits"], outputs["end_logits"]), dim=1)

    def of_units(self, logits: Tensor, batch: Batch) -> Tensor:
        return added_up(logits, batch)

    def unmapped(self, logits: Tensor, batch: Batch) -> Tensor | None:
        """Returns the mean of the shares of starts and of ends."""
        if UNIT_MASK not in batch:
            return None
        valid = attention_mask_of(batch).bool()[:, None]
        probabilities = at_least_float32(logits).masked_fill(~valid, -torch.inf).softmax(-1)
        return probabilities.masked_fill(batch[UNITS][:, None] >= 0, 0).sum(-1).mean(-1)

    def task_loss(self, outputs: Mapping[str, Tensor], batch: Batch, own: Tensor) -> Tensor:
        first, last = (batch[name] for name in self.label_columns)
        return span_task_loss(outputs["start_logits"], outputs["end_logits"], first, last, attention_mask_of(batch))

    def task_count(self, batch: Batch) -> Tensor:
        return span_task_count(batch["start_positions"], batch["end_positions"], attention_mask_of(batch))

    def check_columns(self, columns: Collection[str]) -> None:
        if ANSWER_MASK not in columns:
            raise InputError(
                f"the training set has no column {ANSWER_MASK}, but the logits of spans are compared where an answer "
                "may start or end. Add it (1 for the tokens of the context and [CLS]), with a collator that pads it; "
                "make the features with encode and SpanCollator of ckd_trainer.data.squad_features; or set alpha to 0."
            )

    def logit_loss(self, student: Tensor, teacher: Tensor, batch: Batch, **scale: Any) -> Tensor:
        if ANSWER_MASK not in batch:
            raise InputError(
                f"the batch has no {ANSWER_MASK}: use ckd_trainer.data.squad_features.SpanCollator, or set alpha 0."
            )
        mask = batch[ANSWER_MASK]
        if UNIT_MASK in batch:
            teacher, mask = at_outer_tokens(teacher, batch), mask * (batch[UNITS] >= 0)
        (start, end), (teacher_start, teacher_end) = student.unbind(1), teacher.unbind(1)
        return span_logit_loss(start, end, teacher_start, teacher_end, mask, **scale)

    def outputs(self, config: PreTrainedConfig) -> int:
        return 2

    def loss_at_chance(self, config: PreTrainedConfig, labels: Collection | None) -> float:
        return math.log(512)

    def usage(self, model_id: str) -> str:
        return (
            "from transformers import AutoModelForQuestionAnswering, AutoTokenizer\n\n"
            f'tokenizer = AutoTokenizer.from_pretrained("{model_id}")\n'
            f'model = AutoModelForQuestionAnswering.from_pretrained("{model_id}")\n\n'
            'inputs = tokenizer(question, context, truncation="only_second", return_tensors="pt")\n'
            "outputs = model(**inputs)\n"
            "start, end = outputs.start_logits.argmax(), outputs.end_logits.argmax()\n"
            'tokenizer.decode(inputs["input_ids"][0, start : end + 1])'
        )


class Vocabulary(Head):
    """One word of the vocabulary per token; logits (batch, length, vocabulary).

    Task: cross entropy, mean over tokens whose label is not -100. Logits: T^2 KL, mean over the same tokens; in
    rows without labels, over all tokens that are not padding.

    Args:
        causal: the model predicts the next token: logits are compared with the label of the next position.
    """

    tokens_dim = 1
    uncached_because = "the logits of a vocabulary are too large to store"
    unaligned_because = "their vocabularies differ, and each logit belongs to one entry"

    def __init__(self, *, causal: bool = False) -> None:
        self.causal = causal
        self.name = "a vocabulary, for the next token" if causal else "a vocabulary"
        self.auto_class = "AutoModelForCausalLM" if causal else "AutoModelForMaskedLM"

    def labels_for_model(self, batch: Batch) -> dict[str, Tensor]:
        if not self.causal or "labels" not in batch:
            return super().labels_for_model(batch)
        labels = batch["labels"].clone()  # the first token after padding is predicted from padding
        labels[:, 1:].masked_fill_(~attention_mask_of(batch).bool()[:, :-1], -100)
        return {"labels": labels}

    def _labeled(self, batch: Batch) -> Tensor:
        """Returns a mask of predictions of labeled tokens: (batch, length), or (batch, length - 1) if causal."""
        labels = self.labels_for_model(batch)["labels"].ne(-100)
        return labels[:, 1:] if self.causal else labels

    def _counts(self, batch: Batch) -> Tensor:
        """Returns a mask of the same shape, true where logits are compared."""
        mask = attention_mask_of(batch).bool()
        if self.causal:
            mask = mask[:, 1:] & mask[:, :-1]
        if "labels" not in batch:
            return mask
        labeled = self._labeled(batch)
        return labeled | (mask & ~labeled.any(-1, keepdim=True))

    def task_count(self, batch: Batch) -> Tensor:
        return self._labeled(batch).sum()

    def logit_loss(self, student: Tensor, teacher: Tensor, batch: Batch, **scale: Any) -> Tensor:
        rows, places = self._counts(batch).nonzero(as_tuple=True)
        # Embeddings may be padded to a multiple of 8, with rows after the last word.
        size = min(student.shape[-1], teacher.shape[-1])
        # Selects rows first: each is as long as the vocabulary, and few tokens are masked.
        return classification_logit_loss(student[rows, places, :size], teacher[rows, places, :size], **scale)

    def logit_count(self, batch: Batch) -> Tensor:
        return self._counts(batch).sum()

    def outputs(self, config: PreTrainedConfig) -> int:
        return config.vocab_size

    def usage(self, model_id: str) -> str:
        return pipeline_usage("text-generation" if self.causal else "fill-mask", model_id)


class NoHead(Head):
    """A bare encoder, trained with relation terms alone or together with a `compute_loss_func`."""

    name = "none"
    auto_class = "AutoModel"
    label_columns = ()
    uncached_because = "a bare encoder has no logits"
    unsmoothed_because = "a bare encoder has no labels to smooth"

    def logit_loss(self, student: Tensor, teacher: Tensor, batch: Batch, **scale: Any) -> Tensor:
        raise InputError("a bare encoder has no logits to compare: set alpha to 0.")

    def usage(self, model_id: str) -> str:
        return (
            "from transformers import AutoModel, AutoTokenizer\n\n"
            f'tokenizer = AutoTokenizer.from_pretrained("{model_id}")\n'
            f'model = AutoModel.from_pretrained("{model_id}")'
        )


def _filled(labels: Tensor, given: Tensor) -> Tensor:
    """Returns labels as fractional numbers, with 0 where none is given."""
    labels = torch.where(given, labels, 0)
    return labels if labels.is_floating_point() else labels.float()


def _is_given(labels: Tensor) -> Tensor:
    return ~(labels.isnan() | labels.eq(-100))


def _has_score(labels: Tensor) -> Tensor:
    return ~labels.isnan() if labels.is_floating_point() else labels.ne(-100)
