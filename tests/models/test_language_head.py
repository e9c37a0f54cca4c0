"""The head of a masked language model goes back onto an encoder that was trained without it, in every family."""

import pytest
import torch
from helpers.tiny import tiny_config, tiny_model
from safetensors.torch import load_file
from transformers import (
    AlbertConfig,
    AutoModel,
    AutoModelForMaskedLM,
    BertConfig,
    BertForMaskedLM,
    BertModel,
    DebertaV2Config,
    DistilBertConfig,
    ElectraConfig,
    MobileBertConfig,
    ModernBertConfig,
    MPNetConfig,
    RobertaConfig,
)

from ckd_trainer.models.language_head import attach, fits, language_head
from ckd_trainer.models.loading import check_all_weights, load_weights
from ckd_trainer.utils.errors import InputError

SIZES = {
    "vocab_size": 60,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 40,
}
FAMILIES = {
    "bert": BertConfig(**SIZES),
    "untied": BertConfig(**SIZES, tie_word_embeddings=False),
    "roberta": RobertaConfig(**SIZES),
    "distilbert": DistilBertConfig(
        vocab_size=60, dim=32, n_layers=2, n_heads=2, hidden_dim=64, max_position_embeddings=40
    ),
    "electra": ElectraConfig(**SIZES, embedding_size=16),
    "mpnet": MPNetConfig(**SIZES),
    "albert": AlbertConfig(**SIZES, embedding_size=16),
    "deberta": DebertaV2Config(**SIZES),
    "mobilebert": MobileBertConfig(**SIZES, embedding_size=16, true_hidden_size=16, intra_bottleneck_size=16),
    "modernbert": ModernBertConfig(**SIZES, pad_token_id=0, bos_token_id=1, eos_token_id=2, cls_token_id=1),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_same_model_as_before(family, tmp_path):
    config = FAMILIES[family]
    torch.manual_seed(0)
    original = AutoModelForMaskedLM.from_config(config).eval()
    original.save_pretrained(tmp_path / "whole")
    bare, info = load_weights(str(tmp_path / "whole"), AutoModel)
    check_all_weights(bare, info, "whole")  # neither the unused head nor a missing pooler matters
    bare.save_pretrained(tmp_path / "bare")
    pooler = {name for name in bare.state_dict() if "pooler" in name}

    head = language_head(str(tmp_path / "whole"), original.config)
    assert head and fits(bare.config, head)
    attach(tmp_path / "bare", bare.config, head)

    again, info = AutoModelForMaskedLM.from_pretrained(tmp_path / "bare", output_loading_info=True)
    assert not info["missing_keys"] and not info["mismatched_keys"]
    ids = torch.randint(5, 60, (2, 9))
    assert torch.equal(again.eval()(ids).logits, original(ids).logits)
    encoder, info = AutoModel.from_pretrained(tmp_path / "bare", output_loading_info=True)
    assert not info["missing_keys"]
    assert all(torch.equal(weight, bare.state_dict()[name]) for name, weight in encoder.state_dict().items())
    assert len([name for name in load_file(tmp_path / "bare" / "model.safetensors") if "pooler" in name]) == len(
        pooler
    )


def test_a_trained_encoder_keeps_its_weights(tmp_path):
    torch.manual_seed(0)
    teacher = BertForMaskedLM(tiny_config(layers=4))
    teacher.save_pretrained(tmp_path / "teacher")
    student = BertModel(tiny_config(layers=2))
    student.save_pretrained(tmp_path / "student")
    attach(tmp_path / "student", student.config, language_head(str(tmp_path / "teacher"), teacher.config))
    result = BertForMaskedLM.from_pretrained(tmp_path / "student")
    embeddings = student.embeddings.word_embeddings.weight
    assert torch.equal(result.cls.predictions.decoder.weight, embeddings)  # tied to the student's, not the teacher's
    assert torch.equal(result.bert.encoder.layer[1].output.dense.weight, student.encoder.layer[1].output.dense.weight)
    theirs = teacher.cls.predictions.transform.dense.weight
    assert torch.equal(result.cls.predictions.transform.dense.weight, theirs)


def test_models_without_a_head_for_language(tmp_path):
    for name, model in {"bare": BertModel(tiny_config()), "classifier": tiny_model()}.items():
        model.save_pretrained(tmp_path / name)
        assert language_head(str(tmp_path / name), model.config) is None
        model.config.architectures = None  # unknown: the files are read
        assert language_head(str(tmp_path / name), model.config) is None


def test_another_width_does_not_fit(tmp_path):
    model = BertForMaskedLM(tiny_config())
    model.save_pretrained(tmp_path)
    head = language_head(str(tmp_path), model.config)
    assert fits(tiny_config(layers=1), head)
    assert not fits(tiny_config(width=16), head)


def test_a_bare_encoder_must_use_all_layers_of_its_file(tmp_path):
    BertForMaskedLM(tiny_config(layers=4)).save_pretrained(tmp_path)
    for layers, message in ((3, "holds weights that BertModel does not use"), (5, "has no weights for")):
        model, info = load_weights(str(tmp_path), AutoModel, config=tiny_config(layers=layers))
        with pytest.raises(InputError, match=message):
            check_all_weights(model, info, "teacher")
