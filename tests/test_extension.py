# mypy: disable-error-code="assignment, override"
"""Changes that people make to the model; each works without touching the loop or the estimators.

To check a model of your own, add its class to ``CVAES``: the tests of this file take any CVAE.
"""

import copy
import math

import pyro
import pyro.distributions as dist
import pyro.distributions.transforms as transforms
import pytest
import torch
import torch.nn as nn
from pyro import infer
from pyro.nn import PyroModule, PyroParam
from torch.distributions import constraints

from cvae.baseline import missing_pixel_indices
from cvae.config import TrainingConfig
from cvae.data import make_loader
from cvae.estimators import estimate_cll, importance_sampling, log_weights
from cvae.evaluate import Estimate, draw_samples, evaluate
from cvae.model import CVAE
from cvae.train import CVAETraining, TrainingError, train_cvae

from .conftest import HIDDEN_1, HIDDEN_2, Z_DIM, assert_same_weights, make_constant

# Pyro's hint for the tutorial's own line
pytestmark = pytest.mark.filterwarnings("ignore:baseline_net.* was not registered")


class Small(CVAE):
    """The tutorial's networks, small."""

    def __init__(self):
        super().__init__(Z_DIM, HIDDEN_1, HIDDEN_2)


class LaplacePrior(Small):
    """Another prior is another ``prior``, and nothing else."""

    def prior(self, xs):
        return dist.Laplace(*self.prior_net(xs, self.baseline_predictions(xs))).to_event(1)


class MixturePrior(Small):
    """Each latent is one of two Gaussians; PyTorch has a KL of ``Independent``, but none inside."""

    def prior(self, xs):
        loc, scale = self.prior_net(xs, self.baseline_predictions(xs))
        parts = dist.Normal(torch.stack([loc - 1, loc + 1], -1), scale.unsqueeze(-1))
        return dist.MixtureSameFamily(dist.Categorical(torch.ones(2) / 2), parts).to_event(1)


class FlowPosterior(Small):
    def __init__(self):
        super().__init__()
        self.flow = transforms.affine_autoregressive(Z_DIM, [8])

    def posterior(self, xs, ys):
        return dist.TransformedDistribution(super().posterior(xs, ys), [self.flow])


class OwnParameters(Small):
    def __init__(self):
        super().__init__()
        self.width = PyroParam(torch.tensor(0.5), constraint=constraints.positive)
        self.shift = PyroModule[nn.Linear](Z_DIM, Z_DIM)

    def prior(self, xs):
        loc, scale = self.prior_net(xs, self.baseline_predictions(xs))
        return dist.Normal(self.shift(loc), scale * self.width).to_event(1)


class TutorialsModel(Small):
    """Model and guide written out as in the tutorial, with columns in place of boolean masks."""

    def likelihood(self, probs):
        return dist.Bernoulli(probs)

    def model(self, xs, ys=None):
        pyro.module("generation_net", self)
        with pyro.plate("data"):
            with torch.no_grad():
                y_hat = self.baseline_net(xs).view(xs.shape)
            prior_loc, prior_scale = self.prior_net(xs, y_hat)
            zs = pyro.sample("z", dist.Normal(prior_loc, prior_scale).to_event(1))
            loc = self.generation_net(zs)
            if ys is not None:
                missing = missing_pixel_indices(xs)
                likelihood = self.likelihood(loc[..., missing]).to_event(1)
                pyro.sample("y", likelihood, obs=ys.flatten(1)[:, missing])
            else:
                pyro.deterministic("y", loc.detach())
            return loc

    def guide(self, xs, ys=None):
        with pyro.plate("data"):
            if ys is None:
                loc, scale = self.prior_net(xs, self.baseline_net(xs).view(xs.shape))
            else:
                loc, scale = self.recognition_net(xs, ys)
            pyro.sample("z", dist.Normal(loc, scale).to_event(1))


class OtherLikelihood(TutorialsModel):
    def __init__(self):
        super().__init__()
        self.log_spread = nn.Parameter(torch.tensor(-1.5))

    def likelihood(self, probs):
        return dist.Laplace(probs, self.log_spread.exp())


