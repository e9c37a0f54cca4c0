"""Starts a new head at what is known before any text is read: the frequencies of the labels, or the mean score."""

import logging
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor
from transformers import PreTrainedModel

from ckd_trainer.models.head_layer import last_layer
from ckd_trainer.utils.wrapped_models import outputs_by_name

logger = logging.getLogger(__name__)


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
    """Sets the bias of the head's last layer to the best prediction without reading a text.

    Otherwise, a new head gives all labels the same probability, 1/2 if a text can have several, and scores near 0. If
    most labels are rare, or the mean score is far from 0, the first steps move the outputs of all texts together, and
    the quickest way to do that is to saturate the pooler (tanh) in front of the last layer, after which all texts look
    the same to it. With several labels, a small model may never recover: all-MiniLM-L6-v2 on GoEmotions stays at an
    average precision of 0.06, and reaches 0.34 in one epoch from here. With 28 classes, one per text, it loses some 60
    steps. RetinaNet starts its classifier in the same way, for the same reason (Lin et al. 2017, arXiv 1708.02002,
    section 4.1).

    Args:
        model: a classifier with a new head. A last layer without a bias is left as it is.
        outputs: the logit of each label, or the mean score alone.
    """
    bias = _last_bias(model, len(outputs))
    if bias is None:
        return
    logger.info("The new head starts at the label frequencies or the mean score of the training set.")
    with torch.no_grad():
        bias.copy_(torch.tensor(outputs))


def center_at(model: PreTrainedModel, outputs: Sequence[float], batch: Mapping[str, Tensor]) -> None:
    """Shifts the bias of a trained head that gives all texts nearly the same outputs, to those of `start_at`.

    This is what a head may do that reads a lower layer than the one it was trained on. A MiniLM that was fine-tuned on
    STS-B from a bias of 0 gives each text a score of 0.11 after its third layer; the mean score is 2.7. A head whose
    outputs differ between texts by more than the shift still reads something, and is left as it is.

    Args:
        model: a classifier. A last layer without a bias is left as it is.
        outputs: the logit of each label, or the mean score alone.
        batch: inputs of the model: a few dozen texts.
    """
    bias = _last_bias(model, len(outputs))
    if bias is None:
        return
    training = model.training
    with torch.no_grad():
        found = model.eval()(**batch, **outputs_by_name(model)).logits
        model.train(training)
        shift = found.new_tensor(outputs) - found.mean(0)
        if found.std(0, correction=0).max() < shift.abs().max():
            bias.add_(shift)
            logger.info(
                "The head of the student reads a lower layer than the teacher's, and gives all texts nearly the same "
                "outputs: its bias is shifted to the label frequencies or the mean score of the training set."
            )


def _last_bias(model: PreTrainedModel, outputs: int) -> Tensor | None:
    """Returns the bias of the head's last layer; None if the layer or its bias is missing."""
    layer = last_layer(model, outputs)
    return None if layer is None else layer.bias
