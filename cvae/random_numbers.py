"""Random numbers apart from those of whoever calls."""

import contextlib
from collections.abc import Iterator

import pyro
import torch
from pyro.util import get_rng_state, set_rng_state

__all__ = ["own_random_numbers"]


@contextlib.contextmanager
def own_random_numbers(seed: int | None = None) -> Iterator[None]:
    """Leave the random states of PyTorch, NumPy and Python as they were, whatever is drawn within.

    Args:
        seed: of what is drawn; by default, the caller's random numbers continue.
    """
    state = get_rng_state()
    try:
        with torch.random.fork_rng(range(torch.cuda.device_count())):
            if seed is not None:
                pyro.set_rng_seed(seed)
            yield
    finally:
        set_rng_state(state)
