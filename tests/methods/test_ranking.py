"""Ranking terms in the trainer: what they read, need and refuse, and how steps of whole groups are cut."""

import pytest
import torch
from datasets import Value
from helpers import method_reference as slow
from helpers.tiny import no_dropout, tiny_model
from helpers.training import examples, logs, pad, trainer

from ckd_trainer import CKDArguments, DistillationTrainer
from ckd_trainer.heads import Tokens
from ckd_trainer.methods import Pair, PKDArguments, RankingArguments
from ckd_trainer.utils.errors import InputError

LOGITS = CKDArguments.without_relations(alpha=0.5)
BOTH = RankingArguments(listwise_weight=0.5, listwise_temperature=2.0, margin_mse_weight=0.5)


def grouped(groups=4, size=4, **kwargs):
    rows = examples(groups * size, **kwargs)
    return rows.add_column("group", [number for number in range(groups) for _ in range(size)])


def distil(folder, *, student=None, teacher=None, train=None, ckd_args=LOGITS, methods=(BOTH,), **kwargs):
    return trainer(
        DistillationTrainer,
        folder,
        student or no_dropout(layers=2),
        teacher_model=teacher or no_dropout(seed=1),
        train=train or grouped(),
        ckd_args=ckd_args,
        methods=list(methods),
        **{"group_size": 4} | kwargs,
    )


def score_models(**kwargs):
    return [no_dropout(seed=seed, layers=layers, labels=("LABEL_0",), **kwargs) for seed, layers in ((0, 2), (1, 4))]


@pytest.mark.parametrize("kind", ["classes", "a score"])
def test_a_step_is_the_twins(tmp_path, kind):
    """The score of two classes is the log odds of the second; teacher_score_scale maps the teacher's scores."""
    options, train, scale = {}, grouped(2), 1.0
    if kind == "a score":
        student, teacher = score_models()
        scale = 2.5
        ckd_args = CKDArguments.without_relations(alpha=0.5, teacher_score_scale=scale, teacher_score_shift=3.0)
        options, train = (
            {"student": student, "teacher": teacher, "ckd_args": ckd_args},
            train.cast_column("labels", Value("float32")),
        )
    run = distil(tmp_path, train=train, **options)
    batch = pad(list(train))
    found, _ = run._terms(run.model.train(), batch, None)
    both = []
    for model in (run.model, run.teacher_model):
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
        logits = model(**inputs).logits.detach().double()
        both.append(logits[:, 0] if kind == "a score" else logits[:, 1] - logits[:, 0])
    both[1] = scale * both[1]
    assert found["listwise"].item() == pytest.approx(slow.listwise_loss(*both, batch["group"], 2.0).item(), rel=1e-4)
    assert found["margin_mse"].item() == pytest.approx(slow.margin_mse_loss(*both, batch["group"]).item(), rel=1e-4)


def test_a_step_does_not_depend_on_how_it_is_cut(tmp_path):
    """4 groups at once = 2 x 2 = 4 x 1, balanced by the gradient, whatever is drawn of each."""
    weights, losses = [], []
    for size in (16, 8, 4):
        options = {"per_device_train_batch_size": size, "gradient_accumulation_steps": 16 // size}
        options |= {"optim": "sgd", "learning_rate": 0.1}
        run = distil(tmp_path / str(size), train=grouped(8, 6), options=options, steps=2)
        run.train()
        weights.append(list(run.model.parameters()))
        losses.append([[entry[f"loss_{term}"] for term in ("listwise", "margin_mse", "task")] for entry in logs(run)])
    for whole, *parts in zip(*weights, strict=True):
        for part in parts:
            torch.testing.assert_close(part, whole, rtol=1e-4, atol=1e-5)
    assert all(one == [pytest.approx(entry, rel=1e-3) for entry in losses[0]] for one in losses)


def test_cached_is_live(tmp_path):
    both = []
    for cache in (None, str(tmp_path / "cache")):
        ckd_args = CKDArguments.without_relations(alpha=0.5, teacher_cache_dir=cache)
        run = distil(tmp_path / str(bool(cache)), ckd_args=ckd_args, steps=4, train=grouped(8, 6))
        run.train()
        both.append([{name: entry[name] for name in entry if name.startswith("loss")} for entry in logs(run)])
    for live, cached in zip(*both, strict=True):
        assert len(live) == 5 and cached == pytest.approx(live, rel=1e-3)


def test_zero_where_student_is_teacher(tmp_path):
    run = distil(tmp_path, student=no_dropout(), teacher=no_dropout())
    terms, _ = run._terms(run.model.train(), pad(list(grouped(2))), None)
    assert terms["listwise"].abs() < 1e-6 and terms["margin_mse"].abs() < 1e-9


def test_a_teacher_of_another_scale_alone(tmp_path):
    """Without labels and logits the terms train the student, whose scores then rank like those of the teacher."""
    train = grouped(8)
    alone = CKDArguments.without_relations(labels_and_logits=False)
    run = distil(tmp_path, train=train, ckd_args=alone, steps=60, options={"learning_rate": 5e-3})
    run.train()
    entries = logs(run)
    assert set(run.distillation_objective.weights) == {"listwise", "margin_mse"}
    assert entries[-1]["loss_listwise"] < 0.5 * entries[0]["loss_listwise"]


@pytest.mark.parametrize("keeps", [False, True])
def test_the_column_reaches_no_model(tmp_path, keeps):
    """Whether a term reads it or not, in training and evaluation."""
    for methods in ([BOTH], [PKDArguments(pkd_weight=0.5)]):
        run = distil(tmp_path, methods=methods, options={"remove_unused_columns": not keeps})
        run.train()
        assert run.evaluate()["eval_loss"] > 0


@pytest.mark.parametrize(
    "options, words",
    [
        ({"group_size": 3}, "per_device_train_batch_size is 8, but batches hold whole groups of 3 texts: give 6 or 9"),
        ({"group_size": 8}, "group_size is 8, but 4 of 4 groups of the training set have fewer"),
        ({"train": examples(8)}, "not a datasets.Dataset with a column 'group'"),
        ({"train": examples(8), "group_size": None}, "the term listwise reads the column 'group', which the training"),
        ({"unlabeled_dataset": examples(8)}, "group_size and unlabeled_dataset are both given"),
        (
            {"student": no_dropout(labels=("a", "b", "c")), "teacher": tiny_model(labels=("a", "b", "c"))},
            "listwise_weight is set, .* head is classes makes 3 decisions: set it to 0",
        ),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, options, words):
    with pytest.raises(InputError, match=words):
        distil(tmp_path, **options)


def test_terms_without_a_decision_are_refused():
    config = tiny_model().config
    with pytest.raises(InputError, match="margin_mse_weight is set, .* makes no decision about a text as a whole"):
        RankingArguments(margin_mse_weight=1).terms(Pair(config, config, Tokens()))


@pytest.mark.parametrize("temperature", [0, -1, float("nan"), float("inf")])
def test_temperatures_that_do_not_work(temperature):
    with pytest.raises(InputError, match="listwise_temperature is"):
        RankingArguments(listwise_temperature=temperature)
