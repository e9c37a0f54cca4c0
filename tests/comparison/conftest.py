"""What the tests of whole comparisons share: a recipe of tiny models, and runs in this process."""

import contextlib

import pytest
import yaml
from helpers.files import sentences, write_tsv

from ckd_trainer import CKDArguments, cli
from ckd_trainer.arguments import weight_names
from ckd_trainer.comparison import schedule


class InProcess:
    """Takes the place of a run's process: the same command, in this process, which has imported everything."""

    def __init__(self, run, jobs, device):
        run.log.parent.mkdir(parents=True, exist_ok=True)
        self.returncode = 0
        with open(run.log, "a") as log, contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
            try:
                cli.main(list(run.command[3:]))  # without python -m ckd_trainer
            except SystemExit as error:
                self.returncode = error.code

    def poll(self):
        return self.returncode


@pytest.fixture
def in_process(monkeypatch):
    monkeypatch.setattr(schedule, "_start", InProcess)
    monkeypatch.setattr(schedule, "_SECONDS_BETWEEN_LOOKS", 0)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # it would try to reach the Hub five times


@pytest.fixture
def recipe(tmp_path, tiny_teacher):
    """A recipe of two steps on made-up sentences."""
    options = {
        "teacher_model_name_or_path": str(tiny_teacher),
        "student_init": "teacher_layers",
        "student_num_layers": 2,
        "train_file": str(write_tsv(tmp_path / "train.tsv", sentences(40))),
        "validation_file": str(write_tsv(tmp_path / "validation.tsv", sentences(22, seed=1))),
        "max_seq_length": 32,
        **dict.fromkeys(weight_names(CKDArguments), 0.3),  # all four relations
        "max_steps": 2,
        "save_strategy": "no",
        "per_device_train_batch_size": 8,
        "report_to": "none",
        "disable_tqdm": True,
        "output_dir": "unused",
        "seed": 7,
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(options))
    return path
