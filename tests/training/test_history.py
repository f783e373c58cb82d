import pytest

from cvae.training.history import History


@pytest.mark.parametrize(
    "losses, best",
    [([], 0), ([3], 1), ([3, 2, 2], 2), ([3, 4, 2, 3, 3], 3), ([1, 2, 3], 1), ([2, 1], 2)],
)
def test_history_knows_its_best_epoch(losses, best):
    history = History([{"val": loss, "seconds": 2.0} for loss in losses])
    assert history.best_epoch == best
    assert history.seconds == 2 * len(losses)
    if losses:
        assert history.best_loss == min(losses)
