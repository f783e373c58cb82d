"""What the figures of a run say."""

import pytest

from cvae import figures
from cvae.evaluate import Evaluation
from cvae.experiment.options import Config, DataConfig, Run
from cvae.experiment.pictures import Pictures
from cvae.history import History

EPOCH = {"train": 9.0, "val": 8.0, "objective": 1}
GAP = {"Performance gap": None}


@pytest.mark.parametrize(
    "data, rows, terms, compared",
    [
        ({}, GAP, {"reconstruction": 5.0, "kl": 3.0}, True),
        ({}, GAP, {}, True),  # of an importance-weighted bound
        ({"subset": 9}, GAP, {}, False),
        ({}, {}, {}, False),  # of another likelihood
        ({}, GAP, {"reconstruction": 5.0, "kl": 9.0}, False),  # with a weight of the KL term
    ],
)
def test_tutorials_losses_are_shown_beside_those_of_the_same_kind_alone(
    few, tmp_path, monkeypatch, data, rows, terms, compared
):
    shown = []
    monkeypatch.setattr(figures, "plot_training", lambda table, title, *said: shown.append(said))
    monkeypatch.setattr(figures, "save_figure", lambda *_: None)
    config = Config(data=DataConfig(dataset="mnist", **data), output_dir=tmp_path)
    pictures = Pictures(Run(config, 0, 1), {split: few[split].dataset for split in few})
    histories = {"baseline": History([EPOCH]), "CVAE": History([EPOCH | terms])}
    pictures._draw_training(histories, Evaluation(rows, {}, "Bernoulli"))
    ((reference, name),) = shown
    assert reference == ({"baseline": 100.4, "CVAE": 71.8} if compared else None)
    assert ("weight" in name) == (sum(terms.values()) == 14)
