"""The processes that share the work of a run, as ``torchrun`` starts them; usually there is just one."""

import contextlib
import re
from collections.abc import Iterable, Iterator
from typing import Any

import torch
import torch.distributed as dist
import torch.nn as nn
from torch.utils.data import BatchSampler, DataLoader, Dataset, DistributedSampler, Subset

from cvae.errors import UsageError
from cvae.images.loader import make_loader
from cvae.training.launcher import launched
from cvae.training.randomness import seed_stage

__all__ = ["broadcast", "divide", "gather", "is_main", "local_main_first", "process_group", "process_portion"]
__all__ += ["rank", "seed_other_processes", "set_epoch", "sum_gradients", "world_size"]


@contextlib.contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """Connect to the other processes that ``torchrun`` has started, if it has.

    Args:
        device: where to compute; gloo connects CPUs, and NCCL connects GPUs.

    Raises:
        RuntimeError: another process has ended.
    """
    if launched().world_size == 1:
        yield
        return
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield
        dist.barrier()  # else PyTorch 2.4 may end the group while a thread still holds the last result, and hang
    except RuntimeError as error:
        if re.search("gloo|nccl|closed by peer", str(error), re.IGNORECASE):
            advice = "see its message; the same command resumes after the last finished epoch"
            raise RuntimeError(f"another process of this run has ended: {advice}") from error
        raise
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


@contextlib.contextmanager
def local_main_first() -> Iterator[None]:
    """Let one process of each machine run first, to download what all of them need."""
    first = launched().local_rank == 0
    if dist.is_initialized() and not first:
        dist.barrier()
    yield
    if dist.is_initialized() and first:
        dist.barrier()


def broadcast(value: Any) -> Any:
    """Return the main process's value in all processes."""
    values = [value]
    if dist.is_initialized():
        dist.broadcast_object_list(values)
    return values[0]


def gather(value: Any) -> list[Any]:
    """Return the values of all processes, by rank, in all of them."""
    values = [value] * world_size()
    if dist.is_initialized():
        dist.all_gather_object(values, value)
    return values


def seed_other_processes(seed: int, stage: str) -> None:
    """Let every process but the main one draw random numbers of its own, from nets that are the same."""
    if rank():
        seed_stage(seed, f"{stage}, process {rank()}")


def sum_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace each gradient by its sum over all processes, which is the gradient of the sum of their losses."""
    if dist.is_initialized():
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        whole = torch.cat([gradient.flatten() for gradient in gradients])  # one message takes less time than many
        dist.all_reduce(whole)
        for gradient, summed in zip(gradients, whole.split([gradient.numel() for gradient in gradients])):
            gradient.copy_(summed.view_as(gradient))


def process_portion(dataset: Dataset) -> Subset:
    """Return this process's portion of a data set, one of nearly equal contiguous ones."""
    size, processes = len(dataset), world_size()  # type: ignore[arg-type]
    return Subset(dataset, range(size * rank() // processes, size * (rank() + 1) // processes))


def divide(dataloaders: dict[str, DataLoader], seed: int) -> dict[str, DataLoader]:
    """Divide the images of each loader among the processes.

    Args:
        dataloaders: as from :func:`cvae.data.get_data`.
        seed: of the order of training images, which is one for all processes.

    Returns:
        Loaders of this process: of ``"train"`` its portion of each batch, of the others its portion of the data.

    Raises:
        UsageError: the processes can't have equal portions of a batch, or an image each.
    """
    if world_size() == 1:
        return dataloaders
    divided, processes = {}, world_size()
    for split, loader in dataloaders.items():
        dataset: Any = loader.dataset
        batch_size = loader.sampler.batch_size  # type: ignore[attr-defined]
        if len(dataset) < processes:
            raise UsageError(f"there are more processes ({processes}) than {split} images ({len(dataset)})")
        divided[split] = make_loader(process_portion(dataset), batch_size)
        if split == "train":
            if batch_size % processes:
                raise UsageError(f"--batch-size {batch_size} can't be divided among {processes} processes")
            order: DistributedSampler = DistributedSampler(dataset, processes, rank(), seed=seed)
            batches = BatchSampler(order, batch_size // processes, drop_last=False)
            divided[split] = DataLoader(dataset, sampler=batches, batch_size=None)
    return divided


def set_epoch(loader: DataLoader, epoch: int) -> None:
    """Let a divided loader have a new order in each epoch, as others have by themselves."""
    sampler = getattr(loader.sampler, "sampler", None)
    if isinstance(sampler, DistributedSampler):
        sampler.set_epoch(epoch)
