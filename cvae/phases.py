"""Phases of a CVAE's training: each with a bound, and with images that are shifted or not."""

from dataclasses import dataclass

from pyro.infer import ELBO, RenyiELBO

from cvae.config import PhaseConfig

__all__ = ["Phase", "importance_weighted_elbo", "make_phases"]


@dataclass(frozen=True)
class Phase:
    """Epochs of a CVAE's training that are alike.

    Attributes:
        num_epochs: how many, at least 0.
        elbo: Pyro's estimate of the bound, which trains, validates and stops early.
        shift: pixels by which a training image is shifted at most, anew in each step.
    """

    num_epochs: int
    elbo: ELBO
    shift: int = 0


def importance_weighted_elbo(num_samples: int) -> RenyiELBO:
    r"""Return Pyro's estimate of a bound that is tighter with more samples of each image,

    .. math:: -\log \frac{1}{S} \sum_s \frac{p(y|z_s) \, p(z_s|x)}{q(z_s|x,y)},
        \quad z_s \sim q(z|x,y)

    (Burda, Grosse, Salakhutdinov (2016)).  With one sample it is the negative ELBO.
    """
    return RenyiELBO(num_particles=num_samples, vectorize_particles=True, max_plate_nesting=1)


def make_phases(config: PhaseConfig, num_epochs: int, elbo: ELBO) -> list[Phase]:
    """Make the phases of a config, first and last.

    Those of ``--recipe best`` are ``[Phase(32, elbo, shift=1), Phase(8,
    importance_weighted_elbo(5))]``, of 40 epochs.

    Args:
        config: what changes in the last phase.
        num_epochs: epochs of all phases together.
        elbo: of the first phase, and of the last if its bound has one sample.
    """
    several = config.bound_samples > 1
    bound = importance_weighted_elbo(config.bound_samples) if several else elbo
    first = round((1 - config.last_phase) * num_epochs)
    return [Phase(first, elbo, config.shift), Phase(num_epochs - first, bound)]
