"""What a step costs: counted by hand, by XLA, and by the device; and where compiled programs are kept."""

import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import BATCH, SOURCE, network

from dljax.engine import FitConfig, fit, profile
from dljax.engine.profile import count_flops, measured_peak
from dljax.engine.program import counted

A, B = jnp.ones((4, 8)), jnp.ones((8, 3))


def xla(function, *args):
    cost = jax.jit(function).lower(*args).compile().cost_analysis()
    return (cost[0] if isinstance(cost, list) else cost)["flops"]


def conv(x, kernel, stride=1, padding="VALID", **options):
    return jax.lax.conv_general_dilated(x, kernel, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC"), **options)


IMAGE, KERNEL = jnp.ones((2, 9, 9, 4)), jnp.ones((3, 3, 4, 6))


@pytest.mark.parametrize(
    ("function", "args", "expected"),
    [
        (jnp.matmul, (A, B), 2 * 4 * 8 * 3),
        (jnp.matmul, (jnp.ones((5, 4, 8)), jnp.ones((5, 8, 3))), 5 * 2 * 4 * 8 * 3),
        (lambda a, b: jnp.einsum("ij,kj->ki", a, b), (A, jnp.ones((3, 8))), 2 * 4 * 8 * 3),
        (conv, (IMAGE, KERNEL), 2 * (2 * 7 * 7 * 6) * (3 * 3 * 4)),
        (lambda x, k: conv(x, k, 2), (IMAGE, KERNEL), 2 * (2 * 4 * 4 * 6) * (3 * 3 * 4)),
        (lambda x, k: conv(x, k, feature_group_count=4), (IMAGE, jnp.ones((3, 3, 1, 8))), 2 * (2 * 7 * 7 * 8) * (3 * 3 * 1)),
    ],
)
def test_products_and_convolutions_cost_what_xla_says(function, args, expected):
    assert count_flops(function, *args) == expected
    assert xla(function, *args) == pytest.approx(expected, rel=0.1)


def test_gradient_costs_about_twice_as_much_as_the_value():
    def value(x, kernel):
        return (conv(x, kernel, padding="SAME") ** 2).sum()

    ratio = count_flops(jax.grad(value, (0, 1)), IMAGE, KERNEL) / count_flops(value, IMAGE, KERNEL)
    assert 2.5 < ratio < 4
    assert count_flops(jax.grad(lambda a, b: ((a @ b) ** 2).sum(), (0, 1)), A, B) == 3 * count_flops(jnp.matmul, A, B)


def test_loop_counts_as_often_as_it_runs():
    def scanned(a):
        return jax.lax.scan(lambda carry, _: (jnp.tanh(carry @ a), None), a, None, length=10)[0]

    square = jnp.ones((6, 6))
    assert count_flops(scanned, square) == 10 * 2 * 6**3
    assert count_flops(lambda a: jax.lax.fori_loop(0, 10, lambda _, x: x @ a, a), square) == 10 * 2 * 6**3
    assert count_flops(lambda a: jax.lax.map(scanned, jnp.stack([a, a])), square) == 2 * 10 * 2 * 6**3
    assert count_flops(jax.vmap(scanned), jnp.ones((3, 6, 6))) == 3 * 10 * 2 * 6**3


def test_calls_inside_are_entered_once():
    product = jax.jit(lambda a, b: a @ b)
    wrapped = jax.custom_vjp(lambda a, b: product(a, b))
    wrapped.defvjp(lambda a, b: (product(a, b), (a, b)), lambda saved, dy: (dy @ saved[1].T, saved[0].T @ dy))
    cost = 2 * 4 * 8 * 3
    assert count_flops(product, A, B) == cost
    assert count_flops(wrapped, A, B) == cost
    assert count_flops(jax.checkpoint(product), A, B) == cost
    assert count_flops(lambda a, b: jax.lax.cond(True, lambda: product(a, b), lambda: product(a, b)), A, B) == cost
    assert count_flops(jax.grad(lambda a, b: wrapped(a, b).sum(), (0, 1)), A, B) == 3 * cost


def test_cost_of_a_run_is_that_of_its_unscanned_step(monkeypatch):
    monkeypatch.setattr(profile, "_known", lambda path: {f"{jax.devices()[0].device_kind}/{os.cpu_count()}/{jax.__version__}": 1e9})
    run = fit(network(), SOURCE, 4, config=FitConfig(every=2, tensorboard=True))
    forward = 2 * BATCH * (8 * 16 + 16 * 4)
    backward = 2 * BATCH * (8 * 16 + 2 * 16 * 4)
    assert run.result["flops_per_step"] == forward + backward
    assert run.result["peak_flops"] == 1e9
    assert run.result["peak_share"] == pytest.approx(run.result["achieved_flops"] / 1e9)
    assert run.result["achieved_flops"] == pytest.approx(run.result["flops_per_step"] * run.result["steps_per_second"])


def test_peak_is_measured_once_and_remembered(tmp_path, monkeypatch):
    small = jax.random.normal
    monkeypatch.setattr(jax.random, "normal", lambda key, shape: small(key, (64, 64)))
    peak = measured_peak(folder=tmp_path)
    assert peak > 0
    monkeypatch.setattr(jax.random, "normal", None)
    assert measured_peak(folder=tmp_path) == peak
    (tmp_path / "peak.json").write_text('{"damaged')
    monkeypatch.setattr(jax.random, "normal", lambda key, shape: small(key, (64, 64)))
    assert measured_peak(folder=tmp_path) > 0
    json.loads((tmp_path / "peak.json").read_text())


def test_compilations_are_counted():
    with counted() as compilations:
        jax.jit(lambda x: 3 * x + 1)(np.ones(3)).block_until_ready()
        one = compilations()
        assert one >= 1
        function = jax.jit(lambda x: 5 * x + 1)
        function(np.ones(3))
        before = compilations()
        function(np.ones(3))
        assert compilations() == before


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, "{cache}/xla"),
        ({"DLJAX_COMPILATION_CACHE": "off"}, "None"),
        ({"JAX_COMPILATION_CACHE_DIR": "/somewhere/else"}, "/somewhere/else"),
    ],
)
def test_compiled_programs_are_kept_where_the_user_wants(given, expected, tmp_path):
    script = "import jax; from dljax.engine.profile import use_compilation_cache as use; use(); print(jax.config.jax_compilation_cache_dir)"
    environment = {name: value for name, value in os.environ.items() if "COMPILATION_CACHE" not in name} | {"DLJAX_CACHE": str(tmp_path), **given}
    said = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True).stdout.strip()
    assert said == expected.format(cache=tmp_path)
