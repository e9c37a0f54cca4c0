"""Examples without labels in the trainer: which are drawn, and that they count in every term but the task loss."""

import collections

import numpy as np
import pytest
import torch
from datasets import Dataset, Value
from helpers.tiny import no_dropout, tiny_model
from helpers.training import ALL_TERMS, CONTROL, examples, logs, pad, trainer
from transformers import set_seed

from ckd_trainer import CKDArguments, DistillationTrainer
from ckd_trainer.heads import Score
from ckd_trainer.training.sampling import MixedSampler
from ckd_trainer.training.unlabeled import lengths_of, mixed
from ckd_trainer.utils.errors import InputError


def sampler(labeled, unlabeled, sizes, epoch=0, lengths=None, seed=0):
    rows = np.arange(labeled, labeled + unlabeled)
    return MixedSampler(labeled, rows, sizes=sizes, seed=seed, epoch=lambda: epoch, lengths=lengths)


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize(
    ("labeled", "unlabeled", "sizes"),
    [(12, 100, (4, 4)), (13, 100, (4, 4)), (400, 7, (6, 2)), (3, 50, (4, 12)), (401, 1000, (1, 1)), (1, 1, (1, 7))],
)
def test_each_labeled_example_once_and_each_step_alike(labeled, unlabeled, sizes, grouped):
    lengths = np.random.default_rng(0).integers(1, 50, labeled + unlabeled) if grouped else None
    drawn = sampler(labeled, unlabeled, sizes, lengths=lengths)
    rows = list(drawn)
    assert len(rows) == len(drawn) and list(drawn) == rows
    assert sorted(row for row in rows if row < labeled) == list(range(labeled))
    size = sum(sizes)
    for start in range(0, labeled // sizes[0] * size, size):
        step = rows[start : start + size]
        assert sum(row < labeled for row in step) == sizes[0]
    rest = labeled % sizes[0]
    assert len(rows) % size == (rest + round(rest * sizes[1] / sizes[0])) % size


@pytest.mark.parametrize("grouped", [False, True])
def test_unlabeled_examples_go_round(grouped):
    """Over many epochs none comes again before all have come, in another order each time."""
    labeled, unlabeled, lengths = 10, 23, np.arange(33) if grouped else None
    drawn = [
        row for epoch in range(46) for row in sampler(labeled, unlabeled, (2, 3), epoch, lengths) if row >= labeled
    ]
    assert len(drawn) == 46 * 15 == 30 * 23
    counts = collections.Counter(drawn)
    assert set(counts.values()) == {30} and len(counts) == 23
    orders = {tuple(drawn[start : start + 23]) for start in range(0, len(drawn), 23)}
    assert len(orders) == 30


def test_steps_are_of_similar_length(rng):
    lengths = torch.randint(1, 100, (3000,), generator=rng).numpy()

    def padding(rows):
        steps = np.array(rows).reshape(-1, 8)
        return (lengths[steps].max(1) * 8).sum() / lengths[steps].sum()

    grouped, mixed_up = (list(sampler(1000, 2000, (4, 4), lengths=given)) for given in (lengths, None))
    assert padding(grouped) < 1.1 < 1.5 < padding(mixed_up)
    assert max(lengths[row] for row in grouped[:8]) == lengths[grouped].max()  # out of memory shows at once


def test_batches_of_a_step_have_about_the_same_share():
    rows = np.array(list(sampler(64, 1000, (16, 48)))).reshape(-1, 8)
    assert ((rows < 64).sum(1) == 2).all()


def unlabeled(count=40, seed=7):
    return examples(count, seed).remove_columns("labels")


def distiller(folder, *, train=None, rows=None, options=None, ckd_args=None, **kwargs):
    teacher, student = no_dropout(seed=1), no_dropout(layers=2, seed=2)
    set_seed(0)
    return trainer(
        DistillationTrainer,
        folder,
        student,
        teacher_model=teacher,
        train=train,
        unlabeled_dataset=rows,
        options={"max_grad_norm": 0.0, "optim": "sgd"} | (options or {}),
        ckd_args=ckd_args or CKDArguments(**ALL_TERMS, term_balance="none"),
        **kwargs,
    )


def batch_of(run):
    """Returns the rows of the first step."""
    return list(run._get_train_sampler(run.train_dataset))[: run.args.train_batch_size]


def test_they_count_in_all_terms_but_the_task_loss(tmp_path):
    """A step on labeled and unlabeled examples, against each term of a run on the same batch, labeled throughout."""
    run = distiller(tmp_path / "mixed", rows=unlabeled())
    step = batch_of(run)
    run.train()
    mine = logs(run)[0]
    rows = run.train_dataset.select(step)
    assert sum(label == -100 for label in rows["labels"]) == 4

    def first(data, **ckd):
        other = distiller(
            tmp_path / "other",
            train=data,
            options={"train_sampling_strategy": "sequential", "per_device_train_batch_size": len(data)},
            ckd_args=CKDArguments(**(ALL_TERMS | ckd), term_balance="none"),
        )
        other.train()
        return logs(other)[0]

    labeled = first(rows.filter(lambda row: row["labels"] != -100))
    whole = first(rows.map(lambda row: {"labels": 0}))
    assert mine["loss_task"] == pytest.approx(labeled["loss_task"], rel=1e-5)
    for term in ("logits", "wr_distance", "wr_angle", "ltr_distance", "ltr_angle"):
        assert mine[f"loss_{term}"] == pytest.approx(whole[f"loss_{term}"], rel=1e-5)
    assert mine["loss_task"] != pytest.approx(whole["loss_task"], rel=1e-3)


@pytest.mark.parametrize("strategy", [pytest.param("random", marks=pytest.mark.slow), "group_by_length"])
def test_however_a_step_is_cut(tmp_path, strategy):
    """1 x 8 and 4 x 2 examples train alike, over more than an epoch."""
    found = []
    for size in (8, 2):
        run = distiller(
            tmp_path / str(size),
            train=examples(15),
            rows=unlabeled(),
            steps=7,
            options={
                "per_device_train_batch_size": size,
                "gradient_accumulation_steps": 8 // size,
                "train_sampling_strategy": strategy,
            },
        )
        run.train()
        found.append((logs(run), {name: value.detach() for name, value in run.model.named_parameters()}))
    (one, weights), (four, others) = found
    for ours, theirs in zip(one, four, strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-4)
    for name, value in weights.items():
        torch.testing.assert_close(value, others[name], rtol=1e-4, atol=1e-6)


def test_resumed_it_draws_the_same(tmp_path):
    options = {"save_steps": 3, "save_strategy": "steps"}
    whole = distiller(tmp_path / "whole", train=examples(15), rows=unlabeled(), steps=9, options=options)
    whole.train()
    again = distiller(tmp_path / "whole", train=examples(15), rows=unlabeled(), steps=9, options=options)
    again.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-3"))
    for one, other in zip(whole.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_without_a_term_they_are_left_out(tmp_path):
    """The control run trains on the labels alone: as if there were no others, bit for bit."""
    runs = []
    for name, rows in (("with", unlabeled()), ("without", None)):
        runs.append(distiller(tmp_path / name, rows=rows, steps=8, ckd_args=CKDArguments(**CONTROL)))
        runs[-1].train()
    for one, other in zip(*(run.model.parameters() for run in runs), strict=True):
        assert torch.equal(one, other)


def test_samples_per_second_are_those_of_an_epoch(tmp_path):
    run = distiller(tmp_path, train=examples(16), rows=unlabeled(1000))
    dataloader = run.get_train_dataloader()
    assert run.num_examples(dataloader) == 32 and len(dataloader) == 4
    assert run.num_examples(run.get_eval_dataloader()) == 16


@pytest.mark.parametrize(
    ("feature", "value"), [("int64", -100), ("float32", float("nan")), ("list of 3", -100), ("tokens", -100)]
)
def test_missing_labels_of_every_kind(feature, value):
    columns = {"input_ids": [[1, 2], [3]], "labels": [1, 0]}
    columns |= {"list of 3": {"labels": [[0, 1, 1]] * 2}, "tokens": {"labels": [[0, 1], [1]]}}.get(feature, {})
    labeled = Dataset.from_dict(columns)
    if feature == "float32":
        labeled = labeled.cast_column("labels", Value("float32"))
    both, mixture = mixed(labeled, Dataset.from_dict({"input_ids": [[4], [5, 6, 7]], "extra": [1, 2]}), None)
    found = both[2:]["labels"]
    lengths = {"list of 3": [3, 3], "tokens": [1, 3]}.get(feature)
    wanted = [value, value] if lengths is None else [[value] * length for length in lengths]
    assert np.testing.assert_equal(found, wanted) is None
    assert both.column_names == ["input_ids", "labels"] and both.features == labeled.features
    assert (mixture.labeled, mixture.unlabeled.tolist(), mixture.share) == (2, [2, 3], 0.5)
    assert lengths_of(both, "input_ids").tolist() == [2, 1, 1, 3]


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"unlabeled_share": 1.0}, "unlabeled_share is 1.0: give a number between 0 and 1"),
        ({"unlabeled_share": "0.5"}, "unlabeled_share is '0.5': give a number between 0 and 1"),
        ({"rows": [1, 2]}, "unlabeled_dataset is a list"),
        ({"options": {"auto_find_batch_size": True}}, "auto_find_batch_size is set, .* leave it out"),
        ({"rows": None, "unlabeled_share": 0.3}, "unlabeled_share is 0.3, but unlabeled_dataset is not given"),
        ({"rows": examples(1).select([])}, "unlabeled_dataset has no rows"),
        ({"rows": examples(2).remove_columns("attention_mask")}, "has no column 'attention_mask'"),
        ({"rows": examples(2).cast_column("input_ids", [Value("int64")])}, "encode both in the same way"),
    ],
)
def test_mistakes(tmp_path, kwargs, message):
    with pytest.raises(InputError, match=message):
        distiller(tmp_path, **({"rows": unlabeled()} | kwargs))


