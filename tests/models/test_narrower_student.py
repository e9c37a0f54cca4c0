"""A student narrower than its teacher: from Python, by the scripts, resumed, with other labels."""

import json
import shutil

import pytest
import torch
from helpers.commands import STUDENT
from helpers.files import sentences, write_questions
from helpers.tiny import qa_model, save_tokenizer, tiny_model
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer, DistilBertConfig
from transformers import DistilBertForSequenceClassification as DistilBert

import run_glue_ckd
import run_squad_ckd
from ckd_trainer import ModelArguments
from ckd_trainer.models.pair import ModelPair

QUICK = "--do_train --max_steps 4 --save_steps 2 --logging_steps 2 --report_to none --disable_tqdm true".split()
NARROW = ["--student_config", '{"hidden_size": 16, "intermediate_size": 24}']
TEXTS = [(text,) for text, _ in sentences(96)]


def pair_of(teacher, labels=("bad", "good"), sizes=None, **kwargs):
    args = ModelArguments(
        teacher_model_name_or_path=str(teacher), student_init="teacher_layers", student_config=sizes, **kwargs
    )
    pair = ModelPair(args, terms=[], trains=True)
    pair.set_labels(list(labels))
    return pair


def logits(model, folder):
    batch = AutoTokenizer.from_pretrained(folder)([text for (text,) in TEXTS], padding=True, return_tensors="pt")
    with torch.no_grad():
        return model.eval()(**batch).logits


def weights(folder):
    return load_file(folder / "model.safetensors")


def test_the_chosen_layers_are_made_narrower(tiny_teacher):
    """The closest student of the same sizes as the teacher, for its texts, has all neurons but some."""
    distances = []
    layers = {"student_layers": "2,4"}
    wide, _ = pair_of(tiny_teacher, **layers).load()
    for sizes in ({"intermediate_size": 60}, {"intermediate_size": 30}, {"hidden_size": 16}):
        student, _ = pair_of(tiny_teacher, sizes=sizes, **layers).load(TEXTS)
        config = student.config
        assert config.num_hidden_layers == 2 and all(getattr(config, name) == size for name, size in sizes.items())
        distances.append((logits(student, tiny_teacher) - logits(wide, tiny_teacher)).norm().item())
    assert distances[0] < distances[1] < distances[2]


def test_a_student_of_the_same_sizes_is_not_fitted(tiny_teacher):
    student, _ = pair_of(tiny_teacher, sizes={"hidden_size": 32}, student_num_layers=2).load(TEXTS)
    wide, _ = pair_of(tiny_teacher, student_num_layers=2).load()
    assert all(torch.equal(tensor, student.state_dict()[name]) for name, tensor in wide.state_dict().items())


def test_labels_in_another_order_are_those_of_the_teacher(tiny_teacher, tmp_path):
    swapped = shutil.copytree(tiny_teacher, tmp_path / "swapped")
    model = AutoModelForSequenceClassification.from_pretrained(tiny_teacher)
    with torch.no_grad():
        for parameter in model.classifier.parameters():
            parameter.copy_(parameter.flip(0))
    model.config.id2label, model.config.label2id = {0: "good", 1: "bad"}, {"good": 0, "bad": 1}
    model.save_pretrained(swapped)
    students = [
        pair_of(teacher, sizes={"hidden_size": 16}, student_num_layers=2).load(TEXTS)[0]
        for teacher in (tiny_teacher, swapped)
    ]
    torch.testing.assert_close(*(logits(student, tiny_teacher) for student in students), rtol=1e-3, atol=1e-4)


def test_a_head_for_other_labels_is_new(tiny_teacher):
    pair = pair_of(tiny_teacher, labels="abc", sizes={"hidden_size": 16}, student_num_layers=2)
    student, _ = pair.load(TEXTS)
    assert student.classifier.weight.shape == (3, 16) and student.config.id2label == {0: "a", 1: "b", 2: "c"}


