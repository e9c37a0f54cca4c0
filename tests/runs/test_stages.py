"""Runs with stages: they equal runs in a row, resume exactly wherever they stop, and leave one record."""

import json
import shutil

import pytest
import torch
import yaml
from helpers.files import sentences, snapshot, write_questions, write_tsv
from helpers.launching import launch, without_dropout
from helpers.tiny import save_base, save_tokenizer, tiny_model
from safetensors.torch import load_file
from transformers import TrainingArguments

import run_glue_ckd
import run_squad_ckd
import run_teacher
from ckd_trainer.arguments import RunArguments
from ckd_trainer.reports.runs import read_runs
from ckd_trainer.runs.stages import stages_of
from ckd_trainer.utils.errors import InputError

QUICK = "--per_device_train_batch_size 8 --save_steps 2 --logging_steps 1 --report_to none --disable_tqdm true"
QUICK = [*QUICK.split(), "--do_train", "--do_eval", "--weight_decay", "0.01", "--eval_strategy", "steps"]
QUICK += ["--eval_steps", "2"]
RELATIONS = {f"{term}_{kind}_weight": 0 for term in ("wr", "ltr") for kind in ("distance", "angle")}
FROM_TEACHER = ["--student_init", "teacher_layers", "--student_num_layers", "2"]
FROM_TEACHER += [f"--{name}=0.3" for name in RELATIONS]
FIRST = {"labels_and_logits": False, "max_steps": 6, "learning_rate": "3e-3"}
SECOND = {**RELATIONS, "alpha": 0, "max_steps": 4, "load_best_model_at_end": True}
TIMES = ("runtime", "per_second", "_time", "train_loss")


@pytest.fixture(scope="module")
def once(tmp_path_factory):
    """A folder with a teacher and files, and in `whole` a run of two stages."""
    folder = tmp_path_factory.mktemp("stages")
    tiny_model().save_pretrained(folder / "teacher")
    save_tokenizer(folder / "teacher")
    write_tsv(folder / "train.tsv", sentences(96))
    write_tsv(folder / "validation.tsv", sentences(22, seed=1))
    distill(folder, folder / "whole", [FIRST, SECOND])
    return folder


def options_of(folder):
    given = {f"{name}_file": folder / f"{name}.tsv" for name in ("train", "validation")} | {"max_seq_length": 32}
    given["teacher_model_name_or_path"] = folder / "teacher"
    return [word for name, value in given.items() for word in (f"--{name}", str(value))] + QUICK


def distill(folder, output, stages, *options, start=FROM_TEACHER):
    """Runs the stages of a recipe; with a single mapping, its options are those of a run without stages."""
    recipe, own = output.with_suffix(".yaml"), {"stages": stages} if isinstance(stages, list) else stages
    recipe.write_text(yaml.safe_dump({"learning_rate": 1e-3} | own, sort_keys=False))
    return run_glue_ckd.main([str(recipe), *options_of(folder), *start, "--output_dir", str(output), *options])


def read(path):
    return json.loads(path.read_text())


def logged(folder):
    """What a training logged, except for times."""
    history = read(folder / "trainer_state.json")["log_history"]
    return [{name: value for name, value in entry.items() if not name.endswith(TIMES)} for entry in history]


def same_weights(folder, other):
    ours, theirs = (load_file(path / "model.safetensors") for path in (folder, other))
    return all(torch.equal(ours[name], theirs[name]) for name in theirs)


def without_times(value):
    if isinstance(value, dict):
        return {name: without_times(part) for name, part in value.items() if not name.endswith(TIMES)}
    return [without_times(part) for part in value] if isinstance(value, list) else value


def test_stages_are_runs_in_a_row(once, tmp_path):
    """Each with its own loss, learning rate, optimizer and balance, and the second from the weights of the first."""
    whole = once / "whole"
    distill(once, tmp_path / "first", FIRST)
    start = ["--student_init", "pretrained", "--model_name_or_path", str(tmp_path / "first")]
    distill(once, tmp_path / "second", SECOND, start=start)
    assert same_weights(whole / "_stage_1", tmp_path / "first") and same_weights(whole, tmp_path / "second")
    log, steps = logged(whole), {1: 6, 2: 4}
    for number, name in enumerate(("first", "second"), start=1):
        mine = [{**entry, "stage": number} for entry in logged(tmp_path / name)]
        assert [entry for entry in log if entry["stage"] == number] == mine
        assert len([entry for entry in mine if "loss" in entry]) == steps[number]
    terms = [{name for name in entry if name.startswith("loss_")} for entry in log if "loss" in entry]
    assert terms[0] == {f"loss_{term}_{kind}" for term in ("wr", "ltr") for kind in ("distance", "angle")}
    assert terms[-1] == {"loss_task"}


