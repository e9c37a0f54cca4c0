"""What a run saves can be loaded and used, and says what was loaded."""

import json

import pytest
from conftest import save_tokenizer, tiny_config, tiny_model
from tokenizers import Tokenizer
from transformers import BertForQuestionAnswering

import run_glue_ckd
import run_squad_ckd
import run_teacher

QUICK = "--do_train --do_eval --max_steps 2 --save_steps 1 --report_to none --disable_tqdm true --output_dir".split()
LAYERS = "--student_init teacher_layers --student_num_layers 2".split()
TRUNCATION = {"max_length": 20, "stride": 2}
PADDING = {"length": 20}


def question_file(path):
    answers = [{"text": "good", "answer_start": 11}]
    questions = [{"id": str(number), "question": "very not", "answers": answers} for number in range(12)]
    paragraph = {"context": "the cat is good " + "and the dog " * 20, "qas": questions}
    path.write_text(json.dumps({"version": "1.1", "data": [{"title": "", "paragraphs": [paragraph]}]}))
    return path


def distil(folder, teacher, text_files):
    """Distils a classifier; the teacher's folder may be that of a student, too."""
    run_glue_ckd.main(["--teacher_model_name_or_path", str(teacher), *LAYERS, *text_files, *QUICK, str(folder)])


def distil_pretrained(folder, teacher, text_files):
    models = ["--teacher_model_name_or_path", str(teacher), "--model_name_or_path", str(teacher)]
    run_glue_ckd.main([*models, *text_files, "--pad_to_max_length", *QUICK, str(folder)])


def fine_tune(folder, teacher, text_files):
    run_teacher.main(["--model_name_or_path", str(teacher), *text_files, *QUICK, str(folder)])


def distil_answers(folder, teacher, text_files):
    BertForQuestionAnswering(tiny_config()).save_pretrained(teacher)
    questions = str(question_file(folder.with_suffix(".json")))
    files = ["--train_file", questions, "--validation_file", questions]
    lengths = "--max_seq_length 20 --doc_stride 3 --max_question_length 4".split()
    run_squad_ckd.main(["--teacher_model_name_or_path", str(teacher), *LAYERS, *files, *lengths, *QUICK, str(folder)])


@pytest.mark.parametrize("limits", [False, True], ids=["without limits", "with limits"])
@pytest.mark.parametrize("run", [distil, distil_pretrained, fine_tune, distil_answers])
def test_the_tokenizer_is_saved_as_it_was_loaded(run, limits, tiny_teacher, text_files, tmp_path):
    path = tiny_teacher / "tokenizer.json"
    tokenizer = Tokenizer.from_file(str(path))
    if limits:
        tokenizer.enable_truncation(**TRUNCATION)
        tokenizer.enable_padding(**PADDING)
        tokenizer.save(str(path))
    configured = json.loads((tiny_teacher / "tokenizer_config.json").read_text())
    run(tmp_path / "out", tiny_teacher, text_files)
    for folder in (tmp_path / "out", tmp_path / "out" / "checkpoint-1"):
        saved = Tokenizer.from_file(str(folder / "tokenizer.json"))
        assert (saved.truncation, saved.padding) == (tokenizer.truncation, tokenizer.padding)
        assert saved.encode("the cat " * 30).ids == tokenizer.encode("the cat " * 30).ids
        config = json.loads((folder / "tokenizer_config.json").read_text())
        assert config.get("model_input_names") == configured.get("model_input_names")


def test_a_students_tokenizer_keeps_its_input_names(tiny_teacher, text_files, tmp_path):
    """What the student reads and the teacher does not, or the other way round, is for encoding alone."""
    for name, folder in (("a", tiny_teacher), ("b", tmp_path / "student")):
        if name == "b":
            tiny_model(layers=2, seed=1).save_pretrained(folder)
        save_tokenizer(folder, model_input_names=["input_ids", "attention_mask"] + ["token_type_ids"] * (name == "a"))
    models = ["--teacher_model_name_or_path", str(tiny_teacher), "--model_name_or_path", str(tmp_path / "student")]
    run_glue_ckd.main([*models, *text_files, *QUICK, str(tmp_path / "out")])
    config = json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())
    assert config["model_input_names"] == ["input_ids", "attention_mask"]
