import copy

import pyro
import pyro.distributions as dist
import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
from pyro import poutine
from pyro.infer import SVI, Predictive, Trace_ELBO, TraceMeanField_ELBO
from pyro.optim import Adam

from cvae import Z_DIM
from cvae.baseline import BaselineNet
from cvae.choices import ACTIVATIONS, GENERATION_INPUTS
from cvae.evaluate import draw_samples, evaluate
from cvae.model import CVAE, Decoder, Encoder, GreyBernoulli
from cvae.train import train_cvae
from cvae.training.settings import TrainingSettings

ENCODER_SHAPES = {
    "fc1.weight": (500, 784),
    "fc1.bias": (500,),
    "fc2.weight": (500, 500),
    "fc2.bias": (500,),
    "fc31.weight": (200, 500),
    "fc31.bias": (200,),
    "fc32.weight": (200, 500),
    "fc32.bias": (200,),
}
DECODER_SHAPES = {
    "fc1.weight": (500, 200),
    "fc1.bias": (500,),
    "fc2.weight": (500, 500),
    "fc2.bias": (500,),
    "fc3.weight": (784, 500),
    "fc3.bias": (784,),
}


def shapes(net):
    return {name: tuple(value.shape) for name, value in net.state_dict().items()}


def test_default_weights_are_the_tutorials():
    assert Z_DIM == 200
    assert shapes(Encoder()) == ENCODER_SHAPES and shapes(Decoder()) == DECODER_SHAPES
    expected = {
        f"{net}.{name}": shape
        for net in ("prior_net", "recognition_net")
        for name, shape in ENCODER_SHAPES.items()
    }
    expected |= {f"generation_net.{name}": shape for name, shape in DECODER_SHAPES.items()}
    expected |= {f"baseline_net.{name}": shape for name, shape in shapes(BaselineNet()).items()}
    assert shapes(CVAE(200, 500, 500, BaselineNet(500, 500))) == expected


def test_weights_survive_a_round_trip(cvae, batch, tmp_path):
    torch.save(cvae.state_dict(), tmp_path / "net.pth")
    other = CVAE(3, 16, 12)
    other.load_state_dict(torch.load(tmp_path / "net.pth", weights_only=True))
    assert torch.equal(
        cvae.baseline_predictions(batch["input"]), other.baseline_predictions(batch["input"])
    )
    for ours, theirs in zip(
        cvae.recognition_net(batch["input"], batch["output"]),
        other.recognition_net(batch["input"], batch["output"]),
    ):
        assert torch.equal(ours, theirs)


def test_encoder_is_the_tutorials_formula(cvae, batch):
    x, y = batch["input"], torch.rand(8, 784)  # the tutorial's prediction comes flat
    w = cvae.prior_net.state_dict()
    xc = torch.where(x == -1, y.view(x.shape), x).view(8, 784)
    hidden = (xc @ w["fc1.weight"].T + w["fc1.bias"]).clamp(min=0)
    hidden = (hidden @ w["fc2.weight"].T + w["fc2.bias"]).clamp(min=0)
    z_loc, z_scale = cvae.prior_net(x, y)
    torch.testing.assert_close(z_loc, hidden @ w["fc31.weight"].T + w["fc31.bias"])
    torch.testing.assert_close(z_scale, torch.exp(hidden @ w["fc32.weight"].T + w["fc32.bias"]))


def test_recognition_network_sees_the_whole_image(cvae, batch):
    whole = batch["original"].squeeze(1)
    for from_parts, from_whole in zip(
        cvae.recognition_net(batch["input"], batch["output"]), cvae.recognition_net(whole, whole)
    ):
        assert torch.equal(from_parts, from_whole)


