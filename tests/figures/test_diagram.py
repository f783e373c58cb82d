import numpy as np
import pytest
import torch
from pyro.infer.inspect import get_model_relations

from cvae.figures.diagram import arrows, plot_model
from cvae.model import CVAE

from ..conftest import HIDDEN_1, HIDDEN_2, Z_DIM
from .test_sheet import assert_nothing_is_cut_off


@pytest.mark.parametrize("generation_input", ["z", "xz"])
def test_arrows_are_what_each_network_depends_on(xs_ys, generation_input):
    """Among random variables as Pyro finds them; on images as gradients do."""
    cvae = CVAE(Z_DIM, HIDDEN_1, HIDDEN_2, generation_input=generation_input)
    xs, ys = xs_ys
    generation = get_model_relations(cvae.model, (xs, ys))
    assert generation["sample_sample"] == {"z": [], "y": ["z"]} and generation["observed"] == ["y"]
    assert get_model_relations(cvae.guide, (xs, ys))["sample_sample"] == {"z": []}

    found = {}
    x, y, y_hat, z = (torch.rand(2, size, requires_grad=True) for size in (784, 784, 784, Z_DIM))
    masked = torch.where(torch.arange(784) < 392, x, -1)
    for net, output, sources in (
        ("baseline_net", (cvae.baseline_net(masked), "y_hat"), {"x": x}),
        ("prior_net", (cvae.prior_net(masked, y_hat)[0], "z"), {"x": x, "y_hat": y_hat}),
        ("recognition_net", (cvae.recognition_net(masked, y)[0], "z"), {"x": x, "y": y}),
        ("generation_net", (cvae.generation_net(z, masked.clamp(min=0)), "y"), {"z": z, "x": x}),
    ):
        gradients = torch.autograd.grad(
            output[0].sum(), list(sources.values()), retain_graph=True, allow_unused=True
        )
        found[net] = {
            (name, output[1])
            for name, gradient in zip(sources, gradients)
            if gradient is not None and gradient.any()
        }
    assert found == {net: set(pairs) for net, pairs in arrows(generation_input).items()}


@pytest.mark.parametrize("generation_input", ["z", "xz"])
def test_lines_are_dashed_for_recognition_alone(generation_input):
    figure = plot_model(generation_input)
    assert_nothing_is_cut_off(figure)
    dashed = [[line.is_dashed() for line in axes.lines] for axes in figure.axes]
    assert dashed == [[False], [True, True], [False] * (4 if generation_input == "z" else 5)]
    assert all(len(axes.lines) * 2 + len(axes.texts) > len(axes.patches) for axes in figure.axes)
    for axes in figure.axes:  # every arrow begins and ends at the rim of a variable
        centres = np.array([patch.center for patch in axes.patches if hasattr(patch, "center")])
        for line in axes.lines:
            start = np.asarray(line.get_xydata())[0]
            assert np.isclose(np.linalg.norm(centres - start, axis=1), 0.34).any()
