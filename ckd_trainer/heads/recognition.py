"""Which head a model has: looked up once, by the class of the model and its configuration."""

from typing import Any

import torch
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.models.auto import modeling_auto

from ckd_trainer.heads.base import Head
from ckd_trainer.heads.kinds import Classes, MultiLabel, NoHead, Score, Spans, Tokens, Vocabulary
from ckd_trainer.utils.errors import InputError
from ckd_trainer.utils.wrapped_models import LABELS, forward_arguments, has_adapters, inner_model, unwrapped

# What `DistillationTrainer` can train, for messages.
SUPPORTED = (
    "sequence classification (classes, several labels, a score), token classification, question answering, masked and "
    "causal language models, and bare encoders"
)


def head_of(model: torch.nn.Module) -> Head:
    """Returns the head of a transformers model, also of one inside PEFT, torch.compile or a wrapper that passes on.

    Raises:
        InputError: a model whose outputs we do not know.

    Example::

        >>> head_of(AutoModelForTokenClassification.from_config(config)).name
        'a class for each token'
    """
    model = unwrapped(model)
    inner = inner_model(model)
    if not isinstance(inner, PreTrainedModel):
        raise InputError(
            f"what the outputs of {type(model).__name__} mean is unknown, as there is no transformers model in it: "
            "say it, such as DistillationTrainer(head=ckd_trainer.heads.Classes(), ...)."
        )
    head = _head_of_class(type(inner), inner.config)
    wraps = inner is not model and not has_adapters(model)
    # One that is derived from a bare encoder and reads labels has a head of its own, too.
    if isinstance(head, NoHead) and (wraps or forward_arguments(inner) & {*LABELS}):
        raise InputError(
            f"what the outputs of {type(model).__name__} mean is unknown, as it puts a head of its own on an encoder: "
            "say it, such as DistillationTrainer(head=ckd_trainer.heads.Classes(), ...)."
        )
    return head


def head_of_auto_class(auto_class: type, config: PreTrainedConfig) -> Head:
    """Returns the head of the models that one of transformers' Auto classes makes.

    Args:
        auto_class: such as `AutoModelForSequenceClassification`.
    """
    return _head(auto_class.__name__.removeprefix("AutoModel"), config, auto_class.__name__)


def _head_of_class(kind: type, config: PreTrainedConfig) -> Head:
    for base in kind.__mro__:  # a class of the user's may be derived from one of transformers
        for auto in _KINDS:
            if base.__name__ in _names(auto):
                return _head(auto, config, kind.__name__)
    raise InputError(
        f"{kind.__name__} is not a model that we can distil ({SUPPORTED}): if its outputs mean what those of "
        "one of these do, say so, such as DistillationTrainer(head=ckd_trainer.heads.Classes(), ...)."
    )


def _head(auto: str, config: PreTrainedConfig, name: str) -> Head:
    if auto in _REFUSED or auto not in _KINDS:
        reason = _REFUSED.get(auto, "what its outputs mean is unknown")
        raise InputError(f"{name} cannot be distilled, as {reason}: give {SUPPORTED}.")
    if auto != "ForSequenceClassification":
        return _KINDS[auto]()
    problem = getattr(config, "problem_type", None)
    if problem == "multi_label_classification":
        return MultiLabel()
    if problem == "regression" and config.num_labels > 1:
        raise InputError(
            f"{name} predicts {config.num_labels} numbers for each text, but a score is one: give a model with "
            "num_labels 1, or one for each number."
        )
    if problem == "single_label_classification" and config.num_labels == 1:
        raise InputError(
            f"{name} has one class, so there is nothing to tell apart: give a model with more labels, or "
            'problem_type="regression" for a score.'
        )
    return Score() if config.num_labels == 1 else Classes()


def _names(auto: str) -> set[str]:
    """Returns the names of the classes that an Auto class makes."""
    mapping = "MODEL_MAPPING_NAMES" if not auto else f"MODEL_{_CONSTANTS.get(auto, auto)}_MAPPING_NAMES"
    values = getattr(modeling_auto, mapping).values()
    return {name for value in values for name in ((value,) if isinstance(value, str) else value)}


# By the name of an Auto class after `AutoModel`. The first that knows a class decides: that of pre-training comes
# late, as it lists masked language models again, and what it has beside them has two heads.
_KINDS: dict[str, Any] = {  # what makes a head; None: refused
    "ForSequenceClassification": Classes,
    "ForTokenClassification": Tokens,
    "ForQuestionAnswering": Spans,
    "ForMaskedLM": Vocabulary,
    "ForMultipleChoice": None,
    "ForNextSentencePrediction": None,
    "ForSeq2SeqLM": None,
    "ForCausalLM": lambda: Vocabulary(causal=True),
    "ForPreTraining": None,
    "": NoHead,
}
_CONSTANTS = {
    "ForSequenceClassification": "FOR_SEQUENCE_CLASSIFICATION",
    "ForTokenClassification": "FOR_TOKEN_CLASSIFICATION",
    "ForQuestionAnswering": "FOR_QUESTION_ANSWERING",
    "ForMaskedLM": "FOR_MASKED_LM",
    "ForMultipleChoice": "FOR_MULTIPLE_CHOICE",
    "ForNextSentencePrediction": "FOR_NEXT_SENTENCE_PREDICTION",
    "ForSeq2SeqLM": "FOR_SEQ_TO_SEQ_CAUSAL_LM",
    "ForCausalLM": "FOR_CAUSAL_LM",
    "ForPreTraining": "FOR_PRETRAINING",
}
_REFUSED = {
    "ForMultipleChoice": "its batches hold several texts for each example",
    "ForNextSentencePrediction": "it says whether one sentence follows another, which no head of ours does",
    "ForSeq2SeqLM": "it has an encoder and a decoder",
    "ForPreTraining": "its head is one of pre-training",
}
