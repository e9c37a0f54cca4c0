"""Batches of whole groups: as many texts of each, one of them with the highest label, others in every epoch."""

import numpy as np
import pytest
from datasets import Dataset
from helpers.tiny import tiny_model
from helpers.training import examples, pad
from transformers import TrainingArguments

from ckd_trainer import CKDArguments, DistillationTrainer
from ckd_trainer.training.groups import GroupSampler, check_group_size, groups_of
from ckd_trainer.utils.errors import InputError

GROUPS = np.array([7, 3, 3, 7, 7, 3, 3, 9, 9, 9, 7, 9, 3])  # 4, 5 and 4
LABELS = np.array([0, 1, 0, 2, 1, 1, 0, 0, 0, 0, 0, 0, np.nan])


def epoch(seed, size=3):
    return np.array(list(GroupSampler(GROUPS, LABELS, size, lambda: seed))).reshape(-1, size)


@pytest.mark.parametrize("size", [2, 3, 4])
def test_each_group_once_with_one_of_its_highest(size):
    for seed in range(20):
        rows = epoch(seed, size)
        assert len(GroupSampler(GROUPS, LABELS, size, lambda: 0)) == rows.size == 3 * size
        assert (GROUPS[rows] == GROUPS[rows[:, :1]]).all() and sorted(GROUPS[rows[:, 0]]) == [3, 7, 9]
        assert len(set(rows.reshape(-1).tolist())) == rows.size
        highest = {7: [3], 3: [1, 5], 9: [7, 8, 9, 11]}
        assert all(set(own) & set(highest[GROUPS[own[0]]]) for own in rows.tolist())


def test_all_are_drawn_and_at_random():
    drawn = np.concatenate([epoch(seed, 2) for seed in range(600)])
    first = [drawn[GROUPS[drawn[:, 0]] == 3, 0], drawn[GROUPS[drawn[:, 0]] == 3, 1]]
    shares = np.bincount(np.concatenate(first), minlength=13)[[1, 2, 5, 6, 12]] / 600
    # One of the two highest, and one of the four others: 1/2 + 1/2 * 1/4, and 1/4.
    assert shares == pytest.approx([0.625, 0.25, 0.625, 0.25, 0.25], abs=0.08)
    places = [np.flatnonzero(GROUPS[epoch(seed, 2)[:, 0]] == 7)[0] for seed in range(300)]
    assert np.bincount(places) / 300 == pytest.approx([1 / 3] * 3, abs=0.11)


def test_every_seed_draws_others_and_the_same_one_the_same():
    assert len({tuple(epoch(seed).reshape(-1)) for seed in range(10)}) == 10
    assert (epoch(5) == epoch(5)).all()


def arguments(folder, **options):
    return TrainingArguments(folder, report_to="none", use_cpu=True, **options)


@pytest.mark.parametrize(
    "size, options, words",
    [
        (8, {"per_device_train_batch_size": 12}, "batches hold whole groups of 8 texts: give 8 or 16, or another"),
        (8, {"per_device_train_batch_size": 4}, "is 4, .* give 8, or another group_size"),
        (1, {}, "group_size is 1, .* give 2 or more"),
        (
            4,
            {"train_sampling_strategy": "group_by_length"},
            "train_sampling_strategy is group_by_length, .* to random",
        ),
        (4, {"train_sampling_strategy": "sequential"}, "train_sampling_strategy is sequential, .* to random"),
    ],
)
def test_options_that_would_cut_groups_are_refused(tmp_path, size, options, words):
    with pytest.raises(InputError, match=words):
        check_group_size(size, arguments(tmp_path, **options))


def test_parts_of_a_batch_are_whole_groups(tmp_path, monkeypatch):
    args = arguments(tmp_path, per_device_train_batch_size=8, accelerator_config={"split_batches": True})
    monkeypatch.setattr(TrainingArguments, "world_size", 2)
    check_group_size(4, args)
    with pytest.raises(InputError, match="groups of 8 texts in each of 2 processes: give 16, or another group_size"):
        check_group_size(8, args)


@pytest.mark.parametrize("first", [None, 16, 64])
def test_groups_are_those_of_the_training_set_that_is_trained_on(tmp_path, first):
    """A user may give it later, or replace it."""
    seen = []

    def collate(rows):
        batch = pad(rows)
        seen.append(batch["group"].tolist())
        return batch

    def grouped(count, number):
        rows = [{**row, "labels": float(place % 4 == 0)} for place, row in enumerate(examples(count))]
        return Dataset.from_list([{**row, "group": number + place // 4} for place, row in enumerate(rows)])

    run = DistillationTrainer(
        model=tiny_model(layers=2, labels=("score",)),
        ckd_args=CKDArguments.fine_tuning(),
        args=arguments(tmp_path, per_device_train_batch_size=8, num_train_epochs=1),
        train_dataset=first and grouped(first, 0),
        data_collator=collate,
        group_size=4,
    )
    run.train_dataset = grouped(32, 100)
    run.train()
    assert sorted(np.unique(np.array(seen).reshape(-1, 4), axis=0).tolist()) == [[100 + each] * 4 for each in range(8)]


def test_another_batch_size_would_cut_groups(tmp_path):
    with pytest.raises(InputError, match="auto_find_batch_size is set, .* would cut groups"):
        DistillationTrainer(
            model=tiny_model(layers=2),
            ckd_args=CKDArguments.fine_tuning(),
            args=arguments(tmp_path, auto_find_batch_size=True),
            group_size=4,
        )


def test_training_sets_that_have_no_such_groups(tmp_path):
    args = arguments(tmp_path, per_device_train_batch_size=8)
    with pytest.raises(InputError, match="not a datasets.Dataset with a column 'group'"):
        groups_of(Dataset.from_dict({"labels": [0, 1]}), 2, args)
    with pytest.raises(InputError, match="group_size is 4, but 1 of 2 groups of the training set have fewer texts"):
        groups_of(Dataset.from_dict({"group": [0] * 4 + [1] * 3}), 4, args)
    with pytest.raises(InputError, match="not whole numbers"):
        groups_of(Dataset.from_dict({"group": ["q", "q"]}), 2, args)
    with pytest.raises(InputError, match="a text has several labels"):
        groups_of(Dataset.from_dict({"group": [5, 5], "labels": [[0.0, 1.0], [1.0, 1.0]]}), 2, args)
    found = groups_of(Dataset.from_dict({"group": [5, 5]}), 2, args)  # without labels: all at random
    assert len({tuple(found.sampler(args, iter([number]).__next__)) for number in range(20)}) == 2
