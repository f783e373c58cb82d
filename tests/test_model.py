from itertools import product

import pyro
import pyro.distributions as dist
import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
from pyro import poutine
from pyro.infer import SVI, Predictive, Trace_ELBO, TraceMeanField_ELBO
from pyro.optim import Adam

from cvae.baseline import BaselineNet
from cvae.estimators import estimate_cll
from cvae.model import ACTIVATIONS, CVAE, GENERATION_INPUTS, Decoder, Encoder, ResidualBlock

from .conftest import HIDDEN_1, HIDDEN_2, Z_DIM, make_constant
from .perf.package import Package
from .perf.tutorial_way import TutorialWay
from .test_baseline import hidden_layers
from .test_datasets import write_mnist

# outputs and inputs of each layer of Pyro's own example
LAYERS = {
    BaselineNet: {"fc1": (500, 784), "fc2": (500, 500), "fc3": (784, 500)},
    Encoder: {"fc1": (500, 784), "fc2": (500, 500), "fc31": (200, 500), "fc32": (200, 500)},
    Decoder: {"fc1": (500, 200), "fc2": (500, 500), "fc3": (784, 500)},
}
NETS = {"baseline_net": BaselineNet, "generation_net": Decoder}
NETS |= {"prior_net": Encoder, "recognition_net": Encoder}

activations = pytest.mark.parametrize("activation", ACTIVATIONS)
both_elbos = pytest.mark.parametrize("elbo", [TraceMeanField_ELBO, Trace_ELBO])


def shapes(net):
    return {name: tuple(value.shape) for name, value in net.state_dict().items()}


def test_default_weights_are_the_tutorials():
    expected: dict[str, tuple[int, ...]] = {}
    for name, kind in NETS.items():
        net: dict[str, tuple[int, ...]] = {}
        for layer, (outputs, inputs) in LAYERS[kind].items():
            net |= {f"{layer}.weight": (outputs, inputs), f"{layer}.bias": (outputs,)}
        assert shapes(kind()) == net
        expected |= {f"{name}.{key}": shape for key, shape in net.items()}
    assert shapes(CVAE()) == shapes(CVAE(200, 500, 500, BaselineNet(500, 500))) == expected


@activations
def test_encoder_is_the_tutorials_formula(batch, activation):
    x, y = batch["input"], torch.rand(8, 784)  # the tutorial's prediction comes flat
    net = Encoder(Z_DIM, HIDDEN_1, HIDDEN_2, activation)
    xc = torch.where(x == -1, y.view(x.shape), x).view(8, 784)
    hidden = hidden_layers(net, xc, getattr(F, activation))
    z_loc, z_scale = net(x, y)
    torch.testing.assert_close(z_loc, hidden @ net.fc31.weight.T + net.fc31.bias)
    torch.testing.assert_close(z_scale, torch.exp(hidden @ net.fc32.weight.T + net.fc32.bias))


def test_recognition_network_sees_the_whole_image(cvae, batch):
    whole = batch["original"].squeeze(1)
    from_parts = cvae.recognition_net(batch["input"], batch["output"])
    for part, expected in zip(from_parts, cvae.recognition_net(whole, whole), strict=True):
        assert torch.equal(part, expected)


@activations
@pytest.mark.parametrize("batch_shape", [(5,), (2, 5), (4, 1, 3)])
def test_decoder_takes_any_batch_shape(batch_shape, activation):
    z, pixels = torch.randn(*batch_shape, Z_DIM), torch.tensor([3, 700])
    net = Decoder(Z_DIM, HIDDEN_1, HIDDEN_2, activation)
    hidden, y = hidden_layers(net, z, getattr(F, activation)), net(z)
    torch.testing.assert_close(y, torch.sigmoid(hidden @ net.fc3.weight.T + net.fc3.bias))
    torch.testing.assert_close(net.logits(z, pixels=pixels).sigmoid(), y[..., pixels])


@activations
@pytest.mark.parametrize("generation_input", GENERATION_INPUTS)
def test_variants_add_to_the_tutorials_weights(batch, activation, generation_input):
    """And gradients reach every parameter but the baseline's."""
    sizes = Z_DIM, HIDDEN_1, HIDDEN_2
    cvae = CVAE(*sizes, activation=activation, generation_input=generation_input)
    more = set(cvae.state_dict()) - set(CVAE(*sizes).state_dict())
    assert more == ({"generation_net.fc0.weight"} if generation_input == "xz" else set())
    for elbo in (TraceMeanField_ELBO(), Trace_ELBO()):
        cvae.zero_grad()
        loss = elbo.differentiable_loss(cvae.model, cvae.guide, batch["input"], batch["output"])
        loss.backward()
        for name, parameter in cvae.named_parameters():
            reached = parameter.grad is not None and parameter.grad.any().item()
            assert reached != name.startswith("baseline_net"), name


