"""Batches of similar length: each example once, as little padding as transformers' sampler, in random order."""

import numpy as np
import pytest
import torch
from helpers.tiny import tiny_model
from helpers.training import examples, trainer
from scipy.stats import spearmanr
from transformers.trainer_pt_utils import LengthGroupedSampler as InOrderOfLength

from ckd_trainer import CKDArguments, DistillationTrainer
from ckd_trainer.training.sampling import LengthGroupedSampler, seed_of_epoch


class Sized(torch.utils.data.IterableDataset):
    def __init__(self, rows):
        self.rows = rows

    def __iter__(self):
        return iter(self.rows)

    def __len__(self):
        return len(self.rows)


def test_iterable_training_sets_with_a_length(tmp_path):
    rows = Sized(list(examples(24)))
    control = CKDArguments.fine_tuning()
    run = trainer(DistillationTrainer, tmp_path, tiny_model(layers=2), steps=3, train=rows, ckd_args=control)
    run.train()
    assert run.num_examples(run.get_train_dataloader()) == 24 and "eval_loss" in run.evaluate()


def batches_of(sampler, size):
    rows = list(sampler)
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def padded(batches, lengths):
    """Returns padded tokens per real one."""
    return sum(len(batch) * lengths[batch].max() for batch in batches) / lengths.sum()


@pytest.mark.parametrize(
    "count, size", [(1, 1), (1, 4), (3, 4), (4, 4), (5, 4), (15, 4), (16, 4), (33, 4), (1000, 4), (1003, 4), (70, 1)]
)
def test_each_example_once(count, size, rng):
    lengths = torch.randint(1, 40, (count,), generator=rng).tolist()
    sampler = LengthGroupedSampler(lengths, size, lambda: 5)
    rows = list(sampler)
    assert len(sampler) == count and sorted(rows) == list(range(count))
    whole = rows[: count // size * size] or rows
    assert max(lengths[row] for row in whole) in [lengths[row] for row in rows[:size]]
    assert list(sampler) == rows


def test_batches_are_in_random_order(rng):
    """Over an epoch of 300 batches, neighbors' lengths are unrelated; in transformers' order they are nearly equal."""
    lengths = torch.randint(1, 100, (1200,), generator=rng).numpy()

    def relation(sampler):
        means = [lengths[batch].mean() for batch in batches_of(sampler, 4)]
        return spearmanr(means[1:-1], means[2:]).statistic

    assert relation(InOrderOfLength(4, lengths=lengths.tolist(), generator=rng)) > 0.8
    assert abs(relation(LengthGroupedSampler(lengths, 4, lambda: 5))) < 0.25  # 4 standard errors


@pytest.mark.parametrize("count", [1200, 1203])
def test_no_more_padding_than_in_order_of_length(count, rng):
    lengths = torch.randint(1, 100, (count,), generator=rng).numpy()
    theirs = padded(batches_of(InOrderOfLength(4, lengths=lengths.tolist(), generator=rng), 4), lengths)
    ours = padded(batches_of(LengthGroupedSampler(lengths, 4, lambda: 5), 4), lengths)
    at_random = padded(np.split(np.random.default_rng(0).permutation(1200), 300), lengths)
    assert ours < theirs + 0.02 and ours < 1.1 < at_random


def test_the_batch_that_is_not_full_may_have_any_length():
    """Were it always the shortest, `dataloader_drop_last` would leave the shortest texts out of training."""
    lengths = np.arange(1, 43)
    last = [lengths[batches_of(LengthGroupedSampler(lengths, 4, iter([seed]).__next__), 4)[-1]] for seed in range(200)]
    assert all(len(batch) == 2 for batch in last)
    means = np.array([batch.mean() for batch in last])
    assert means.min() < 10 and means.max() > 33 and abs(means.mean() - 21.5) < 4


def test_every_epoch_and_seed_draws_other_batches():
    epochs = [(seed, epoch) for seed in (1, 2) for epoch in (0, 1)]
    seeds = iter([seed_of_epoch(*which) for which in epochs])
    sampler = LengthGroupedSampler(range(1, 41), 4, seeds.__next__)
    assert len({tuple(sampler) for _ in epochs}) == 4  # also seed 1 in epoch 1 and seed 2 in epoch 0
    assert seed_of_epoch(-1, 0) >= 0
