import math

import pyro
import pytest
import torch
from torch.distributions import Bernoulli, Normal, kl_divergence

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
from cvae.model import CVAE, Decoder
from cvae.train import importance_weighted_elbo

from .conftest import Z_DIM, make_constant


def ignore_z(cvae):
    with torch.no_grad():
        cvae.generation_net.fc1.weight.zero_()


def log_likelihood(cvae, z, ys):
    """Of the missing pixels, shape (*particles, batch)."""
    y = ys.flatten(1)
    scores = Bernoulli(logits=cvae.generation_net.logits(z), validate_args=False).log_prob(y)
    return (scores * (y != -1)).sum(-1)


def posterior_and_prior(cvae, xs, ys):
    prior = Normal(*cvae.prior_net(xs, cvae.baseline_predictions(xs)))
    return Normal(*cvae.recognition_net(xs, ys)), prior


@torch.no_grad()
def test_weights_are_the_formula(cvae, xs_ys):
    pyro.set_rng_seed(0)
    log_w = log_weights(cvae, *xs_ys, num_particles=5)
    assert log_w.shape == (5, 20)
    pyro.set_rng_seed(0)
    q, p = posterior_and_prior(cvae, *xs_ys)
    z = q.sample((5,))
    expected = log_likelihood(cvae, z, xs_ys[1]) + (p.log_prob(z) - q.log_prob(z)).sum(-1)
    torch.testing.assert_close(log_w, expected, rtol=1e-4, atol=1e-3)


def test_weights_carry_no_gradient_and_leave_nothing_in_the_store(cvae, xs_ys):
    log_w = log_weights(cvae, *xs_ys, num_particles=2)
    assert not log_w.requires_grad and not pyro.get_param_store().keys()


@pytest.mark.parametrize("proposal", ["recognition", "prior"])
@pytest.mark.parametrize("reduction", [monte_carlo, importance_sampling])
def test_exact_when_the_decoder_ignores_z(cvae, dataset, xs_ys, proposal, reduction):
    """From the prior, and from the posterior if that is the prior: no weight depends on z."""
    ignore_z(cvae)
    if proposal == "recognition":
        make_constant(cvae.prior_net, 0.3, 0.7)
        cvae.recognition_net.load_state_dict(cvae.prior_net.state_dict())
    nll = estimate_cll(cvae, dataset, num_particles=3, proposal=proposal, reduction=reduction)
    assert nll.dtype == torch.float64 and nll.shape == (200,)
    with torch.no_grad():
        expected = -log_likelihood(cvae, torch.zeros(20, Z_DIM), xs_ys[1]).double()
    torch.testing.assert_close(nll[:20], expected, rtol=1e-5, atol=1e-3)


def test_proposals_are_equal_when_the_recognition_net_is_the_prior_net(cvae, dataset, xs_ys):
    make_constant(cvae.prior_net, -0.2, 1.3)
    cvae.recognition_net.load_state_dict(cvae.prior_net.state_dict())
    pyro.set_rng_seed(1)
    recognition = log_weights(cvae, *xs_ys, num_particles=6)
    pyro.set_rng_seed(1)
    assert torch.equal(recognition, log_weights(cvae, *xs_ys, num_particles=6, proposal="prior"))
    assert (kl_per_latent(cvae, dataset)[0] == 0).all()


@torch.no_grad()
def test_monte_carlo_has_the_closed_form_kl(cvae, xs_ys):
    """With a decoder that ignores z, the negative ELBO is the exact value plus the KL."""
    ignore_z(cvae)
    xs, ys = (values[:8] for values in xs_ys)
    kl = kl_divergence(*posterior_and_prior(cvae, xs, ys)).sum(-1)
    exact = -log_likelihood(cvae, torch.zeros(8, Z_DIM), ys)
    excess = -log_weights(cvae, xs, ys, num_particles=2000) - exact
    standard_error = excess.std(0) / math.sqrt(2000)
    assert (abs(excess.mean(0) - kl) < 5 * standard_error + 1e-3).all()
    loss = pyro.infer.TraceMeanField_ELBO().loss(cvae.model, cvae.guide, xs, ys)
    assert loss == pytest.approx((exact + kl).sum().item(), rel=1e-6)  # nothing is left to chance