@activations
def test_residual_blocks_change_nothing_at_the_start(batch, activation):
    """And something once their last layer is not zero; the generation network has twice as many."""
    sizes, options = (Z_DIM, HIDDEN_1, HIDDEN_2), dict(activation=activation, generation_input="xz")
    plain, residual = CVAE(*sizes, **options), CVAE(*sizes, **options, residual_blocks=2)
    left_out = residual.load_state_dict(plain.state_dict(), strict=False)
    numbers = {"prior_net": 2, "recognition_net": 2, "generation_net": 4}
    assert set(left_out.missing_keys) == {
        f"{net}.blocks.{block}.{layer}.{kind}"
        for net, number in numbers.items()
        for block, layer, kind in product(range(number), ("fc1", "fc2"), ("weight", "bias"))
    }
    xs, ys, zs = batch["input"], batch["output"], torch.randn(8, Z_DIM)

    def outputs(cvae):
        x = xs.clamp(min=0).flatten(1)
        encoded = cvae.prior_net(xs, ys) + cvae.recognition_net(xs, ys)
        return [*encoded, cvae.generation_net(zs, x)]

    for ours, expected in zip(outputs(residual), outputs(plain), strict=True):
        assert torch.equal(ours, expected)
    for net in numbers:
        nn.init.normal_(getattr(residual, net).blocks[1].fc2.weight)
    for ours, before in zip(outputs(residual), outputs(plain), strict=True):
        assert not torch.allclose(ours, before)


def test_residual_block_is_its_formula():
    block, hidden = ResidualBlock(5, "silu"), torch.randn(2, 3, 5)
    nn.init.normal_(block.fc2.weight)
    inner = F.silu(hidden @ block.fc1.weight.T + block.fc1.bias)
    expected = hidden + inner @ block.fc2.weight.T + block.fc2.bias
    torch.testing.assert_close(block(hidden), expected)


def test_generation_network_sees_known_pixels_alone(batch):
    cvae, zs = CVAE(Z_DIM, 16, 12, generation_input="xz"), torch.ones(8, Z_DIM)
    known = batch["input"].where(batch["input"] != -1, 0).view(8, 784)
    expected = cvae.generation_net(zs, known)
    assert not torch.allclose(expected, cvae.generation_net(zs, torch.zeros(8, 784)))
    assert torch.equal(poutine.condition(cvae.model, {"z": zs})(batch["input"]), expected)


@pytest.mark.parametrize("wrong", [{"activation": "tanh"}, {"generation_input": "x"}])
def test_unknown_variants_are_refused(wrong):
    ((name, value),) = wrong.items()
    with pytest.raises(ValueError, match=f"unknown {name} '{value}'; choose "):
        CVAE(Z_DIM, HIDDEN_1, HIDDEN_2, **wrong)


@pytest.mark.parametrize("generation_input", GENERATION_INPUTS)
@pytest.mark.parametrize("mask_with", [-5, 2, float("inf")])
def test_any_mask_value_outside_the_pixels_gives_the_same(batch, mask_with, generation_input):
    cvae = CVAE(Z_DIM, 16, 12, generation_input=generation_input)
    # The baseline itself sees the marks, as the tutorial's does: it must not matter here.
    cvae.baseline_net.forward = lambda xs: torch.full((8, 784), 0.5)  # type: ignore

    def score(mask):
        xs, ys = (torch.where(batch[key] == -1, mask, batch[key]) for key in ("input", "output"))
        pyro.set_rng_seed(0)
        return TraceMeanField_ELBO().loss(cvae.model, cvae.guide, xs, ys)

    assert score(mask_with) == score(-1)


