import math

import numpy as np
import pyro
import pytest
import torch

from cvae import evaluate
from cvae.data import CVAEMNIST
from cvae.evaluate import (
    Estimate,
    baseline_nll,
    draw_samples,
    effective_sample_size,
    estimate_cll,
    importance_sampling,
    kl_per_latent,
    log_weights,
    monte_carlo,
)
from cvae.model import CVAE


@pytest.fixture
def dataset(real_digits) -> CVAEMNIST:
    return real_digits[0]["val"]


@pytest.fixture
def xs_ys(dataset):
    batch = dataset.batch(range(20))
    return batch["input"], batch["output"]


def make_constant(encoder, loc, scale):
    """Let an encoder give one Gaussian whatever it sees."""
    with torch.no_grad():
        for layer, value in ((encoder.fc31, loc), (encoder.fc32, math.log(scale))):
            layer.weight.zero_()
            layer.bias.fill_(value)


def ignore_z(cvae):
    with torch.no_grad():
        cvae.generation_net.fc1.weight.zero_()


def known_nll(cvae, xs, ys):
    """The negative CLL of a decoder that ignores z."""
    logits = cvae.generation_net.logits(torch.zeros(len(xs), 3))
    y = ys.view(-1, 784)
    scores = y * torch.nn.functional.logsigmoid(logits) + (1 - y) * torch.nn.functional.logsigmoid(-logits)
    return -(scores * (y != -1)).sum(-1).detach()


