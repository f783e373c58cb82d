import random

import numpy as np
import torch

from cvae.training.randomness import random_state, seed_stage, set_random_state


def test_stages_have_random_numbers_of_their_own():
    def drawn(seed, stage):
        seed_stage(seed, stage)
        return torch.rand(()).item(), np.random.rand(), random.random()

    assert drawn(0, "baseline") == drawn(0, "baseline")
    others = [drawn(0, "CVAE"), drawn(1, "baseline"), drawn(0, "baseline")]
    assert all(len(set(numbers)) == 3 for numbers in zip(*others))


def test_restored_state_draws_the_same_numbers():
    device = torch.device("cpu")
    state = random_state(device)
    drawn = torch.rand(3)
    assert not torch.equal(torch.rand(3), drawn)
    set_random_state(device, state)
    assert torch.equal(torch.rand(3), drawn)
