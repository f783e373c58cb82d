# mypy: disable-error-code="assignment, override"
"""Changes that people make to the model; each works without touching the loop or the estimators.

To check a model of your own, add its class to ``CVAES``: the tests of this file take any CVAE.
"""

import ast
import copy
import math
import re
import warnings

import pyro
import pyro.distributions as dist
import pyro.distributions.transforms as transforms
import pytest
import torch
import torch.nn as nn
from pyro import infer, poutine
from pyro.nn import PyroModule, PyroParam
from pyro.poutine.messenger import Messenger
from torch.distributions import constraints

from cvae.baseline import missing_pixel_nll, scored_pixels
from cvae.config import TrainingConfig
from cvae.data import MaskImages, get_data, make_loader
from cvae.estimators import estimate_cll, importance_sampling, log_weights
from cvae.evaluate import Estimate, draw_samples, evaluate
from cvae.experiment.folder import save_weights
from cvae.experiment.options import Config, Run
from cvae.files import ModelError
from cvae.model import CVAE
from cvae.traces import kl_divergences
from cvae.train import CVAETraining, TrainingError, train_cvae

from .conftest import HIDDEN_1, HIDDEN_2, Z_DIM, assert_same_weights, make_constant
from .faults import ROOT

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

    def pixel(self, probs):
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
                pixels, truth, scored = scored_pixels(xs, ys)
                likelihood = self.pixel(loc[..., pixels]).mask(scored)
                pyro.sample("y", likelihood.to_event(1), obs=truth)
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

    def pixel(self, probs):
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


class GaussianPixels(Small):
    """For real values in [0, 1], as ``cvae/changes.md`` has it."""

    def __init__(self):
        super().__init__()
        self.width = PyroParam(torch.tensor(0.3), constraints.positive)

    def likelihood(self, zs, xs, pixels=None):
        return dist.Normal(super().likelihood(zs, xs, pixels).mean, self.width)


class DependentPixels(Small):
    """A likelihood of all pixels together."""

    def likelihood(self, zs, xs, pixels=None):
        loc = super().likelihood(zs, xs, pixels).mean
        factor = torch.full((loc.shape[-1], 1), 0.05)
        return dist.LowRankMultivariateNormal(loc, factor, torch.full(loc.shape[-1:], 0.1))


class SecondLatent(Small):
    """A site of its own that moves the first one; both are of each image."""

    def __init__(self):
        super().__init__()
        self.move, self.see = nn.Linear(2, Z_DIM), PyroModule[nn.Linear](784, 2)

    def prior(self, xs):
        u = pyro.sample("u", dist.Normal(0.0, torch.ones(len(xs), 2)).to_event(1))
        loc, scale = self.prior_net(xs, self.baseline_predictions(xs))
        return dist.Normal(loc + self.move(u), scale).to_event(1)

    def posterior(self, xs, ys):
        pyro.sample("u", dist.Normal(self.see(xs.flatten(1)), 0.5).to_event(1))
        return super().posterior(xs, ys)


