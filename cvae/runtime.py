"""What a run stands on: the device, its random numbers, the versions of the libraries."""

import os
import platform
import random

import pyro
import torch
from torch import Tensor

from cvae.options import UsageError

__all__ = ["choose_device", "random_state", "seed_stage", "set_random_state", "versions"]


def choose_device(name: str) -> torch.device:
    """Turn a name into a device that is there.

    Args:
        name: ``"cpu"``, ``"cuda"``, ``"mps"``, or ``"auto"`` for CUDA if it is there, else the CPU.

    Raises:
        UsageError: the device is absent.
    """
    present = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        name = "cuda" if present["cuda"] else "cpu"
    if not present[name]:
        here = ", ".join(device for device in present if present[device])
        raise UsageError(f"--device {name} is absent here: choose from {here}")
    if name == "cuda" and "LOCAL_RANK" in os.environ:  # a GPU for each process that torchrun has started
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        return torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    return torch.device(name)


def seed_stage(seed: int, stage: str) -> None:
    """Start the random numbers of one stage of a run, so that no stage depends on what went before it.

    Args:
        seed: of the run.
        stage: its name; each has numbers of its own.
    """
    pyro.set_rng_seed(random.Random(f"{seed} {stage}").getrandbits(32))


def random_state(device: torch.device) -> dict[str, Tensor]:
    """Return where PyTorch's random numbers stand; training draws from no others."""
    state = {"cpu": torch.get_rng_state()}
    if device.type != "cpu":
        state[device.type] = torch.get_device_module(device).get_rng_state()
    return state


def set_random_state(device: torch.device, state: dict[str, Tensor]) -> None:
    """Go back to what :func:`random_state` returned; another device than then goes on with numbers of its own."""
    torch.set_rng_state(state["cpu"])
    if device.type in state and device.type != "cpu":
        torch.get_device_module(device).set_rng_state(state[device.type])


def versions() -> dict[str, str]:
    """Name the versions that figures depend on."""
    return {"python": platform.python_version(), "torch": str(torch.__version__), "pyro": pyro.__version__}
