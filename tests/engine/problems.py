"""Small learners and data for the tests of the engine."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dljax.core import Fold, Learner, Mean, Source, local_key, pmean, precision
from dljax.data import shuffled

_random = np.random.default_rng(0)
X = _random.normal(size=(96, 8)).astype(np.float32)
Y = np.tanh(X @ _random.normal(size=(8, 4))).astype(np.float32)
HELD_OUT = {"x": X[:20], "y": Y[:20]}
TRAINING = {"x": X, "y": Y}
BATCH = 24  # divisible by the eight simulated devices

SOURCE = shuffled(TRAINING, BATCH)


def source(dtype: Any = np.float32) -> Source:
    """The training data in random order, in another precision."""
    return shuffled({name: values.astype(dtype) for name, values in TRAINING.items()}, BATCH)


def apply(params: Any, x: Any) -> Any:
    return jnp.tanh(x @ params["first"]["kernel"] + params["first"]["bias"][None, :]) @ params["second"]["kernel"]


def network(learning_rate: Any = 0.1, *, momentum: Any = 0.9, noise: float = 0.0, hidden: int = 16, poison: int | None = None) -> Learner:
    """A network with one hidden layer, trained by gradient descent with momentum.

    Args:
      noise: scale of what is added to the inputs, another on every device.
      poison: the step at which the loss becomes NaN.
    """
    forward = precision.wrap(apply)

    def init(key: Any, batch: Any) -> Any:
        first, second = jax.random.split(key)
        dtype = batch["x"].dtype
        params = {
            "first": {"kernel": 0.3 * jax.random.normal(first, (8, hidden), dtype), "bias": jnp.zeros(hidden, dtype)},
            "second": {"kernel": 0.3 * jax.random.normal(second, (hidden, 4), dtype)},
        }
        return {"params": params, "momentum": jax.tree.map(jnp.zeros_like, params), "count": jnp.int32(0)}

    def error(params: Any, batch: Any) -> Any:
        return ((forward(params, batch["x"]) - batch["y"]) ** 2).mean(-1)

    def step(key: Any, state: Any, batch: Any) -> Any:
        if noise:
            batch = {**batch, "x": batch["x"] + noise * jax.random.normal(local_key(key), batch["x"].shape, batch["x"].dtype)}
        loss, grads = jax.value_and_grad(lambda params: error(params, batch).mean())(state["params"])
        grads = pmean(grads)
        velocity = jax.tree.map(lambda v, g: momentum * v + g, state["momentum"], grads)
        params = jax.tree.map(lambda p, v: p - learning_rate * v, state["params"], velocity)
        if poison is not None:
            loss = jnp.where(state["count"] == poison, jnp.nan, loss)
        return {"params": params, "momentum": velocity, "count": state["count"] + 1}, {"loss": loss, "bias": params["first"]["bias"].sum()}

    evaluate = Fold(
        lambda key, state: Mean(jnp.zeros(()), jnp.zeros(())),
        lambda acc, state, batch: Mean(acc.total + (batch["mask"] * error(state["params"], batch)).sum(), acc.weight + batch["mask"].sum()),
        lambda acc: {"error": acc},
    )
    return Learner(init, step, lambda state: state["params"], evaluate, {"predict": lambda key, params, x: forward(params, x)})


def scripted(values: Any) -> Learner:
    """A learner whose evaluations are a given series: what is evaluated after step t is `values[t - 1]`; its loss is t."""
    table = jnp.asarray(values, jnp.float32)

    def step(key: Any, state: Any, batch: Any) -> Any:
        return {"params": state["params"] + 1}, {"loss": state["params"]}

    evaluate = Fold(lambda key, state: table[state["params"].astype(int) - 1], lambda acc, state, batch: acc, lambda acc: {"score": acc})
    return Learner(lambda key, batch: {"params": jnp.zeros(())}, step, evaluate=evaluate)


class Lines:
    """A `HostSource` over the training data: deterministic, restorable, and told when to fail."""

    def __init__(self, fail_at: int | None = None, wrong: int = 0) -> None:
        self.place, self.fail_at, self.wrong = 0, fail_at, wrong

    def take(self, num: int) -> Any:
        if self.fail_at is not None and self.place + num > self.fail_at:
            raise RuntimeError(f"no batch {self.fail_at}")
        rows = [(np.arange(BATCH) * 5 + 7 * (self.place + index)) % len(X) for index in range(num + self.wrong)]
        self.place += num
        return {"x": np.stack([X[row] for row in rows]), "y": np.stack([Y[row] for row in rows])}

    def state(self) -> bytes:
        return str(self.place).encode()

    def restore(self, state: bytes) -> None:
        self.place = int(state)


def assert_same_bits(one: Any, other: Any) -> None:
    """Two trees have the same structure, and every leaf the same type and bits."""
    from dljax.core.tree import named_leaves, without_keys

    first, second = list(named_leaves(without_keys(one))), list(named_leaves(without_keys(other)))
    assert [name for name, _ in first] == [name for name, _ in second]
    for (name, left), (_, right) in zip(first, second, strict=True):
        left, right = np.asarray(left), np.asarray(right)
        assert (left.dtype, left.shape) == (right.dtype, right.shape), name
        assert left.tobytes() == right.tobytes(), f"{name} differs: {left.ravel()[:4]} against {right.ravel()[:4]}"
