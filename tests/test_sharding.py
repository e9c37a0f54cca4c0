"""FSDP2 and DeepSpeed ZeRO, on processors: students in parts train like whole ones, beside a whole teacher."""

import json
import shutil
import sys
from types import SimpleNamespace

import pytest
import torch
from helpers.commands import STUDENT
from helpers.files import PROJECT, sentences, write_tsv
from helpers.launching import FSDP_ON_PROCESSORS, accelerate_launch, launch, logged, without_dropout
from helpers.tiny import tiny_model
from packaging.version import Version
from safetensors.torch import load_file

import run_glue_ckd
from ckd_trainer.utils.processes import placed_for_evaluation

ON_PROCESSORS = f"""{FSDP_ON_PROCESSORS}
import run_glue_ckd
from ckd_trainer.utils.processes import destroy_process_group

run_glue_ckd.main()
destroy_process_group()
"""


PROJECTIONS = ["--tinybert_embedding_weight", "0.3", "--tinybert_hidden_weight", "0.3"]
NARROW = ["--student_config", '{"hidden_size": 16, "num_attention_heads": 2}']  # fitted to the teacher's
UNLABELED = ["--unlabeled_file", "unlabeled.tsv", "--unlabeled_share", "0.5"]
STAGES = ["--stages", '[{"labels_and_logits": false, "max_steps": 4}, {}]']  # of which the second is cut off
NAMES = {
    str(PROJECTIONS): "projections",
    str(STAGES): "stages",
    str(NARROW): "narrow",
    str(UNLABELED): "unlabeled",
}


@pytest.mark.parametrize(
    ("recipe", "more"),
    [
        ("fsdp2.yaml", []),
        pytest.param("fsdp2.yaml", PROJECTIONS, marks=pytest.mark.slow),
        pytest.param("fsdp2.yaml", STAGES, marks=pytest.mark.slow),
        pytest.param("fsdp2.yaml", NARROW, marks=pytest.mark.slow),
        pytest.param("fsdp2.yaml", UNLABELED, marks=pytest.mark.slow),
        ("deepspeed_zero2.yaml", PROJECTIONS),
        ("deepspeed_zero3.yaml", PROJECTIONS),
    ],
    ids=lambda value: value if isinstance(value, str) else NAMES.get(str(value), "plain"),
)
def test_a_student_in_parts(tiny_teacher, tmp_path, recipe, more):
    """Trains like a whole one in one process, leaves a whole model, and goes on exactly wherever it was cut off."""
    script = PROJECT / "run_glue_ckd.py"
    if recipe == "fsdp2.yaml":
        if Version(torch.__version__) < Version("2.8"):
            pytest.skip("torch 2.7 adds up the gradients of FSDP2 on processors, where it should take their mean")
        script = tmp_path / "script.py"
        script.write_text(ON_PROCESSORS)
    else:
        pytest.importorskip("deepspeed")
    without_dropout(tiny_teacher)
    train = write_tsv(tmp_path / "train.tsv", sentences(96))
    validation = write_tsv(tmp_path / "validation.tsv", sentences(23, seed=1))
    unlabeled = write_tsv(tmp_path / "unlabeled.tsv", [row[:1] for row in sentences(40, seed=3)], header=("text",))
    more = [str(unlabeled) if word == unlabeled.name else word for word in more]
    options = ["--teacher_model_name_or_path", str(tiny_teacher), *STUDENT, "--train_file", str(train)]
    options += ["--validation_file", str(validation), "--max_seq_length", "32", "--report_to", "none"]
    options += ["--do_train", "--do_eval", "--max_steps", "4", "--save_steps", "2", "--logging_steps", "1"]
    # One relation of words and one of layers: the gradient of each is measured in most of the steps.
    options += ["--wr_angle_weight", "0", "--ltr_distance_weight", "0"]
    options += ["--disable_tqdm", "true", "--use_cpu", "true", *more]
    # So large an epsilon leaves descent with momentum, by which weights differ as much as gradients do.
    options += ["--adam_epsilon", "1", "--learning_rate", "0.1", "--max_grad_norm", "0.5"]
    one, two, again = (tmp_path / name for name in ("one", "two", "again"))
    run_glue_ckd.main([*options, "--per_device_train_batch_size", "8", "--output_dir", str(one)])
    batches = ["--per_device_train_batch_size", "2", "--gradient_accumulation_steps", "2"]
    if recipe == "fsdp2.yaml":
        launch(script, *options, *batches, "--output_dir", str(two), recipe=recipe)
    else:
        accelerate_launch(script, *options, *batches, "--output_dir", str(two), recipe=recipe, DS_ACCELERATOR="cpu")
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (two, one))
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, rtol=1e-5, atol=1e-6)
    for mine, other in zip(logged(two), logged(one), strict=True):
        assert mine == pytest.approx(other, rel=1e-3)
    accuracy = [json.loads((folder / "eval_results.json").read_text())["eval_accuracy"] for folder in (one, two)]
    assert accuracy[0] == accuracy[1]

    for end, goes_on in (("", "from checkpoint-2"), ("4", "from checkpoint-4"), ("4 model", "is already trained")):
        shutil.copytree(two, again)
        if "4" not in end:
            shutil.rmtree(again / "checkpoint-4")
        left = ["all_results.json", "eval_results.json"]
        for name in left if "model" in end else [*left, "train_results.json", "model.safetensors"]:
            (again / name).unlink()
        started = [script, *options, *batches, "--output_dir", str(again)]
        if recipe == "fsdp2.yaml":
            said = launch(*started, recipe=recipe)
        else:
            said = accelerate_launch(*started, recipe=recipe, DS_ACCELERATOR="cpu")
        assert goes_on in said
        assert (again / "model.safetensors").read_bytes() == (two / "model.safetensors").read_bytes()
        scores = [json.loads((folder / "eval_results.json").read_text()) for folder in (two, again)]
        assert scores[0]["eval_loss"] == pytest.approx(scores[1]["eval_loss"], rel=1e-5)
        shutil.rmtree(again)


