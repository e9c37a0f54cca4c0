"""Fixtures that several test files share: the real data's folder, tiny models and files made on the spot."""

import os
import random
from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification, BertTokenizer, TrainingArguments

PROJECT = Path(__file__).resolve().parent.parent
ARGUMENTS = TrainingArguments("unused", use_cpu=True)
WORDS = "the a cat dog bird tree house runs sleeps sings grows good bad fine ugly very not".split()


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    torch.set_num_threads(1)  # tiny tensors: threads only cost, and bit-for-bit comparisons want one order of sums


@pytest.fixture
def rng():
    """A generator with a fresh seed, shown where a test fails; `TEST_SEED=... pytest` draws the same again."""
    seed = int(os.environ.get("TEST_SEED", random.SystemRandom().randrange(2**32)))
    print(f"TEST_SEED={seed}")
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def shared_data():
    """The folder of real GLUE and SQuAD files beside the checkout; tests that need it skip where it is missing."""
    folder = PROJECT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"needs the real data files in {folder}")
    return folder


def tiny_config(layers=4, width=32, labels=("bad", "good"), **kwargs):
    return BertConfig(
        vocab_size=5 + len(WORDS),
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=2 * width,
        max_position_embeddings=32,
        initializer_range=0.1,
        id2label=dict(enumerate(labels)),
        label2id={name: index for index, name in enumerate(labels)},
        **kwargs,
    )


def tiny_model(seed=0, **kwargs):
    torch.manual_seed(seed)
    return BertForSequenceClassification(tiny_config(**kwargs))


def save_tokenizer(folder, words=WORDS, **kwargs):
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
    BertTokenizer(vocab={word: index for index, word in enumerate(vocabulary)}, **kwargs).save_pretrained(folder)


@pytest.fixture
def tiny_teacher(tmp_path):
    """A folder with a random 4-layer teacher of the labels bad and good, and its tokenizer."""
    folder = tmp_path / "teacher"
    tiny_model().save_pretrained(folder)
    save_tokenizer(folder)
    return folder


def sentences(count, seed=0):
    """Sentences that are good or bad by one word in them."""
    draw = random.Random(seed)
    rows = []
    for index in range(count):
        words = draw.choices([word for word in WORDS if word not in ("good", "bad")], k=draw.randint(2, 12))
        label = ("bad", "good")[index % 2]
        words.insert(draw.randint(0, len(words)), label)
        rows.append((" ".join(words), label))
    return rows


def write_tsv(path, rows, header=("text", "label")):
    path.write_text("\n".join("\t".join(row) for row in (header, *rows)) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def text_files(tmp_path):
    """The options that name a training, validation and test file of good and bad sentences."""
    train = write_tsv(tmp_path / "train.tsv", sentences(96))
    validation = write_tsv(tmp_path / "validation.tsv", sentences(22, seed=1))
    test = write_tsv(tmp_path / "test.tsv", [row[:1] for row in sentences(13, seed=2)], header=("text",))
    return ["--train_file", str(train), "--validation_file", str(validation), "--test_file", str(test)] + [
        "--max_seq_length",
        "32",
    ]
