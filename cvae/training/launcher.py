"""Which of several processes this is, as ``torchrun`` says.  Imports no PyTorch, so that ``--help`` answers at once."""

import os
from typing import NamedTuple

from cvae.errors import UsageError

__all__ = ["Launched", "launched"]


class Launched(NamedTuple):
    """The number of this process, its number on this machine, both from 0, and the number of processes."""

    rank: int = 0
    local_rank: int = 0
    world_size: int = 1


def launched() -> Launched:
    """Read the variables that ``torchrun`` sets; if one is missing, the others mean nothing, and this process is alone.

    Other launchers may leave out ``LOCAL_RANK``, which is then 0.

    Raises:
        UsageError: the variables are all set, but can't be right.
    """
    if not all(os.environ.get(name) for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")):
        return Launched()
    values = {name: os.environ.get(name) or "0" for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_PORT")}
    rank, local_rank, world_size, port = (int(each) if each.isdecimal() else -1 for each in values.values())
    if not (0 <= rank < world_size and 0 <= local_rank < world_size and 0 <= port < 2**16):
        shown = ", ".join(f"{name}={value}" for name, value in values.items())
        raise UsageError(f"{shown} can't be right: unset them, or start the processes with torchrun")
    return Launched(rank, local_rank, world_size)
