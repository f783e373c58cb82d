"""Products by oneDNN: which ones, where, and that they are right."""

import copy
import platform
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from pyro.infer import JitTrace_ELBO, TraceMeanField_ELBO
from torch import nn

from cvae import onednn
from cvae.config import TrainingConfig
from cvae.data import make_loader
from cvae.estimators import baseline_nll, estimate_cll, kl_per_latent
from cvae.evaluate import draw_samples
from cvae.onednn import OneDNNLinear, fast_products, is_faster
from cvae.train import BaselineTraining, CVAETraining

pytestmark = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="PyTorch was built without oneDNN"
)


def by_onednn(y: torch.Tensor) -> bool:
    return "ToDense" in type(y.grad_fn).__name__


def in_use() -> bool:
    """Whether oneDNN would compute a product just now."""
    with torch.enable_grad():
        return by_onednn(F.linear(torch.ones(2, 2, requires_grad=True), torch.ones(2, 2)))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind", ["contiguous", "transposed", "expanded", "selected rows"])
@pytest.mark.parametrize("shape", [(5,), (7, 5), (2, 7, 5), (2, 1, 3, 7, 5), (2, 1, 1, 3, 7, 5)])
def test_products_and_gradients_are_those_of_linear(shape, kind, bias):
    made = {
        "contiguous": lambda x, w: (x, w),
        "transposed": lambda x, w: (x.mT.contiguous().mT if x.ndim > 1 else x, w.t().clone().t()),
        "expanded": lambda x, w: (x[:1].expand(shape) if x.ndim > 1 else x, w[:1].expand(4, 5)),
        "selected rows": lambda x, w: (x, w.index_select(0, torch.tensor([3, 0, 3]))),
    }[kind]
    leaves = [torch.randn(size, requires_grad=True) for size in (shape, (4, 5), (4,))]

    def compute() -> list[torch.Tensor]:
        x, weight = made(*leaves[:2])
        y = F.linear(x, weight, leaves[2][: len(weight)] if bias else None)
        assert by_onednn(y) == (in_use() and 2 <= len(shape) <= 5)
        return [y, *torch.autograd.grad(y.sin().sum(), leaves[: 2 + bias])]

    with OneDNNLinear():
        ours = compute()
    torch.testing.assert_close(ours, compute(), rtol=1e-5, atol=1e-5)


def test_nothing_else_is_changed():
    """Other types, what is empty, autocast, ``torch.func``, tracing, compilers, and a switch."""
    x, net = torch.randn(6, 4), nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2))
    double, compiled = nn.Linear(4, 2).double(), torch.compile(net, backend="aot_eager")

    def compute() -> list[Any]:
        y = [double(x.double()), net(x[:0]), compiled(x), torch.jit.trace(net, x)(x)]
        weight = next(net.parameters())
        biases = torch.arange(10.0)[::2], torch.ones(1).expand(5), torch.ones(1), torch.ones(6, 5)
        y += [F.linear(x, weight, bias) for bias in biases]
        with torch.autocast("cpu", torch.bfloat16):
            y.append(net(x))
        with torch.backends.mkldnn.flags(enabled=False):
            y.append(net(x))
        assert not any(map(by_onednn, y))
        gradient = torch.func.vmap(torch.func.grad(lambda v: net(v).sum()))(x)
        return [*y, torch.func.jvp(net, (x,), (x,)), gradient]

    with OneDNNLinear():
        assert by_onednn(net(x))
        ours = compute()
    torch.testing.assert_close(ours, compute(), rtol=0, atol=0)


@pytest.mark.parametrize(
    "processor, capability, expected",
    [
        ("vendor_id : AuthenticAMD\ncpu family : 26\nmodel : 2\n", "AVX512", True),
        ("vendor_id : AuthenticAMD\ncpu family : 26\nmodel : 2\n", "AVX2", False),
        ("vendor_id : AuthenticAMD\ncpu family : 25\nmodel : 17\n", "AVX512", False),
        ("vendor_id : GenuineIntel\ncpu family : 6\nmodel : 143\n", "AVX512", False),
        ("processor : 0\nFeatures : fp asimd\n", "DEFAULT", False),
        ("AMD64 Family 26 Model 68 Stepping 0, AuthenticAMD", "AVX512", True),
    ],
)
def test_processor_alone_decides(processor, capability, expected, monkeypatch):
    monkeypatch.setattr(Path, "exists", lambda _: "vendor_id" in processor)
    monkeypatch.setattr(Path, "read_text", lambda _: processor)
    monkeypatch.setattr(platform, "processor", lambda: processor)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    assert is_faster.__wrapped__() == expected
    monkeypatch.setattr(onednn, "is_faster", is_faster.__wrapped__)
    with fast_products():
        assert in_use() == expected
    with fast_products(wanted=False):
        assert not in_use()


class Spy(nn.Module):
    """A network that looks who computes, in training and in evaluation mode."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.seen: dict[bool, set[bool]] = {True: set(), False: set()}

    def forward(self, *args: Any) -> Any:
        self.seen[self.training].add(in_use())
        return self.net(*args)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("elbo", [TraceMeanField_ELBO(), JitTrace_ELBO(ignore_jit_warnings=True)])
def test_training_and_estimators_enter_it_and_the_callers_code_does_not(
    precision, elbo, few, cvae, monkeypatch
):
    monkeypatch.setattr(onednn, "is_faster", lambda: True)
    config = TrainingConfig(num_epochs=2, precision=precision)
    cvae.prior_net = spy = Spy(cvae.prior_net)
    cvae.baseline_net.fc2 = baseline_spy = Spy(cvae.baseline_net.fc2)
    few["train"] = make_loader(few["val"].dataset, 10)  # JitTrace_ELBO needs batches of one size
    if not isinstance(elbo, JitTrace_ELBO):
        cvae.recognition_net = torch.compile(cvae.recognition_net, backend="eager")
    for _ in BaselineTraining(cvae.baseline_net, few, config):
        assert not in_use()
    for _ in CVAETraining(cvae, few, config, copy.deepcopy(elbo)):
        assert not in_use()
    if not isinstance(elbo, JitTrace_ELBO):  # which does not look again
        assert spy.seen[True] == {precision == "float32"}
    assert baseline_spy.seen[True] == {precision == "float32"}
    assert True in spy.seen[False] and True in baseline_spy.seen[False]
    dataset = few["val"].dataset
    for use, of in (
        (lambda: baseline_nll(cvae.baseline_net, dataset), baseline_spy),
        (lambda: estimate_cll(cvae, dataset, num_particles=2), spy),
        (lambda: kl_per_latent(cvae, dataset), spy),
        (lambda: draw_samples(cvae, dataset[:3]["input"], 2), spy),
    ):
        of.seen[False].clear()
        use()
        assert of.seen[False] == {True} and not in_use()


def test_other_threads_and_failures_are_left_alone(cvae, dataset, monkeypatch):
    monkeypatch.setattr(onednn, "is_faster", lambda: True)
    with ThreadPoolExecutor(1) as pool, fast_products():
        assert in_use() and not pool.submit(in_use).result()
    cvae.baseline_net.forward = None
    with pytest.raises(TypeError):
        draw_samples(cvae, dataset[:3]["input"], 2)
    assert not in_use()
