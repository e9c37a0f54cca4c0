"""Fixtures that several test files share: the real data's folder, a tiny teacher, and files made on the spot."""

import gc
import os
import random
import shutil

import pytest
from helpers.files import PROJECT, sentences, write_tsv

# torch is imported in the functions: pytest-xdist loads this file in one more process, which runs no test.


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    import torch

    torch.set_num_threads(1)  # tiny tensors: threads only cost, and bit-for-bit comparisons want one order of sums


@pytest.fixture(autouse=True, scope="session")
def less_garbage_collection():
    gc.freeze()  # each training collects garbage: with the million objects of torch, that takes most of a second
    gc.set_threshold(20_000)  # by default at every 700 new objects, which takes a tenth of the time of a training


@pytest.fixture(autouse=True, scope="session")
def short_measurements():
    from ckd_trainer.runs.results import model_facts

    model_facts.__defaults__ = (3,)  # times the model 3 times instead of 30, after each of hundreds of evaluations


@pytest.fixture
def rng():
    """A generator with a fresh seed, shown where a test fails; `TEST_SEED=... pytest` draws the same again."""
    import torch

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


@pytest.fixture(scope="session")
def tiny_teacher_once(tmp_path_factory):
    from helpers.tiny import save_tokenizer, tiny_model

    folder = tmp_path_factory.mktemp("tiny") / "teacher"
    tiny_model().save_pretrained(folder)
    save_tokenizer(folder)
    return folder


@pytest.fixture
def tiny_teacher(tiny_teacher_once, tmp_path):
    """A folder with a random 4-layer teacher of the labels bad and good, and its tokenizer."""
    return shutil.copytree(tiny_teacher_once, tmp_path / "teacher")


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


@pytest.fixture
def unmeasured(monkeypatch):
    """Leaves the gradients of terms unmeasured, which takes most of the time of a short run; all scales are 1."""
    from ckd_trainer.training.balance import TermBalance

    monkeypatch.setattr(TermBalance, "is_due", lambda self, step: False)
