import json
import math
import re
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch

from cvae.data import MaskImages
from cvae.estimators import estimate_cll
from cvae.experiment.folder import save_weights
from cvae.experiment.options import Config, Run
from cvae.files import FileError, ModelError
from cvae.model import CVAE
from cvae.trained import TrainedCVAE

from .conftest import HIDDEN_1, HIDDEN_2, Z_DIM

OTHER_SHAPES = [(3, 28, 27), (3, 14, 56), (3, 1, 784), (3, 2, 28, 28), (28, 28), ()]


@pytest.fixture(params=[("relu", "z", 0), ("silu", "xz", 1)])
def folder(request, tmp_path):
    """What a run leaves, as far as it takes to use the model."""
    names = ("activation", "generation_input", "residual_blocks")
    options: dict[str, Any] = dict(zip(names, request.param, strict=True))
    net = CVAE(Z_DIM, HIDDEN_1, HIDDEN_2, **options)
    save_weights(Run(Config(output_dir=tmp_path), 0, 1), {"cvae": net})
    write_metrics(tmp_path, options)
    return tmp_path


@pytest.fixture
def trained(folder):
    return TrainedCVAE.load(folder, 1)


def write_metrics(folder, arguments, **more):
    (folder / "metrics.json").write_text(json.dumps({"arguments": arguments, **more}))


def arguments_of(folder):
    return json.loads((folder / "metrics.json").read_text())["arguments"]


def test_what_is_loaded_computes_what_was_saved(folder, trained, xs_ys):
    xs, _ = xs_ys
    assert not trained.cvae.training
    net = CVAE(Z_DIM, HIDDEN_1, HIDDEN_2, **arguments_of(folder))
    net.load_state_dict(torch.load(folder / "cvae_net_q1.pth", weights_only=True))
    zs, known = torch.randn(20, Z_DIM), xs.clamp(min=0).flatten(1)
    assert torch.equal(trained.cvae.generation_net(zs, known), net.generation_net(zs, known))


@pytest.mark.parametrize("image_shape", [None, [28, 28], [14, 56]])
def test_folders_of_older_versions_are_loaded(folder, image_shape):
    """Arguments were written as strings; older folders lack some, and a shape of the images."""
    more = {"num_epochs": "3", "image_shape": str(image_shape), "images": "['741c', '6d87']"}
    arguments = {name: str(value) for name, value in arguments_of(folder).items()}
    if arguments["residual_blocks"] == "0":
        del arguments["residual_blocks"]
    shape_there = {} if image_shape is None else {"image_shape": image_shape}
    write_metrics(folder, arguments | more, **shape_there)
    height, width = shape = tuple(image_shape or (28, 28))
    trained = TrainedCVAE.load(folder, 1)
    assert trained.complete(torch.rand(3, *shape), 2).shape == (2, 3, *shape)
    with pytest.raises(ValueError, match=f"shape .N, {height}, {width}., not .3, 56, 14."):
        trained.complete(torch.zeros(3, 56, 14))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_images_of_other_forms_are_the_same_images(trained, dtype):
    """With a channel, in another precision, and to be completed also without what is missing."""
    whole = torch.rand(4, 1, 28, 28).to(dtype)
    image = whole.squeeze(1).float()
    known = MaskImages(1)({"original": whole})["input"]
    unknown = known.where(known >= 0, torch.nan)

    def seeded(use, images):
        torch.manual_seed(3)
        return use(images, 5)

    completions, nll = seeded(trained.complete, image), seeded(trained.negative_cll, image)
    for images in (whole, whole.squeeze(1), whole.numpy()):
        assert torch.equal(seeded(trained.negative_cll, images), nll)
    for images in (whole, whole.squeeze(1), whole.numpy(), known, unknown):
        assert torch.equal(seeded(trained.complete, images), completions)


def test_threads_do_not_disturb_each_other(trained):
    images = torch.rand(2, 28, 28)
    with ThreadPoolExecutor(4) as pool:
        both = (trained.complete, trained.negative_cll)
        uses = [pool.submit(use, images, 2) for use in both * 25]
        assert {tuple(use.result().shape) for use in uses} == {(2, 2, 28, 28), (2,)}


