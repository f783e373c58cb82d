"""What the traces of a model and of its guide say: densities, KL terms, and of what they are."""

from collections.abc import Callable
from functools import reduce
from operator import add
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.distributions import Unit
from pyro.distributions.util import scale_and_mask
from pyro.poutine import Trace
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.distributions import Independent, kl_divergence

from cvae.files import ModelError

__all__ = ["check_sites", "get_trace", "is_plain", "kl_divergences", "log_density", "log_prob"]
__all__ += ["random_sites", "reconstruction", "value_sites"]


def get_trace(program: Callable[..., Any], *args: Tensor) -> Trace:
    """Trace a model or guide, without gradients, Pyro's checks, and what its store then holds."""
    with torch.no_grad(), pyro.get_param_store().scope(), pyro.validation_enabled(False):
        return poutine.trace(program).get_trace(*args)


def value_sites(trace: Trace) -> dict[str, Any]:
    """Return the sites of a trace that have a value, which plates have not, by name."""
    samples = {name: site for name, site in trace.nodes.items() if site["type"] == "sample"}
    return {name: site for name, site in samples.items() if not site_is_subsample(site)}


def random_sites(trace: Trace) -> dict[str, Any]:
    """Return the sites of a trace that have a density, by name.

    Raises:
        ModelError: one is a ``pyro.factor``, with which there is no density.
    """
    sites = {}
    for name, site in value_sites(trace).items():
        if isinstance(site["fn"], Unit):
            raise ModelError(f"{name!r} is a pyro.factor: no likelihood is normalised with it")
        if not site["infer"].get("_deterministic"):
            sites[name] = site
    return sites


def check_sites(model: Trace, guide: Trace, shape: tuple[int, ...]) -> None:
    """Refuse a model that has no likelihood of each image, such as one with a global latent.

    Args:
        model, guide: their traces.
        shape: batch shape that every site must have, (*particles, batch).

    Raises:
        ModelError: a site is a ``pyro.factor`` or has another shape; latent sites differ.
    """
    names = []
    for trace in (model, guide):
        sites = random_sites(trace)
        names.append([name for name, site in sites.items() if not site["is_observed"]])
        for name, site in sites.items():
            if site["fn"].batch_shape != shape:
                found = f"{name!r} has batch shape {tuple(site['fn'].batch_shape)}"
                advice = "declare other dimensions with to_event"
                raise ModelError(f"{found}, expected one for each image {tuple(shape)}: {advice}")
    if set(names[0]) != set(names[1]) or not names[0]:
        model_has, guide_has = (", ".join(map(repr, latents)) or "none" for latents in names)
        listed = f"the model's are {model_has}, the guide's {guide_has}"
        raise ModelError(f"latent sites of model and guide must be the same: {listed}")


def is_plain(model: Trace, guide: Trace) -> bool:
    """Tell whether there is one latent site, and no ``poutine.scale`` or ``poutine.mask``."""
    sites = [site for trace in (model, guide) for site in random_sites(trace).values()]
    unscaled = all((torch.as_tensor(s["scale"]) == 1).all() and s["mask"] is None for s in sites)
    return unscaled and sum(not site["is_observed"] for site in sites) == 2


def log_density(trace: Trace) -> Tensor:
    """Sum the log densities of all sites, masked but not scaled, shape (particles, batch)."""
    sites = random_sites(trace).values()
    masked = (scale_and_mask(s["unscaled_log_prob"], mask=s["mask"]) for s in sites)
    return reduce(add, masked)


def kl_divergences(model: Trace, guide: Trace) -> tuple[Tensor, bool]:
    r"""Return KL(q(z|x,y) || p(z|x)), in nats, from the traces of model and guide.

    It is in closed form where PyTorch knows one, and of each latent by itself where both
    distributions are independent in each.  Elsewhere it is estimated without bias by the samples
    in the traces, :math:`\log q(z|x,y) - \log p(z|x)`.  Latent sites are added up, each given those
    that it depends on.  A ``poutine.mask`` counts, a ``poutine.scale`` does not.

    Returns:
        Shape (*particles, batch, latents), or with a single column if the KL of a site is known for
        all its latents together only; and whether it is exact, and so has nothing of the samples.
    """
    q_sites, p_sites = random_sites(guide), random_sites(model)
    latents = [name for name, site in q_sites.items() if not site["is_observed"]]
    terms, exact, by_latent = [], len(latents) == 1, True
    for name in latents:
        p, q = p_sites[name], q_sites[name]
        try:
            kl, of_each = _closed_form_kl(p, q)
            by_latent = by_latent and of_each
        except NotImplementedError:
            kl = (log_prob(q, q["value"]) - log_prob(p, q["value"])).unsqueeze(-1)
            exact = by_latent = False
        terms.append(kl)
    if by_latent:
        shape = torch.broadcast_shapes(*(term.shape[:-1] for term in terms))
        return torch.cat([term.expand(*shape, -1) for term in terms], -1), exact
    return reduce(add, (term.sum(-1, keepdim=True) for term in terms)), exact


def log_prob(site: Any, value: Tensor) -> Tensor:
    """Return the log density of a value at a site, masked but not scaled."""
    return scale_and_mask(site["fn"].log_prob(value), mask=site["mask"])


def _closed_form_kl(p: Any, q: Any) -> tuple[Tensor, bool]:
    """Return the KL of two sites, latents last, and whether it is that of each latent."""
    masks = p["mask"], q["mask"]
    tensors = all(isinstance(mask, Tensor) for mask in masks)
    if not (torch.equal(*masks) if tensors else masks[0] is masks[1]):
        raise NotImplementedError
    mask = masks[0].unsqueeze(-1) if tensors else masks[0]
    if isinstance(p["fn"], Independent) and isinstance(q["fn"], Independent):
        kl = kl_divergence(q["fn"].base_dist, p["fn"].base_dist)
        kl = kl.flatten(-q["fn"].reinterpreted_batch_ndims)
        return scale_and_mask(kl, mask=mask), not q["fn"].base_dist.event_shape
    return scale_and_mask(kl_divergence(q["fn"], p["fn"]).unsqueeze(-1), mask=mask), False


def reconstruction(model: Trace) -> Tensor:
    """Return the negative log likelihood of what is observed, in nats, (*particles, batch)."""
    sites = [site for site in random_sites(model).values() if site["is_observed"]]
    return -reduce(add, (log_prob(site, site["value"]) for site in sites))