def test_a_whole_teacher_is_not_wrapped():
    teacher, accelerator = tiny_model(), SimpleNamespace(prepare_model=lambda model, **options: (model, options))
    model, options = placed_for_evaluation(teacher, accelerator)
    assert model is teacher and options == {"device_placement": True, "evaluation_mode": True}


def test_a_teacher_in_parts_is_put_together_by_deepspeed(monkeypatch):
    """As `from_pretrained` loads it under ZeRO 3: an engine of its own, in evaluation mode, which trains nothing."""
    engine = torch.nn.Linear(1, 1).train()
    asked = {}

    def initialize(**kwargs):
        asked.update(kwargs)
        return engine, None, None, None

    monkeypatch.setitem(sys.modules, "deepspeed", SimpleNamespace(initialize=initialize))
    config = {"zero_optimization": {"stage": 3}, "optimizer": {"type": "AdamW"}, "scheduler": {}}
    plugin = SimpleNamespace(deepspeed_config=config)
    teacher = tiny_model()
    next(teacher.parameters()).ds_id = 0
    accelerator = SimpleNamespace(state=SimpleNamespace(deepspeed_plugin=plugin))
    assert placed_for_evaluation(teacher, accelerator) is engine and not engine.training
    assert asked == {"model": teacher, "config": {"zero_optimization": {"stage": 3}}}
    assert config.keys() == {"zero_optimization", "optimizer", "scheduler"}


WITH_A_TEACHER_IN_PARTS = """
import sys
import torch
from helpers.training import ALL_TERMS, examples, pad
from transformers import BertForSequenceClassification, TrainingArguments
from ckd_trainer import CKDArguments, DistillationTrainer
from ckd_trainer.utils.processes import destroy_process_group

options = {"max_steps": 2, "logging_steps": 1, "per_device_train_batch_size": 4, "use_cpu": True}
args = TrainingArguments(sys.argv[2], report_to="none", disable_tqdm=True, save_strategy="no", **options)
teacher = BertForSequenceClassification.from_pretrained(sys.argv[1])
student = BertForSequenceClassification.from_pretrained(sys.argv[1], num_hidden_layers=2)
assert all(parameter.numel() == 0 for parameter in teacher.parameters()) == (sys.argv[3] == "parts")
models = {"model": student, "teacher_model": teacher, "ckd_args": CKDArguments(**ALL_TERMS)}
trainer = DistillationTrainer(**models, args=args, train_dataset=examples(), data_collator=pad)
trainer.train()
if trainer.is_world_process_zero():
    trainer.state.save_to_json(f"{sys.argv[2]}/trainer_state.json")
del trainer  # its model would wait for the group that is gone
destroy_process_group()
"""


def test_a_teacher_in_parts_teaches_as_a_whole_one(tiny_teacher, tmp_path):
    pytest.importorskip("deepspeed")
    without_dropout(tiny_teacher)
    script = tmp_path / "script.py"
    script.write_text(f"import sys; sys.path.insert(0, {str(PROJECT / 'tests')!r})\n{WITH_A_TEACHER_IN_PARTS}")
    for recipe, kind in (("deepspeed_zero3.yaml", "parts"), ("deepspeed_zero2.yaml", "whole")):
        options = [str(tiny_teacher), str(tmp_path / kind), kind]
        accelerate_launch(script, *options, recipe=recipe, DS_ACCELERATOR="cpu")
    for ours, theirs in zip(logged(tmp_path / "parts"), logged(tmp_path / "whole"), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-3)
