"""DCGAN: PyTorch's layers, and what a label changes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dljax.models import DCGANDiscriminator, DCGANGenerator
from dljax.models.dcgan import LabelledNorm

Z, X, Y = jax.random.normal(jax.random.key(0), (5, 6)), jax.random.uniform(jax.random.key(1), (5, 8, 12, 1)), jnp.array([0, 2, 1, 2, 2])


def initialised(module, *inputs, seed=2):
    """Variables that are not at their special beginning: every scale, shift and statistic is some number."""
    leaves, tree = jax.tree.flatten(jax.eval_shape(module.init, jax.random.key(seed), *inputs))
    numbers = np.random.default_rng(seed)
    return jax.tree.unflatten(tree, [jnp.asarray(0.1 + np.abs(0.3 * numbers.normal(size=leaf.shape)), leaf.dtype) for leaf in leaves])


def test_9_3_without_labels_both_players_are_pytorchs_layers():
    torch = pytest.importorskip("torch")
    tensor = lambda x: torch.tensor(np.array(x))  # noqa: E731
    generator, discriminator = DCGANGenerator((8, 12, 1), (4, 3)), DCGANDiscriminator((3, 4))
    made_by, judged_by = initialised(generator, Z), initialised(discriminator, X)
    params, stats = made_by["params"], made_by["batch_stats"]
    x = (tensor(Z) @ tensor(params["Dense_0"]["kernel"])).reshape(5, 2, 3, 4).permute(0, 3, 1, 2)
    for level in range(2):
        running, learned, kernel = stats[f"norm_{level}"]["norm"], params[f"norm_{level}"]["norm"], params[f"doubling_{level}"]
        x = torch.nn.functional.batch_norm(x, *map(tensor, (running["mean"], running["var"], learned["scale"], learned["bias"]))).relu()
        weight = tensor(kernel["kernel"]).flip(0, 1).permute(2, 3, 0, 1)  # linen does not flip what it spreads
        x = torch.nn.functional.conv_transpose2d(x, weight, tensor(kernel["bias"]) if "bias" in kernel else None, stride=2, padding=1)
    np.testing.assert_allclose(jax.jit(generator.apply)(made_by, Z), x.sigmoid().permute(0, 2, 3, 1), rtol=1e-4, atol=1e-5)
    x, params = 2 * tensor(X).permute(0, 3, 1, 2) - 1, judged_by["params"]
    for level in range(2):
        kernel = params[f"halving_{level}"]
        x = torch.nn.functional.conv2d(x, tensor(kernel["kernel"]).permute(3, 2, 0, 1), tensor(kernel["bias"]), stride=2, padding=1)
        x = torch.nn.functional.leaky_relu(x, 0.2)
    x = x.permute(0, 2, 3, 1).reshape(5, -1) @ tensor(params["head"]["kernel"]) + tensor(params["head"]["bias"])
    np.testing.assert_allclose(jax.jit(discriminator.apply)(judged_by, X), x, rtol=1e-4, atol=1e-5)


def test_9_3_a_label_adds_an_inner_product_of_its_own_with_the_features():
    discriminator = DCGANDiscriminator((3, 4), num_classes=3, num_further=2)
    variables = initialised(discriminator, X, Y)
    logits, further = jax.jit(jax.vmap(lambda label: discriminator.apply(variables, X, jnp.full(5, label))))(jnp.arange(3))
    logits = logits[:, :, 0]
    # The features, read through another linear layer that is set to the identity.
    params = variables["params"]
    size = params["projection"]["embedding"].shape[1]
    seen = {**params, "further": {"kernel": jnp.eye(size), "bias": jnp.zeros(size)}}
    features = jax.jit(DCGANDiscriminator((3, 4), 3, size).apply)({"params": seen}, X, Y)[1]
    np.testing.assert_allclose(logits[1:] - logits[:1], (params["projection"]["embedding"][1:] - params["projection"]["embedding"][:1]) @ features.T,
                               rtol=1e-3, atol=1e-5)  # fmt: skip
    np.testing.assert_allclose(further[0], features @ params["further"]["kernel"] + params["further"]["bias"][None], rtol=1e-5)
    blind = DCGANDiscriminator((3, 4))
    variables, judged = initialised(blind, X), jax.jit(blind.apply)
    np.testing.assert_array_equal(judged(variables, X, Y), judged(variables, X))


def test_9_3_a_labelled_norm_is_batch_norm_with_the_scale_and_shift_of_the_label():
    layer, plain = LabelledNorm(3), LabelledNorm()
    variables = layer.init(jax.random.key(0), X, Y)
    scale, shift = jnp.array([[1.0], [2.0], [3.0]]), jnp.array([[0.0], [-1.0], [5.0]])
    params = {"scale": {"embedding": scale}, "shift": {"embedding": shift}}
    labelled, changed = layer.apply({**variables, "params": params}, X, Y, train=True, mutable=["batch_stats"])
    for label in range(3):
        fixed = {"norm": {"scale": scale[label], "bias": shift[label]}}
        want, same = plain.apply({"params": fixed, "batch_stats": variables["batch_stats"]}, X, train=True, mutable=["batch_stats"])
        chosen = np.asarray(Y) == label
        np.testing.assert_allclose(labelled[chosen], want[chosen], rtol=1e-5, atol=1e-6)
        jax.tree.map(np.testing.assert_array_equal, changed, same)


def test_bad_shapes_and_labels_are_refused():
    key = jax.random.key(0)
    with pytest.raises(ValueError, match=r"DCGANGenerator: shape must be \(H, W, C\), H and W divisible by 4 .* got \(6, 8, 1\) and widths=\(4, 4\)"):
        DCGANGenerator((6, 8, 1), (4, 4)).init(key, Z)
    with pytest.raises(ValueError, match="DCGANGenerator: widths must be >= 1, got 0"):
        DCGANGenerator((8, 8, 1), (4, 0)).init(key, Z)
    with pytest.raises(ValueError, match="with num_classes=3 it must be given labels, got none"):
        DCGANGenerator((8, 8, 1), (4, 4), 3).init(key, Z)
    with pytest.raises(ValueError, match="with num_classes=0 it must be given no labels, got some"):
        DCGANGenerator((8, 8, 1), (4, 4)).init(key, Z, Y)
    with pytest.raises(ValueError, match="DCGANDiscriminator: with num_classes=3 it must be given labels, got none"):
        DCGANDiscriminator((4, 4), 3).init(key, X)
    with pytest.raises(ValueError, match=r"DCGANDiscriminator: x must have sides divisible by 4 .* got \(1, 6, 8, 1\); pad or crop them"):
        DCGANDiscriminator((4, 4)).init(key, jnp.zeros((1, 6, 8, 1)))
    with pytest.raises(ValueError, match="DCGANDiscriminator: num_further must be >= 0, got -1"):
        DCGANDiscriminator((4, 4), num_further=-1).init(key, X)
