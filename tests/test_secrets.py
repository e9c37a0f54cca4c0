"""What a run must not do with what it is given: load a pickle, run text as code, or tell who ran it where."""

import getpass
import logging
import pickle
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
import yaml
from helpers.commands import SHORT_RUN, STUDENT
from helpers.files import Touch, sentences, write_tsv
from helpers.tiny import save_tokenizer, tiny_model

import run_glue_ckd
import run_teacher

QUICK = ["--max_seq_length", "32", "--do_train", "--max_steps", "4", "--save_steps", "2", "--report_to", "none"]
QUICK += ["--disable_tqdm", "true"]
STUDENT = [*STUDENT, *SHORT_RUN]
MARKER = "touched_by_what_was_read"
EVIL = (
    f"$(touch {MARKER})",
    f"; touch {MARKER} #",
    f"__import__('os').system('touch {MARKER}')",
    f"!!python/object/apply:os.system ['touch {MARKER}']",
    f"{{{{ ''.__class__ }}}}{{% include '{MARKER}' %}}",
)

_heard = None  # a hook of the interpreter stays for good, so there is one, and it listens only where a test does


def _hear(event, details):
    if _heard is not None and event in ("pickle.find_class", "compile", "os.system", "os.exec", "subprocess.Popen"):
        _heard.append((event, details))


sys.addaudithook(_hear)


@contextmanager
def heard():
    """Yields the list of what the interpreter runs meanwhile: source text, programs, and names looked up by pickles.

    That torch looks up by itself, as it does for `weights_only`, is no such name.
    """
    global _heard
    _heard = events = []
    try:
        yield events
    finally:
        _heard = None


def cut_back(output):
    """As a run that was killed leaves its folder; returns the checkpoint to go on from."""
    (output / "train_results.json").unlink()
    for path in (output / "checkpoint-4").iterdir():
        path.unlink()
    return output / "checkpoint-2"


def test_nothing_that_is_read_runs(tmp_path, monkeypatch, caplog):
    """Texts, labels, values of a recipe and names of files are words; a training_args.bin is left alone."""
    folder = tmp_path / f'it\'s a "folder"; $(touch {MARKER})'
    folder.mkdir()
    monkeypatch.chdir(folder)
    labels = (f"`touch {MARKER}`", f"{{{{ {MARKER} }}}}")
    tiny_model(labels=labels).save_pretrained("teacher 'one'")
    save_tokenizer("teacher 'one'")
    Path("teacher 'one'", "training_args.bin").write_bytes(pickle.dumps(Touch(MARKER)))
    rows = [(f"{text} {EVIL[index % len(EVIL)]}", labels[index % 2]) for index, (text, _) in enumerate(sentences(32))]
    recipe = {
        "teacher_model_name_or_path": "teacher 'one'",
        "train_file": str(write_tsv(folder / f"train; touch {MARKER}.tsv", rows)),
        "validation_file": str(write_tsv(folder / '"validation" $(a).tsv', rows[:8])),
        "test_file": str(write_tsv(folder / "test `b`.tsv", [row[:1] for row in rows[:8]], header=("text",))),
        "run_name": EVIL[2],
        "output_dir": f"out {EVIL[0]}",
        "teacher_cache_dir": f"cache {EVIL[1]}",
    }
    Path("recipe '.yaml").write_text(yaml.safe_dump(recipe))
    command = ["recipe '.yaml", *STUDENT, *QUICK, "--do_eval", "--do_predict"]
    with caplog.at_level(logging.INFO), heard() as events:
        run_glue_ckd.main(command)
        cut_back(Path(recipe["output_dir"]))
        (Path(recipe["output_dir"]) / "training_args.bin").write_bytes(pickle.dumps(Touch(MARKER)))
        run_glue_ckd.main(command)
    assert "checkpoint-2." in caplog.text and Path(recipe["output_dir"], "model.safetensors").is_file()
    assert not list(tmp_path.rglob(MARKER))
    assert [details for event, details in events if event == "pickle.find_class"] == []
    assert [details for event, details in events if event in ("os.system", "os.exec")] == []
    programs = {tuple(details[1]) for event, details in events if event == "subprocess.Popen"}
    assert programs == {("git", "rev-parse", "--show-toplevel", "HEAD")}  # a list of words, which no shell reads
    sources = [str(details[0]) for event, details in events if event == "compile"]
    assert [source for source in sources if MARKER in source] == []


def test_the_ear_hears(tmp_path):
    """Otherwise the test above would say nothing."""
    with heard() as events:
        pickle.loads(pickle.dumps(Touch(str(tmp_path / "touched")))).close()
        eval("1 + 1")
    assert {event for event, _ in events} >= {"pickle.find_class", "compile"}


@pytest.mark.parametrize("file", ["rng_state.pth", "optimizer.pt", "scheduler.pt"])
def test_checkpoint_with_code_in_it_is_refused(tiny_teacher, text_files, tmp_path, capsys, file):
    output = tmp_path / "out"
    command = ["--teacher_model_name_or_path", str(tiny_teacher), *STUDENT, *QUICK, *text_files]
    command += ["--output_dir", str(output)]
    run_glue_ckd.main(command)
    checkpoint = cut_back(output)
    torch.save({"python": Touch(str(tmp_path / MARKER))}, checkpoint / file)
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        run_glue_ckd.main(command)
    error = capsys.readouterr().err
    assert stopped.value.code == 2 and "Traceback" not in error and not (tmp_path / MARKER).exists()
    assert f"error: {checkpoint} is not read: it holds Python objects that could run code" in error
    assert "Delete it" in error


@pytest.mark.parametrize("script", [run_glue_ckd, run_teacher])
def test_card_and_record_tell_no_secret(tmp_path, monkeypatch, script):
    """No token, no user, no folders of this machine; a token is in no file at all."""
    home = tmp_path / "home" / "zanzibar"
    home.mkdir(parents=True)
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.setenv(name, home.name)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("HF_TOKEN", "hf_fromtheenvironment")
    assert getpass.getuser() == home.name
    tiny_model().save_pretrained(home / "teacher")
    save_tokenizer(home / "teacher")
    write_tsv(home / "train.tsv", sentences(32))
    write_tsv(home / "validation.tsv", sentences(8, seed=1))
    tokens = ["--hub_token", "hf_fromthecommandline"]
    given = {"train_file": "train.tsv", "validation_file": "validation.tsv", "output_dir": "out"}
    which, more = "model_name_or_path", []
    if script is run_glue_ckd:
        which, more = "teacher_model_name_or_path", STUDENT
        given["teacher_cache_dir"] = "cache"
    given[which] = "teacher"
    argv = [word for name, path in given.items() for word in (f"--{name}", str(home / path))]
    argv += [*more, *QUICK, "--do_eval", f"--run_name={home / 'first'}", *tokens]
    monkeypatch.setattr(sys, "argv", [str(home / "run.py"), *argv])
    script.main(None)
    output = home / "out"
    for name in ("README.md", "run.json", "all_results.json"):
        text = (output / name).read_text()
        assert [word for word in (home.name, str(tmp_path), str(Path.home()), "hf_from") if word in text] == [], name
    for path in (path for path in output.rglob("*") if path.is_file()):
        assert b"hf_from" not in path.read_bytes(), path
    record = (output / "run.json").read_text()
    assert '"train.tsv"' in record and '"run.py"' in record and "***" in record