def test_another_training_set_needs_another_trainer(tmp_path):
    run = distiller(tmp_path, rows=unlabeled())
    run.train_dataset = examples(8)
    with pytest.raises(InputError, match="train_dataset was replaced, but unlabeled_dataset .* make a new trainer"):
        run.train()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"per_device_train_batch_size": 1}, "of the 1 examples of a step, none would be"),
        ({"train_sampling_strategy": "sequential"}, "train_sampling_strategy is sequential"),
    ],
)
def test_batches_that_cannot_be_mixed(tmp_path, options, message):
    with pytest.raises(InputError, match=message):
        distiller(tmp_path, rows=unlabeled(), options=options)
    distiller(tmp_path, rows=unlabeled(), options=options, ckd_args=CKDArguments(**CONTROL))  # which mixes nothing


def test_the_cache_holds_them_too(tmp_path):
    def losses(folder, **ckd):
        args = CKDArguments(**ALL_TERMS, term_balance="none", **ckd)
        run = distiller(tmp_path / folder, rows=unlabeled(), steps=6, ckd_args=args)
        run.train()
        return [entry["loss"] for entry in logs(run)]

    live, cached = losses("live"), losses("cached", teacher_cache_dir=str(tmp_path / "cache"))
    assert cached == pytest.approx(live, rel=1e-4)