@pytest.mark.parametrize("batch_shape", [(5,), (2, 5), (4, 1, 3)])
def test_decoder_takes_any_batch_shape(cvae, batch_shape):
    z = torch.randn(*batch_shape, 3)
    y, pixels = cvae.generation_net(z), torch.tensor([3, 700])
    assert y.shape == (*batch_shape, 784) and (0 <= y).all() and (y <= 1).all()
    torch.testing.assert_close(
        cvae.generation_net.logits(z, pixels=pixels).sigmoid(), y[..., pixels]
    )


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("generation_input", GENERATION_INPUTS)
def test_variants_add_to_the_tutorials_weights_and_train_all_of_theirs(
    batch, activation, generation_input
):
    cvae = CVAE(3, 16, 12, activation=activation, generation_input=generation_input)
    more = set(cvae.state_dict()) - set(CVAE(3, 16, 12).state_dict())
    assert more == ({"generation_net.fc0.weight"} if generation_input == "xz" else set())
    elbo = TraceMeanField_ELBO()
    elbo.differentiable_loss(cvae.model, cvae.guide, batch["input"], batch["output"]).backward()
    for net in (cvae.prior_net, cvae.recognition_net, cvae.generation_net):
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())
    samples = Predictive(cvae.model, guide=cvae.guide, num_samples=5, parallel=True)(batch["input"])
    assert samples["y"].shape[0] == 5 and samples["y"].shape[-2:] == (8, 784)


def test_generation_network_sees_known_pixels_alone(batch):
    """With x as its input, the network's answer moves with the known pixels, whatever marks the missing ones."""
    cvae = CVAE(3, 16, 12, generation_input="xz", masked_with=-7)
    xs = torch.where(batch["input"] == -1, -7, batch["input"])
    z = poutine.condition(cvae.model, {"z": torch.zeros(8, 3)})
    expected = cvae.generation_net(torch.zeros(8, 3), torch.where(xs == -7, 0, xs).view(8, 784))
    assert torch.equal(z(xs), expected)
    assert not torch.allclose(expected, cvae.generation_net(torch.zeros(8, 3), torch.zeros(8, 784)))


def test_silu_is_what_the_encoder_computes(batch):
    net = Encoder(3, 16, 12, activation="silu")
    whole = batch["original"].view(8, 784)
    hidden = F.silu(net.fc2(F.silu(net.fc1(whole))))
    assert torch.equal(net(whole, whole)[0], net.fc31(hidden))


@pytest.mark.parametrize("wrong", [{"activation": "tanh"}, {"generation_input": "x"}])
def test_unknown_variants_are_refused(wrong):
    with pytest.raises(ValueError, match="is none of"):
        CVAE(3, 16, 12, **wrong)


def test_mask_value_among_the_pixels_is_refused():
    for masked_with in (0, 0.3, 1):
        with pytest.raises(ValueError, match="outside"):
            CVAE(3, 16, 12, BaselineNet(16, 12), masked_with=masked_with)


def test_any_mask_value_outside_the_pixels_gives_the_same(cvae, batch):
    other = CVAE(3, 16, 12, masked_with=-5)
    other.load_state_dict(cvae.state_dict())

    def score(net, mask):
        xs, ys = (torch.where(batch[key] == -1, mask, batch[key]) for key in ("input", "output"))
        conditioned = poutine.condition(net.model, {"z": torch.ones(8, 3)})
        trace = poutine.trace(conditioned).get_trace(xs, ys, torch.full_like(xs, 0.5))
        return trace.log_prob_sum()

    torch.testing.assert_close(score(cvae, -1), score(other, -5))


class Convolutional(nn.Module):
    """Part of networks of the user's own."""

    def __init__(self, outputs):
        super().__init__()
        self.convolution, self.output = nn.Conv2d(1, 2, 5, stride=4), nn.Linear(2 * 6 * 6, outputs)

    def forward(self, images):
        return self.output(self.convolution(images.reshape(-1, 1, 28, 28)).relu().flatten(1))


class OwnEncoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.see = Convolutional(2 * 3)

    def forward(self, x, y):
        loc, log_scale = self.see(torch.where(x < 0, y.view(x.shape), x)).chunk(2, dim=-1)
        return loc, log_scale.exp()


class TutorialsDecoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1 = nn.Linear(3, 784)

    def forward(self, z):
        return torch.sigmoid(self.fc1(z))


