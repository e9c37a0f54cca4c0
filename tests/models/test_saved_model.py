"""What a run saves can be loaded and used, and says what was loaded."""

import json

import pytest
import torch
import transformers
from datasets import Dataset
from helpers.commands import SHORT_RUN, STUDENT, TWO_STEPS
from helpers.files import question_file
from helpers.tiny import save_tokenizer, tiny_config, tiny_model
from packaging.version import Version
from tokenizers import Tokenizer
from transformers import (
    AutoModel,
    BartConfig,
    BartForSequenceClassification,
    BertForQuestionAnswering,
    ModernBertConfig,
    ModernBertForSequenceClassification,
    TrainingArguments,
)

import run_glue_ckd
import run_squad_ckd
import run_teacher
from ckd_trainer import DistillationTrainer
from ckd_trainer.utils.errors import InputError

TRUNCATION = {"max_length": 20, "stride": 2}
PADDING = {"length": 20}


def change(folder, **values):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def distill(folder, teacher, text_files, *options):
    run_glue_ckd.main(
        ["--teacher_model_name_or_path", str(teacher), *STUDENT, *text_files, *TWO_STEPS, str(folder), *options]
    )


def distill_pretrained(folder, teacher, text_files, *options):
    models = ["--teacher_model_name_or_path", str(teacher), "--model_name_or_path", str(teacher)]
    run_glue_ckd.main([*models, *text_files, "--pad_to_max_length", *TWO_STEPS, str(folder), *options])


def fine_tune(folder, teacher, text_files, *options):
    run_teacher.main(["--model_name_or_path", str(teacher), *text_files, *TWO_STEPS, str(folder), *options])


def distill_answers(folder, teacher, text_files, *options):
    questions = str(question_file(folder.with_suffix(".json")))
    files = ["--train_file", questions, "--validation_file", questions]
    lengths = "--max_seq_length 20 --doc_stride 3 --max_question_length 4".split()
    models = ["--teacher_model_name_or_path", str(teacher), *STUDENT]
    run_squad_ckd.main([*models, *files, *lengths, *TWO_STEPS, str(folder), *options])


def model_for(run, folder):
    """Makes the teacher of the fixture one of questions where the run is."""
    if run is distill_answers:
        BertForQuestionAnswering(tiny_config()).save_pretrained(folder)


@pytest.mark.parametrize("limits", [False, True], ids=["without limits", "with limits"])
@pytest.mark.parametrize("run", [distill, distill_pretrained, fine_tune, distill_answers])
def test_the_tokenizer_is_saved_as_it_was_loaded(run, limits, tiny_teacher, text_files, tmp_path):
    path = tiny_teacher / "tokenizer.json"
    tokenizer = Tokenizer.from_file(str(path))
    if limits:
        tokenizer.enable_truncation(**TRUNCATION)
        tokenizer.enable_padding(**PADDING)
        tokenizer.save(str(path))
    model_for(run, tiny_teacher)
    configured = json.loads((tiny_teacher / "tokenizer_config.json").read_text())
    run(tmp_path / "out", tiny_teacher, text_files, *([] if run is fine_tune else SHORT_RUN))
    for folder in (tmp_path / "out", tmp_path / "out" / "checkpoint-1"):
        saved = Tokenizer.from_file(str(folder / "tokenizer.json"))
        assert (saved.truncation, saved.padding) == (tokenizer.truncation, tokenizer.padding)
        assert saved.encode("the cat " * 30).ids == tokenizer.encode("the cat " * 30).ids
        config = json.loads((folder / "tokenizer_config.json").read_text())
        assert config.get("model_input_names") == configured.get("model_input_names")


