"""Starts a new head at what is known before any text is read: the frequencies of the labels, or the mean score."""

import logging
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor
from transformers import PreTrainedModel

from ckd_trainer.models.head_layer import last_layer

logger = logging.getLogger(__name__)

_ROUNDS = 20  # of `center_at`; one is enough if all texts get the same logits
# What a head predicts from its outputs, and the inverse.
_PREDICTIONS: Mapping[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "regression": (torch.clone, torch.clone),
    "single_label_classification": (lambda logits: logits.softmax(-1), torch.log),
    "multi_label_classification": (torch.sigmoid, torch.logit),
}


def log_odds(labels: ArrayLike) -> list[float]:
    """Returns log((n + 1/2) / (N - n + 1/2)) of each label, which applies to n of N texts.

    The halves keep it finite for labels that apply to no text, or to all.

    Args:
        labels: 0 and 1, (texts, labels); none may be missing.
    """
    flags = np.asarray(labels)
    counts = flags.sum(0)
    return np.log((counts + 0.5) / (len(flags) - counts + 0.5)).tolist()


def log_frequencies(labels: ArrayLike, classes: int) -> list[float]:
    """Returns log((n + 1/2) / (N + C/2)) of each of C classes, which n of N texts have, minus their mean.

    The mean makes no difference to probabilities. So a head of equally frequent classes starts at 0, as usual.

    Args:
        labels: the class of each text, from 0, (texts,); none may be missing.
    """
    counts = np.bincount(np.asarray(labels, int), minlength=classes)
    logs = np.log((counts + 0.5) / (counts.sum() + 0.5 * classes))
    return (logs - logs.mean()).tolist()


def start_at(model: PreTrainedModel, outputs: Sequence[float]) -> None:
    """Sets the bias of the head's last layer to what a model predicts best that has not read the text.

    Otherwise, a new head gives all labels the same probability, 1/2 if a text can have several, and scores near 0.
    If most labels are rare, or the mean score is far from 0, the first steps move the outputs for all texts at
    once. The quickest way is to saturate the pooler (tanh) in front of the last layer, after which all texts look
    the same to it. With several labels, a small model may never recover: all-MiniLM-L6-v2 on GoEmotions stays at
    an average precision of 0.06, and reaches 0.34 in one epoch from here. With 28 classes, one per text, it loses
    some 60 steps. RetinaNet starts its classifier in the same way, for the same reason (Lin et al. 2017, arXiv
    1708.02002, section 4.1).

    Args:
        model: a classifier with a new head. A last layer without a bias is left as it is.
        outputs: the logit of each label, or the mean score alone.
    """
    layer = last_layer(model, len(outputs))
    if layer is None or layer.bias is None:
        return
    logger.info("The new head starts at the label frequencies or the mean score of the training set.")
    with torch.no_grad():
        layer.bias.copy_(torch.tensor(outputs))


def center_at(model: PreTrainedModel, outputs: Sequence[float], batch: Mapping[str, Tensor]) -> None:
    """Shifts the bias of a trained head, so that its mean prediction on a batch is that of `outputs`.

    Predictions are probabilities of labels, or scores. A head that reads a lower layer than the one it was trained on
    may give the same prediction to all texts, far from what is best without reading them: after three of its layers,
    all-MiniLM-L6-v2 that was fine-tuned on STS-B from a bias of 0 predicts 0.11, and the mean score is 2.7. See
    `start_at` for what this costs. A head that was trained from the start of `start_at` needs hardly any shift.

    Args:
        model: a classifier. A last layer without a bias is left as it is.
        outputs: the logit of each label, or the mean score alone.
        batch: inputs of the model: a few dozen texts.
    """
    layer = last_layer(model, len(outputs))
    if layer is None or layer.bias is None:
        return
    predict, invert = _PREDICTIONS[model.config.problem_type]
    training = model.training
    with torch.no_grad():
        logits = model.eval()(**batch).logits.double()
        wanted = invert(predict(torch.tensor(outputs, dtype=torch.float64)))
        shift = torch.zeros_like(wanted)
        for _ in range(_ROUNDS):
            shift += wanted - invert(predict(logits + shift).mean(0))
        layer.bias.add_(shift)
    model.train(training)
    logger.info(
        "The head reads a lower layer than the teacher's: its bias is shifted by up to %.2f.", shift.abs().max()
    )
