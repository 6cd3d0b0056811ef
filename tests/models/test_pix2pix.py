"""pix2pix: what a patch sees, and that the generator is a U-Net of picture and noise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dljax.models import PatchDiscriminator, PictureGenerator, UNet


@pytest.mark.parametrize(("widths", "size"), [((1,), 10), ((1, 1), 22)])
def test_9_3_a_logit_sees_its_patch_and_nothing_else(widths, size):
    judge, x = PatchDiscriminator(widths), jnp.full((1, 64, 64, 1), 0.5)
    params = jax.tree.map(lambda leaf: jnp.ones(leaf.shape), jax.eval_shape(judge.init, jax.random.key(0), x, x))
    slope = jax.jit(jax.grad(lambda x: judge.apply(params, x, x)[0, 5, 6, 0]))(x)[0, :, :, 0]
    rows, columns = (np.flatnonzero(np.asarray(slope).any(axis)) for axis in (1, 0))
    assert (np.ptp(rows) + 1, np.ptp(columns) + 1) == (size, size) == (6 * 2 ** len(widths) - 2,) * 2


@pytest.mark.slow
def test_9_3_the_generator_is_a_u_net_of_picture_and_noise():
    generator, x, z = (
        PictureGenerator(2, (2, 3), is_normalised=False),
        jax.random.uniform(jax.random.key(0), (2, 8, 8, 1)),
        jnp.array([[1.0], [-2.0]]),
    )
    variables = jax.jit(generator.init)(jax.random.key(1), z, x)
    noisy = jnp.concatenate([x, jnp.broadcast_to(z[:, None, None], x.shape)], -1)
    want = jax.nn.sigmoid(jax.jit(UNet(2, (2, 3)).apply)({"params": variables["params"]["unet"]}, noisy))
    np.testing.assert_allclose(jax.jit(generator.apply)(variables, z, x), want, rtol=1e-5)


def test_bad_pictures_are_refused():
    x = jnp.zeros((1, 8, 8, 1))
    with pytest.raises(ValueError, match="PatchDiscriminator: both pictures must have one size, got"):
        PatchDiscriminator((2,)).init(jax.random.key(0), x, x[:, :4])
    with pytest.raises(ValueError, match="PatchDiscriminator: widths must be >= 1, got 0"):
        PatchDiscriminator((0,)).init(jax.random.key(0), x)
    with pytest.raises(ValueError, match=r"PictureGenerator: x must be pictures \[B, H, W, C\]"):
        PictureGenerator().init(jax.random.key(0), jnp.zeros((1, 1)), jnp.zeros((8, 8)))
