"""Lengths that nobody set follow the models; lengths that were set are an error where the models read less."""

import pytest
import yaml
from helpers.commands import SHORT_RUN, STUDENT, TWO_STEPS
from helpers.files import question_file
from helpers.tiny import tiny_config
from transformers import BertForQuestionAnswering, BertForSequenceClassification

import run_glue_ckd
import run_squad_ckd
from ckd_trainer import GlueArguments, SquadArguments


def recorded(folder):
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
    return {name: recipe[name] for name in ("max_seq_length", "doc_stride") if name in recipe}


def refused(main, argv, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(argv)
    assert stopped.value.code == 2
    return capsys.readouterr().err


@pytest.fixture
def command(tiny_teacher, text_files, tmp_path):
    """A distillation without max_seq_length, of models that read 32 tokens."""
    return [
        "--teacher_model_name_or_path",
        str(tiny_teacher),
        *STUDENT,
        *SHORT_RUN,
        *text_files[:-2],
        *TWO_STEPS,
        str(tmp_path / "out"),
    ]


def test_a_default_length_is_the_models(command, tmp_path, caplog, capsys):
    caplog.set_level("INFO")
    first = run_glue_ckd.main(command)
    assert "max_seq_length is lowered to 32, the most that the models support (the default is 128)" in caplog.text
    assert recorded(tmp_path / "out") == {"max_seq_length": 32}
    assert run_glue_ckd.main(command)["eval_loss"] == first["eval_loss"]
    assert run_glue_ckd.main([str(tmp_path / "out" / "recipe.yaml")])["eval_loss"] == first["eval_loss"]
    (tmp_path / "out" / "train_results.json").unlink()  # as if it had been killed behind its last step
    assert run_glue_ckd.main(command)["eval_loss"] == first["eval_loss"]
    assert recorded(tmp_path / "out") == {"max_seq_length": 32}
    other = [*command[:-1], str(tmp_path / "other"), "--max_seq_length", "64"]
    assert "max_seq_length is 64, but the bert model reads at most 32" in refused(run_glue_ckd.main, other, capsys)


def test_the_least_of_both_models_counts_after_training_too(command, tiny_teacher, text_files, tmp_path, caplog):
    """The student alone would read more than it was trained with."""
    config = tiny_config(layers=2)
    config.max_position_embeddings = 64
    BertForSequenceClassification(config).save_pretrained(tmp_path / "student")
    for path in tiny_teacher.glob("token*"):
        (tmp_path / "student" / path.name).write_bytes(path.read_bytes())
    command[2:6] = ["--model_name_or_path", str(tmp_path / "student")]
    first = run_glue_ckd.main(command)
    caplog.clear()
    assert run_glue_ckd.main(command)["eval_loss"] == first["eval_loss"]
    assert recorded(tmp_path / "out") == {"max_seq_length": 32}
    assert (
        "max_seq_length is 32, as when the run" in caplog.text
        and "the most that the models support" not in caplog.text
    )


def test_a_default_length_goes_on_with_a_folder_that_names_it(command, tiny_teacher, tmp_path):
    config = tiny_config()
    config.max_position_embeddings = 256
    BertForSequenceClassification(config).save_pretrained(tiny_teacher)
    first = run_glue_ckd.main([*command, "--max_seq_length", "128"])
    (tmp_path / "out" / "train_results.json").unlink()
    assert run_glue_ckd.main(command)["eval_loss"] == first["eval_loss"]
    assert recorded(tmp_path / "out") == {"max_seq_length": 128}


def test_a_length_that_was_set_is_another_run(command, tmp_path, capsys):
    trained = run_glue_ckd.main([*command, "--max_seq_length", "8"])
    assert run_glue_ckd.main(command)["eval_loss"] == trained["eval_loss"]  # evaluated as it was trained
    (tmp_path / "out" / "train_results.json").unlink()
    assert "(max_seq_length 8 there, 32 here)" in refused(run_glue_ckd.main, command, capsys)


def test_default_lengths_of_questions(tiny_teacher, tmp_path, capsys):
    BertForQuestionAnswering(tiny_config()).save_pretrained(tiny_teacher)
    questions = str(question_file(tmp_path / "questions.json"))
    command = ["--teacher_model_name_or_path", str(tiny_teacher), *STUDENT, *SHORT_RUN, *TWO_STEPS]
    command += [str(tmp_path / "out")]
    command += ["--train_file", questions, "--validation_file", questions]
    assert "give a smaller doc_stride or max_question_length" in refused(run_squad_ckd.main, command, capsys)
    command += ["--max_question_length", "4"]
    first = run_squad_ckd.main(command)
    assert recorded(tmp_path / "out") == {"max_seq_length": 32, "doc_stride": 12}
    assert run_squad_ckd.main(command)["eval_f1"] == first["eval_f1"]


def test_from_python_the_defaults_are_numbers():
    assert GlueArguments("cola").max_seq_length == 128
    arguments = SquadArguments(doc_stride=64)
    assert (arguments.max_seq_length, arguments.doc_stride, arguments.by_default) == (384, 64, {"max_seq_length"})