def test_labels_of_a_fixed_number_whatever_the_first_text():
    """Three labels, and a first text of three tokens."""
    labeled = Dataset.from_dict({"input_ids": [[1, 2, 3], [4]], "labels": [[0.0, 1.0, 1.0]] * 2})
    both, _ = mixed(labeled, Dataset.from_dict({"input_ids": [[5], [6, 7]]}), None)
    assert np.isnan(both[2:]["labels"]).all() and np.shape(both[2:]["labels"]) == (2, 3)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([True, False], "has no value for missing ones"),
        (["good", "bad"], "has no value for missing ones"),
        ([[1], [1, 2]], "have other lengths than the texts"),
        ([[[1.0]], [[1.0]]], "has no value for missing ones"),
    ],
)
def test_labels_without_a_missing_value_are_refused(labels, message):
    labeled = Dataset.from_dict({"input_ids": [[1, 2, 3], [4]], "labels": labels})
    with pytest.raises(InputError, match=message):
        mixed(labeled, Dataset.from_dict({"input_ids": [[5], [6, 7]]}), None)


@pytest.mark.parametrize("length", [None, "length"])
def test_lengths_are_those_that_trainer_finds(tmp_path, length):
    """Read from Arrow at once; a column of lengths comes first."""
    data = examples(40)
    if length is not None:
        data = data.add_column("length", list(range(40)))
    run = distiller(tmp_path, train=data, options={"train_sampling_strategy": "group_by_length"})
    found = run._get_train_sampler(None).lengths
    assert found.tolist() == (list(range(40)) if length else [len(row) for row in data["input_ids"]])