def test_completions_show_the_known_pixels_and_ignore_the_hidden_ones(trained, dataset):
    images = dataset[range(6)]["original"].squeeze(1)
    known = trained.mask({"original": images[:, None]})["input"] >= 0
    torch.manual_seed(3)
    completions = trained.complete(images, num_samples=4)
    assert completions.shape == (4, 6, 28, 28)
    assert ((completions >= 0) & (completions <= 1)).all()
    assert all(torch.equal(one[known], images[known]) for one in completions)
    assert completions[:, ~known].std(0).max() > 0
    torch.manual_seed(3)
    assert torch.equal(trained.complete(images.where(known, 0.123), num_samples=4), completions)


def test_cll_is_that_of_the_evaluation(trained, dataset):
    images = dataset[range(30)]["original"].squeeze(1)
    torch.manual_seed(5)
    found = trained.negative_cll(images, num_particles=7)
    torch.manual_seed(5)
    subset = torch.utils.data.Subset(dataset, range(30))
    assert torch.equal(found, estimate_cll(trained.cvae, subset, num_particles=7))
    assert found.shape == (30,) and (found > 0).all()


@pytest.mark.parametrize(
    "images, num_samples, complaint",
    [
        *((torch.zeros(shape), 2, f"(N, 28, 28), not {shape}") for shape in OTHER_SHAPES),
        (torch.zeros(0, 28, 28), 2, "images (0) and samples of each (2) must be at least 1"),
        (torch.zeros(3, 28, 28), 0, "images (3) and samples of each (0) must be at least 1"),
        (torch.zeros(3, 28, 28).byte(), 2, "floats in [0, 1]: divide bytes by 255"),
        (torch.full((3, 28, 28), 1.5), 2, "floats in [0, 1]"),
        (torch.full((3, 28, 28), torch.nan), 2, "floats in [0, 1]"),
    ],
)
def test_other_images_are_refused(trained, images, num_samples, complaint):
    for use in (trained.complete, trained.negative_cll):
        with pytest.raises(ValueError, match=re.escape(complaint)):
            use(images, num_samples)


@pytest.mark.parametrize("num_pixels, shape", [(784, (28, 20)), (784, (4, 14, 14)), (560, None)])
def test_shape_of_another_size_is_refused(num_pixels, shape):
    with pytest.raises(ValueError, match=f"{num_pixels} pixels can't have images of shape"):
        TrainedCVAE(CVAE(Z_DIM, HIDDEN_1, HIDDEN_2, num_pixels=num_pixels), 1, shape)


def other_input(folder):
    other = {"z": "xz", "xz": "z"}[arguments_of(folder)["generation_input"]]
    write_metrics(folder, arguments_of(folder) | {"generation_input": other})


@pytest.mark.parametrize(
    "damage, complaint",
    [
        (lambda folder: (folder / "cvae_net_q1.pth").unlink(), "cvae_net_q1.pth can't be read"),
        (lambda folder: (folder / "cvae_net_q1.pth").write_text("?"), "cvae_net_q1.pth is damaged"),
        (lambda folder: (folder / "metrics.json").unlink(), "metrics.json can't be read"),
        (lambda folder: (folder / "metrics.json").write_text("?"), "are not of one CVAE"),
        (lambda folder: (folder / "metrics.json").write_text("[]"), "are not of one CVAE"),
        (lambda folder: write_metrics(folder, arguments_of(folder), image_shape=28), "one CVAE"),
        (lambda folder: torch.save([1], folder / "cvae_net_q1.pth"), "are not of one CVAE"),
        (other_input, "are not of one CVAE"),
    ],
)
def test_files_that_do_not_fit_are_refused_by_name(folder, damage, complaint):
    damage(folder)
    with pytest.raises(FileError, match=complaint):
        TrainedCVAE.load(folder, 1)


@pytest.mark.parametrize("shape", [(28, 28), (6, 28, 28)])
def test_any_pixels_may_be_known(folder, dataset, shape):
    """Of all images the same or of each its own; by default those of the quadrants."""
    trained, images = TrainedCVAE.load(folder, 1), dataset[range(6)]["original"].squeeze(1)
    of_any = TrainedCVAE(trained.cvae, None)
    known = torch.rand(shape) < 0.5

    def seeded(use, *arguments, **options):
        torch.manual_seed(3)
        return use(*arguments, **options)

    completions = seeded(of_any.complete, images, 4, known=known)
    hidden = images.where(known, torch.nan)
    assert torch.equal(completions, seeded(of_any.complete, hidden, 4, known=known.numpy()))
    assert torch.equal(completions[0][known.expand(6, 28, 28)], images[known.expand(6, 28, 28)])
    of_each = known.expand(6, 28, 28)
    whole = seeded(of_any.negative_cll, images[:1], 3, known=of_each[:1])
    assert torch.equal(whole, seeded(of_any.negative_cll, images[:1], 3, known=of_each[0]))
    for use in (trained.complete, trained.negative_cll):
        quadrants = seeded(use, images, 2, known=trained.known)
        assert torch.equal(quadrants, seeded(use, images, 2))


