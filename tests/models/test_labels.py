"""Labels of teacher and data: names decide, positions are said, another order or scale is refused."""

import json

import pytest
import torch
from helpers.commands import SHORT_RUN
from helpers.tiny import save_tokenizer, tiny_config
from transformers import AutoModelForSequenceClassification, AutoTokenizer, BertForSequenceClassification

import run_glue_ckd
import run_teacher

WORDS = [f"w{number}" for number in range(12)]
QUICK = "--report_to none --disable_tqdm true --per_device_train_batch_size 16 --learning_rate 3e-3 --logging_steps 50"
STUDENT = f"--student_init teacher_layers --student_num_layers 2 {' '.join(SHORT_RUN)}"


def write(path, rows):
    path.write_text("text\tlabel\n" + "".join(f"the {word} is here\t{label}\n" for word, label in rows))
    return path


def train(folder, labels, targets, scale=1, shift=0, **config):
    """A model that knows which of 12 words a text has, and answers with the word's target, or its score in a scale."""
    torch.manual_seed(0)
    config = tiny_config(labels=labels, hidden_dropout_prob=0.0, **config)
    config.vocab_size = 5 + 3 + len(WORDS)
    model = BertForSequenceClassification(config)
    save_tokenizer(folder, words=["the", "is", "here", *WORDS])
    batch = AutoTokenizer.from_pretrained(folder)([f"the {word} is here" for word in WORDS], return_tensors="pt")
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(150):
        loss = model(**batch, labels=torch.tensor(targets)).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert loss < 0.05
    with torch.no_grad():
        model.classifier.weight *= scale
        model.classifier.bias.copy_(scale * model.classifier.bias + shift)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def twelve(tmp_path_factory):
    """A teacher of the labels LABEL_0 ... LABEL_11, one for each word, and files with these labels."""
    folder = tmp_path_factory.mktemp("twelve")
    train(folder / "teacher", [f"LABEL_{number}" for number in range(12)], list(range(12)))
    rows = [(word, f"LABEL_{number}") for number, word in enumerate(WORDS)]
    write(folder / "train.tsv", rows * 8)
    write(folder / "validation.tsv", rows * 2)
    return folder


def relabeled(folder, path, names):
    """Returns a file of the same texts, with other names of the labels."""
    lines = (folder / "train.tsv").read_text().splitlines()
    rows = [line.split("\t") for line in lines[1:]]
    path.write_text("text\tlabel\n" + "".join(f"{text}\t{names[int(label[6:])]}\n" for text, label in rows))
    return path


def files(folder, **other):
    paths = {"train": folder / "train.tsv", "validation": folder / "validation.tsv"} | other
    return " ".join(f"--{split}_file {path}" for split, path in paths.items()) + " --max_seq_length 16"


def distill(teacher, output, options):
    command = f"--teacher_model_name_or_path {teacher} --output_dir {output} {STUDENT} {QUICK} {options}"
    return run_glue_ckd.main(command.split())


def refused(capsys, teacher, output, options):
    with pytest.raises(SystemExit) as stop:
        distill(teacher, output, options)
    assert stop.value.code == 2 and not output.exists()
    return capsys.readouterr().err


def test_equal_names_decide_however_they_are_sorted(twelve, tmp_path, caplog):
    """LABEL_10 and LABEL_11 come before LABEL_2 in the data."""
    metrics = run_teacher.main(
        f"--model_name_or_path {twelve}/teacher --output_dir {tmp_path}/e --do_eval {files(twelve)} {QUICK}".split()
    )
    assert metrics["eval_accuracy"] == 1.0
    metrics = distill(twelve / "teacher", tmp_path / "s", f"--do_train --do_eval --max_steps 60 {files(twelve)}")
    assert metrics["eval_accuracy"] == 1.0
    assert "They are matched by name" in caplog.text and "BY POSITION" not in caplog.text


def test_positions_that_are_assumed_are_said_and_may_fit(twelve, tmp_path, caplog):
    names = "abcdefghijkl"
    data = relabeled(twelve, tmp_path / "train.tsv", names)
    distill(twelve / "teacher", tmp_path / "s", f"--do_train --max_steps 2 {files(twelve, train=data)}")
    (record,) = [record for record in caplog.records if "MATCHED BY POSITION" in record.message]
    assert "'LABEL_0 is a', 'LABEL_1 is b'" in record.message and record.message.count(" is ") < 15
    assert "The teacher on 96 training examples: accuracy 1.000" in caplog.text


