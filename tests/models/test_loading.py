"""Weights that are missing, misnamed or unused are refused; every ordinary checkpoint is loaded."""

import json

import pytest
import torch
from helpers.tiny import save_tokenizer, tiny_config, tiny_model
from safetensors.torch import load_file, save_file
from transformers import (
    AlbertConfig,
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForPreTraining,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    BertForPreTraining,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    DebertaV2Config,
    DistilBertConfig,
    ElectraConfig,
    ModernBertConfig,
    MPNetConfig,
    RobertaConfig,
)

from ckd_trainer import ModelArguments
from ckd_trainer.models.loading import check_all_weights, check_base_weights, load_weights
from ckd_trainer.models.pair import ModelPair
from ckd_trainer.models.stored_teacher import StoredTeacher, load_teacher
from ckd_trainer.utils.errors import InputError

SIZES = {
    "vocab_size": 30,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 40,
}
SPECIAL = {f"{name}_token_id": 0 for name in ("pad", "bos", "eos", "cls", "sep")}
CONFIGS = {
    "bert": tiny_config(layers=2),
    "roberta": RobertaConfig(**SIZES),
    "distilbert": DistilBertConfig(vocab_size=30, dim=16, n_layers=2, n_heads=2, hidden_dim=32),
    "electra": ElectraConfig(**SIZES, embedding_size=8),
    "mpnet": MPNetConfig(**SIZES),
    "deberta-v2": DebertaV2Config(**SIZES, relative_attention=True, pos_att_type=["c2p", "p2c"]),
    "modernbert": ModernBertConfig(**SIZES, **SPECIAL),
    "albert": AlbertConfig(**SIZES, embedding_size=8),
}
CLASSES, SPANS = AutoModelForSequenceClassification, AutoModelForQuestionAnswering


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_ordinary_checkpoints_of_every_family_are_loaded(config, tmp_path):
    sources = [AutoModel, AutoModelForMaskedLM, CLASSES, SPANS]
    if config.model_type != "modernbert":
        sources.append(AutoModelForPreTraining)
    for number, source in enumerate(sources):
        folder = tmp_path / str(number)
        source.from_config(config).save_pretrained(folder)
        for target in (CLASSES, SPANS):
            model, info = load_weights(folder, target)
            check_base_weights(model, info, "it")
            if target is source:
                check_all_weights(model, info, "it")


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_layers_of_every_family_that_go_unused_are_refused(config, tmp_path):
    if config.model_type == "albert":
        pytest.skip("shares one layer among all depths")
    config = type(config).from_dict(config.to_dict() | {"layer_types": None, "num_hidden_layers": 3})
    for source in (AutoModel, CLASSES):
        source.from_config(config).save_pretrained(tmp_path)
        change(tmp_path, num_hidden_layers=2, n_layers=2, layer_types=None)
        model, info = load_weights(tmp_path, CLASSES)
        with pytest.raises(InputError, match="holds weights that .* does not use: .*layers?.2.*allow_unused_weights"):
            check_base_weights(model, info, "it")
        check_base_weights(model, info, "it", allow_unused=True)


def change(folder, **values):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def rename(folder, new_name):
    path = folder / "model.safetensors"
    save_file({new_name(name): tensor for name, tensor in load_file(path).items()}, path, metadata={"format": "pt"})


def add(folder, **tensors):
    path = folder / "model.safetensors"
    save_file(load_file(path) | tensors, path, metadata={"format": "pt"})


@pytest.fixture
def model_folder(tmp_path):
    """A folder with a random 4-layer classifier and its tokenizer, to be spoiled."""
    tiny_model().save_pretrained(tmp_path / "model")
    save_tokenizer(tmp_path / "model")
    return tmp_path / "model"