class Convolutions(nn.Module):
    """A generation network that sees the known pixels too, and has nothing but ``forward``."""

    def __init__(self):
        super().__init__()
        up, out = nn.ConvTranspose2d(1, 4, 2, 2), nn.ConvTranspose2d(4, 1, 2, 2)
        self.up = nn.Sequential(up, nn.ReLU(), out, nn.Sigmoid())
        self.see, self.linear = nn.Linear(784, Z_DIM), nn.Linear(Z_DIM, 49)

    def forward(self, z, x):
        maps = self.linear(z + self.see(x)).view(-1, 1, 7, 7)
        return self.up(maps).view(*z.shape[:-1], 784)


class ConvolutionalEncoder(nn.Module):
    """A prior or recognition network of convolutions, with dropout and batch normalisation."""

    def __init__(self):
        super().__init__()
        layers = nn.Conv2d(2, 4, 4, 4), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.2)
        self.layers, self.out = nn.Sequential(*layers), nn.Linear(4 * 49, 2 * Z_DIM)

    def forward(self, x, y):
        hidden = self.layers(torch.stack([x, y], 1).view(-1, 2, 28, 28)).flatten(1)
        loc, log_scale = self.out(hidden).chunk(2, -1)
        return loc, log_scale.exp()


class ConvolutionalGeneration(CVAE):
    def __init__(self):
        super().__init__(Z_DIM, HIDDEN_1, HIDDEN_2, generation_input="xz")
        self.generation_net = Convolutions()


class ConvolutionalEncoders(Small):
    def __init__(self):
        super().__init__()
        self.prior_net, self.recognition_net = ConvolutionalEncoder(), ConvolutionalEncoder()


CVAES = [Small, LaplacePrior, MixturePrior, FlowPosterior, OwnParameters]
CVAES += [TutorialsModel, OtherLikelihood, ConvolutionalGeneration, ConvolutionalEncoders]
WITHOUT_CLOSED_FORM = [MixturePrior, FlowPosterior]

any_cvae = pytest.mark.parametrize("kind", CVAES)


def terms_of_traces(cvae, xs, ys, particles):
    """Estimate reconstruction and KL by plain traces: the means, and the deviation of one draw."""
    terms = []
    with torch.no_grad(), pyro.get_param_store().scope(), pyro.validation_enabled(False):
        for _ in range(particles):
            guide = pyro.poutine.trace(cvae.guide).get_trace(xs, ys)
            model = pyro.poutine.trace(pyro.poutine.replay(cvae.model, guide)).get_trace(xs, ys)
            z, y = guide.nodes["z"]["value"], model.nodes["y"]
            kl = guide.nodes["z"]["fn"].log_prob(z) - model.nodes["z"]["fn"].log_prob(z)
            terms.append([-y["fn"].log_prob(y["value"]).mean(), kl.mean()])
    values = torch.tensor(terms)
    return values.mean(0).tolist(), values.std(0).tolist()


@pytest.mark.parametrize("elbo", [infer.TraceMeanField_ELBO, infer.Trace_ELBO])
@any_cvae
def test_training_lowers_the_bound_that_history_and_diagnostics_show(kind, elbo, few):
    """Its two terms are those of a direct computation."""
    cvae, val = kind(), few["val"].dataset
    history = train_cvae(cvae, few, TrainingConfig(num_epochs=15, learning_rate=5e-3), elbo=elbo())
    assert history.best_loss < 0.8 * history.epochs[0]["val"]
    for module in cvae.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.0
    draws, repeats = 40, 15
    frozen = TrainingConfig(num_epochs=repeats, early_stop_patience=repeats, learning_rate=1e-30)
    whole = {split: make_loader(val, 20) for split in few}
    epochs = train_cvae(cvae, whole, frozen, elbo=elbo()).epochs
    evaluation = evaluate(cvae, val, num_particles=60, num_importance_samples=5)
    closed = kind not in WITHOUT_CLOSED_FORM
    assert ("Active latents" in evaluation.diagnostics) == closed
    batch = val[range(20)]
    means, of_one_draw = terms_of_traces(cvae, batch["input"], batch["output"], draws)
    particles = {"reconstruction": 60 if closed else 1, "kl": math.inf if closed else 1}
    for name, mean, deviation in zip(("reconstruction", "kl"), means, of_one_draw, strict=True):
        found = sum(epoch[name] for epoch in epochs) / repeats
        error = deviation * math.sqrt(1 / draws + 1 / repeats)  # the standard error
        assert found == pytest.approx(mean, abs=5 * error + 1e-3 * abs(mean))
        estimate = evaluation.diagnostics["KL" if name == "kl" else "Reconstruction"]
        assert isinstance(estimate, Estimate)
        both = math.hypot(*of_one_draw)  # the sampled KL is subtracted in the reconstruction
        error = both * math.sqrt(1 / draws + 1 / particles[name])
        assert estimate.mean == pytest.approx(mean, abs=5 * error + 1e-3 * abs(mean))
    assert all(e["val"] == pytest.approx(e["reconstruction"] + e["kl"]) for e in epochs)