def test_weights_are_the_formula(cvae, xs_ys):
    """With the latent samples taken out of the trace, each weight is the formula's, term by term."""
    weights = log_weights(cvae, *xs_ys, num_particles=5)
    assert weights.shape == (5, 20) and not weights.requires_grad
    pyro.set_rng_seed(0)
    weights = log_weights(cvae, *xs_ys, num_particles=5)
    pyro.set_rng_seed(0)
    with torch.no_grad():
        q = torch.distributions.Normal(*cvae.recognition_net(*xs_ys))
        p = torch.distributions.Normal(*cvae.prior_net(xs_ys[0], cvae.guess(xs_ys[0])))
        z = q.sample((5,))
        y = xs_ys[1].view(20, 784)
        likelihood = torch.distributions.Bernoulli(cvae.generation_net(z), validate_args=False).log_prob(y)
        expected = (likelihood * (y != -1)).sum(-1) + (p.log_prob(z) - q.log_prob(z)).sum(-1)
    torch.testing.assert_close(weights, expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("proposal", ["recognition", "prior"])
@pytest.mark.parametrize("reduction", [monte_carlo, importance_sampling])
def test_exact_when_the_decoder_ignores_z_and_the_networks_agree(cvae, dataset, xs_ys, proposal, reduction):
    ignore_z(cvae)
    make_constant(cvae.prior_net, 0.3, 0.7)
    make_constant(cvae.recognition_net, 0.3, 0.7)
    nll = estimate_cll(cvae, dataset, num_particles=3, proposal=proposal, reduction=reduction)[:20]
    torch.testing.assert_close(nll, known_nll(cvae, *xs_ys).double(), rtol=1e-5, atol=1e-3)


def test_prior_proposal_is_exact_when_the_decoder_ignores_z(cvae, xs_ys):
    ignore_z(cvae)
    weights = log_weights(cvae, *xs_ys, num_particles=4, proposal="prior")
    torch.testing.assert_close(weights, -known_nll(cvae, *xs_ys).expand(4, 20), rtol=1e-5, atol=1e-3)


def test_proposals_are_equal_when_the_recognition_net_is_the_prior_net(cvae, xs_ys):
    make_constant(cvae.prior_net, -0.2, 1.3)
    cvae.recognition_net.load_state_dict(cvae.prior_net.state_dict())
    pyro.set_rng_seed(1)
    recognition = log_weights(cvae, *xs_ys, num_particles=6)
    pyro.set_rng_seed(1)
    assert torch.equal(recognition, log_weights(cvae, *xs_ys, num_particles=6, proposal="prior"))


def test_monte_carlo_has_the_closed_form_kl(cvae, xs_ys):
    """With a decoder that ignores z, the negative ELBO is the exact value plus the KL divergence."""
    ignore_z(cvae)
    with torch.no_grad():
        q = torch.distributions.Normal(*cvae.recognition_net(*xs_ys))
        p = torch.distributions.Normal(*cvae.prior_net(xs_ys[0], cvae.guess(xs_ys[0])))
        kl = torch.distributions.kl_divergence(q, p).sum(-1)
    excess = -log_weights(cvae, *xs_ys, num_particles=4000) - known_nll(cvae, *xs_ys)
    error = excess.std(0) / math.sqrt(4000)
    assert (abs(excess.mean(0) - kl) < 5 * error + 1e-3).all()


def test_importance_sampling_finds_the_integral(xs_ys):
    """One latent variable: p(y|x) by Gauss-Hermite quadrature, against both proposals."""
    cvae, particles = CVAE(1, 16, 12), 4000
    make_constant(cvae.prior_net, 0.5, 1.5)
    make_constant(cvae.recognition_net, 0.0, 2.0)
    with torch.no_grad():
        cvae.generation_net.fc3.weight *= 5  # so that z matters
    nodes, masses = np.polynomial.hermite_e.hermegauss(80)
    z = (0.5 + 1.5 * torch.as_tensor(nodes, dtype=torch.float32)).view(-1, 1, 1)
    with torch.no_grad():
        logits, y = cvae.generation_net.logits(z), xs_ys[1].view(20, 784)
        scores = y * torch.nn.functional.logsigmoid(logits) + (1 - y) * torch.nn.functional.logsigmoid(
            -logits
        )
        log_masses = torch.as_tensor(np.log(masses / masses.sum()), dtype=torch.float32)
        exact = -((scores * (y != -1)).sum(-1) + log_masses[:, None]).logsumexp(0)
    for proposal in ("prior", "recognition"):
        weights = log_weights(cvae, *xs_ys, num_particles=particles, proposal=proposal)
        relative = weights.softmax(0) * particles  # the delta method gives the error of the log of a mean
        error = relative.std(0) / math.sqrt(particles)
        assert (abs(importance_sampling(weights) - exact) < 5 * error + 1e-3).all(), proposal


def test_monte_carlo_bounds_importance_sampling(cvae, dataset):
    bound = estimate_cll(cvae, dataset, num_particles=10, reduction=monte_carlo)
    tight = estimate_cll(cvae, dataset, num_particles=50)
    excess = Estimate.over(bound - tight, 10)
    assert excess.standard_error is not None and excess.mean > -3 * excess.standard_error
    weights = torch.randn(7, 30)
    assert (monte_carlo(weights) >= importance_sampling(weights)).all()  # Jensen's inequality
    torch.testing.assert_close(monte_carlo(weights[:1]), importance_sampling(weights[:1]))


@pytest.mark.parametrize("rows", [1, 7, 64, 10_000])
def test_chunks_change_nothing(cvae, dataset, rows, monkeypatch):
    ignore_z(cvae)
    make_constant(cvae.prior_net, 0.0, 1.0)
    make_constant(cvae.recognition_net, 0.0, 1.0)
    expected = estimate_cll(cvae, dataset, num_particles=1)
    monkeypatch.setattr(evaluate, "ROWS_AT_ONCE", rows)
    dataset.images, dataset.digits = dataset.images[:20], dataset.digits[:20]
    torch.testing.assert_close(
        estimate_cll(cvae, dataset, num_particles=10), expected[:20], rtol=1e-5, atol=1e-3
    )


def test_chunks_bound_what_is_decoded_at_once(cvae, dataset, monkeypatch):
    rows: list[int] = []
    decode = cvae.generation_net.logits

    def counted(z, *arguments):
        rows.append(z[..., 0].numel())
        return decode(z, *arguments)

    monkeypatch.setattr(cvae.generation_net, "logits", counted)
    monkeypatch.setattr(evaluate, "ROWS_AT_ONCE", 64)
    for particles in (1, 10, 200):
        rows.clear()
        nll = estimate_cll(cvae, dataset, num_particles=particles)
        assert len(nll) == 200 and max(rows) <= 64 and sum(rows) == 200 * particles


def test_guess_known_beforehand_changes_nothing(cvae, dataset):
    pyro.set_rng_seed(2)
    computed = estimate_cll(cvae, dataset, num_particles=3)
    dataset.keep_guess(cvae.guess, batch_size=64)
    pyro.set_rng_seed(2)
    torch.testing.assert_close(estimate_cll(cvae, dataset, num_particles=3), computed)


def test_baseline_is_scored_on_missing_pixels(cvae, dataset, xs_ys):
    y, probabilities = xs_ys[1].view(20, 784), cvae.baseline_net(xs_ys[0])
    scores = y * probabilities.log() + (1 - y) * (1 - probabilities).log()
    expected = -(scores * (y != -1)).sum(-1).detach().double()
    torch.testing.assert_close(baseline_nll(cvae.baseline_net, dataset)[:20], expected, rtol=1e-4, atol=1e-3)


def test_estimate_sums_and_divides_once():
    values = torch.tensor([1.0, 2.0, 3.0, 6.0]).double()
    estimate = Estimate.over(values, 10)
    assert (estimate.mean, estimate.num_images, estimate.num_particles) == (3.0, 4, 10)
    assert estimate.standard_error == pytest.approx(values.numpy().std(ddof=1) / 2)
    assert Estimate.over(values[:1], 10) == Estimate(1.0, None, 1, 10)


def test_column_has_the_rows_of_the_table(cvae, dataset):
    column = evaluate.evaluate(cvae, dataset, num_particles=2, num_importance_samples=3).rows
    assert list(column) == [
        "NN (baseline)",
        "CVAE (Monte Carlo)",
        "CVAE (prior sampling)",
        "CVAE (importance sampling)",
        "Performance gap",
    ]
    assert [row.num_particles for row in column.values()] == [0, 2, 3, 3, 2]
    gap = column["NN (baseline)"].mean - column["CVAE (Monte Carlo)"].mean
    assert column["Performance gap"].mean == pytest.approx(gap)
    assert all(row.num_images == 200 and row.standard_error for row in column.values())
    assert not pyro.get_param_store().keys()


def test_samples_are_probabilities_that_differ(cvae, xs_ys):
    samples = draw_samples(cvae, xs_ys[0], 4)
    assert samples.shape == (4, 20, 28, 28)
    assert (0 <= samples).all() and (samples <= 1).all()
    assert not torch.equal(samples[0], samples[1])
    assert not pyro.get_param_store().keys()


def test_diagnostics_belong_to_the_rows(cvae, dataset):
    evaluation = evaluate.evaluate(cvae, dataset, num_particles=2, num_importance_samples=30)
    rows, more = evaluation.rows, evaluation.diagnostics
    kl, reconstruction = more["KL"], more["Reconstruction"]
    assert isinstance(kl, Estimate) and isinstance(reconstruction, Estimate)
    assert kl.mean + reconstruction.mean == pytest.approx(rows["CVAE (Monte Carlo)"].mean)
    per_pixel = more["Performance gap per pixel"]
    assert isinstance(per_pixel, Estimate)
    assert per_pixel.mean * 3 * 196 == pytest.approx(rows["Performance gap"].mean)
    median, worst = more["Effective sample size, median"], more["Effective sample size, worst percentile"]
    assert isinstance(median, float) and isinstance(worst, float) and 1 <= worst <= median <= 30
    assert 0 <= more["Active latents"] <= 3  # type: ignore[operator]


def test_effective_sample_size_counts_equal_weights():
    weights = torch.full((10, 4), -math.inf)
    for image, count in enumerate((1, 2, 5, 10)):
        weights[:count, image] = -800.0  # far below what a float could hold as a weight
    torch.testing.assert_close(effective_sample_size(weights), torch.tensor([1.0, 2.0, 5.0, 10.0]))
    weights = torch.randn(6, 50)
    plain = weights.exp().sum(0) ** 2 / weights.exp().pow(2).sum(0)
    torch.testing.assert_close(effective_sample_size(weights), plain)


def test_kl_is_that_of_two_gaussians(cvae, dataset, xs_ys):
    kl = kl_per_latent(cvae, dataset)
    assert kl.shape == (200, 3) and kl.dtype == torch.float64
    with torch.no_grad():
        q_loc, q_scale = (t.double() for t in cvae.recognition_net(*xs_ys))
        p_loc, p_scale = (t.double() for t in cvae.prior_net(xs_ys[0], cvae.guess(xs_ys[0])))
    expected = (p_scale / q_scale).log() + (q_scale**2 + (q_loc - p_loc) ** 2) / (2 * p_scale**2) - 0.5
    torch.testing.assert_close(kl[:20], expected, rtol=1e-4, atol=1e-6)


def test_latents_count_as_active_when_the_networks_disagree_on_them(cvae, dataset):
    make_constant(cvae.prior_net, 0.0, 1.0)
    make_constant(cvae.recognition_net, 0.0, 1.0)
    with torch.no_grad():
        cvae.recognition_net.fc31.bias[1] = 0.2  # KL 0.02
        cvae.recognition_net.fc31.bias[2] = 0.1  # KL 0.005
    evaluation = evaluate.evaluate(cvae, dataset, num_particles=1, num_importance_samples=1)
    assert evaluation.diagnostics["Active latents"] == 1
