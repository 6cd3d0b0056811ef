"""Makes pareto.npz: Pareto-smoothed weights and tail indices by ArviZ.

Run with `pip install arviz-stats` (0.8): python tests/golden/make_pareto.py
"""

from pathlib import Path

import numpy as np


def cases():
    from arviz_stats.base import array_stats

    rng, values = np.random.default_rng(0), {}
    drawn = [
        0.3 * rng.normal(size=200), 2 * rng.normal(size=500) - 1000, rng.exponential(size=1000) * 0.9, rng.uniform(size=100), rng.standard_t(3, size=2000),
    ]  # fmt: skip
    for case, log_weights in enumerate(drawn):
        smoothed, k_hat = array_stats.psislw(-log_weights)  # it takes log likelihoods that are left out, and turns them round
        values |= {f"{case}/log_weights": log_weights, f"{case}/smoothed": smoothed, f"{case}/k_hat": np.asarray(k_hat)}
    return values


if __name__ == "__main__":
    np.savez_compressed(Path(__file__).with_name("pareto.npz"), **cases())
