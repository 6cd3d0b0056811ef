"""dljax: every learning algorithm a pure `(init, step)` pair, and one engine for all of them."""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["Learner", "Source", "check_gradients", "check_learner", "fit", "sweep", "unroll"]

_NAMES = {
    "Learner": "core", "Source": "core", "unroll": "core", "check_gradients": "core.check_gradients", "check_learner": "core.check_learner",
    "fit": "engine", "sweep": "engine",
}  # fmt: skip
_PACKAGES = ("core", "data", "nn", "objectives", "optim", "models", "supervised", "generative", "rl", "apps", "engine", "report", "recipes")

if TYPE_CHECKING:
    from dljax.core import Learner, Source, unroll
    from dljax.core.check_gradients import check_gradients
    from dljax.core.check_learner import check_learner
    from dljax.engine import fit, sweep


def __getattr__(name: str) -> Any:
    # Imported where it is used: `dljax --help` must not wait for jax.
    if name in _NAMES:
        return getattr(importlib.import_module(f"dljax.{_NAMES[name]}"), name)
    if name in _PACKAGES:
        return importlib.import_module(f"dljax.{name}")
    raise AttributeError(f"module 'dljax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, *_PACKAGES, "__version__"])
