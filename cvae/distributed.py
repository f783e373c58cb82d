"""The processes of ``torchrun``, which share the work of each run; usually there is just one."""

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.nn  # before there is a group: its default arguments would hold it for ever
import torch.nn as nn
from torch import Tensor

from cvae.files import UsageError

__all__ = ["choose_device", "from_main", "gather", "gather_images", "is_main", "process_group"]
__all__ += ["rank", "share_buffers", "sum_gradients", "world_size"]


def choose_device(name: str) -> torch.device:
    """Turn ``"auto"``, ``"cpu"``, ``"cuda"``, ``"cuda:1"`` or ``"mps"`` into what is there.

    Raises:
        UsageError: the device is absent.
    """
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    mps = torch.backends.mps.is_available()
    device = torch.device(name if name != "auto" else "cuda" if gpus else "cpu")
    if not {"cpu": True, "cuda": gpus > (device.index or 0), "mps": mps}[device.type]:
        raise UsageError(f"--device {name} is absent here")
    return device


@contextlib.contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """Connect to the other processes that ``torchrun`` has started, if it has.

    Args:
        device: where to compute; gloo connects CPUs, and NCCL connects GPUs, one for each process.

    Raises:
        UsageError: the variables that ``torchrun`` sets are wrong, or there are too few GPUs.
        RuntimeError: PyTorch's, when another process has ended.
    """
    if os.environ.get("WORLD_SIZE", "1") == "1":
        with torch.cuda.device(device) if device.index is not None else contextlib.nullcontext():
            yield
        return
    if device.index is not None:
        raise UsageError(f"--device {device} is for a single process: give --device cuda")
    if device.type == "cuda":
        processes, gpus = int(os.environ.get("LOCAL_WORLD_SIZE", 1)), torch.cuda.device_count()
        if processes > gpus:
            many = f"more processes ({processes}) than GPUs ({gpus}) on this machine"
            raise UsageError(f"{many}: start {gpus}, or give --device cpu")
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
    try:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    except ValueError as error:
        raise UsageError(f"{error}: start the processes with torchrun") from error
    try:
        yield
        # PyTorch 2.4 may hang if the group ends while a thread holds a result.  Whichever process
        # is the last to arrive may find the connection closed.
        with contextlib.suppress(RuntimeError):
            dist.barrier()
    finally:
        dist.destroy_process_group()


def rank() -> int:
    """Number of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_main() -> bool:
    """Whether this is the process that writes."""
    return rank() == 0


def from_main(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function in the main process, and return its result, or raise its error, in all."""
    results: list[Any] = [None]
    if is_main():
        try:
            results = [function(*arguments)]
        except Exception as error:
            results = [error]
    if dist.is_initialized():
        dist.broadcast_object_list(results)
    if isinstance(results[0], Exception):
        raise results[0]
    return results[0]


def gather(value: Any) -> list[Any]:
    """Return the values of all processes, by rank, in all of them."""
    values = [value] * world_size()
    if dist.is_initialized():
        dist.all_gather_object(values, value)
    return values


def gather_images(per_image: Tensor) -> Tensor:
    """Put the values of all processes, shape (..., images), together."""
    return torch.cat(gather(per_image), dim=-1)


def share_buffers(net: nn.Module) -> None:
    """Give all processes the buffers of the main one, such as averages of batch normalisation."""
    if dist.is_initialized():
        for buffer in net.buffers():
            dist.broadcast(buffer, 0)


def sum_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace each gradient by its sum over all processes, as of the sum of their losses."""
    if dist.is_initialized():
        gradients = [p.grad for p in parameters if p.grad is not None]
        whole = torch.cat([grad.flatten() for grad in gradients])  # one message is faster than many
        dist.all_reduce(whole)
        parts = whole.split([grad.numel() for grad in gradients])
        for gradient, summed in zip(gradients, parts, strict=True):
            gradient.copy_(summed.view_as(gradient))
