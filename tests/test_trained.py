import json
import re
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from cvae.data import MaskImages
from cvae.errors import FileError
from cvae.estimators import estimate_cll
from cvae.model import CVAE
from cvae.run.results import save_weights
from cvae.trained import TrainedCVAE

from .conftest import HIDDEN_1, HIDDEN_2, Z_DIM, make_constant

OTHER_SHAPES = [(3, 28, 27), (3, 14, 56), (3, 1, 784), (3, 2, 28, 28), (28, 28), ()]


@pytest.fixture(params=[("relu", "z"), ("silu", "xz")])
def folder(request, tmp_path):
    """What a run leaves, as far as it takes to use the model."""
    activation, generation_input = request.param
    net = CVAE(Z_DIM, HIDDEN_1, HIDDEN_2, activation=activation, generation_input=generation_input)
    save_weights(tmp_path, 1, {"cvae_net": net})
    arguments = {"activation": activation, "generation_input": generation_input}
    (tmp_path / "metrics.json").write_text(json.dumps({"arguments": arguments}))
    return tmp_path


def test_what_is_loaded_computes_what_was_saved(folder, xs_ys):
    trained = TrainedCVAE.load(folder, 1)
    arguments = json.loads((folder / "metrics.json").read_text())["arguments"]
    torch.manual_seed(0)
    net = CVAE(Z_DIM, HIDDEN_1, HIDDEN_2, **arguments)
    net.load_state_dict(torch.load(folder / "cvae_net_q1.pth", weights_only=True))
    xs, _ = xs_ys
    torch.manual_seed(0)
    expected = net.generation_net(torch.randn(20, Z_DIM), xs.clamp(min=0).flatten(1))
    torch.manual_seed(0)
    assert torch.equal(
        trained.cvae.generation_net(torch.randn(20, Z_DIM), xs.clamp(min=0).flatten(1)), expected
    )
    assert not trained.cvae.training


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_images_of_other_forms_are_the_same_images(folder, dtype):
    """With a channel, in another precision, and to be completed also without what is missing."""
    trained = TrainedCVAE.load(folder, 1)
    whole = torch.rand(4, 1, 28, 28).to(dtype)
    image = whole.squeeze(1).float()
    known = MaskImages(1)({"original": whole})["input"]
    unknown = known.where(known >= 0, torch.nan)

    def seeded(use, images):
        torch.manual_seed(3)
        return use(images, 5)

    for images in (whole, whole.squeeze(1)):
        assert torch.equal(
            seeded(trained.negative_cll, images), seeded(trained.negative_cll, image)
        )
    for images in (whole, whole.squeeze(1), known, unknown):
        assert torch.equal(seeded(trained.complete, images), seeded(trained.complete, image))


def test_threads_do_not_disturb_each_other(folder):
    trained, images = TrainedCVAE.load(folder, 1), torch.rand(2, 28, 28)
    with ThreadPoolExecutor(4) as pool:
        uses = [
            pool.submit(use, images, 2) for use in (trained.complete, trained.negative_cll) * 50
        ]
        assert {tuple(use.result().shape) for use in uses} == {(2, 2, 28, 28), (2,)}


def test_completions_show_the_known_pixels_and_ignore_the_hidden_ones(folder, dataset):
    trained = TrainedCVAE.load(folder, 1)
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


def test_cll_is_that_of_the_evaluation(folder, dataset):
    trained = TrainedCVAE.load(folder, 1)
    images = dataset[range(30)]["original"].squeeze(1)
    torch.manual_seed(5)
    found = trained.negative_cll(images, num_particles=7)
    torch.manual_seed(5)
    subset = torch.utils.data.Subset(dataset, range(30))
    assert torch.equal(found, estimate_cll(trained.cvae, subset, num_particles=7))
    assert found.shape == (30,) and (found > 0).all()


