"""What a benchmark ran on, how fast it can compute at best, and whether something else was computing meanwhile."""

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dljax.cli.launch import available_cores

PACKAGES = (
    "numpy", "scipy", "jax", "jaxlib", "flax", "optax", "torch", "keras", "torch_geometric", "gymnasium", "gymnax", "envpool",
    "stable_baselines3", "rejax", "flowjax", "nflows", "torchdiffeq", "evosax",
)  # fmt: skip
SPREAD, SHARE = 0.25, 0.93


def machine() -> dict[str, Any]:
    """The processor, its cores and the memory; no name of the machine."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 0
    return {"processor": _processor(), "cores": available_cores(), "memory_gib": round(memory / 2**30, 1), "system": platform.system()}


def versions() -> dict[str, str]:
    """Python and those of the packages in question that are installed."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


class Accelerator(NamedTuple):
    """JAX's default device: its platform and kind, and operations a second of a large float32 matrix product on it."""

    platform: str
    kind: str
    peak_flops: float


def accelerator(env: dict[str, str]) -> Accelerator:
    """Asked of a process of its own, so that this one neither starts a backend nor holds the device."""
    done = subprocess.run([sys.executable, __file__], env=env, stdout=subprocess.PIPE, text=True, check=True)
    return Accelerator(*json.loads(done.stdout.splitlines()[-1]))


class Probe:
    """A fixed small matrix product on every core at once, taken between rounds: its times tell of others that compute.

    `spread` is the distance between the quartiles of its times over their median: other guests of the same host show there. `share` is the part of
    the cores' time that the products got, on average: other processes of this system show there, steady ones too.
    """

    def __init__(self) -> None:
        self.times: list[float] = []
        self.shares: list[float] = []
        self.cores = available_cores()
        self.matrix = np.random.default_rng(0).standard_normal((200, 200)).astype(np.float32)
        self.places = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0]
        self.pool = ThreadPoolExecutor(self.cores)
        self._together()

    def take(self) -> None:
        """One measurement, some 20 ms."""
        taken = self._together()
        self.times.append(max(wall for wall, _ in taken))
        self.shares.append(sum(cpu for _, cpu in taken) / sum(wall for wall, _ in taken))

    def summary(self) -> dict[str, Any]:
        """Spread and share over the measurements so far, and the verdict."""
        low, high = np.quantile(self.times, [0.25, 0.75])
        spread, share = float(high - low) / statistics.median(self.times), statistics.mean(self.shares)
        return {"spread": round(spread, 3), "share": round(share, 3), "disturbed": spread > SPREAD or share < SHARE}

    def _together(self) -> list[tuple[float, float]]:
        return list(self.pool.map(self._alone, range(self.cores)))

    def _alone(self, number: int) -> tuple[float, float]:
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, {self.places[number % len(self.places)]})  # this thread's: two on one core would look like a third
        wall, cpu = time.perf_counter(), time.thread_time()
        for _ in range(16):
            np.einsum("ij,jk->ik", self.matrix, self.matrix, optimize=False)  # one thread, and without the interpreter's lock
        return time.perf_counter() - wall, time.thread_time() - cpu


def _processor() -> str:
    try:
        lines = [line.partition(":") for line in Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()]
    except OSError:
        return platform.processor() or platform.machine()
    facts = {name.strip(): value.strip() for name, _, value in lines}
    known = [f"{name} {facts[key]}" for name, key in (("family", "cpu family"), ("model", "model")) if key in facts]
    return facts.get("model name", platform.machine()) + (f" ({', '.join(known)})" if known else "")


def _measure() -> None:
    import jax

    from dljax.engine.profile import measured_peak

    device, peaks = jax.devices()[0], []
    for _ in range(5):
        with tempfile.TemporaryDirectory() as folder:  # an empty one: nothing is remembered
            peaks.append(measured_peak(folder=Path(folder)))
    print(json.dumps([device.platform, device.device_kind, max(peaks)]))


if __name__ == "__main__":
    _measure()
