"""What the device can do, what of it a run reaches, and where compiled programs are kept."""

import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest
from problems import BATCH, SOURCE, network

from dljax.engine import FitConfig, fit, profile
from dljax.engine.profile import measured_peak
from dljax.engine.program import counted


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