def test_the_folder_is_that_of_one_run(once):
    whole = once / "whole"
    assert sorted(path.name for path in whole.glob("*checkpoint*")) == ["checkpoint-2", "checkpoint-4"]
    assert sorted(path.name for path in (whole / "_stage_1").glob("*checkpoint*"))[-1] == "checkpoint-6"
    assert not list((whole / "_stage_1").glob("*.md")) and (whole / "README.md").is_file()
    typed = [FIRST | {"learning_rate": 3e-3}, SECOND | {name: 0.0 for name in (*RELATIONS, "alpha")}]
    assert yaml.safe_load((whole / "recipe.yaml").read_text())["stages"] == typed

    (first, second), results = read(whole / "run.json")["stages"], read(whole / "all_results.json")
    assert (first["options"], second["options"]) == tuple(typed)
    assert first["loss"].startswith("loss = 0.3 x ") and second["loss"] == "loss = 1 task"
    assert [entry["steps"] for entry in (first, second)] == [6, 4]
    assert first["best_metric"] is None and second["best_metric"] == results["eval_accuracy"]
    parts = [first["metrics"], second["metrics"]]
    assert results["train_runtime"] == pytest.approx(sum(part["train_runtime"] for part in parts))
    assert results["train_steps_per_second"] == pytest.approx(10 / results["train_runtime"], rel=0.1)
    assert results["train_loss"] == second["metrics"]["train_loss"]

    card = (whole / "README.md").read_text()
    assert "Trained in 2 stages" in card and f"2. With {', '.join(f'{k} {v}' for k, v in typed[1].items())}" in card
    assert first["loss"] in card and second["loss"] in card
    assert "Distilled from `teacher` with ckd-trainer, using Contextual Knowledge Distillation" in card
    (run,) = read_runs([whole], "accuracy")
    assert [epoch for epoch, _ in run.curve] == pytest.approx([step / 12 for step in (2, 4, 6, 8, 10)])


@pytest.mark.parametrize(
    ("stage", "kept", "resumed"),
    [
        (1, 4, "from _stage_1/checkpoint-4"),
        (1, 6, "from _stage_1/checkpoint-6"),  # all that is left of the stage is to save its model
        (2, 0, "after stage 1 of 2"),
        (2, 2, "from checkpoint-2"),
        (2, 4, "from checkpoint-4"),
    ],
)
def test_a_run_resumes_exactly_wherever_it_stopped(once, tmp_path, caplog, stage, kept, resumed):
    killed = shutil.copytree(once / "whole", tmp_path / "killed")
    cut(killed, keep={"_stage_1", "recipe.yaml"} | ({f"checkpoint-{step}" for step in (2, 4) if step <= kept}))
    if stage == 1:
        cut(killed, keep={"_stage_1", "recipe.yaml"})
        cut(killed / "_stage_1", keep={f"checkpoint-{step}" for step in (2, 4, 6) if step <= kept})
    record = read(once / "whole" / "run.json")
    (killed / "run.json").write_text(json.dumps(record | {"stages": record["stages"][: stage - 1]}))
    trained = snapshot(killed / "_stage_1")
    caplog.set_level("INFO", logger="ckd_trainer")
    distill(once, killed, [FIRST, SECOND])
    assert f"Resuming the run in {killed} {resumed}." in caplog.text
    assert same_weights(killed, once / "whole") and logged(killed) == logged(once / "whole")
    assert stage == 1 or snapshot(killed / "_stage_1") == trained
    records = [without_times(read(folder / "run.json")["stages"]) for folder in (killed, once / "whole")]
    assert records[0] == records[1]
    cards = [(folder / "README.md").read_text() for folder in (killed, once / "whole")]
    assert cards[0].replace("killed", "whole") == cards[1]


def cut(folder, keep):
    """Deletes what a folder holds beside these names, as if its run had been killed earlier."""
    for path in folder.iterdir():
        if path.name not in keep:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def refused(capsys, once, output, stages, *options):
    before = snapshot(output)
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        distill(once, output, stages, *options)
    error = capsys.readouterr().err
    assert stopped.value.code == 2 and error.count("error: ") == 1 and "Traceback" not in error
    assert snapshot(output) == before
    return error


