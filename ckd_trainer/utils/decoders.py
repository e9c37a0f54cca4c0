"""Decoders: models of families that are made to generate text, in which a token sees only those before it."""

from transformers import PreTrainedConfig
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)

# Encoders such as BERT can be causal language models too. XLNet has no masked language model, but sees whole texts.
_DECODERS = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.keys() - MODEL_FOR_MASKED_LM_MAPPING_NAMES.keys() - {"xlnet"}


def is_decoder(config: PreTrainedConfig) -> bool:
    """Returns whether a configuration is that of a decoder, such as gpt2 or llama, whatever head it has."""
    return getattr(config, "model_type", None) in _DECODERS
