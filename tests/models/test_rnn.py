"""Recurrent models: PyTorch's values and gradients on packed ragged batches, padding without influence, a sampler that is the model itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dljax.models import RecurrentLanguageModel, RecurrentNet, RecurrentReadout, recurrent_sampler, recurrent_weights

B, T, D, H = 3, 6, 4, 5
NAMES = {"weight_ih": "kernel", "weight_hh": "recurrent_kernel", "bias_ih": "bias", "bias_hh": "recurrent_bias"}


def of_torch(theirs, read):
    """The tree of a `RecurrentNet`, of PyTorch's parameters or of their gradients."""
    params = {}
    for name, parameter in theirs.named_parameters():
        kind, _, layer = name.partition("_l")
        value = read(parameter).numpy()
        params.setdefault(f"layer_{layer}", {})[NAMES[kind]] = value.T if kind.startswith("weight") else value
    return params


def drawn(shapes):
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), jnp.float32), shapes)


@pytest.mark.parametrize("cell", ["elman", "lstm", "gru"])
def test_6_1_two_bidirectional_layers_equal_torch_on_packed_ragged_sequences(cell):
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    kind = {"elman": torch.nn.RNN, "lstm": torch.nn.LSTM, "gru": torch.nn.GRU}[cell]
    theirs = kind(D, H, num_layers=2, bidirectional=True, batch_first=True, dtype=torch.float64)
    rng = np.random.default_rng(0)
    x, weight, lengths = rng.normal(size=(B, T, D)), rng.normal(size=(B, T, 2 * H)), np.array([6, 1, 4])
    is_real = (np.arange(T) < lengths[:, None])[..., None]
    weight = weight * is_real
    their_x = torch.from_numpy(x).requires_grad_()
    packed = torch.nn.utils.rnn.pack_padded_sequence(their_x, torch.from_numpy(lengths), batch_first=True, enforce_sorted=False)
    out, last = theirs(packed)
    out, _ = torch.nn.utils.rnn.pad_packed_sequence(out, batch_first=True)
    last = last[::-1] if cell == "lstm" else (last,)  # ours is (c, h)
    loss = (out * torch.from_numpy(weight)).sum() + sum((part**3).sum() for part in last)
    loss.backward()

    with jax.enable_x64(True):
        net = RecurrentNet(H, cell, num_layers=2, is_bidirectional=True)
        params = jax.tree.map(jnp.asarray, of_torch(theirs, lambda parameter: parameter.detach()))

        def value(params, x):
            y, carry = net.apply({"params": params}, x, lengths=jnp.asarray(lengths))
            y = jnp.where(jnp.asarray(is_real), y, 0)
            return (y * jnp.asarray(weight)).sum() + sum((leaf**3).sum() for leaf in jax.tree.leaves(carry)), (y, carry)

        grads, (y, carry) = jax.jit(jax.grad(value, (0, 1), has_aux=True))(params, jnp.asarray(x))
        np.testing.assert_allclose(y, out.detach().numpy(), rtol=1e-9, atol=1e-12)
        ours = jax.tree.map(lambda *leaves: jnp.stack(leaves), *carry)
        for one, other in zip(jax.tree.leaves(ours), last, strict=True):
            np.testing.assert_allclose(one, other.detach().numpy(), rtol=1e-9, atol=1e-12)
        expected = of_torch(theirs, lambda parameter: parameter.grad), their_x.grad.numpy()
        assert jax.tree.structure(grads[0]) == jax.tree.structure(expected[0])
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-10), grads, expected)


def test_6_1_names_of_torch_bring_its_weights_and_take_them_back():
    torch = pytest.importorskip("torch")
    weights = pytest.importorskip("dljax.models.weights")
    net = RecurrentNet(H, "gru", num_layers=2, is_bidirectional=True)
    tensors = {name: value.numpy() for name, value in torch.nn.GRU(D, H, 2, bidirectional=True).state_dict().items()}
    like = jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, 2, D)))
    variables = weights.import_weights(tensors, recurrent_weights(net), like)
    back = weights.export_weights(variables, recurrent_weights(net))
    assert sorted(back) == sorted(tensors)
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(back[name], tensor)


