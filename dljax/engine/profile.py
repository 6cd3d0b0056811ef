"""What the device can do: its measured peak, traces for TensorBoard, and where compiled programs are kept."""

import json
import os
import statistics
import time
from contextlib import AbstractContextManager
from pathlib import Path

import jax

from dljax.core.cache import cache_folder


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