def test_cll_of_a_model_without_doubt_is_the_cross_entropy(folder, dataset):
    """Where prior and recognition agree on one z, nothing is left to average."""
    trained = TrainedCVAE.load(folder, 1)
    for net in (trained.cvae.prior_net, trained.cvae.recognition_net):
        make_constant(net, 0, 1e-6)
    images = dataset[range(5)]["original"].squeeze(1)
    masked = MaskImages(1)({"original": images[:, None]})
    known = masked["input"].clamp(min=0).flatten(1)
    probabilities = trained.cvae.generation_net(torch.zeros(5, Z_DIM), known).view(5, 28, 28)
    cross_entropy = torch.nn.functional.binary_cross_entropy(
        probabilities, images, reduction="none"
    )
    expected = (cross_entropy * (masked["input"] < 0)).sum((1, 2)).double()
    torch.testing.assert_close(trained.negative_cll(images, 3), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "images, complaint",
    [
        *((torch.zeros(shape), f"(N, 28, 28), not {shape}") for shape in OTHER_SHAPES),
        (torch.zeros(0, 28, 28), "images (0) and samples of each (2) must be at least 1"),
        (torch.zeros(3, 28, 28, dtype=torch.uint8), "floats in [0, 1]: divide bytes by 255"),
        (torch.full((3, 28, 28), 1.5), "floats in [0, 1]"),
        (torch.full((3, 28, 28), torch.nan), "floats in [0, 1]"),
    ],
)
def test_other_images_are_refused(folder, images, complaint):
    trained = TrainedCVAE.load(folder, 1)
    for use in (trained.complete, trained.negative_cll):
        with pytest.raises(ValueError, match=re.escape(complaint)):
            use(images, 2)


def test_no_samples_are_refused(folder):
    trained = TrainedCVAE.load(folder, 1)
    for use in (trained.complete, trained.negative_cll):
        with pytest.raises(
            ValueError, match=re.escape("images (3) and samples of each (0) must be at least 1")
        ):
            use(torch.zeros(3, 28, 28), 0)


def add_image_shape(folder, shape):
    metrics = json.loads((folder / "metrics.json").read_text())
    (folder / "metrics.json").write_text(json.dumps(metrics | {"image_shape": shape}))


def test_images_have_the_shape_of_those_of_the_run(folder):
    add_image_shape(folder, [14, 56])
    trained = TrainedCVAE.load(folder, 1)
    assert trained.complete(torch.zeros(3, 14, 56)).shape == (1, 3, 14, 56)
    with pytest.raises(ValueError, match="images must have shape .N, 14, 56., not .3, 28, 28."):
        trained.complete(torch.zeros(3, 28, 28))
    add_image_shape(folder, [28, 20])
    with pytest.raises(
        ValueError, match="a model of 784 pixels can't have images of shape .28, 20."
    ):
        TrainedCVAE.load(folder, 1)


@pytest.mark.parametrize("num_pixels, shape", [(784, (28, 20)), (784, (4, 14, 14)), (560, None)])
def test_shape_of_another_size_is_refused(num_pixels, shape):
    with pytest.raises(
        ValueError, match=f"a model of {num_pixels} pixels can't have images of shape"
    ):
        TrainedCVAE(CVAE(Z_DIM, HIDDEN_1, HIDDEN_2, num_pixels=num_pixels), 1, shape)


@pytest.mark.parametrize(
    "damage, complaint",
    [
        (lambda folder: (folder / "cvae_net_q1.pth").unlink(), "cvae_net_q1.pth is missing"),
        (lambda folder: (folder / "cvae_net_q1.pth").write_text("?"), "cvae_net_q1.pth is damaged"),
        (lambda folder: (folder / "metrics.json").unlink(), "metrics.json can't be read"),
        (
            lambda folder: (folder / "metrics.json").write_text("?"),
            "are not of one model .JSONDecodeError",
        ),
        (
            lambda folder: (folder / "metrics.json").write_text("[]"),
            "are not of one model .TypeError",
        ),
        (
            lambda folder: (folder / "metrics.json").write_text("{}"),
            "are not of one model .KeyError",
        ),
        (lambda folder: add_image_shape(folder, 28), "are not of one model .TypeError"),
        (lambda folder: torch.save([1], folder / "cvae_net_q1.pth"), "are not of one model"),
        (
            lambda folder: torch.save({}, folder / "cvae_net_q1.pth"),
            "are not of one model .KeyError",
        ),
    ],
)
def test_files_that_do_not_fit_are_refused_by_name(folder, damage, complaint):
    damage(folder)
    with pytest.raises(FileError, match=complaint):
        TrainedCVAE.load(folder, 1)


def test_weights_of_another_kind_of_net_are_refused(folder):
    metrics = json.loads((folder / "metrics.json").read_text())
    metrics["arguments"]["generation_input"] = (
        "xz" if metrics["arguments"]["generation_input"] == "z" else "z"
    )
    (folder / "metrics.json").write_text(json.dumps(metrics))
    with pytest.raises(FileError, match="are not of one model .RuntimeError"):
        TrainedCVAE.load(folder, 1)
