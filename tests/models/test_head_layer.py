"""The last layer of a head: its rows are the labels, also where other layers have as many."""

import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    DebertaV2Config,
    DistilBertConfig,
    ElectraConfig,
    MPNetConfig,
    RobertaConfig,
)

from ckd_trainer.models.student import permute_head
from ckd_trainer.utils.errors import InputError

SIZES = {"vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}
SIZES |= {"intermediate_size": 48, "max_position_embeddings": 40, "pad_token_id": 1}
KINDS = [BertConfig, RobertaConfig, DistilBertConfig, ElectraConfig, MPNetConfig, DebertaV2Config]
OF_DISTILBERT = {"vocab_size": 60, "dim": 32, "n_layers": 1, "n_heads": 4, "hidden_dim": 48, "pad_token_id": 1}


@pytest.mark.parametrize("labels", [3, 32], ids="{} labels, width 32".format)
@pytest.mark.parametrize(
    "kind", [BertConfig, RobertaConfig, DistilBertConfig, ElectraConfig, MPNetConfig, DebertaV2Config]
)
def test_logits_in_another_order_are_the_same_logits(kind, labels):
    torch.manual_seed(0)
    sizes = OF_DISTILBERT if kind is DistilBertConfig else SIZES
    model = AutoModelForSequenceClassification.from_config(kind(**sizes, num_labels=labels)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        ids, order = torch.randint(4, 60, (3, 8)), torch.randperm(labels).tolist()
        before = model(ids).logits
        permute_head(model, order)
        torch.testing.assert_close(model(ids).logits, before[:, order])


def test_a_head_without_a_linear_layer_is_refused():
    model = AutoModelForSequenceClassification.from_config(BertConfig(**SIZES, num_labels=3))
    model.classifier = torch.nn.Sequential(torch.nn.Linear(32, 4), torch.nn.ReLU())
    with pytest.raises(InputError, match="BertForSequenceClassification has no linear layer"):
        permute_head(model, [1, 0, 2])
