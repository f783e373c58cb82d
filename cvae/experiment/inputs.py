"""Which inputs are worth showing: a clear one, and ambiguous ones."""

from collections import Counter, defaultdict

from cvae.baseline import is_missing
from cvae.data import CVAEMNIST

__all__ = ["choose_inputs"]

NUM_CANDIDATES, NUM_COMPARED = 2000, 10_000  # the first images of each data set
NUM_NEIGHBOURS, MIN_FRACTION = 20, 0.3  # of these an ambiguous input's second label has at least


def choose_inputs(training: CVAEMNIST, images: CVAEMNIST, num_ambiguous: int) -> list[int]:
    """Choose images by the labels of the training images whose known pixels are nearest.

    The first choice is clear: all its neighbours have its own label.  The others are ambiguous: two
    labels, one of them its own, are about equally frequent among its neighbours.  Each is of
    another pair of labels, such as 4 and 9, the most frequent pair first.

    Args:
        training, images: those to look for neighbours in, and to choose from; equal pixels known.
        num_ambiguous: how many to choose, besides the clear one; the first images fill up.

    Returns:
        ``1 + num_ambiguous`` different indices into ``images``, or fewer if it has fewer.
    """
    compared, candidates = training[:NUM_COMPARED], images[:NUM_CANDIDATES]
    known = ~is_missing(candidates["input"][0])
    pixels = [each["original"].squeeze(-3)[:, known].cpu() * 255 for each in (compared, candidates)]
    # Whole numbers in double precision are exact, so the choice is the same on every machine.
    far, near = (each.round().double() for each in pixels)
    distances = far.square().sum(1) - 2 * near @ far.t()  # squared, up to a constant per candidate
    nearest = distances.topk(min(NUM_NEIGHBOURS, len(far)), largest=False).indices
    labels, own = compared["digit"].cpu()[nearest].tolist(), candidates["digit"].tolist()
    clear, ambiguous = [], defaultdict(list)  # the latter by the pair of labels
    for index, (label, neighbours) in enumerate(zip(own, labels, strict=True)):
        counts = dict(Counter(neighbours).most_common(2))
        evenness = min(counts.values()) / len(neighbours)
        if label in counts and evenness == 1:
            clear.append(index)
        elif label in counts and evenness >= MIN_FRACTION:
            ambiguous[frozenset(counts)].append((evenness, -index))
    pairs = sorted(ambiguous, key=lambda pair: len(ambiguous[pair]), reverse=True)[:num_ambiguous]
    clear.sort(key=lambda index: any(own[index] in pair for pair in pairs))
    most_even = [-max(ambiguous[pair])[1] for pair in pairs]
    return list(dict.fromkeys([*clear[:1], *most_even, *range(len(own))]))[: 1 + num_ambiguous]
