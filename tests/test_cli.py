"""The command `ckd-trainer`: its sub-commands, what it imports, and what a wheel of the package holds."""

import configparser
import importlib
import os
import subprocess
import sys
from importlib.metadata import version

import pytest
from helpers.files import PROJECT
from setuptools import Distribution

import run_glue_ckd
import run_mlm_ckd
import run_ner_ckd
import run_squad_ckd
import run_teacher
from ckd_trainer import cli
from ckd_trainer.cli import COMMANDS, DEMOS, main

LEAVES = {name: command for name, command in {**COMMANDS, **DEMOS}.items() if isinstance(command, cli.Command)}


def refused(capsys, *argv):
    with pytest.raises(SystemExit) as stopped:
        main(argv)
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_version(capsys):
    main(["--version"])
    assert capsys.readouterr().out == f"ckd-trainer {version('ckd-trainer')}\n"


@pytest.mark.parametrize("argv", [[], ["-h"], ["--help"]])
def test_help_has_one_line_for_each_command(capsys, argv):
    main(argv)
    lines = capsys.readouterr().out.splitlines()
    named = {line.split()[0]: line for line in lines if line.startswith("  ")}
    assert list(named) == [
        "teacher",
        "glue",
        "squad",
        "ner",
        "mlm",
        "compare",
        "report",
        "export-subnets",
        "search",
        "augment",
        "recombine",
        "submission",
        "demo",
    ]
    assert all(command.summary in named[name] for name, command in COMMANDS.items())
    assert max(map(len, lines)) <= 80 and lines[0] == "usage: ckd-trainer COMMAND ..."


def test_demo_lists_its_tasks(capsys):
    main(["demo"])
    said = capsys.readouterr().out
    assert said.startswith("usage: ckd-trainer demo COMMAND ...")
    assert all(name in said and demo.summary in said for name, demo in DEMOS.items())


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["export"], "error: ckd-trainer has no command 'export': did you mean export-subnets?"),
        (["gleu"], "error: ckd-trainer has no command 'gleu': did you mean glue?"),
        (
            ["--versoin"],
            "error: ckd-trainer has no command '--versoin': choose from teacher, glue, squad, ner, mlm, compare, ",
        ),
        (["demo", "agrement", "data"], "error: ckd-trainer demo has no command 'agrement': did you mean agreement?"),
    ],
)
def test_an_unknown_command_is_one_line(capsys, argv, message):
    assert refused(capsys, *argv).startswith(message)


@pytest.mark.parametrize("name", LEAVES)
def test_a_command_calls_the_main_of_its_module(monkeypatch, name):
    called = []
    module = importlib.import_module(LEAVES[name].module)
    monkeypatch.setattr(module, "main", called.append)
    main([*(["demo"] if name in DEMOS else []), name, "a", "--b", "c"])
    assert called == [["a", "--b", "c"]]


def test_scripts_have_the_main_of_their_command():
    scripts = {
        "teacher": run_teacher,
        "glue": run_glue_ckd,
        "squad": run_squad_ckd,
        "ner": run_ner_ckd,
        "mlm": run_mlm_ckd,
    }
    assert scripts.keys() == {name for name, command in LEAVES.items() if command.trains}
    for name, script in scripts.items():
        assert script.main is importlib.import_module(LEAVES[name].module).main


@pytest.mark.parametrize("name", LEAVES)
def test_help_of_a_command_names_the_command(capsys, name):
    words = ["demo", name] if name in DEMOS else [name]
    with pytest.raises(SystemExit) as stopped:
        main([*words, "--help"])
    assert stopped.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: ckd-trainer {' '.join(words)} [-h] ")


def test_demo_makes_a_task(tmp_path, capsys):
    main(["demo", "reading", str(tmp_path / "data"), "--seed", "1"])
    assert "The task is in" in capsys.readouterr().out
    names = {path.name for path in (tmp_path / "data").iterdir()}
    assert names == {"train.json", "validation.json", "test.json", "base"}


def test_a_command_that_fails_ends_as_its_script_does(capsys):
    assert "none cannot be reported" in refused(capsys, "report", "none", "--metric", "accuracy")
    assert "leraning_rate is not a known option: did you mean learning_rate?" in refused(
        capsys, "glue", "--leraning_rate", "1"
    )


@pytest.mark.parametrize(
    ("argv", "imported"),
    [
        ("--help", set()),
        ("--version", set()),
        ("demo", set()),
        ("demo agreement data", set()),
        ("report run --metric accuracy --output picture.svg", {"numpy"}),  # matplotlib's
        ("submission run", {"numpy"}),
    ],
)
def test_commands_that_do_not_train_import_no_large_library(tmp_path, argv, imported):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "RTE.tsv").touch()
    (tmp_path / "run" / "recipe.yaml").write_text("alpha: 0.5\n")
    (tmp_path / "run" / "all_results.json").write_text('{"eval_accuracy": 0.5, "latency_ms": 1.0}')
    program = (
        "import sys; from ckd_trainer.cli import main; main(sys.argv[1:]); "
        "print(*{'torch', 'transformers', 'datasets', 'numpy'} & set(sys.modules))"
    )
    command = [sys.executable, "-c", program, *argv.split()]
    environment = os.environ | {"PYTHONPATH": str(PROJECT)}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.splitlines()[-1].split()) == imported


def test_it_runs_as_a_module():
    done = subprocess.run(
        [sys.executable, "-m", "ckd_trainer", "--version"], capture_output=True, text=True, cwd=PROJECT
    )
    assert (done.returncode, done.stdout) == (0, f"ckd-trainer {version('ckd-trainer')}\n")


def test_the_packages_public_names_are_there():
    import ckd_trainer

    assert all(getattr(ckd_trainer, name).__name__ == name for name in ckd_trainer.__all__)
    assert set(ckd_trainer.__all__) <= set(dir(ckd_trainer))
    with pytest.raises(AttributeError, match="has no attribute 'Trainer'"):
        _ = ckd_trainer.Trainer


def test_the_console_command_is_the_main_of_cli():
    config = configparser.ConfigParser()
    config.read(PROJECT / "setup.cfg")
    assert config["options.entry_points"]["console_scripts"].split() == ["ckd-trainer", "=", "ckd_trainer.cli:main"]


# -------------------------------------------------------------------------------------------------------- the wheel


def test_a_wheel_holds_every_file_of_the_package(monkeypatch, tmp_path):
    """Else a package without an __init__.py, or a new kind of data file, is missing where the wheel is installed."""
    monkeypatch.chdir(PROJECT)
    distribution = Distribution({"script_name": "setup.py"})
    distribution.parse_config_files()
    build = distribution.get_command_obj("build_py")
    build.build_lib = str(tmp_path)  # nothing is written there
    build.ensure_finalized()
    files = [tmp_path.joinpath(file).relative_to(tmp_path) for file in build.get_outputs(include_bytecode=False)]
    wanted = [path.relative_to(PROJECT) for path in PROJECT.glob("ckd_trainer/**/*") if path.is_file()]
    wanted = [path for path in wanted if "__pycache__" not in path.parts]
    assert len(wanted) > 80 and sorted(files) == sorted(wanted)
