"""Models with a few thousand weights, and tokenizers with a handful of words."""

import torch
from transformers import (
    BertConfig,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertTokenizer,
    TrainingArguments,
)

from helpers.files import WORDS

ARGUMENTS = TrainingArguments("unused", use_cpu=True)


def tiny_config(layers=4, width=32, labels=("bad", "good"), **kwargs):
    return BertConfig(
        vocab_size=5 + len(WORDS),
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=2 * width,
        max_position_embeddings=32,
        initializer_range=0.1,
        id2label=dict(enumerate(labels)),
        label2id={name: index for index, name in enumerate(labels)},
        **kwargs,
    )


def tiny_model(seed=0, **kwargs):
    torch.manual_seed(seed)
    return BertForSequenceClassification(tiny_config(**kwargs))


def no_dropout(**kwargs):
    """Returns a model without dropout: its outputs are the same in training and evaluation mode."""
    return tiny_model(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, **kwargs)


def qa_model(seed=0, layers=4, width=32, **kwargs):
    """Returns a model for extractive question answering."""
    torch.manual_seed(seed)
    return BertForQuestionAnswering(tiny_config(layers=layers, width=width, labels=("LABEL_0", "LABEL_1"), **kwargs))


def save_tokenizer(folder, words=WORDS, **kwargs):
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
    BertTokenizer(vocab={word: index for index, word in enumerate(vocabulary)}, **kwargs).save_pretrained(folder)


def save_base(folder, **kwargs):
    """Saves a question answering model and its tokenizer, as a start for fine-tuning."""
    qa_model().save_pretrained(folder)
    save_tokenizer(folder, **kwargs)
    return folder
