"""Options of `TrainingArguments` that would silently do something else than they say."""

import json
import math

import pytest
from helpers.commands import SHORT_RUN
from helpers.files import sentences, write_tsv
from transformers import TrainingArguments

import run_glue_ckd
from ckd_trainer.arguments import CKDArguments, ModelArguments, RunArguments
from ckd_trainer.data.glue_arguments import GlueArguments
from ckd_trainer.runs.run import start
from ckd_trainer.runs.training_options import check_options, check_steps, use_best_metric
from ckd_trainer.tasks.texts import run_text_classification
from ckd_trainer.utils.errors import InputError

QUICK = ["--student_init", "teacher_layers", "--student_num_layers", "2", "--do_train", "--max_steps", "4"]
QUICK += ["--report_to", "none", "--disable_tqdm", "true", "--save_steps", "2", *SHORT_RUN]


@pytest.fixture
def command(tiny_teacher, text_files, tmp_path):
    return [
        "--teacher_model_name_or_path",
        str(tiny_teacher),
        *QUICK,
        *text_files,
        "--output_dir",
        str(tmp_path / "out"),
    ]


@pytest.mark.parametrize("options", [[], ["--train_sampling_strategy", "group_by_length"]])
def test_all_rows_are_evaluated_and_predicted_where_training_drops_some(command, tmp_path, options):
    """Of 22 and 13 rows: no batch of 16 is left out because it is not full."""
    command += ["--do_eval", "--do_predict", "--per_device_eval_batch_size", "16", *options]
    whole = run_glue_ckd.main(command)
    predictions = tmp_path / "out" / "predictions" / "predictions.tsv"
    before = predictions.read_text()
    dropping = [*command, "--dataloader_drop_last", "--overwrite_output_dir"]
    dropping += ["--dataloader_num_workers", "1"]
    if hasattr(TrainingArguments, "dataloader_in_order"):  # the oldest transformers 5 do not have it
        dropping += ["--dataloader_in_order", "false"]
    assert run_glue_ckd.main(dropping)["eval_accuracy"] == whole["eval_accuracy"]
    assert predictions.read_text() == before and len(before.splitlines()) == 14


def test_a_resumed_run_drops_what_it_dropped_before(command, tmp_path, capsys):
    run_glue_ckd.main([*command, "--dataloader_num_workers", "1"])
    run_glue_ckd.main([*command, "--dataloader_num_workers", "0"])
    with pytest.raises(SystemExit):
        run_glue_ckd.main([*command, "--dataloader_drop_last"])
    assert "holds another run (dataloader_drop_last" in capsys.readouterr().err


@pytest.mark.parametrize("schedule", ["reduce_lr_on_plateau", "greedy"])
@pytest.mark.parametrize(
    ("metric", "options", "mode"), [("accuracy", [], "max"), (None, [], "min"), (None, ["best"], "max")]
)
def test_schedules_by_a_metric_know_which_way_is_better(tmp_path, schedule, metric, options, mode):
    best = {"load_best_model_at_end": True, "save_strategy": "epoch"} if options else {}
    args = TrainingArguments(
        str(tmp_path), eval_strategy="epoch", lr_scheduler_type=schedule, metric_for_best_model=metric, **best
    )
    use_best_metric(args, "accuracy", ["accuracy"])
    assert args.lr_scheduler_kwargs == {"mode": mode}


@pytest.mark.parametrize("metric", ["rmse", "mean_rmse", "rmse_w0.5_d1", "eval_mean_rmse", "eval_loss"])
@pytest.mark.parametrize("schedule", ["linear", "reduce_lr_on_plateau"])
def test_the_best_checkpoint_has_the_smallest_error(tmp_path, metric, schedule):
    args = TrainingArguments(
        str(tmp_path),
        eval_strategy="epoch",
        save_strategy="epoch",
        load_best_model_at_end=True,
        metric_for_best_model=metric,
        lr_scheduler_type=schedule,
    )
    use_best_metric(args, "mean_pearson", ["pearson", "rmse", "mean_rmse", "rmse_w0.5_d1"])
    assert args.greater_is_better is False
    assert schedule == "linear" or args.lr_scheduler_kwargs == {"mode": "min"}


