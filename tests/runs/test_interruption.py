"""Signals, a training that diverges, GPUs without a launcher: what ends a run, and what is in place then."""

import json
import math
import os
import shutil
import signal
from types import SimpleNamespace

import pytest
import torch
from helpers.commands import SHORT_RUN
from helpers.tiny import ARGUMENTS
from safetensors.torch import load_file
from transformers import TrainerControl, TrainerState, TrainingArguments

import run_glue_ckd
from ckd_trainer.runs.checkpoints import last_checkpoint
from ckd_trainer.runs.interruption import LogWhereSaved, StopOnDivergence, StopOnSignal
from ckd_trainer.utils.errors import InputError

QUICK = ["--student_init", "teacher_layers", "--student_num_layers", "2", "--do_train", "--report_to", "none"]
QUICK += ["--per_device_train_batch_size", "8", "--max_steps", "20", "--disable_tqdm", "true"]
TIMES = ("train_runtime", "train_samples_per_second", "train_steps_per_second")


def distill(teacher, output, *options):
    return run_glue_ckd.main(
        ["--teacher_model_name_or_path", str(teacher), "--output_dir", str(output), *QUICK, *options]
    )


def logged(folder):
    history = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    return [{name: value for name, value in entry.items() if name not in TIMES} for entry in history]


def test_signal_saves_and_ends_with_its_code(tiny_teacher, text_files, tmp_path, monkeypatch, capsys):
    options = [*text_files, *SHORT_RUN, "--logging_steps", "7", "--save_steps", "100"]
    before = [signal.getsignal(kind) for kind in (signal.SIGTERM, signal.SIGINT)]
    distill(tiny_teacher, tmp_path / "whole", *options)

    assert [entry["step"] for entry in logged(tmp_path / "whole")] == [7, 14, 20, 20]  # the last sums the training up

    for number in (signal.SIGTERM, signal.SIGINT):
        cut = tmp_path / number.name

        def send(self, args, state, control, number=number, **kwargs):
            if state.global_step == 8:
                os.kill(os.getpid(), number)

        with monkeypatch.context() as patch:
            patch.setattr(LogWhereSaved, "on_step_begin", send)
            with pytest.raises(SystemExit) as stopped:
                distill(tiny_teacher, cut, *options, "--do_eval")
        assert stopped.value.code == 128 + number
        assert f"stopped by {number.name}; the same command resumes" in capsys.readouterr().err
        assert last_checkpoint(cut, ARGUMENTS).endswith("checkpoint-9")
        assert not (cut / "model.safetensors").exists()  # neither trained to the end nor evaluated
        assert [signal.getsignal(kind) for kind in (signal.SIGTERM, signal.SIGINT)] == before

        distill(tiny_teacher, cut, *options)
        ours, theirs = (load_file(folder / "model.safetensors") for folder in (cut, tmp_path / "whole"))
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
        assert [entry["step"] for entry in logged(cut)] == [7, 9, 14, 20, 20]


def test_a_run_from_a_checkpoint_logs_what_it_would_have_logged(tiny_teacher, text_files, tmp_path):
    """Though checkpoints (every 6 steps) and logs (every 4) fall apart: what was summed is logged with each."""
    options = [*text_files, "--logging_steps", "4", "--save_steps", "6"]
    distill(tiny_teacher, tmp_path / "whole", *options)
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    whole = logged(tmp_path / "whole")
    assert [entry["step"] for entry in whole] == [4, 6, 8, 12, 16, 18, 20, 20]
    (tmp_path / "cut" / "train_results.json").unlink()
    for path in (tmp_path / "cut").glob("checkpoint-*"):
        if path.name != "checkpoint-6":
            for file in path.iterdir():
                file.unlink()
            path.rmdir()
    distill(tiny_teacher, tmp_path / "cut", *options)
    assert logged(tmp_path / "cut")[:-1] == whole[:-1]


