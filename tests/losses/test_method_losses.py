"""The losses of methods beside CKD: their twins in value and gradient, and the laws that hold."""

import pytest
import torch
from helpers import method_reference as slow
from helpers.hidden_states import LENGTH, MASKS

from ckd_trainer.losses import gram
from ckd_trainer.losses.attention_relations import attention_relation_loss, attention_score_loss
from ckd_trainer.losses.attributions import attribution_loss, token_attributions
from ckd_trainer.losses.gram_matrices import gram_matrix_loss
from ckd_trainer.losses.states import cosine_loss, normalized_state_loss, state_loss

HEADS = 2
WIDTHS = dict.fromkeys(("states", "normalized states", "cosine"), (6, 6))
WIDTHS["attributions"] = (3, 3)
WIDTHS |= dict.fromkeys(("gram", "centered gram", "relation", "scores"), (6, 10))


def of_grams(student, teacher, mask, centered):
    return gram_matrix_loss(gram(student, mask), gram(teacher, mask), mask, centered=centered)


def relation(student, teacher, mask):
    """Of the first and the second half of the vectors."""
    return attention_relation_loss(student.chunk(2, -1), teacher.chunk(2, -1), mask, heads=1)


def scores(student, teacher, mask):
    return attention_score_loss(student.chunk(2, -1), teacher.chunk(2, -1), mask, heads=1)


def attributions(student, teacher, mask):
    """Of as many decisions as the vectors have elements."""
    return attribution_loss(student.abs().mT, teacher.abs().mT, mask)


# (fast, slow) for (texts, tokens, width)
LOSSES = {
    "states": (state_loss, slow.state_loss),
    "scores": (
        scores,
        lambda ours, theirs, mask: slow.attention_score_loss(ours.chunk(2, -1), theirs.chunk(2, -1), mask, 1),
    ),
    "attributions": (
        attributions,
        lambda ours, theirs, mask: slow.attribution_loss(ours.abs().mT, theirs.abs().mT, mask),
    ),
    "normalized states": (normalized_state_loss, slow.normalized_state_loss),
    "cosine": (cosine_loss, slow.cosine_loss),
    "gram": (lambda *given: of_grams(*given, False), lambda *given: slow.gram_matrix_loss(*given, False)),
    "centered gram": (lambda *given: of_grams(*given, True), lambda *given: slow.gram_matrix_loss(*given, True)),
    "relation": (
        relation,
        lambda ours, theirs, mask: slow.attention_relation_loss(ours.chunk(2, -1), theirs.chunk(2, -1), mask, 1),
    ),
}
each_loss = pytest.mark.parametrize("name", LOSSES)


def vectors(rng, mask, width):
    return torch.randn(*mask.shape, width, generator=rng, dtype=torch.float64)


def rotation(rng, width):
    return torch.linalg.qr(torch.randn(width, width, generator=rng, dtype=torch.float64))[0]


@pytest.mark.parametrize("mask", MASKS)
@each_loss
def test_value_and_gradient_are_the_twins(rng, name, mask):
    mask = torch.tensor(MASKS[mask])
    student, teacher = (vectors(rng, mask, width) for width in WIDTHS[name])
    student.requires_grad_()
    fast, twin = (loss(student, teacher, mask) for loss in LOSSES[name])
    torch.testing.assert_close(fast, twin, rtol=1e-9, atol=1e-12)
    if mask.any():
        ours, theirs = (torch.autograd.grad(loss, student)[0] for loss in (fast, twin))
        torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("heads", [1, 2, 3])
def test_relation_of_several_heads_is_the_twins(rng, heads):
    mask = torch.tensor(MASKS["holes"])
    student, teacher = ([vectors(rng, mask, width) for _ in range(2)] for width in (6, 12))
    fast = attention_relation_loss(student, teacher, mask, heads=heads)
    torch.testing.assert_close(fast, slow.attention_relation_loss(student, teacher, mask, heads))
    fast = attention_score_loss(student, teacher, mask, heads=heads)
    torch.testing.assert_close(fast, slow.attention_score_loss(student, teacher, mask, heads))


