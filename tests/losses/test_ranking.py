"""Losses between the scores of a group: their twins in value and gradient, and the laws that hold."""

import math

import pytest
import torch
from helpers import method_reference as slow

from ckd_trainer.losses import group_count, listwise_loss, margin_mse_loss, score_pair_count

# Neighbors, mixed, of different sizes, one alone, none with another.
GROUPS = ([0, 0, 0, 1, 1, 1], [4, 2, 4, 2, 2, 4, 2], [7, 7, 9, 7, 7], [3, 3], [5], [1, 2, 3])
LOSSES = {
    "listwise": (listwise_loss, lambda *given: slow.listwise_loss(*given, 1.0)),
    "softer": (
        lambda *given: listwise_loss(*given, temperature=2.5),
        lambda *given: slow.listwise_loss(*given, 2.5),
    ),
    "margins": (margin_mse_loss, slow.margin_mse_loss),
}
each_loss = pytest.mark.parametrize("name", LOSSES)


def scores(count, rng):
    return [3 * torch.randn(count, generator=rng, dtype=torch.float64) for _ in range(2)]


@each_loss
@pytest.mark.parametrize("groups", GROUPS, ids=str)
def test_twin_in_value_and_gradient(name, groups, rng):
    student, teacher = scores(len(groups), rng)
    found = []
    for loss in LOSSES[name]:
        ours = student.clone().requires_grad_()
        value = loss(ours, teacher, torch.tensor(groups))
        (2 * value).backward() if value.requires_grad else None
        found.append((value.detach(), torch.zeros_like(student) if ours.grad is None else ours.grad))
    torch.testing.assert_close(*found)


@each_loss
def test_laws(name, rng):
    groups = torch.tensor([0, 0, 0, 1, 1, 1, 1])
    (student, teacher), loss = scores(7, rng), LOSSES[name][0]
    assert loss(student, student, groups).abs() < 1e-12 < loss(student, teacher, groups)
    # A number added to all scores of a group changes nothing, on either side.
    shift = torch.tensor([5.0, -2.0], dtype=torch.float64)[groups]
    for pair in ((student + shift, teacher), (student, teacher + shift)):
        torch.testing.assert_close(loss(*pair, groups), loss(student, teacher, groups))
    # Other groups and the order in the batch do not matter.
    order = torch.randperm(7, generator=rng)
    torch.testing.assert_close(loss(student[order], teacher[order], groups[order]), loss(student, teacher, groups))
    ours = student.clone().requires_grad_()
    loss(ours, torch.where(groups == 0, student, teacher), groups).backward()
    assert (ours.grad[:3].abs() < 1e-12).all() and ours.grad[3:].any()
    # The mean over parts, weighted by their counts, is the whole.
    count = score_pair_count if name == "margins" else group_count
    parts = [slice(0, 3), slice(3, 7)]
    total = sum(count(groups[part]) * loss(student[part], teacher[part], groups[part]) for part in parts)
    torch.testing.assert_close(total / count(groups), loss(student, teacher, groups))


def test_by_hand():
    groups = torch.tensor([0, 0])
    student, teacher = torch.tensor([0.0, 0.0]), torch.tensor([math.log(3), 0.0])  # 1/2, 1/2 and 3/4, 1/4
    expected = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert listwise_loss(student, teacher, groups).item() == pytest.approx(expected)
    assert margin_mse_loss(student, torch.tensor([3.0, 1.0]), groups).item() == pytest.approx(4)


@pytest.mark.parametrize(
    "groups, count, pairs", [([0, 0, 0, 1, 1, 1], 2, 6), ([4, 2, 4, 2, 4], 2, 4), ([7], 0, 0), ([1, 2, 2], 1, 1)]
)
def test_counts(groups, count, pairs):
    assert (group_count(torch.tensor(groups)), score_pair_count(torch.tensor(groups))) == (count, pairs)


@each_loss
def test_half_precision_keeps_differences(name):
    """Under autocast, as in a step with bf16."""
    groups, loss = torch.tensor([0, 0, 1, 1]), LOSSES[name][0]
    student, teacher = torch.tensor([100.0, 100.1, 0.0, 0.3]), torch.tensor([50.0, 50.3, 0.0, 0.1])
    with torch.autocast("cpu", torch.bfloat16):
        found = loss(student, teacher, groups)
    assert found.item() == pytest.approx(loss(student.double(), teacher.double(), groups).item(), rel=1e-3)