@pytest.mark.parametrize("save", [["--save_steps", "5"], ["--save_strategy", "no"], ["--save_strategy", "epoch"]])
def test_divergence_is_told_and_leaves_the_last_good_checkpoint(tiny_teacher, text_files, tmp_path, capsys, save):
    """From step 7 on the learning rate is beyond all bounds."""
    options = [*text_files, *SHORT_RUN, "--max_grad_norm", "0", *save, "--logging_steps", "50"]
    options += ["--lr_scheduler_type", "constant_with_warmup", "--warmup_steps", "6", "--learning_rate", "1e36"]
    with pytest.raises(SystemExit) as stopped:
        distill(tiny_teacher, tmp_path / "out", *options)
    error = capsys.readouterr().err
    assert stopped.value.code == 2 and "Traceback" not in error
    assert "error: training has diverged: at step" in error and "Lower learning_rate (1e+36)" in error
    for path in (tmp_path / "out").glob("checkpoint-*"):
        assert all(torch.isfinite(tensor).all() for tensor in load_file(path / "model.safetensors").values())
    assert not (tmp_path / "out" / "train_results.json").exists()


def test_a_loss_beyond_all_bounds_is_divergence(tiny_teacher, text_files, tmp_path, capsys):
    """As with a learning rate of 10, with which weights stay finite."""
    options = ["--max_steps", "60", "--warmup_steps", "0", "--save_steps", "5", "--logging_steps", "5"]
    options += ["--learning_rate", "10", "--term_balance", "none", "--ltr_angle_weight", "0.3"]
    with pytest.raises(SystemExit) as stopped:
        distill(tiny_teacher, tmp_path / "out", *text_files, *options)
    error = capsys.readouterr().err
    assert stopped.value.code == 2 and "Traceback" not in error
    assert "error: training has diverged: from step" in error and "a model that knows nothing is 0.69" in error
    assert "Lower learning_rate (10)" in error and not (tmp_path / "out" / "train_results.json").exists()


def test_ten_steps_in_a_row_are_divergence(tmp_path):
    """Also with no finite loss among them, as with float16, which leaves weights alone where a step overflows."""
    stop, args, state = StopOnDivergence(None, 0.7), TrainingArguments(tmp_path, use_cpu=True), TrainerState()
    stop.on_train_begin(args, state, None)
    for step, loss in ((5, math.nan), (9, 71), (11, 69), (20, math.nan), (25, 0.5), (34, math.inf)):
        state.global_step = step
        stop.on_log(args, state, None, {"loss_task": loss})
    state.global_step = 35
    with pytest.raises(InputError, match="diverged: from step 25 to 35 the loss on the labels is nan"):
        stop.on_log(args, state, None, {"loss_task": math.nan})


def test_what_fills_up_a_shard_is_not_looked_at():
    """Of ZeRO 3: 3 numbers in shards of 2, whose second one ends with whatever was in memory."""
    parameter = SimpleNamespace(ds_numel=3, ds_tensor=torch.tensor([1.0, math.nan]))
    stop = StopOnDivergence(SimpleNamespace(process_index=1, reduce=lambda bad, reduction: bad), 0.7)
    model, control = SimpleNamespace(parameters=lambda: [parameter]), TrainerControl(should_save=True)
    stop.on_train_begin(None, TrainerState(), control)
    stop.on_step_end(None, TrainerState(), control, model=model)
    stop.accelerator.process_index = 0
    with pytest.raises(InputError, match="diverged"):
        stop.on_step_end(TrainingArguments("out", use_cpu=True), TrainerState(), control, model=model)


def test_slow_steps_after_a_resume_are_known_to_be_slow(monkeypatch):
    """So that two processes tell each other of a signal in time, and not 10 steps of 5 seconds later."""
    accelerator = SimpleNamespace(num_processes=2, device="cpu", gather=lambda tensor: tensor)
    stop, control, now = StopOnSignal(accelerator), TrainerControl(), [0.0]
    monkeypatch.setattr("ckd_trainer.runs.interruption.time.monotonic", lambda: now[0])
    with stop:
        stop.on_train_begin(None, TrainerState(global_step=500), control)
        for step in (501, 502):
            now[0] += 5
            stop.on_step_end(None, TrainerState(global_step=step), control)
            assert stop._next == step + 1


def test_several_gpus_without_a_launcher_are_refused(tiny_teacher, text_files, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(TrainingArguments, "n_gpu", 4)
    with pytest.raises(SystemExit) as stopped:
        distill(tiny_teacher, tmp_path / "out", *text_files)
    assert stopped.value.code == 2
    assert "there are 4 GPUs but one process" in (error := capsys.readouterr().err)
    assert "accelerate launch --num_processes 4" in error and not (tmp_path / "out").exists()
