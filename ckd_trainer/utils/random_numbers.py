"""Random numbers that training must not notice."""

import contextlib
import random
from collections.abc import Iterator

import numpy as np
import torch


@contextlib.contextmanager
def random_numbers_given_back() -> Iterator[None]:
    """Restores the random number generators of Python, NumPy and, on the CPU, torch at the end of the context.

    What happens in some runs and not in others, such as building a teacher cache, must not change the dropout that
    follows.
    """
    states = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng([]):
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