class OwnLogits(nn.Module):
    """A generation network with methods of its own."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(Z_DIM, 784)

    def logits(self, z):
        return self.linear(z)

    def forward(self, z):
        return self.logits(z).sigmoid()


class OwnDecoder(Small):
    def __init__(self):
        super().__init__()
        self.generation_net = OwnLogits()


CVAES = [Small, LaplacePrior, MixturePrior, FlowPosterior, OwnParameters, SecondLatent, OwnDecoder]
CVAES += [TutorialsModel, OtherLikelihood, ConvolutionalGeneration, ConvolutionalEncoders]
CVAES += [GaussianPixels, DependentPixels]
WITHOUT_CLOSED_FORM = [MixturePrior, FlowPosterior]
OF_EACH_PIXEL = [Small, OwnDecoder, ConvolutionalGeneration, GaussianPixels, SecondLatent]

any_cvae = pytest.mark.parametrize("kind", CVAES)


def log_prob(trace, name):
    return trace.nodes[name]["fn"].log_prob(trace.nodes[name]["value"])


def terms_of_traces(cvae, xs, ys, particles):
    """Estimate reconstruction and KL by plain traces: the means, and the deviation of one draw."""
    terms = []
    with torch.no_grad(), pyro.get_param_store().scope(), pyro.validation_enabled(False):
        for _ in range(particles):
            guide = poutine.trace(cvae.guide).get_trace(xs, ys)
            model = poutine.trace(poutine.replay(cvae.model, guide)).get_trace(xs, ys)
            y, names = model.nodes["y"], [name for name in guide.nodes if name in "uz"]
            kl = sum(log_prob(guide, name) - log_prob(model, name) for name in names)
            terms.append([-y["fn"].log_prob(y["value"]).mean(), kl.mean()])
    values = torch.tensor(terms)
    return values.mean(0).tolist(), values.std(0).tolist()


@pytest.mark.parametrize("elbo", [infer.TraceMeanField_ELBO, infer.Trace_ELBO])
@any_cvae
def test_training_lowers_the_bound_that_history_and_diagnostics_show(kind, elbo, few):
    """Its two terms are those of a direct computation."""
    cvae, val = kind(), few["val"].dataset
    history = train_cvae(cvae, few, TrainingConfig(num_epochs=15, learning_rate=5e-3), elbo=elbo())
    first, best = history.epochs[0]["val"], history.best_loss
    assert best < first - 0.2 * abs(first)
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
    sampled = kind in (*WITHOUT_CLOSED_FORM, SecondLatent)
    particles = {"reconstruction": 60, "kl": 60 if sampled else math.inf}
    for name, mean, deviation in zip(("reconstruction", "kl"), means, of_one_draw, strict=True):
        found = sum(epoch[name] for epoch in epochs) / repeats
        error = deviation * math.sqrt(1 / draws + 1 / repeats)  # the standard error
        assert found == pytest.approx(mean, abs=5 * error + 1e-3 * abs(mean))
        estimate = evaluation.diagnostics["KL" if name == "kl" else "Reconstruction"]
        assert isinstance(estimate, Estimate)
        both = math.hypot(*of_one_draw)  # the sampled KL is subtracted in the reconstruction
        error = both * math.sqrt(1 / draws + 1 / particles[name])
        assert estimate.mean == pytest.approx(mean, abs=5 * error + 1e-3 * abs(mean))
    if kind is not SecondLatent:  # of which the sampled bound has other terms
        assert all(e["val"] == pytest.approx(e["reconstruction"] + e["kl"]) for e in epochs)


def test_model_that_tells_pyro_of_no_parameter_is_refused(few):
    """Pyro would take no gradients, and the table would be of what the weights were at first."""
    cvae = Small()
    cvae.register_parameters = int  # which does nothing
    with pytest.raises(ModelError, match="nothing would be trained.*self.register_parameters"):
        train_cvae(cvae, few, TrainingConfig(num_epochs=1))


def test_forward_of_ones_own_is_what_is_scored_and_drawn(few):
    """Wherever it is set: the logits that the network has too are then of other probabilities."""
    cvae, batch = Small(), few["val"].dataset[range(4)]
    cvae.baseline_net.forward = lambda x: torch.full((len(x), 784), 0.5)  # type: ignore[misc]
    cvae.generation_net.forward = lambda z: torch.full((*z.shape[:-1], 784), 0.25)
    nll = missing_pixel_nll(cvae.baseline_net, batch["input"], batch["output"])
    torch.testing.assert_close(nll, torch.full_like(nll, math.log(2)))
    scored = cvae.likelihood(torch.randn(4, Z_DIM), batch["input"], torch.arange(3)).mean
    assert (scored == 0.25).all() and (draw_samples(cvae, batch["input"], 2) == 0.25).all()


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
        def pixel(self, probs):
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
            guide = poutine.trace(cvae.guide).get_trace(xs_ys[0], ys)
            model = poutine.trace(poutine.replay(cvae.model, guide)).get_trace(*xs_ys)
            latents = [name for name in guide.nodes if name in "uz"]
            expected = sum(log_prob(model, name) for name in ("y", *latents))
            expected -= sum(log_prob(guide, name) for name in latents)
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
        trace = poutine.trace(pyro.condition(cvae.model, {"z": nodes[:, None]}))
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


class ScaleOfZ(Messenger):
    """KL warm-up: the terms of z weigh a tenth."""

    def _pyro_sample(self, msg):
        if msg["name"] == "z":
            msg["scale"] = msg["scale"] * 0.1


@pytest.mark.parametrize(
    "scale, of_y, of_z", [(lambda: poutine.scale(scale=0.5), 0.5, 0.5), (ScaleOfZ, 1.0, 0.1)]
)
def test_scales_are_for_the_bound_that_trains_and_for_nothing_else(scale, of_y, of_z, few):
    class Scaled(Small):
        def model(self, xs, ys=None):
            with scale():
                return super().model(xs, ys)

        def guide(self, xs, ys=None):
            with scale():
                return super().guide(xs, ys)

    plain, scaled, found = Small(), Scaled(), []
    scaled.load_state_dict(plain.state_dict())
    for cvae in (plain, scaled):
        pyro.set_rng_seed(0)
        (epoch,) = train_cvae(cvae, few, TrainingConfig(num_epochs=1, learning_rate=1e-30)).epochs
        rows = evaluate(cvae, few["val"].dataset, num_particles=3, num_importance_samples=4)
        found.append((rows, epoch["reconstruction"], epoch["kl"], epoch["val"]))
    (rows, nll, kl, _), (same_rows, *same, bound) = found
    assert rows == same_rows and same == pytest.approx([nll, kl], rel=1e-5)
    assert bound == pytest.approx(of_y * nll + of_z * kl, rel=1e-5)


def example(name):
    """Import and define what a block of the examples does, and return what has that name."""
    text = (ROOT / "cvae/changes.md").read_text()
    blocks = re.findall("```python\n(.*?)```", text, re.DOTALL)
    (tree,) = (ast.parse(block) for block in blocks if f" {name}(" in block)
    tree.body = [
        part for part in tree.body if not isinstance(part, (ast.Assign, ast.For, ast.Expr))
    ]
    found = {"torch": torch, "CVAE": CVAE, "MaskImages": MaskImages}
    exec(compile(tree, "changes.md", "exec"), found)
    return found[name]


def test_warm_up_is_for_training_alone(few, xs_ys):
    plain, cvae = Small(), example("WarmUp")(Z_DIM, HIDDEN_1, HIDDEN_2)
    cvae.load_state_dict(plain.state_dict())
    losses, found = [], []
    for cvae.weight in (0.6, 1.0, 0.1):
        pyro.set_rng_seed(0)
        losses.append(infer.TraceMeanField_ELBO().loss(cvae.train().model, cvae.guide, *xs_ys))
    assert (losses[1] - losses[2]) * 4 / 9 == pytest.approx(losses[1] - losses[0], rel=1e-3)
    for net in (plain, cvae):
        pyro.set_rng_seed(0)
        (epoch,) = train_cvae(net, few, TrainingConfig(num_epochs=1, learning_rate=1e-30)).epochs
        rows = evaluate(net, few["val"].dataset, num_particles=3, num_importance_samples=4)
        found.append((rows, epoch["val"]))
    assert found[0] == found[1] and epoch["train"] < epoch["val"] - 0.5 * epoch["kl"]


def test_label_is_known_and_never_scored_and_matters():
    options = {"dataset": "mnist-5k", "subset": 100, "mask": example("with_label")}
    datasets, dataloaders, _ = get_data(None, 50, **options)
    batch, plain = datasets["val"][:], get_data(1, 50, **options | {"mask": None})[0]["val"][:]
    label, scored = batch["input"][:, 0], batch["output"][:, 0]
    assert torch.equal(label.argmax(1), batch["digit"]) and (label.sum(1) == 1).all()
    assert (scored == -1).all()
    for key in ("input", "output"):
        assert torch.equal(batch[key][:, 1:], plain[key])
    cvae = CVAE(Z_DIM, HIDDEN_1, HIDDEN_2, num_pixels=29 * 28)
    train_cvae(cvae, dataloaders, TrainingConfig(num_epochs=1))
    assert "Performance gap" in evaluate(cvae, datasets["val"], num_particles=2).rows
    before = cvae.prior(batch["input"]).mean
    assert not torch.equal(cvae.prior(batch["input"].roll(1, -1)).mean, before)


def test_compiled_networks_are_saved_under_their_own_names(tmp_path):
    cvae = Small()
    names = list(cvae.state_dict())
    cvae.generation_net = torch.compile(cvae.generation_net)
    assert list(cvae.state_dict()) != names
    save_weights(Run(Config(output_dir=tmp_path), 0, 1), {"cvae": cvae})
    Small().load_state_dict(torch.load(tmp_path / "cvae_net_q1.pth", weights_only=True))


def test_masked_sites_count_as_masked(xs_ys):
    """In a mask of half of the images; the KL term of the others is none."""
    half = torch.arange(20) < 10

    class Masked(Small):
        def model(self, xs, ys=None):
            with poutine.mask(mask=half):
                return super().model(xs, ys)

        def guide(self, xs, ys=None):
            with poutine.mask(mask=half.clone()):
                return super().guide(xs, ys)

    plain, masked = Small(), Masked()
    masked.load_state_dict(plain.state_dict())
    found = []
    for cvae in (plain, masked):
        pyro.set_rng_seed(0)
        log_w = log_weights(cvae, *xs_ys, num_particles=3)
        model, guide = poutine.trace(cvae.model), poutine.trace(cvae.guide)
        infer.Trace_ELBO().loss(model, guide, *xs_ys)
        found.append((log_w, *kl_divergences(model.trace, guide.trace)))
    (log_w, kl, exact), (masked_log_w, masked_kl, masked_exact) = found
    assert torch.equal(masked_log_w, log_w.where(half, 0)) and exact and masked_exact
    assert torch.equal(masked_kl, kl.where(half[:, None], 0)) and kl.shape == (20, Z_DIM)


def with_own_masks(images):
    known = torch.rand(images.shape) < torch.linspace(0.1, 0.9, len(images))[:, None, None]
    return images.where(known, -1), images.where(~known, -1)


@pytest.fixture
def same_noise(monkeypatch):
    place = "torch.distributions.normal._standard_normal"
    noise = lambda shape, **_: torch.linspace(-1, 1, shape[-1]).expand(shape)  # noqa: E731
    monkeypatch.setattr(place, noise)


@pytest.mark.parametrize("kind", OF_EACH_PIXEL)
def test_each_image_is_trained_and_scored_by_its_own_mask(kind, dataset, same_noise):
    """As if it were alone, in gradients and log weights."""
    cvae, (xs, ys) = kind().eval(), with_own_masks(dataset[range(6)]["original"].squeeze(1))

    def compute(rows):
        cvae.zero_grad()
        elbo = infer.TraceMeanField_ELBO()
        elbo.differentiable_loss(cvae.model, cvae.guide, xs[rows], ys[rows]).backward()
        trained = [p.grad for p in cvae.parameters() if p.requires_grad]
        log_w = log_weights(cvae, xs[rows], ys[rows], num_particles=2)
        return torch.cat([g.flatten() for g in trained]), log_w

    gradients, log_w = compute(range(6))
    alone = [compute([row]) for row in range(6)]
    torch.testing.assert_close(torch.cat([each for _, each in alone], -1), log_w)
    assert (sum(each for each, _ in alone) - gradients).norm() < 1e-5 * gradients.norm()


def test_compiled_bounds_score_each_image_by_its_own_mask(dataset, same_noise):
    compiled, elbo, cvae = infer.JitTrace_ELBO(), infer.Trace_ELBO(), Small().eval()
    functions = cvae.model, cvae.guide
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for first in (0, 10, 20):
            batch = dataset[range(first, first + 10)]
            xs, ys = batch["input"], batch["output"]
            if first:  # the first batch, which is traced, has one mask
                xs, ys = with_own_masks(batch["original"].squeeze(1))
            losses = [bound.loss_and_grads(*functions, xs, ys) for bound in (compiled, elbo)]
            assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert len(compiled._loss_and_surrogate_loss.compiled) == 1


def test_dependent_pixels_need_one_mask(dataset):
    xs, ys = with_own_masks(dataset[range(6)]["original"].squeeze(1))
    with pytest.raises(ModelError, match="need a likelihood of independent pixels"):
        log_weights(DependentPixels(), xs, ys, num_particles=2)


class HalfOfThePixels(Small):
    """A Bernoulli likelihood, but of fewer pixels than the baseline's."""

    def likelihood(self, zs, xs, pixels=None):
        likelihood = super().likelihood(zs, xs, pixels)
        return likelihood.mask(torch.arange(likelihood.batch_shape[-1]) % 2 == 0)


