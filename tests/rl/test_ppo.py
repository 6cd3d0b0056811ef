"""PPO against gradients worked out by hand, exact values, and gymnasium."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dljax import rl
from dljax.core import EMPTY, bind_axis, evaluate, start, unroll
from dljax.core.precision import use
from dljax.rl import Environment, PPOConfig, Transition, ppo
from dljax.rl.ppo import _orders

REWARDS = np.array([1.0, 0.0, 3.0])
LOGITS = np.array([0.5, 0.2, -0.4])
PROBS = np.exp(LOGITS) / np.exp(LOGITS).sum()


def bandit():
    """One step an episode, three actions."""

    def step(key, state, action, params):
        return Transition(state, jnp.zeros(1), jnp.asarray(REWARDS, jnp.float32)[action], jnp.bool_(True), jnp.bool_(False))

    return Environment(lambda key, params: (jnp.zeros(()), jnp.zeros(1)), step, rl.Box(0.0, 1.0, (1,)), rl.Discrete(3), name="bandit")


def table(value=0.5):
    """A network without inputs: logits and one value, its parameters."""

    def apply(params, observation):
        ones = jnp.ones((observation.shape[0], 1))
        return ones * params["logits"][None], ones[:, 0] * params["value"]

    return lambda key, observation: {"logits": jnp.asarray(LOGITS, jnp.float32), "value": jnp.float32(value)}, apply


def plain(**options):
    """The bare policy gradient: one update on all of the data, nothing normalised, nothing clipped by norm."""
    options = {"epochs": 1, "minibatches": 1, "value_coefficient": 0.0, "max_grad_norm": None, "normalize_advantages": False, **options}
    return PPOConfig(num_envs=2000, horizon=10, **options)


def stepped(learner, steps=1, seed=0):
    key, state, cursor = start(learner, EMPTY, jax.random.key(seed))
    state, _, history = jax.jit(unroll(learner, EMPTY, steps, steps))(key, 0, state, cursor)
    return state, history


def test_first_update_is_the_enumerated_policy_gradient():
    state, history = stepped(ppo(bandit(), table(), optax.sgd(1.0), plain()))
    enumerated = PROBS * (REWARDS - PROBS @ REWARDS)
    # Deviation of one term of the mean, (r - V) (1[a] - π), bounded by 2.5: four of the mean's.
    np.testing.assert_allclose(state.params["logits"] - LOGITS, enumerated, atol=4 * 2.5 / np.sqrt(20_000))
    assert float(state.params["value"]) == 0.5
    np.testing.assert_allclose(history["return"], PROBS @ REWARDS, atol=0.05)
    np.testing.assert_allclose(history["entropy"], -PROBS @ np.log(PROBS), rtol=1e-3)
    np.testing.assert_allclose([history["approx_kl"][0], history["clip_fraction"][0]], 0, atol=1e-6)


def test_value_and_entropy_enter_the_loss_with_their_weights():
    config = plain(value_coefficient=0.3, entropy_coefficient=0.2)
    state, history = stepped(ppo(bandit(), table(), optax.sgd(1.0), config))
    mean = history["return"][0]
    np.testing.assert_allclose(state.params["value"] - 0.5, 0.3 * (mean - 0.5), rtol=1e-4)
    entropy = -PROBS @ np.log(PROBS)
    expected = PROBS * (REWARDS - PROBS @ REWARDS) - 0.2 * PROBS * (np.log(PROBS) + entropy)
    np.testing.assert_allclose(state.params["logits"] - LOGITS, expected, atol=0.08)
    total = history["policy_loss"] + 0.3 * history["value_loss"] - 0.2 * history["entropy"]
    np.testing.assert_allclose(history["loss"], total, rtol=1e-5)


def test_clipping_stops_a_probability_that_has_lost_enough():
    moved = {}
    for clip in (0.1, 100.0):
        config = plain(epochs=60, clip=clip)
        # V = 1.5: the first two actions have negative advantages.
        state, history = stepped(ppo(bandit(), table(1.5), optax.sgd(0.02), config))
        moved[clip] = np.asarray(jax.nn.softmax(state.params["logits"]) / PROBS)
        assert (history["clip_fraction"][0] > 0) == (clip < 1)
    assert 0.87 < moved[0.1].min() < 0.91
    assert moved[100.0].min() < 0.8


def test_value_clipping_stops_a_value_that_has_moved_enough():
    ends = {}
    for value_clip in (0.1, None):
        state, _ = stepped(ppo(bandit(), table(), optax.sgd(0.05), plain(epochs=40, value_coefficient=1.0, value_clip=value_clip)))
        ends[value_clip] = float(state.params["value"]) - 0.5
    assert 0.09 < ends[0.1] < 0.16
    assert ends[None] > 0.4


def test_gradients_are_scaled_to_the_global_norm_and_not_by_element():
    free, _ = stepped(ppo(bandit(), table(), optax.sgd(1.0), plain(value_coefficient=1.0)))
    short, _ = stepped(ppo(bandit(), table(), optax.sgd(1.0), plain(value_coefficient=1.0, max_grad_norm=0.1)))
    first = {"logits": LOGITS.astype(np.float32), "value": np.float32(0.5)}
    change, scaled = (np.concatenate([np.ravel(state.params[name] - first[name]) for name in first]) for state in (free, short))
    np.testing.assert_allclose(np.linalg.norm(scaled), 0.1, rtol=1e-4)
    np.testing.assert_allclose(scaled / np.linalg.norm(scaled), change / np.linalg.norm(change), atol=1e-4)


def chain(limit, is_truncated):
    """Two states in turn, reward 1 when leaving the first; cut or ended after `limit` steps."""

    def show(state):
        return jax.nn.one_hot(state, 2)

    def reset(key, params):
        return (jnp.int32(0), jnp.int32(0)), show(0)

    def step(key, state, action, params):
        here, time = state[0], state[1] + 1
        over = time >= limit
        return Transition((1 - here, time), show(1 - here), (here == 0).astype(jnp.float32), over & (not is_truncated), over & is_truncated)

    return Environment(reset, step, rl.Box(0.0, 1.0, (2,)), rl.Discrete(2), name="chain")


@pytest.mark.parametrize("gae_lambda", [0.0, 0.95])
def test_values_at_a_time_limit_are_those_of_the_unlimited_task(gae_lambda):
    network = (
        lambda key, observation: {"values": jnp.zeros(2)},
        lambda params, observation: (jnp.zeros((observation.shape[0], 2)), observation @ params["values"]),
    )
    config = PPOConfig(num_envs=4, horizon=8, epochs=1, minibatches=1, discount=0.8, gae_lambda=gae_lambda, value_coefficient=1.0, max_grad_norm=None)
    values = {}
    for is_truncated in (True, False):
        learner = ppo(chain(5, is_truncated), network, optax.sgd(0.5), config)
        values[is_truncated] = np.asarray(stepped(learner, 300)[0].params["values"])
    unlimited = 1 / (1 - 0.8**2)
    np.testing.assert_allclose(values[True], [unlimited, 0.8 * unlimited], rtol=0.01)
    assert (values[False] < 0.75 * values[True]).all()
    if gae_lambda == 0:
        # The fixed point where one in three departures from the first state is the last: V_0 = 1 + γ (2/3) V_1, V_1 = γ V_0.
        limited = 1 / (1 - 0.8**2 * 2 / 3)
        np.testing.assert_allclose(values[False], [limited, 0.8 * limited], rtol=0.05)


def test_each_epoch_visits_every_step_once_in_an_order_of_its_own():
    for size in (1, 6, 1000, 70_000):
        orders = np.asarray(_orders(jax.random.key(0), 3, size))
        np.testing.assert_array_equal(np.sort(orders, axis=1), np.tile(np.arange(size), (3, 1)))
        if size > 6:
            assert (orders[0] == orders[1]).mean() < 0.01
    firsts = np.asarray(jax.vmap(lambda key: _orders(key, 1, 6)[0])(jax.random.split(jax.random.key(1), 6000)))
    for place in range(6):
        assert (np.abs(np.bincount(firsts[:, place], minlength=6) - 1000) < 4 * np.sqrt(1000)).all()


CONFIG = PPOConfig(num_envs=4, horizon=16, minibatches=2, epochs=2, eval_episodes=6)


def cartpole_learner(**options):
    return ppo(rl.cartpole(), rl.ActorCritic(2, (16,)), optax.adam(1e-3), PPOConfig(**{**vars(CONFIG), **options}))


def test_state_may_be_donated():
    learner = cartpole_learner()
    state = jax.jit(learner.init)(jax.random.key(0), ())
    step = jax.jit(learner.step, donate_argnums=1)
    for index in range(2):
        state, _ = step(jax.random.key(index), state, ())
    assert int(state.episodes.lengths.min()) >= 0


def test_options_may_be_traced():
    def loss(discount, clip, coefficient):
        learner = cartpole_learner(discount=discount, clip=clip, entropy_coefficient=coefficient, gae_lambda=discount, max_grad_norm=clip)
        state = learner.init(jax.random.key(0), ())
        return learner.step(jax.random.key(1), state, ())[1]["loss"]

    traced = jax.jit(jax.vmap(loss, in_axes=(0, None, None)))(jnp.array([0.9, 0.99]), 0.2, 0.01)
    np.testing.assert_allclose(traced[0], jax.jit(lambda: loss(0.9, 0.2, 0.01))(), rtol=1e-4)
    assert traced[0] != traced[1]


def test_devices_roll_out_on_their_own_and_learn_together():
    learner = cartpole_learner()
    state = learner.init(jax.random.key(0), ())
    stacked = jax.tree.map(lambda x: jnp.stack([x, x]), state)

    def step(state):
        with bind_axis("data"):
            return learner.step(jax.random.key(1), state, ())

    new, metrics = jax.jit(jax.vmap(step, axis_name="data"))(stacked)
    jax.tree.map(lambda x: np.testing.assert_array_equal(x[0], x[1]), new.params)
    assert not np.array_equal(new.observation[0], new.observation[1])
    assert float(metrics["loss"][0]) != float(metrics["loss"][1])


def test_no_return_is_reported_before_an_episode_ends():
    learner = ppo(rl.cartpole(), rl.ActorCritic(2, (16,)), optax.adam(1e-3), PPOConfig(num_envs=4, horizon=4))
    state = learner.init(jax.random.key(0), ())
    _, metrics = jax.jit(learner.step)(jax.random.key(1), state, ())
    assert float(metrics["return"].weight) == float(metrics["length"].weight) == 0


def test_bfloat16_keeps_float32_parameters_and_float64_stays():
    learner = cartpole_learner()
    with use("bfloat16"):
        state, metrics = jax.jit(learner.step)(jax.random.key(1), learner.init(jax.random.key(0), ()), ())
    assert {leaf.dtype for leaf in jax.tree.leaves(state.params)} == {jnp.dtype(jnp.float32)}
    assert np.isfinite(metrics["loss"])
    with jax.enable_x64(True):
        before = learner.init(jax.random.key(0), ())
        after, _ = jax.jit(learner.step)(jax.random.key(1), before, ())
        assert jax.tree.map(lambda x: x.dtype, before) == jax.tree.map(lambda x: x.dtype, after)
        assert after.observation.dtype == jnp.float64


def test_evaluation_is_whole_episodes_of_the_greedy_policy():
    learner = cartpole_learner()
    state = learner.init(jax.random.key(0), ())
    # Weights that balance: the logits are minus and plus a lean.
    params = jax.tree.map(jnp.zeros_like, state.params["params"])
    params["actor_0"]["kernel"] = params["actor_0"]["kernel"].at[:, 0].set(jnp.array([0.02, 0.08, 1.0, 0.2]))
    params["actor_1"]["kernel"] = params["actor_1"]["kernel"].at[0].set(jnp.array([-1.0, 1.0]))
    metrics = jax.jit(evaluate(learner.evaluate))(jax.random.key(1), state._replace(params={"params": params}), ())
    assert float(metrics["return"].value) == float(metrics["length"].value) == 500
    assert float(metrics["return"].weight) == 6
    act = learner.functions["act"](jax.random.key(0), {"params": params}, jnp.array([[0.0, 0, 0.1, 0], [0, 0, -0.1, 0]]))
    assert act.tolist() == [1, 0]
    drawn = learner.functions["sample"](jax.random.key(0), {"params": params}, jnp.zeros((400, 4)))
    assert 140 < int(drawn.sum()) < 260
    assert learner.functions["value"](jax.random.key(0), {"params": params}, jnp.zeros((3, 4))).shape == (3,)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_envs": 0}, "ppo: num_envs must be >= 1, got 0"),
        ({"horizon": 2.5}, "ppo: horizon must be a whole number >= 1, got 2.5"),
        ({"epochs": 0}, "ppo: epochs must be >= 1"),
        ({"eval_episodes": 0}, "ppo: eval_episodes must be >= 1"),
        ({"num_envs": 4, "horizon": 6, "minibatches": 5}, "ppo: minibatches must divide num_envs x horizon = 24, got 5; use 4"),
        ({"discount": 1.1}, r"ppo: discount must be in \[0, 1\], got 1.1"),
        ({"gae_lambda": -0.1}, r"ppo: gae_lambda must be in \[0, 1\]"),
        ({"clip": 0}, r"ppo: clip must be in \(0, "),
        ({"value_clip": -1.0}, r"ppo: value_clip must be in \(0, "),
        ({"max_grad_norm": 0.0}, r"ppo: max_grad_norm must be in \(0, "),
        ({"value_coefficient": -1.0}, r"ppo: value_coefficient must be in \[0, "),
        ({"entropy_coefficient": float("nan")}, r"ppo: entropy_coefficient must be in \[0, "),
    ],
)
def test_config_refuses(options, message):
    with pytest.raises((ValueError, TypeError), match=message):
        PPOConfig(**options)


def test_refuses_continuous_actions_and_networks_that_do_not_fit():
    continuous = rl.cartpole()._replace(action_space=rl.Box(-1.0, 1.0, (1,)), name="cart")
    with pytest.raises(ValueError, match="ppo: env must have a Discrete action space, got Box.* from 'cart'"):
        ppo(continuous, rl.ActorCritic(2), optax.sgd(0.1))
    with pytest.raises(ValueError, match=r"ppo: network must return \(logits, value\) of shapes \[\(3, 2\), \(3,\)\].* got \[\(3, 5\), \(3,\)\]"):
        ppo(rl.cartpole(), rl.ActorCritic(5), optax.sgd(0.1))


def test_network_takes_any_leading_axes_and_equals_the_layers_written_out():
    network = rl.ActorCritic(3, (8, 8))
    params = network.init(jax.random.key(0), jnp.zeros((1, 5)))
    x = jax.random.normal(jax.random.key(1), (2, 7, 5))
    logits, value = network.apply(params, x)
    assert (logits.shape, value.shape) == ((2, 7, 3), (2, 7))

    def written_out(params, x):
        layers, outputs = params["params"], []
        for name in ("actor", "critic"):
            h = x.reshape(-1, 5)
            for index in range(2):
                h = jnp.tanh(jnp.matmul(h, layers[f"{name}_{index}"]["kernel"]) + layers[f"{name}_{index}"]["bias"][None])
            outputs.append(jnp.matmul(h, layers[f"{name}_2"]["kernel"]) + layers[f"{name}_2"]["bias"][None])
        return outputs[0].reshape(2, 7, 3), outputs[1].reshape(2, 7)

    def total(apply):
        return lambda params, x: sum((out**2).sum() for out in apply(params, x))

    np.testing.assert_allclose(logits, written_out(params, x)[0], rtol=1e-5, atol=1e-6)
    for argnum in (0, 1):
        ours, plain = (jax.grad(total(apply), argnum)(params, x) for apply in (network.apply, written_out))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), ours, plain)
    # Forward over reverse: what a Fisher-vector product is made of.
    direction = jax.tree.map(jnp.ones_like, params)
    ours, plain = (jax.jvp(jax.grad(lambda p, f=f: total(f)(p, x)), (params,), (direction,))[1] for f in (network.apply, written_out))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3), ours, plain)


def test_learns_to_balance():
    from dljax.recipes import get

    experiment = get("cartpole/ppo").build(frames=40_000)
    state, history = stepped(experiment.learner, experiment.steps)
    metrics = jax.jit(evaluate(experiment.learner.evaluate))(jax.random.key(1), state, ())
    assert float(metrics["return"].value) > 195


@pytest.mark.slow
def test_recipe_reaches_its_target_and_its_policy_balances_gymnasiums_pole():
    import gymnasium

    from dljax.recipes import get

    recipe = get("cartpole/ppo")
    experiment = recipe.build()
    train = jax.jit(unroll(experiment.learner, EMPTY, experiment.steps, experiment.steps))
    measure = jax.jit(evaluate(experiment.learner.evaluate))
    act = jax.jit(experiment.learner.functions["act"])
    ours, theirs = [], []
    for seed in range(recipe.seeds):
        key, state, cursor = start(experiment.learner, EMPTY, jax.random.key(seed))
        state, _, _ = train(key, 0, state, cursor)
        ours.append(float(measure(jax.random.key(100 + seed), state, ())["return"].value))
        env = gymnasium.make("CartPole-v1")
        for episode in range(10):
            observation, _ = env.reset(seed=1000 * seed + episode)
            total, over = 0.0, False
            while not over:
                observation, reward, terminated, truncated, _ = env.step(int(act(jax.random.key(0), state.params, observation[None])[0]))
                total, over = total + reward, terminated or truncated
            theirs.append(total)
    assert recipe.target.holds(np.mean(ours)), ours
    assert np.mean(theirs) >= 475, theirs
