import math

import numpy as np
import pyro
import pytest
import torch

from cvae import estimators
from cvae.estimators import (
    baseline_nll,
    effective_sample_size,
    estimate_cll,
    importance_sampling,
    kl_per_latent,
    log_weights,
    monte_carlo,
)
from cvae.evaluate import Estimate
from cvae.model import CVAE, Decoder

from .conftest import make_constant


def ignore_z(cvae):
    with torch.no_grad():
        cvae.generation_net.fc1.weight.zero_()


def known_nll(cvae, xs, ys):
    """The negative CLL of a decoder that ignores z."""
    logits = cvae.generation_net.logits(torch.zeros(len(xs), 3))
    y = ys.view(-1, 784)
    scores = y * torch.nn.functional.logsigmoid(logits) + (1 - y) * torch.nn.functional.logsigmoid(
        -logits
    )
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
        p = torch.distributions.Normal(
            *cvae.prior_net(xs_ys[0], cvae.baseline_predictions(xs_ys[0]))
        )
        z = q.sample((5,))
        y = xs_ys[1].view(20, 784)
        likelihood = torch.distributions.Bernoulli(
            cvae.generation_net(z), validate_args=False
        ).log_prob(y)
        expected = (likelihood * (y != -1)).sum(-1) + (p.log_prob(z) - q.log_prob(z)).sum(-1)
    torch.testing.assert_close(weights, expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("proposal", ["recognition", "prior"])
@pytest.mark.parametrize("reduction", [monte_carlo, importance_sampling])
def test_exact_when_the_decoder_ignores_z_and_the_networks_agree(
    cvae, dataset, xs_ys, proposal, reduction
):
    ignore_z(cvae)
    make_constant(cvae.prior_net, 0.3, 0.7)
    make_constant(cvae.recognition_net, 0.3, 0.7)
    nll = estimate_cll(cvae, dataset, num_particles=3, proposal=proposal, reduction=reduction)[:20]
    torch.testing.assert_close(nll, known_nll(cvae, *xs_ys).double(), rtol=1e-5, atol=1e-3)


def test_prior_proposal_is_exact_when_the_decoder_ignores_z(cvae, xs_ys):
    ignore_z(cvae)
    weights = log_weights(cvae, *xs_ys, num_particles=4, proposal="prior")
    torch.testing.assert_close(
        weights, -known_nll(cvae, *xs_ys).expand(4, 20), rtol=1e-5, atol=1e-3
    )


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
        p = torch.distributions.Normal(
            *cvae.prior_net(xs_ys[0], cvae.baseline_predictions(xs_ys[0]))
        )
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
        scores = y * torch.nn.functional.logsigmoid(logits) + (
            1 - y
        ) * torch.nn.functional.logsigmoid(-logits)
        log_masses = torch.as_tensor(np.log(masses / masses.sum()), dtype=torch.float32)
        exact = -((scores * (y != -1)).sum(-1) + log_masses[:, None]).logsumexp(0)
    for proposal in ("prior", "recognition"):
        weights = log_weights(cvae, *xs_ys, num_particles=particles, proposal=proposal)
        relative = (
            weights.softmax(0) * particles
        )  # the delta method gives the error of the log of a mean
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
    monkeypatch.setattr(estimators, "ROWS_AT_ONCE", rows)
    dataset.original = dataset.original.select(range(20))
    torch.testing.assert_close(
        estimate_cll(cvae, dataset, num_particles=10), expected[:20], rtol=1e-5, atol=1e-3
    )


def test_chunks_bound_what_is_decoded_at_once(cvae, dataset, monkeypatch):
    rows: list[int] = []
    decode = cvae.generation_net.logits

    def counted(z, *arguments):
        rows.append(z[..., 0].numel())
        return decode(z, *arguments)

    dataset.original = dataset.original.select(range(40))
    monkeypatch.setattr(cvae.generation_net, "logits", counted)
    monkeypatch.setattr(estimators, "ROWS_AT_ONCE", 64)
    for particles in (1, 10, 200):
        rows.clear()
        nll = estimate_cll(cvae, dataset, num_particles=particles)
        assert len(nll) == 40 and max(rows) <= 64 and sum(rows) == 40 * particles


def test_cached_baseline_predictions_change_nothing(cvae, dataset):
    pyro.set_rng_seed(2)
    computed = estimate_cll(cvae, dataset, num_particles=3)
    dataset.cache_baseline_predictions(cvae.baseline_predictions)
    pyro.set_rng_seed(2)
    torch.testing.assert_close(estimate_cll(cvae, dataset, num_particles=3), computed)


def test_baseline_is_scored_on_missing_pixels(cvae, dataset, xs_ys):
    y, probabilities = xs_ys[1].view(20, 784), cvae.baseline_net(xs_ys[0])
    scores = y * probabilities.log() + (1 - y) * (1 - probabilities).log()
    expected = -(scores * (y != -1)).sum(-1).detach().double()
    torch.testing.assert_close(
        baseline_nll(cvae.baseline_net, dataset)[:20], expected, rtol=1e-4, atol=1e-3
    )


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
    assert kl.shape == (3, 200) and kl.dtype == torch.float64
    with torch.no_grad():
        q_loc, q_scale = (t.double() for t in cvae.recognition_net(*xs_ys))
        p_loc, p_scale = (
            t.double() for t in cvae.prior_net(xs_ys[0], cvae.baseline_predictions(xs_ys[0]))
        )
    expected = (
        (p_scale / q_scale).log() + (q_scale**2 + (q_loc - p_loc) ** 2) / (2 * p_scale**2) - 0.5
    )
    torch.testing.assert_close(kl.t()[:20], expected, rtol=1e-4, atol=1e-6)


class SwitchedDecoder(Decoder):
    """One latent variable, of which only the sign matters: so the marginal has a closed form."""

    def __init__(self, below, above):
        super().__init__(1, 1, 1)
        self.below, self.above = below, above

    def logits(self, z, x=None, pixels=None):
        return torch.where(z > 0, self.above[pixels], self.below[pixels])


class Toy:
    r"""A CVAE whose rows are all known in closed form.

    .. math:: p(y|x) = \Phi(a) \, p(y|z > 0) + (1 - \Phi(a)) \, p(y|z < 0), \quad a = \mu / \sigma
    """

    PRIOR, POSTERIOR = (0.3, 1.2), (0.6, 1.3)  # location, scale

    def __init__(self, images):
        self.cvae = CVAE(1, 4, 4)
        make_constant(self.cvae.prior_net, *self.PRIOR)
        make_constant(self.cvae.recognition_net, *self.POSTERIOR)
        below = torch.randn(784) / 10
        self.decoder = SwitchedDecoder(below, below + torch.randn(784) / 5)
        self.cvae.generation_net = self.decoder
        missing = torch.zeros(28, 28, dtype=torch.bool)
        missing[20:, 20:] = True
        self.xs = torch.where(missing, -1.0, 0.5).expand(images, 28, 28)
        self.ys = torch.where(self.xs == -1, torch.bernoulli(torch.full((28, 28), 0.5)), -1.0)

    def weights(self, particles, proposal="recognition"):
        return log_weights(
            self.cvae, self.xs, self.ys, num_particles=particles, proposal=proposal
        ).double()

    def likelihoods(self):
        """Log likelihoods of the two signs, above first."""
        missing = (self.ys[0] != -1).flatten()
        y = self.ys[0].flatten()[missing].double()
        return [
            torch.distributions.Bernoulli(logits=logits[missing].double()).log_prob(y).sum()
            for logits in (self.decoder.above, self.decoder.below)
        ]

    def nll(self):
        above, below = self.likelihoods()
        above_zero = positive(*self.PRIOR)
        return -torch.logaddexp(above + math.log(above_zero), below + math.log(1 - above_zero))

    def negative_elbo(self):
        above, below = self.likelihoods()
        above_zero = positive(*self.POSTERIOR)
        (m, s), (q, r) = self.PRIOR, self.POSTERIOR
        kl = math.log(s / r) + (r**2 + (q - m) ** 2) / (2 * s**2) - 0.5
        return kl - above_zero * above - (1 - above_zero) * below


def positive(loc, scale):
    return 0.5 * (1 + math.erf(loc / scale / math.sqrt(2)))


def test_all_three_rows_have_the_toys_closed_forms():
    toy, images, particles = Toy(500), 500, 300
    for per_image, exact in (
        (monte_carlo(toy.weights(particles)), toy.negative_elbo()),
        (importance_sampling(toy.weights(particles, "prior")), toy.nll()),
        (importance_sampling(toy.weights(particles)), toy.nll()),
    ):
        error = per_image.std() / math.sqrt(images)
        assert (
            abs(per_image.mean() - exact) < 4 * error + per_image.var()
        )  # the last for the bias, var / 2
    assert toy.negative_elbo() - toy.nll() > 0.1  # else the bound would pass for the rest


def test_bias_of_importance_sampling_shrinks_with_the_number_of_samples():
    """Too high by Var(w) / (2 S p(y)^2) with S samples, and by all that the bound lacks with one."""
    toy, images = Toy(16_000), 16_000
    relative = (toy.weights(50) + toy.nll()).exp()
    for particles, slack in ((1, 0), (4, 0.3), (16, 0.1), (64, 0.05)):
        per_image = importance_sampling(toy.weights(particles))
        bias, error = per_image.mean() - toy.nll(), per_image.std() / math.sqrt(images)
        if particles == 1:
            assert abs(bias - (toy.negative_elbo() - toy.nll())) < 4 * error
        else:
            expected = relative.var() / (2 * particles)
            assert abs(bias - expected) < 4 * error + slack * expected  # of the next order in 1 / S


def test_renyi_elbo_of_order_zero_is_importance_sampling(cvae, xs_ys):
    """At batch size 1, where Pyro sums over no images, and with the same noise."""
    xs, ys = (values[:1] for values in xs_ys)
    pyro.set_rng_seed(4)
    renyi = pyro.infer.RenyiELBO(
        alpha=0, num_particles=30, vectorize_particles=True, max_plate_nesting=1
    )
    theirs = renyi.loss(cvae.model, cvae.guide, xs, ys)
    pyro.set_rng_seed(4)
    ours = importance_sampling(log_weights(cvae, xs, ys, num_particles=30))
    assert ours.item() == pytest.approx(theirs, rel=1e-6)


def test_recognition_net_set_to_the_prior_net_has_no_kl(cvae, dataset):
    make_constant(cvae.prior_net, -0.2, 1.3)
    cvae.recognition_net.load_state_dict(cvae.prior_net.state_dict())
    assert (kl_per_latent(cvae, dataset) == 0).all()


def test_objective_has_the_kl_of_torch(cvae, xs_ys):
    """With a decoder that ignores z, nothing in the training loss is left to chance."""
    ignore_z(cvae)
    loss = pyro.infer.TraceMeanField_ELBO().loss(cvae.model, cvae.guide, *xs_ys)
    with torch.no_grad():
        q = torch.distributions.Normal(*cvae.recognition_net(*xs_ys))
        p = torch.distributions.Normal(
            *cvae.prior_net(xs_ys[0], cvae.baseline_predictions(xs_ys[0]))
        )
        kl = torch.distributions.kl_divergence(q, p).sum()
    assert loss == pytest.approx((known_nll(cvae, *xs_ys).sum() + kl).item(), rel=1e-6)


@pytest.mark.parametrize("rows", [1, 7, 64, 200, 10_000])
def test_however_particles_are_chunked_their_weights_are_averaged_once(
    cvae, dataset, rows, monkeypatch
):
    weights = 30 * torch.randn(50, 200)
    image = particle = 0

    def in_turn(_, xs, *__, num_particles, **___):
        nonlocal image, particle
        chunk = weights[particle : particle + num_particles, image : image + len(xs)]
        particle += num_particles
        if particle == 50:
            image, particle = image + len(xs), 0
        return chunk

    monkeypatch.setattr(estimators, "log_weights", in_turn)
    monkeypatch.setattr(estimators, "ROWS_AT_ONCE", rows)
    for reduction in (importance_sampling, monte_carlo):
        image = 0
        per_image = estimate_cll(cvae, dataset, num_particles=50, reduction=reduction)
        torch.testing.assert_close(per_image, reduction(weights).double(), rtol=1e-5, atol=1e-4)


def test_single_precision_is_enough(cvae, xs_ys):
    """The prior as a proposal and a scale near 0 leave nothing to chance."""
    make_constant(cvae.prior_net, 0.7, 1e-7)
    single = log_weights(cvae, *xs_ys, num_particles=2, proposal="prior")
    double = log_weights(
        cvae.double(), *(values.double() for values in xs_ys), num_particles=2, proposal="prior"
    )
    assert double.dtype == torch.float64
    torch.testing.assert_close(single.double(), double, rtol=1e-6, atol=1e-4)