def test_rows_of_different_likelihoods_are_not_subtracted(few):
    columns = [
        evaluate(kind(), few["val"].dataset, num_particles=1, num_importance_samples=1)
        for kind in (GaussianPixels, HalfOfThePixels, OwnDecoder, TutorialsModel)
    ]
    has_gap = [["gap" in row for row in (*c.rows, *c.diagnostics)].count(True) for c in columns]
    assert has_gap == [0, 0, 2, 2]
    grey = "Bernoulli (grey pixels: cross-entropy)"
    others = [f"{grey} of NN, {kind} of CVAE" for kind in ("Normal", "Bernoulli of other pixels")]
    assert [column.likelihood for column in columns] == [*others, grey, grey]


def test_model_is_refused_before_it_is_trained(few):
    for kind in (Factor, OnlyInTheModel, SeveralOfAnImage):
        training = CVAETraining(kind(), few, TrainingConfig(num_epochs=2))
        with pytest.raises(ModelError):
            training.run()
        assert not training.history.epochs


class Factor(Small):
    def model(self, xs, ys=None):
        pyro.factor("penalty", torch.ones(len(xs)))
        return super().model(xs, ys)


class OnlyInTheModel(Small):
    def model(self, xs, ys=None):
        with pyro.plate("again", len(xs)):
            pyro.sample("u", dist.Normal(0.0, 1.0))
        return super().model(xs, ys)


class SeveralOfAnImage(Small):
    def prior(self, xs):
        pyro.sample("u", dist.Normal(torch.zeros(5, 1, len(xs)), 1.0))
        return super().prior(xs)

    def posterior(self, xs, ys):
        pyro.sample("u", dist.Normal(torch.zeros(5, 1, len(xs)), 1.0))
        return super().posterior(xs, ys)


@pytest.mark.parametrize(
    "kind, complaint",
    [
        (Factor, "'penalty' is a pyro.factor"),
        (OnlyInTheModel, "must be the same: the model's are 'u', 'z', the guide's 'z'"),
        (
            SeveralOfAnImage,
            "'u' has batch shape .5, 2, 20., expected one for each image .2, 20.: declare",
        ),
    ],
)
def test_what_is_no_likelihood_of_each_image_is_refused(kind, complaint, xs_ys):
    with pytest.raises(ModelError, match=complaint):
        log_weights(kind(), *xs_ys, num_particles=2)
