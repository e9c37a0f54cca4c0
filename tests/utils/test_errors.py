"""What the user can mend is one line, on one rank; a bug keeps its traceback, wherever it happens."""

import errno
import json
import sys
from pathlib import Path

import pytest
import torch
from helpers.commands import SHORT_RUN
from helpers.files import sentences, write_tsv
from helpers.hostile_input import question, squad
from helpers.launching import in_two_processes
from helpers.tiny import qa_model, save_tokenizer, tiny_model
from torch.distributed import DistNetworkError, TCPStore
from transformers import (
    AutoConfig,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    Trainer,
    TrainingArguments,
)

import ckd_trainer.data.squad_files
import ckd_trainer.data.table_files
import ckd_trainer.runs.inputs
import ckd_trainer.runs.run
import ckd_trainer.runs.training_options
import ckd_trainer.teacher.cache
import run_glue_ckd
import run_squad_ckd
import run_teacher
from ckd_trainer.models.compatibility import outline
from ckd_trainer.models.loading import call
from ckd_trainer.tasks.token_positions import TokenPositionsTrainer
from ckd_trainer.teacher.writer import SignalWriter
from ckd_trainer.trainer import DistillationTrainer
from ckd_trainer.utils.errors import InputError, command_line
from ckd_trainer.utils.files import input_errors_about

QUICK = "--do_train --max_steps 1 --report_to none --disable_tqdm true --output_dir HERE/out"
TEXTS = f"--train_file HERE/train.tsv --max_seq_length 32 {QUICK}"
STUDENT = "--student_init teacher_layers --student_num_layers 2 --teacher_cache_dir HERE/cache "
STUDENT += " ".join(SHORT_RUN)
COMMANDS = {
    run_teacher: f"--model_name_or_path HERE/teacher {TEXTS}",
    run_glue_ckd: f"--teacher_model_name_or_path HERE/teacher {STUDENT} {TEXTS}",
    run_squad_ckd: f"--teacher_model_name_or_path HERE/answers {STUDENT} --train_file HERE/train.json {QUICK} "
    "--max_seq_length 14 --doc_stride 3 --max_question_length 4",
}
SHARED = {
    "options": (TrainingArguments, "__post_init__"),
    "output folder": (ckd_trainer.runs.run, "look_into"),
    "fingerprints": (ckd_trainer.runs.inputs, "files_fingerprint"),
    "configuration": (AutoConfig, "from_pretrained"),
    "tokenizer": (AutoTokenizer, "from_pretrained"),
    "constructor": (Trainer, "__init__"),
    "optimizer": (ckd_trainer.runs.training_options, "get_scheduler"),
    "training": (DistillationTrainer, "compute_loss"),
    "saving": (Trainer, "_save"),
}
CACHE = {
    "building a cache": (SignalWriter, "write"),
    "finishing a cache": (ckd_trainer.teacher.cache, "_finish"),
}
SEAMS = {
    run_teacher: SHARED
    | {
        "data": (ckd_trainer.data.table_files, "split_rows"),
        "model": (AutoModelForSequenceClassification, "from_pretrained"),
    },
    run_glue_ckd: SHARED
    | CACHE
    | {
        "data": (ckd_trainer.data.table_files, "split_rows"),
        "model": (AutoModelForSequenceClassification, "from_pretrained"),
        "shape of the model": (AutoModelForSequenceClassification, "from_config"),
    },
    run_squad_ckd: SHARED
    | CACHE
    | {
        "data": (ckd_trainer.data.squad_files, "_articles"),
        "model": (AutoModelForQuestionAnswering, "from_pretrained"),
        "constructor": (TokenPositionsTrainer, "__init__"),
    },
}
BUGS = {
    "RuntimeError": lambda: RuntimeError("tensors on cuda:0 and cpu"),
    "KeyError": lambda: KeyError("bug"),
    "failing disk": lambda: OSError(errno.EIO, "Input/output error", "/somewhere/file"),
    "out of memory": lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
}


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """Models and files for all commands."""
    folder = tmp_path_factory.mktemp("given")
    for name, model in {"teacher": tiny_model(), "answers": qa_model()}.items():
        model.save_pretrained(folder / name)
        save_tokenizer(folder / name)
    write_tsv(folder / "train.tsv", sentences(16))
    (folder / "train.json").write_text(squad(*(question(id=str(number)) for number in range(12))))
    return folder


@pytest.fixture
def command(given, tmp_path):
    """Returns what makes the command line of a script; what it writes goes to `tmp_path`."""

    def of(script):
        line = COMMANDS[script].replace("HERE/out", f"{tmp_path}/out").replace("HERE/cache", f"{tmp_path}/cache")
        return line.replace("HERE", str(given)).split()

    return of


