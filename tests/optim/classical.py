"""Classical test problems as residuals, f = Σ r², from their standard starts (Moré, Garbow and Hillstrom, 1981, by their numbers there)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Problem(NamedTuple):
    residuals: object
    start: tuple
    minima: tuple = (0.0,)  # values of f at local minima


def rosenbrock(x):  # 1
    return jnp.stack([10 * (x[1] - x[0] ** 2), 1 - x[0]])


def freudenstein_roth(x):  # 2
    a, b = x
    return jnp.stack([-13 + a + ((5 - b) * b - 2) * b, -29 + a + ((b + 1) * b - 14) * b])


def badly_scaled(x):  # 3, Powell's
    return jnp.stack([1e4 * x[0] * x[1] - 1, jnp.exp(-x[0]) + jnp.exp(-x[1]) - 1.0001])


def brown_badly_scaled(x):  # 4
    return jnp.stack([x[0] - 1e6, x[1] - 2e-6, x[0] * x[1] - 2])


def beale(x):  # 5
    return jnp.stack([y - x[0] * (1 - x[1] ** i) for i, y in ((1, 1.5), (2, 2.25), (3, 2.625))])


def jennrich_sampson(x):  # 6
    i = jnp.arange(1.0, 11)
    return 2 + 2 * i - (jnp.exp(i * x[0]) + jnp.exp(i * x[1]))


def helical_valley(x):  # 7
    turn = jnp.arctan(x[1] / x[0]) / (2 * np.pi) + jnp.where(x[0] < 0, 0.5, 0)
    return jnp.stack([10 * (x[2] - 10 * turn), 10 * (jnp.sqrt(x[0] ** 2 + x[1] ** 2) - 1), x[2]])


def bard(x):  # 8
    u = jnp.arange(1.0, 16)
    y = jnp.array([0.14, 0.18, 0.22, 0.25, 0.29, 0.32, 0.35, 0.39, 0.37, 0.58, 0.73, 0.96, 1.34, 2.10, 4.39])
    return y - (x[0] + u / ((16 - u) * x[1] + jnp.minimum(u, 16 - u) * x[2]))


def gaussian(x):  # 9
    y = jnp.array([0.0009, 0.0044, 0.0175, 0.0540, 0.1295, 0.2420, 0.3521, 0.3989, 0.3521, 0.2420, 0.1295, 0.0540, 0.0175, 0.0044, 0.0009])
    t = (8 - jnp.arange(1.0, 16)) / 2
    return x[0] * jnp.exp(-x[1] * (t - x[2]) ** 2 / 2) - y


def box(x):  # 12
    t = jnp.arange(1.0, 11) / 10
    return jnp.exp(-t * x[0]) - jnp.exp(-t * x[1]) - x[2] * (jnp.exp(-t) - jnp.exp(-10 * t))


def singular(x):  # 13, Powell's
    return jnp.stack([x[0] + 10 * x[1], 5**0.5 * (x[2] - x[3]), (x[1] - 2 * x[2]) ** 2, 10**0.5 * (x[0] - x[3]) ** 2])


def wood(x):  # 14
    a, b, c, d = x
    return jnp.stack([10 * (b - a**2), 1 - a, 90**0.5 * (d - c**2), 1 - c, 10**0.5 * (b + d - 2), 10**-0.5 * (b - d)])


def kowalik_osborne(x):  # 15
    y = jnp.array([0.1957, 0.1947, 0.1735, 0.1600, 0.0844, 0.0627, 0.0456, 0.0342, 0.0323, 0.0235, 0.0246])
    u = jnp.array([4.0, 2.0, 1.0, 0.5, 0.25, 0.167, 0.125, 0.1, 0.0833, 0.0714, 0.0625])
    return y - x[0] * (u**2 + u * x[1]) / (u**2 + u * x[2] + x[3])


def brown_dennis(x):  # 16
    t = jnp.arange(1.0, 21) / 5
    return (x[0] + t * x[1] - jnp.exp(t)) ** 2 + (x[2] + x[3] * jnp.sin(t) - jnp.cos(t)) ** 2


def biggs(x):  # 18
    t = jnp.arange(1.0, 14) / 10
    y = jnp.exp(-t) - 5 * jnp.exp(-10 * t) + 3 * jnp.exp(-4 * t)
    return x[2] * jnp.exp(-t * x[0]) - x[3] * jnp.exp(-t * x[1]) + x[5] * jnp.exp(-t * x[4]) - y


def extended_rosenbrock(x):  # 21
    return jnp.concatenate([10 * (x[1::2] - x[::2] ** 2), 1 - x[::2]])


def penalty(x):  # 23
    return jnp.append(1e-5**0.5 * (x - 1), x @ x - 0.25)


def variably_dimensioned(x):  # 25
    mean = (jnp.arange(1.0, len(x) + 1) * (x - 1)).sum()
    return jnp.concatenate([x - 1, jnp.stack([mean, mean**2])])


def trigonometric(x):  # 26
    return len(x) - jnp.cos(x).sum() + jnp.arange(1.0, len(x) + 1) * (1 - jnp.cos(x)) - jnp.sin(x)


def broyden_tridiagonal(x):  # 30
    before, after = jnp.append(0.0, x[:-1]), jnp.append(x[1:], 0.0)
    return (3 - 2 * x) * x - before - 2 * after + 1


PROBLEMS = {
    "rosenbrock": Problem(rosenbrock, (-1.2, 1.0)),
    "freudenstein-roth": Problem(freudenstein_roth, (0.5, -2.0), (0.0, 48.98425)),
    "powell-badly-scaled": Problem(badly_scaled, (0.0, 1.0)),
    "brown-badly-scaled": Problem(brown_badly_scaled, (1.0, 1.0)),
    "beale": Problem(beale, (1.0, 1.0)),
    "jennrich-sampson": Problem(jennrich_sampson, (0.3, 0.4), (124.36218,)),
    "helical-valley": Problem(helical_valley, (-1.0, 0.0, 0.0)),
    "bard": Problem(bard, (1.0, 1.0, 1.0), (8.214877e-3, 17.42869)),
    "gaussian": Problem(gaussian, (0.4, 1.0, 0.0), (1.127933e-8,)),
    "box": Problem(box, (0.0, 10.0, 20.0)),
    "powell-singular": Problem(singular, (3.0, -1.0, 0.0, 1.0)),
    "wood": Problem(wood, (-3.0, -1.0, -3.0, -1.0)),
    "kowalik-osborne": Problem(kowalik_osborne, (0.25, 0.39, 0.415, 0.39), (3.075056e-4, 1.027342e-3)),
    "brown-dennis": Problem(brown_dennis, (25.0, 5.0, -5.0, -1.0), (85822.2016,)),
    "biggs": Problem(biggs, (1.0, 2.0, 1.0, 1.0, 1.0, 1.0), (0.0, 5.655650e-3, 0.3063668)),
    "extended-rosenbrock": Problem(extended_rosenbrock, (-1.2, 1.0) * 5),
    "penalty": Problem(penalty, (1.0, 2.0, 3.0, 4.0), (2.249978e-5,)),
    "variably-dimensioned": Problem(variably_dimensioned, tuple(1 - i / 10 for i in range(1, 11))),
    "trigonometric": Problem(trigonometric, (0.1,) * 10, (0.0, 2.795061e-5)),
    "broyden-tridiagonal": Problem(broyden_tridiagonal, (-1.0,) * 10),
}
SIZE, ROWS = 10, 20


def starts() -> np.ndarray:
    """[P, 10], filled up with zeros."""
    return np.stack([np.pad(problem.start, (0, SIZE - len(problem.start))) for problem in PROBLEMS.values()])


def all_residuals(number, x):
    """Those of one problem of all, [30]: variables that it does not have are residuals of their own, so that the Hessian stays regular."""

    def of(problem: Problem):
        size = len(problem.start)

        def padded(x):
            r = problem.residuals(x[:size])
            return jnp.concatenate([r, jnp.zeros(ROWS - len(r)), jnp.zeros(size), x[size:]])

        return padded

    return jax.lax.switch(number, [of(problem) for problem in PROBLEMS.values()], x)


def is_solved(problem: Problem, value: float) -> bool:
    """Whether f is within 1e-6 of a minimum's value, or below all, relative to it where it is larger than one."""
    return bool(any(abs(value - least) <= 1e-6 * max(1.0, least) for least in problem.minima) or value < min(problem.minima))
