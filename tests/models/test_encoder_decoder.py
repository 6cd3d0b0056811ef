"""T5 and the original Transformer: values, gradients and texts are those of transformers with the same weights; padding is nothing."""

import functools
import json
import runpy
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dljax.core.tree import named_leaves
from dljax.data.span_corruption import corrupt_spans
from dljax.models.encoder_decoder import EncoderDecoder
from dljax.models.pretrained import Config, from_pretrained, to_safetensors
from dljax.models.t5 import T5
from dljax.models.t5_weights import FAMILY, t5_weights
from dljax.models.target_generation import generate_target, read_source
from dljax.models.translation import teacher_forcing
from dljax.models.weights import Weight, export_weights, import_weights
from dljax.objectives import cross_entropy
from dljax.supervised import supervised

GOLDEN = Path(__file__).parents[1] / "golden"
SCRIPT = runpy.run_path(str(GOLDEN / "make_encoder_decoder.py"))
CASES = [*((case, False) for case in SCRIPT["KEPT"]), *(pytest.param(case, True, marks=pytest.mark.slow) for case in SCRIPT["CASES"])]
T5_CASES = [case for case in SCRIPT["KEPT"] if case.startswith("t5")]


@functools.cache
def expected(case, is_live):
    if is_live:
        pytest.importorskip("transformers")
        return SCRIPT["reference"](case)
    golden = np.load(GOLDEN / "encoder_decoder.npz")
    return {name.removeprefix(f"{case}/"): golden[name] for name in golden.files if name.startswith(f"{case}/")}


def marian_weights():
    """What transformers calls the tensors of Marian."""
    weights = [Weight("model.shared.weight", "embed/embedding")]
    parts = {"self_attn": "attention", "encoder_attn": "memory"}
    for side in ("encoder", "decoder"):
        layer, path = f"model.{side}.layers.{{}}.", f"{side}/layers/"
        pairs = [("fc1", "feed_forward/up"), ("fc2", "feed_forward/down")]
        norms = [("final_layer_norm", "feed_forward_norm")]
        for theirs, ours in list(parts.items())[: 1 + (side == "decoder")]:
            names = zip("qkv", ("query", "key", "value"), strict=True)
            pairs += [*((f"{theirs}.{short}_proj", f"{ours}/{name}") for short, name in names), (f"{theirs}.out_proj", f"{ours}/out")]
            norms.append((f"{theirs}_layer_norm", f"{ours}_norm"))
        for theirs, ours in pairs:
            weights.append(Weight(f"{layer}{theirs}.weight", f"{path}{ours}/kernel", "transposed"))
        weights += [Weight(f"{layer}{theirs}.weight", f"{path}{ours}/scale") for theirs, ours in norms]
        weights += [Weight(f"{layer}{theirs}.bias", f"{path}{ours}/bias") for theirs, ours in (*pairs, *norms)]
    return weights


@functools.cache
def loaded(case, is_live):
    """The model of the reference, rolled: sooner compiled; its variables, and its gradients under our names."""
    arrays = expected(case, is_live)
    fields = json.loads(str(arrays["config"]))
    if case.startswith("t5"):
        config = Config(fields, case)
        model = FAMILY.from_config(config)
        config.finish()
        weights = t5_weights(model)
    else:
        sizes = {"num_heads": fields["encoder_attention_heads"], "hidden": fields["encoder_ffn_dim"], "num_layers": fields["encoder_layers"]}
        model, weights = EncoderDecoder(fields["vocab_size"], fields["d_model"], **sizes), marian_weights()
    model = model.clone(is_unrolled=False)
    like = jax.eval_shape(model.init, jax.random.key(0), *FAMILY.example(model))
    trees = []
    for kind in ("weight/", "grad/"):
        tensors = {name.removeprefix(kind): arrays[name] for name in arrays if name.startswith(kind)}
        trees.append(import_weights(tensors, weights, like))
    return model, *trees