class ProbabilitiesAlone(nn.Module):
    """A generation network as the tutorial's reader writes it."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, z):
        return self.net(z)


def test_observed_pixels_are_scored_as_bernoulli(cvae, batch):
    """From log odds, and from probabilities where the network has nothing else."""
    xs, ys = batch["input"], batch["output"]
    z = torch.randn(8, Z_DIM)
    bernoulli = dist.Bernoulli(cvae.generation_net(z), validate_args=False)
    expected = (bernoulli.log_prob(ys.view(8, 784)) * (ys != -1).view(8, 784)).sum(-1)
    for net in (cvae.generation_net, ProbabilitiesAlone(cvae.generation_net)):
        cvae.generation_net = net
        trace = poutine.trace(poutine.condition(cvae.model, {"z": z})).get_trace(xs, ys)
        trace.compute_log_prob()
        scores = trace.nodes["y"]["log_prob"]
        torch.testing.assert_close(scores, expected, rtol=1e-5, atol=1e-4)


def test_sites_have_the_shapes_that_they_promise(cvae, batch):
    xs, ys = batch["input"], batch["output"]
    missing = (xs[0] == -1).sum()
    nodes = poutine.trace(cvae.model).get_trace(xs, ys).nodes
    assert nodes["z"]["fn"].batch_shape == (8,) and nodes["z"]["fn"].event_shape == (Z_DIM,)
    assert nodes["y"]["is_observed"] and nodes["y"]["fn"].event_shape == (missing,)
    assert nodes["_RETURN"]["value"] is None
    assert poutine.trace(cvae.guide).get_trace(xs, ys).nodes["z"]["fn"].batch_shape == (8,)
    nodes = poutine.trace(cvae.model).get_trace(xs).nodes
    assert nodes["y"]["value"].shape == nodes["_RETURN"]["value"].shape == (8, 784)


def test_guide_without_truth_is_the_prior(cvae, batch):
    xs = batch["input"]
    guide = poutine.trace(cvae.guide).get_trace(xs).nodes["z"]["fn"].base_dist
    model = poutine.trace(cvae.model).get_trace(xs).nodes["z"]["fn"].base_dist
    loc, scale = cvae.prior_net(xs, cvae.baseline_net(xs))
    for z in (guide, model):
        assert torch.equal(z.loc, loc) and torch.equal(z.scale, scale)


def test_baseline_is_frozen_and_predicts_in_evaluation_mode(batch):
    net = BaselineNet(16, 12)
    net.fc2 = nn.Sequential(nn.Linear(16, 12), nn.Dropout(0.5))  # type: ignore[assignment]
    cvae = CVAE(Z_DIM, 16, 12, net).train()
    assert cvae.training and cvae.prior_net.training and not net.training
    first, second = (cvae.baseline_predictions(batch["input"]) for _ in range(2))
    assert torch.equal(first, second) and first.shape == batch["input"].shape
    assert not first.requires_grad and not any(p.requires_grad for p in net.parameters())


def test_extreme_activations_stay_finite(cvae, batch):
    with torch.no_grad():
        for net in (cvae.prior_net, cvae.recognition_net):
            net.fc32.bias[:] = torch.tensor([-500.0, 0.0, 500.0])
        cvae.generation_net.fc3.bias.fill_(1e4)
    elbo = TraceMeanField_ELBO()
    loss = elbo.differentiable_loss(cvae.model, cvae.guide, batch["input"], batch["output"])
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad.isfinite().all() for p in cvae.parameters() if p.grad is not None)


@both_elbos
@pytest.mark.parametrize("generation_input", GENERATION_INPUTS)
def test_tutorials_snippets_run(batch, elbo, generation_input):
    cvae = CVAE(Z_DIM, HIDDEN_1, HIDDEN_2, generation_input=generation_input)
    svi = SVI(cvae.model, cvae.guide, Adam({"lr": 1e-3}), loss=elbo())
    before = cvae.generation_net.fc3.weight.clone()
    svi.step(batch["input"], batch["output"])
    assert not torch.equal(before, cvae.generation_net.fc3.weight)
    assert not [name for name in pyro.get_param_store() if "baseline" in name]
    for parallel in (False, True):
        predictive = Predictive(cvae.model, guide=cvae.guide, num_samples=4, parallel=parallel)
        assert predictive(batch["input"])["y"].shape == (4, 8, 784)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_losses_are_those_of_the_tutorials_way(tmp_path, n):
    """At the same weights, which no step moves: of the same pixels of the same images."""
    write_mnist(tmp_path / "MNIST" / "raw", (60, 28, 28), (10, 28, 28))
    package, way = Package(str(tmp_path), 60, n), TutorialWay(str(tmp_path), 60, n)
    for net in (package.cvae.prior_net, package.cvae.recognition_net):
        make_constant(net, 0.3, 1e-6)  # nothing is left to chance
    way.cvae.load_state_dict(package.cvae.state_dict())
    way.baseline_adam.param_groups[0]["lr"] = way.svi.optim.pt_optim_args["lr"] = 0.0
    assert way.baseline_epoch() == pytest.approx(package.table(), rel=1e-5)
    assert way.table() == pytest.approx(package.table(), rel=1e-5)
    nll = estimate_cll(package.cvae, package.val, num_particles=1).mean().item()
    assert way.cvae_epoch() == pytest.approx(nll, rel=1e-4)
