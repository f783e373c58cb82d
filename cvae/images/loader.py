"""Batches of images that are held in memory, each made in one go."""

from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler, SequentialSampler

__all__ = ["make_loader"]


def make_loader(dataset: Dataset, batch_size: int, shuffle: bool = False) -> DataLoader:
    """Iterate over a data set, which makes each batch from a list of indices.

    Args:
        dataset: a ``CVAEMNIST``, a ``Subset`` of one, or another data set that takes a list of indices.
        batch_size: images a batch; the last one may be smaller.
        shuffle: in a new order each epoch, drawn from PyTorch's global random number generator.
    """
    order = RandomSampler(dataset) if shuffle else SequentialSampler(dataset)  # type: ignore[arg-type]
    batches = BatchSampler(order, batch_size, drop_last=False)
    return DataLoader(dataset, sampler=batches, batch_size=None)  # a sampler of lists: no collation is needed