@pytest.mark.parametrize(("case", "is_live"), CASES)
def test_8_3_t5_and_the_original_transformer_have_the_values_and_gradients_of_transformers_with_padding(case, is_live):
    with jax.enable_x64(True):
        arrays, (model, variables, grads) = expected(case, is_live), loaded(case, is_live)
        x = {"source": jnp.asarray(arrays["source"]), "inputs": jnp.asarray(arrays["inputs"]), "lengths": jnp.array(SCRIPT["LENGTHS"])}

        def value(variables):
            logits = model.apply(variables, x)
            return (arrays["direction"] * logits).sum(), logits

        (_, logits), found = jax.jit(jax.value_and_grad(value, has_aux=True))(variables)
        # Norms of T5 and waves of Marian are computed in float32 there.
        np.testing.assert_allclose(logits, arrays["logits"], rtol=1e-4, atol=1e-4)
        for (name, ours), (_, theirs) in zip(named_leaves(found), named_leaves(grads), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-3 * max(1, np.abs(theirs).max()), err_msg=name)


@pytest.mark.parametrize(("case", "is_live"), CASES)
def test_8_3_t5_and_the_original_transformer_write_what_transformers_writes_greedy_and_by_beam_search(case, is_live):
    with jax.enable_x64(True):
        arrays, (model, variables, _) = expected(case, is_live), loaded(case, is_live)
        model = model.clone(is_unrolled=None if case == "t5" else False)  # both ways of the loop
        options = {"max_tokens": SCRIPT["MAX_TOKENS"], "start_token": SCRIPT["START"], "stop_tokens": (SCRIPT["STOP"],)}

        @jax.jit
        def run(variables, source, mask):
            one = generate_target(model, variables, source, mask=mask, **options)
            return one, generate_target(model, variables, source, mask=mask, method="beam_search", num_beams=4, **options)

        one, beams = run(variables, jnp.asarray(arrays["source"]), jnp.asarray(arrays["mask"]))
        np.testing.assert_array_equal(one.tokens, arrays["greedy"])
        np.testing.assert_array_equal(beams.tokens, arrays["beam"])
        np.testing.assert_allclose(beams.scores, arrays["scores"], rtol=1e-5)


@pytest.mark.parametrize("case", T5_CASES)
def test_8_3_t5_weights_come_back_bit_for_bit(case, tmp_path):
    with jax.enable_x64(True):
        arrays, (model, variables, _) = expected(case, False), loaded(case, False)
        tensors = export_weights(variables, t5_weights(model))
        assert {f"weight/{name}" for name in tensors} == {name for name in arrays if name.startswith("weight/")}
        for name, tensor in tensors.items():
            np.testing.assert_array_equal(tensor, arrays[f"weight/{name}"])
        found = from_pretrained(to_safetensors(tmp_path, model, variables))
        assert found.model.clone(is_unrolled=False) == model
        jax.tree.map(np.testing.assert_array_equal, found.variables, variables)


@pytest.mark.slow
@pytest.mark.parametrize("case", T5_CASES)
def test_8_3_transformers_reads_the_t5_that_dljax_writes(case, tmp_path):
    transformers, torch = pytest.importorskip("transformers"), pytest.importorskip("torch")
    with jax.enable_x64(True):
        arrays, (model, variables, _) = expected(case, False), loaded(case, False)
        to_safetensors(tmp_path, model, variables)
    theirs = transformers.T5ForConditionalGeneration.from_pretrained(tmp_path, dtype=torch.float64).eval()
    given = {"input_ids": arrays["source"], "attention_mask": arrays["mask"], "decoder_input_ids": arrays["inputs"]}
    logits = theirs(**{name: torch.tensor(array).long() for name, array in given.items()}).logits
    np.testing.assert_allclose(logits.detach().numpy(), arrays["logits"], rtol=1e-6, atol=1e-6)


