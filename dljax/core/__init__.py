"""The contract and the pure heart of the engine."""

from dljax.core.axis import bind_axis, bound_axis, local_key, pmean, psum
from dljax.core.checks import check_choice, check_int, check_range
from dljax.core.contract import EMPTY, Batch, Cursor, Data, Fold, HostSource, Key, Learner, Mean, Metrics, Numeric, Params, Source, State, start
from dljax.core.experiment import RECIPES, AtLeast, AtMost, Experiment, Recipe, Target, recipe
from dljax.core.unroll import History, evaluate, unroll
from dljax.core.wrappers import ema, ensemble, mixture_logits, swa

__all__ = [
    "EMPTY", "RECIPES", "AtLeast", "AtMost", "Batch", "Cursor", "Data", "Experiment", "Fold", "History", "HostSource", "Key", "Learner", "Mean",
    "Metrics", "Numeric", "Params", "Recipe", "Source", "State", "Target", "bind_axis", "bound_axis", "check_choice", "check_int", "check_range",
    "ema", "ensemble", "evaluate", "local_key", "mixture_logits", "pmean", "psum", "recipe", "start", "swa", "unroll",
]  # fmt: skip