@any_cvae
def test_every_parameter_outside_the_baseline_is_trained_and_restored(kind, few, tmp_path):
    cvae, config = kind(), TrainingConfig(num_epochs=2, learning_rate=1e-2)
    before, training = copy.deepcopy(cvae.state_dict()), CVAETraining(cvae, few, config)
    training.run()
    for name, parameter in cvae.named_parameters():
        assert torch.equal(parameter, before[name]) == name.startswith("baseline_net."), name
    torch.save(training.state_dict(), tmp_path / "training.pt")
    saved, restored = torch.load(tmp_path / "training.pt", weights_only=True), kind()
    assert saved["best"].keys() == cvae.state_dict().keys()
    training = CVAETraining(restored, few, config)
    training.load_state_dict(saved)
    training.run()
    assert_same_weights(cvae, restored)
    assert draw_samples(restored, few["val"].dataset[range(4)]["input"], 2).shape == (2, 4, 28, 28)


def test_parameter_that_the_cvae_does_not_own_is_refused(few):
    class Bare(TutorialsModel):
        def likelihood(self, probs):
            spread = pyro.param("spread", torch.tensor(0.3), constraint=constraints.positive)
            return dist.Laplace(probs, spread)

    with pytest.raises(TrainingError, match="'spread' would be neither trained nor saved: make it"):
        train_cvae(Bare(), few)


@any_cvae
def test_weights_are_those_of_the_traces(kind, xs_ys):
    """Each log weight is log p(y|z) + log p(z|x) - log r(z) of its own sample."""
    cvae = kind().eval()
    for proposal, ys in (("recognition", xs_ys[1]), ("prior", None)):
        pyro.set_rng_seed(1)
        log_w = log_weights(cvae, *xs_ys, num_particles=1, proposal=proposal)
        pyro.set_rng_seed(1)
        with torch.no_grad(), pyro.validation_enabled(False):
            guide = pyro.poutine.trace(cvae.guide).get_trace(xs_ys[0], ys)
            model = pyro.poutine.trace(pyro.poutine.replay(cvae.model, guide)).get_trace(*xs_ys)
            z, p, y = guide.nodes["z"]["value"], model.nodes["z"]["fn"], model.nodes["y"]
            expected = y["fn"].log_prob(y["value"]) + p.log_prob(z)
            expected -= guide.nodes["z"]["fn"].log_prob(z)
        torch.testing.assert_close(log_w[0], expected, rtol=1e-4, atol=1e-3)


@any_cvae
def test_bound_is_above_importance_sampling(kind, few):
    """By Jensen's inequality; an estimate of one's own is a reduction."""

    def both(log_w):
        return torch.stack([-log_w.mean(0), importance_sampling(log_w)])

    cvae, dataset = kind().eval(), few["val"].dataset
    bound, tight = estimate_cll(cvae, dataset, num_particles=50, reduction=both)
    assert bound.shape == (20,) and (bound >= tight - 1e-3).all() and (bound > tight + 0.01).any()


@any_cvae
def test_proposals_agree(kind, xs_ys):
    """With many samples, either finds the same likelihood of what hardly depends on z."""
    cvae = kind().eval()
    with torch.no_grad():
        for parameter in cvae.generation_net.parameters():
            parameter *= 0.3
    estimates, variances = [], []
    xs, ys = (values[:5] for values in xs_ys)
    for proposal in ("recognition", "prior"):
        log_w = log_weights(cvae, xs, ys, num_particles=1000, proposal=proposal)
        estimates.append(importance_sampling(log_w))
        # of the log of a mean, by the delta method
        variances.append((log_w.softmax(0) * 1000).var(0) / 1000)
    standard_error = (variances[0] + variances[1]).sqrt()
    assert (abs(estimates[0] - estimates[1]) < 6 * standard_error + 1e-3).all()