@each_loss
def test_padding_may_hold_anything(rng, name):
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    student, teacher = (vectors(rng, mask, width) for width in WIDTHS[name])
    loss = LOSSES[name][0](student, teacher, mask)
    for side in (student, teacher):
        side[mask == 0] = torch.nan
    student.requires_grad_()
    spoiled = LOSSES[name][0](student, teacher, mask)
    torch.testing.assert_close(spoiled, loss)
    (gradient,) = torch.autograd.grad(spoiled, student)
    assert gradient.isfinite().all() and not gradient[mask == 0].any()


@each_loss
def test_zero_where_student_is_teacher(rng, name):
    mask = torch.tensor(MASKS["holes"])
    student = vectors(rng, mask, 6).requires_grad_()
    loss = LOSSES[name][0](student, student.detach(), mask)
    (gradient,) = torch.autograd.grad(loss, student)
    assert loss.abs() < 1e-12 and gradient.abs().max() < 1e-7


@each_loss
def test_precision_of_autocast_changes_nothing(rng, name):
    mask = torch.tensor(MASKS["holes"])
    student, teacher = (vectors(rng, mask, width).float() for width in WIDTHS[name])
    loss = LOSSES[name][0](student, teacher, mask)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(LOSSES[name][0](student, teacher, mask), loss)


@pytest.mark.parametrize("name", ["normalized states", "cosine"])
def test_states_do_not_depend_on_their_lengths(rng, name):
    mask = torch.ones(2, LENGTH)
    student, teacher = (vectors(rng, mask, 6) for _ in range(2))
    longer = student * torch.rand(2, LENGTH, 1, generator=rng, dtype=torch.float64).add(0.1)
    torch.testing.assert_close(LOSSES[name][0](longer, teacher, mask), LOSSES[name][0](student, teacher, mask))


def test_normalized_states_by_hand():
    """Of (3, 4) and (1, 0): (0.6 - 1)^2 and 0.8^2, mean 0.4; their cosine is 0.6."""
    student, teacher = torch.tensor([[[3.0, 4.0]]]), torch.tensor([[[1.0, 0.0]]])
    assert normalized_state_loss(student, teacher, torch.ones(1, 1)).item() == pytest.approx(0.4)
    assert cosine_loss(student, teacher, torch.ones(1, 1)).item() == pytest.approx(0.4)


@pytest.mark.parametrize("name", ["gram", "centered gram"])
def test_grams_do_not_depend_on_rotation_and_scale(rng, name):
    mask = torch.tensor(MASKS["holes"])
    student, teacher = (vectors(rng, mask, 6) for _ in range(2))
    moved = 7 * student @ rotation(rng, 6)
    torch.testing.assert_close(LOSSES[name][0](moved, teacher, mask), LOSSES[name][0](student, teacher, mask))


def test_centered_grams_do_not_depend_on_a_shift(rng):
    mask = torch.tensor(MASKS["holes"])
    student, teacher = (vectors(rng, mask, 6) for _ in range(2))
    shifted = student + vectors(rng, torch.ones(1, 1), 6)
    losses = [of_grams(side, teacher, mask, True) for side in (student, shifted)]
    torch.testing.assert_close(*losses)
    assert (of_grams(shifted, teacher, mask, False) - of_grams(student, teacher, mask, False)).abs() > 1e-3


def test_centered_grams_are_cka(rng):
    """2 - 2 CKA, with |Y^T X|^2 / (|X^T X| |Y^T Y|) of columns relative to their mean."""
    mask = torch.ones(1, LENGTH)
    x, y = (vectors(rng, mask, width)[0] for width in (4, 9))
    a, b = x - x.mean(0), y - y.mean(0)
    cka = (b.T @ a).square().sum() / ((a.T @ a).norm() * (b.T @ b).norm())
    torch.testing.assert_close(of_grams(x[None], y[None], mask, True), 2 - 2 * cka)


