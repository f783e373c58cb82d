import json
from dataclasses import asdict

import pyro
import pytest
import torch

from cvae.baseline import BaselineNet
from cvae.config import TrainingConfig
from cvae.data import get_data
from cvae.estimators import baseline_nll
from cvae.evaluate import Estimate, Evaluation, draw_samples, evaluate, with_error
from cvae.model import CVAE
from cvae.train import train_baseline, train_cvae
from cvae.trained import TrainedCVAE

from .conftest import HIDDEN_1, HIDDEN_2, Z_DIM, make_constant


def test_estimate_sums_and_divides_once():
    values = torch.tensor([1.0, 2.0, 3.0, 6.0]).double()
    estimate = Estimate.over(values, 10)
    assert (estimate.mean, estimate.num_images, estimate.num_particles) == (3.0, 4, 10)
    assert estimate.standard_error == pytest.approx(values.numpy().std(ddof=1) / 2)
    assert Estimate.over(values[:1], 10) == Estimate(1.0, None, 1, 10)


def test_column_has_the_rows_of_the_table(cvae, dataset):
    evaluation = evaluate(cvae, dataset, num_particles=2, num_importance_samples=3)
    restored = json.loads(json.dumps(evaluation.summary())) | {"per_image": {}}
    assert Evaluation.from_dict(restored) == evaluation
    column = evaluation.rows
    for row, estimate in (column | evaluation.diagnostics).items():
        if isinstance(estimate, Estimate):  # also its error is of these values
            found = Estimate.over(evaluation.per_image[row].double(), estimate.num_particles)
            assert asdict(found) == pytest.approx(asdict(estimate), rel=1e-5)
    sampled = [f"CVAE ({how})" for how in ("Monte Carlo", "prior sampling", "importance sampling")]
    assert list(column) == ["NN (baseline)", *sampled, "Performance gap"]
    assert [row.num_particles for row in column.values()] == [0, 2, 3, 3, 2]
    gap = column["NN (baseline)"].mean - column["CVAE (Monte Carlo)"].mean
    assert column["Performance gap"].mean == pytest.approx(gap)
    assert all(row.num_images == 200 and row.standard_error for row in column.values())
    assert not pyro.get_param_store().keys()


def test_diagnostics_belong_to_the_rows(cvae, dataset):
    evaluation = evaluate(cvae, dataset, num_particles=2, num_importance_samples=30)
    rows, more = evaluation.rows, evaluation.diagnostics
    kl, reconstruction = more["KL"], more["Reconstruction"]
    assert isinstance(kl, Estimate) and isinstance(reconstruction, Estimate)
    assert kl.mean + reconstruction.mean == pytest.approx(rows["CVAE (Monte Carlo)"].mean)
    per_pixel = more["Performance gap per pixel"]
    assert isinstance(per_pixel, Estimate)
    assert per_pixel.mean * 3 * 196 == pytest.approx(rows["Performance gap"].mean)
    size = [more[f"Effective sample size, {which}"] for which in ("worst percentile", "median")]
    assert all(isinstance(value, float) and 1 <= value <= 30 for value in size)
    assert size == sorted(size)  # type: ignore[type-var]


def test_latents_count_as_active_when_the_networks_disagree_on_them(cvae, dataset):
    make_constant(cvae.prior_net, 0.0, 1.0)
    make_constant(cvae.recognition_net, 0.0, 1.0)
    with torch.no_grad():
        cvae.recognition_net.fc31.bias[1] = 0.2  # KL 0.02
        cvae.recognition_net.fc31.bias[2] = 0.1  # KL 0.005
    evaluation = evaluate(cvae, dataset, num_particles=1, num_importance_samples=1)
    assert evaluation.diagnostics["Active latents"] == 1


def test_samples_are_probabilities_that_differ(cvae, xs_ys):
    samples = draw_samples(cvae, xs_ys[0], 4)
    assert samples.shape == (4, 20, 28, 28)
    assert (0 <= samples).all() and (samples <= 1).all()
    assert not torch.equal(samples[0], samples[1])
    assert not pyro.get_param_store().keys()


