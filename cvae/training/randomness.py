"""Random numbers that can be seeded for each stage of a run, saved and restored."""

import random

import pyro
import torch
from torch import Tensor

__all__ = ["random_state", "seed_stage", "set_random_state"]


def seed_stage(seed: int, stage: str) -> None:
    """Seed the random numbers of one stage of a run, so that no stage depends on those before it.

    Args:
        seed: of the run.
        stage: its name; each has random numbers of its own.
    """
    pyro.set_rng_seed(random.Random(f"{seed} {stage}").getrandbits(32))


def random_state(device: torch.device) -> dict[str, Tensor]:
    """Return the state of PyTorch's random number generators, the only ones that training draws from."""
    state = {"cpu": torch.get_rng_state()}
    if device.type != "cpu":
        state[device.type] = torch.get_device_module(device).get_rng_state()
    return state


def set_random_state(device: torch.device, state: dict[str, Tensor]) -> None:
    """Restore what :func:`random_state` returned; a device that was not used then is left as it is."""
    torch.set_rng_state(state["cpu"])
    if device.type in state and device.type != "cpu":
        torch.get_device_module(device).set_rng_state(state[device.type])
