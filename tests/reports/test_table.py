"""The report: what it reads from run folders, the table, the picture, and what it says when it cannot."""

import json
import sys

import pytest

from ckd_trainer.commands.report import main
from ckd_trainer.reports.picture import draw
from ckd_trainer.reports.runs import read_runs
from ckd_trainer.reports.table import format_table
from ckd_trainer.utils.errors import InputError


@pytest.fixture
def make_run(tmp_path):
    def make(name, results, curve=(), teacher=None, **options):
        folder = tmp_path / name
        folder.mkdir(parents=True)
        (folder / "all_results.json").write_text(json.dumps(results))
        log = [{"epoch": 0.5, "loss": 1.0}, *({"epoch": epoch, "eval_accuracy": score} for epoch, score in curve)]
        (folder / "trainer_state.json").write_text(json.dumps({"log_history": log}))
        recipe = {"seed": 1, **options} | ({"teacher_model_name_or_path": str(teacher)} if teacher else {})
        (folder / "recipe.yaml").write_text("\n".join(f"{key}: {value}" for key, value in recipe.items()))
        return folder

    return make


def results(accuracy, latency_ms, parameters=1_234_567, train_runtime=42.4):
    return {
        "eval_accuracy": accuracy,
        "eval_f1": accuracy / 2,
        "parameters": parameters,
        "model_size_mb": 4 * parameters / 1e6,
        "latency_ms": latency_ms,
        "train_runtime": train_runtime,
    }


@pytest.fixture
def folders(make_run):
    """Two students and their teacher, in this order."""
    teacher = make_run("teacher", results(0.975, 2.0, 25_000_000, 3723), [(1, 0.7), (2, 0.975)])
    students = [
        make_run("plain", results(0.8125, 1.01), [(1, 0.5), (2, 0.8125)], teacher),
        make_run("ckd", results(0.9, 1.03, train_runtime=83), [(1, 0.6), (2, 0.9)], teacher),
    ]
    return [*students, teacher]


def test_table_has_the_numbers_and_the_teacher_first(folders):
    table = format_table(read_runs(folders, "accuracy"), "accuracy")
    assert table.splitlines() == [
        "name     parameters      size  latency  accuracy  train time",
        "teacher  25,000,000  100.0 MB  2.00 ms    0.9750   1 h 2 min",
        "plain     1,234,567    4.9 MB  1.01 ms    0.8125        42 s",
        "ckd       1,234,567    4.9 MB  1.03 ms    0.9000  1 min 23 s",
    ]


def test_metric_may_carry_the_prefix_and_numbers_may_be_missing(make_run):
    run = make_run("evaluated", {"eval_accuracy": 0.5})
    table = format_table(read_runs([run], "eval_accuracy"), "accuracy")
    assert table.splitlines()[1].split() == ["evaluated", "-", "-", "-", "0.5000", "-"]


def test_runs_of_one_name_are_told_apart(make_run):
    runs = read_runs([make_run("a/ckd", results(0.9, 1)), make_run("b/ckd", results(0.8, 1))], "accuracy")
    first, second = (run.name for run in runs)
    assert first.endswith("a/ckd") and second.endswith("b/ckd")


def test_runs_of_different_tasks_are_warned_of(make_run, caplog):
    tasks = {"stars": "null", "votes": "null", "names": "ner", "unknown": None}
    runs = [
        make_run(name, results(0.9, 1), **({} if task is None else {"task_name": task}))
        for name, task in tasks.items()
    ]
    read_runs([*runs[:2], runs[3]], "accuracy")
    assert not caplog.records
    read_runs(runs, "accuracy")
    assert "different tasks ('votes: own texts', 'names: ner')" in caplog.text


def test_command_line_prints_and_draws(folders, tmp_path, capsys):
    picture = tmp_path / "picture.png"
    main([*map(str, folders), "--metric", "accuracy", "--output", str(picture)])
    out = capsys.readouterr().out
    assert out.index("teacher") < out.index("plain") < out.index("ckd")
    assert str(picture) in out
    data = picture.read_bytes()
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = (int.from_bytes(data[start : start + 4], "big") for start in (16, 20))
    assert (width, height) == (1792, 736)


def test_picture_names_every_run_and_its_metric(folders, tmp_path):
    import matplotlib

    with matplotlib.rc_context({"svg.fonttype": "none"}):
        draw(read_runs(folders, "accuracy"), "accuracy", tmp_path / "picture.svg")
    svg = (tmp_path / "picture.svg").read_text(encoding="utf-8")
    # In one legend: beside their points, names of close scores would lie on each other.
    for text in ("teacher: 0.975, 25 M parameters", "plain: 0.812, 1.2 M parameters", "ckd: 0.900, 1.2 M parameters"):
        assert svg.count(text) == 1
    assert "Validation accuracy while training" in svg


def test_runs_without_a_curve_are_drawn_without_that_panel(make_run, tmp_path):
    runs = read_runs([make_run("alone", results(0.9, 1.0))], "accuracy")
    draw(runs, "accuracy", tmp_path / "picture.png")
    assert int.from_bytes((tmp_path / "picture.png").read_bytes()[16:20], "big") == 896


def test_matplotlib_missing_names_the_extra(folders, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)  # as if it were not installed
    with pytest.raises(InputError, match=r"pip install 'ckd-trainer\[plots\]'"):
        draw(read_runs(folders, "accuracy"), "accuracy", tmp_path / "picture.png")


def test_bad_input_is_one_clear_error(folders, make_run, tmp_path, capsys):
    with pytest.raises(InputError, match="nowhere cannot be reported: no such folder"):
        read_runs([tmp_path / "nowhere"], "accuracy")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no run has finished there"):
        read_runs([tmp_path / "empty"], "accuracy")
    with pytest.raises(InputError, match="no metric matthews_correlation; its metrics: accuracy, f1"):
        read_runs(folders, "matthews_correlation")
    timed = {"eval_accuracy": 1, "eval_runtime": 2, "eval_samples": 22, "eval_model_preparation_time_w0.5_d1": 0.1}
    with pytest.raises(InputError, match="its metrics: accuracy.$"):
        read_runs([make_run("timed", timed)], "f1")
    with pytest.raises(InputError, match="picture.docx cannot be drawn"):
        draw(read_runs(folders, "accuracy"), "accuracy", tmp_path / "picture.docx")
    with pytest.raises(InputError, match="untimed has no latency_ms"):
        draw(read_runs([make_run("untimed", {"eval_accuracy": 0.5})], "accuracy"), "accuracy", tmp_path / "p.png")
    with pytest.raises(InputError, match="missing/p.png"):
        draw(read_runs(folders, "accuracy"), "accuracy", tmp_path / "missing" / "p.png")
    (folders[0] / "all_results.json").write_text('{"eval_acc')
    with pytest.raises(SystemExit) as exit:
        main([str(folders[0]), "--metric", "accuracy"])
    assert exit.value.code == 2
    assert "all_results.json is not JSON" in capsys.readouterr().err