def is_own(script, seam):
    return script == run_glue_ckd or SEAMS[run_glue_ckd].get(seam) != SEAMS[script][seam]


# A seam that is the same code in another script is slow there.
@pytest.mark.parametrize(
    ("script", "seam"),
    [
        pytest.param(script, seam, marks=() if is_own(script, seam) else pytest.mark.slow)
        for script in SEAMS
        for seam in SEAMS[script]
    ],
)
def test_a_bug_keeps_its_traceback(script, seam, command, monkeypatch, capsys):
    """In all scripts, wherever it happens; all kinds of bugs where a run comes quickly."""
    quickly = script is run_glue_ckd and seam not in ("training", "saving", *CACHE)
    for kind in BUGS if quickly else ("RuntimeError", "failing disk"):
        if kind == "KeyError" and seam in ("configuration", "tokenizer"):
            continue  # how transformers says that a JSON file in the user's folder has another form
        bug, owner, name = BUGS[kind](), *SEAMS[script][seam]

        def broken(*args, bug=bug, **kwargs):
            raise bug

        with monkeypatch.context() as patch:
            patch.setattr(owner, name, broken)
            with pytest.raises(type(bug)) as raised:
                script.main(command(script))
        assert raised.value is bug and raised.traceback[-1].name == "broken"
        assert "error: " not in capsys.readouterr().err


@pytest.mark.parametrize("seam", ["constructor", "training", "building a cache"])
def test_a_missing_file_of_nobodys_is_a_bug(seam, command, monkeypatch):
    bug = FileNotFoundError(errno.ENOENT, "No such file or directory", "kernels/attention.cu")
    monkeypatch.setattr(*SEAMS[run_glue_ckd][seam], lambda *args, **kwargs: (_ for _ in ()).throw(bug))
    with pytest.raises(FileNotFoundError) as raised:
        run_glue_ckd.main(command(run_glue_ckd))
    assert raised.value is bug


