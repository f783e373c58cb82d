# mypy: disable-error-code="assignment, override"
"""Changes that people make to the model, each of which works without touching the loop or the estimators.

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
from pyro.infer import (
    MCMC,
    NUTS,
    SVI,
    Importance,
    JitTrace_ELBO,
    Predictive,
    RenyiELBO,
    Trace_ELBO,
    TraceMeanField_ELBO,
)
from pyro.nn import PyroModule, PyroParam
from torch.distributions import constraints

from cvae import estimators
from cvae.baseline import BaselineNet, missing_pixel_indices
from cvae.errors import TrainingError
from cvae.estimators import estimate_cll, importance_sampling, log_weights, monte_carlo
from cvae.evaluate import Estimate, evaluate
from cvae.images.loader import make_loader
from cvae.model import CVAE
from cvae.storage.checkpoint import Checkpoint
from cvae.train import train_baseline, train_cvae
from cvae.training.settings import TrainingSettings

from .conftest import HIDDEN_1, HIDDEN_2, Z_DIM, make_constant

FEW_EPOCHS = TrainingSettings(num_epochs=2, learning_rate=1e-2)


class Tutorial(CVAE):
    """The tutorial's networks, small."""

    def __init__(self):
        super().__init__(Z_DIM, HIDDEN_1, HIDDEN_2)


class Plain(Tutorial):
    """Model and guide as in the tutorial, from which the next classes change one thing each."""

    def prior(self, xs):
        return dist.Normal(*self.prior_net(xs, self.baseline_net(xs).view(xs.shape))).to_event(1)

    def posterior(self, xs, ys):
        return dist.Normal(*self.recognition_net(xs, ys)).to_event(1)

    def likelihood(self, probs):
        return dist.Bernoulli(probs, validate_args=False)

    def model(self, xs, ys=None):
        self.register_parameters()
        with pyro.plate("data", len(xs), dim=-1):
            probs = self.generation_net(pyro.sample("z", self.prior(xs)))
            if ys is None:
                pyro.deterministic("y", probs.detach(), event_dim=1)
                return
            missing = missing_pixel_indices(xs)
            target = ys.flatten(1)[:, missing]
            pyro.sample("y", self.likelihood(probs[..., missing]).to_event(1), obs=target)

    def guide(self, xs, ys=None):
        with pyro.plate("data", len(xs), dim=-1):
            pyro.sample("z", self.prior(xs) if ys is None else self.posterior(xs, ys))


class LaplacePrior(Plain):
    def prior(self, xs):
        return dist.Laplace(*self.prior_net(xs, self.baseline_net(xs).view(xs.shape))).to_event(1)


class MixturePrior(Plain):
    """Each latent has a mixture of two Gaussians; PyTorch finds a KL for ``Independent``, but none inside."""

    def prior(self, xs):
        loc, scale = self.prior_net(xs, self.baseline_net(xs).view(xs.shape))
        parts = dist.Normal(torch.stack([loc - 1, loc + 1], -1), scale.unsqueeze(-1))
        return dist.MixtureSameFamily(dist.Categorical(torch.ones(2) / 2), parts).to_event(1)


class JointMixturePrior(Plain):
    """All latents share the part of the mixture that they come from."""

    def prior(self, xs):
        loc, scale = self.prior_net(xs, self.baseline_net(xs).view(xs.shape))
        parts = dist.Normal(torch.stack([loc - 1, loc + 1], -2), scale.unsqueeze(-2)).to_event(1)
        return dist.MixtureSameFamily(dist.Categorical(torch.ones(2) / 2), parts)


class FlowPosterior(Plain):
    def __init__(self):
        super().__init__()
        self.flow = transforms.affine_autoregressive(Z_DIM, [8])

    def posterior(self, xs, ys):
        return dist.TransformedDistribution(super().posterior(xs, ys), [self.flow])


class OtherLikelihood(Plain):
    def likelihood(self, probs):
        return dist.Laplace(probs, 0.2)


