"""Bad input of every kind to every script: one message, exit code 2, and nothing on the disk has changed.

Each row of a table in this folder is one thing that is wrong beside a command that works; `helpers.hostile_input` says
how rows and their files are made. Here is what all rows read, and how each is checked.
"""

import contextlib
import gc
from pathlib import Path

import pytest
from helpers.commands import SHORT_RUN
from helpers.files import sentences, snapshot, write_tagged, write_tsv
from helpers.hostile_input import FINE, GLUE, TEACHER, Row, modelled, named, question, squad
from transformers import BertForQuestionAnswering, BertForTokenClassification


@contextlib.contextmanager
def without_hub():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        yield


@pytest.fixture(autouse=True, scope="module")
def offline():
    with without_hub():
        yield


@pytest.fixture(scope="session")
def good(tmp_path_factory):
    """Models, files, a finished run and its cache, for all rows to read, and what they are byte for byte."""
    folder = tmp_path_factory.mktemp("good")
    modelled()(folder / "teacher", None)
    modelled(kind=BertForQuestionAnswering)(folder / "answers", None)
    modelled(kind=BertForTokenClassification, labels=("O", "B-bad", "I-bad", "B-good", "I-good"))(
        folder / "entities", None
    )
    write_tagged(folder / "train.conll", 12)
    write_tsv(folder / "train.tsv", sentences(16))
    write_tsv(folder / "validation.tsv", sentences(4, seed=1))
    (folder / "upper.tsv").write_text(FINE.replace("cat", "Cat"))
    (folder / "train.json").write_text(squad(*(question(id=str(number)) for number in range(12))))
    (folder / "here").mkdir()
    options = "--teacher_cache_dir GOOD/cache --output_dir GOOD/run"
    with without_hub():
        GLUE(Row("", GLUE, options=options).start(folder / "here", folder))
    (folder / "here").rmdir()
    return folder, snapshot(folder)


def changes(before, after):
    """The names of what was added, taken away or changed."""
    names = sorted({*before, *after})
    return [name for name in names if name not in before or name not in after or before[name] != after[name]]


@pytest.fixture
def refused(good, tmp_path, monkeypatch, capfd):
    """Returns what runs a row's command and checks how it is refused."""

    def check(row):
        gc.collect()  # transformers takes a DeepSpeed configuration that a refused row has left in memory to be in use
        monkeypatch.chdir(tmp_path)
        shared, content = good
        argv = row.start(tmp_path, shared)
        before = snapshot(tmp_path)
        capfd.readouterr()
        with pytest.raises(SystemExit) as stopped:
            row.main(argv)
        printed = capfd.readouterr().err
        print(printed)
        assert stopped.value.code == 2 and "Traceback" not in printed and "panicked" not in printed
        assert [line[:7] for line in printed.splitlines()].count("error: ") == 1
        message = printed[printed.index("error: ") :]
        assert len(message) < 2000  # a screen
        assert [words for words in row.words.split(" | ") if named(words, tmp_path, shared) not in message] == []
        assert changes(before, snapshot(tmp_path)) == []
        assert changes(content, snapshot(shared)) == []

    return check


@pytest.fixture
def works(good, tmp_path, monkeypatch):
    """Returns what runs a row's command and checks that it leaves a model, and nothing beside its output folder."""

    def check(row):
        gc.collect()  # transformers takes a DeepSpeed configuration that a refused row has left in memory to be in use
        monkeypatch.chdir(tmp_path)
        shared, content = good
        argv = row.start(tmp_path, shared) + ([] if row.main is TEACHER else SHORT_RUN)
        before = snapshot(tmp_path)
        row.main(argv)
        (output,) = {Path(name).parts[0] for name in changes(before, snapshot(tmp_path))}
        assert output.startswith("out") and (tmp_path / output / "model.safetensors").is_file()
        assert changes(content, snapshot(shared)) == []

    return check