MODELS = {
    "t5": T5(19, 8, 2, 2, head_size=3, hidden=12, num_buckets=8, max_distance=6, is_unrolled=False),
    "original": EncoderDecoder(19, 8, 2, 2, hidden=12, is_unrolled=False),
}
SOURCE = jax.random.randint(jax.random.key(1), (4, 6), 1, 19)
LENGTHS = jnp.array([6, 1, 3, 0])


@functools.cache
def small(name):
    model = MODELS[name]
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(model.init, jax.random.key(0), *FAMILY.example(model))
    return model, jax.tree.map(lambda leaf: jnp.asarray(rng.normal(0.1, 0.5, leaf.shape), leaf.dtype), shapes), jax.jit(model.apply)


@pytest.mark.parametrize("name", MODELS)
def test_8_3_padding_and_the_other_rows_are_nothing_to_an_encoder_decoder(name):
    _, variables, apply = small(name)
    inputs = jax.random.randint(jax.random.key(2), (4, 5), 0, 19)
    logits = apply(variables, {"source": SOURCE, "inputs": inputs, "lengths": LENGTHS})
    assert np.isfinite(logits).all()  # with a source of no tokens, too
    is_real = jnp.arange(6)[None] < LENGTHS[:, None]
    # Whatever stands behind a source, and in whatever order the rows come.
    other = apply(variables, {"source": jnp.where(is_real, SOURCE, 7), "inputs": inputs, "lengths": LENGTHS})
    np.testing.assert_allclose(other[:3], logits[:3], rtol=1e-5, atol=1e-6)
    turned = apply(variables, {"source": SOURCE[::-1], "inputs": inputs[::-1], "lengths": LENGTHS[::-1]})
    np.testing.assert_allclose(turned[::-1], logits, rtol=1e-5, atol=1e-5)
    # The pad token says as much as the lengths; more of it, on either side of the text, changes T5 by nothing on the right.
    padded = jnp.pad(jnp.where(is_real, SOURCE, 0), ((0, 0), (0, 3)))
    np.testing.assert_allclose(apply(variables, {"source": padded, "inputs": inputs})[:3], logits[:3], rtol=1e-5, atol=1e-5)
    # No target token is told what comes after it.
    changed = apply(variables, {"source": SOURCE, "inputs": inputs.at[:, 3].add(1) % 19, "lengths": LENGTHS})
    np.testing.assert_array_equal(changed[:, :3], logits[:, :3])
    assert (np.abs(changed - logits)[:, 3:].max((0, 2)) > 0).all()


def test_8_3_distances_are_all_that_t5_knows_of_places():
    """Padding on the left moves every token of a source by as much, which T5 does not see and sinusoidal positions do."""
    inputs = jax.random.randint(jax.random.key(2), (4, 5), 0, 19)
    changes = {}
    for name in MODELS:
        _, variables, apply = small(name)
        left, right = (apply(variables, {"source": jnp.pad(SOURCE, ((0, 0), side)), "inputs": inputs}) for side in ((3, 0), (0, 3)))
        changes[name] = float(jnp.abs(left - right).max())
    assert changes["t5"] < 1e-5 < 1e-2 < changes["original"]


def test_8_3_the_source_is_read_once_and_its_memory_is_not_moved_by_beam_search():
    model, variables, _ = small("t5")
    cache = jax.eval_shape(lambda source: read_source(model, variables, source, start_token=0, max_tokens=7, num_beams=3).cache, SOURCE)
    assert (cache.key.shape, cache.memory[0].shape) == ((2, 4, 7, 2, 3), (2, 12, 6, 2, 3))
    run = jax.jit(functools.partial(generate_target, model, max_tokens=7, start_token=0, method="beam_search", num_beams=3))
    gathers = [line for line in run.lower(variables, SOURCE).as_text().splitlines() if "stablehlo.gather" in line]
    # The beams' own keys and values change places; those of the memory stay.
    assert sum("-> tensor<2x12x7x2x3xf32>" in line for line in gathers) >= 1
    assert sum("-> tensor<2x12x6x2x3xf32>" in line for line in gathers) == 0