def test_a_students_tokenizer_keeps_its_input_names(tiny_teacher, text_files, tmp_path):
    """What the student reads and the teacher does not, or the other way round, is for encoding alone."""
    for name, folder in (("a", tiny_teacher), ("b", tmp_path / "student")):
        if name == "b":
            tiny_model(layers=2, seed=1).save_pretrained(folder)
        save_tokenizer(folder, model_input_names=["input_ids", "attention_mask"] + ["token_type_ids"] * (name == "a"))
    models = ["--teacher_model_name_or_path", str(tiny_teacher), "--model_name_or_path", str(tmp_path / "student")]
    run_glue_ckd.main([*models, *SHORT_RUN, *text_files, *TWO_STEPS, str(tmp_path / "out")])
    config = json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())
    assert config["model_input_names"] == ["input_ids", "attention_mask"]


QUICK = ((distill_pretrained, False), (distill_answers, True), (fine_tune, False))  # with each of their parts once


@pytest.mark.usefixtures("unmeasured")
@pytest.mark.parametrize("run", [distill, distill_pretrained, fine_tune, distill_answers])
@pytest.mark.parametrize("asks", [pytest.param("output_attentions", marks=pytest.mark.slow), "output_hidden_states"])
def test_outputs_that_a_configuration_asks_for_are_saved_with(run, asks, tiny_teacher, text_files, tmp_path):
    model_for(run, tiny_teacher)
    change(tiny_teacher, **{asks: True})
    run(tmp_path / "out", tiny_teacher, text_files)
    assert AutoModel.from_pretrained(tmp_path / "out").config.num_hidden_layers in (2, 4)


@pytest.mark.usefixtures("unmeasured")
@pytest.mark.parametrize(
    ("run", "cached"),
    [
        pytest.param(run, cached, marks=() if (run, cached) in QUICK else pytest.mark.slow)
        for run in (distill, distill_pretrained, fine_tune, distill_answers)
        for cached in (False, True)
    ],
)
def test_outputs_may_be_tuples_by_configuration(run, cached, tiny_teacher, text_files, tmp_path):
    if cached and run is fine_tune:
        pytest.skip("has no teacher")
    model_for(run, tiny_teacher)
    options = ["--do_predict", *(["--teacher_cache_dir", str(tmp_path / "cache")] if cached else [])]
    results = []
    for return_dict in (True, False):
        change(tiny_teacher, return_dict=return_dict)
        folder = tmp_path / str(return_dict)
        run(folder, tiny_teacher, text_files, *options)
        metrics = json.loads((folder / "all_results.json").read_text())
        results.append({name: metrics[name] for name in ("train_loss", "eval_loss")})
        assert json.loads((folder / "config.json").read_text()).get("return_dict", True) is return_dict
    assert results[0] == results[1]