def load_student(folder, trains=True, **kwargs):
    pair = ModelPair(ModelArguments(str(folder), **kwargs), terms=[], trains=trains)
    pair.set_labels(["bad", "good"])
    return pair.load()[0]


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model.", "module._orig_mod."])
@pytest.mark.parametrize("bare", [False, True])
def test_names_with_the_prefix_of_a_wrapper_are_refused(model_folder, prefix, bare):
    if bare:
        AutoModel.from_pretrained(model_folder).save_pretrained(model_folder)
    rename(model_folder, lambda name: prefix + name)
    words = f"no weights for bert.embeddings.*names such as {prefix}.*save_pretrained, or rename"
    with pytest.raises(InputError, match=f"{words}.*student_init to random"):
        load_student(model_folder)
    with pytest.raises(InputError, match=words):
        load_student(model_folder, trains=False)
    with pytest.raises(InputError, match=words):
        load_teacher(str(model_folder))
    load_student(model_folder, student_init="random")


def test_old_names_of_layer_norms_are_loaded(model_folder):
    rename(model_folder, lambda name: name.replace("Norm.weight", "Norm.gamma").replace("Norm.bias", "Norm.beta"))
    load_student(model_folder)
    load_teacher(str(model_folder))


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"hidden_size": 0}, "cannot be raised to a negative power"),
        ({"num_attention_heads": 0}, "modulo by zero"),
        ({"hidden_act": "nope"}, "there is no 'nope'"),
        ({"intermediate_size": -1}, "negative dimension -1"),
        ({"pad_token_id": 10**6}, "Padding_idx must be within num_embeddings"),
    ],
)
def test_values_of_a_config_that_make_no_model_are_refused(model_folder, values, reason):
    change(model_folder, **values)
    for load in (load_student, load_teacher):
        with pytest.raises(InputError, match=f"the bert model's configuration cannot be used: .*{reason}"):
            load(str(model_folder))


def test_a_fault_of_the_code_that_loads_keeps_its_traceback(model_folder, monkeypatch):
    def fails(*args, **kwargs):
        raise ZeroDivisionError("a fault")

    monkeypatch.setattr(BertForSequenceClassification, "from_pretrained", fails)
    with pytest.raises(ZeroDivisionError, match="a fault"):
        load_teacher(str(model_folder))


def test_a_config_deeper_than_the_weights_is_refused(model_folder):
    change(model_folder, num_hidden_layers=6)
    for load in (load_student, load_teacher):
        with pytest.raises(InputError, match="no weights for bert.encoder.layer.4.*config.json describes another"):
            load(str(model_folder))


def test_embeddings_of_another_shape_are_refused(model_folder):
    change(model_folder, max_position_embeddings=64)
    words = r"position_embeddings.weight of shape \(32, 32\), but its config.json requires \(64, 32\)"
    for trains in (True, False):
        with pytest.raises(InputError, match=words):
            load_student(model_folder, trains=trains)


def test_relative_positions_that_go_unused_are_refused(model_folder):
    add(model_folder, **{"bert.encoder.layer.0.attention.self.distance_embedding.weight": torch.zeros(63, 16)})
    stored = StoredTeacher(str(model_folder), tiny_config())
    for load in (lambda: load_student(model_folder), lambda: load_student(model_folder, trains=False), stored.load):
        with pytest.raises(InputError, match="does not use: .*distance_embedding.weight.*allow_unused_weights"):
            load()
    load_student(model_folder, allow_unused_weights=True)
    load_student(model_folder, allow_unused_weights=True, trains=False)
    StoredTeacher(str(model_folder), tiny_config(), allow_unused_weights=True).load()


def test_the_option_reaches_the_teacher_of_a_pair(model_folder):
    add(model_folder, **{"pre_classifier.weight": torch.zeros(32, 32)})
    for allowed in (False, True):
        args = ModelArguments(
            teacher_model_name_or_path=str(model_folder),
            student_init="teacher_layers",
            student_num_layers=2,
            allow_unused_weights=allowed,
        )
        pair = ModelPair(args, terms=["logits"], trains=True)
        pair.set_labels(["bad", "good"])
        if allowed:
            pair.load()[1].load()
        else:
            with pytest.raises(InputError, match="does not use: pre_classifier.weight"):
                pair.load()


