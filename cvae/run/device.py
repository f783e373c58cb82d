"""The device that a run computes on, and the versions that its numbers depend on."""

import os
import platform

import pyro
import torch

from cvae.errors import UsageError

__all__ = ["choose_device", "versions"]


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


def versions() -> dict[str, str]:
    """Return the versions of Python, PyTorch and Pyro."""
    return {"python": platform.python_version(), "torch": str(torch.__version__), "pyro": pyro.__version__}
