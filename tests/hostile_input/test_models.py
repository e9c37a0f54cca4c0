"""Teachers and students that cannot be loaded, do not do the task, or do not belong together."""

import json
import pickle

import pytest
from helpers.files import Touch
from helpers.hostile_input import (
    CODE,
    GLUE,
    NOISE,
    QUICK,
    SQUAD,
    TEACHER,
    TEXTS,
    Row,
    coded,
    copied,
    cut,
    folder,
    holding,
    modelled,
    saying,
    teacher,
    without,
)
from helpers.tiny import WORDS, save_tokenizer
from safetensors.torch import load_file, save_file
from transformers import (
    BartConfig,
    BertForQuestionAnswering,
    BertModel,
    CanineConfig,
    FunnelConfig,
    Gemma3Config,
    T5Config,
    ViTConfig,
    Wav2Vec2Config,
)

PRETRAINED = "--student_init pretrained --student_num_layers none --model_name_or_path"


def pair(name, make, words, main=GLUE, options=""):
    return Row(f"pair: {name}", main, words, f"{PRETRAINED} HERE/student {options}", {"student": make})


def renamed(prefix):
    """Puts a prefix before the names of the weights."""

    def change(path):
        weights = load_file(path / "model.safetensors")
        weights = {prefix + name: tensor for name, tensor in weights.items()}
        save_file(weights, path / "model.safetensors", metadata={"format": "pt"})

    return change


def configured(kind):
    """A configuration alone: the kind of model is refused before its weights are looked for."""

    def make(path, good):
        kind().save_pretrained(path)
        save_tokenizer(path)

    return make


def adapter(path, good):
    """What peft saves of LoRA."""
    path.mkdir()
    (path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "base_model_name_or_path": "bert"}))
    (path / "adapter_model.safetensors").write_bytes((good / "teacher" / "model.safetensors").read_bytes())


def pickled(path):
    (path / "model.safetensors").unlink()
    (path / "pytorch_model.bin").write_bytes(pickle.dumps(Touch(str(path.parent / "marker"))))


