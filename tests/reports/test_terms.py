"""The picture of a loss's terms: what it reads from a run's log, and what it says where there is nothing to draw."""

import json

import pytest

from ckd_trainer.commands.report import main
from ckd_trainer.reports.runs import read_runs
from ckd_trainer.reports.terms import Terms, draw_terms, read_terms
from ckd_trainer.utils.errors import InputError


def entry(epoch, task, angle, cosine=None):
    values = {"epoch": epoch, "loss": task + angle, "loss_task": task, "loss_wr_angle": angle}
    if cosine is not None:
        values |= {"gradient_norm_task": 2 * task, "gradient_norm_wr_angle": angle, "cosine_task_wr_angle": cosine}
    return values


@pytest.fixture
def make_run(tmp_path):
    def make(name, *log):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "all_results.json").write_text('{"eval_accuracy": 0.5, "latency_ms": 1.0}')
        (folder / "trainer_state.json").write_text(
            json.dumps({"log_history": [*log, {"epoch": 2.0, "train_loss": 1}]})
        )
        return folder

    return make


def test_reads_values_norms_and_cosines(make_run):
    folder = make_run("ckd", entry(0.5, 1.0, 0.5, 0.25), entry(1.0, 0.5, 0.25, -0.75), {"epoch": 1.0, "eval_loss": 1})
    assert read_terms(read_runs([folder], "accuracy")[0]) == Terms(
        losses={"task": [(0.5, 1.0), (1.0, 0.5)], "wr_angle": [(0.5, 0.5), (1.0, 0.25)]},
        norms={"task": [(0.5, 2.0), (1.0, 1.0)], "wr_angle": [(0.5, 0.5), (1.0, 0.25)]},
        cosines={("task", "wr_angle"): -0.25},
    )


def test_of_a_dynamic_student_the_means_are_read(make_run):
    values = {"loss_task_w1_d1": 1.0, "loss_task_w0.5_d0.5": 3.0, "gradient_norm_task_w0.5_d0.5": 1.0}
    (run,) = read_runs([make_run("dynamic", {"epoch": 0.5, "loss_task": 2.0} | values)], "accuracy")
    assert read_terms(run) == Terms(losses={"task": [(0.5, 2.0)]}, norms={}, cosines={})


def test_draws_a_row_per_run_with_gradients_where_they_are_logged(make_run, tmp_path, capsys):
    import matplotlib

    folders = [
        make_run("with_norms", entry(0.5, 1.0, 0.5, 0.25), entry(1.0, 0.5, 0.0, -0.75)),
        make_run("without", entry(0.5, 1.0, 0.5), entry(1.0, 0.5, 0.25)),
    ]
    with matplotlib.rc_context({"svg.fonttype": "none"}):
        main([*map(str, folders), "--metric", "accuracy", "--terms", str(tmp_path / "terms.svg")])
    svg = (tmp_path / "terms.svg").read_text(encoding="utf-8").replace("\N{MINUS SIGN}", "-")
    for text in ("with_norms: terms", "without: terms", "norms of their weighted gradients", "mean cosines between"):
        assert svg.count(text) == 1
    assert svg.count(">-0.25<") == 2  # both halves of the matrix
    assert f"The terms of the loss are in {tmp_path / 'terms.svg'}" in capsys.readouterr().out


def test_runs_without_norms_have_one_panel(make_run, tmp_path):
    runs = read_runs([make_run("without", entry(0.5, 1.0, 0.5))], "accuracy")
    draw_terms(runs, tmp_path / "terms.svg")
    assert 'width="388.8pt"' in (tmp_path / "terms.svg").read_text(encoding="utf-8")  # 5.4 inches


def test_refusals(make_run, tmp_path):
    nothing = read_runs([make_run("nothing", {"epoch": 1.0, "loss": 1.0})], "accuracy")
    with pytest.raises(InputError, match="nothing logged no terms of a loss"):
        draw_terms(nothing, tmp_path / "terms.png")
    nothing[0].is_teacher = True
    with pytest.raises(InputError, match="only the teacher is given"):
        draw_terms(nothing, tmp_path / "terms.png")
    runs = read_runs([make_run("ckd", entry(0.5, 1.0, 0.5))], "accuracy")
    with pytest.raises(InputError, match="its suffix is '.doc'"):
        draw_terms(runs, tmp_path / "terms.doc")