class OwnDecoder(nn.Module):
    """Sees the image too, through a convolution."""

    def __init__(self):
        super().__init__()
        self.see, self.decode = Convolutional(3), TutorialsDecoder()

    def forward(self, z, x):
        return self.decode(z + self.see(x))


@pytest.mark.parametrize(
    "name, make, generation_input",
    [
        ("prior_net", OwnEncoder, "z"),
        ("recognition_net", OwnEncoder, "z"),
        ("generation_net", TutorialsDecoder, "z"),
        ("generation_net", OwnDecoder, "xz"),
    ],
)
def test_each_network_can_be_replaced(real_digits, name, make, generation_input):
    datasets, loaders, _ = real_digits
    cvae = CVAE(3, 16, 12, generation_input=generation_input)
    setattr(cvae, name, make())
    before = copy.deepcopy(getattr(cvae, name).state_dict())
    history = train_cvae(cvae, loaders, TrainingSettings(num_epochs=2))
    assert history.epochs[1]["val"] < history.epochs[0]["val"]
    assert all(
        not torch.equal(value, before[key])
        for key, value in getattr(cvae, name).state_dict().items()
    )
    rows = evaluate(cvae, datasets["val"], num_particles=3, num_importance_samples=5).rows
    assert rows["CVAE (importance sampling)"].mean < rows["CVAE (Monte Carlo)"].mean
    assert draw_samples(cvae, datasets["val"][range(4)]["input"], 2).shape == (2, 4, 28, 28)


def test_probabilities_are_scored_like_log_odds(cvae, batch):
    class Tutorials(nn.Module):
        def __init__(self, net):
            super().__init__()
            self.net = net

        def forward(self, z):
            return self.net(z)

    def score():
        conditioned = poutine.condition(cvae.model, {"z": torch.ones(8, 3)})
        return poutine.trace(conditioned).get_trace(batch["input"], batch["output"]).log_prob_sum()

    from_log_odds, cvae.generation_net = score(), Tutorials(cvae.generation_net)
    torch.testing.assert_close(score(), from_log_odds)


def test_batch_of_different_masks_is_refused(cvae, batch):
    xs, ys = batch["input"].clone(), batch["output"]
    xs[3, 0, 0] = -1 if xs[3, 0, 0] != -1 else 0.5
    with pytest.raises(ValueError, match="must all lack the same pixels"):
        cvae.model(xs, ys)


def test_sites_have_the_shapes_that_they_promise(cvae, batch):
    xs, ys = batch["input"], batch["output"]
    missing = (xs[0] == -1).sum()
    trace = poutine.trace(cvae.model).get_trace(xs, ys)
    assert trace.nodes["z"]["fn"].batch_shape == (8,) and trace.nodes["z"]["fn"].event_shape == (3,)
    assert trace.nodes["y"]["is_observed"] and trace.nodes["y"]["fn"].event_shape == (missing,)
    assert poutine.trace(cvae.guide).get_trace(xs, ys).nodes["z"]["fn"].batch_shape == (8,)
    trace = poutine.trace(cvae.model).get_trace(xs)
    assert trace.nodes["y"]["value"].shape == trace.nodes["_RETURN"]["value"].shape == (8, 784)


def test_observed_pixels_are_scored_as_bernoulli(cvae, batch):
    xs, ys = batch["input"], batch["output"]
    trace = poutine.trace(cvae.model).get_trace(xs, ys)
    trace.compute_log_prob()
    probabilities = cvae.generation_net(trace.nodes["z"]["value"])
    scores = dist.Bernoulli(probabilities, validate_args=False).log_prob(ys.view(8, 784))
    expected = (scores * (ys != -1).view(8, 784)).sum(-1)
    torch.testing.assert_close(trace.nodes["y"]["log_prob"], expected, rtol=1e-5, atol=1e-4)