class OwnParameters(Plain):
    """A temperature of the likelihood, a scale of the prior, and a module with a parameter of its own."""

    def __init__(self):
        super().__init__()
        self.temperature = nn.Parameter(torch.tensor(1.5))
        self.width = PyroParam(torch.tensor(0.5), constraint=constraints.positive)
        self.shift = PyroModule[nn.Linear](Z_DIM, Z_DIM)

    def prior(self, xs):
        loc, scale = self.prior_net(xs, self.baseline_net(xs).view(xs.shape))
        return dist.Normal(self.shift(loc), scale * self.width).to_event(1)

    def likelihood(self, probs):
        return dist.Bernoulli(logits=probs.logit(1e-6) / self.temperature, validate_args=False)


class Convolutions(nn.Module):
    """A generation network that has nothing but ``forward``."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(Z_DIM, 49)
        self.up = nn.Sequential(
            nn.ConvTranspose2d(1, 4, 2, 2), nn.ReLU(), nn.ConvTranspose2d(4, 1, 2, 2), nn.Sigmoid()
        )

    def forward(self, z):
        return self.up(self.linear(z).view(-1, 1, 7, 7)).view(*z.shape[:-1], 784)


class ConvolutionalEncoder(nn.Module):
    """A prior or recognition network of convolutions, with dropout and batch normalisation."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(2, 4, 4, 4), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.2)
        )
        self.out = nn.Linear(4 * 49, 2 * Z_DIM)

    def forward(self, x, y):
        hidden = self.layers(torch.stack([x, y], 1).view(-1, 2, 28, 28)).flatten(1)
        loc, log_scale = self.out(hidden).chunk(2, -1)
        return loc, log_scale.exp()


class ConvolutionalGeneration(Tutorial):
    def __init__(self):
        super().__init__()
        self.generation_net = Convolutions()


class ConvolutionalPrior(Tutorial):
    def __init__(self):
        super().__init__()
        self.prior_net = ConvolutionalEncoder()


class ConvolutionalRecognition(Tutorial):
    def __init__(self):
        super().__init__()
        self.recognition_net = ConvolutionalEncoder()


CVAES = [
    Tutorial,
    Plain,
    LaplacePrior,
    MixturePrior,
    JointMixturePrior,
    FlowPosterior,
    OtherLikelihood,
]
CVAES += [OwnParameters, ConvolutionalGeneration, ConvolutionalPrior, ConvolutionalRecognition]
WITHOUT_CLOSED_FORM = [MixturePrior, JointMixturePrior, FlowPosterior]

any_cvae = pytest.mark.parametrize("kind", CVAES)
any_elbo = pytest.mark.parametrize("elbo", [TraceMeanField_ELBO, Trace_ELBO])


@pytest.fixture
def few(real_digits):
    """The same 20 digits to train on and to validate."""
    dataset = real_digits[0]["train"]
    dataset.original = dataset.original.select(range(20))
    return {"train": make_loader(dataset, 10, shuffle=True), "val": make_loader(dataset, 20)}


def exact_terms(cvae, dataset, particles=200):
    """Estimate reconstruction and KL of a data set by many samples of plain traces, with standard errors."""
    batch = dataset[range(len(dataset))]
    xs, ys = batch["input"], batch["output"]
    terms = []
    with torch.no_grad(), pyro.get_param_store().scope():
        for _ in range(particles):
            guide = pyro.poutine.trace(cvae.guide).get_trace(xs, ys)
            model = pyro.poutine.trace(pyro.poutine.replay(cvae.model, guide)).get_trace(xs, ys)
            z = guide.nodes["z"]["value"]
            kl = guide.nodes["z"]["fn"].log_prob(z) - model.nodes["z"]["fn"].log_prob(z)
            y = model.nodes["y"]
            terms.append(torch.stack([-y["fn"].log_prob(y["value"]).mean(), kl.mean()]))
    values = torch.stack(terms)
    return values.mean(0).tolist(), (values.std(0) / math.sqrt(particles)).tolist()


