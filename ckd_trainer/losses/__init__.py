"""Distillation losses: tensors in, scalar out. Nothing here depends on a model, a trainer or a task."""

from ckd_trainer.losses.geometry import Gram, gram
from ckd_trainer.losses.logits import (
    classification_logit_loss,
    multilabel_logit_loss,
    regression_logit_loss,
    span_logit_loss,
    span_task_count,
    span_task_loss,
    token_logit_loss,
)
from ckd_trainer.losses.pairs import pair_count, pair_loss
from ckd_trainer.losses.ranking import group_count, listwise_loss, margin_mse_loss, score_pair_count
from ckd_trainer.losses.relations import contextual_relation_losses, layer_gram, word_gram
from ckd_trainer.losses.triples import triple_count, triple_loss

__all__ = [
    "Gram",
    "classification_logit_loss",
    "contextual_relation_losses",
    "gram",
    "group_count",
    "layer_gram",
    "listwise_loss",
    "margin_mse_loss",
    "multilabel_logit_loss",
    "pair_count",
    "pair_loss",
    "regression_logit_loss",
    "score_pair_count",
    "span_logit_loss",
    "span_task_count",
    "span_task_loss",
    "token_logit_loss",
    "triple_count",
    "triple_loss",
    "word_gram",
]
