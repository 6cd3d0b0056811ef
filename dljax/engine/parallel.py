"""Where a run lives: meshes, sharding rules matched on paths, and the two per-device modes.

`jit` with shardings works for every learner: the program is the single-device one and XLA inserts the collectives. `pmap` and `shard_map`
run the same step once per device on a slice of the batch; a learner that averages with `core.pmean` gives the same result there.
"""

import math
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from dljax.core.axis import pmean
from dljax.core.checks import check_choice, check_int
from dljax.core.contract import Batch, Cursor, Data, Learner, Mean, Source
from dljax.core.flops import equation_flops, equations
from dljax.core.tree import is_key, path_name

AXES = ("seed", "data", "model")
# From how many operations of a product, on average, and for each number of the state, two cores are better used by a device each: measured, a GPT of
# 150 million and 4,800 gains 12 %; an LSTM of 14 million loses 17 %, a perceptron of 200 for each number loses 45 %.
_PRODUCT_FLOPS, _STATE_FLOPS = 5e7, 1e3
MODES = ("jit", "pmap", "shard_map")
Rule = Callable[[str, tuple[int, ...], Mesh], PartitionSpec | None]


def make_mesh(*, seed: int = 1, data: int = 1, model: int = 1, devices: Sequence[Any] | None = None) -> Mesh:
    """A mesh with the axes `seed`, `data` and `model` (type Auto: XLA places what no rule names).

    Args:
      seed, data, model: devices along each axis, >= 1; their product must not exceed the devices there are.
      devices: which devices, all by default; the first `seed * data * model` are used.
    Raises:
      ValueError: an axis < 1, or more devices asked for than there are.

    >>> make_mesh(data=1).shape["data"]
    1
    """
    sizes = [check_int("make_mesh", name, size, minimum=1) for name, size in zip(AXES, (seed, data, model), strict=True)]
    devices = list(jax.devices() if devices is None else devices)
    needed = math.prod(sizes)
    if needed > len(devices):
        raise ValueError(
            f"make_mesh: seed={seed} x data={data} x model={model} needs {needed} devices, but there are {len(devices)}; "
            "use a smaller mesh, or on a CPU set XLA_FLAGS=--xla_force_host_platform_device_count before jax starts"
        )
    return Mesh(np.asarray(devices[:needed]).reshape(sizes), AXES, axis_types=(AxisType.Auto,) * 3)


@dataclass(frozen=True)
class Parallel:
    """How a run is spread over devices.

    Attributes:
      mesh: from `make_mesh`.
      mode: "jit" (shardings, for every learner), or "pmap" / "shard_map" (data parallel, for learners that average with `core.pmean`).
      rules: what each leaf of the state is sharded by, first match first; what no rule matches is replicated. Only for "jit".

    >>> Parallel(make_mesh(), mode="jit", rules=(fsdp(),)).mode
    'jit'
    """

    mesh: Mesh
    mode: str = "jit"
    rules: tuple[Rule, ...] = ()

    def __post_init__(self) -> None:
        check_choice("Parallel", "mode", self.mode, MODES)
        if self.mode != "jit" and self.rules:
            raise ValueError(f"Parallel: rules shard the state under mode='jit' only, got mode={self.mode!r}; leave them out")
        if self.mode != "jit" and self.num_shards != self.mesh.size:
            raise ValueError(f"Parallel: mode={self.mode!r} uses the data axis only, got {dict(self.mesh.shape)}; use mode='jit'")

    @property
    def num_shards(self) -> int:
        """Devices along the data axis."""
        return self.mesh.shape["data"]

    @property
    def per_device(self) -> bool:
        """Whether the step runs once per device, on a state stacked over devices."""
        return self.mode != "jit"

    def describe(self) -> dict[str, Any]:
        """Plain values for the run's header."""
        return {"mode": self.mode, "devices": self.mesh.size, **{name: size for name, size in self.mesh.shape.items() if size > 1}}