@pytest.mark.slow
def test_8_3_t5_learns_to_fill_holes():
    """Texts that count upwards: what is missing follows from what is there."""
    first, size = 39, 12

    def batch(key):
        start_key, hole_key = jax.random.split(key)
        texts = 2 + (jax.random.randint(start_key, (64, 1), 0, 20) + jnp.arange(size)[None]) % 20
        spans = corrupt_spans(hole_key, texts, first_sentinel=first, num_sentinels=10, rate=0.3, mean_span=2.0)
        inputs = jnp.pad(spans.targets[:, :-1], ((0, 0), (1, 0)))
        mask = jnp.arange(inputs.shape[1])[None] < spans.target_lengths[:, None]
        return {"x": {"source": spans.inputs, "inputs": inputs, "lengths": spans.input_lengths}, "y": spans.targets, "mask": mask.astype(jnp.float32)}

    learner = supervised(T5(40, 32, 2, 2, head_size=16, dropout_rate=0.0, is_unrolled=False), cross_entropy, optax.adam(3e-3))
    state = jax.jit(lambda key: learner.init(key, batch(key)))(jax.random.key(0))

    def step(state, key):
        return learner.step(key, state, batch(jax.random.fold_in(key, 1)))

    _, metrics = jax.jit(lambda state: jax.lax.scan(step, state, jax.random.split(jax.random.key(1), 600)))(state)
    # How many tokens a hole has follows from what is around it: nothing is left to guess.
    assert float(jnp.mean(metrics["loss"][-20:])) < 0.1


def test_8_3_it_trains_on_what_teacher_forcing_makes_of_pairs():
    model, variables, apply = small("original")
    batch = teacher_forcing(SOURCE, LENGTHS, np.full((4, 3), 5), np.array([3, 2, 1, 0]))
    assert apply(variables, jax.tree.map(jnp.asarray, batch["x"])).shape == (4, 4, 19)


def test_8_3_t5_starts_as_t5_does():
    model = T5(300, 64, 1, 4, head_size=9, hidden=100, is_tied=False, is_unrolled=False)
    params = jax.jit(model.init)(jax.random.key(0), *FAMILY.example(model))["params"]
    deviations = {name: float(leaf.std()) for name, leaf in named_leaves(params) if leaf.std() > 0}
    assert deviations["embed/embedding"] == pytest.approx(1, rel=0.05)
    for side in ("encoder", "decoder"):
        layers = f"{side}/layers"
        assert deviations[f"{layers}/attention/query/kernel"] == pytest.approx((64 * 9) ** -0.5, rel=0.05)
        assert deviations[f"{layers}/attention/key/kernel"] == pytest.approx(64**-0.5, rel=0.05)
        assert deviations[f"{layers}/attention/out/kernel"] == pytest.approx(36**-0.5, rel=0.05)
        assert deviations[f"{layers}/feed_forward/down/kernel"] == pytest.approx(100**-0.5, rel=0.05)
        assert deviations[f"{side}_bias/embedding"] == pytest.approx(64**-0.5, rel=0.3)


def x_of(**changes):
    return {"source": SOURCE, "inputs": SOURCE, **changes}


