"""The names that arguments and flags choose from.  Imports nothing, so that ``--help`` answers at once."""

__all__ = ["ACTIVATIONS", "ELBOS", "GENERATION_INPUTS", "PRECISIONS", "SCHEDULES", "check_choice"]

ACTIVATIONS = ("relu", "silu")  # functions of torch.nn.functional
GENERATION_INPUTS = ("z", "xz")  # p(y|z) as in the tutorial, p(y|x,z) as in the paper
ELBOS = ("mean-field", "trace")  # the KL term in closed form, or sampled
PRECISIONS = ("float32", "bfloat16")  # types of torch, of the matrix products in training
SCHEDULES = ("constant", "one-cycle")  # of the learning rate


def check_choice(name: str, choices: tuple[str, ...]) -> None:
    """Raise a ``ValueError`` if the name is none of the choices."""
    if name not in choices:
        raise ValueError(f"{name!r} is none of {', '.join(choices)}")