def test_reductions_obey_jensens_inequality():
    log_w = 3 * torch.randn(7, 30)
    assert (monte_carlo(log_w) > importance_sampling(log_w)).all()
    torch.testing.assert_close(monte_carlo(log_w[:1]), importance_sampling(log_w[:1]))
    torch.testing.assert_close(importance_sampling(log_w + 500), importance_sampling(log_w) - 500)


@pytest.mark.parametrize("particles", [1, 10, 200])
def test_chunks_bound_what_is_decoded_at_once(cvae, few, particles, monkeypatch):
    rows: list[int] = []
    decode = cvae.generation_net.logits

    def counted(z, *arguments, **options):
        rows.append(z[..., 0].numel())
        return decode(z, *arguments, **options)

    monkeypatch.setattr(cvae.generation_net, "logits", counted)
    monkeypatch.setattr(estimators, "ROWS_AT_ONCE", 64)
    nll = estimate_cll(cvae, few["val"].dataset, num_particles=particles)
    assert len(nll) == 20 and max(rows) <= 64 and sum(rows) == 20 * particles


@pytest.mark.parametrize("rows", [1, 7, 64, 200, 10_000])
def test_however_particles_are_chunked_their_weights_are_averaged_once(
    cvae, dataset, rows, monkeypatch
):
    log_w = 30 * torch.randn(50, 200)
    image = particle = 0

    def in_turn(_, xs, *__, num_particles, **___):
        nonlocal image, particle
        chunk = log_w[particle : particle + num_particles, image : image + len(xs)]
        particle += num_particles
        if particle == 50:
            image, particle = image + len(xs), 0
        return chunk

    monkeypatch.setattr(estimators, "log_weights", in_turn)
    monkeypatch.setattr(estimators, "ROWS_AT_ONCE", rows)
    for reduction in (importance_sampling, monte_carlo):
        image = 0
        per_image = estimate_cll(cvae, dataset, num_particles=50, reduction=reduction)
        torch.testing.assert_close(per_image, reduction(log_w).double(), rtol=1e-5, atol=1e-4)


def test_baseline_is_scored_on_missing_pixels(cvae, dataset, xs_ys):
    y, probabilities = xs_ys[1].view(20, 784), cvae.baseline_net(xs_ys[0])
    scores = y * probabilities.log() + (1 - y) * (1 - probabilities).log()
    expected = -(scores * (y != -1)).sum(-1).detach().double()
    found = baseline_nll(cvae.baseline_net, dataset)[:20]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-3)


def test_effective_sample_size_counts_equal_weights():
    log_w = torch.full((10, 4), -math.inf)
    for image, count in enumerate((1, 2, 5, 10)):
        log_w[:count, image] = -800.0  # far below what a float could hold as a weight
    torch.testing.assert_close(effective_sample_size(log_w), torch.tensor([1.0, 2.0, 5.0, 10.0]))
    log_w = torch.randn(6, 50)
    plain = log_w.exp().sum(0) ** 2 / log_w.exp().pow(2).sum(0)
    torch.testing.assert_close(effective_sample_size(log_w), plain)