def test_6_1_padding_has_no_influence_and_dropout_only_in_training():
    model = RecurrentReadout(2, 4, "elman", num_layers=2, is_bidirectional=True, dropout_rate=0.5)
    rng = np.random.default_rng(0)
    x, lengths = jnp.asarray(rng.normal(size=(3, 5, 2)), jnp.float32), jnp.array([5, 0, 2])
    is_real = (jnp.arange(5)[None] < lengths[:, None])[..., None]
    batches = [{"x": jnp.where(is_real, x, padding), "lengths": lengths} for padding in (0.0, 1e4)]
    variables = drawn(jax.eval_shape(model.init, jax.random.key(0), batches[0]))
    apply = jax.jit(model.apply)
    outputs = [apply(variables, batch) for batch in batches]
    np.testing.assert_array_equal(*outputs)
    np.testing.assert_array_equal(outputs[0][1], variables["params"]["head"]["bias"])  # nothing was read
    train = jax.jit(jax.vmap(lambda key: model.apply(variables, batches[0], train=True, rngs={"dropout": key})))
    dropped = train(jax.random.split(jax.random.key(0)))
    assert (dropped[0] != dropped[1]).any()


def test_6_4_the_sampler_draws_from_the_model_given_the_whole_text():
    model = RecurrentLanguageModel(7, 8, embedding_size=4)
    prompt = jnp.array([[1, 2, 3], [6, 5, 4]])
    variables = drawn(jax.eval_shape(model.init, jax.random.key(0), prompt))  # far from uniform
    sample = jax.jit(recurrent_sampler(model), static_argnames="num")
    greedy = sample(jax.random.key(1), variables, prompt, num=6, temperature=0.0)
    text = jnp.concatenate([prompt, greedy], 1)
    logits, _ = jax.jit(model.apply)(variables, text[:, :-1])
    np.testing.assert_array_equal(logits[:, 2:].argmax(-1), greedy)
    np.testing.assert_array_equal(greedy[:, :1], sample(jax.random.key(2), variables, prompt, num=1, temperature=0.0))
    many = jnp.tile(prompt[:1], (4000, 1))
    found = np.bincount(np.asarray(sample(jax.random.key(3), variables, many, num=1, temperature=2.0))[:, 0], minlength=7) / 4000
    np.testing.assert_allclose(found, jax.nn.softmax(logits[0, 2] / 2), atol=0.03)


def test_recurrent_models_refuse_options_out_of_range():
    x = jnp.zeros((2, 3, 1))
    for options, message in (
        ({"cell": "rnn"}, "RecurrentNet: cell must be one of 'lstm', 'gru', 'elman', got 'rnn'"),
        ({"width": 0}, "RecurrentNet: width must be >= 1, got 0"),
        ({"num_layers": 0}, "RecurrentNet: num_layers must be >= 1, got 0"),
        ({"dropout_rate": 1.0}, r"RecurrentNet: dropout_rate must be in \[0, 1\), got 1.0"),
    ):
        with pytest.raises(ValueError, match=message):
            RecurrentNet(**{"width": 2} | options).init(jax.random.key(0), x)
    with pytest.raises(ValueError, match="carry must hold 1 states, one a layer and direction, got 2"):
        RecurrentNet(2, "gru").init(jax.random.key(0), x, (x[:, 0], x[:, 0]))
    with pytest.raises(ValueError, match="RecurrentReadout: num_outputs must be >= 1, got 0"):
        RecurrentReadout(0).init(jax.random.key(0), x)
    with pytest.raises(ValueError, match="RecurrentLanguageModel: vocab_size must be >= 1, got 0"):
        RecurrentLanguageModel(0).init(jax.random.key(0), jnp.zeros((1, 2), jnp.int32))
    with pytest.raises(TypeError, match="RecurrentLanguageModel: tokens must be whole numbers, got float32"):
        RecurrentLanguageModel(3).init(jax.random.key(0), jnp.zeros((1, 2)))
    sample = recurrent_sampler(RecurrentLanguageModel(3, 2))
    with pytest.raises(ValueError, match=r"prompt must be tokens \[B, P\] with P >= 1, got shape \(1, 0\)"):
        sample(jax.random.key(0), {}, jnp.zeros((1, 0), jnp.int32))
    with pytest.raises(ValueError, match="num must be >= 1, got 0"):
        sample(jax.random.key(0), {}, jnp.zeros((1, 1), jnp.int32), num=0)
    with pytest.raises(ValueError, match="temperature must be in"):
        sample(jax.random.key(0), {}, jnp.zeros((1, 1), jnp.int32), temperature=-1.0)
