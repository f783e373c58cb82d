"""What a run stands on: the device, the output folder, the versions of the libraries."""

import platform
import random
import tempfile
from pathlib import Path

import pyro
import torch

from cvae.options import UsageError

__all__ = ["check_writable", "choose_device", "seed_stage", "versions"]


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
    return torch.device(name)


def check_writable(folder: Path) -> None:
    """Make a folder and try it, so that a long run does not fail when it comes to write.

    Raises:
        OSError: it can't be made or written to; the message names it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(f"can't write to {folder} ({error.strerror}): choose another --output-dir") from error


def seed_stage(seed: int, stage: str) -> None:
    """Start the random numbers of one stage of a run, so that no stage depends on what went before it.

    Args:
        seed: of the run.
        stage: its name; each has numbers of its own.
    """
    pyro.set_rng_seed(random.Random(f"{seed} {stage}").getrandbits(32))


def versions() -> dict[str, str]:
    """Name the versions that figures depend on."""
    return {"python": platform.python_version(), "torch": torch.__version__, "pyro": pyro.__version__}
