"""A long run is as cheap at its end as at its beginning: nothing is compiled again and no memory is kept."""

import json
import os
import subprocess
import sys
import textwrap

import jax
import pytest
from problems import HELD_OUT, SOURCE, Lines, network

from dljax.engine import FitConfig, Parallel, fit, make_mesh


@pytest.mark.parametrize("kind", ["device", "host", "shard_map"])
def test_nothing_is_compiled_after_the_first_chunk(kind, tmp_path):
    parallel = Parallel(make_mesh(data=8), kind) if kind == "shard_map" else None
    config = FitConfig(every=1, evaluate_every=10, checkpoint_every=10, batch_size=12, parallel=parallel)
    batches = Lines() if kind == "host" else SOURCE
    arguments = {"evaluation": HELD_OUT, "config": config, "out": tmp_path, "callbacks": [lambda snapshot: None]}
    assert fit(network(), batches, 45, jax.random.key(0), **arguments).result["recompilations"] == 0


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("kind", ["device", "host"])
def test_memory_is_flat_over_ten_thousand_chunks(kind, tmp_path):
    script = """
        import gc, json, sys
        sys.path.insert(0, sys.argv[1])
        import jax, problems
        from dljax.engine import FitConfig, fit

        def resident():
            gc.collect()
            return int(open("/proc/self/statm").read().split()[1]) * 4096 / 2**20

        seen, arrays = {}, {}
        def look(snapshot):
            if snapshot.step in (1000, 10_000):
                seen[snapshot.step], arrays[snapshot.step] = resident(), len(jax.live_arrays())

        batches = problems.Lines() if sys.argv[3] == "host" else problems.SOURCE
        config = FitConfig(every=1, evaluate_every=100, checkpoint_every=500, batch_size=12)
        arguments = {"evaluation": problems.HELD_OUT, "out": sys.argv[2], "config": config, "callbacks": [look]}
        run = fit(problems.network(), batches, 10_000, jax.random.key(0), **arguments)
        print(json.dumps([seen[1000], seen[10_000], arrays[1000], arrays[10_000], run.result["recompilations"]]))
    """
    command = [sys.executable, "-c", textwrap.dedent(script), os.path.dirname(__file__), str(tmp_path), kind]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    early, late, arrays_early, arrays_late, recompilations = json.loads(ended.stdout.splitlines()[-1])
    # The history itself, three numbers in a dict for each of 9,000 chunks, is kept: some megabytes.
    assert late - early < 16, f"{early:.0f} MiB after 1,000 chunks, {late:.0f} MiB after 10,000"
    assert arrays_late == arrays_early
    assert recompilations == 0