def test_samples_are_drawn_in_chunks_that_bound_memory(cvae, xs_ys, monkeypatch):
    with torch.no_grad():  # z is a function of the image alone
        cvae.prior_net.fc32.weight.zero_()
        cvae.prior_net.fc32.bias.fill_(-20)
    rows: list[int] = []
    expected = draw_samples(cvae, xs_ys[0], 8)
    cvae.generation_net.fc1.register_forward_hook(
        lambda layer, inputs, output: rows.append(output.shape[:-1].numel())
    )
    for at_once in (6, 20, 200):
        rows.clear()
        monkeypatch.setattr("cvae.estimators.ROWS_AT_ONCE", at_once)
        torch.testing.assert_close(draw_samples(cvae, xs_ys[0], 8), expected)
        assert max(rows) <= at_once


def test_shards_of_all_processes_are_gathered(cvae, dataset, monkeypatch):
    """For every row and diagnostic, before values are averaged."""
    monkeypatch.setattr("cvae.distributed.rank", lambda: 1)
    monkeypatch.setattr("cvae.distributed.world_size", lambda: 4)

    def gather(per_image):
        assert per_image.shape[-1] == 50
        return torch.cat([per_image, per_image[..., :20]], dim=-1)

    monkeypatch.setattr("cvae.distributed.gather_images", gather)
    evaluation = evaluate(cvae, dataset, num_particles=1, num_importance_samples=2)
    estimates = [*evaluation.rows.values(), *evaluation.diagnostics.values()]
    assert {e.num_images for e in estimates if isinstance(e, Estimate)} == {70}
    shard = baseline_nll(cvae.baseline_net, dataset)[50:100]
    found = evaluation.per_image["NN (baseline)"]
    torch.testing.assert_close(found, torch.cat([shard, shard[:20]]).float())
    expected = (shard.sum() + shard[:20].sum()).item() / 70
    assert evaluation.rows["NN (baseline)"].mean == pytest.approx(expected)


@pytest.mark.parametrize(
    "value, error, text",
    [
        (101.25, 0.5, "101.2 ± 0.5"),
        (1.23456, 0.04, "1.23 ± 0.04"),
        (7.0, 120.0, "7.0 ± 120.0"),
        (3, None, "3.0"),
        (3, float("nan"), "3.0"),
        (3, 0.0, "3.0"),
    ],
)
def test_values_have_as_many_decimals_as_their_errors_have_meaning(value, error, text):
    assert with_error(value, error) == text


@pytest.mark.parametrize("num_quadrant_inputs", [1, 3])
@pytest.mark.parametrize("generation_input", ["z", "xz"])
def test_what_marks_missing_pixels_changes_no_number(num_quadrant_inputs, generation_input):
    """From the images to the table and to a trained model."""

    class Net(BaselineNet):
        """Takes -1 and -3 for the same, which the tutorial's net sees."""

        def logits(self, x, pixels=None):
            return super().logits(x.clamp(min=0), pixels)

    def numbers(mask_with):
        torch.manual_seed(0)
        options = {"dataset": "mnist-5k", "subset": 100, "mask_with": mask_with}
        datasets, loaders, _ = get_data(num_quadrant_inputs, 50, **options)
        net, training = Net(HIDDEN_1, HIDDEN_2), TrainingConfig(num_epochs=2)
        cvae = CVAE(Z_DIM, HIDDEN_1, HIDDEN_2, net, generation_input=generation_input)
        histories = train_baseline(net, loaders, training), train_cvae(cvae, loaders, training)
        evaluation = evaluate(cvae, datasets["val"], num_particles=2, num_importance_samples=3)
        trained = TrainedCVAE(cvae, num_quadrant_inputs)
        images = datasets["val"][range(5)]["original"].squeeze(1)
        used = trained.complete(images, 2).tolist(), trained.negative_cll(images, 3).tolist()
        epochs = [epoch for history in histories for epoch in history.epochs]
        losses = [(epoch["train"], epoch["val"]) for epoch in epochs]
        return evaluation.summary(), losses, used

    assert numbers(-1) == numbers(-3)