def test_accuracy_that_rises_leaves_the_learning_rate(command, tmp_path):
    command += ["--lr_scheduler_type", "reduce_lr_on_plateau", "--metric_for_best_model", "accuracy"]
    command += [
        "--lr_scheduler_kwargs",
        '{"patience": 0, "factor": 0.1}',
        "--learning_rate",
        "3e-3",
        "--max_steps",
        "40",
    ]
    run_glue_ckd.main([*command, "--eval_strategy", "steps", "--eval_steps", "10", "--logging_steps", "1"])
    history = json.loads((tmp_path / "out" / "trainer_state.json").read_text())["log_history"]
    scores = [entry["eval_accuracy"] for entry in history if "eval_accuracy" in entry]
    rates = {entry["step"]: entry["learning_rate"] for entry in history if "learning_rate" in entry}
    for index, step in enumerate((10, 20, 30)):
        better = index == 0 or scores[index] > max(scores[:index]) * (1 + 1e-4)
        assert math.isclose(rates[step + 1], rates[step] * (1 if better else 0.1))


def test_no_epochs_are_warned_of(command, tmp_path, caplog):
    """The student as it starts is a baseline that one may want."""
    run_glue_ckd.main([*command, "--max_steps", "-1", "--num_train_epochs", "0", "--do_eval"])
    assert "num_train_epochs is 0" in caplog.text and (tmp_path / "out" / "model.safetensors").exists()


def test_batch_of_all_processes_counts(tmp_path):
    args = TrainingArguments(str(tmp_path), per_device_train_batch_size=16, dataloader_drop_last=True)
    check_steps(args, 16)
    args.distributed_state.num_processes, before = 2, args.distributed_state.num_processes
    try:
        with pytest.raises(InputError, match="there are 31 training examples, but a batch takes 32"):
            check_steps(args, 31)
        check_steps(args, 32)
        args.accelerator_config.split_batches = True
        check_steps(args, 16)
    finally:
        args.distributed_state.num_processes = before


def test_workers_options(tmp_path):
    args = TrainingArguments(
        str(tmp_path), do_train=True, dataloader_num_workers=1, dataloader_persistent_workers=True
    )
    with pytest.raises(InputError, match="dataloader_persistent_workers is set, but epochs then draw other random"):
        check_options(args)
    args.dataloader_num_workers, args.dataloader_persistent_workers = 0, False
    args.dataloader_multiprocessing_context = "spawn"
    with pytest.raises(InputError, match="dataloader_multiprocessing_context is set, but dataloader_num_workers is 0"):
        check_options(args)


def test_stopping_by_another_handler_is_refused(tmp_path):
    """It takes SIGTERM from ours, ends the training, and the run would be taken for a trained one."""
    args = TrainingArguments(str(tmp_path), do_train=True)
    args.enable_jit_checkpoint = True
    with pytest.raises(InputError, match="enable_jit_checkpoint is set"):
        check_options(args)


def test_options_are_checked_from_python_too(tiny_teacher, tmp_path):
    train = write_tsv(tmp_path / "train.tsv", sentences(8))
    with pytest.raises(InputError, match="there are 8 training examples, but a batch takes 16"):
        run_text_classification(
            ModelArguments(
                teacher_model_name_or_path=str(tiny_teacher), student_init="teacher_layers", student_layers="2"
            ),
            GlueArguments(train_file=str(train), max_seq_length=32),
            RunArguments(),
            TrainingArguments(
                str(tmp_path / "out"), do_train=True, dataloader_drop_last=True, per_device_train_batch_size=16
            ),
            CKDArguments(wr_angle_weight=1, ltr_distance_weight=0, ltr_angle_weight=0),
        )
    assert not (tmp_path / "out").exists()


def test_a_run_without_output_dir_says_where_it_writes(tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    with start(TrainingArguments(report_to="none"), RunArguments(), stages=[]):
        pass
    assert "The run writes to trainer_output, the default output_dir" in caplog.text