MODELS = [
    Row(
        "model: no such folder",
        GLUE,
        "cannot load HERE/nonesuch: there is no such folder",
        "--teacher_model_name_or_path HERE/nonesuch",
    ),
    Row(
        "model: no such name",
        TEACHER,
        "cannot load nobody/nothing: there is no | Hub fails",
        "--model_name_or_path nobody/nothing",
    ),
    Row("model: shell", TEACHER, "cannot load $(touch", "--model_name_or_path $(touch${IFS}marker);touch"),
    Row(
        "model: a file",
        GLUE,
        "train.tsv is a file: give the folder of a model",
        "--teacher_model_name_or_path GOOD/train.tsv",
    ),
    Row(
        "model: none given",
        TEACHER,
        "model_name_or_path is not given: name a pre-trained model, such as google-bert/bert-base-uncased.\n",
        f"{TEXTS} {QUICK}",
        alone=True,
    ),
    Row(
        "model: no teacher given",
        GLUE,
        "teacher_model_name_or_path is not given | the loss (logits, | name one | set alpha and ",
        f"{TEXTS} {QUICK} --model_name_or_path GOOD/teacher",
        alone=True,
    ),
    teacher("an empty folder", folder, "cannot load | model"),
    teacher("no config", copied("teacher", without("config.json")), "cannot load | config.json"),
    teacher("config not JSON", copied("teacher", holding("config.json", "{")), "cannot load | config.json"),
    teacher("config binary", copied("teacher", holding("config.json", NOISE)), "cannot load"),
    teacher("config a list", copied("teacher", holding("config.json", "[]")), "cannot load", main=TEACHER),
    teacher("config of an unknown kind", copied("teacher", saying("config.json", model_type="evil")), "evil"),
    teacher(
        "config with words for numbers", copied("teacher", saying("config.json", num_hidden_layers="four")), "four"
    ),
    teacher("config that does not divide", copied("teacher", saying("config.json", hidden_size=33)), "33"),
    teacher(
        "config with a label left out",
        copied("teacher", saying("config.json", id2label={"0": "bad", "7": "good"})),
        "label",
    ),
    teacher(
        "config deeper than the weights",
        copied("teacher", saying("config.json", num_hidden_layers=6)),
        "no weights for | describes another model",
    ),
    teacher(
        "config flatter than the weights",
        copied("teacher", saying("config.json", num_hidden_layers=2)),
        "holds weights that | does not use | encoder.layer.2 | allow_unused_weights",
    ),
    teacher(
        "config flatter than the weights, to fine-tune",
        copied("teacher", saying("config.json", num_hidden_layers=2)),
        "holds weights that | does not use | encoder.layer.2 | allow_unused_weights",
        main=TEACHER,
    ),
    teacher(
        "config of longer texts, to fine-tune",
        copied("teacher", saying("config.json", max_position_embeddings=64)),
        "position_embeddings.weight of shape (32, 32) | requires (64, 32)",
        main=TEACHER,
    ),
    teacher(
        "config with other shapes than the weights",
        copied("teacher", saying("config.json", intermediate_size=48)),
        "of shape (64, | requires (48, | do not belong together",
    ),
    teacher(
        "config with more labels than the head",
        copied("teacher", saying("config.json", id2label={"0": "bad", "1": "good", "2": "fine"})),
        "3 labels | has 2",
    ),
    teacher(
        "weights of a wrapper", copied("teacher", renamed("module.")), "names such as module. | DataParallel | rename"
    ),
    teacher(
        "weights of a wrapper, to fine-tune",
        copied("teacher", renamed("_orig_mod.")),
        "names such as _orig_mod. | save_pretrained | student_init to random",
        main=TEACHER,
    ),
    teacher(
        "weights of a wrapper, for questions",
        copied("answers", renamed("model.")),
        "names such as model. | DataParallel | rename",
        main=SQUAD,
    ),
    teacher("BART", configured(BartConfig), "bart model has an encoder and a decoder | give a text encoder"),
    teacher("T5, to fine-tune", configured(T5Config), "t5 model has an encoder and a decoder | bert", main=TEACHER),
    teacher("BART for questions", configured(BartConfig), "bart model has an encoder and a decoder", main=SQUAD),
    teacher("Funnel", configured(FunnelConfig), "funnel model pools tokens | give a text encoder"),
    teacher("CANINE", configured(CanineConfig), "canine model reads characters | give a text encoder", main=TEACHER),
    teacher(
        "of images",
        configured(ViTConfig),
        "is a model of type vit | SequenceClassification does not support | a text encoder",
    ),
    teacher(
        "of images, for questions",
        configured(ViTConfig),
        "is a model of type vit | QuestionAnswering does not support | bert",
        main=SQUAD,
    ),
    teacher(
        "of sounds, to fine-tune",
        configured(Wav2Vec2Config),
        "is a model of type wav2vec2 | does not support",
        main=TEACHER,
    ),
    teacher("of images and text", configured(Gemma3Config), "gemma3 model | number of layers | a text encoder"),
    teacher("an adapter", adapter, "holds an adapter | merge_and_unload | new folder"),
    teacher("an adapter, to fine-tune", adapter, "holds an adapter | merge_and_unload | new folder", main=TEACHER),
    teacher("no weights", copied("teacher", without("model.safetensors")), "cannot load | model.safetensors"),
    teacher("weights truncated", copied("teacher", cut("model.safetensors")), "cannot load"),
    teacher("weights empty", copied("teacher", holding("model.safetensors", b"")), "cannot load", main=TEACHER),
    teacher(
        "weights with an endless head", copied("teacher", holding("model.safetensors", b"\xff" * 64)), "cannot load"
    ),
    teacher("weights pickled", copied("teacher", pickled), "cannot load | safetensors"),
    teacher("weights pickled, to fine-tune", copied("teacher", pickled), "cannot load | safetensors", main=TEACHER),
    teacher("no head", modelled(kind=BertModel), "no weights for classifier | ckd-trainer teacher"),
    teacher("head of questions", copied("answers"), "no weights for | classifier.bias | ckd-trainer teacher"),
    teacher("head of classes", copied("teacher"), "no weights for qa_outputs | ckd-trainer teacher", main=SQUAD),
    teacher(
        "head of three classes",
        modelled(labels=("a", "b", "c")),
        "the teacher has 3 outputs | ckd-trainer teacher",
        main=SQUAD,
    ),
    teacher(
        "code of its own",
        copied("teacher", coded, saying("config.json", model_type="evil", auto_map=CODE)),
        "cannot load | trust_remote_code",
    ),
    teacher("no tokenizer", copied("teacher", without("token*")), "model has no tokenizer | add the files"),
    teacher("tokenizer of another form", copied("teacher", saying("tokenizer.json", model={})), "cannot load"),
    teacher("tokenizer is a list", copied("teacher", holding("tokenizer_config.json", "[]")), "cannot load"),
    teacher("labels are a list", copied("teacher", saying("config.json", id2label=["bad"])), "cannot load"),
    teacher("tokenizer not JSON", copied("teacher", holding("tokenizer.json", "{")), "cannot load"),
    teacher(
        "tokenizer without padding",
        copied("teacher", saying("tokenizer_config.json", pad_token=None)),
        "no padding token | batches",
    ),
    teacher(
        "tokenizer with more words",
        modelled(words=[*WORDS, "more"]),
        "the tokenizer has 23 entries | for 22 | do not belong together",
    ),
    teacher(
        "too short for the texts",
        copied("teacher"),
        "max_seq_length is 33 | at most 32 | give 32",
        options="--max_seq_length 33",
    ),
    teacher(
        "too short for the questions",
        copied("answers"),
        "max_seq_length is 99 | at most 32 | give 32",
        main=SQUAD,
        options="--max_seq_length 99",
    ),
    teacher(
        "to evaluate other labels",
        modelled(labels=("a", "b", "c")),
        "cannot be evaluated | 3 labels | has 2",
        main=TEACHER,
        options="--do_train false --do_eval",
    ),
]


