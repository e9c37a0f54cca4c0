"""Looks up a model's head, from its class and configuration."""

import functools
from collections.abc import Callable

import torch
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.models.auto import modeling_auto

from ckd_trainer.heads.base import Head
from ckd_trainer.heads.kinds import Classes, MultiLabel, NoHead, Score, Spans, Tokens, Vocabulary
from ckd_trainer.utils.errors import InputError
from ckd_trainer.utils.wrapped_models import LABELS, forward_arguments, has_adapters, inner_model, unwrapped

# The models that `DistillationTrainer` supports, for messages.
SUPPORTED = (
    "sequence classification (classes, several labels, a score), token classification, question answering, masked and "
    "causal language models, and bare encoders"
)


def head_of(model: torch.nn.Module) -> Head:
    """Returns the head of a transformers model, or of one inside PEFT, torch.compile or a transparent wrapper.

    Raises:
        InputError: the model is not supported.

    Example::

        >>> head_of(AutoModelForTokenClassification.from_config(config)).name
        'a class for each token'
    """
    model = unwrapped(model)
    inner = inner_model(model)
    if not isinstance(inner, PreTrainedModel):
        raise InputError(
            f"{type(model).__name__} contains no transformers model, so it is unknown what its outputs mean: pass a "
            "head, such as DistillationTrainer(head=ckd_trainer.heads.Classes(), ...)."
        )
    head = _head_of_class(type(inner), inner.config)
    wraps = inner is not model and not has_adapters(model)
    # A subclass of a bare encoder that reads labels has its own head, too.
    if isinstance(head, NoHead) and (wraps or forward_arguments(inner) & {*LABELS}):
        raise InputError(
            f"{type(model).__name__} has its own head on an encoder, so it is unknown what its outputs mean: pass a "
            "head, such as DistillationTrainer(head=ckd_trainer.heads.Classes(), ...)."
        )
    return head


def head_of_auto_class(auto_class: type, config: PreTrainedConfig) -> Head:
    """Returns the head of the models that a transformers Auto class loads.

    Args:
        auto_class: such as `AutoModelForSequenceClassification`.
    """
    return _head(auto_class.__name__.removeprefix("AutoModel"), config, auto_class.__name__)


def _head_of_class(kind: type, config: PreTrainedConfig) -> Head:
    for base in kind.__mro__:  # a user's class may derive from one of transformers'
        for auto in _KINDS:
            if base.__name__ in _names(auto):
                return _head(auto, config, kind.__name__)
    raise InputError(
        f"{kind.__name__} is not a supported model ({SUPPORTED}). If its outputs mean the same as those of a "
        "supported one, pass its head, such as DistillationTrainer(head=ckd_trainer.heads.Classes(), ...)."
    )


def _head(auto: str, config: PreTrainedConfig, name: str) -> Head:
    _, make = _KINDS.get(auto, ("", "it is unknown what its outputs mean"))
    if isinstance(make, str):
        raise InputError(f"{name} cannot be distilled, because {make}. Supported models: {SUPPORTED}.")
    if make is not Classes:
        return make()
    problem = getattr(config, "problem_type", None)
    if problem == "multi_label_classification":
        return MultiLabel()
    if problem == "regression" and config.num_labels > 1:
        raise InputError(
            f"{name} predicts {config.num_labels} numbers per text, but a score is a single number: give a model with "
            "num_labels 1, or one model per number."
        )
    if problem == "single_label_classification" and config.num_labels == 1:
        raise InputError(
            f"{name} has a single class, so there is nothing to learn: give a model with more labels, or "
            'problem_type="regression" for a score.'
        )
    return Score() if config.num_labels == 1 else Classes()


def _names(auto: str) -> set[str]:
    """Returns the names of the classes that an Auto class loads."""
    values = getattr(modeling_auto, _KINDS[auto][0]).values()
    return {name for value in values for name in ((value,) if isinstance(value, str) else value)}


# Auto class (the name after `AutoModel`) -> the name of its mapping in transformers, and its head's constructor or the
# reason why it is refused. The first entry that lists a class decides: ForPreTraining comes late because it lists
# masked language models again.
_KINDS: dict[str, tuple[str, Callable[[], Head] | str]] = {
    "ForSequenceClassification": ("MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES", Classes),
    "ForTokenClassification": ("MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES", Tokens),
    "ForQuestionAnswering": ("MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES", Spans),
    "ForMaskedLM": ("MODEL_FOR_MASKED_LM_MAPPING_NAMES", Vocabulary),
    "ForMultipleChoice": (
        "MODEL_FOR_MULTIPLE_CHOICE_MAPPING_NAMES",
        "its batches hold several texts for each example",
    ),
    "ForNextSentencePrediction": (
        "MODEL_FOR_NEXT_SENTENCE_PREDICTION_MAPPING_NAMES",
        "no head here predicts whether one sentence follows another",
    ),
    "ForSeq2SeqLM": ("MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES", "it has an encoder and a decoder"),
    "ForCausalLM": ("MODEL_FOR_CAUSAL_LM_MAPPING_NAMES", functools.partial(Vocabulary, causal=True)),
    "ForPreTraining": ("MODEL_FOR_PRETRAINING_MAPPING_NAMES", "its head is for pre-training"),
    "": ("MODEL_MAPPING_NAMES", NoHead),
}
