"""Mixtures of experts: many feed-forward parts, of which each token is sent to a few (Fedus et al., 2022)."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen
from jax.sharding import PartitionSpec
from jaxtyping import Array, Bool, Float, Int

from dljax.core.axis import pmean
from dljax.core.checks import check_int, check_range
from dljax.nn.dense import Dense
from dljax.nn.transformer import FeedForward
from dljax.nn.transformer_config import TransformerConfig


class Routes(NamedTuple):
    """Where each token goes.

    Attributes:
      expert: its K experts, the likeliest first.
      place: its place in the room of each of them, in [0, C); C where there was no room.
      weight: how much of each expert's output it takes; 0 where there was no room.

    >>> route(jnp.log(jnp.array([[0.9, 0.1], [0.6, 0.4]])), num_chosen=1, capacity=1).place.tolist()
    [[0], [1]]
    """

    expert: Int[Array, "N K"]
    place: Int[Array, "N K"]
    weight: Float[Array, "N K"]


def route(
    logits: Float[Array, "N E"],
    *,
    num_chosen: int,
    capacity: int,
    is_normalised: bool = False,
    mask: Bool[Array, "N"] | None = None,
) -> Routes:
    """Send each of N tokens to the K of E experts that its router prefers, as long as they have room.

      p = softmax(logits),   weight_k = p_{e_k}, or p_{e_k} / Σ_j p_{e_j},   e₁, ..., e_K the largest K

    All tokens' first choices are seated before any second choice, and among equal choices the earlier token.

    Args:
      logits: of each expert.
      num_chosen: K, in [1, E].
      capacity: C, how many tokens an expert has room for, >= 1.
      is_normalised: whether a token's K weights sum to 1 (before some have no room), as in Mixtral; in a Switch layer they are the probabilities.
      mask: False for tokens that go nowhere, such as padding.
    Raises:
      ValueError: more choices than experts, a number < 1.
    Source: Lepikhin et al. (2021), GShard, algorithm 1; Fedus et al. (2022), Switch Transformers, section 2.

    >>> routes = route(jnp.log(jnp.array([[0.9, 0.1], [0.6, 0.4]])), num_chosen=2, capacity=2)
    >>> routes.expert.tolist(), routes.place.tolist()
    ([[0, 1], [0, 1]], [[0, 0], [1, 1]])
    """
    num_experts = logits.shape[-1]
    check_int("route", "num_chosen", num_chosen, minimum=1, maximum=num_experts)
    check_int("route", "capacity", capacity, minimum=1)
    weight, expert = jax.lax.top_k(jax.nn.softmax(logits), num_chosen)
    if is_normalised:
        weight = weight / weight.sum(-1, keepdims=True)
    # One row a choice, all first choices above all second ones: a running count is each one's place.
    chosen = jax.nn.one_hot(expert.T.reshape(-1), num_experts, dtype=jnp.int32)
    if mask is not None:
        chosen *= jnp.tile(mask, num_chosen)[:, None]
    place = ((jnp.cumsum(chosen, 0) - 1) * chosen).sum(-1).reshape(num_chosen, -1).T
    has_room = (place < capacity) if mask is None else (place < capacity) & mask[:, None]
    return Routes(expert, jnp.where(has_room, place, capacity), jnp.where(has_room, weight, 0))


def balance_loss(logits: Float[Array, "N E"], num_chosen: int = 1, *, mask: Bool[Array, "N"] | None = None) -> Float[Array, ""]:
    """How unevenly tokens are spread over the experts: K where they are spread evenly.

      L = E Σ_e f_e P_e,   f_e = (tokens that have e among their K choices) / N,   P_e = mean_n p_e(n)

    Its gradient flows through P alone. Where the engine binds a data-parallel axis, f and P are means over the devices too.

    Args:
      logits: of each expert.
      num_chosen: K, in [1, E].
      mask: False for tokens that do not count.
    Source: Fedus et al. (2022), eq. 4 - 6; Shazeer et al. (2017), for the idea.

    >>> float(balance_loss(jnp.array([[20.0, 0.0], [0.0, 20.0]]))), float(balance_loss(jnp.array([[20.0, 0.0], [20.0, 0.0]])))
    (1.0, 2.0)
    """
    num_experts = logits.shape[-1]
    check_int("balance_loss", "num_chosen", num_chosen, minimum=1, maximum=num_experts)
    share, probability = _shares(logits, num_chosen, mask)
    return num_experts * (share * probability).sum()


def router_z_loss(logits: Float[Array, "N E"], *, mask: Bool[Array, "N"] | None = None) -> Float[Array, ""]:
    """The mean square of log Σ_e exp(logit_e), which keeps the router's logits small.

    Args:
      logits: of each expert.
      mask: False for tokens that do not count.
    Source: Zoph et al. (2022), ST-MoE, eq. 5.

    >>> float(router_z_loss(jnp.zeros((3, 1))))
    0.0
    """
    return _mean(jnp.square(jax.nn.logsumexp(logits, -1)), mask)


class MixtureOfExperts(linen.Module):
    """E feed-forward parts and a router that sends each token to K of them.

      y = Σ_k weight_k · FeedForward_{e_k}(x),   weights and e_k from `route`,   logits = x W in float32

    It stands in a Transformer's layer as `TransformerConfig(feed_forward=partial(MixtureOfExperts, num_experts=8))`. A token for which no chosen
    expert has room passes by: y = 0, and the residual connection carries it on. With one expert that has room for all it is `FeedForward`.

    In training `balance_loss` and `router_z_loss`, times their weights, are sown into the collection `losses`, which `dljax.supervised.supervised`
    adds to the loss; `load` [E], each expert's share of the choices, and `dropped` [], the share of choices without room, into `intermediates`
    where that is asked for.

    Attributes:
      config: of the stack; `FeedForward` reads what each expert is like from it.
      num_experts: E.
      num_chosen: K, in [1, E]: 1 in a Switch layer, 2 in GShard and Mixtral.
      capacity_factor: an expert has room for this many times its even share K N / E of the N tokens of the batch, > 0, rounded up; None for as
        many as come, for which it computes and stores E N tokens. In evaluation, too.
      is_normalised: whether a token's weights sum to 1; None for K > 1.
      jitter: in training the router sees x times numbers uniform in [1 - jitter, 1 + jitter], from the random stream `dropout`; in [0, 1).
      balance_weight, z_weight: of the two losses, >= 0; the defaults are of the papers.

    Source: Fedus et al. (2022), Switch Transformers: scaling to trillion parameter models with simple and efficient sparsity.

    >>> layer = MixtureOfExperts(TransformerConfig(num_heads=1, hidden=6), num_experts=3)
    >>> y, variables = layer.init_with_output(jax.random.key(0), jnp.ones((2, 5, 4)))
    >>> y.shape, variables["params"]["experts"]["up"]["kernel"].shape
    ((2, 5, 4), (3, 4, 6))
    """

    config: TransformerConfig
    num_experts: int
    num_chosen: int = 1
    capacity_factor: float | None = 1.25
    is_normalised: bool | None = None
    jitter: float = 0.0
    balance_weight: float = 0.01
    z_weight: float = 0.001

    @linen.compact
    def __call__(self, x: Float[Array, "B T D"], train: bool = False, *, mask: Bool[Array, "B T"] | None = None) -> Float[Array, "B T D"]:
        """The experts' outputs.

        Args:
          x: tokens.
          train: whether to drop units and to jitter.
          mask: False for padding, which goes nowhere and takes no room.
        Raises:
          ValueError: an option out of range.
        """
        check_int("MixtureOfExperts", "num_experts", self.num_experts, minimum=1)
        check_int("MixtureOfExperts", "num_chosen", self.num_chosen, minimum=1, maximum=self.num_experts)
        check_range("MixtureOfExperts", "jitter", self.jitter, 0, 1, open_high=True)
        if self.capacity_factor is not None:
            check_range("MixtureOfExperts", "capacity_factor", self.capacity_factor, 0, open_low=True)
        for name in ("balance_weight", "z_weight"):
            check_range("MixtureOfExperts", name, getattr(self, name), 0)
        tokens, real = x.reshape(-1, x.shape[-1]), None if mask is None else mask.reshape(-1)
        num = len(tokens)
        even = self.num_chosen * num / self.num_experts
        capacity = num if self.capacity_factor is None else min(num, math.ceil(self.capacity_factor * even))
        seen = tokens.astype(jnp.promote_types(x.dtype, jnp.float32))
        if train and self.jitter > 0:
            seen *= jax.random.uniform(self.make_rng("dropout"), seen.shape, seen.dtype, 1 - self.jitter, 1 + self.jitter)
        logits = Dense(self.num_experts, use_bias=False, kernel_init=self.config.kernel_init, name="router")(seen)
        is_normalised = self.num_chosen > 1 if self.is_normalised is None else self.is_normalised
        routes = route(logits, num_chosen=self.num_chosen, capacity=capacity, is_normalised=is_normalised, mask=real)
        if not self.is_initializing():
            self.sow("losses", "balance", self.balance_weight * balance_loss(logits, self.num_chosen, mask=real))
            self.sow("losses", "z", self.z_weight * router_z_loss(logits, mask=real))
            share, _ = _shares(logits, self.num_chosen, real)
            self.sow("intermediates", "load", share / self.num_chosen)
            self.sow("intermediates", "dropped", _mean((routes.place == capacity).astype(logits.dtype).mean(-1), real))
        experts = linen.vmap(FeedForward, in_axes=(0, None), variable_axes={"params": 0}, split_rngs={"params": True, "dropout": True})
        # Each seat is told its token, and gathers it: writing tokens to seats would be slower, and so would products with one-hot matrices.
        seat = routes.expert * capacity + routes.place
        seat = jnp.where(routes.place < capacity, seat, self.num_experts * capacity)
        sitting = jnp.full((self.num_experts * capacity,), num, jnp.int32)
        sitting = sitting.at[seat].set(jnp.broadcast_to(jnp.arange(num, dtype=jnp.int32)[:, None], seat.shape), mode="drop")
        rooms = jnp.take(tokens, sitting, axis=0, mode="fill", fill_value=0).reshape(self.num_experts, 1, capacity, -1)
        made = experts(self.config, name="experts")(rooms, train).reshape(self.num_experts * capacity, -1)
        taken = jnp.take(made, seat, axis=0, mode="fill", fill_value=0)
        return jnp.einsum("nk,nkd->nd", routes.weight.astype(taken.dtype), taken).reshape(x.shape)


EXPERT_SHARDING: tuple[Any, ...] = ((r"feed_forward/experts/.*(kernel|bias)$", PartitionSpec(None, "model")),)
"""Rules for `dljax.engine.by_path` that spread the experts of a stack's layers along the axis `model` of a mesh, which must divide them; put them
before others: `rules=(by_path(*EXPERT_SHARDING, *SHARDING), fsdp())`."""


def _shares(logits: Array, num_chosen: int, mask: Array | None) -> tuple[Array, Array]:
    _, expert = jax.lax.top_k(logits, num_chosen)
    chosen = jax.nn.one_hot(expert, logits.shape[-1], dtype=logits.dtype).sum(-2)
    return _mean(chosen, mask), _mean(jax.nn.softmax(logits), mask)


def _mean(values: Array, mask: Array | None) -> Array:
    """The mean over tokens that count, on all devices."""
    if mask is None:
        return pmean(values.mean(0))
    weight = mask.astype(values.dtype)
    total, number = pmean((jnp.tensordot(weight, values, 1), weight.sum()))
    return total / jnp.maximum(number, jnp.finfo(values.dtype).tiny)
