"""Inputs worth looking at: one that is clear, and some that could be either of two digits."""

from collections import Counter
from itertools import compress

import torch
from torch import Tensor

from cvae.baseline import is_missing
from cvae.data import CVAEMNIST, Sample

__all__ = ["choose_inputs"]

NUM_CANDIDATES = 2000  # images to choose from, the first ones
NUM_COMPARED = 10_000  # training images that they are compared with, the first ones
NUM_NEIGHBOURS = 20
MIN_FRACTION = 0.3  # of an ambiguous input's neighbours that have the second most frequent label


def choose_inputs(training: CVAEMNIST, images: CVAEMNIST, num_ambiguous: int) -> list[int]:
    """Choose images by the labels of the training images whose known pixels are nearest.

    The first choice is clear: all its neighbours have its own label.  The others are ambiguous: its own label
    is one of two that are about equally frequent among its neighbours.  Each ambiguous choice is of another
    pair of labels, the most frequent pair first; for handwritten digits these are 4 or 9, and 3 or 5.

    Args:
        training: images among which neighbours are looked for.
        images: images to choose from, with the same pixels known.
        num_ambiguous: how many to choose, besides the clear one.

    Returns:
        Indices into ``images``, each once.  Where there are too few clear or ambiguous images, the first
        images fill up; so there are fewer than ``1 + num_ambiguous`` only if there are fewer images.
    """
    candidates = images[:NUM_CANDIDATES]
    label_fractions, own = _label_fractions(training[:NUM_COMPARED], candidates)
    fraction, label = label_fractions.topk(2, dim=1)
    clear = (fraction[:, 0] == 1) & (label[:, 0] == own)
    ambiguous = (fraction[:, 1] >= MIN_FRACTION) & (label == own[:, None]).any(1)

    pairs = [(min(pair), max(pair)) for pair in label.tolist()]
    counts = Counter(compress(pairs, ambiguous.tolist()))
    chosen_pairs = [pair for pair, _ in counts.most_common(num_ambiguous)]
    by_evenness = fraction[:, 1].where(ambiguous, 0).argsort(descending=True, stable=True).tolist()
    most_even = [next(index for index in by_evenness if pairs[index] == pair) for pair in chosen_pairs]

    elsewhere = clear & ~torch.isin(own, torch.tensor(chosen_pairs, dtype=own.dtype))
    clearest = torch.cat([elsewhere.nonzero(), clear.nonzero()]).flatten().tolist()[:1]
    return list(dict.fromkeys([*clearest, *most_even, *range(len(own))]))[: 1 + num_ambiguous]


def _label_fractions(training: Sample, candidates: Sample) -> tuple[Tensor, Tensor]:
    """Return what fraction of each candidate's neighbours has each label, and the index of its own label."""
    known = ~is_missing(candidates["input"][0])
    # Whole numbers in double precision are exact: the choice is the same wherever it is made.
    near, far = (
        (sample["original"].squeeze(-3)[:, known].cpu() * 255).round().double()
        for sample in (candidates, training)
    )
    distances = far.square().sum(1) - 2 * near @ far.t()  # squared, but for a term of the candidate alone
    nearest = distances.topk(min(NUM_NEIGHBOURS, len(far)), largest=False).indices
    names, labels = torch.cat([training["digit"], candidates["digit"]]).cpu().unique(return_inverse=True)
    of_training, own = labels.split([len(far), len(near)])
    counts = torch.zeros(len(near), max(2, len(names)), dtype=torch.double)
    counts.scatter_add_(1, of_training[nearest], torch.ones(nearest.shape, dtype=torch.double))
    return counts / nearest.shape[1], own