def fsdp(axis: str = "data", min_size: int = 2**10) -> Rule:
    """Shard the largest divisible dimension of each array of at least `min_size` elements over an axis (ZeRO-3; Rajbhandari et al., 2020).

    >>> fsdp(min_size=1)("params/kernel", (8, 3), make_mesh())
    P('data', None)
    """

    def rule(path: str, shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec | None:
        fitting = [dim for dim, size in enumerate(shape) if size % mesh.shape[axis] == 0]
        if not fitting or math.prod(shape) < min_size:
            return None
        largest = max(fitting, key=lambda dim: shape[dim])
        return PartitionSpec(*(axis if dim == largest else None for dim in range(len(shape))))

    return rule


def by_path(*pairs: tuple[str, PartitionSpec]) -> Rule:
    """Shard the arrays whose path a regular expression finds, such as `("Dense_0/kernel$", PartitionSpec(None, "model"))` for tensor parallelism.

    Optimizer moments have the same ending as their parameter, so one rule shards both.

    Raises:
      ValueError: when the run starts, where a rule names more dimensions than the array has or an axis that does not divide it.

    >>> by_path(("kernel$", PartitionSpec(None, "model")))("params/Dense_0/kernel", (4, 8), make_mesh())
    P(None, 'model')
    """

    def rule(path: str, shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec | None:
        for pattern, spec in pairs:
            if not re.search(pattern, path):
                continue
            if len(spec) > len(shape):
                raise ValueError(f"by_path: {pattern!r} gives {spec} to {path}, which has only {len(shape)} dimensions")
            for size, names in zip(shape, spec, strict=False):
                parts = math.prod(mesh.shape[name] for name in ((names,) if isinstance(names, str) else names or ()))
                if size % parts:
                    raise ValueError(f"by_path: {pattern!r} splits a dimension of {path} {shape} in {parts}, which does not divide {size}")
            return spec
        return None

    return rule


def state_shardings(parallel: Parallel, shapes: Any) -> Any:
    """The sharding of each leaf of a state, by the rules; replicated where none matches."""

    def one(path: tuple, leaf: Any) -> NamedSharding:
        for rule in parallel.rules:
            spec = rule(path_name(path), leaf.shape, parallel.mesh)
            if spec is not None:
                return NamedSharding(parallel.mesh, spec)
        return NamedSharding(parallel.mesh, PartitionSpec())

    return jax.tree_util.tree_map_with_path(one, shapes)


def constrain_batches(source: Source, parallel: Parallel) -> Source:
    """The source with each batch `constrained`."""

    def next_batch(data: Data, cursor: Cursor) -> tuple[Cursor, Batch]:
        cursor, batch = source.next(data, cursor)
        return cursor, constrained(batch, parallel)

    return source._replace(next=next_batch)


def constrained(batch: Batch, parallel: Parallel | None) -> Batch:
    """A batch spread over the data axis; leaves whose leading size does not divide stay where XLA puts them."""
    if parallel is None or parallel.num_shards == 1:
        return batch
    sharding = NamedSharding(parallel.mesh, PartitionSpec("data"))

    def one(leaf: Any) -> Any:
        return jax.lax.with_sharding_constraint(leaf, sharding) if jnp.ndim(leaf) and leaf.shape[0] % parallel.num_shards == 0 else leaf

    return jax.tree.map(one, batch)


def local_batches(source: Source, parallel: Parallel) -> Source:
    """The source with each batch cut to this device's slice, for a step that runs once per device.

    Raises:
      ValueError: when traced, if the batch cannot be cut evenly.
    """
    size = parallel.num_shards

    def one(leaf: Any) -> Any:
        if jnp.ndim(leaf) == 0 or leaf.shape[0] % size:
            raise ValueError(
                f"parallel: a batch leaf of shape {jnp.shape(leaf)} cannot be cut into {size} equal parts; use a batch size divisible by {size}"
            )
        rows = leaf.shape[0] // size
        return jax.lax.dynamic_slice_in_dim(leaf, jax.lax.axis_index("data") * rows, rows)

    def next_batch(data: Data, cursor: Cursor) -> tuple[Cursor, Batch]:
        cursor, batch = source.next(data, cursor)
        return cursor, jax.tree.map(one, batch)

    return source._replace(next=next_batch)


def averaged(learner: Learner) -> Learner:
    """The learner with its metrics averaged over the bound axis."""

    def step(key: Any, state: Any, batch: Any) -> tuple[Any, Any]:
        state, metrics = learner.step(key, state, batch)
        return state, {name: Mean(*pmean(tuple(value))) if isinstance(value, Mean) else pmean(value) for name, value in metrics.items()}

    return learner._replace(step=step)


def replicate(tree: Any, parallel: Parallel | None) -> Any:
    """Host arrays on every device of the mesh (on the default device without one); several processes must pass the same values."""
    if parallel is None:
        return jax.tree.map(jnp.asarray, tree)
    sharding = NamedSharding(parallel.mesh, PartitionSpec())

    def one(leaf: Any) -> Any:
        if jax.process_count() == 1:
            return jax.device_put(leaf, sharding)
        if is_key(leaf):
            return jax.jit(jax.random.wrap_key_data, out_shardings=sharding)(one(jax.random.key_data(leaf)))
        leaf = np.asarray(leaf)
        return jax.make_array_from_callback(leaf.shape, sharding, lambda index: leaf[index])

    return jax.tree.map(one, tree)


def copied(tree: Any) -> Any:
    """Copies on the host, whole also where an array is spread over several processes."""

    def one(leaf: Any) -> np.ndarray:
        if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable and not leaf.is_fully_replicated:
            return multihost_utils.process_allgather(leaf, tiled=True)
        return np.array(leaf)

    return jax.tree.map(one, tree)


def on_any_process(flag: bool) -> bool:
    """Whether a flag is up on any process: they must stop together, or those that go on wait for the others forever."""
    return flag if jax.process_count() == 1 else bool(multihost_utils.process_allgather(np.asarray(flag)).any())


def choose(learner: Learner, source: Source) -> Parallel | None:
    """What `parallel="auto"` means: the batch over all devices where that pays, else one device.

    On a GPU or TPU it pays where every leaf of the batch can be cut evenly. On a CPU, where matrix products use every core already and
    convolutions only one, it pays for steps with convolutions; and where the products are large, for all that stands between them, if there is
    enough to compute for each number of the state, of which every device updates a copy.
    """
    size = jax.local_device_count()
    if size == 1 or jax.process_count() > 1:
        return None if size == 1 else Parallel(make_mesh(data=jax.device_count()))
    key = jax.eval_shape(jax.random.key, 0)
    batch = jax.eval_shape(lambda key, data: source.next(data, source.init(key))[1], key, source.data)
    leaves = jax.tree.leaves(batch)
    if not leaves or any(not leaf.shape or leaf.shape[0] % size for leaf in leaves):
        return None
    if jax.devices()[0].platform == "cpu":
        state = jax.eval_shape(learner.init, key, batch)
        found = list(equations(jax.make_jaxpr(learner.step)(key, state, batch).jaxpr))
        products = [(equation_flops(eqn), times) for eqn, times in found if eqn.primitive.name == "dot_general"]
        flops, number = sum(size * times for size, times in products), sum(times for _, times in products)
        is_large = flops >= _PRODUCT_FLOPS * max(number, 1) and flops >= _STATE_FLOPS * sum(leaf.size for leaf in jax.tree.leaves(state))
        if not is_large and all(eqn.primitive.name != "conv_general_dilated" for eqn, _ in found):
            return None
    return Parallel(make_mesh(data=size))


def start_processes(coordinator: str, num_processes: int, process_id: int) -> None:
    """Join several processes into one run (`jax.distributed`); call it before anything else of jax, with the same arguments but `process_id`.

    Args:
      coordinator: `host:port` of process 0.
    Raises:
      ValueError: `process_id` outside [0, num_processes).
    """
    check_int("start_processes", "num_processes", num_processes, minimum=1)
    check_int("start_processes", "process_id", process_id, maximum=num_processes - 1)
    if os.environ.get("JAX_PLATFORMS", "cpu") == "cpu":
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(coordinator, num_processes=num_processes, process_id=process_id)
