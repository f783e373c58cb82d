import io
import logging
import sys
from typing import Any

import pytest
from torch.utils.data import DataLoader
from tqdm import tqdm

from cvae.training.forecast import Forecast
from cvae.training.history import History
from cvae.training.progress import Progress

ITEMS: Any = [1, 2, 3]


def progress_of_five_epochs(setting="", **options):
    return Progress(setting, Forecast([setting], {"CVAE": 5}), **options)


class Terminal(io.StringIO):
    def isatty(self):
        return True


def train(epochs, progress):
    """Display the training of a CVAE of at most five epochs, with a KL term for each."""
    history = History()
    progress.begin("CVAE", history, 5, finished=False)
    for kl in epochs:
        for _ in progress.batches(DataLoader(ITEMS)):
            progress.show_loss(12.5)
        history.epochs.append(
            {"train": 12.5, "val": 8 + kl, "reconstruction": 8.0, "kl": kl, "seconds": 60.0}
        )
        progress.end_epoch()
    progress.drop("CVAE", 5 - len(history.epochs))


def test_a_line_for_each_epoch_has_losses_best_and_time_left(caplog):
    progress = progress_of_five_epochs("1 quadrant")
    with caplog.at_level(logging.INFO, "cvae"):
        train([3.0, 1.0, 2.0], progress)
    assert caplog.messages == [
        "1 quadrant, CVAE, epoch 1/5: training 12.50, validation 11.00 (reconstruction 8.00 + KL 3.00), best 11.00 "
        "nats/image, 60.0 s, at most 04:00 left",
        "1 quadrant, CVAE, epoch 2/5: training 12.50, validation 9.00 (reconstruction 8.00 + KL 1.00), best 9.00 "
        "nats/image, 60.0 s, at most 03:00 left",
        "1 quadrant, CVAE, epoch 3/5: training 12.50, validation 10.00 (reconstruction 8.00 + KL 2.00), best 9.00 "
        "nats/image, 60.0 s, at most 02:00 left",
    ]
    assert progress.forecast.seconds_left() == 0  # the two epochs that were not needed are dropped


def test_without_a_plan_no_time_is_shown_as_left(caplog):
    with caplog.at_level(logging.INFO, "cvae"):
        train([3.0], Progress())
    (line,) = caplog.messages
    assert line.startswith("CVAE, epoch 1/5: training 12.50") and line.endswith("60.0 s")


@pytest.mark.parametrize(
    "level, terminal, wanted, shown",
    [
        ("INFO", True, True, True),
        ("WARNING", True, True, False),
        ("INFO", False, True, False),
        ("INFO", True, False, False),
    ],
)
def test_bar_is_for_terminals_and_not_when_quiet(
    monkeypatch, caplog, level, terminal, wanted, shown
):
    stream = Terminal() if terminal else io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    with caplog.at_level(level, "cvae"):
        train([3.0, 1.0], progress_of_five_epochs(bar=wanted))
    written = stream.getvalue()
    assert ("CVAE, epoch 2/5" in written) == shown
    assert bool(written) == shown
    assert len(caplog.messages) == (2 if level == "INFO" else 0)


class UpdatedAtOnce(tqdm):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs, mininterval=0, miniters=1, ncols=200)


def test_bar_shows_loss_kl_best_and_time_left(monkeypatch, caplog):
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr("cvae.training.progress.tqdm", UpdatedAtOnce)
    with caplog.at_level(logging.INFO, "cvae"):
        train([3.0, 1.0], progress_of_five_epochs())
    assert "loss 12.5, KL 3.0, best 11.0, at most " in stream.getvalue()


def test_epochs_of_an_interrupted_run_are_named_and_counted(caplog):
    progress = progress_of_five_epochs()
    history = History([{"val": 1.0, "seconds": 30.0}] * 2)
    with caplog.at_level(logging.INFO, "cvae"):
        progress.begin("CVAE", history, 5, finished=False)
        assert caplog.messages == ["CVAE: resumed after epoch 2"]
        assert list(progress.batches(DataLoader(ITEMS))) and progress.title == "CVAE, epoch 3/5"
        assert progress.forecast.seconds_left() == 90
        progress.begin("CVAE", history, 5, finished=True)
    assert len(caplog.messages) == 1
