"""Blocks hold every token of a text once, and are made once for each text, tokenizer and way of cutting."""

import itertools
import random

import datasets
import pytest
from datasets import Dataset
from helpers.files import WORDS
from helpers.tiny import save_tokenizer
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from ckd_trainer.data import blocks as module
from ckd_trainer.data.blocks import BlockOptions, Packer, blocks_of
from ckd_trainer.data.documents import Part
from ckd_trainer.data.table import Table
from ckd_trainer.data.text_arguments import TextSource
from ckd_trainer.utils.errors import InputError


@pytest.fixture
def tokenizer(tmp_path):
    save_tokenizer(tmp_path / "tokenizer")
    return AutoTokenizer.from_pretrained(tmp_path / "tokenizer")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "ckd-trainer-blocks"


def paragraphs(count, seed=0, ends=""):
    draw = random.Random(seed)
    return [" ".join(draw.choices(WORDS, k=draw.randint(1, 30))) + ends for _ in range(count)]


def packed(tokenizer, texts, begins, length, parts=1, **options):
    packer = Packer(tokenizer, BlockOptions(length, **options))
    size = -(-len(texts) // parts)
    found = []
    for start in range(0, len(texts), size):
        found += packer.add(texts[start : start + size], begins[start : start + size])
    return [*found, *packer.rest()]


@pytest.mark.parametrize("length", [3, 8, 17, 5000])
@pytest.mark.parametrize("parts", [1, 7])
def test_every_token_once(tokenizer, length, parts):
    texts = paragraphs(40)
    begins = [index % 3 == 0 for index in range(40)]
    found = packed(tokenizer, texts, begins, length, parts)
    cls, sep = tokenizer.cls_token_id, tokenizer.sep_token_id
    assert all(block[0] == cls and block[-1] == sep for block in found)
    assert all(len(block) == length for block in found[:-1]) and 2 < len(found[-1]) <= length
    expected = []  # one sequence, with separators between documents
    for text, begin in zip(texts, begins, strict=True):
        expected += [sep] * (begin and bool(expected)) + tokenizer(text, add_special_tokens=False)["input_ids"]
    assert list(itertools.chain.from_iterable(block[1:-1] for block in found)) == expected


def test_by_hand(tokenizer):
    found = packed(tokenizer, ["the a cat", "dog bird tree"], [True, True], 6)
    assert [tokenizer.decode(block) for block in found] == ["[CLS] the a cat [SEP] [SEP]", "[CLS] dog bird tree [SEP]"]


def test_whole_sentences(tokenizer):
    text = ["the cat runs. the dog sings! a bird?", "not. " + "the " * 12 + "end. tree."]
    # Marks are unknown words here: one token each.
    found = packed(tokenizer, text, [True, True], 10, keep_sentences=True)
    words = [tokenizer.convert_ids_to_tokens(block)[1:-1] for block in found]
    unknown = "[UNK]"
    assert words == [
        ["the", "cat", "runs", unknown, "the", "dog", "sings", unknown],
        ["a", "bird", unknown, "[SEP]", "not", unknown],
        ["the"] * 8,  # a sentence that is longer than a block is cut
        ["the"] * 4 + [unknown, unknown, "tree", unknown],
    ]


def test_whole_sentences_lose_nothing(tokenizer):
    texts = paragraphs(30, ends=". ") + ['he said "no!" and left. (really.) yes', "你好。再见！", "3.5 e.g. x"]
    whole = packed(tokenizer, texts, [True] * len(texts), 12, keep_sentences=True)
    full = packed(tokenizer, texts, [True] * len(texts), 12)
    special = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}

    def tokens(found):
        return [token for block in found for token in block if token not in special]

    assert tokens(whole) == tokens(full)
    assert max(map(len, whole)) <= 12


@pytest.mark.parametrize(
    "text, expected",
    [
        ('He said "no!" And left. Then', ['He said "no!"', " And left.", " Then"]),
        ("3.5 is more... (Yes.) Ok?! ", ["3.5 is more...", " (Yes.)", " Ok?!"]),
        ("你好。再见！好", ["你好。", "再见！", "好"]),
        ("none", ["none"]),
    ],
)
def test_sentences(text, expected):
    assert module._sentences(text) == expected


def test_a_tokenizer_without_special_tokens(tokenizer):
    backend = tokenizer.backend_tokenizer
    backend.post_processor = None
    bare = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]")
    found = packed(bare, ["the a cat", "dog bird tree"], [True, True], 4)
    assert [bare.decode(block) for block in found] == ["the a cat dog", "bird tree"]


