"""Relations between words, whose vectors are means of their tokens' vectors: pooled within the Gram matrix."""

import pytest
import torch
from helpers import reference
from helpers.hidden_states import states

from ckd_trainer.losses import geometry, layer_gram, pair_loss, triple_loss, word_gram
from ckd_trainer.losses.geometry import raw_products

LENGTHS = (11, 8)  # of student and teacher
UNITS = [  # of two texts, for student and teacher; -1: no unit
    [[-1, 0, 0, 1, 2, 2, 2, 3, 4, -1, -1], [0, 1, 1, 1, 1, 2, -1, -1, -1, -1, -1]],
    [[-1, 0, 1, 1, 2, 3, 4, 4], [0, 0, 0, 1, -1, 2, 2, -1]],
]
MASK = torch.tensor([[1, 1, 1, 1, 1, 0], [1, 1, 1, 0, 0, 0]])  # one unit more than there are: padding


def pooling_matrix(units):
    """A row for each unit: 1 / n at each of its n tokens."""
    rows = [
        [[1 / row.count(unit) if its == unit else 0.0 for its in row] for unit in range(MASK.shape[1])]
        for row in units
    ]
    return torch.tensor(rows, dtype=torch.float64)


def means(layers, units):
    """The mean vectors of units, (batch, units, width) of each layer, one by one; zeros where there is none."""
    found = []
    for layer in layers:
        rows = []
        for states_of_row, row in zip(layer, units, strict=True):
            vectors = []
            for unit in range(MASK.shape[1]):
                own = [states_of_row[place] for place, its in enumerate(row) if its == unit]
                vectors.append(sum(own) / len(own) if own else torch.zeros(layer.shape[-1], dtype=layer.dtype))
            rows.append(torch.stack(vectors))
        found.append(torch.stack(rows))
    return found


def sides(rng, count=3, widths=(5, 4), dtype=torch.float64):
    """Hidden states of a student, which want a gradient, and of a teacher."""
    student, teacher = (
        states(rng, count, torch.ones(2, length), width, dtype) for length, width in zip(LENGTHS, widths, strict=True)
    )
    return [layer.requires_grad_() for layer in student], teacher


def gradients(value, layers):
    return torch.autograd.grad(-2.5 * value, layers, retain_graph=True)


@pytest.fixture(params=[None, 1], ids=["whole", "in chunks of one example"])
def chunks(request, monkeypatch):
    if request.param:
        monkeypatch.setattr(geometry, "chunk_numel", lambda device: request.param)


@pytest.mark.parametrize("gram", [word_gram, layer_gram])
def test_relations_of_words_are_the_twins(rng, gram, chunks):
    """Values and gradients of both losses, with loops over means; tokens without a unit may hold anything."""
    student, teacher = sides(rng)
    ours, theirs = (means(side, units) for side, units in zip((student, teacher), UNITS, strict=True))
    sets_of = {word_gram: reference.word_sets, layer_gram: reference.layer_sets}[gram]
    (twin_student, mask), (twin_teacher, _) = (sets_of(side, MASK) for side in (ours, theirs))
    for layer, units in zip([*student, *teacher], [UNITS[0]] * 3 + [UNITS[1]] * 3, strict=True):
        layer.data[torch.tensor(units) < 0] = torch.nan
    found = [gram(side, MASK, pooling_matrix(units)) for side, units in zip((student, teacher), UNITS, strict=True)]
    (fast_student, fast_mask), (fast_teacher, _) = found
    for loss in (pair_loss, triple_loss):
        fast = loss(fast_student, fast_teacher, fast_mask)
        slow = getattr(reference, loss.__name__)(twin_student, twin_teacher, mask)
        assert slow > 0
        torch.testing.assert_close(fast, slow, rtol=1e-9, atol=1e-12)
        for got, expected in zip(gradients(fast, student), gradients(slow, student), strict=True):
            assert expected.count_nonzero() > 0
            torch.testing.assert_close(got, expected, rtol=1e-7, atol=1e-10)


def test_gram_of_the_pooled_is_a_k_a(rng):
    student, _ = sides(rng)
    pooling = pooling_matrix(UNITS[0])
    tokens, _ = word_gram(student, torch.ones(2, LENGTHS[0]))
    words, _ = word_gram(student, MASK, pooling)
    by_hand = pooling[:, None] @ raw_products(tokens) @ pooling[:, None].mT
    pairs = (MASK[:, None, :, None] * MASK[:, None, None, :]).bool()
    found = raw_products(words).masked_fill(~pairs, 0)
    torch.testing.assert_close(found, by_hand.masked_fill(~pairs, 0), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("gram", [word_gram, layer_gram])
def test_words_of_one_token_are_tokens(rng, gram):
    """Bit for bit, in value and gradient, in float32 and with bfloat16 states."""
    for dtype in (torch.float32, torch.bfloat16):
        student, _ = sides(rng, dtype=dtype)
        mask = torch.ones(2, LENGTHS[0])
        mask[1, 6:] = 0
        pooling = torch.diag_embed(mask)
        found = [gram(student, mask)[0], gram(student, mask, pooling)[0]]
        valid = mask[:, None].expand(-1, 3, -1) if gram is word_gram else mask[..., None].expand(-1, -1, 3)
        weight = torch.randn(found[0].products.shape, generator=rng) * valid[..., None] * valid[..., None, :]
        by_state = [gradients((one.products * weight).sum() + (one.offsets * valid).sum(), student) for one in found]
        for tokens, words in zip((*found[0], *by_state[0]), (*found[1], *by_state[1]), strict=True):
            assert tokens.equal(words) and tokens.count_nonzero() > 0


@pytest.mark.parametrize("gram", [word_gram, layer_gram])
def test_gradcheck(rng, gram):
    student, teacher = sides(rng, count=2)
    target, mask = gram(teacher, MASK, pooling_matrix(UNITS[1]))

    def loss(*layers):
        return pair_loss(gram(layers, MASK, pooling_matrix(UNITS[0]))[0], target, mask)

    assert torch.autograd.gradcheck(loss, student)


def test_a_text_without_a_unit_counts_for_nothing(rng):
    student, teacher = sides(rng)
    mask = MASK.clone()
    mask[1] = 0
    poolings = [pooling_matrix(units) for units in UNITS]
    for pooling in poolings:
        pooling[1] = 0
    both = [word_gram(side, mask, pooling) for side, pooling in zip((student, teacher), poolings, strict=True)]
    first = [
        word_gram([layer[:1] for layer in side], mask[:1], pooling[:1])
        for side, pooling in zip((student, teacher), poolings, strict=True)
    ]
    for loss in (pair_loss, triple_loss):
        value = loss(both[0][0], both[1][0], both[0][1])
        torch.testing.assert_close(value, loss(first[0][0], first[1][0], first[0][1]))
        found = gradients(value, student)
        assert all(not gradient[1].any() and gradient.isfinite().all() for gradient in found)