@pytest.mark.parametrize("centered", [False, True])
def test_grams_without_a_norm(centered):
    """Zero vectors, and for centered ones also a single vector, have no direction: no loss, no gradient."""
    zeros = torch.zeros(2, 3, 4, dtype=torch.float64)
    ones = torch.ones(2, 3, 4, dtype=torch.float64)
    mask = torch.tensor([[1, 1, 1], [1, 0, 0]])
    student = (ones if centered else zeros).clone().requires_grad_()
    loss = of_grams(student, ones, mask, centered)
    assert loss.item() == pytest.approx(0 if centered else 1)
    assert torch.autograd.grad(loss, student)[0].isfinite().all()


def test_relations_do_not_depend_on_a_rotation_of_both_sides(rng):
    """X Y^T stays the same."""
    mask = torch.tensor(MASKS["holes"])
    student, teacher = ([vectors(rng, mask, width) for _ in range(2)] for width in (6, 12))
    turn = torch.block_diag(*(rotation(rng, 3) for _ in range(HEADS)))
    losses = [
        attention_relation_loss(side, teacher, mask, heads=HEADS) for side in (student, [x @ turn for x in student])
    ]
    torch.testing.assert_close(*losses)


def test_attributions_do_not_depend_on_the_scale_of_a_text(rng):
    mask = torch.tensor(MASKS["holes"])
    student, teacher = (vectors(rng, mask, 3) for _ in range(2))
    scaled = student * torch.rand(len(mask), 1, 3, generator=rng, dtype=torch.float64).add(0.1)
    torch.testing.assert_close(attributions(scaled, teacher, mask), attributions(student, teacher, mask))


def test_attributions_of_one_token_always_agree(rng):
    """There is nothing else that could contribute."""
    mask = torch.tensor([[0, 1, 0]])
    student, teacher = (vectors(rng, mask, 2).requires_grad_() for _ in range(2))
    loss = attributions(student, teacher, mask)
    loss.backward()
    assert loss.abs() < 1e-12 and student.grad.abs().max() < 1e-12


def test_attributions_by_hand():
    """Of (0.6, 0.8) and (1, 0) over two tokens: (0.4^2 + 0.8^2) / 2. A token's largest two of 3, -4, 1 make 5."""
    student, teacher = torch.tensor([[[3.0, 4.0]]]), torch.tensor([[[2.0, 0.0]]])
    assert attribution_loss(student, teacher, torch.ones(1, 2)).item() == pytest.approx(0.4)
    gradients, embeddings = torch.tensor([[3.0, 2.0, 0.5]]), torch.tensor([[1.0, -2.0, 2.0]])
    assert token_attributions(gradients, embeddings, 2).tolist() == [5.0]
    assert token_attributions(gradients, embeddings).item() == pytest.approx(26**0.5)


@pytest.mark.parametrize("top_k", [None, 3])
def test_gradients_of_attributions(rng, top_k):
    """By finite differences; a token whose embedding or gradient is zero has none."""
    mask = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]])
    gradients, embeddings, teacher = (vectors(rng, mask, 5) for _ in range(3))

    def loss(gradients, embeddings):
        ours = token_attributions(gradients, embeddings, top_k)[:, None]
        return attribution_loss(ours, teacher.norm(dim=-1)[:, None], mask)

    inputs = gradients.requires_grad_(), embeddings.requires_grad_()
    assert torch.autograd.gradcheck(loss, inputs) and torch.autograd.gradgradcheck(loss, inputs)
    with torch.no_grad():
        embeddings[:, 1] = gradients[0, 2] = 0
    assert all(found.isfinite().all() for found in torch.autograd.grad(loss(*inputs), inputs))
