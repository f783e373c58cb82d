"""Several processes that share the work of one run, as ``torchrun`` starts them; or one that has it all."""

import contextlib
import os
import re
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.distributed as dist
import torch.nn as nn
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

__all__ = [
    "gather",
    "is_main",
    "joined",
    "local_main_first",
    "parallel",
    "rank",
    "share",
    "sums",
    "world_size",
]


@contextlib.contextmanager
def joined(device: torch.device) -> Iterator[None]:
    """Work with the other processes that ``torchrun`` has started, if it has.

    Args:
        device: where to compute; gloo connects CPUs, and NCCL connects GPUs.

    Raises:
        RuntimeError: another process has ended.
    """
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        yield
        return
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield
    except RuntimeError as error:
        if re.search("gloo|nccl|closed by peer", str(error), re.IGNORECASE):
            raise RuntimeError(
                "another process of this run has ended: see what it said; the same command goes on after the last "
                "finished epoch"
            ) from error
        raise
    finally:
        dist.destroy_process_group()


def rank() -> int:
    """Number of this process, from 0, among all that share the run."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """How many processes share the run."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_main() -> bool:
    """Whether this is the process that writes."""
    return rank() == 0


@contextlib.contextmanager
def local_main_first() -> Iterator[None]:
    """Let one process of each machine go before the others, to download what all of them need."""
    first = int(os.environ.get("LOCAL_RANK", 0)) == 0
    if dist.is_initialized() and not first:
        dist.barrier()
    yield
    if dist.is_initialized() and first:
        dist.barrier()


def share(value: Any) -> Any:
    """Return what the main process has, in all of them."""
    if not dist.is_initialized():
        return value
    values = [value if is_main() else None]
    dist.broadcast_object_list(values)
    return values[0]


def gather(value: Any) -> list[Any]:
    """Return what all processes have, by rank, in all of them."""
    if not dist.is_initialized():
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def sums(values: dict[str, float]) -> dict[str, float]:
    """Return sums over all processes, the same in all of them."""
    found = gather(values)
    return {name: sum(each[name] for each in found) for name in values}


def parallel(net: nn.Module, loss: Callable[[dict[str, Tensor]], Tensor]) -> Callable[[Any], Tensor]:
    """Make a loss whose gradients are those of the sum of all processes' losses.

    Args:
        net: with the parameters that the gradients are for, the same in all processes from here on.
        loss: makes of a batch a scalar, summed over its images.
    """
    if not dist.is_initialized():
        return loss
    averaging = DistributedDataParallel(_Loss(net, loss))
    return lambda batch: averaging(batch) * world_size()


class _Loss(nn.Module):
    """A loss as a module, which is what ``DistributedDataParallel`` takes."""

    def __init__(self, net: nn.Module, loss: Callable[[dict[str, Tensor]], Tensor]) -> None:
        super().__init__()
        self.net = net
        self.loss = loss

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        return self.loss(batch)
