import functools
import io
import logging
import sys
from typing import Any

import pytest
from torch.utils.data import DataLoader
from tqdm import tqdm

from cvae.forecast import Forecast
from cvae.progress import History
from cvae.reporter import Reporter

ITEMS: Any = [1, 2, 3]


class Terminal(io.StringIO):
    def isatty(self):
        return True


def tell(epochs, reporter):
    history = History()
    reporter.begin(history, False)
    for epoch, kl in enumerate(epochs, 1):
        for _ in reporter.batches(DataLoader(ITEMS), reporter.title(epoch, 5)):
            reporter.batch(12.5, history)
        history.epochs.append(
            {"train": 12.5, "val": 8 + kl, "reconstruction": 8.0, "kl": kl, "seconds": 60.0}
        )
        reporter.epoch(history, 5)
    reporter.end(history, 5)


def test_a_line_an_epoch_says_losses_best_and_time_left(caplog):
    forecast = Forecast({"CVAE": 5})
    with caplog.at_level(logging.INFO, "cvae"):
        tell([3.0, 1.0, 2.0], Reporter("1 quadrant, CVAE", "CVAE", forecast))
    assert caplog.messages == [
        "1 quadrant, CVAE, epoch 1/5: training 12.50, validation 11.00 (reconstruction 8.00 + KL 3.00), best 11.00 "
        "nats/image, 60.0 s, at most 4 min 0 s left",
        "1 quadrant, CVAE, epoch 2/5: training 12.50, validation 9.00 (reconstruction 8.00 + KL 1.00), best 9.00 "
        "nats/image, 60.0 s, at most 3 min 0 s left",
        "1 quadrant, CVAE, epoch 3/5: training 12.50, validation 10.00 (reconstruction 8.00 + KL 2.00), best 9.00 "
        "nats/image, 60.0 s, at most 2 min 0 s left",
    ]
    assert forecast.seconds_left() == 0  # the two epochs that were not needed are dropped


@pytest.mark.parametrize(
    "level, terminal, shown", [("INFO", True, True), ("WARNING", True, False), ("INFO", False, False)]
)
def test_bar_is_for_terminals_and_not_when_quiet(monkeypatch, caplog, level, terminal, shown):
    stream = Terminal() if terminal else io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    with caplog.at_level(level, "cvae"):
        tell([3.0, 1.0], Reporter("net", "CVAE", Forecast({"CVAE": 5})))
    said = stream.getvalue()
    assert ("net, epoch 2/5" in said) == shown
    assert bool(said) == shown
    assert len(caplog.messages) == (2 if level == "INFO" else 0)


def test_bar_shows_loss_kl_best_and_time_left(monkeypatch, caplog):
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr("cvae.reporter.tqdm", functools.partial(tqdm, mininterval=0, miniters=1, ncols=200))
    with caplog.at_level(logging.INFO, "cvae"):
        tell([3.0, 1.0], Reporter("net", "CVAE", Forecast({"CVAE": 5})))
    assert "loss 12.5, KL 3.0, best 11.0, at most " in stream.getvalue()


def test_what_was_done_before_is_said_and_counted(caplog):
    forecast = Forecast({"CVAE": 5})
    history = History([{"val": 1.0, "seconds": 30.0}] * 2)
    with caplog.at_level(logging.INFO, "cvae"):
        Reporter("net", "CVAE", forecast).begin(history, finished=False)
        assert caplog.messages == ["net: goes on after epoch 2"]
        assert forecast.seconds_left() == 90
        Reporter("net", "CVAE", forecast).begin(history, finished=True)
    assert len(caplog.messages) == 1
