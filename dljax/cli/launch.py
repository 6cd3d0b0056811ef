"""How a command starts a run: devices, precision, progress; the same options for every command that trains."""

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dljax.cli.status import UsageError

if TYPE_CHECKING:
    from dljax.engine import FitConfig, Parallel

_PRECISIONS = {"float32": "float32", "fp32": "float32", "f32": "float32", "bfloat16": "bfloat16", "bf16": "bfloat16"}
_AXES = ("seed", "data", "model")


@dataclass(frozen=True)
class Launch:
    """How a run is started; none of it is part of what the run is, but for rounding.

    Attributes:
      precision: float32, or bf16 to compute in bfloat16 with float32 parameters; by default the model's own types.
      mesh: devices along the axes seed, data and model, such as data=4 or data=2,model=2; by default all, where that pays.
      cores: on a CPU, how many cores to use, each of them a device; by default all, or as many as the recipe's steps have work for.
      one_device: use one device only.
      progress: show how far the run is.
      quiet: print nothing but errors.
      tensorboard: write for TensorBoard into the run folder.
      debug: step by step without compilation, stopping at the first NaN, and with the traceback of an error.
    """

    precision: str | None = None
    mesh: str | None = None
    cores: int | None = None
    one_device: bool = False
    progress: bool = True
    quiet: bool = False
    tensorboard: bool = False
    debug: bool = False

    def start(self, devices: int | None = None, cores: int | None = None) -> None:
        """Check the options and set up the devices; to be called before anything starts jax's backend.

        Args:
          devices: how many to make of a CPU where no option says, as a resumed run had.
          cores: how many are of use where no option says: 1 for a recipe of small steps.
        Raises:
          UsageError: an option that does not fit, or devices that cannot be had.
        """
        if self.precision is not None and self.precision not in _PRECISIONS:
            raise UsageError(f"--precision must be float32 or bf16 (bfloat16), got {self.precision!r}")
        sizes = mesh_sizes(self.mesh)
        if self.one_device and (self.cores not in (None, 1) or sizes):
            raise UsageError(f"--one-device and {'--mesh' if sizes else '--cores'} exclude each other; leave one out")
        threads = self.cores or (None if self.one_device else cores)
        _use_cores(1 if self.one_device else self.cores, devices or cores or available_cores(), threads)
        import jax

        needed = math.prod(sizes.values())
        if needed > jax.device_count():
            remedy = f", or make {needed} devices of this CPU with --cores {needed}" if jax.devices()[0].platform == "cpu" else ""
            raise UsageError(f"--mesh {self.mesh} needs {needed} devices, but there are {jax.device_count()}; use a smaller mesh{remedy}")

    def config(self) -> "FitConfig":
        """The engine's options."""
        from dljax.engine import FitConfig

        precision = None if self.precision is None else _PRECISIONS[self.precision]
        return FitConfig(
            precision=precision, parallel=self._parallel(), progress=self.progress and not self.quiet, tensorboard=self.tensorboard, debug=self.debug
        )

    def described(self) -> dict[str, Any]:
        """What a resumed run needs to use the same devices."""
        import jax

        return {"devices": jax.device_count(), "threads": num_threads(), "mesh": self.mesh, "one_device": self.one_device}

    def _parallel(self) -> "Parallel | str | None":
        from dljax.engine import Parallel, make_mesh

        sizes = mesh_sizes(self.mesh)
        if sizes:
            return Parallel(make_mesh(seed=sizes.get("seed", 1), data=sizes.get("data", 1), model=sizes.get("model", 1)))
        return None if self.one_device or self.debug else "auto"


def mesh_sizes(mesh: str | None) -> dict[str, int]:
    """The axes of `--mesh`.

    Raises:
      UsageError: no such axis, or a size that is no whole number >= 1.

    >>> mesh_sizes("data=2,model=4"), mesh_sizes(None)
    ({'data': 2, 'model': 4}, {})
    """
    sizes: dict[str, int] = {}
    for part in mesh.split(",") if mesh else ():
        axis, _, size = part.strip().partition("=")
        if axis not in _AXES:
            raise UsageError(f"--mesh {mesh}: the axes are {', '.join(_AXES)}, got {axis!r}; for example --mesh data=2")
        if not size.isdecimal() or int(size) < 1:
            raise UsageError(f"--mesh {mesh}: the size of {axis!r} must be a whole number >= 1, got {size!r}; for example --mesh {axis}=2")
        sizes[axis] = int(size)
    return sizes


def available_cores() -> int:
    """The cores that this process may use: its affinity, and the quota of the container that it runs in.

    >>> available_cores() >= 1
    True
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        cores = min(cores, math.ceil(int(quota) / int(period)))
    except (OSError, ValueError):  # no such limit
        pass
    return max(cores, 1)


def num_threads() -> int | None:
    """How many threads a CPU's devices share, where something has said."""
    return int(os.environ["NPROC"]) if os.environ.get("NPROC", "").isdecimal() else None


def _use_cores(cores: int | None, otherwise: int, threads: int | None) -> None:
    """Make `cores` devices of a CPU, or `otherwise` many where it is None and neither the environment nor a backend that has started says.

    They compute with so many threads: handing a small operation to another thread takes longer than doing it.
    """
    if cores is not None and cores < 1:
        raise UsageError(f"--cores must be >= 1, got {cores}")
    import jax

    flags = "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    said = "XLA_FLAGS" if flags else "JAX_NUM_CPU_DEVICES" if "JAX_NUM_CPU_DEVICES" in os.environ else ""
    if not said:
        try:
            jax.config.update("jax_num_cpu_devices", cores or otherwise)
            if threads is not None:
                os.environ.setdefault("NPROC", str(threads))  # what XLA's CPU client sizes its pool of threads by, once, when it starts
            return
        except RuntimeError:
            said = "jax, which has started already,"
    if cores not in (None, 1, jax.local_device_count()):
        raise UsageError(f"--cores {cores}: {said} says {jax.local_device_count()} devices; leave --cores out or unset that")