@pytest.mark.parametrize("way", ["--do_train", "--do_train --do_eval", "--do_train --teacher_cache_dir CACHE"])
def test_positions_that_do_not_fit_are_refused_in_every_way_of_calling(twelve, tmp_path, capsys, way):
    names = "bacdefghijkl"  # the first two come in the other order
    data = relabeled(twelve, tmp_path / "train.tsv", names)
    options = way.replace("CACHE", str(tmp_path / "cache"))
    message = refused(
        capsys, twelve / "teacher", tmp_path / "s", f"{options} {files(twelve, train=data, validation=data)}"
    )
    assert "'a' means 'b', 'b' means 'a'" in message and "accuracy is 1.000" in message
    assert not (tmp_path / "cache").exists()


def test_names_that_are_wrong_are_refused_too(twelve, tmp_path, capsys):
    model = AutoModelForSequenceClassification.from_pretrained(twelve / "teacher")
    for first, second in ((0, 5), (3, 4)):
        names = model.config.id2label
        names[first], names[second] = names[second], names[first]
    model.config.label2id = {name: index for index, name in model.config.id2label.items()}
    model.save_pretrained(tmp_path / "teacher")
    AutoTokenizer.from_pretrained(twelve / "teacher").save_pretrained(tmp_path / "teacher")
    message = refused(capsys, tmp_path / "teacher", tmp_path / "s", f"--do_train --max_steps 2 {files(twelve)}")
    assert "'LABEL_0' means 'LABEL_5'" in message and "'LABEL_4' means 'LABEL_3'" in message


def test_a_finished_cache_is_asked_in_place_of_the_teacher(twelve, tmp_path, caplog):
    cache = f"--do_train --max_steps 2 --teacher_cache_dir {tmp_path}/cache {files(twelve)}"
    for output in ("first", "second"):
        caplog.clear()
        distill(twelve / "teacher", tmp_path / output, cache + " --do_eval" * (output == "second"))
        assert "The teacher on 96 training examples: accuracy 1.000" in caplog.text


# ------------------------------------------------------------------------------------------------------------- scores


@pytest.fixture(scope="module")
def scores(tmp_path_factory):
    """A teacher whose scores are 20 x - 10 for labels x from 0 to 1."""
    folder = tmp_path_factory.mktemp("scores")
    labels = [number / 11 for number in range(12)]
    train(folder / "teacher", ["score"], labels, scale=20, shift=-10, problem_type="regression")
    rows = list(zip(WORDS, labels, strict=True))
    write(folder / "train.tsv", rows * 8)
    write(folder / "validation.tsv", rows * 2)
    return folder


@pytest.mark.parametrize("way", ["", "--do_eval", "--teacher_cache_dir CACHE"])
def test_scores_on_another_scale_are_refused_with_the_options_that_map_them(scores, tmp_path, capsys, way):
    way = way.replace("CACHE", str(tmp_path / "cache"))
    message = refused(capsys, scores / "teacher", tmp_path / "s", f"--do_train {way} --regression {files(scores)}")
    words = message.split()
    scale, shift = (
        float(words[words.index(f"--teacher_score_{name}") + 1].rstrip(",")) for name in ("scale", "shift")
    )
    assert (scale, shift) == pytest.approx((0.05, 0.5), rel=0.3)


@pytest.mark.parametrize("cache", ["", "--teacher_cache_dir CACHE"])
def test_mapped_scores_give_a_student_on_the_scale_of_the_labels(scores, tmp_path, caplog, cache):
    mapped = "--teacher_score_scale 0.05 --teacher_score_shift 0.5 --alpha 1 --temperature 1"
    options = (
        f"--do_train --do_eval --max_steps 120 --regression {mapped} {cache.replace('CACHE', str(tmp_path / 'c'))}"
    )
    metrics = distill(scores / "teacher", tmp_path / "s", f"{options} {files(scores)}")
    assert metrics["eval_rmse"] < 0.1 and metrics["eval_pearson"] > 0.95
    assert "RMSE" in caplog.text and "another scale" not in caplog.text


def test_the_smallest_error_is_the_best(scores, tmp_path):
    """`TrainingArguments` takes what is no loss for better where it is higher."""
    best = "--eval_strategy steps --eval_steps 10 --save_strategy steps --save_steps 10 --load_best_model_at_end"
    options = f"--do_train --do_eval --max_steps 40 --regression {best} --metric_for_best_model rmse {files(scores)}"
    run_teacher.main(f"--model_name_or_path {scores}/teacher --output_dir {tmp_path}/out {QUICK} {options}".split())
    state = json.loads((tmp_path / "out/trainer_state.json").read_text())
    values = [entry["eval_rmse"] for entry in state["log_history"] if "eval_rmse" in entry]
    assert state["best_metric"] == min(values[:4])


def test_a_map_of_scores_is_refused_for_classes(twelve, tmp_path, capsys):
    options = f"--do_train --teacher_score_scale 2 {files(twelve)}"
    assert "does not predict a score" in refused(capsys, twelve / "teacher", tmp_path / "s", options)
