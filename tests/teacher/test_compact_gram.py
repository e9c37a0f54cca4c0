"""The compact form of Gram matrices: what comes back, how large it is, and what it costs the losses."""

import pytest
import torch
from helpers.hidden_states import MASKS, states

from ckd_trainer import losses
from ckd_trainer.losses.geometry import raw_products
from ckd_trainer.teacher.compact_gram import (
    CompactGram,
    pack_layers,
    pack_words,
    unpack_layers,
    unpack_words,
)

RELATIONS = {
    "words": (losses.word_gram, pack_words, unpack_words),
    "layers": (losses.layer_gram, pack_layers, unpack_layers),
}


@pytest.mark.parametrize("mask", [mask for mask in MASKS if mask != "no valid token"])
@pytest.mark.parametrize("relation", RELATIONS)
def test_products_come_back(rng, relation, mask):
    """Each within half a step of a cosine, and raw products and distances with them; 0 at masked places."""
    gram_of, pack, unpack = RELATIONS[relation]
    mask = torch.tensor(MASKS[mask])
    sets, valid = gram_of(states(rng, 3, mask, 16), mask)
    back = unpack(pack(sets, mask), mask)
    assert back.products.dtype == back.offsets.dtype == torch.float32
    valid = valid.bool()[..., :, None] & valid.bool()[..., None, :]
    norms = sets.products.diagonal(dim1=-2, dim2=-1).sqrt()
    half_a_step = (norms[..., :, None] * norms[..., None, :]) * (0.5 / 32767) * 1.01 + 1e-6 * raw_products(
        sets
    ).abs().max()
    for before, after in ((sets.products, back.products), (raw_products(sets), raw_products(back))):
        assert ((before - after).abs() <= half_a_step)[valid].all()
    assert not back.products[~valid].any()
    torch.testing.assert_close(back.products, back.products.mT)


def test_equal_vectors_stay_equal(rng):
    """A distance of 0 is 0 again, so that an angle that does not exist does not come to exist."""
    mask = torch.ones(1, 4)
    (vectors,) = states(rng, 1, mask, 8, torch.float32)
    vectors = vectors[:, [0, 0, 1, 1]]
    sets, _ = losses.word_gram([vectors], mask)
    distances = losses.geometry.squared_distances(unpack_words(pack_words(sets, mask), mask).products)
    assert distances[0, 0, 0, 1] == distances[0, 0, 2, 3] == 0 and distances[0, 0, 0, 2] > 0


@pytest.mark.parametrize("relation", RELATIONS)
def test_place_and_amount_of_padding_do_not_matter(rng, relation):
    """What was packed from a batch padded on the left is what a batch padded on the right by more wants."""
    gram_of, pack, unpack = RELATIONS[relation]
    left, right = (
        torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]]),
        torch.tensor([[1, 1, 1, 0, 0, 0, 0], [1] * 5 + [0] * 2]),
    )
    hidden = states(rng, 3, right, 8)
    moved = [torch.zeros(2, 5, 8, dtype=torch.float64) for _ in hidden]
    for source, target in zip(hidden, moved, strict=True):
        target[0, 2:], target[1] = source[0, :3], source[1, :5]
    compact = pack(gram_of(moved, left)[0], left)
    if relation == "words":  # what lies beyond the triangle is not read
        compact = CompactGram(
            *(
                torch.nn.functional.pad(part, (0, 30 if place == 0 else 2), value=7)
                for place, part in enumerate(compact)
            )
        )
    for ours, theirs in zip(
        unpack(compact, right), unpack(pack(gram_of(hidden, right)[0], right), right), strict=True
    ):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("options", [{}, {"distance": "l2", "distance_loss": "mse", "normalize_distances": True}])
def test_losses_and_gradients_from_the_compact_form(rng, options):
    """Every term within 1e-3 of the live one, gradients with a cosine of 0.9999 and more."""
    mask = torch.ones(4, 30)
    mask[1, 20:] = mask[3, 9:] = 0
    common = 2 * torch.randn(64, generator=rng, dtype=torch.float64)
    teacher = [(layer + common).float() for layer in states(rng, 4, mask, 64)]
    student = [layer.float().requires_grad_() for layer in states(rng, 4, mask, 48)]
    for relation, window in (("words", 21), ("layers", None)):
        gram_of, pack, unpack = RELATIONS[relation]
        live, valid = gram_of(teacher, mask)
        cached = unpack(pack(live, mask), mask)
        ours, _ = gram_of(student, mask)
        for loss in (
            lambda theirs: losses.pair_loss(ours, theirs, valid, **options),  # noqa: B023
            lambda theirs: losses.triple_loss(ours, theirs, valid, window_size=window),  # noqa: B023
        ):
            values = [loss(theirs) for theirs in (live, cached)]
            assert values[1].item() == pytest.approx(values[0].item(), rel=1e-3)
            gradients = [
                torch.cat([g.flatten() for g in torch.autograd.grad(value, student, retain_graph=True)])
                for value in values
            ]
            assert torch.nn.functional.cosine_similarity(*gradients, dim=0) > 0.9999


def test_size():
    """At 40 tokens of BERT-base and 7 matched layers, a twentieth of the hidden states in float16 is 21.5 KB."""
    mask = torch.ones(1, 40)
    hidden = [torch.randn(1, 40, 768) for _ in range(7)]
    parts = [
        *pack_words(losses.word_gram(hidden, mask)[0], mask),
        *pack_layers(losses.layer_gram(hidden, mask)[0], mask),
    ]
    size = sum(part.numel() * part.element_size() for part in parts)

    def size_in_bytes(items):  # N (N - 1) / 2 cosines of 2 bytes, N norms and N offsets of 4
        return items * (items - 1) + 8 * items

    assert size == 7 * size_in_bytes(40) + 40 * size_in_bytes(7)
    assert size <= 7 * 40 * 768 * 2 / 20