def test_out_of_memory_says_what_takes_less(command, monkeypatch, caplog):
    def full(*args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(DistillationTrainer, "compute_loss", full)
    with pytest.raises(torch.OutOfMemoryError):
        run_glue_ckd.main(command(run_glue_ckd))
    assert "twice the gradient_accumulation_steps" in caplog.text


@pytest.mark.parametrize(
    ("number", "code"),
    [
        *((number, 2) for number in (errno.ENOENT, errno.EISDIR, errno.ENOTDIR)),
        *((number, 75) for number in (errno.EACCES, errno.ENOSPC, errno.EROFS)),
    ],
)
def test_a_file_of_the_user_is_one_line(number, code, command, monkeypatch, capsys):
    """One that is there when the command starts, and is gone or closed when it is read."""
    read_bytes = Path.read_bytes

    def closed(path):
        if path.name == "train.tsv":
            raise OSError(number, "not this time", str(path))
        return read_bytes(path)

    monkeypatch.setattr(Path, "read_bytes", closed)
    with pytest.raises(SystemExit) as stopped:
        run_teacher.main(command(run_teacher))
    printed = capsys.readouterr().err
    assert stopped.value.code == code and "train.tsv: not this time: give another path, or" in printed
    assert "Traceback" not in printed


def test_errors_about_a_file_name_it(tmp_path):
    with pytest.raises(InputError, match="data.tsv: Permission denied: give another path, or allow access"):
        with input_errors_about(tmp_path / "data.tsv"):
            raise PermissionError(errno.EACCES, "Permission denied")
    with pytest.raises(OSError, match="Input/output error"), input_errors_about(tmp_path):
        raise OSError(errno.EIO, "Input/output error", str(tmp_path))


@pytest.mark.parametrize(
    "error",
    [
        OSError("config.json is not a valid JSON file"),  # of transformers: no number
        ValueError("Unrecognized model"),
        ImportError("this tokenizer needs sentencepiece"),
        Exception("data did not match any variant of untagged enum"),  # of tokenizers, which raises no other
    ],
)
def test_what_libraries_say_of_a_model_is_for_the_user(error):
    def load(name):
        raise error

    with pytest.raises(InputError, match="cannot load my-model: "):
        call(load, "my-model")


def test_a_name_in_a_configuration_that_means_nothing_is_for_the_user():
    config = tiny_model().config
    config.hidden_act = "rleu"
    with pytest.raises(InputError, match="bert model's configuration cannot be used: there is no 'rleu'"):
        outline(config, AutoModelForSequenceClassification)


def test_debug_shows_the_traceback_of_an_input_error(monkeypatch, capsys):
    """And of what has led to it."""

    @command_line
    def main(argv):
        try:
            int(argv[0])
        except ValueError:
            raise InputError("seed is x: give a number.") from None

    for value, shown in {"": False, "0": False, "1": True}.items():
        monkeypatch.setenv("CKD_TRAINER_DEBUG", value)
        with pytest.raises(SystemExit) as stopped:
            main(["x"])
        printed = capsys.readouterr().err
        assert stopped.value.code == 2 and printed.endswith("error: seed is x: give a number.\n")
        assert ("Traceback" in printed and "ValueError: invalid literal" in printed) == shown


RANKS = """
import contextlib, io, json, traceback
from accelerate import PartialState
from ckd_trainer.utils.errors import InputError, command_line
from ckd_trainer.utils.processes import in_all_processes

rank = PartialState(cpu=True).process_index


@command_line
def main(argv):
    mistakes = dict(zip(argv[::2], argv[1::2]))

    def function():
        mistake = mistakes.get(str(rank))
        if mistake == "input":
            raise InputError(f"seed is {rank}: give another.")
        if mistake == "bug":
            return {}["a column"]
        return "fine"

    return in_all_processes(function)


ends = []
for argv in ([], ["1", "input"], ["0", "input", "1", "input"], ["0", "input", "1", "bug"], ["0", "bug"]):
    with contextlib.redirect_stderr(io.StringIO()) as said:
        try:
            end = main(argv)
        except SystemExit as stopped:
            end = stopped.code
        except KeyError:
            traceback.print_exc()
            end = "KeyError"
    ends.append([end, said.getvalue()])
print(json.dumps(ends), flush=True)
main(["1", "bug"])
"""


def test_what_fails_on_one_rank_stops_both():
    first, second = in_two_processes(RANKS)
    fine, one, both, mixed, bug = zip(
        *(json.loads(rank.stdout.splitlines()[-1]) for rank in (first, second)), strict=True
    )
    assert fine == (["fine", ""], ["fine", ""])
    assert one == ([2, ""], [2, "error: seed is 1: give another.\n"])  # where it happened, and nowhere else
    assert both == ([2, "error: seed is 0: give another.\n"], [2, ""])
    assert mixed[0] == [2, "error: seed is 0: give another.\n"]
    assert mixed[1][0] == "KeyError" and ", in function\nKeyError: 'a column'" in mixed[1][1]
    assert bug[0][0] == "KeyError" and ", in function\nKeyError: 'a column'" in bug[0][1]
    elsewhere = "error: rank {0} failed (KeyError: 'a column'): its traceback is in the output of rank {0}.\n"
    assert bug[1] == [1, elsewhere.format(0)]

    assert first.returncode == second.returncode == 1
    assert elsewhere.format(1) in first.stderr and "Traceback" not in first.stderr
    said = second.stderr.replace("[rank1]: ", "")  # torch puts it before each line
    assert "Traceback" in said and ", in function\nKeyError: 'a column'" in said and "error: " not in said


@command_line
def fails(argv):
    raise InputError(" ".join(argv))


@pytest.fixture
def said_under_torchrun(monkeypatch, capfd):
    """Runs `fails` as a rank that torchrun started, and returns what it prints."""
    store = TCPStore("127.0.0.1", 0, is_master=True)
    variables = {"TORCHELASTIC_USE_AGENT_STORE": "True", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port)}

    def said(message, node=0):
        for name, value in (variables | {"GROUP_RANK": str(node)}).items():
            monkeypatch.setenv(name, value)
        with pytest.raises(SystemExit) as stopped:
            fails([message])
        assert stopped.value.code == 2
        lines = capfd.readouterr().err.splitlines(keepends=True)
        return "".join(line for line in lines if not line.startswith("[W"))  # torch warns of a timeout

    yield said


def test_a_mistake_of_all_ranks_is_printed_once_on_each_machine(said_under_torchrun):
    said = said_under_torchrun
    assert [said("seed is x.") for _ in range(3)] == ["error: seed is x.\n", "", ""]
    assert [said("seed is x.", node=1) for _ in range(2)] == ["error: seed is x.\n", ""]
    assert said("a file is missing.") == "error: a file is missing.\n"  # whichever rank has it
    assert said("\udce4.tsv is missing.").endswith(".tsv is missing.\n")  # a name in bytes that are not UTF-8


def test_no_mistake_is_lost_with_the_rank_or_the_store_that_should_tell_it(said_under_torchrun, monkeypatch):
    said = said_under_torchrun
    with monkeypatch.context() as patch:
        patch.setattr("builtins.print", lambda *args, **kwargs: sys.exit(2))  # stopped before it prints
        assert said("seed is x.") == ""
    assert said("seed is x.") == "error: seed is x.\n"
    monkeypatch.setattr(TCPStore, "add", lambda *args: (_ for _ in ()).throw(DistNetworkError("reset by peer")))
    assert said("seed is y.") == said("seed is y.") == "error: seed is y.\n"