@any_elbo
@any_cvae
def test_training_validates_by_the_bound_that_it_minimises(kind, elbo, few):
    """The two terms are those of a direct computation, in the history and in the diagnostics."""
    cvae = kind()
    train_cvae(cvae, few, TrainingSettings(num_epochs=3, learning_rate=1e-2), elbo=elbo())
    frozen = TrainingSettings(num_epochs=1, learning_rate=1e-30)
    histories = [train_cvae(cvae, few, frozen, elbo=elbo()).epochs[0] for _ in range(20)]
    evaluation = evaluate(
        cvae.eval(), few["val"].dataset, num_particles=60, num_importance_samples=5
    )
    (reconstruction, kl), errors = exact_terms(cvae, few["val"].dataset)
    for name, expected, error in zip(("reconstruction", "kl"), (reconstruction, kl), errors):
        found = torch.tensor([epoch[name] for epoch in histories])
        tolerance = 5 * (error + found.std().item() / math.sqrt(len(found))) + 1e-3 * abs(expected)
        assert found.mean().item() == pytest.approx(expected, abs=tolerance)
        estimate = evaluation.diagnostics["KL" if name == "kl" else "Reconstruction"]
        assert isinstance(estimate, Estimate)
        slack = 5 * error * math.sqrt(200) + 1e-3 * abs(
            expected
        )  # the KL may be of one sample an image
        assert estimate.mean == pytest.approx(expected, abs=slack)
    assert all(
        epoch["val"] == pytest.approx(epoch["reconstruction"] + epoch["kl"]) for epoch in histories
    )
    assert ("Active latents" in evaluation.diagnostics) == (kind not in WITHOUT_CLOSED_FORM)


@any_elbo
@any_cvae
def test_training_lowers_the_validation_loss(kind, elbo, few):
    history = train_cvae(
        kind(), few, TrainingSettings(num_epochs=40, learning_rate=3e-3), elbo=elbo()
    )
    assert history.best_loss < 0.8 * history.epochs[0]["val"]


@any_cvae
def test_every_parameter_outside_the_baseline_is_trained_and_restored(kind, few, tmp_path):
    cvae = kind()
    before = copy.deepcopy(cvae.state_dict())
    checkpoint = Checkpoint(tmp_path / "checkpoint.pt", {})
    train_cvae(cvae, few, FEW_EPOCHS, checkpoint=checkpoint)
    for name, parameter in cvae.named_parameters():
        assert torch.equal(parameter, before[name]) == name.startswith("baseline_net."), name
    restored = kind()
    train_cvae(restored, few, FEW_EPOCHS, checkpoint=Checkpoint.load(tmp_path / "checkpoint.pt"))
    for name, value in cvae.state_dict().items():
        assert torch.equal(value, restored.state_dict()[name]) or name.startswith("baseline_net.")


def test_parameter_that_the_cvae_does_not_own_is_refused(few):
    class Bare(Plain):
        def likelihood(self, probs):
            return dist.Laplace(
                probs, pyro.param("spread", torch.tensor(0.3), constraint=constraints.positive)
            )

    with pytest.raises(
        TrainingError, match="'spread' would be neither trained nor saved: make it an attribute"
    ):
        train_cvae(Bare(), few, FEW_EPOCHS)


def test_what_a_checkpoint_holds_has_names(few, tmp_path):
    """Two networks of the same shapes can't be mistaken for one another."""
    train_cvae(
        Tutorial(),
        few,
        TrainingSettings(num_epochs=1),
        checkpoint=Checkpoint(tmp_path / "one.pt", {}),
    )
    history = TrainingSettings(num_epochs=2, early_stop_patience=2)
    train_cvae(
        Tutorial(), few, history, checkpoint=(checkpoint := Checkpoint(tmp_path / "two.pt", {}))
    )
    stored = [Checkpoint.load(tmp_path / name).parts["CVAE"] for name in ("one.pt", "two.pt")]
    for part in stored:
        assert "prior_net.fc1.weight" in part["best_weights"]
    assert checkpoint.parts["CVAE"]["best_weights"].keys() == Tutorial().state_dict().keys()


