"""Distances of samples: SciPy's matrix root, closed forms, and scikit-learn's neighbours."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from sklearn.neighbors import NearestNeighbors

from dljax.objectives import frechet_distance, inception_score, precision_recall, sample_frechet_distance


def normal(seed, size=6, rank=6):
    generator = np.random.default_rng(seed)
    root = generator.normal(size=(size, rank))
    return generator.normal(size=size), root @ root.T


def test_9_3_the_frechet_distance_is_that_of_scipys_matrix_root():
    with jax.enable_x64(True):
        distance = jax.jit(frechet_distance)
        for seed in range(5):
            (mean, cov), (other_mean, other_cov) = normal(seed), normal(seed + 100)
            want = np.square(mean - other_mean).sum() + np.trace(cov + other_cov - 2 * scipy.linalg.sqrtm(cov @ other_cov).real)
            found = distance(*map(jnp.asarray, (mean, cov, other_mean, other_cov)))
            assert float(found) == pytest.approx(want, rel=1e-9)
            assert float(distance(*map(jnp.asarray, (other_mean, other_cov, mean, cov)))) == pytest.approx(want, rel=1e-9)


def test_9_3_of_commuting_covariances_it_is_the_distance_of_their_roots():
    with jax.enable_x64(True):
        mean, _ = normal(0)
        vectors, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(6, 6)))
        values, others = np.array([0.0, 0.1, 1.0, 2.0, 5.0, 9.0]), np.array([3.0, 0.0, 1.0, 4.0, 0.5, 0.2])
        covs = [jnp.asarray(vectors * spread @ vectors.T) for spread in (values, others)]
        found = frechet_distance(jnp.asarray(mean), covs[0], jnp.zeros(6), covs[1])
        assert float(found) == pytest.approx(np.square(mean).sum() + np.square(np.sqrt(values) - np.sqrt(others)).sum(), rel=1e-7)


def test_of_equal_or_degenerate_normals_it_is_finite_and_not_negative():
    mean, cov = (jnp.asarray(part, jnp.float32) for part in normal(0, size=20, rank=3))
    assert 0 <= float(frechet_distance(mean, cov, mean, cov)) < 1e-3 * float(jnp.trace(cov))
    assert float(frechet_distance(mean, 0 * cov, mean, 0 * cov)) == 0
    assert float(frechet_distance(mean, 0 * cov, mean, cov)) == pytest.approx(float(jnp.trace(cov)), rel=1e-5)


def test_9_3_of_samples_it_is_that_of_numpys_moments_and_grows_with_what_a_generator_misses():
    with jax.enable_x64(True):
        x, y = np.random.default_rng(0).normal(size=(50, 3)), np.random.default_rng(1).normal(size=(70, 3)) * 2 + 1
        want = frechet_distance(*(jnp.asarray(part) for sample in (x, y) for part in (sample.mean(0), np.cov(sample.T))))
        assert float(sample_frechet_distance(jnp.asarray(x), jnp.asarray(y))) == pytest.approx(float(want), rel=1e-10)
        ring = jnp.asarray(np.concatenate([x + 5 * np.eye(3)[mode] for mode in range(3)]))
        lost = [float(sample_frechet_distance(ring, ring[: 50 * modes])) for modes in (3, 2, 1)]
        assert lost[0] == pytest.approx(0, abs=1e-9)
        assert 1 < lost[1] < lost[2]


def oracle(real, fake, num):
    """Balls by scikit-learn: the same four figures."""

    def radii(x):
        return NearestNeighbors(n_neighbors=num + 1).fit(x).kneighbors(x)[0][:, num]

    apart = np.linalg.norm(real[:, None] - fake[None], axis=-1)
    in_real, in_fake = apart <= radii(real)[:, None], apart <= radii(fake)[None]
    return {
        "precision": in_real.any(0).mean(),
        "recall": in_fake.any(1).mean(),
        "density": in_real.sum(0).mean() / num,
        "coverage": in_real.any(1).mean(),
    }


def test_9_3_neighbourhoods_are_those_of_scikit_learn():
    with jax.enable_x64(True):
        generator = np.random.default_rng(0)
        for num, shift in ((1, 0.3), (3, 1.0), (5, 2.5)):
            real, fake = generator.normal(size=(90, 4)), generator.normal(size=(70, 4)) * 0.7 + shift
            found = jax.jit(precision_recall, static_argnames="num")(jnp.asarray(real), jnp.asarray(fake), num=num)
            want = oracle(real, fake, num)
            assert {name: pytest.approx(float(value), abs=1e-12) for name, value in found.items()} == want


def test_9_3_precision_tells_bad_samples_and_recall_missing_ones():
    modes = 50 * jnp.eye(4)
    noise = jax.random.normal(jax.random.key(0), (2, 4, 100, 4))
    real, fake = ((modes[:, None] + part).reshape(-1, 4) for part in noise)
    compared = jax.jit(precision_recall)
    scores = {
        "all": compared(real, fake),
        "one mode": compared(real, fake[:100]),
        "half noise": compared(real, fake.at[::2].add(500.0)),
    }
    found = {name: (float(each["precision"]), float(each["recall"]), float(each["coverage"])) for name, each in scores.items()}
    assert min(found["all"]) > 0.9
    assert found["one mode"][0] > 0.9
    assert max(found["one mode"][1:]) < 0.26
    assert 0.4 < found["half noise"][0] <= 0.5
    assert found["half noise"][1] > 0.7
    assert float(scores["all"]["density"]) == pytest.approx(1, abs=0.1)


def test_the_inception_score_is_one_for_the_unsure_and_counts_even_classes():
    score, sure = jax.jit(inception_score), 1e4 * np.eye(4, dtype=np.float32)
    assert float(score(np.zeros((4, 4), np.float32))) == pytest.approx(1, abs=1e-6)
    assert float(score(sure[[0, 1, 0, 1]])) == pytest.approx(2, rel=1e-6)
    assert float(score(sure[[0, 0, 0, 0]])) == pytest.approx(1, rel=1e-6)


def test_bad_samples_are_refused():
    with pytest.raises(ValueError, match="sample_frechet_distance: fake must have at least 2 samples, got 1; one has no covariance"):
        sample_frechet_distance(jnp.ones((3, 2)), jnp.ones((1, 2)))
    with pytest.raises(ValueError, match="precision_recall: num must be >= 1, got 0"):
        precision_recall(jnp.ones((3, 2)), jnp.ones((3, 2)), num=0)
    with pytest.raises(ValueError, match="precision_recall: num must be less than the numbers of samples, 3 and 9, got 3"):
        precision_recall(jnp.ones((3, 2)), jnp.ones((9, 2)), num=3)
