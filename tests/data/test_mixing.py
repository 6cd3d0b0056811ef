"""mixup and CutMix: the targets' weights are the shares of the pixels."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dljax.data.mixing import Mixed, cutmix, mixed, mixup
from dljax.data.spec_augment import spec_augment
from dljax.objectives import accuracy, cross_entropy
from dljax.supervised import supervised

NUM = 200
# Each picture is its own number, everywhere: what a mixture is made of can be read from it.
BATCH = {"x": jnp.ones((NUM, 9, 7, 2)) * jnp.arange(NUM, dtype=jnp.float32)[:, None, None, None], "y": jnp.arange(NUM)}
RNG = np.random.default_rng(0)


@pytest.mark.parametrize(("alpha", "deviation"), [(0.2, (1 / 4 / 1.4) ** 0.5), (1.0, 12**-0.5)])
def test_4_3_mixup_targets_are_the_shares_of_the_pictures(alpha, deviation):
    new = jax.jit(mixup)(jax.random.key(0), BATCH, alpha=alpha)
    first, second, weight = new["y"]
    np.testing.assert_array_equal(first, BATCH["y"])
    np.testing.assert_array_equal(np.sort(second), BATCH["y"])  # partners are a permutation
    expected = weight * first + (1 - weight) * second
    np.testing.assert_allclose(new["x"], np.broadcast_to(expected[:, None, None, None], new["x"].shape), rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose([weight.mean(), weight.std()], [0.5, deviation], atol=0.08)  # Beta(α, α)


def test_4_3_cutmix_targets_are_the_shares_of_the_pixels_exactly():
    new = jax.jit(cutmix)(jax.random.key(1), BATCH)
    first, second, weight = new["y"]
    is_first = np.asarray(new["x"] == BATCH["x"])
    assert (is_first | np.asarray(new["x"] == jnp.asarray(second, jnp.float32)[:, None, None, None])).all()
    share = is_first[..., 0].mean((1, 2))
    other = np.asarray(first != second)
    np.testing.assert_allclose(weight[other], share[other], atol=1e-7)
    hole = ~is_first[..., 0]
    np.testing.assert_array_equal(hole.sum((1, 2)), hole.any(2).sum(1) * hole.any(1).sum(1))  # rectangles
    assert set(np.round(np.asarray(weight) * 63, 3)) <= set(range(64))
    assert weight.std() > 0.1


def test_4_3_label_expectations_of_a_mixture():
    with jax.enable_x64(True):
        probabilities = Mixed(jnp.array([0, 1]), jnp.array([2, 1]), jnp.array([0.75, 0.3])).probabilities(3)
        np.testing.assert_allclose(probabilities, [[0.75, 0, 0.25], [0, 1, 0]])


def test_4_3_mixed_cross_entropy_is_that_against_probabilities():
    with jax.enable_x64(True):
        logits = jnp.asarray(RNG.normal(size=(50, 4)) * 5)
        targets = Mixed(*(jnp.asarray(RNG.integers(0, 4, 50)) for _ in range(2)), jnp.asarray(RNG.uniform(size=50)))
        ours = mixed(cross_entropy)(logits, targets)
        np.testing.assert_allclose(ours, optax.losses.softmax_cross_entropy(logits, targets.probabilities(4)), rtol=1e-10)
        np.testing.assert_array_equal(mixed(cross_entropy)(logits, targets.first), cross_entropy(logits, targets.first))
        hit = np.asarray(logits.argmax(1))
        expected = np.asarray(targets.probabilities(4))[np.arange(50), hit]
        np.testing.assert_allclose(mixed(accuracy)(logits, targets), expected, atol=1e-12)
        torch = pytest.importorskip("torch")
        theirs = torch.nn.functional.cross_entropy(torch.tensor(np.array(logits)), torch.tensor(np.array(targets.probabilities(4))), reduction="none")
        np.testing.assert_allclose(ours, theirs, rtol=1e-10)


def test_4_3_a_learner_takes_mixed_batches_and_is_evaluated_on_whole_labels():
    model = (lambda key, x: {"w": jnp.ones((126, 3)) * jnp.arange(3.0)[None]}, lambda params, x: x.reshape(len(x), -1) @ params["w"] / 1e4)
    batch = {"x": BATCH["x"][:8], "y": BATCH["y"][:8] % 3, "mask": jnp.array([1.0, 1, 1, 1, 1, 1, 0, 0])}
    learner = supervised(model, mixed(cross_entropy), optax.sgd(0.1), metrics={"accuracy": mixed(accuracy)}, augment=mixup)
    state = learner.init(jax.random.key(0), batch)
    _, metrics = jax.jit(learner.step)(jax.random.key(1), state, batch)
    assert jnp.isfinite(metrics["loss"].total)
    partners = jax.jit(mixup)(jax.random.key(0), batch | {"y": jnp.arange(8)})
    np.testing.assert_array_equal(partners["mask"], np.minimum(batch["mask"], batch["mask"][partners["y"].second]))
    assert 4 <= float(metrics["loss"].weight) <= 6  # what is mixed with padding counts nothing
    evaluated = jax.jit(learner.evaluate.step)(learner.evaluate.init(jax.random.key(2), state), state, batch)
    assert float(evaluated["accuracy"].weight) == 6


@pytest.mark.parametrize("lengths", [None, "ragged"])
def test_4_3_spec_augment_masks_stripes_of_the_stated_widths(lengths):
    lengths = None if lengths is None else jnp.asarray(RNG.integers(0, 31, 2000), jnp.int32)
    x = jnp.ones((2000, 30, 12))
    options = {"num_time_masks": 1, "num_frequency_masks": 1, "time_width": 6, "frequency_width": 4}
    is_masked = np.asarray(jax.jit(lambda key: spec_augment(key, x, **options, lengths=lengths, max_time_share=0.5))(jax.random.key(0)) == 0)
    frames, frequencies = is_masked.all(2), is_masked.all(1)
    np.testing.assert_array_equal(is_masked, frames[:, :, None] | frequencies[:, None, :])
    length = np.full(2000, 30) if lengths is None else np.asarray(lengths)
    for stripes, widest, size in ((frames, np.minimum(6, length // 2), length), (frequencies, np.full(2000, 4), np.full(2000, 12))):
        width = stripes.sum(1)
        begin = stripes.argmax(1)
        place = np.arange(stripes.shape[1])
        np.testing.assert_array_equal(stripes, (place >= begin[:, None]) & (place < (begin + width)[:, None]))  # one piece
        assert (width <= widest).all()
        assert (begin + width <= size).all()
        full = widest == widest.max()
        counts = np.bincount(width[full], minlength=widest.max() + 1) / full.sum()
        np.testing.assert_allclose(counts, 1 / (widest.max() + 1), atol=0.04)  # every width is equally likely
    whole = spec_augment(jax.random.key(0), x[:2], time_width=1000, frequency_width=1000, fill=3.0)
    assert set(np.unique(whole)) <= {1, 3}


def test_4_3_refusals_of_mixtures_and_stripes():
    key = jax.random.key(0)
    for mix in (mixup, cutmix):
        for alpha in (0.0, -1.0):
            with pytest.raises(ValueError, match=rf"{mix.__name__}: alpha must be in \(0, inf\), got {alpha}"):
                mix(key, BATCH, alpha=alpha)
        with pytest.raises(ValueError, match=rf'{mix.__name__}: batch must be a dict with "x" and "y", got the keys \[\'x\'\]'):
            mix(key, {"x": BATCH["x"]})
        with pytest.raises(ValueError, match=f"{mix.__name__}: batch must be a dict .* got tuple"):
            mix(key, (BATCH["x"], BATCH["y"]))
        with pytest.raises(ValueError, match=f"{mix.__name__}: the targets are mixed already"):
            mix(key, BATCH | {"y": Mixed(BATCH["y"], BATCH["y"], jnp.ones(NUM))})
    with pytest.raises(TypeError, match="mixup: x must be floats, got uint8; scale pictures first"):
        mixup(key, BATCH | {"x": BATCH["x"].astype(jnp.uint8)})
    with pytest.raises(ValueError, match=r"cutmix: x must be pictures \[B, H, W, C\], got \[200, 9\]"):
        cutmix(key, BATCH | {"x": BATCH["x"][:, :, 0, 0]})
    x = jnp.ones((1, 5, 5))
    for name in ("num_time_masks", "time_width", "num_frequency_masks", "frequency_width"):
        with pytest.raises(ValueError, match=f"spec_augment: {name} must be >= 0, got -1"):
            spec_augment(key, x, **{name: -1})
    with pytest.raises(ValueError, match=r"spec_augment: max_time_share must be in \[0, 1\], got 1.5"):
        spec_augment(key, x, max_time_share=1.5)
