"""From places in a padded batch to numbers of tokens and back, against loops over the places."""

import pytest
import torch

from ckd_trainer.utils.padding import by_token, to_positions, valid_before, valid_first

MASKS = {
    "right": [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1], [1, 0, 0, 0, 0]],
    "left": [[0, 0, 1, 1, 1], [1, 1, 1, 1, 1], [0, 0, 0, 0, 1]],
    "both": [[0, 1, 1, 0, 0], [0, 0, 1, 0, 0], [1, 1, 1, 1, 1]],
    "between": [[1, 0, 1, 0, 1], [0, 1, 0, 0, 1], [1, 1, 0, 1, 1]],
    "nothing valid": [[0, 0, 0, 0, 0], [1, 1, 0, 0, 0]],
    "one token": [[1]],
}


def random_mask(rng, rows=6, length=9):
    return torch.randint(2, (rows, length), generator=rng)


def places(mask):
    """The places of the valid tokens of each row, in their order."""
    return [[place for place, valid in enumerate(row) if valid] for row in mask.tolist()]


@pytest.mark.parametrize("name", MASKS)
def test_order_and_number_of_valid_tokens(name):
    mask = torch.tensor(MASKS[name])
    for first, before, row in zip(valid_first(mask), valid_before(mask), places(mask), strict=True):
        others = [place for place in range(mask.shape[1]) if place not in row]
        assert first.tolist() == row + others
        assert before[row].tolist() == list(range(len(row)))
        assert 0 <= before.min() and before.max() <= max(len(row) - 1, 0)  # an index of a valid token for the others


@pytest.mark.parametrize("kind", [torch.bool, torch.int32, torch.int64, torch.float32])
@pytest.mark.parametrize("between", [(), (3,), (2, 3)])
def test_by_token_puts_the_valid_tokens_first(rng, kind, between):
    mask = random_mask(rng)
    values = torch.randn(len(mask), *between, mask.shape[1], generator=rng)
    moved = by_token(values, mask.to(kind))
    assert moved.shape == values.shape and moved.dtype == values.dtype
    for row, valid in enumerate(places(mask)):
        for token, place in enumerate(valid):
            assert torch.equal(moved[row, ..., token], values[row, ..., place])
        assert torch.equal(moved[row].sort().values, values[row].sort().values)  # nothing is lost behind them


@pytest.mark.parametrize("kind", [torch.bool, torch.int32, torch.int64, torch.float32])
@pytest.mark.parametrize("between", [(), (3,), (2, 3)])
def test_to_positions_is_the_way_back(rng, kind, between):
    mask = random_mask(rng)
    mask[0] = 1  # so that the longest row has as many tokens as places
    values = torch.randn(len(mask), *between, mask.shape[1], generator=rng)
    back = to_positions(by_token(values, mask.to(kind)), mask.to(kind))
    there = mask.bool().view(len(mask), *[1] * len(between), -1).expand_as(values)
    assert torch.equal(back[there], values[there])


def test_fewer_tokens_than_places(rng):
    """What was kept of a narrow batch goes into a wider one."""
    mask = torch.tensor([[0, 0, 0, 1, 1, 1], [0, 1, 0, 1, 0, 0]])
    values = torch.randn(2, 4, 3, generator=rng)
    back = to_positions(values, mask)
    assert back.shape == (2, 4, 6)
    for row, valid in enumerate(places(mask)):
        for token, place in enumerate(valid):
            assert torch.equal(back[row, :, place], values[row, :, token])


def test_the_padded_side_does_not_matter(rng):
    left, right = torch.tensor(MASKS["left"]), torch.tensor(MASKS["right"])
    values = torch.randn(3, 2, 5, generator=rng)
    moved = to_positions(values, left)  # the same tokens, in a batch padded on the left
    valid = right.bool().unsqueeze(1).expand_as(values)
    assert torch.equal(by_token(moved, left)[valid], by_token(values, right)[valid])
    assert torch.equal(by_token(values, right), values)


def test_gradients_go_to_the_valid_places(rng):
    mask = torch.tensor(MASKS["left"])
    values = torch.randn(3, 5, generator=rng, requires_grad=True)
    tokens = torch.arange(5) < mask.sum(-1, keepdim=True)
    by_token(values, mask)[tokens].sum().backward()
    assert torch.equal(values.grad, mask.float())
