"""Recipes: named sets of defaults for the model, its training and its evaluation."""

import math
from typing import Any

__all__ = ["RECIPES", "describe"]

RECIPES: dict[str, dict[str, Any]] = {
    "tutorial": {
        "num_epochs": 50,
        "baseline_epochs": None,
        "early_stop_patience": 3,
        "learning_rate": 1e-3,
        "schedule": "constant",
        "weight_decay": 0.0,
        "beta2": 0.999,
        "max_grad_norm": math.inf,
        "batch_size": 128,
        "activation": "relu",
        "generation_input": "z",
        "num_importance_samples": 100,
    },
    "best": {
        "num_epochs": 30,
        "baseline_epochs": 12,
        "early_stop_patience": 30,
        "learning_rate": 3e-3,
        "schedule": "one-cycle",
        "weight_decay": 0.1,
        "beta2": 0.99,
        "max_grad_norm": 40.0,
        "batch_size": 256,
        "activation": "silu",
        "generation_input": "xz",
        "num_importance_samples": 1000,
    },
}


def describe(arguments: dict[str, Any]) -> str:
    """Name the recipe, and the arguments that differ from its defaults, as they stand on the command line."""
    recipe = RECIPES[arguments["recipe"]]
    changed = [
        f"--{name.replace('_', '-')} {arguments[name]}"
        for name, default in recipe.items()
        if arguments[name] != default
    ]
    return " with ".join([f"recipe {arguments['recipe']}", *([" ".join(changed)] if changed else [])])
