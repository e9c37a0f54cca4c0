"""Random hidden states, and masks with every pattern of missing tokens."""

import torch

LENGTH = 7
MASKS = {
    "full": [[1] * LENGTH] * 2,
    "padding on the right": [[1, 1, 1, 1, 0, 0, 0], [1] * LENGTH],
    "padding on the left": [[0, 0, 1, 1, 1, 1, 1], [0, 1, 1, 1, 1, 1, 1]],
    "holes": [[1, 0, 1, 1, 0, 0, 1], [0, 1, 0, 1, 1, 1, 0]],
    "one example": [[1, 1, 1, 1, 1, 0, 0]],
    "one real token": [[1, 0, 0, 0, 0, 0, 0], [1, 1, 1, 0, 0, 0, 0]],
    "one real token in all": [[0, 0, 1, 0, 0, 0, 0]],
    "one example without a token": [[0] * LENGTH, [1, 1, 1, 1, 0, 0, 0]],
    "no valid token": [[0] * LENGTH] * 2,
}


def states(rng, count, mask, width, dtype=torch.float64):
    """Returns `count` random layers."""
    return [torch.randn(*mask.shape, width, generator=rng, dtype=torch.float64).to(dtype) for _ in range(count)]