def test_other_stages_are_another_run(once, tmp_path, capsys):
    whole = shutil.copytree(once / "whole", tmp_path / "whole")
    error = refused(capsys, once, whole, [FIRST, SECOND | {"alpha": 0.5}])
    assert "holds another run (stage 2: alpha 0.0 there, 0.5 here)" in error
    assert "stages 2 there, 3 here" in refused(capsys, once, whole, [FIRST, SECOND, {}])
    assert "stages 2 there, None here" in refused(capsys, once, whole, {})
    out = tmp_path / "out"
    out.mkdir()
    start = ["--resume_from_checkpoint", str(whole / "_stage_1" / "checkpoint-4")]
    assert "is from a run with other options (" in refused(capsys, once, out, FIRST, *start)
    assert "a run with stages resumes by itself" in refused(capsys, once, out, [FIRST, SECOND], *start)

    again = run_glue_ckd.main([str(whole / "recipe.yaml"), "--output_dir", str(whole)])  # the same, already trained
    assert "eval_accuracy" in again and "train_loss" not in again
    distill(once, whole, [{"max_steps": 1}], "--overwrite_output_dir")
    assert not list(whole.glob("_stage_*")) and not list(whole.glob("checkpoint-[234]"))
    assert len(read(whole / "run.json")["stages"]) == 1


def test_the_border_takes_the_same_number_of_processes_and_the_same_data(once, tmp_path, capsys):
    whole, record = shutil.copytree(once / "whole", tmp_path / "whole"), once / "whole" / "run.json"
    cut(whole, keep={"recipe.yaml", "_stage_1"})
    (whole / "run.json").write_text(json.dumps(read(record) | {"processes": 2}))
    assert "_stage_1 was saved by 2 processes, but this run has 1" in refused(capsys, once, whole, [FIRST, SECOND])
    shutil.copy(record, whole / "run.json")
    other = write_tsv(tmp_path / "train.tsv", sentences(96, seed=3))
    error = refused(capsys, once, whole, [FIRST, SECOND], "--train_file", str(other))
    assert "another run (train_file " in error
    text = (once / "train.tsv").read_text()
    (once / "train.tsv").write_text(other.read_text())
    try:
        assert "train_file (train.tsv) has changed" in refused(capsys, once, whole, [FIRST, SECOND])
    finally:
        (once / "train.tsv").write_text(text)


def test_early_stopping_and_the_limit_of_checkpoints_count_in_each_stage(once, tmp_path):
    options = "--learning_rate 0 --eval_steps 1 --save_steps 1 --load_best_model_at_end --save_total_limit 1".split()
    out, patient = tmp_path / "out", {"early_stopping_patience": 2}
    distill(once, out, [{"early_stopping_patience": 1}, patient], *options, "--max_steps", "9", "--alpha", "0")
    assert [entry["steps"] for entry in read(out / "run.json")["stages"]] == [2, 3]
    for folder in (out / "_stage_1", out):
        assert [path.name for path in folder.glob("checkpoint-*")] == ["checkpoint-1"]  # the best


def test_one_cache_serves_all_stages(once, tmp_path, caplog):
    """Though the first stage does not read the teacher, and the others read different signals."""
    caplog.set_level("INFO", logger="ckd_trainer")
    off = [{name: 0 for name in RELATIONS if not name.startswith(kind)} for kind in ("none", "wr", "ltr")]
    stages = [{**off[0], "alpha": 0}, {**off[1], "labels_and_logits": False}, off[2]]
    cache = ["--teacher_cache_dir", str(tmp_path / "cache"), "--max_steps", "1"]
    distill(once, tmp_path / "out", stages, *cache, "--eval_strategy", "no")
    built = [place for place, text in enumerate(caplog.messages) if "reads 96 examples once" in text]
    begun = [place for place, text in enumerate(caplog.messages) if "Training stage" in text]
    assert len(built) == 1 and built[0] < begun[0] and len(begun) == 3
    assert len([path for path in (tmp_path / "cache").iterdir() if path.is_dir()]) == 1
    losses = [entry["loss"] for entry in read(tmp_path / "out" / "run.json")["stages"]]
    assert losses[0] == "loss = 1 task" and "wr_" in losses[1] and "ltr_" in losses[2] and "wr_" not in losses[2]


