"""The whole suite: eight simulated devices, a cache that is not the user's, shapes checked at every call, no silent rank promotion."""

import os
import shutil
import tempfile

FLAGS = {
    "xla_force_host_platform_device_count": "8",
    # Eight device threads on a busy machine with few cores may wait for each other longer than XLA's 40 s.
    "xla_cpu_collective_call_warn_stuck_timeout_seconds": "120",
    "xla_cpu_collective_call_terminate_timeout_seconds": "600",
}

given = os.environ.get("XLA_FLAGS", "")
os.environ["XLA_FLAGS"] = " ".join([given, *(f"--{name}={value}" for name, value in FLAGS.items() if name not in given)]).strip()
CACHE = tempfile.mkdtemp(prefix="dljax-tests-")
os.environ["DLJAX_CACHE"] = CACHE

import jax  # noqa: E402 (reads XLA_FLAGS)
import jaxtyping  # noqa: E402
import pytest  # noqa: E402

# They hold no doctests: several modules of one name confuse pytest, and what makes the golden files needs libraries that few have.
collect_ignore_glob = ["conftest.py", "*/conftest.py", "golden/*"]

jax.config.update("jax_numpy_rank_promotion", "raise")
jaxtyping.install_import_hook("dljax", "strict_types.checked")


def pytest_configure(config):
    config.addinivalue_line("markers", "rank_promotion: runs code of another library that promotes ranks")


def pytest_unconfigure(config):
    shutil.rmtree(CACHE, ignore_errors=True)


@pytest.fixture(autouse=True)
def rank_promotion(request):
    """Shapes of unequal rank must not meet silently in dljax; other libraries may be less strict."""
    if request.node.get_closest_marker("rank_promotion") is None:
        yield
        return
    with jax.numpy_rank_promotion("allow"):
        yield