@any_cvae
def test_weights_are_those_of_the_traces(kind, xs_ys):
    """Each log weight is log p(y|z) + log p(z|x) - log r(z) of its own sample."""
    cvae = kind().eval()
    for proposal, ys in (("recognition", xs_ys[1]), ("prior", None)):
        pyro.set_rng_seed(1)
        weights = log_weights(cvae, *xs_ys, num_particles=1, proposal=proposal)
        pyro.set_rng_seed(1)
        with torch.no_grad():
            guide = pyro.poutine.trace(cvae.guide).get_trace(xs_ys[0], ys)
            z = guide.nodes["z"]["value"]
            model = pyro.poutine.trace(pyro.poutine.replay(cvae.model, guide)).get_trace(*xs_ys)
        p, y = model.nodes["z"]["fn"], model.nodes["y"]
        expected = y["fn"].log_prob(y["value"]) + p.log_prob(z) - guide.nodes["z"]["fn"].log_prob(z)
        torch.testing.assert_close(weights[0], expected, rtol=1e-4, atol=1e-3)


@any_cvae
def test_bound_is_above_importance_sampling(kind, dataset):
    cvae = kind().eval()
    bound = estimate_cll(cvae, dataset, num_particles=10, reduction=monte_carlo)
    excess = Estimate.over(bound - estimate_cll(cvae, dataset, num_particles=50), 10)
    assert excess.standard_error is not None and excess.mean > -3 * excess.standard_error


@any_cvae
def test_proposals_agree(kind, xs_ys):
    """With many samples, either proposal finds the same likelihood of what hardly depends on z."""
    cvae = kind().eval()
    with torch.no_grad():
        for parameter in cvae.generation_net.parameters():
            parameter *= 0.3
    estimates, variances = [], []
    xs, ys = (values[:5] for values in xs_ys)
    for proposal in ("recognition", "prior"):
        weights = log_weights(cvae, xs, ys, num_particles=1000, proposal=proposal)
        estimates.append(importance_sampling(weights))
        variances.append(
            (weights.softmax(0) * 1000).var(0) / 1000
        )  # of the log of a mean, by the delta method
    assert (
        abs(estimates[0] - estimates[1]) < 6 * (variances[0] + variances[1]).sqrt() + 1e-3
    ).all()


@any_cvae
@pytest.mark.parametrize("rows", [7, 64, 10_000])
def test_chunks_change_nothing(kind, rows, dataset, monkeypatch):
    cvae = kind().eval()
    dataset.original = dataset.original.select(range(20))
    pyro.set_rng_seed(0)
    expected = [Estimate.over(estimate_cll(cvae, dataset, num_particles=50), 50)]
    monkeypatch.setattr(estimators, "ROWS_AT_ONCE", rows)
    found = Estimate.over(estimate_cll(cvae, dataset, num_particles=50), 50)
    assert found.num_images == 20 and found.standard_error is not None
    assert abs(found.mean - expected[0].mean) < 3 * found.standard_error


def test_another_estimate_is_another_reduction(cvae, dataset):
    """The largest weight alone is the limit of Rényi's bound for alpha to minus infinity (Li, Turner (2016))."""
    pyro.set_rng_seed(0)
    largest = estimate_cll(
        cvae, dataset, num_particles=20, reduction=lambda weights: -weights.amax(0)
    )
    pyro.set_rng_seed(0)
    average = estimate_cll(cvae, dataset, num_particles=20)
    assert (largest <= average).all() and (average <= largest + math.log(20) + 1e-4).all()


