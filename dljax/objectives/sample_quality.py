"""How near generated samples are to real ones in a space of features: Fréchet's distance, and neighbourhoods that overlap.

Features are what a trained network's layer says of a picture (`dljax.nn.layer_output`); the names inception distance and inception score belong to
one such network.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from dljax.core.checks import check_int


def frechet_distance(
    mean: Float[Array, " D"], covariance: Float[Array, "D D"], other_mean: Float[Array, " D"], other_covariance: Float[Array, "D D"]
) -> Float[Array, ""]:
    """The squared 2-Wasserstein distance of two normal distributions, which FID is of features.

      |μ - μ'|² + tr(Σ + Σ' - 2 (Σ^½ Σ' Σ^½)^½)

    The root is that of a symmetric matrix, so that no product of two matrices must have real eigenvalues in spite of rounding.

    Args:
      mean, covariance: μ and Σ, positive semi-definite.
      other_mean, other_covariance: μ' and Σ'.
    Returns:
      The distance, >= 0.
    Source: Dowson and Landau (1982), The Fréchet distance between multivariate normal distributions, eq. 4; Heusel et al. (2017), eq. 6.

    >>> float(frechet_distance(jnp.zeros(1), jnp.array([[1.0]]), jnp.array([3.0]), jnp.array([[4.0]])))  # 3² + (2 - 1)²
    10.0
    """
    values, vectors = jnp.linalg.eigh(covariance)
    root = (vectors * jnp.sqrt(jnp.maximum(values, 0))[None]) @ vectors.T
    between = jnp.linalg.eigvalsh(root @ other_covariance @ root)
    spread = jnp.trace(covariance) + jnp.trace(other_covariance) - 2 * jnp.sqrt(jnp.maximum(between, 0)).sum()
    return jnp.square(mean - other_mean).sum() + jnp.maximum(spread, 0)


def sample_frechet_distance(real: Float[Array, "N D"], fake: Float[Array, "M D"]) -> Float[Array, ""]:
    """The Fréchet distance of two samples of features, by their means and unbiased covariances.

    It is biased upwards, by about D²/N where both come from one distribution: compare only figures of equally many samples.

    Args:
      real, fake: features of at least two samples each.
    Raises:
      ValueError: fewer than two samples.
    Source: Heusel et al. (2017), GANs Trained by a Two Time-Scale Update Rule, section 4; its bias: Chong and Forsyth (2020).

    >>> x = jnp.array([[0.0], [2.0]])
    >>> float(sample_frechet_distance(x, x + 3))
    9.0
    """
    for name, x in (("real", real), ("fake", fake)):
        if x.shape[0] < 2:
            raise ValueError(f"sample_frechet_distance: {name} must have at least 2 samples, got {x.shape[0]}; one has no covariance")
    (mean, covariance), (other_mean, other_covariance) = ((x.mean(0), jnp.atleast_2d(jnp.cov(x, rowvar=False))) for x in (real, fake))
    return frechet_distance(mean, covariance, other_mean, other_covariance)


def precision_recall(real: Float[Array, "N D"], fake: Float[Array, "M D"], *, num: int = 5) -> dict[str, Float[Array, ""]]:
    """How far each sample lies in the neighbourhoods of the other: fidelity and variety told apart.

      B(x) is the closed ball around a sample that reaches its k-th nearest neighbour in its own set:
      precision = share of fake samples in any ball of a real one,   recall = share of real samples in any ball of a fake one
      density = mean number of real balls around a fake sample, divided by k,   coverage = share of real balls with a fake sample inside

    Precision and density tell how good samples are, recall and coverage how many kinds there are; the latter two of each pair are less led
    astray by single outliers with large balls.

    Args:
      real, fake: features.
      num: k >= 1, below the numbers of samples.
    Returns:
      `precision`, `recall`, `coverage` in [0, 1] and `density` >= 0, whose mean is 1 where both distributions are one, all [].
    Raises:
      ValueError: `num` < 1, or a set of at most `num` samples.
    Source: Kynkäänniemi et al. (2019), Improved Precision and Recall Metric, eq. 1 and 2; Naeem et al. (2020), Reliable Fidelity and Diversity
      Metrics for Generative Models, eq. 3 and 4.

    >>> real, fake = jnp.array([[0.0], [1.0], [10.0]]), jnp.array([[0.4], [0.5], [0.6]])
    >>> {name: round(float(value), 3) for name, value in precision_recall(real, fake, num=1).items()}
    {'precision': 1.0, 'recall': 0.0, 'density': 2.0, 'coverage': 0.667}
    """
    check_int("precision_recall", "num", num, minimum=1)
    if min(real.shape[0], fake.shape[0]) <= num:
        raise ValueError(f"precision_recall: num must be less than the numbers of samples, {real.shape[0]} and {fake.shape[0]}, got {num}")

    def radius(x: Float[Array, "N D"]) -> Float[Array, " N"]:
        # Each is its own nearest at distance zero: the k-th neighbour is the (k+1)-th smallest distance.
        return lax.map(lambda row: jnp.sort(_squares(row, x))[num], x, batch_size=64)

    def inside(x: Float[Array, "N D"], radii: Float[Array, " N"], y: Float[Array, "M D"]) -> tuple[Array, Array]:
        """For every ball how many of y it holds, and for every y how many balls hold it."""

        def count(held: Array, ball: tuple[Array, Array]) -> tuple[Array, Array]:
            is_in = _squares(ball[0], y) <= ball[1]
            return held + is_in, is_in.sum()

        holders, held = lax.scan(count, jnp.zeros(y.shape[0], jnp.int32), (x, radii))
        return held, holders

    in_real, around_fake = inside(real, radius(real), fake)
    _, around_real = inside(fake, radius(fake), real)
    dtype = jnp.result_type(real.dtype, fake.dtype)
    return {
        "precision": (around_fake > 0).mean(dtype=dtype),
        "recall": (around_real > 0).mean(dtype=dtype),
        "density": around_fake.mean(dtype=dtype) / num,
        "coverage": (in_real > 0).mean(dtype=dtype),
    }


def inception_score(logits: Float[Array, "N K"]) -> Float[Array, ""]:
    """How sure a classifier is of each sample and how evenly all fall on its classes.

      exp E KL(p(y|x) ‖ E p(y|x)),   between 1 and K

    Args:
      logits: of the classifier.
    Source: Salimans et al. (2016), Improved Techniques for Training GANs, section 4.

    >>> round(float(inception_score(50 * jnp.eye(10))), 3)
    10.0
    """
    log_p = jax.nn.log_softmax(logits)
    log_mean = jax.nn.logsumexp(log_p, axis=0, keepdims=True) - jnp.log(logits.shape[0])
    return jnp.exp((jnp.exp(log_p) * (log_p - log_mean)).sum(1).mean())


def _squares(row: Float[Array, " D"], x: Float[Array, "N D"]) -> Float[Array, " N"]:
    # Differences first: |x|² + |y|² - 2 x·y would not give a sample distance zero from itself.
    return jnp.square(x - row[None]).sum(1)
