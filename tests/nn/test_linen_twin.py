"""A model written for linen runs on dljax.nn when its import is changed: the same parameters, values and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen

from dljax import nn

pytestmark = pytest.mark.rank_promotion  # linen's normalisation adds biases of lower rank


def resnet(nn):
    class Block(nn.Module):
        features: int
        strides: int = 1

        @nn.compact
        def __call__(self, x):
            y = nn.Conv(self.features, (3, 3), strides=self.strides, use_bias=False)(x)
            y = nn.relu(nn.BatchNorm(use_running_average=False)(y))
            y = nn.BatchNorm(use_running_average=False)(nn.Conv(self.features, (3, 3), use_bias=False)(y))
            if x.shape != y.shape:
                x = nn.Conv(self.features, (1, 1), strides=self.strides, use_bias=False)(x)
            return nn.relu(x + y)

    class ResNet(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.relu(nn.Conv(4, (3, 3))(x))
            x = Block(8, 2)(Block(4)(x))
            x = nn.max_pool(x, (2, 2), strides=(2, 2))
            return nn.Dense(10)(nn.avg_pool(x, x.shape[1:3]).reshape(len(x), -1))

    return ResNet(), jax.random.normal(jax.random.key(1), (2, 8, 8, 3))


def gpt(nn):
    class Block(nn.Module):
        @nn.compact
        def __call__(self, x, mask):
            x = x + nn.MultiHeadDotProductAttention(num_heads=2)(nn.LayerNorm()(x), mask=mask)
            return x + nn.Dense(16)(nn.gelu(nn.Dense(32)(nn.LayerNorm()(x))))

    class GPT(nn.Module):
        @nn.compact
        def __call__(self, tokens):
            x = nn.Embed(11, 16)(tokens) + nn.Embed(8, 16)(jnp.arange(8))[None]
            mask = nn.make_causal_mask(tokens)
            for _ in range(2):
                x = Block()(x, mask)
            return nn.DenseGeneral(11)(nn.SelfAttention(num_heads=4)(nn.LayerNorm()(x), mask=mask))

    return GPT(), jax.random.randint(jax.random.key(1), (2, 8), 0, 11)


def values(model, x, params):
    def loss(params):
        logits, _ = model.apply({"params": params}, x, mutable=["batch_stats"])
        return (linen.log_softmax(logits) ** 2).mean(), logits

    return jax.jit(jax.grad(loss, has_aux=True))(params)


@pytest.mark.parametrize("build", [resnet, gpt])
def test_model_with_its_import_changed_is_the_same_model(build):
    (theirs, x), (ours, _) = build(linen), build(nn)
    params = theirs.init(jax.random.key(0), x)["params"]
    jax.tree.map(np.testing.assert_array_equal, ours.init(jax.random.key(0), x)["params"], params)
    for one, other in zip(jax.tree.leaves(values(ours, x, params)), jax.tree.leaves(values(theirs, x, params)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5 * float(jnp.abs(other).max()) + 1e-7)


def test_what_neither_has_is_refused():
    with pytest.raises(AttributeError, match="neither dljax.nn nor flax.linen has an attribute 'Convolve'"):
        nn.Convolve  # noqa: B018
