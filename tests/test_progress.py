import json

import pytest

from cvae.progress import History


@pytest.mark.parametrize(
    "losses, best, waited",
    [([], 0, 0), ([3], 1, 0), ([3, 2, 2], 2, 1), ([3, 4, 2, 3, 3], 3, 2), ([1, 2, 3], 1, 2), ([2, 1], 2, 0)],
)
def test_history_knows_its_best_epoch(losses, best, waited):
    history = History([{"val": loss, "seconds": 2.0} for loss in losses])
    assert (history.best_epoch, history.epochs_without_improvement) == (best, waited)
    assert history.seconds == 2 * len(losses) and json.dumps(history.summary())