@pytest.mark.parametrize(
    ("model", "x", "error", "message"),
    [
        (T5(19, 8, 1, 3, head_size=None), {}, ValueError, "num_heads must divide the width 8, got 3"),
        (T5(19, 8, 1, 2, num_decoder_layers=0), {}, ValueError, "num_decoder_layers must be >= 1"),
        (T5(19, 8, 1, 2, pad=19), {}, ValueError, "pad must be between 0 and 18"),
        (T5(19, 8, 1, 2, dropout_rate=1.5), {}, ValueError, "dropout_rate must be in"),
        (T5(19, 8, 1, 2), {"source": SOURCE[0]}, ValueError, r"T5: source must be tokens \[B, S\]|one batch"),
        (EncoderDecoder(19, 8, 1, 3), {}, ValueError, "num_heads must divide the width 8, got 3"),
        (EncoderDecoder(19, 9, 1, 3), {}, ValueError, "width must be even, got 9"),
        (EncoderDecoder(0, 8, 1, 2), {}, ValueError, "vocab_size must be >= 1"),
        (EncoderDecoder(19, 8, 1, 2), {"inputs": SOURCE[:2]}, ValueError, "of one batch, got shapes"),
        (EncoderDecoder(19, 8, 1, 2), {"inputs": None}, ValueError, "x must have `source` and `inputs`"),
        (EncoderDecoder(19, 8, 1, 2), {"inputs": SOURCE * 1.0}, TypeError, "inputs must be whole numbers, got float32"),
        (EncoderDecoder(19, 8, 1, 2), {"source": SOURCE * 1.0}, TypeError, "source must be whole numbers, got float32"),
        (EncoderDecoder(19, 8, 1, 2), {"lengths": LENGTHS[:2]}, ValueError, "lengths must be one number for each of the 4 sources"),
    ],
)
def test_what_an_encoder_decoder_cannot_read_is_refused(model, x, error, message):
    with pytest.raises(error, match=message):
        jax.eval_shape(functools.partial(model.init, jax.random.key(0)), x_of(**x))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"max_tokens": 0}, ValueError, "generate_target: max_tokens must be >= 1"),
        ({"start_token": -1}, ValueError, "start_token must be >= 0"),
        ({"method": "best"}, ValueError, "method must be one of"),
        ({"method": "sample"}, ValueError, "draws at random: give a key"),
        ({"method": "beam_search", "num_beams": 0}, ValueError, "num_beams must be >= 1"),
        ({"temperature": 1.0}, TypeError, "temperature"),
    ],
)
def test_what_cannot_be_written_is_refused(changes, error, message):
    model, variables, _ = small("t5")
    with pytest.raises(error, match=message):
        jax.eval_shape(lambda source: generate_target(model, variables, source, **{"max_tokens": 2, "start_token": 0, **changes}), SOURCE)


def test_a_cache_has_no_room_for_a_sequence_that_is_too_long():
    from dljax.nn.key_value_cache import KeyValueCache

    model, variables, _ = small("t5")
    cache = KeyValueCache.empty(num_layers=2, batch=4, size=3, num_groups=2, head_size=3)
    with pytest.raises(ValueError, match="room for 3 positions, got 6"):
        model.apply(variables, SOURCE, jnp.zeros((4, 2, 8)), cache=cache, method="decode")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"feed_forward_proj": "gated-swoosh"}, "'feed_forward_proj' must be one of"),
        ({"is_encoder_decoder": False}, "'is_encoder_decoder' must be one of True for dljax, got False"),
        ({"architectures": ["T5EncoderModel"]}, "'architectures' must begin with one of T5ForConditionalGeneration"),
        ({"num_heads": 0}, "'num_heads' must be a whole number >= 1"),
    ],
)
def test_what_a_config_of_t5_has_and_dljax_has_not_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        FAMILY.from_config(Config({"model_type": "t5", **fields}, "config.json"))


def test_a_missing_tensor_is_named_with_its_shape():
    with jax.enable_x64(True):
        model, variables, _ = loaded("t5 1.1", False)
        tensors = export_weights(variables, t5_weights(model))
        del tensors["lm_head.weight"]
        with pytest.raises(ValueError, match=r"missing: lm_head.weight, shape \(15, 7\), for params/head/kernel"):
            import_weights(tensors, t5_weights(model), variables)


def test_an_exact_gelu_behind_a_gate_is_not_written_for_transformers(tmp_path):
    from dljax.models.pretrained import ACTIVATIONS

    model = T5(19, 8, 1, 2, is_gated=True, activation=ACTIVATIONS["gelu"])
    with pytest.raises(ValueError, match="gelu by its formula with tanh"):
        to_safetensors(tmp_path, model, {"params": {}})