@pytest.mark.parametrize("keep_sentences", [False, True])
def test_spaces_for_tokenizers_of_bytes(keep_sentences):
    """A paragraph or a sentence inside a document begins with a space, as in one piece."""
    backend = Tokenizer(models.BPE(unk_token="?"))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(["a"], trainers.BpeTrainer(initial_alphabet=alphabet, show_progress=False))
    bare = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="?", sep_token="#")
    texts = ["The cat runs. The dog sings!", "A bird.", "New document."]
    found = packed(bare, texts, [True, False, True], 1000, keep_sentences=keep_sentences)
    whole = bare("The cat runs. The dog sings! A bird.")["input_ids"]
    assert found == [[*whole, bare.sep_token_id, *bare("New document.")["input_ids"]]]


@pytest.mark.parametrize("length", [1, 2])
def test_no_room_for_a_token(tokenizer, length):
    with pytest.raises(InputError, match=f"max_seq_length is {length}, but a block has 2 special tokens: give 3"):
        Packer(tokenizer, BlockOptions(length))


def test_slices(tokenizer, monkeypatch):
    texts, begins = paragraphs(30), [True, False] * 15
    expected = packed(tokenizer, texts, begins, 9)
    monkeypatch.setattr(module, "_SLICE", 50)
    slices = list(module.slices(Part(texts, begins, 1)))
    assert len(slices) > 5
    packer = Packer(tokenizer, BlockOptions(9))
    assert [block for part in slices for block in packer.add(*part)] + list(packer.rest()) == expected


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("\n".join(paragraphs(50)))
    return TextSource(train_file=str(path))


def test_blocks_are_kept(source, tokenizer, cache, monkeypatch):
    first = blocks_of(source, tokenizer, BlockOptions(16))
    expected = packed(tokenizer, source.path.read_text().split("\n"), [True] + [False] * 49, 16)
    assert first["input_ids"][:] == expected
    assert first.cache_files  # memory-mapped
    monkeypatch.setattr(module, "Packer", None)  # is not called again
    tokenizer("the cat", truncation=True, max_length=3, padding="max_length")  # leaves its options in the tokenizer
    again = blocks_of(source, tokenizer, BlockOptions(16))
    assert again["input_ids"][:] == expected
    assert len(list(cache.glob("*.arrow"))) == 1 and not list(cache.glob("*.tmp"))


def test_what_changes_blocks(source, tokenizer, cache, tmp_path):
    def files(**changes):
        own, options = changes.pop("tokenizer", tokenizer), changes.pop("options", BlockOptions(16))
        blocks_of(changes.pop("source", source), own, options, **changes)
        return len(list(cache.glob("*.arrow")))

    assert files() == 1
    assert files(options=BlockOptions(17)) == 2
    assert files(options=BlockOptions(16, keep_sentences=True)) == 3
    assert files(source=TextSource(train_file=source.train_file, lines="documents")) == 4
    save_tokenizer(tmp_path / "other", [*WORDS[1:], WORDS[0]])
    assert files(tokenizer=AutoTokenizer.from_pretrained(tmp_path / "other")) == 5
    source.path.write_text(source.path.read_text() + "\nthe")
    assert files() == 6
    data = Dataset.from_dict({"text": paragraphs(50)})
    table = Table(data, "set", range(1, 51), unit="row")
    assert files(source=TextSource(dataset_name="set"), table=table) == 7
    assert files(source=TextSource(dataset_name="set"), table=table) == 7
    for count, suffix in enumerate((".tsv", ".csv", ".txt"), start=8):  # the same bytes, read in other ways
        path = tmp_path / f"table{suffix}"
        path.write_text("text\tother\n" + "the cat\truns\n" * 50)
        assert files(source=TextSource(train_file=str(path))) == count
    assert files(source=TextSource(train_file=str(tmp_path / "table.tsv"), text_column="other")) == 11
    assert (
        files(source=TextSource(train_file=str(tmp_path / "table.tsv")), options=BlockOptions(16, quoting="csv")) == 12
    )


def test_a_text_shorter_than_a_block(tmp_path, tokenizer, cache):
    path = tmp_path / "short.txt"
    path.write_text("the cat")
    with pytest.raises(InputError, match="has 2 tokens, but a block holds 14"):
        blocks_of(TextSource(train_file=str(path)), tokenizer, BlockOptions(16))
    assert not list(cache.glob("*.arrow"))
    assert len(blocks_of(TextSource(train_file=str(path)), tokenizer, BlockOptions(4))) == 1


def test_a_mistake_late_in_the_text(tmp_path, tokenizer, cache):
    path = tmp_path / "text.txt"
    path.write_bytes("\n".join(paragraphs(50)).encode() + b"\n\xff")
    for _ in range(2):
        with pytest.raises(InputError, match="line 51: not UTF-8"):
            blocks_of(TextSource(train_file=str(path)), tokenizer, BlockOptions(16))
        assert not list(cache.glob("*.tmp"))
    path.write_text("\n".join(paragraphs(50)))
    assert len(blocks_of(TextSource(train_file=str(path)), tokenizer, BlockOptions(16))) > 10