def test_questions(tmp_path, caplog):
    teacher, out = save_base(tmp_path / "teacher"), tmp_path / "out"
    train, validation = (write_questions(tmp_path / f"{name}.json", 24) for name in ("train", "validation"))
    options = ["--teacher_model_name_or_path", str(teacher), *FROM_TEACHER, *QUICK, "--train_file", str(train)]
    options += ["--validation_file", str(validation), "--max_seq_length", "14", "--doc_stride", "3"]
    options += [
        "--weight_decay",
        "0",
        "--max_question_length",
        "4",
        "--tinybert_hidden_weight",
        "1",
        "--tinybert_projection",
        "separate",
    ]
    stages = [{"labels_and_logits": False, "max_steps": 3}, RELATIONS | {"tinybert_hidden_weight": 0, "max_steps": 2}]
    metrics = run_squad_ckd.main([*options, "--stages", json.dumps(stages), "--output_dir", str(out)])
    assert "eval_f1" in metrics
    first, last = ([entry for entry in logged(out) if entry["stage"] == n and "loss" in entry] for n in (1, 2))
    assert (len(first), len(last)) == (3, 2)
    assert "loss_tinybert_hidden" in first[0] and "loss_task" not in first[0]
    assert {name for name in last[0] if name.startswith("loss_")} == {"loss_task", "loss_logits"}
    assert first[0]["learning_rate"] == last[0]["learning_rate"]
    start, end = load_file(teacher / "model.safetensors"), load_file(out / "_stage_1" / "model.safetensors")
    assert torch.equal(start["qa_outputs.weight"], end["qa_outputs.weight"])  # no loss of the first stage reads it


def test_a_teacher_in_stages(once, tmp_path):
    options = [word for word in options_of(once) if word != "--teacher_model_name_or_path"]
    options.remove(str(once / "teacher"))
    stages = [{"learning_rate": "1e-3", "max_steps": 2}, {"lr_scheduler_type": "constant", "max_steps": 3}]
    options += ["--model_name_or_path", str(once / "teacher"), "--learning_rate", "2e-4"]
    run_teacher.main([*options, "--stages", json.dumps(stages), "--output_dir", str(tmp_path / "out")])
    rates = [entry["learning_rate"] for entry in logged(tmp_path / "out") if "learning_rate" in entry]
    assert rates == pytest.approx([1e-3, 5e-4, 2e-4, 2e-4, 2e-4])


def test_deepspeed_has_one_training(tmp_path):
    args = TrainingArguments(tmp_path, use_cpu=True, report_to="none")
    args.deepspeed_plugin = object()
    with pytest.raises(InputError, match="stages is set, but DeepSpeed's configuration is that of a single training"):
        stages_of([RunArguments(stages=[{}]), args])


@pytest.mark.slow
def test_stages_in_two_processes(once, tmp_path):
    """They are those of one process, and resume at the border bit for bit."""
    shutil.copytree(once, tmp_path / "once", ignore=shutil.ignore_patterns("whole*"))
    without_dropout(tmp_path / "once" / "teacher")
    plain = ["--optim", "sgd", "--learning_rate", "0.1", "--max_grad_norm", "0", "--gradient_checkpointing"]
    stages = [FIRST | {"learning_rate": 0.1}, SECOND | {"learning_rate": 0.1}]
    options = [*options_of(tmp_path / "once"), *FROM_TEACHER, *plain, "--stages", json.dumps(stages)]
    one, two, again = (tmp_path / name for name in ("one", "two", "again"))
    run_glue_ckd.main([*options, "--output_dir", str(one)])
    options += ["--per_device_train_batch_size", "4", "--output_dir"]
    launch("run_glue_ckd.py", *options, str(two))
    for part in (".", "_stage_1"):
        ours, theirs = (load_file(folder / part / "model.safetensors") for folder in (two, one))
        for name, tensor in theirs.items():
            torch.testing.assert_close(ours[name], tensor, rtol=1e-5, atol=1e-6)
    again.mkdir()
    for name in ("_stage_1", "recipe.yaml", "run.json"):
        (shutil.copytree if name == "_stage_1" else shutil.copy)(two / name, again / name)
    assert "after stage 1 of 2" in launch("run_glue_ckd.py", *options, str(again))
    assert same_weights(again, two) and logged(again) == logged(two)
