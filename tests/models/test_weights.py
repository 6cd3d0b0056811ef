"""Weights in and out: stacked, tied, prefixed and transposed tensors, bit for bit both ways; what does not fit is named with both shapes."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from dljax.models.weights import Weight, export_weights, import_weights

WEIGHTS = [
    Weight("net.embed.weight", "embed/embedding"),
    Weight("decoder.weight", "embed/embedding"),
    Weight("net.layer.{}.fc.weight", "blocks/fc/kernel", "transposed"),
    Weight("net.layer.{}.expert.{}.bias", "blocks/expert/bias"),
    Weight("net.conv.weight", "conv/kernel", "convolution"),
    Weight("net.bn.running_mean", "batch_stats/bn/mean"),
    *(Weight("net.layer.{}.attention.weight", f"blocks/{name}/kernel", "transposed", (part, 3)) for part, name in enumerate("qkv")),
    *(Weight("net.layer.{}.attention.bias", f"blocks/{name}/bias", part=(part, 3)) for part, name in enumerate("qkv")),
    Weight("net.layer.{}.mask", ""),
]
LIKE = {
    "params": {
        "embed": {"embedding": jnp.zeros((5, 3))},
        "blocks": {"fc": {"kernel": jnp.zeros((2, 3, 4))}, "expert": {"bias": jnp.zeros((2, 2, 4))}}
        | {name: {"kernel": jnp.zeros((2, 3, 4)), "bias": jnp.zeros((2, 4))} for name in "qkv"},
        "conv": {"kernel": jnp.zeros((3, 5, 2, 6))},
    },
    "batch_stats": {"bn": {"mean": jnp.zeros(6)}},
}


def tensors(dtype=np.float32):
    rng = np.random.default_rng(0)
    shapes = {
        "net.embed.weight": (5, 3), **{f"net.layer.{layer}.fc.weight": (4, 3) for layer in range(2)},
        **{f"net.layer.{layer}.expert.{expert}.bias": (4,) for layer in range(2) for expert in range(2)},
        **{f"net.layer.{layer}.attention.weight": (12, 3) for layer in range(2)},
        **{f"net.layer.{layer}.attention.bias": (12,) for layer in range(2)},
        "net.conv.weight": (6, 2, 3, 5), "net.bn.running_mean": (6,),
    }  # fmt: skip
    return {name: rng.normal(size=shape).astype(dtype) for name, shape in shapes.items()}


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16, np.int32])
def test_what_comes_in_goes_out_bit_for_bit(dtype):
    given = tensors(dtype)
    variables = import_weights(given, WEIGHTS, LIKE)
    assert jax.tree.structure(variables) == jax.tree.structure(LIKE)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {np.dtype(dtype)}
    back = export_weights(variables, WEIGHTS)
    assert {name: (array.shape, array.dtype, array.tobytes()) for name, array in back.items()} == {
        name: (array.shape, array.dtype, array.tobytes()) for name, array in given.items()
    }


def test_each_tensor_stands_where_the_list_says():
    given = tensors()
    params = import_weights(given, WEIGHTS, jax.eval_shape(lambda: LIKE))["params"]
    np.testing.assert_array_equal(params["blocks"]["fc"]["kernel"][1], given["net.layer.1.fc.weight"].T)
    np.testing.assert_array_equal(params["blocks"]["expert"]["bias"][1, 0], given["net.layer.1.expert.0.bias"])
    np.testing.assert_array_equal(params["blocks"]["k"]["kernel"][1], given["net.layer.1.attention.weight"][4:8].T)
    np.testing.assert_array_equal(params["blocks"]["v"]["bias"][0], given["net.layer.0.attention.bias"][8:])
    np.testing.assert_array_equal(params["conv"]["kernel"][2, 4, 1, 5], given["net.conv.weight"][5, 1, 2, 4])


def test_a_convolution_and_a_linear_layer_of_torch_compute_the_same_here():
    torch = pytest.importorskip("torch")
    from dljax.nn.convolution import convolution

    torch.manual_seed(0)
    for rank, window in ((1, (3,)), (2, (3, 2)), (3, (2, 3, 2))):
        theirs = (torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d)[rank - 1](4, 6, window, groups=2, bias=False)
        x = torch.randn(2, 4, *[5] * rank)
        kernel = {"params": {"kernel": jnp.zeros((*window, 2, 6))}}
        ours = import_weights({"weight": theirs.weight.detach().numpy()}, [Weight("weight", "kernel", "convolution")], kernel)["params"]["kernel"]
        y = convolution(jnp.asarray(x.movedim(1, -1).numpy()), ours, padding="VALID", groups=2)
        np.testing.assert_allclose(y, theirs(x).detach().movedim(1, -1).numpy(), rtol=1e-5, atol=1e-5)
    linear = torch.nn.Linear(3, 5, bias=False)
    weights = [Weight("weight", "kernel", "transposed")]
    kernel = import_weights({"weight": linear.weight.detach().numpy()}, weights, {"params": {"kernel": jnp.zeros((3, 5))}})["params"]["kernel"]
    x = torch.randn(2, 3)
    np.testing.assert_allclose(x.numpy() @ kernel, linear(x).detach().numpy(), rtol=1e-5, atol=1e-6)


def test_a_tied_tensor_may_be_there_once_or_twice_but_not_differ():
    given = tensors()
    once = import_weights(given, WEIGHTS, LIKE)
    for names in (("net.embed.weight", "decoder.weight"), ("decoder.weight",)):
        other = {name: array for name, array in given.items() if name != "net.embed.weight"} | dict.fromkeys(names, given["net.embed.weight"])
        jax.tree.map(np.testing.assert_array_equal, import_weights(other, WEIGHTS, LIKE), once)
    with pytest.raises(ValueError, match=r"untied: net.embed.weight and decoder.weight differ, and both are params/embed/embedding"):
        import_weights(given | {"decoder.weight": given["net.embed.weight"] + 1}, WEIGHTS, LIKE)


def test_prefixes_may_be_there_or_not_and_buffers_are_passed_over():
    given = tensors()
    expected = import_weights(given, WEIGHTS, LIKE)
    bare = {name.removeprefix("net."): array for name, array in given.items()} | {"layer.11.mask": np.ones(3)}
    jax.tree.map(np.testing.assert_array_equal, import_weights(bare, WEIGHTS, LIKE, prefixes=("net.",)), expected)
    with pytest.raises(ValueError, match=r"twice: net.bn.running_mean and bn.running_mean are one without their prefixes 'net.'"):
        import_weights(given | {"bn.running_mean": np.zeros(6)}, WEIGHTS, LIKE, prefixes=("net.",))


def test_everything_that_does_not_fit_is_named_in_one_message_with_the_shapes():
    given = tensors()
    del given["net.layer.1.fc.weight"], given["net.embed.weight"]
    given |= {"net.conv.weight": np.zeros((6, 2, 5, 3), np.float32), "net.layer.2.fc.weight": np.zeros((4, 3), np.float32)}
    given["net.layer.0.expert.1.bias"] = given["net.layer.0.expert.1.bias"].astype(np.float16)
    with pytest.raises(ValueError, match="import_weights: the tensors do not fit the model") as error:
        import_weights(given, WEIGHTS, LIKE)
    assert str(error.value).splitlines()[1:] == [
        "  misshapen: net.conv.weight has shape (6, 2, 5, 3), (6, 2, 3, 5) is expected for params/conv/kernel",
        "  missing: net.embed.weight, shape (5, 3), for params/embed/embedding",
        "  missing: net.layer.1.fc.weight, shape (4, 3), for params/blocks/fc/kernel[1]",
        "  of several types: net.layer.{}.expert.{}.bias is float16 and float32",
        "  surplus: net.layer.2.fc.weight, shape (4, 3)",
    ]


def test_a_new_head_is_kept_and_an_old_one_ignored():
    given = tensors() | {"cls.weight": np.ones(3)}
    like = LIKE | {"params": LIKE["params"] | {"head": {"kernel": jnp.full((3, 2), 7.0)}}}
    with pytest.raises(ValueError, match=r"surplus: cls.weight, shape \(3,\)\n  unnamed: params/head/kernel, shape \(3, 2\)"):
        import_weights(given, WEIGHTS, like)
    variables = import_weights(given, WEIGHTS, like, ignore=("cls.*",), keep=("head/*",))
    np.testing.assert_array_equal(variables["params"]["head"]["kernel"], 7.0)
    with pytest.raises(ValueError, match=r"params/head/kernel is to be kept, so like must hold its values, got its shape \(3, 2\)"):
        import_weights(given, WEIGHTS, jax.eval_shape(lambda: like), ignore=("cls.*",), keep=("head/*",))
    with pytest.raises(ValueError, match=r"weights has no name for:\n  params/head/kernel, shape \(3, 2\)"):
        export_weights(variables, WEIGHTS)


def test_a_list_of_names_that_does_not_fit_the_model_is_refused():
    with pytest.raises(ValueError, match=r"no such leaves:\n  x goes to params/nowhere"):
        import_weights({}, [Weight("x", "nowhere")], LIKE)
    with pytest.raises(ValueError, match="layout must be one of 'same', 'transposed', 'convolution', got 'sideways'"):
        import_weights({}, [Weight("x", "embed/embedding", "sideways")], LIKE)
    with pytest.raises(ValueError, match="of rank 1 cannot be 'transposed'"):
        import_weights({}, [Weight("x", "batch_stats/bn/mean", "transposed")], LIKE)
    two = {"params": {"blocks": {name: {"kernel": jnp.zeros((1, 3, 4))} for name in "qv"}}}
    with pytest.raises(ValueError, match=r"weights names not all parts of:\n  net.layer.0.attention.weight: \[0, 2\] of 3"):
        export_weights(two, [weight for weight in WEIGHTS if weight.path in ("blocks/q/kernel", "blocks/v/kernel")])


def test_doubles_need_64_bits_or_another_type():
    given = tensors(np.float64)
    with pytest.raises(ValueError, match=r"is float64, which JAX would round without its 64 bits; run under jax.enable_x64\(True\), or give a dtype"):
        import_weights(given, WEIGHTS, LIKE)
    assert import_weights(given, WEIGHTS, LIKE, dtype=jnp.float32)["params"]["conv"]["kernel"].dtype == jnp.float32
    with jax.enable_x64(True):
        back = export_weights(import_weights(given, WEIGHTS, LIKE), WEIGHTS)
    assert all(back[name].tobytes() == array.tobytes() for name, array in given.items())
