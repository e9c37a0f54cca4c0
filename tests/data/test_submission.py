"""Prediction files, and `ckd-trainer submission`, which puts those of several runs into one zip."""

import subprocess
import sys
import zipfile

import numpy as np
import pytest
from helpers.files import PROJECT

from ckd_trainer.data.glue_tasks import GLUE_TASKS
from ckd_trainer.data.labeled_texts import TextTask
from ckd_trainer.data.submission import main, write_predictions
from ckd_trainer.data.table_files import open_table


def run_folder(path, *files):
    path.mkdir()
    for file in files:
        (path / file).parent.mkdir(exist_ok=True)
        (path / file).write_text(f"index\tprediction\n0\t{path.name}\n")
    return str(path)


def test_a_zip_of_several_runs(tmp_path, capsys):
    folders = [
        run_folder(tmp_path / "rte", "RTE.tsv", "other.tsv"),
        run_folder(tmp_path / "mnli", "predictions/MNLI-m.tsv", "AX.tsv"),
    ]
    output = tmp_path / "out" / "s.zip"
    main([*folders, "--output", str(output)])
    with zipfile.ZipFile(output) as archive:
        assert sorted(archive.namelist()) == ["AX.tsv", "MNLI-m.tsv", "RTE.tsv"]
        assert archive.read("RTE.tsv") == b"index\tprediction\n0\trte\n"
    assert [path.name for path in output.parent.iterdir()] == ["s.zip"]
    printed = capsys.readouterr().out
    assert "s.zip: 3 of 11 files (MNLI-m.tsv, RTE.tsv, AX.tsv)." in printed
    assert "Missing: CoLA.tsv, SST-2.tsv, MRPC.tsv, QQP.tsv, STS-B.tsv, MNLI-mm.tsv, QNLI.tsv, WNLI.tsv." in printed


def test_bad_submissions_end_with_code_2(tmp_path, capsys):
    one, two = run_folder(tmp_path / "one", "RTE.tsv"), run_folder(tmp_path / "two", "RTE.tsv", "QNLI.tsv")
    empty, output = run_folder(tmp_path / ("empty" * 20)), str(tmp_path / "s.zip")

    def refused(*folders):
        with pytest.raises(SystemExit) as end:
            main([*folders, "--output", output])
        assert end.value.code == 2
        return capsys.readouterr().err

    assert f"RTE.tsv is there twice, in {one} and {two}" in refused(one, two)
    said = refused(empty)
    assert "no prediction file" in said and repr(empty) in said
    assert "nowhere is not a folder" in refused("nowhere")
    main([one, "--output", output])
    assert f"{output} exists" in refused(two)
    main([two, "--output", output, "--overwrite"])
    with zipfile.ZipFile(output) as archive:
        assert archive.namelist() == ["QNLI.tsv", "RTE.tsv"]


def test_it_runs_as_a_module(tmp_path):
    folder, output = run_folder(tmp_path / "run", "CoLA.tsv"), tmp_path / "s.zip"
    command = [sys.executable, "-m", "ckd_trainer.data.submission", folder, "--output", str(output)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=PROJECT)
    assert done.returncode == 0, done.stderr
    assert output.is_file() and "1 of 11 files" in done.stdout


# Prediction files


def text_task(label_names=("no", "yes"), name="own_files"):
    return TextTask(name, None, {}, {}, ("text",), label_names and list(label_names))


SUBMITTED = {
    "cola": {"": ("CoLA.tsv", "0", "1")},
    "sst2": {"": ("SST-2.tsv", "0", "1")},
    "mrpc": {"": ("MRPC.tsv", "0", "1")},
    "qqp": {"": ("QQP.tsv", "0", "1")},
    "mnli": {"": ("MNLI-m.tsv", "entailment", "neutral"), "mismatched": ("MNLI-mm.tsv", "entailment", "neutral")},
    "qnli": {"": ("QNLI.tsv", "entailment", "not_entailment")},
    "rte": {"": ("RTE.tsv", "entailment", "not_entailment")},
    "wnli": {"": ("WNLI.tsv", "0", "1")},
}


@pytest.mark.parametrize("name", SUBMITTED)
def test_prediction_files_of_glue(tmp_path, name):
    assert len(SUBMITTED) == len(GLUE_TASKS) - 1  # STS-B is below
    for key, (file, first, second) in SUBMITTED[name].items():
        logits = np.eye(len(GLUE_TASKS[name].label_names))[[1, 0]]
        path = write_predictions(text_task(name=name), key, logits, tmp_path / "run")
        assert path == tmp_path / "run" / file
        assert path.read_bytes().decode() == f"index\tprediction\n0\t{second}\n1\t{first}\n"
    assert {path.name for path in path.parent.iterdir()} == {file for file, *_ in SUBMITTED[name].values()}


def test_prediction_file_of_stsb_is_clipped_with_three_decimals(tmp_path):
    logits = np.array([[1.23456], [-0.5], [5.7], [2.0]], dtype=np.float32)
    path = write_predictions(text_task(label_names=None, name="stsb"), "", logits, tmp_path)
    assert path.name == "STS-B.tsv"
    assert path.read_text() == "index\tprediction\n0\t1.235\n1\t0.000\n2\t5.000\n3\t2.000\n"


def test_prediction_file_of_own_files(tmp_path):
    path = write_predictions(text_task(), "", np.array([[0.0, 1.0], [1.0, 0.0]]), tmp_path)
    assert path.name == "predictions.tsv" and path.read_text() == "index\tprediction\n0\tyes\n1\tno\n"
    scores = np.array([0.1, -7.25], dtype=np.float32)
    path = write_predictions(text_task(label_names=None), "", scores, tmp_path)
    assert path.read_text() == "index\tprediction\n0\t0.1\n1\t-7.25\n"


def test_prediction_files_can_be_read_back(tmp_path):
    names = ['"', '"a"', ' a ""b', ",;", "a  b"]
    path = write_predictions(text_task(label_names=names), "", np.eye(len(names)), tmp_path)
    assert open_table(path, quoting="none").words("prediction") == names