@pytest.mark.parametrize("known", [None, torch.ones(28, 28), torch.ones(2, 28, 28).bool()])
def test_other_masks_are_refused(trained, known):
    of_any = TrainedCVAE(trained.cvae, None)
    with pytest.raises(ValueError, match="known"):
        of_any.complete(torch.rand(3, 28, 28), known=known)


def test_latent_variables_are_inferred_and_decoded(trained, xs_ys):
    """For p(y|z) and p(y|x,z), as the networks do it."""
    xs, ys = xs_ys
    images = torch.where(xs < 0, ys, xs)
    mean, scale = trained.cvae.recognition_net(xs, ys)
    torch.testing.assert_close(trained.encode(images), mean)
    zs = trained.encode(images, 2000, seed=1)
    torch.testing.assert_close(zs.mean(0), mean, atol=0.15, rtol=0)
    torch.testing.assert_close(zs.std(0), scale, atol=0.15, rtol=0)
    decoded = trained.decode(torch.where(xs < 0, torch.nan, xs), zs[:3])
    expected = trained.cvae.generation_net(zs[:3], xs.clamp(min=0).flatten(1)).view(3, 20, 28, 28)
    torch.testing.assert_close(decoded, torch.where(xs < 0, expected, xs))
    torch.testing.assert_close(decoded[0], trained.decode(images, zs[0].numpy()))
    with pytest.raises(ValueError, match="z must have shape .*samples, 20, z_dim., not .3, 19, 3"):
        trained.decode(images, zs[:3, 1:])


class Negative(CVAE):
    """Has a guide and a model of its own."""

    def guide(self, xs, ys=None):
        with pyro.plate("data", len(xs)):
            pyro.sample("z", dist.Normal(5.0, torch.ones(len(xs), Z_DIM)).to_event(1))

    def model(self, xs, ys=None):
        self.guide(xs, ys)
        pyro.deterministic("y", torch.zeros(*xs.shape[:-2], 784))


def test_latent_variables_are_those_of_a_guide_and_model_of_ones_own(xs_ys):
    xs, ys = xs_ys
    trained = TrainedCVAE(Negative(Z_DIM, 16, 16), 1)
    images = torch.where(xs < 0, ys, xs)
    zs = trained.encode(images)
    assert (zs == 5).all()
    assert torch.equal(trained.decode(images, zs), torch.where(xs < 0, 0, xs))
    trained.cvae.guide = lambda xs, ys: pyro.sample("u", dist.Normal(xs[:, 0, 0], 1))
    with pytest.raises(ModelError, match="there is no site 'z', but only 'u'$"):
        trained.encode(images)


class Hierarchical(CVAE):
    """The mean of z depends on a latent of its own."""

    def guide(self, xs, ys=None):
        with pyro.plate("data", len(xs)):
            u = pyro.sample("u", dist.Normal(torch.zeros(len(xs), 1), 3.0).to_event(1))
            pyro.sample("z", dist.Normal(u, torch.ones(Z_DIM)).to_event(1))


def test_latent_variables_that_depend_on_others_are_drawn_with_these(xs_ys):
    trained = TrainedCVAE(Hierarchical(Z_DIM, 16, 16), 1)
    images = torch.where(xs_ys[0] < 0, xs_ys[1], xs_ys[0])
    zs = trained.encode(images, 1000, seed=0)
    standard_error = 10 * math.sqrt(2 * Z_DIM / zs.numel())  # as if of one latent alone
    assert zs.var().item() == pytest.approx(10, abs=5 * standard_error)
    with pytest.raises(ModelError, match="'u' and 'z' depend on each other, and have no mean"):
        trained.encode(images)


@pytest.mark.parametrize("name", ["complete", "negative_cll", "encode"])
def test_seed_repeats_what_is_drawn_and_leaves_the_random_state(trained, name):
    use, images = getattr(trained, name), torch.rand(2, 28, 28)
    state = torch.get_rng_state()
    one, same, other = (use(images, 4, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(one, same) and not torch.equal(one, other)
    assert torch.equal(torch.get_rng_state(), state)