@pytest.mark.parametrize("by_recipe", [False, True], ids=["command line", "recipe"])
def test_home_is_found_in_every_path(by_recipe, tiny_teacher, text_files, tmp_path, monkeypatch):
    """The shell leaves ~ alone after --option=, and so does YAML. The same command goes on with the run."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir((tmp_path / "here").mkdir() or tmp_path / "here")
    paths = {
        "teacher_model_name_or_path": "teacher",
        "train_file": "train.tsv",
        "validation_file": "validation.tsv",
        "teacher_cache_dir": "cache",
        "output_dir": "out",
    }
    options = {name: f"~/{path}" for name, path in paths.items()}
    argv = [f"--{name}={path}" for name, path in options.items()]
    if by_recipe:
        (tmp_path / "recipe.yaml").write_text("".join(f"{name}: {path}\n" for name, path in options.items()))
        argv = ["~/recipe.yaml"]
    argv += [*STUDENT, *SHORT_RUN, "--max_seq_length=32", *TWO_STEPS[:-1]]
    first = run_glue_ckd.main(argv)
    assert run_glue_ckd.main(argv)["eval_loss"] == first["eval_loss"]
    (tmp_path / "out" / "train_results.json").unlink()
    resumed = run_glue_ckd.main([*argv, "--resume_from_checkpoint=~/out/checkpoint-1"])
    assert resumed["eval_loss"] == first["eval_loss"]
    assert list((tmp_path / "here").iterdir()) == []
    assert any((tmp_path / "cache").glob("*/manifest.json")) and "~" not in "".join(map(str, tmp_path.iterdir()))


def trainer_of(student, teacher, folder, **kwargs):
    rows = {"input_ids": [[2, 7, 9, 3]] * 4, "attention_mask": [[1] * 4] * 4, "labels": [0, 1, 0, 1]}
    data = Dataset.from_dict(rows)
    args = TrainingArguments(folder, max_steps=1, report_to="none", disable_tqdm=True, use_cpu=True, **kwargs)
    return DistillationTrainer(model=student, teacher_model=teacher, args=args, train_dataset=data, eval_dataset=data)


def test_outputs_may_be_tuples_from_python(tmp_path):
    losses = []
    for return_dict in (True, False):
        student, teacher = (tiny_model(seed=seed, return_dict=return_dict) for seed in (1, 2))
        trainer = trainer_of(student, teacher, tmp_path)
        losses.append((trainer.train().training_loss, trainer.evaluate()["eval_loss"]))
    assert losses[0] == losses[1]


@pytest.mark.parametrize(("name", "value"), [("output_attentions", True), ("num_beams", 4)])
@pytest.mark.parametrize("wrap", [lambda model: model, lambda model: torch.compile(model, backend="eager")])
def test_a_model_that_cannot_be_saved_is_refused_from_python(name, value, wrap, tmp_path):
    student = tiny_model(**{name: value})
    student.config.__dict__[name] = value
    with pytest.raises(InputError, match=f"cannot be saved .*{name}"):
        trainer_of(wrap(student), tiny_model(), tmp_path)


def test_encoder_decoders_are_refused_from_python(tmp_path):
    sizes = {"vocab_size": 22, "d_model": 16, "encoder_layers": 2, "decoder_layers": 2, "encoder_ffn_dim": 16}
    heads = {"decoder_ffn_dim": 16, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
    bart = BartForSequenceClassification(BartConfig(**sizes, **heads, num_labels=2))
    for models in ((bart, tiny_model()), (tiny_model(), bart)):
        with pytest.raises(InputError, match="bart model has an encoder and a decoder"):
            trainer_of(*models, tmp_path)


def modern_teacher(folder):
    special = {f"{name}_token_id": 0 for name in ("pad", "bos", "eos", "cls", "sep")}
    config = ModernBertConfig(
        vocab_size=22,
        hidden_size=16,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
        id2label={0: "bad", 1: "good"},
        label2id={"bad": 0, "good": 1},
        **special,
    )
    ModernBertForSequenceClassification(config).save_pretrained(folder)


@pytest.mark.parametrize(
    ("student", "types"),
    [
        pytest.param(
            "--student_init teacher_layers --student_layers 1,4",
            ["full_attention", "full_attention"],
            marks=pytest.mark.skipif(
                Version(transformers.__version__) < Version("5.7"),
                reason="transformers 5.6 cannot save a ModernBERT whose layers have one kind of attention",
            ),
        ),
        ("--student_init teacher_layers --student_layers 1,2,3", ["full_attention", *["sliding_attention"] * 2]),
        ("--student_init random --student_num_layers 2", ["full_attention", "sliding_attention"]),
    ],
)
def test_layer_types_of_a_student_are_those_of_its_layers(student, types, tiny_teacher, text_files, tmp_path):
    modern_teacher(tiny_teacher)
    models = ["--teacher_model_name_or_path", str(tiny_teacher), *student.split()]
    mapping = "--wr_layer_mapping uniform --ltr_distance_weight 0 --ltr_angle_weight 0".split()
    run_glue_ckd.main([*models, *mapping, *text_files, *TWO_STEPS, str(tmp_path / "out")])
    model = AutoModel.from_pretrained(tmp_path / "out")
    assert model.config.layer_types == types and len(model.layers) == len(types)
