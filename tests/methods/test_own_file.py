"""A user's own method from a file: what it may hold, what is refused, and what happens when it changes."""

import pytest
from helpers.commands import STUDENT, TWO_STEPS

import run_glue_ckd
import run_teacher
from ckd_trainer.methods import MethodArguments
from ckd_trainer.methods.own_file import methods_of_file
from ckd_trainer.utils.errors import InputError

METHOD = """
from dataclasses import dataclass

from ckd_trainer.arguments import option
from ckd_trainer.methods import MethodArguments


@dataclass
class {name}Arguments(MethodArguments):
    {option}: float = option(0.0, "Share of the gradient.")

    def terms(self, pair):
        raise RuntimeError("a bug of the user's")
"""


def write(path, name="Own", option="own_weight"):
    path.write_text(METHOD.format(name=name, option=option))
    return path


def test_methods_of_the_file_alone(tmp_path):
    """Not what it imports."""
    path = write(tmp_path / "own.py")
    (found,) = methods_of_file(path)
    assert issubclass(found, MethodArguments) and found(own_weight=0.5).weights == {"own": 0.5}
    path.write_text(path.read_text() + METHOD.format(name="Other", option="other_weight"))
    assert [one.__name__ for one in methods_of_file(path)] == ["OwnArguments", "OtherArguments"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1", "defines no method"),
        ("from ckd_trainer.methods import PKDArguments", "defines no method"),
        (METHOD.format(name="Own", option="alpha"), "defines options that exist already \\('alpha'\\)"),
        (METHOD.format(name="A", option="a_weight") + METHOD.format(name="B", option="a_weight"), "'a_weight'"),
    ],
)
def test_refused(tmp_path, text, message):
    (tmp_path / "own.py").write_text(text)
    with pytest.raises(InputError, match=message):
        methods_of_file(tmp_path / "own.py", taken={"alpha"})


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing.py", "missing.py, which does not exist: give an existing file"),
        ("folder.py", "folder.py, which is not a Python file"),
        ("words.txt", "words.txt, which is not a Python file"),
    ],
)
def test_not_a_python_file(tmp_path, name, message):
    (tmp_path / "folder.py").mkdir()
    (tmp_path / "words.txt").write_text("x = 1")
    with pytest.raises(InputError, match=message):
        methods_of_file(tmp_path / name)


def test_an_error_of_the_file_keeps_its_traceback(tmp_path, tiny_teacher, text_files):
    words = [
        "--teacher_model_name_or_path",
        str(tiny_teacher),
        *STUDENT,
        *text_files,
        *TWO_STEPS,
        str(tmp_path / "out"),
    ]
    (tmp_path / "own.py").write_text("1 / 0")
    with pytest.raises(ZeroDivisionError):
        run_glue_ckd.main([*words, "--method_file", str(tmp_path / "own.py")])
    write(tmp_path / "own.py")
    with pytest.raises(RuntimeError, match="a bug of the user's"):
        run_glue_ckd.main([*words, "--method_file", str(tmp_path / "own.py"), "--own_weight", "1"])


def test_a_changed_file_is_another_run(tmp_path, tiny_teacher, text_files, capsys):
    words = [
        "--teacher_model_name_or_path",
        str(tiny_teacher),
        *STUDENT,
        *text_files,
        *TWO_STEPS,
        str(tmp_path / "out"),
    ]
    path = tmp_path / "own.py"
    path.write_text(METHOD.format(name="Own", option="own_weight").replace("raise RuntimeError", "return []  #"))
    run_glue_ckd.main([*words, "--method_file", str(path)])
    path.write_text(path.read_text() + "# changed\n")
    with pytest.raises(SystemExit) as stopped:
        run_glue_ckd.main([*words, "--method_file", str(path)])
    assert stopped.value.code == 2 and "method_file (own.py) has changed since" in capsys.readouterr().err


def test_a_teacher_takes_none(tmp_path, tiny_teacher, text_files, capsys):
    words = ["--model_name_or_path", str(tiny_teacher), *text_files, *TWO_STEPS, str(tmp_path / "out")]
    with pytest.raises(SystemExit):
        run_teacher.main([*words, "--method_file", str(write(tmp_path / "own.py"))])
    assert "a teacher learns from the labels alone" in capsys.readouterr().err
