"""`ckd-trainer augment` through its main, and a run on what it writes."""

import pyarrow.parquet as pq
import pytest
from helpers.commands import SHORT_RUN, STUDENT
from helpers.files import sentences, write_tsv
from helpers.tiny import save_tokenizer, tiny_config, tiny_model
from transformers import BertForMaskedLM

import run_glue_ckd
from ckd_trainer.commands import augment


@pytest.fixture
def masked_lm(tmp_path):
    BertForMaskedLM(tiny_config()).save_pretrained(tmp_path / "mlm")
    save_tokenizer(tmp_path / "mlm")
    return tmp_path / "mlm"


@pytest.fixture
def train(tmp_path):
    return write_tsv(tmp_path / "train.tsv", sentences(30))


def run(masked_lm, output, *options):
    augment.main(
        ["--model_name_or_path", str(masked_lm), "--output_file", str(output), *map(str, options), "--variants", "5"]
    )
    return pq.read_table(output).to_pydict()


def test_variants_of_a_file(masked_lm, train, tmp_path, monkeypatch, capsys):
    """The same from the same seed, however the examples are divided; new texts only, under the source's names."""
    rows = run(masked_lm, tmp_path / "a.parquet", "--train_file", train)
    assert rows.keys() == {"text"} and len(rows["text"]) > 60
    texts = {text for text, _ in sentences(30)}
    assert len(set(rows["text"])) == len(rows["text"]) and not texts & set(rows["text"])
    assert f"{len(rows['text'])} variants of 30 examples written to" in capsys.readouterr().out
    monkeypatch.setattr(augment, "_ROWS", 7)
    assert run(masked_lm, tmp_path / "b.parquet", "--train_file", train, "--batch_size", 3) == rows
    assert run(masked_lm, tmp_path / "c.parquet", "--train_file", train, "--seed", 1) != rows
    assert sorted(path.name for path in tmp_path.iterdir() if "parquet" in path.name) == [
        f"{n}.parquet" for n in "abc"
    ]


def test_pairs(masked_lm, tmp_path):
    pairs = [(one, other, label) for (one, label), (other, _) in zip(sentences(9), sentences(9, seed=3), strict=True)]
    path = write_tsv(tmp_path / "pairs.tsv", pairs, header=("question", "answer", "label"))
    columns = ["--text_column", "question", "--text_pair_column", "answer"]
    rows = run(masked_lm, tmp_path / "a.parquet", "--train_file", path, *columns)
    assert rows.keys() == {"question", "answer"} and len(rows["question"]) > 20


def test_vectors_for_unknown_words(masked_lm, tmp_path):
    path = write_tsv(tmp_path / "train.tsv", [("zebra", "bad"), ("giraffe", "good")] * 3)
    (tmp_path / "vectors.txt").write_text("zebra 1 0\nhorse 0.9 0.1\ngiraffe -1 0\nokapi -1 0.1\n")
    options = ["--train_file", path, "--vectors_file", tmp_path / "vectors.txt", "--candidates", "1"]
    rows = run(masked_lm, tmp_path / "a.parquet", *options)
    assert rows["text"] == ["horse", "okapi"]


def test_a_run_reads_them(masked_lm, train, tmp_path, tiny_teacher):
    rows = run(masked_lm, tmp_path / "more.parquet", "--train_file", train)
    validation = write_tsv(tmp_path / "validation.tsv", sentences(22, seed=1))
    options = ["--teacher_model_name_or_path", tiny_teacher, *STUDENT, *SHORT_RUN, "--train_file", train]
    options += ["--validation_file", validation, "--unlabeled_file", tmp_path / "more.parquet", "--do_train"]
    options += ["--max_steps", 2, "--report_to", "none", "--output_dir", tmp_path / "out"]
    assert run_glue_ckd.main([*map(str, options)])["unlabeled_samples"] == len(rows["text"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model_name_or_path", ""], "model_name_or_path is not set"),
        (["--output_file", "HERE/a.csv"], "give a name that ends in .parquet"),
        (["--output_file", "HERE/none/a.parquet"], "there is no folder"),
        (["--replace_probability", "0"], "replace_probability is 0: give a number above 0"),
        (["--variants", "0"], "variants is 0"),
        (["--output_file", "HERE/there.parquet"], "there.parquet, which exists: give another name"),
        (["--unlabeled_file", "HERE/train.tsv"], "only training texts are augmented"),
        (
            ["--text_pair_column", "b", "--group_column", "c"],
            "group_column is set, but texts without labels cannot be",
        ),
        (["--train_file", "HERE/none.tsv"], "none.tsv is missing"),
        (["--vectors_file", "HERE/none.txt"], "none.txt"),
        (["--model_name_or_path", "HERE/classifier"], "has no weights for cls"),
        (["--learning_rate", "1"], "learning_rate is not a known option"),
    ],
)
def test_mistakes(masked_lm, train, tmp_path, capsys, options, message):
    tiny_model().save_pretrained(tmp_path / "classifier")
    save_tokenizer(tmp_path / "classifier")
    (tmp_path / "there.parquet").mkdir()
    words = ["--model_name_or_path", str(masked_lm), "--output_file", str(tmp_path / "a.parquet")]
    words += ["--train_file", str(train), *(word.replace("HERE", str(tmp_path)) for word in options)]
    with pytest.raises(SystemExit) as stopped:
        augment.main(words)
    assert stopped.value.code == 2 and message in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir() if "parquet" in path.name] == ["there.parquet"]
