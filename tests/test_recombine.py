"""`ckd-trainer recombine` through its main, and a run on what it writes."""

import pyarrow.parquet as pq
import pytest
from datasets import Dataset
from helpers.commands import SHORT_RUN, STUDENT
from helpers.files import sentences, write_tsv

import run_glue_ckd
from ckd_trainer.commands import recombine

COLUMNS = ["--text_column", "question", "--text_pair_column", "answer"]


def pairs_file(path, count, seed=0):
    pairs = zip(sentences(count, seed=seed), sentences(count, seed=seed + 50), strict=True)
    rows = [(one, other, label) for (one, label), (other, _) in pairs]
    return write_tsv(path, rows, header=("question", "answer", "label"))


def run(output, *options):
    recombine.main([*map(str, options), "--output_file", str(output)])
    return pq.read_table(output).to_pydict()


@pytest.fixture
def train(tmp_path):
    return pairs_file(tmp_path / "train.tsv", 30)


def test_pairs_of_a_file(train, tmp_path, monkeypatch, capsys):
    rows = run(tmp_path / "a.parquet", "--train_file", train, *COLUMNS)
    assert rows.keys() == {"question", "answer"} and 60 < len(rows["question"]) <= 90
    assert f"{len(rows['question'])} new pairs out of 30 written to" in capsys.readouterr().out
    monkeypatch.setattr(recombine, "_TEXTS", 7)
    assert run(tmp_path / "b.parquet", "--train_file", train, *COLUMNS) == rows
    assert run(tmp_path / "c.parquet", "--train_file", train, *COLUMNS, "--seed", 1) != rows
    more = run(tmp_path / "d.parquet", "--train_file", train, *COLUMNS, "--neighbors", 4, "--random_pairs", 0)
    assert len(more["question"]) > len(rows["question"])


def test_blank_texts_make_no_pairs(train, tmp_path, caplog):
    lines = train.read_text().splitlines()
    blank = [" \t" + lines[1].split("\t", 1)[1], lines[2].split("\t")[0] + "\t\tgood"]
    (tmp_path / "blank.tsv").write_text("\n".join([*lines, *blank]) + "\n")
    rows = run(tmp_path / "a.parquet", "--train_file", tmp_path / "blank.tsv", *COLUMNS)
    assert all(text.strip() for text in [*rows["question"], *rows["answer"]])
    assert rows == run(tmp_path / "b.parquet", "--train_file", train, *COLUMNS)
    assert "1 of 32 texts ('question') is blank; the first is that of line 32." in caplog.text
    (tmp_path / "none.tsv").write_text("question\tanswer\nx\t \n \ty\n")
    with pytest.raises(SystemExit):
        run(tmp_path / "c.parquet", "--train_file", tmp_path / "none.tsv", *COLUMNS)


def test_labels_are_not_needed(train, tmp_path):
    """Neither in a file nor in a data set, whatever the options say about them."""
    rows = run(tmp_path / "a.parquet", "--train_file", train, *COLUMNS)
    texts = [line.split("\t")[:2] for line in train.read_text().splitlines()]
    bare = write_tsv(tmp_path / "bare.tsv", texts[1:], header=texts[0])
    assert run(tmp_path / "b.parquet", "--train_file", bare, *COLUMNS) == rows
    assert run(tmp_path / "c.parquet", "--train_file", bare, *COLUMNS, "--multi_label") == rows
    Dataset.from_dict(dict(zip(texts[0], zip(*texts[1:], strict=True), strict=True))).save_to_disk(tmp_path / "saved")
    assert run(tmp_path / "d.parquet", "--dataset_name", tmp_path / "saved", *COLUMNS) == rows


def test_a_run_reads_them(train, tmp_path, tiny_teacher):
    rows = run(tmp_path / "more.parquet", "--train_file", train, *COLUMNS)
    options = ["--teacher_model_name_or_path", tiny_teacher, *STUDENT, *SHORT_RUN, "--train_file", train, *COLUMNS]
    options += ["--validation_file", pairs_file(tmp_path / "validation.tsv", 22, seed=1)]
    options += ["--unlabeled_file", tmp_path / "more.parquet", "--do_train", "--max_steps", 2]
    options += ["--report_to", "none", "--output_dir", tmp_path / "out"]
    assert run_glue_ckd.main([*map(str, options)])["unlabeled_samples"] == len(rows["question"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--neighbors", "-1"], "neighbors is -1: give 0 or more."),
        (["--neighbors", "0", "--random_pairs", "0"], "both 0, so there are no pairs to make"),
        (["--seed", "-1"], "seed is -1: give 0 or more."),
        (["--output_file", "a.csv"], "give a name that ends in .parquet"),
        (["--output_file", "HERE/train.parquet"], "which exists"),
        (["--text_pair_column", "reply"], "has no column 'reply'"),
        (["--group_column", "question"], "group_column"),
        (["--validation_file", "HERE/train.tsv"], "only training texts are paired"),
    ],
)
def test_bad_input_is_one_message_and_no_file(train, tmp_path, capsys, options, message):
    (tmp_path / "train.parquet").touch()
    before = sorted(tmp_path.iterdir())
    given = ["--output_file", tmp_path / "a.parquet", "--train_file", train, *COLUMNS, *options]
    with pytest.raises(SystemExit) as end:
        recombine.main([str(option).replace("HERE", str(tmp_path)) for option in given])
    said = capsys.readouterr().err
    assert end.value.code == 2 and message in said and "Traceback" not in said
    assert sorted(tmp_path.iterdir()) == before


def test_single_texts_are_refused(train, tmp_path, capsys):
    for options in (["--train_file", train, "--text_column", "question"], ["--task_name", "sst2"]):
        with pytest.raises(SystemExit):
            run(tmp_path / "a.parquet", *options)
        assert "but only pairs are recombined" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        run(tmp_path / "a.parquet", *COLUMNS)
    assert "there is no data to use" in capsys.readouterr().err


def test_no_new_pair_is_a_mistake(tmp_path, capsys):
    """Without a common word; no file is left."""
    rows = [("one", "two", "good"), ("three", "four", "bad")]
    path = write_tsv(tmp_path / "train.tsv", rows, header=("question", "answer", "label"))
    with pytest.raises(SystemExit):
        run(tmp_path / "a.parquet", "--train_file", path, *COLUMNS, "--random_pairs", 0)
    assert "no new pair can be made of these texts" in capsys.readouterr().err
    assert [one.name for one in tmp_path.iterdir()] == ["train.tsv"]