@pytest.mark.parametrize("grouped", [False, True])
def test_the_last_step_is_spread_too(grouped):
    lengths = np.full(108, 5) if grouped else None
    rows = list(sampler(8 + 4, 96, (8, 24), lengths=lengths))
    assert len(rows) == 32 + 16
    if not grouped:
        assert [sum(row < 12 for row in rows[start : start + 4]) for start in range(32, 48, 4)] == [1] * 4


def test_the_collator_pads_missing_labels_of_classes():
    both, _ = mixed(examples(2), unlabeled(2), 0.5)
    assert pad(list(both))["labels"].tolist()[2:] == [-100, -100]


def test_labels_of_unlabeled_examples_do_not_count():
    """Neither real ones nor -1, which test sets on the Hub have."""
    data = examples(8)
    both, mixture = mixed(data, examples(4, seed=3), 0.5)
    assert both["labels"][:8] == data["labels"][:] and both["labels"][8:] == [-100] * 4
    hub = examples(4, seed=3).remove_columns("labels").add_column("labels", [-1] * 4)
    assert mixed(data, hub, 0.5)[0]["labels"][8:] == [-100] * 4 and mixture.labeled == 8

    def per_token(rows):
        return rows.map(lambda row: {"labels": [1] * len(row["input_ids"])})

    tokens = per_token(data)
    both, _ = mixed(tokens, per_token(examples(4, seed=3)), 0.5)
    assert both["labels"][8:] == [[-100] * len(ids) for ids in both["input_ids"][8:]]


def test_whole_numbers_as_scores(tmp_path):
    """They have no NaN: a missing one is -100."""
    scores = [int(label) * 4 for label in examples(16)["labels"]]
    data = examples(16).remove_columns("labels").add_column("labels", scores)
    student, teacher = (tiny_model(labels=("score",), layers=layers, seed=layers) for layers in (2, 4))
    ckd_args = CKDArguments(**ALL_TERMS, term_balance="none")
    options = {"per_device_train_batch_size": 16}
    run = trainer(
        DistillationTrainer,
        tmp_path,
        student,
        teacher_model=teacher,
        train=data,
        unlabeled_dataset=unlabeled(),
        ckd_args=ckd_args,
        options=options,
    )
    run.train()
    assert 0 < logs(run)[0]["loss_task"] < 30
    labels = torch.tensor([3, -100])
    assert Score().task_count({"labels": labels}) == 1 and Score().loss_at_chance(None, labels) == 9