def test_grey_bernoulli_is_the_bernoulli_and_takes_grey_values():
    logits, black_or_white = torch.linspace(-60, 60, 241), torch.arange(241) % 2.0
    ours, torchs = GreyBernoulli(logits=logits), dist.Bernoulli(logits=logits)
    torch.testing.assert_close(ours.log_prob(black_or_white), torchs.log_prob(black_or_white))
    assert torch.equal(
        ours.expand((2, 241)).log_prob(black_or_white)[1], ours.log_prob(black_or_white)
    )
    grey = 0.3 * ours.log_prob(torch.ones(241)) + 0.7 * ours.log_prob(torch.zeros(241))
    torch.testing.assert_close(ours.log_prob(torch.tensor(0.3)), grey, rtol=1e-5, atol=1e-5)
    for value in (-1.0, 1.01):
        with pytest.raises(ValueError, match="within the support"):
            ours.log_prob(torch.tensor(value))


def test_guide_without_truth_is_the_prior(cvae, batch):
    xs = batch["input"]
    guide = poutine.trace(cvae.guide).get_trace(xs).nodes["z"]["fn"].base_dist
    model = poutine.trace(cvae.model).get_trace(xs).nodes["z"]["fn"].base_dist
    assert torch.equal(guide.loc, model.loc) and torch.equal(guide.scale, model.scale)


def test_cached_baseline_predictions_change_nothing(cvae, batch):
    xs, ys = batch["input"], batch["output"]
    elbo = TraceMeanField_ELBO()
    pyro.set_rng_seed(1)
    computed = elbo.loss(cvae.model, cvae.guide, xs, ys)
    pyro.set_rng_seed(1)
    assert elbo.loss(cvae.model, cvae.guide, xs, ys, cvae.baseline_predictions(xs)) == computed


@pytest.mark.parametrize("elbo", [Trace_ELBO, TraceMeanField_ELBO])
def test_gradients_reach_every_trained_parameter_and_no_other(cvae, batch, elbo):
    loss = elbo().differentiable_loss(cvae.model, cvae.guide, batch["input"], batch["output"])
    loss.backward()
    for name, parameter in cvae.named_parameters():
        if name.startswith("baseline_net"):
            assert parameter.grad is None, name
        else:
            assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_sampled_and_closed_form_objectives_agree(cvae, batch):
    args = (cvae.model, cvae.guide, batch["input"], batch["output"])
    with torch.no_grad():
        draws = {
            elbo: torch.tensor(
                [elbo(num_particles=20, vectorize_particles=True).loss(*args) for _ in range(50)]
            )
            for elbo in (Trace_ELBO, TraceMeanField_ELBO)
        }
    a, b = draws.values()
    error = (a.var() / 50 + b.var() / 50).sqrt()
    assert abs(a.mean() - b.mean()) < 4 * error


def test_extreme_activations_stay_finite(cvae, batch):
    with torch.no_grad():
        for net in (cvae.prior_net, cvae.recognition_net):
            net.fc32.bias[:] = torch.tensor([-500.0, 0.0, 500.0])
        cvae.generation_net.fc3.bias[:] = 1e4
    loss = TraceMeanField_ELBO().differentiable_loss(
        cvae.model, cvae.guide, batch["input"], batch["output"]
    )
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad.isfinite().all() for p in cvae.parameters() if p.grad is not None)


def test_tutorials_snippets_run(cvae, batch):
    svi = SVI(cvae.model, cvae.guide, Adam({"lr": 1e-3}), loss=Trace_ELBO())
    before = cvae.generation_net.fc3.weight.clone()
    svi.step(batch["input"], batch["output"])
    assert not torch.equal(before, cvae.generation_net.fc3.weight)
    assert not [name for name in pyro.get_param_store() if "baseline" in name]
    predictive = Predictive(cvae.model, guide=cvae.guide, num_samples=4)
    assert predictive(batch["input"])["y"].shape == (4, 8, 784)
    parallel = Predictive(cvae.model, guide=cvae.guide, num_samples=4, parallel=True)
    assert parallel(batch["input"])["y"].shape == (4, 8, 784)