def test_what_no_model_computes_with_may_go_unused(model_folder):
    buffers = {"position_ids": torch.arange(32), "token_type_ids": torch.zeros(1, 32)}
    add(model_folder, **{f"bert.embeddings.{name}": tensor for name, tensor in buffers.items()})
    add(model_folder, **{"bert.embeddings.word_embeddings._weight": torch.zeros(22, 32)})
    load_student(model_folder)
    load_student(model_folder, trains=False)
    load_teacher(str(model_folder))


def test_a_question_answering_teacher_may_come_with_a_pooler(tmp_path):
    BertForQuestionAnswering(tiny_config()).save_pretrained(tmp_path)
    add(tmp_path, **{"bert.pooler.dense.weight": torch.zeros(32, 32), "bert.pooler.dense.bias": torch.zeros(32)})
    load_teacher(str(tmp_path), SPANS)


def test_a_second_head_is_refused_of_a_teacher_and_left_out_of_a_base(tmp_path):
    BertForPreTraining(tiny_config()).save_pretrained(tmp_path)
    head = {"classifier.weight": torch.zeros(2, 32), "classifier.bias": torch.zeros(2)}
    add(tmp_path, **head)
    model, info = load_weights(tmp_path, CLASSES)
    check_base_weights(model, info, "it")
    with pytest.raises(InputError, match="does not use: cls.predictions"):
        check_all_weights(model, info, "it")


def test_an_adapter_is_named_with_the_way_out(model_folder, tmp_path):
    lora = tmp_path / "lora"
    lora.mkdir()
    adapter = {"peft_type": "LORA", "base_model_name_or_path": str(model_folder), "r": 8}
    (lora / "adapter_config.json").write_text(json.dumps(adapter))
    save_file({"base_model.model.classifier.weight": torch.zeros(2, 32)}, lora / "adapter_model.safetensors")
    save_tokenizer(lora)
    words = "holds an adapter .*merge_and_unload"
    with pytest.raises(InputError, match=words):
        load_student(lora)
    model_folder.joinpath("config.json").rename(lora / "config.json")
    with pytest.raises(InputError, match=words):
        load_student(lora)


def test_a_stored_teacher_is_the_files_that_are_loaded(model_folder):
    stored = StoredTeacher(str(model_folder), tiny_config())
    count, fingerprint = stored.num_parameters(), stored.fingerprint()
    assert count == stored.load().num_parameters()
    weights = (model_folder / "model.safetensors").read_bytes()
    for name in ("model-backup.safetensors", "model_old.safetensors", "model-00001-of-00002.safetensors"):
        (model_folder / name).write_bytes(weights)
    assert (stored.num_parameters(), stored.fingerprint()) == (count, fingerprint)


def test_a_stored_teacher_in_shards(model_folder):
    stored, model = StoredTeacher(str(model_folder), tiny_config()), tiny_model(seed=1)
    whole = stored.fingerprint()
    (model_folder / "model.safetensors").unlink()
    model.save_pretrained(model_folder, max_shard_size="60KB")
    shards = sorted(path.name for path in model_folder.glob("model-*"))
    assert len(shards) > 1 and stored.num_parameters() == stored.load().num_parameters()
    fingerprint = stored.fingerprint()
    (model_folder / "model_old.safetensors").write_bytes(b"other")
    assert stored.fingerprint() == fingerprint != whole
    (model_folder / shards[-1]).write_bytes((model_folder / shards[0]).read_bytes())
    assert stored.fingerprint() != fingerprint


def test_tied_weights_count_once(tmp_path):
    model = AutoModelForMaskedLM.from_config(tiny_config())
    model.save_pretrained(tmp_path)
    assert StoredTeacher(str(tmp_path), model.config, AutoModelForMaskedLM).num_parameters() == model.num_parameters()


def test_a_teacher_without_weights_has_no_fingerprint(model_folder):
    (model_folder / "model.safetensors").unlink()
    with pytest.raises(InputError, match="has no model.safetensors"):
        StoredTeacher(str(model_folder), tiny_config()).fingerprint()
    index = model_folder / "model.safetensors.index.json"
    for content in ("{", "[]", "{}"):
        index.write_text(content)
        with pytest.raises(InputError, match="cannot load .*model.safetensors.index.json"):
            StoredTeacher(str(model_folder), tiny_config()).fingerprint()
