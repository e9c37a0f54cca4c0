"""Which head a model has, and which models are refused."""

import pytest
import torch
from transformers import (
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    BertConfig,
    BertForMultipleChoice,
    BertForNextSentencePrediction,
    BertForPreTraining,
    BertForSequenceClassification,
    BertLMHeadModel,
    BertModel,
    DistilBertConfig,
    DistilBertForTokenClassification,
    RobertaConfig,
    RobertaForMaskedLM,
    T5Config,
    T5ForConditionalGeneration,
    ViTConfig,
    ViTForImageClassification,
)

from ckd_trainer.heads import Classes, MultiLabel, NoHead, Score, Tokens, Vocabulary, head_of
from ckd_trainer.heads.recognition import auto_class_of
from ckd_trainer.utils.errors import InputError


def small(config=BertConfig, **kwargs):
    sizes = {"num_hidden_layers": 1, "hidden_size": 8, "num_attention_heads": 1, "intermediate_size": 8}
    if config is DistilBertConfig:
        sizes = {"n_layers": 1, "dim": 8, "n_heads": 1, "hidden_dim": 8}
    return config(vocab_size=9, **sizes, **kwargs)


class OfTheUsers(BertForSequenceClassification):
    pass


@pytest.mark.parametrize(("model", "kind"), [
    (BertForSequenceClassification(small()), Classes),
    (OfTheUsers(small()), Classes),
    (BertForSequenceClassification(small(num_labels=1)), Score),
    (BertForSequenceClassification(small(problem_type="multi_label_classification")), MultiLabel),
    (DistilBertForTokenClassification(small(DistilBertConfig)), Tokens),
    (RobertaForMaskedLM(small(RobertaConfig)), Vocabulary),
    (BertModel(small()), NoHead),
    (torch.compile(BertForSequenceClassification(small())), Classes),
])  # fmt: skip
def test_known_heads(model, kind):
    assert type(head_of(model)) is kind


def test_causal_models_predict_the_next_token():
    assert head_of(BertLMHeadModel(small(is_decoder=True))).causal
    assert not head_of(RobertaForMaskedLM(small(RobertaConfig))).causal


@pytest.mark.parametrize(("model", "words"), [
    (BertForMultipleChoice(small()), "BertForMultipleChoice .*several texts for each example"),
    (BertForNextSentencePrediction(small()), "BertForNextSentencePrediction .*one sentence follows"),
    (BertForPreTraining(small()), "BertForPreTraining .*two heads"),
    (BertForSequenceClassification(small(num_labels=3, problem_type="regression")), "3 numbers for each text"),
    (T5ForConditionalGeneration(T5Config(vocab_size=9, d_model=8, d_kv=8, d_ff=8, num_layers=1, num_heads=1)),
     "an encoder and a decoder"),
    (ViTForImageClassification(ViTConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1,
                                         intermediate_size=8, image_size=8, patch_size=4)), "none of the models"),
    (torch.nn.Linear(2, 2), "outputs of Linear mean is unknown"),
])  # fmt: skip
def test_other_models_are_refused_by_name(model, words):
    with pytest.raises(InputError, match=words):
        head_of(model)


def test_the_auto_class_that_loads_a_model_again():
    assert auto_class_of(OfTheUsers(small())) is AutoModelForSequenceClassification
    assert auto_class_of(RobertaForMaskedLM(small(RobertaConfig))) is AutoModelForMaskedLM
