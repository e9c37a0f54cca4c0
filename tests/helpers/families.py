"""Tiny random classifiers of many families. All read the token ids of helpers.training, where 0 is padding."""

import torch
from transformers import (
    AlbertConfig,
    AutoModelForSequenceClassification,
    BertConfig,
    DebertaConfig,
    DebertaV2Config,
    DistilBertConfig,
    ElectraConfig,
    LlamaConfig,
    LongformerConfig,
    MobileBertConfig,
    ModernBertConfig,
    MPNetConfig,
    RobertaConfig,
    XLMRobertaConfig,
)

IDS = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
# As in DeBERTa-v3: positions in buckets, and one projection for them and for the words.
RELATIVE = {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 8, "share_att_key": True}
CONVOLUTION = {"conv_kernel_size": 3, "conv_act": "gelu"}
# With small weights, its layers change their inputs so little that all layers are alike.
MODERN = {"cls_token_id": 2, "sep_token_id": 3, "local_attention": 8, "initializer_range": 0.5}
BOTTLENECK = {"embedding_size": 8, "true_hidden_size": 8, "intra_bottleneck_size": 8}

# family -> the class of its configuration, and options in which it differs from others
FAMILIES = {
    "BERT": (BertConfig, {}),
    "DistilBERT": (DistilBertConfig, {}),
    "RoBERTa": (RobertaConfig, IDS),
    "XLM-RoBERTa": (XLMRobertaConfig, IDS),
    "ELECTRA": (ElectraConfig, {"embedding_size": 8}),
    "ALBERT": (AlbertConfig, IDS | {"embedding_size": 8}),
    "DeBERTa": (DebertaConfig, {}),
    "DeBERTa-v2": (DebertaV2Config, RELATIVE | CONVOLUTION),
    "DeBERTa-v3": (DebertaV2Config, RELATIVE),
    "MPNet": (MPNetConfig, IDS),
    "MobileBERT": (MobileBertConfig, BOTTLENECK),
    "ModernBERT": (ModernBertConfig, IDS | MODERN),
    "Longformer": (LongformerConfig, IDS | {"sep_token_id": 3, "attention_window": 4}),
    "Llama": (LlamaConfig, IDS | {"num_key_value_heads": 2}),
}


def family_model(family, layers=4, width=32, seed=0, **changes):
    """Returns a model with 4 attention heads and the labels LABEL_0 and LABEL_1."""
    kind, options = FAMILIES[family]
    sizes = {"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": 4, "intermediate_size": 32}
    if kind is DistilBertConfig:
        sizes = {"dim": width, "n_layers": layers, "n_heads": 4, "hidden_dim": 32}
    others = {"vocab_size": 40, "max_position_embeddings": 40, "initializer_range": 0.1}
    config = kind(**others | sizes | options | changes)
    torch.manual_seed(seed)
    return AutoModelForSequenceClassification.from_config(config)