def test_another_optimizer_steps_all_weights(few, monkeypatch):
    rmsprop = torch.optim.RMSprop
    monkeypatch.setattr("cvae.optimizer.AdamW", lambda params, lr, **_: rmsprop(params, lr=lr))
    history = train_cvae(Small(), few, TrainingConfig(num_epochs=20))
    assert history.best_loss < 0.8 * history.epochs[0]["val"]


ELBOS = [infer.RenyiELBO(num_particles=2), infer.JitTrace_ELBO(ignore_jit_warnings=True)]
ELBOS += [infer.Trace_ELBO(num_particles=3, vectorize_particles=True, max_plate_nesting=1)]


@pytest.mark.parametrize("kind", [MixturePrior, OwnParameters, TutorialsModel])
@pytest.mark.parametrize("elbo", ELBOS)
def test_pyros_bounds_train_with_pyros_own_optimizer(kind, elbo, xs_ys):
    """A loop of one's own, to which every parameter but the baseline's is known."""
    cvae = kind().eval()
    svi = infer.SVI(cvae.model, cvae.guide, pyro.optim.Adam({"lr": 1e-2}), copy.deepcopy(elbo))
    with pyro.validation_enabled(False):  # the tutorial's likelihood refuses grey pixels
        losses = [svi.step(*xs_ys) for _ in range(20)]
    assert sum(losses[-3:]) < 0.95 * sum(losses[:3])
    known = set(pyro.get_param_store().values())
    for name, parameter in cvae.named_parameters():
        assert (parameter in known) != name.startswith("baseline_net.")


@pytest.mark.parametrize("elbo", ELBOS)
def test_pyros_bounds_train_in_the_loop(elbo, few):
    few["train"] = make_loader(few["val"].dataset, 10)  # JitTrace_ELBO needs batches of one size
    training, elbo = TrainingConfig(num_epochs=20, learning_rate=3e-3), copy.deepcopy(elbo)
    history = train_cvae(Small(), few, training, elbo=elbo)
    assert history.best_loss < 0.8 * history.epochs[0]["val"]
    if isinstance(elbo, infer.JitTrace_ELBO):
        assert len(elbo._loss_and_surrogate_loss.compiled) == 1  # once, not in each epoch


def test_importance_and_nuts_take_model_and_guide(xs_ys):
    """Evidence and posterior of a single latent variable, by Pyro's tools and by quadrature."""
    xs, ys = (values[:1] for values in xs_ys)
    cvae = CVAE(1, HIDDEN_1, HIDDEN_2).eval()
    make_constant(cvae.prior_net, 0.5, 1.5)
    nodes = torch.linspace(-8, 9, 2001)
    with torch.no_grad():
        trace = pyro.poutine.trace(pyro.condition(cvae.model, {"z": nodes[:, None]}))
        joint = trace.get_trace(xs.expand(2001, 28, 28), ys.expand(2001, 28, 28))
        joint.compute_log_prob()
    log_joint = joint.nodes["y"]["log_prob"] + joint.nodes["z"]["log_prob"]
    mass = log_joint.softmax(0)
    mean = (mass * nodes).sum()
    deviation = (mass * (nodes - mean) ** 2).sum().sqrt()

    importance = infer.Importance(cvae.model, cvae.guide, num_samples=500).run(xs, ys)
    relative = torch.stack(importance.log_weights).softmax(0) * 500
    error = relative.std().item() / math.sqrt(500)  # of the log of a mean, by the delta method
    evidence = (log_joint.logsumexp(0) + math.log(17 / 2000)).item()
    assert importance.get_log_normalizer().item() == pytest.approx(evidence, abs=5 * error + 1e-3)

    mcmc = infer.MCMC(
        infer.NUTS(cvae.model), num_samples=120, warmup_steps=40, disable_progbar=True
    )
    mcmc.run(xs, ys)
    z = mcmc.get_samples()["z"].flatten()
    # as if 30 of the 120 samples were independent
    assert z.mean().item() == pytest.approx(mean.item(), abs=5 * deviation.item() / math.sqrt(30))
