"""Masks: 80/10/10 within binomial bounds, drawn from the seed, the epoch and the block alone."""

import math
import pickle

import pytest
import torch
from helpers.files import WORDS
from helpers.tiny import save_tokenizer
from transformers import AutoTokenizer

from ckd_trainer.data.masking import NUMBER, MaskingCollator
from ckd_trainer.heads import Vocabulary
from ckd_trainer.utils.errors import InputError


@pytest.fixture
def tokenizer(tmp_path):
    save_tokenizer(tmp_path / "tokenizer", [f"w{index}" for index in range(5000)])
    return AutoTokenizer.from_pretrained(tmp_path / "tokenizer")


def blocks(tokenizer, count=64, length=100, seed=0):
    draw = torch.Generator().manual_seed(seed)
    words = torch.randint(5, 5005, (count, length), generator=draw).tolist()
    return [{"input_ids": [tokenizer.cls_token_id, *row, tokenizer.sep_token_id]} for row in words]


def within(count, total, share):
    """Whether a count is within five standard deviations of a binomial's mean."""
    return abs(count - share * total) < 5 * math.sqrt(total * share * (1 - share))


def test_80_10_10(tokenizer):
    rows = blocks(tokenizer)
    batch = MaskingCollator(tokenizer, 0.15, seed=0)(rows)
    original = torch.tensor([row["input_ids"] for row in rows])
    ids, labels = batch["input_ids"], batch["labels"]
    special = torch.isin(original, torch.tensor(tokenizer.all_special_ids))
    chosen = labels != -100
    assert not (chosen & special).any()
    assert torch.equal(labels[chosen], original[chosen])
    assert torch.equal(ids[~chosen], original[~chosen])
    total = int(chosen.sum())
    assert within(total, int((~special).sum()), 0.15)
    is_mask = ids[chosen] == tokenizer.mask_token_id
    same = ids[chosen] == original[chosen]
    assert within(int(is_mask.sum()), total, 0.8)
    assert within(int(same.sum()), total, 0.1)
    assert within(int((~is_mask & ~same).sum()), total, 0.1)
    others = ids[chosen & (ids != original) & (ids != tokenizer.mask_token_id)]
    assert not torch.isin(others, torch.tensor(tokenizer.all_special_ids)).any()
    assert len(others.unique()) > 0.9 * len(others)  # from all of the vocabulary


def test_masks_follow_from_seed_epoch_and_block(tokenizer):
    rows = blocks(tokenizer, count=6)
    collate = MaskingCollator(tokenizer, 0.15, seed=3)
    whole = collate(rows)
    torch.manual_seed(99)  # no other random numbers matter
    parts = [collate(rows[:1]), collate(rows[1:4]), collate(rows[4:])]
    for name, values in whole.items():
        assert torch.equal(torch.cat([part[name] for part in parts]), values)
    assert torch.equal(pickle.loads(pickle.dumps(collate))(rows)["input_ids"], whole["input_ids"])

    def masked(seed, epoch):
        other = MaskingCollator(tokenizer, 0.15, seed=seed)
        other.epoch = epoch
        return other(rows)["labels"]

    assert torch.equal(masked(3, 0), whole["labels"])
    assert torch.equal(masked(3, None), masked(4, None))  # those of a validation set
    seen = [masked(3, 0), masked(3, 1), masked(4, 0), masked(3, None)]
    assert not any(torch.equal(one, other) for index, one in enumerate(seen) for other in seen[:index])


def test_a_block_without_a_chosen_token_has_one_masked(tokenizer):
    """At this probability all are such blocks. Each of their words is as likely, and the law stays 80/10/10."""
    rows = blocks(tokenizer, count=3000, length=5)
    batch = MaskingCollator(tokenizer, 1e-9, seed=0)(rows)
    original = torch.tensor([row["input_ids"] for row in rows])
    chosen, ids = batch["labels"] != -100, batch["input_ids"]
    assert (chosen.sum(1) == 1).all()
    places = chosen.sum(0).tolist()
    assert places[0] == places[-1] == 0 and all(within(count, len(rows), 1 / 5) for count in places[1:-1])
    assert within(int((ids == tokenizer.mask_token_id).sum()), len(rows), 0.8)
    assert within(int((ids[chosen] == original[chosen]).sum()), len(rows), 0.1)
    assert int(Vocabulary().logit_count(batch)) == len(rows)
    again = MaskingCollator(tokenizer, 1e-9, seed=0)(rows[1000:1001])
    assert torch.equal(again["labels"][0], batch["labels"][1000])


def test_a_block_without_a_word_stays_as_it_is(tokenizer):
    ids = [tokenizer.cls_token_id, tokenizer.unk_token_id, tokenizer.sep_token_id]
    batch = MaskingCollator(tokenizer, 0.5, seed=0)([{"input_ids": ids}])
    assert batch["input_ids"].tolist() == [ids] and batch["labels"].tolist() == [[-100] * 3]


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_is_not_masked(tokenizer, side):
    tokenizer.padding_side = side
    rows = [{"input_ids": blocks(tokenizer, 1, length=size)[0]["input_ids"]} for size in (4, 60)]
    batch = MaskingCollator(tokenizer, 0.9, seed=0)(rows)
    padding = batch["attention_mask"] == 0
    assert int(padding.sum()) == 56
    assert (batch["labels"][padding] == -100).all()
    assert (batch["input_ids"][padding] == tokenizer.pad_token_id).all()
    alone = MaskingCollator(tokenizer, 0.9, seed=0)(rows[:1])
    assert torch.equal(batch["input_ids"][0][~padding[0]], alone["input_ids"][0])


def test_without_masks(tokenizer):
    rows = blocks(tokenizer, 3)
    batch = MaskingCollator(tokenizer, 0.0, seed=0)(rows)
    assert batch["input_ids"].tolist() == [row["input_ids"] for row in rows]
    assert batch.keys() == {"input_ids", "attention_mask"}
    masked = MaskingCollator(tokenizer, 0.15, seed=0, gives_labels=False)(rows)
    assert masked.keys() == {"input_ids", "attention_mask"}
    assert (masked["input_ids"] == tokenizer.mask_token_id).any()


def test_fixed_length(tokenizer):
    batch = MaskingCollator(tokenizer, 0.15, seed=0, length=128)(blocks(tokenizer, 2))
    assert {value.shape for value in batch.values()} == {(2, 128)}


def test_a_tokenizer_without_a_mask_token(tmp_path):
    save_tokenizer(tmp_path, WORDS)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    tokenizer.mask_token = None
    MaskingCollator(tokenizer, 0.0, seed=0)
    with pytest.raises(InputError, match="the tokenizer has no mask token"):
        MaskingCollator(tokenizer, 0.15, seed=0)


def test_masks_of_a_stream_follow_from_the_number_of_a_block(tokenizer):
    row = blocks(tokenizer, count=1)[0]
    collate = MaskingCollator(tokenizer, 0.15, seed=3)
    numbered = [row | {NUMBER: number} for number in range(4)]
    whole = collate(numbered)
    assert NUMBER not in whole and len({tuple(ids) for ids in whole["input_ids"].tolist()}) == 4
    collate.epoch = 1
    again = [collate([numbered[number]])["input_ids"][0] for number in (3, 0)]
    assert torch.equal(again[0], whole["input_ids"][3]) and torch.equal(again[1], whole["input_ids"][0])
    other = MaskingCollator(tokenizer, 0.15, seed=4)(numbered)
    assert not torch.equal(other["input_ids"], whole["input_ids"])