def test_another_optimizer_steps_all_weights(few, monkeypatch):
    monkeypatch.setattr(
        "cvae.training.optimizer.AdamW",
        lambda parameters, lr, **_: torch.optim.RMSprop(parameters, lr=lr),
    )
    history = train_cvae(Tutorial(), few, TrainingSettings(num_epochs=20, learning_rate=1e-3))
    assert history.best_loss < 0.8 * history.epochs[0]["val"]


@pytest.mark.parametrize("kind", [Tutorial, MixturePrior, OwnParameters, ConvolutionalPrior])
@pytest.mark.parametrize(
    "elbo",
    [
        TraceMeanField_ELBO(),
        Trace_ELBO(),
        RenyiELBO(num_particles=2),
        JitTrace_ELBO(ignore_jit_warnings=True),
    ],
)
def test_pyros_bounds_train_with_pyros_own_optimizer(kind, elbo, few):
    """A user's own loop, to which every parameter but the baseline's is known."""
    cvae, (batch,) = kind().eval(), few["val"]
    svi = SVI(cvae.model, cvae.guide, pyro.optim.Adam({"lr": 1e-2}), copy.deepcopy(elbo))
    losses = [svi.step(batch["input"], batch["output"]) for _ in range(30)]
    assert sum(losses[-3:]) < 0.9 * sum(losses[:3])
    known = set(pyro.get_param_store().values())
    for name, parameter in cvae.named_parameters():
        assert (parameter in known) != name.startswith("baseline_net.")


@pytest.mark.parametrize(
    "elbo",
    [
        RenyiELBO(num_particles=2),
        JitTrace_ELBO(ignore_jit_warnings=True),
        Trace_ELBO(num_particles=3),
    ],
)
def test_pyros_bounds_train_in_the_loop(elbo, few):
    net = BaselineNet(HIDDEN_1, HIDDEN_2)
    train_baseline(net, few, FEW_EPOCHS)
    cvae = CVAE(Z_DIM, HIDDEN_1, HIDDEN_2, net)
    history = train_cvae(cvae, few, TrainingSettings(num_epochs=20, learning_rate=3e-3), elbo=elbo)
    assert history.best_loss < 0.8 * history.epochs[0]["val"]


def test_predictive_importance_and_nuts_take_model_and_guide(xs_ys):
    """The posterior of z by three of Pyro's tools: what z explains is known, as it is one number."""
    xs, ys = (values[:1] for values in xs_ys)
    cvae = CVAE(1, HIDDEN_1, HIDDEN_2).eval()
    make_constant(cvae.prior_net, 0.5, 1.5)
    samples = Predictive(cvae.model, guide=cvae.guide, num_samples=7, parallel=True)(xs)
    assert samples["y"].shape == (7, 1, 784)

    weights = log_weights(cvae, xs, ys, num_particles=4000, proposal="prior")[:, 0]
    importance = Importance(cvae.model, cvae.guide, num_samples=500).run(xs, ys)
    expected = -importance_sampling(weights[:, None]).item()
    error = (weights.softmax(0) * 4000).std().item() / math.sqrt(
        500
    )  # of the log of a mean, by the delta method
    assert importance.get_log_normalizer().item() == pytest.approx(expected, abs=5 * error)

    mcmc = MCMC(NUTS(cvae.model), num_samples=150, warmup_steps=50, disable_progbar=True)
    mcmc.run(xs, ys)
    z = mcmc.get_samples()["z"].flatten()
    nodes = torch.linspace(-8, 9, 2001)
    with torch.no_grad():
        trace = pyro.poutine.trace(pyro.condition(cvae.model, {"z": nodes[:, None]}))
        joint = trace.get_trace(xs.expand(2001, 28, 28), ys.expand(2001, 28, 28))
        joint.compute_log_prob()
    mass = (joint.nodes["y"]["log_prob"] + joint.nodes["z"]["log_prob"]).softmax(0)
    mean = (mass * nodes).sum()
    deviation = (mass * (nodes - mean) ** 2).sum().sqrt()
    assert z.mean().item() == pytest.approx(mean.item(), abs=5 * deviation.item() / math.sqrt(30))
