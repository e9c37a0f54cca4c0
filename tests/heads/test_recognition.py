"""Which head a model has, and which models are refused."""

import pytest
import torch
import transformers
from transformers import (
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

from ckd_trainer.heads import Classes, MultiLabel, NoHead, Score, Spans, Tokens, Vocabulary, head_of
from ckd_trainer.utils.errors import InputError


def small(config=BertConfig, **kwargs):
    sizes = {"num_hidden_layers": 1, "hidden_size": 8, "num_attention_heads": 1, "intermediate_size": 8}
    if config is DistilBertConfig:
        sizes = {"n_layers": 1, "dim": 8, "n_heads": 1, "hidden_dim": 8}
    return config(vocab_size=9, **sizes, **kwargs)


class WithAHead(BertModel):
    def forward(self, input_ids, labels=None):
        return super().forward(input_ids)


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
    (BertForPreTraining(small()), "BertForPreTraining .*its head is for pre-training"),
    (BertForSequenceClassification(small(num_labels=3, problem_type="regression")), "3 numbers per text"),
    (T5ForConditionalGeneration(T5Config(vocab_size=9, d_model=8, d_kv=8, d_ff=8, num_layers=1, num_heads=1)),
     "an encoder and a decoder"),
    (ViTForImageClassification(ViTConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1,
                                         intermediate_size=8, image_size=8, patch_size=4)),
     "not a supported model"),
    (torch.nn.Linear(2, 2), "Linear contains no transformers model, so it is unknown what its outputs mean"),
    (WithAHead(small()), "WithAHead has its own head on an encoder, so it is unknown what its outputs mean"),
])  # fmt: skip
def test_other_models_are_refused_by_name(model, words):
    with pytest.raises(InputError, match=words):
        head_of(model)


def test_one_class_is_nothing_to_tell_apart():
    """transformers' own loss is the cross entropy of one class then, which is 0; its newer versions refuse it too."""
    model = BertForSequenceClassification(small(num_labels=1))
    object.__setattr__(model.config, "problem_type", "single_label_classification")
    with pytest.raises(InputError, match="has a single class, so there is nothing to learn"):
        head_of(model)


@pytest.mark.parametrize("kind", [Classes, MultiLabel, Score, Tokens, Spans, Vocabulary, NoHead])
def test_the_auto_class_of_a_head_makes_models_with_it(kind):
    auto = getattr(transformers, kind().auto_class)
    more = {Score: {"num_labels": 1}, MultiLabel: {"problem_type": "multi_label_classification"}}.get(kind, {})
    assert type(head_of(auto.from_config(small(**more)))) is kind
