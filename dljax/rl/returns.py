"""Returns and advantages of one trajectory: discounted sums that know what an episode's end means."""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from dljax.core import Numeric


def gae(
    rewards: Float[Array, "T"],
    values: Float[Array, "T"],
    next_values: Float[Array, "T"],
    terminated: Bool[Array, "T"],
    truncated: Bool[Array, "T"],
    discount: Numeric = 0.99,
    lambda_: Numeric = 0.95,
) -> Float[Array, "T"]:
    """Generalised advantage estimates of one trajectory; vmap it over environments.

      δ_t = r_t + γ (1 - terminated_t) V(s'_t) - V(s_t)
      A_t = δ_t + γ λ (1 - terminated_t) (1 - truncated_t) A_{t+1},   A_T = 0

    with s'_t what the action led to: the last observation of an episode, never the first of the next. A truncated episode is worth what it
    would have gone on to, V(s'_t); a terminated one nothing; no advantage of a later episode moves an earlier one.

    Args:
      rewards: r_t.
      values: V(s_t), of what was acted on.
      next_values: V(s'_t), of `final_observation`; in the last step the bootstrap of the whole trajectory.
      terminated, truncated: whether the episode ended with step t, and how.
      discount: γ in [0, 1]; may be traced.
      lambda_: λ in [0, 1]: 0 is the one-step error, 1 the Monte Carlo return less the value; may be traced.
    Returns:
      A_t.
    Source: Schulman et al. (2016), "High-dimensional continuous control using generalized advantage estimation", eq. 16;
      Pardo et al. (2018), "Time limits in reinforcement learning", eq. 6.

    >>> truncated = jnp.array([True])
    >>> gae(jnp.ones(1), jnp.zeros(1), jnp.full(1, 10.0), ~truncated, truncated, discount=0.9).tolist()
    [10.0]
    """
    errors = rewards + discount * jnp.where(terminated, 0, next_values) - values
    return _discounted_sums(errors, jnp.where(terminated | truncated, 0, discount * lambda_), jnp.zeros_like(errors[0]))


def lambda_returns(
    rewards: Float[Array, "T"],
    next_values: Float[Array, "T"],
    terminated: Bool[Array, "T"],
    truncated: Bool[Array, "T"],
    discount: Numeric = 0.99,
    lambda_: Numeric = 0.95,
) -> Float[Array, "T"]:
    """λ-returns of one trajectory, the targets of TD(λ); vmap it over environments.

      G_t = r_t + γ (1 - terminated_t) ((1 - λ_t) V(s'_t) + λ_t G_{t+1}),   λ_t = λ inside an episode, 0 where it was cut

    Args:
      rewards, next_values, terminated, truncated, discount, lambda_: as in `gae`. The last step bootstraps from its `next_values`.
    Returns:
      G_t; `gae` is G_t - V(s_t) where `next_values` are the values of the following steps.
    Source: Sutton and Barto (2018), eq. 12.18, with the bootstrap of Pardo et al. (2018) at a truncation.

    >>> going = jnp.zeros(2, bool)
    >>> lambda_returns(jnp.ones(2), jnp.array([5.0, 10.0]), going, going, discount=1.0, lambda_=0.5).tolist()
    [9.0, 11.0]
    """
    traces = jnp.where(terminated | truncated, 0, lambda_)
    heads = rewards + discount * jnp.where(terminated, 0, (1 - traces) * next_values)
    return _discounted_sums(heads, discount * traces, next_values[-1])


def discounted_returns(
    rewards: Float[Array, "T"],
    next_values: Float[Array, "T"],
    terminated: Bool[Array, "T"],
    truncated: Bool[Array, "T"],
    discount: Numeric = 0.99,
) -> Float[Array, "T"]:
    """Monte Carlo returns of one trajectory, bootstrapped only where an episode was cut; vmap it over environments.

      G_t = r_t + γ G_{t+1},   with 0 in place of G_{t+1} after a termination and V(s'_t) after a truncation or the last step

    Args:
      rewards, next_values, terminated, truncated, discount: as in `gae`; zeros in `next_values` ignore what was cut off.
    Returns:
      G_t.
    Source: Sutton and Barto (2018), eq. 3.9.

    >>> ended = jnp.array([False, False, True])
    >>> discounted_returns(jnp.ones(3), jnp.zeros(3), ended, jnp.zeros(3, bool), discount=0.5).tolist()
    [1.75, 1.5, 1.0]
    """
    return lambda_returns(rewards, next_values, terminated, truncated, discount, 1.0)


def _discounted_sums(terms: Float[Array, "T"], decays: Float[Array, "T"], last: Float[Array, ""]) -> Float[Array, "T"]:
    """The recursion y_t = x_t + d_t y_{t+1} from behind."""
    return lax.scan(_add_discounted, last, (terms, decays.astype(terms.dtype)), reverse=True)[1]


def _add_discounted(after: Float[Array, ""], row: tuple[Array, Array]) -> tuple[Array, Array]:
    # Not inside: a function that is the same at every call is compiled once, also without jit.
    term, decay = row
    total = term + decay * after
    return total, total
