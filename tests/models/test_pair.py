"""Teacher and student: built, loaded, matched, and refused."""

import re
from types import SimpleNamespace

import huggingface_hub
import pytest
import torch
from helpers.families import family_model
from helpers.tiny import WORDS, save_tokenizer, tiny_config, tiny_model
from transformers import (
    AlbertConfig,
    AlbertForSequenceClassification,
    BertModel,
    DebertaV2Config,
    DebertaV2ForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    LongformerConfig,
    ModernBertConfig,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from ckd_trainer import ModelArguments
from ckd_trainer.heads.labels import label_order, warn_of_label_order
from ckd_trainer.models.compatibility import check_max_length
from ckd_trainer.models.pair import ModelPair, label_config
from ckd_trainer.models.student import config_of_layers, override_config, student_from_layers
from ckd_trainer.utils.errors import InputError

NAMES = ["bad", "good"]


def pair_of(teacher, *, distills=True, student=None, labels=NAMES, **kwargs):
    args = ModelArguments(
        model_name_or_path=str(student) if student else None,
        teacher_model_name_or_path=str(teacher) if teacher else None,
        **kwargs,
    )
    pair = ModelPair(args, terms=["logits", "wr_angle"] if distills else [], trains=True)
    pair.set_labels(labels)
    return pair


@pytest.mark.parametrize(
    ("kwargs", "layers"),
    [
        ({"student_num_layers": 2}, [1, 2]),
        ({"student_num_layers": 2, "student_layers": "first"}, [1, 2]),
        ({"student_num_layers": 3, "student_layers": "first_and_last"}, [1, 2, 4]),
        ({"student_num_layers": 1, "student_layers": "first_and_last"}, [4]),
        ({"student_num_layers": 4, "student_layers": "first_and_last"}, [1, 2, 3, 4]),
        ({"student_num_layers": 2, "student_layers": "last"}, [3, 4]),
        ({"student_num_layers": 2, "student_layers": "skip"}, [2, 4]),
        ({"student_num_layers": 2, "student_layers": "uniform"}, [2, 4]),
        ({"student_num_layers": 3, "student_layers": "uniform"}, [1, 3, 4]),
        ({"student_num_layers": 4, "student_layers": "skip"}, [1, 2, 3, 4]),
        ({"student_layers": "1,4"}, [1, 4]),
    ],
)
def test_student_from_teacher_layers(tiny_teacher, kwargs, layers):
    student, stored = pair_of(tiny_teacher, student_init="teacher_layers", **kwargs).load()
    teacher = stored.load()
    assert student.config.num_hidden_layers == len(layers) and teacher.config.num_hidden_layers == 4
    for target, source in enumerate(layers):
        ours = student.bert.encoder.layer[target].state_dict()
        theirs = teacher.bert.encoder.layer[source - 1].state_dict()
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    for part in ("bert.embeddings", "bert.pooler", "classifier"):
        ours, theirs = student.get_submodule(part).state_dict(), teacher.get_submodule(part).state_dict()
        assert theirs and all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize(
    ("given", "pooler"), [({"hidden_size": 16}, 16), ({"hidden_size": 16, "pooler_hidden_size": 16}, 16), ({}, 32)]
)
def test_debertas_pooler_has_the_size_of_a_student_from_scratch(tmp_path, given, pooler):
    """The files of a teacher hold its pooler's size too."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    DebertaV2ForSequenceClassification(DebertaV2Config(**sizes, vocab_size=len(WORDS) + 9)).save_pretrained(tmp_path)
    save_tokenizer(tmp_path)
    student, _ = pair_of(tmp_path, student_init="random", student_config={"intermediate_size": 8} | given).load()
    assert student.config.pooler_hidden_size == pooler
    assert student(torch.tensor([[2, 7, 9, 3]])).logits.shape == (1, 2)


def test_all_layers_make_the_same_function(tiny_teacher):
    student, teacher = pair_of(tiny_teacher, student_init="teacher_layers", student_num_layers=4).load()
    ids = torch.tensor([[2, 7, 9, 3]])
    torch.testing.assert_close(student.eval()(ids).logits, teacher.load().eval()(ids).logits)


@pytest.mark.parametrize(
    "teacher",
    [
        DistilBertForSequenceClassification(
            DistilBertConfig(vocab_size=20, dim=16, n_layers=4, n_heads=2, hidden_dim=32)
        ),
        RobertaForSequenceClassification(
            RobertaConfig(
                vocab_size=20, hidden_size=16, num_hidden_layers=4, num_attention_heads=2, intermediate_size=32
            )
        ),
    ],
    ids=["distilbert", "roberta"],
)
def test_other_encoders_give_their_layers_too(teacher):
    config = type(teacher.config).from_dict(teacher.config.to_dict() | {})
    config.num_hidden_layers = 2
    student = student_from_layers(teacher, [2, 4], config)
    ids = torch.tensor([[2, 7, 9, 3]])
    states = [model.eval()(ids, output_hidden_states=True).hidden_states for model in (student, teacher)]
    assert len(states[0]) == 3 and torch.equal(states[0][0], states[1][0])  # the embeddings are the teacher's


def test_lists_by_layer_follow_the_layers():
    sizes = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32}
    config = LongformerConfig(**sizes, num_hidden_layers=3, attention_window=[4, 8, 12])
    assert config_of_layers(config, [1, 3]).attention_window == [4, 12]
    config = DebertaV2Config(**sizes, num_hidden_layers=2, pos_att_type=["c2p", "p2c"])  # no list by layer
    assert config_of_layers(config, [2]).pos_att_type == ["c2p", "p2c"]


def test_lists_by_layer_have_the_length_of_a_random_student(tiny_teacher):
    def override(config, **kwargs):
        return override_config(config, ModelArguments(student_init="random", **kwargs))

    sizes = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32, "num_hidden_layers": 3}
    alike = LongformerConfig(**sizes, attention_window=[8, 8, 8])
    assert override(alike, student_num_layers=5).attention_window == [8] * 5
    several = {"attention_window": [4, 6]}
    assert override(alike, student_num_layers=2, student_config=several).attention_window == [4, 6]
    with pytest.raises(InputError, match="attention_window has 3 entries, one per layer: give 2"):
        override(LongformerConfig(**sizes, attention_window=[4, 8, 12]), student_num_layers=2)
    special = {f"{name}_token_id": 0 for name in ("pad", "bos", "eos", "cls", "sep")}
    modern = ModernBertConfig(**sizes, **special, vocab_size=22)
    wanted = ["full_attention", "sliding_attention", "sliding_attention"] * 2
    assert override(modern, student_num_layers=6).layer_types == wanted


def test_shared_layers_cannot_be_taken():
    teacher = AlbertForSequenceClassification(
        AlbertConfig(vocab_size=20, embedding_size=8, hidden_size=16, num_hidden_layers=4, num_attention_heads=2)
    )
    with pytest.raises(InputError, match="the albert teacher does not have 4 separate layers"):
        student_from_layers(teacher, [2, 4], teacher.config)


@pytest.mark.parametrize(
    ("family", "change", "words"),
    [
        ("BERT", {"hidden_size": 16}, "of bert.embeddings.word_embeddings.weight, .* 40 x 16 weights, .* 40 x 32 w"),
        ("BERT", {"intermediate_size": 8}, "layer.0.intermediate.dense.weight, the student has 8 x 32 w.* 32 x 32 w"),
        (
            "BERT",
            {"vocab_size": 60},
            "word_embeddings.weight, the student has 60 x 32 weights, and the teacher 40 x 32",
        ),
        (
            "ELECTRA",
            {"embedding_size": 32},
            "word_embeddings.weight, the student has 40 x 32 weights, .* 40 x 8 weights",
        ),
        (
            "DeBERTa-v2",
            {"conv_kernel_size": 0},
            "deberta.encoder.conv.conv.weight, the student has none, and the teach",
        ),
        ("DistilBERT", {"num_labels": 3}, None),
        ("RoBERTa", {"num_labels": 1}, None),
        ("BERT", {"hidden_dropout_prob": 0.0}, None),
    ],
)
def test_what_else_a_configuration_may_change(family, change, words):
    teacher = family_model(family)
    config = config_of_layers(teacher.config, [1, 4])
    for name, value in change.items():
        setattr(config, name, value)
    if words is None:
        student = student_from_layers(teacher, [1, 4], config)
        embeddings = (model.get_input_embeddings().weight for model in (student, teacher))
        assert torch.equal(*embeddings) and student.config.num_labels == change.get("num_labels", 2)
    else:
        with pytest.raises(InputError, match=f"makes another model than the .* teacher: .*{words}"):
            student_from_layers(teacher, [1, 4], config)


def test_another_head_stays_random_and_the_rest_is_the_teachers(tiny_teacher):
    pair = pair_of(
        tiny_teacher, distills=False, labels=["a", "b", "c"], student_init="teacher_layers", student_layers="1,2"
    )
    student, teacher = pair.load()
    assert teacher is None and student.config.id2label == {0: "a", 1: "b", 2: "c"}
    assert student.classifier.out_features == 3


def test_weights_are_float32_whatever_the_checkpoint_holds(tiny_teacher):
    tiny_model().half().save_pretrained(tiny_teacher)
    for kwargs in ({"student_init": "teacher_layers", "student_num_layers": 2}, {"student": tiny_teacher}):
        student, teacher = pair_of(tiny_teacher, **kwargs).load()
        for model in (student, teacher.load()):
            assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_random_student_from_the_teachers_configuration(tiny_teacher):
    overrides = {"hidden_size": 8, "intermediate_size": 12}
    pair = pair_of(tiny_teacher, student_init="random", student_num_layers=2, student_config=overrides)
    student, _ = pair.load()
    assert (student.config.hidden_size, student.config.num_hidden_layers, student.config.vocab_size) == (8, 2, 22)


def test_pretrained_student_of_another_size_gets_a_new_head(tiny_teacher, tmp_path):
    torch.manual_seed(3)
    BertModel(tiny_config(layers=2, width=8)).save_pretrained(tmp_path / "small")
    save_tokenizer(tmp_path / "small")
    student, _ = pair_of(tiny_teacher, student=tmp_path / "small").load()
    assert student.config.hidden_size == 8 and student.config.label2id == {"bad": 0, "good": 1}


def test_control_run_reads_no_teacher(tmp_path):
    tiny_model().save_pretrained(tmp_path / "student")
    save_tokenizer(tmp_path / "student")
    pair = pair_of("nowhere", student=tmp_path / "student", distills=False)
    assert pair.load()[1] is None


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        (
            {"student_init": "teacher_layers", "student_num_layers": 5},
            "student_num_layers is 5, but the teacher has only 4",
        ),
        ({"student_init": "teacher_layers"}, "needs student_num_layers"),
        ({"student_init": "teacher_layers", "student_layers": "first"}, "needs student_num_layers"),
        (
            {"student_init": "teacher_layers", "student_layers": "skip", "student_num_layers": 3},
            "skip, but 3 does not divide the teacher's 4 layers evenly: use uniform",
        ),
        ({"student_init": "teacher_layers", "student_layers": "2,5"}, "student_layers is 2,5, but .* layers 1 to 4"),
        (
            {"student_init": "random", "student_config": {"hiden_size": 8}},
            "hiden_size, which is not a field of bert",
        ),
        (
            {"student_init": "random", "student_config": {"to_dict": 1}},
            "to_dict, which is not a field of bert",
        ),
        ({"student_init": "random", "student_config": {"vocab_size": 5}}, "the tokenizer has 22 entries"),
        ({"student": "nowhere"}, "cannot load nowhere"),
        ({}, "model_name_or_path is not given: name a pre-trained model, .*, or set student_init to teacher_layers"),
    ],
)
def test_refused(tiny_teacher, kwargs, words, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)  # it would try to reach the Hub five times
    with pytest.raises(InputError, match=words):
        pair_of(tiny_teacher, **kwargs)


def test_a_width_that_the_heads_do_not_divide_is_refused(tiny_teacher):
    with pytest.raises(InputError, match="student_config is {'hidden_size': 7}: .* not a multiple of the number"):
        pair_of(tiny_teacher, student_init="random", student_config={"hidden_size": 7})


def test_no_teacher_named():
    with pytest.raises(
        InputError, match=r"not given, .* the loss \(logits, wr_angle\) needs .* set alpha and wr_angle_weight to 0"
    ):
        pair_of(None, student="x")
    with pytest.raises(
        InputError, match="student_init random needs a teacher: .* fine-tuning, set student_init to pretr"
    ):
        pair_of(None, distills=False, student_init="random")


def test_teacher_without_a_trained_head_is_refused(tmp_path):
    BertModel(tiny_config()).save_pretrained(tmp_path / "base")
    save_tokenizer(tmp_path / "base")
    pair = pair_of(tmp_path / "base", distills=False, student_init="teacher_layers", student_num_layers=2)
    with pytest.raises(InputError, match="no weights for classifier.bias, classifier.weight: it was not fine-tuned"):
        pair.load()


def test_a_pickled_checkpoint_is_not_loaded(tmp_path):
    model = tiny_model()
    model.config.architectures = ["BertForSequenceClassification"]
    model.config.save_pretrained(tmp_path / "pickled")
    save_tokenizer(tmp_path / "pickled")
    torch.save(model.state_dict(), tmp_path / "pickled" / "pytorch_model.bin")
    pair = pair_of(tmp_path / "pickled", student_init="teacher_layers", student_num_layers=2)
    with pytest.raises(InputError, match="cannot load .*safetensors"):
        pair.load()


@pytest.mark.parametrize("words", [[*WORDS[1:], WORDS[0]], WORDS[:-1], [*WORDS[:-1], "new"]])
def test_different_vocabularies_are_two_tokenizers(tiny_teacher, tmp_path, words):
    """Same size and other content included."""
    tiny_model(layers=2).save_pretrained(tmp_path / "student")
    save_tokenizer(tmp_path / "student", words=words)
    pair = pair_of(tiny_teacher, student=tmp_path / "student")
    assert "different vocabularies" in pair.difference and pair.input_tokenizer is pair.tokenizers
    assert pair.tokenizers.student is pair.tokenizer is pair.cutting_tokenizer
    assert pair.tokenizers.teacher is pair.teacher_tokenizer


def test_one_vocabulary_is_one_tokenizer(tiny_teacher, tmp_path):
    tiny_model(layers=2).save_pretrained(tmp_path / "student")
    save_tokenizer(tmp_path / "student")
    pair = pair_of(tiny_teacher, student=tmp_path / "student")
    pair.compare_encodings([("the cat",), ("a dog", "the bird")])
    assert pair.tokenizers is None and pair.difference is None
    assert pair.input_tokenizer.get_vocab() == pair.cutting_tokenizer.get_vocab() == pair.tokenizer.get_vocab()


def test_one_vocabulary_read_in_two_ways_is_two_tokenizers(tiny_teacher, tmp_path):
    tiny_model(layers=2).save_pretrained(tmp_path / "cased")
    save_tokenizer(tmp_path / "cased", do_lower_case=False)
    pair = pair_of(tiny_teacher, student=tmp_path / "cased")
    pair.compare_encodings([("the cat",), ("a dog", "the bird")])
    assert pair.tokenizers is None
    pair.compare_encodings([("the cat",), ("The cat",)])
    assert pair.tokenizers is not None and "encode 'The cat' differently" in pair.difference


def test_max_length_above_the_models(tiny_teacher):
    pair = pair_of(tiny_teacher, student_init="teacher_layers", student_num_layers=2)
    pair.check_max_length(32)
    with pytest.raises(InputError, match="max_seq_length is 33, but .* reads at most 32 tokens: give 32"):
        pair.check_max_length(33)


def test_positions_counted_from_the_padding_index():
    config = RobertaConfig(vocab_size=22, hidden_size=16, num_hidden_layers=1, num_attention_heads=2)
    config.update({"max_position_embeddings": 34, "pad_token_id": 1})
    tokenizer = SimpleNamespace(model_max_length=512, num_special_tokens_to_add=lambda pair: 4)
    check_max_length(config, tokenizer, 32)
    with pytest.raises(InputError, match="max_seq_length is 33, but the roberta model reads at most 32"):
        check_max_length(config, tokenizer, 33)
    with pytest.raises(InputError, match="max_seq_length is 4, but the 4 special tokens .*: give 5 or more"):
        check_max_length(config, tokenizer, 4)


def test_a_folder_without_a_tokenizer_is_refused(tiny_teacher):
    for path in tiny_teacher.glob("token*"):
        path.unlink()
    with pytest.raises(InputError, match="has no tokenizer|cannot load"):
        pair_of(tiny_teacher, student_init="teacher_layers", student_num_layers=2)


@pytest.mark.parametrize("content", [b"", b"not tensors", None])
def test_broken_weights_are_one_message(tiny_teacher, content):
    weights = tiny_teacher / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100] if content is None else content)
    pair = pair_of(tiny_teacher, student_init="teacher_layers", student_num_layers=2)
    with pytest.raises(InputError, match="cannot load"):
        pair.load()


@pytest.mark.parametrize(
    ("theirs", "ours", "order"),
    [
        (["bad", "good"], ["bad", "good"], None),
        (["Good", "BAD"], ["bad", "good"], [1, 0]),
        (["c", "a", "b"], ["a", "b", "c"], [1, 2, 0]),
        (["LABEL_0", "LABEL_1"], ["bad", "good"], None),
        (["bad", "good"], ["LABEL_0", "LABEL_1"], None),
        # Equal names decide, whatever they are.
        (["LABEL_1", "LABEL_0"], ["LABEL_0", "LABEL_1"], [1, 0]),
        (["LABEL_0", "LABEL_1", "LABEL_2"], ["label_0", "label_2", "label_1"], [0, 2, 1]),
        (["yes", "Yes"], ["Yes", "yes"], [1, 0]),
        # Numbers on both sides are equal names, too.
        (["LABEL_0", "LABEL_1"], ["0", "1"], None),
        (["1", "0"], ["LABEL_0", "LABEL_1"], [1, 0]),
        # Numbers on one side stand for the position.
        (["LABEL_1", "LABEL_0"], ["bad", "good"], [1, 0]),
        (["bad", "good"], ["1", "0"], [1, 0]),
        (["LABEL_0", "LABEL_1"], ["1", "2"], None),
    ],
)
def test_label_order(theirs, ours, order):
    teacher, student = tiny_config(labels=theirs), tiny_config(labels=ours)
    assert label_order(teacher, student) == order


@pytest.mark.parametrize(
    ("theirs", "ours", "words"),
    [
        (["bad", "good"], ["bad", "good"], None),
        (["LABEL_0", "LABEL_1"], ["0", "1"], None),
        (["GOOD", "bad"], ["bad", "good"], "labels in another order than the data. They are matched by name"),
        (
            ["LABEL_0", "LABEL_1"],
            ["bad", "good"],
            "MATCHED BY POSITION.*.*'LABEL_0 is bad', 'LABEL_1 is good'. If",
        ),
        (
            ["LABEL_1", "LABEL_0"],
            ["bad", "good"],
            "MATCHED BY POSITION.*.*'LABEL_0 is bad', 'LABEL_1 is good'. If",
        ),
        (["bad", "good"], ["1", "0"], "MATCHED BY POSITION.*.*'good is 1', 'bad is 0'. If"),
    ],
)
def test_an_order_that_is_assumed_is_said(theirs, ours, words, caplog):
    warn_of_label_order(tiny_config(labels=theirs), tiny_config(labels=ours))
    assert len(caplog.records) == (words is not None)
    if words:
        assert re.search(words, caplog.text)


def test_many_labels_are_no_long_message():
    with pytest.raises(InputError) as error:
        label_order(*(tiny_config(labels=[f"{kind} {row}" for row in range(500)]) for kind in ("a", "b")))
    assert "'a 0', 'a 1'" in str(error.value) and len(str(error.value)) < 500


@pytest.mark.parametrize(
    ("theirs", "ours", "words"),
    [
        (["a", "b", "c"], ["a", "b"], r"the teacher has 3 labels, but the data has 2\. The data lacks 'c': correct"),
        (
            ["a", "b"],
            ["A", "b", "goood"],
            r"2 labels, but the data has 3\. The data also has 'goood': correct that, or",
        ),
        (
            ["a", "b", "c", "d"],
            ["a", "b", "x"],
            "The data also has 'x' and lacks 'c', 'd': correct that, or fine-tune",
        ),
        (["a", "b", "c"], ["x", "y"], "but the data has 2: it was fine-tuned for another task"),
        (["a", "b"], ["a"], "the teacher has 2 labels, but the data has numbers to predict: it was fine-tuned"),
        (["a"], ["a", "b"], "the teacher predicts a number, but the data has 2 labels: it was fine-tuned"),
        (["yes", "no"], ["bad", "good"], "the teacher's labels are 'yes', 'no', but the data has 'bad', 'good'"),
        # Of many, those that the other side lacks come first.
        (
            [f"intent {number}" for number in range(150)],
            [f"intent {number}" for number in range(149)] + ["intent x"],
            "the teacher's labels are 'intent 149', 'intent 0', .*, but the data has 'intent x', 'intent 0', ",
        ),
    ],
)
def test_labels_that_do_not_fit(theirs, ours, words):
    with pytest.raises(InputError, match=words):
        label_order(tiny_config(labels=theirs), tiny_config(labels=ours))


def test_label_config():
    assert label_config(None)["problem_type"] == "regression"
    assert label_config(["n", "y"])["label2id"] == {"n": 0, "y": 1}
