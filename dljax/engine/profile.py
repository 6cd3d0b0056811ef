"""What a step costs and what the device can do: operation counts, the measured peak, traces for TensorBoard."""

import json
import math
import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dljax.core.cache import cache_folder


def count_flops(function: Callable[..., Any], *args: Any) -> float:
    """Floating-point operations of the matrix products and convolutions of a function, loops counted as often as they run.

    A multiplication and an addition are two operations. XLA's own analysis counts the body of a loop once; a `while` loop whose
    length is not known before it runs counts once here too.

    >>> import jax.numpy as jnp
    >>> count_flops(lambda a, b: a @ b, jnp.ones((4, 8)), jnp.ones((8, 2)))
    128.0
    """
    return float(sum(times * equation_flops(eqn) for eqn, times in equations(jax.make_jaxpr(function)(*args).jaxpr)))


def equations(jaxpr: Any, times: int = 1) -> Iterator[tuple[Any, int]]:
    """Every primitive operation of a jaxpr and of those inside it, with how often it runs; of the branches of a `cond`, the first."""
    for eqn in jaxpr.eqns:
        yield eqn, times
        repeats = times * eqn.params["length"] if eqn.primitive.name == "scan" else times
        inner = eqn.params["branches"][:1] if eqn.primitive.name == "cond" else eqn.params.values()
        for value in inner:
            inside = getattr(value, "jaxpr", value)
            if hasattr(inside, "eqns"):
                yield from equations(inside, repeats)


def equation_flops(eqn: Any) -> float:
    """Of one primitive operation: a matrix product or a convolution; 0 for all others."""
    if eqn.primitive.name == "dot_general":
        (contracted, _), _ = eqn.params["dimension_numbers"]
        lhs = eqn.invars[0].aval.shape
        return 2.0 * math.prod(eqn.outvars[0].aval.shape) * math.prod(lhs[dim] for dim in contracted)
    if eqn.primitive.name == "conv_general_dilated":
        kernel, out = eqn.invars[1].aval.shape, eqn.outvars[0].aval.shape
        features = eqn.params["dimension_numbers"].rhs_spec[0]
        taps = math.prod(size for dim, size in enumerate(kernel) if dim != features)
        return 2.0 * math.prod(out) * taps / np.prod(eqn.params["lhs_dilation"])
    return 0.0


def measured_peak(*, folder: Path | None = None) -> float:
    """Floating-point operations a second of a large float32 matrix product on the default device, measured once and remembered.

    Args:
      folder: where it is remembered; the user's cache folder by default.
    """
    device = jax.devices()[0]
    cores = os.cpu_count() if device.platform == "cpu" else 1
    path = (cache_folder() if folder is None else Path(folder)) / "peak.json"
    name = f"{device.device_kind}/{cores}/{jax.__version__}"
    known = _known(path)
    if name not in known:
        size = 2048 if device.platform == "cpu" else 8192
        product = jax.jit(lambda a: a @ a)
        a = jax.random.normal(jax.random.key(0), (size, size))
        product(a).block_until_ready()
        seconds = []
        for _ in range(5):
            begin = time.perf_counter()
            product(a).block_until_ready()
            seconds.append(time.perf_counter() - begin)
        known[name] = 2 * size**3 / statistics.median(seconds)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{os.getpid()}")
        partial.write_text(json.dumps(known))
        os.replace(partial, path)
    return known[name]


def trace(folder: Path) -> AbstractContextManager[None]:
    """Record what the device does inside the block, for TensorBoard's profile page or Perfetto."""
    return jax.profiler.trace(str(folder))


def use_compilation_cache() -> None:
    """Keep compiled programs in the user's cache folder, unless the user has set jax's own option, or `DLJAX_COMPILATION_CACHE=off`."""
    if (
        os.environ.get("DLJAX_COMPILATION_CACHE", "on").lower() in ("off", "0", "false", "no")
        or jax.config.values["jax_compilation_cache_dir"] is not None
    ):
        return
    folder = cache_folder() / "xla"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return  # a read-only home is no reason not to train
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


def _known(path: Path) -> dict[str, float]:
    try:
        return {str(name): float(value) for name, value in json.loads(path.read_text()).items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}
