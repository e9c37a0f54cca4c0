"""`ckd-trainer submission`: the prediction files of several runs in one zip."""

import subprocess
import sys
import zipfile

import pytest
from helpers.files import PROJECT

from ckd_trainer.data.submission import main


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