def test_names_of_distilbert(tiny_teacher):
    config = DistilBertConfig(vocab_size=22, dim=16, n_layers=4, n_heads=2, hidden_dim=32, max_position_embeddings=32)
    DistilBert(config).save_pretrained(tiny_teacher)
    sizes = {"dim": 8, "hidden_dim": 12}
    student, _ = pair_of(tiny_teacher, labels=("LABEL_0", "LABEL_1"), sizes=sizes, student_num_layers=2).load(TEXTS)
    assert (student.config.dim, student.config.n_heads, student.config.hidden_dim) == (8, 1, 12)


def test_distilled_by_relations_and_resumed(tiny_teacher, text_files, tmp_path, caplog):
    """CKD's relations compare any widths. A resumed run ends like one that was never interrupted."""
    teacher = ["--teacher_model_name_or_path", str(tiny_teacher)]
    options = [*teacher, *STUDENT, *NARROW, *text_files, *QUICK, "--do_eval", "--output_dir"]
    run_glue_ckd.main([*options, str(tmp_path / "whole")])
    assert "hidden_size 32 -> 16, num_attention_heads 2 -> 1, intermediate_size 64 -> 24" in caplog.text
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "whole")
    assert (model.config.hidden_size, model.config.num_attention_heads, model.config.intermediate_size) == (16, 1, 24)
    killed = shutil.copytree(tmp_path / "whole", tmp_path / "killed")
    for name in ("model.safetensors", "config.json", "trainer_state.json", "train_results.json", "all_results.json"):
        (killed / name).unlink()
    shutil.rmtree(killed / "checkpoint-4")
    run_glue_ckd.main([*options, str(killed)])
    whole = weights(tmp_path / "whole")
    assert all(torch.equal(tensor, whole[name]) for name, tensor in weights(killed).items())


def test_the_start_keeps_what_the_teacher_learned(tmp_path, text_files):
    """After a step with a learning rate of 0, a student of half the width is better than a random one."""
    torch.manual_seed(0)
    folder = tmp_path / "teacher"
    save_tokenizer(folder)
    tokenizer, model = AutoTokenizer.from_pretrained(folder), tiny_model(hidden_dropout_prob=0.0)
    batch = tokenizer([text for (text,) in TEXTS], padding=True, return_tensors="pt")
    labels = torch.tensor([("bad", "good").index(label) for _, label in sentences(96)])
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(40):
        model(**batch, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(folder)
    options = ["--teacher_model_name_or_path", str(folder), *text_files, "--do_train", "--do_eval", "--max_steps", "1"]
    options += ["--learning_rate", "0", "--report_to", "none", "--disable_tqdm", "true", "--student_num_layers", "4"]
    metrics = run_glue_ckd.main(
        [*options, "--student_init", "teacher_layers", *NARROW, "--output_dir", str(tmp_path / "out")]
    )
    assert metrics["eval_accuracy"] > 0.85


def test_questions(tmp_path):
    qa_model().save_pretrained(tmp_path / "teacher")
    save_tokenizer(tmp_path / "teacher")
    data = write_questions(tmp_path / "train.json", 24)
    options = ["--teacher_model_name_or_path", str(tmp_path / "teacher"), "--train_file", str(data), *STUDENT, *NARROW]
    options += ["--max_seq_length", "14", "--doc_stride", "3", "--max_question_length", "4", *QUICK]
    run_squad_ckd.main([*options, "--output_dir", str(tmp_path / "out")])
    assert json.loads((tmp_path / "out" / "config.json").read_text())["hidden_size"] == 16


@pytest.mark.parametrize("option", ["pkd_weight", "distilbert_cosine_weight"])
def test_methods_that_need_equal_widths_are_refused(option, tiny_teacher, text_files, tmp_path, capsys):
    options = ["--teacher_model_name_or_path", str(tiny_teacher), *STUDENT, *NARROW, *text_files, *QUICK]
    with pytest.raises(SystemExit) as stopped:
        run_glue_ckd.main([*options, f"--{option}", "0.3", "--output_dir", str(tmp_path / "out")])
    assert stopped.value.code == 2 and not (tmp_path / "out").exists()
    assert f"{option} is set, but hidden states of width 16 (student) and 32 (teacher)" in capsys.readouterr().err