PAIRS = [
    pair(
        "another vocabulary and a term about tokens",
        modelled(words=[*WORDS[:-1], "new"]),
        "different tokenizers | minilmv2 cannot compare them | queries and keys | the weight of the term to 0",
        options="--minilmv2_weight 1 --minilmv2_heads 2",
    ),
    pair(
        "upper case and a term about tokens",
        modelled(tokenizer={"do_lower_case": False}),
        "different tokenizers | attribution cannot compare them | the weight of the term to 0",
        options="--train_file GOOD/upper.tsv --attribution_weight 1",
    ),
    pair(
        "padding sides",
        modelled(tokenizer={"padding_side": "left"}),
        "pads on the right | student's on the left | Set padding_side",
    ),
    pair(
        "padding sides of questions",
        modelled(kind=BertForQuestionAnswering, tokenizer={"padding_side": "left"}),
        "pads on the right | student's on the left | Set padding_side",
        main=SQUAD,
    ),
    pair(
        "a mapping to layers that are not there",
        copied("teacher"),
        "names 5:4 | states 0 to 4",
        options="--wr_layer_mapping 0:0,5:4",
    ),
    pair(
        "a mapping from deep to flat",
        modelled(layers=6),
        "needs 6 teacher layers | has 4",
        options="--wr_layer_mapping last",
    ),
    pair(
        "layer-transforming relation of two pairs",
        copied("teacher"),
        "ltr_layer_mapping | 2 | three",
        options="--ltr_angle_weight 0.3 --ltr_layer_mapping 0:0,1:2",
    ),
    teacher(
        "other labels than the texts",
        modelled(labels=("no", "yes")),
        "the teacher's labels are 'no', 'yes' | 'bad', 'good' | rename the labels",
        kind="pair",
    ),
    teacher(
        "another number of labels",
        modelled(labels=("a", "b", "c")),
        "the teacher has 3 labels | has 2 | ckd-trainer teacher",
    ),
    teacher(
        "a score for classes",
        modelled(labels=("score",)),
        "the teacher predicts a number, | has 2 labels | ckd-trainer teacher",
    ),
]


ROWS = [*MODELS, *PAIRS]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_bad_input_is_one_message_and_leaves_all_as_it_was(row, refused):
    refused(row)
