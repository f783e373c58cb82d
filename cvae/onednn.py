"""Matrix products in float32 for processors on which MKL, PyTorch's default, is at half speed."""

import platform
import re
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

__all__ = ["OneDNNLinear", "fast_products"]

ZEN_5 = r"family\D*(2[6-9]|[3-9]\d)"  # families of AMD whose AVX-512 units are 512 bits wide


class OneDNNLinear(TorchFunctionMode):
    """Within this context, ``F.linear`` of float32 on the CPU is computed by oneDNN.

    Results differ in the last digits.  All else is as it was: other types and devices, autocast,
    and what is traced, compiled or transformed by ``torch.func``.  The context is of the thread
    that enters it.

    oneDNN's gradient has no second derivative, no forward mode, and no gradient checkpoints; a
    network that needs these switches oneDNN off with ``torch.backends.mkldnn.flags(enabled=False)``
    around its training or within its ``forward``.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is F.linear and _is_plain(*args, **(kwargs or {})):
            func = _linear
        return func(*args, **(kwargs or {}))


def _linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return F.linear(input.to_mkldnn(), weight, bias).to_dense()


def _is_plain(input: Any, weight: Any, bias: Any = None) -> bool:
    """Tell whether oneDNN takes these tensors, and nothing else is to see the product."""
    if torch.jit.is_tracing() or torch.compiler.is_compiling() or not torch.backends.mkldnn.enabled:
        return False
    if torch._C._are_functorch_transforms_active() or torch.is_autocast_enabled("cpu"):
        return False
    for tensor in (input, weight) if bias is None else (input, weight, bias):
        if type(tensor) not in (Tensor, torch.nn.Parameter) or tensor.layout != torch.strided:
            return False
        if tensor.device.type != "cpu" or tensor.dtype != torch.float32 or not tensor.numel():
            return False
    # oneDNN reads a bias as if it were contiguous, and whatever lies behind one that is too short.
    if bias is not None and (bias.shape != weight.shape[:1] or not bias.is_contiguous()):
        return False
    return 2 <= input.dim() <= 5 and weight.shape[1:] == input.shape[-1:]


@contextmanager
def fast_products(wanted: bool = True) -> Iterator[None]:
    """Enter :class:`OneDNNLinear`, if wanted, where it is faster: on AMD's Zen 5 and later.

    It depends on the processor alone, so equal processors give equal bytes.
    """
    with OneDNNLinear() if wanted and is_faster() else nullcontext():
        yield


@cache
def is_faster() -> bool:
    """Tell whether this is a processor with AVX-512 that MKL does not use well."""
    # MKL has AVX-512 for Intel's processors only.  Up to Zen 4, AMD's do not gain from it.
    cpuinfo = Path("/proc/cpuinfo")
    processor = cpuinfo.read_text() if cpuinfo.exists() else platform.processor()
    if "AuthenticAMD" not in processor or not re.search(ZEN_5, processor, re.IGNORECASE):
        return False
    has_avx512 = torch.backends.cpu.get_cpu_capability() == "AVX512"
    return has_avx512 and torch.backends.mkldnn.is_available()
