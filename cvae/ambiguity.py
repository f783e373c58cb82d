"""Inputs worth looking at: one that leaves no doubt, and some that could be either of two digits."""

from collections import Counter

import torch
from torch import Tensor

from cvae.data import CVAEMNIST, Sample

__all__ = ["choose_inputs"]

CANDIDATES = 2000  # images to choose from, the first ones
COMPARED = 10_000  # training images that they are compared with, the first ones
NEIGHBOURS = 20
DOUBTFUL = 0.3  # share of the neighbours that the second label must have


def choose_inputs(training: CVAEMNIST, images: CVAEMNIST, num_ambiguous: int) -> list[int]:
    """Choose images by the labels of the training images whose known pixels are nearest.

    The first choice is clear: all its neighbours have its own label.  The others are ambiguous: two labels
    share the neighbours most evenly, one of them its own.  Each of these stands for another pair of labels,
    the pair that leaves most images in doubt first; for handwritten digits these are 4 or 9, and 3 or 5.

    Args:
        training: where neighbours come from.
        images: where to choose from, with the same pixels known.
        num_ambiguous: how many, besides the clear one.

    Returns:
        Places in ``images``, each once.  Where labels do not tell enough, the first images fill up; so there
        are fewer than ``1 + num_ambiguous`` only if there are fewer images.
    """
    candidates = images.batch(range(min(CANDIDATES, len(images))))
    shares, own = _label_shares(training.batch(range(min(COMPARED, len(training)))), candidates)
    share, label = shares.topk(2, dim=1)
    clear = (share[:, 0] == 1) & (label[:, 0] == own)
    doubtful = (share[:, 1] >= DOUBTFUL) & (label == own[:, None]).any(1)

    pairs = [(min(pair), max(pair)) for pair in label.tolist()]
    images_in_doubt = Counter(pair for pair, is_doubtful in zip(pairs, doubtful.tolist()) if is_doubtful)
    ambiguous = [pair for pair, _ in images_in_doubt.most_common(num_ambiguous)]
    most_even: dict[tuple[int, int], int] = {}
    for place in share[:, 1].where(doubtful, 0).argsort(descending=True, stable=True).tolist():
        most_even.setdefault(pairs[place], place)

    other = ~torch.isin(own, torch.tensor(ambiguous, dtype=own.dtype))
    clear_ones = [*(clear & other).nonzero().flatten().tolist(), *clear.nonzero().flatten().tolist()]
    places = [*clear_ones[:1], *(most_even[pair] for pair in ambiguous), *range(len(own))]
    return list(dict.fromkeys(places))[: 1 + num_ambiguous]


def _label_shares(training: Sample, candidates: Sample) -> tuple[Tensor, Tensor]:
    """Return how labels, numbered anew, share the neighbours of each candidate, and the candidates' own."""
    known = candidates["input"][0] == candidates["original"][0].squeeze()
    # Whole numbers in double precision are exact: the choice is the same wherever it is made.
    near, far = (
        (sample["original"].squeeze(-3)[:, known].cpu() * 255).round().double()
        for sample in (candidates, training)
    )
    distances = far.square().sum(1) - 2 * near @ far.t()  # squared, but for a term of the candidate alone
    nearest = distances.topk(min(NEIGHBOURS, len(far)), largest=False).indices
    names, labels = torch.cat([training["digit"], candidates["digit"]]).cpu().unique(return_inverse=True)
    theirs, own = labels.split([len(far), len(near)])
    counts = torch.zeros(len(near), max(2, len(names)), dtype=torch.double)
    counts.scatter_add_(1, theirs[nearest], torch.ones(nearest.shape, dtype=torch.double))
    return counts / nearest.shape[1], own