@torch.no_grad()
def test_kl_is_that_of_two_gaussians(cvae, dataset, xs_ys):
    kl, samples = kl_per_latent(cvae, dataset, 7)
    assert kl.shape == (Z_DIM, 200) and kl.dtype == torch.float64 and samples == 0
    q, p = posterior_and_prior(cvae, *xs_ys)
    variances = (q.scale**2 + (q.loc - p.loc) ** 2) / (2 * p.scale**2)
    expected = ((p.scale / q.scale).log() + variances - 0.5).double()
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

    def log_weights(self, particles, proposal="recognition"):
        options = {"num_particles": particles, "proposal": proposal}
        return log_weights(self.cvae, self.xs, self.ys, **options).double()

    def likelihoods(self):
        """Log likelihoods of the two signs, above first."""
        missing = (self.ys[0] != -1).flatten()
        y = self.ys[0].flatten()[missing].double()
        both = (self.decoder.above[missing].double(), self.decoder.below[missing].double())
        return [Bernoulli(logits=logits).log_prob(y).sum() for logits in both]

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
    toy, images, particles = Toy(500), 500, 100
    for per_image, exact in (
        (monte_carlo(toy.log_weights(particles)), toy.negative_elbo()),
        (importance_sampling(toy.log_weights(particles, "prior")), toy.nll()),
        (importance_sampling(toy.log_weights(particles)), toy.nll()),
    ):
        standard_error = per_image.std() / math.sqrt(images)
        bias = per_image.var() / 2  # of the log of a mean
        assert abs(per_image.mean() - exact) < 4 * standard_error + 2 * bias
    assert toy.negative_elbo() - toy.nll() > 0.1  # else the bound would pass for the rest


def test_bias_of_importance_sampling_shrinks_with_the_number_of_samples():
    """Too high by Var(w) / (2 S p(y)^2) with S samples, and with one by what the bound lacks."""
    toy, images = Toy(8000), 8000
    relative = (toy.log_weights(50) + toy.nll()).exp()
    for particles, next_order in ((1, 0), (4, 0.3), (16, 0.1)):
        per_image = importance_sampling(toy.log_weights(particles))
        bias, standard_error = per_image.mean() - toy.nll(), per_image.std() / math.sqrt(images)
        if particles == 1:
            assert abs(bias - (toy.negative_elbo() - toy.nll())) < 4 * standard_error
        else:
            expected = relative.var() / (2 * particles)
            assert expected > 4 * standard_error  # else there would be nothing to see
            assert abs(bias - expected) < 4 * standard_error + next_order * expected


@pytest.mark.parametrize("images", [1, 20])
def test_importance_weighted_bound_is_importance_sampling_of_each_image(cvae, xs_ys, images):
    """With the same noise, summed over images."""
    xs, ys = (values[:images] for values in xs_ys)
    pyro.set_rng_seed(4)
    bound = importance_weighted_elbo(30).loss(cvae.model, cvae.guide, xs, ys)
    pyro.set_rng_seed(4)
    per_image = importance_sampling(log_weights(cvae, xs, ys, num_particles=30))
    assert per_image.sum().item() == pytest.approx(bound, rel=1e-6)


def test_importance_weighted_bound_of_one_sample_is_the_elbo(cvae, xs_ys):
    """In value and in every gradient, with the same noise."""
    values, gradients = [], []
    for bound in (importance_weighted_elbo(1), pyro.infer.Trace_ELBO()):
        pyro.set_rng_seed(4)
        cvae.zero_grad()
        with pyro.validation_enabled(False):
            values.append(bound.loss_and_grads(cvae.model, cvae.guide, *xs_ys))
        trained = [parameter for parameter in cvae.parameters() if parameter.requires_grad]
        gradients.append([parameter.grad.clone() for parameter in trained])
    assert values[0] == pytest.approx(values[1], rel=1e-6)
    for ours, theirs in zip(*gradients, strict=True):
        assert theirs.any()
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_single_precision_is_enough(cvae, xs_ys):
    """The prior as a proposal and a scale near 0 leave nothing to chance."""
    make_constant(cvae.prior_net, 0.7, 1e-7)
    single = log_weights(cvae, *xs_ys, num_particles=2, proposal="prior")
    xs, ys = (values.double() for values in xs_ys)
    double = log_weights(cvae.double(), xs, ys, num_particles=2, proposal="prior")
    assert double.dtype == torch.float64
    torch.testing.assert_close(single.double(), double, rtol=1e-6, atol=1e-4)
