"""T5 as transformers keeps it: the names of its tensors and the fields of its config.json."""

from typing import Any

import jax
import jax.numpy as jnp

from dljax.models.pretrained import ACTIVATIONS, Config, Family
from dljax.models.t5 import T5
from dljax.models.weights import Weight


def t5_weights(model: T5) -> list[Weight]:
    """What transformers calls the tensors of T5, of the first version and of 1.1.

    >>> t5_weights(T5())[0]
    Weight(name='shared.weight', path='embed/embedding', layout='same', part=(0, 1))
    """
    weights = [Weight(name, "embed/embedding") for name in ("shared.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight")]
    units = (("wi_0", "gate"), ("wi_1", "up")) if model.is_gated else (("wi", "up"),)
    for side in ("encoder", "decoder"):
        weights.append(Weight(f"{side}.block.0.layer.0.SelfAttention.relative_attention_bias.weight", f"{side}_bias/embedding"))
        weights.append(Weight(f"{side}.final_layer_norm.weight", f"{side}/norm/scale"))
        parts = [("SelfAttention", "attention"), *([("EncDecAttention", "memory")] if side == "decoder" else []), ("DenseReluDense", "feed_forward")]
        for number, (theirs, ours) in enumerate(parts):
            layer, path = f"{side}.block.{{}}.layer.{number}.", f"{side}/layers/{ours}"
            leaves = (*units, ("wo", "down")) if ours == "feed_forward" else zip("qkvo", ("query", "key", "value", "out"), strict=True)
            weights += [Weight(f"{layer}{theirs}.{name}.weight", f"{path}/{leaf}/kernel", "transposed") for name, leaf in leaves]
            weights.append(Weight(f"{layer}layer_norm.weight", f"{path}_norm/scale"))
    # The oldest files have a bias for the attention to the memory, which no version reads.
    weights.append(Weight("decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight", ""))
    return [*weights, Weight("lm_head.weight", "embed/embedding") if model.is_tied else Weight("lm_head.weight", "head/kernel", "transposed")]


def _from_config(config: Config) -> T5:
    config.architecture(["T5ForConditionalGeneration", "T5WithLMHeadModel"])
    config.choice("is_encoder_decoder", (True,), True)
    for field in ("dense_act_fn", "is_gated_act", "n_positions", "classifier_dropout"):
        config.get(field)  # said by feed_forward_proj, or of no meaning for the values
    proj = config.choice("feed_forward_proj", (*ACTIVATIONS, *(f"gated-{name}" for name in ACTIVATIONS)), "relu")
    # A tied head is scaled. Files of transformers 5 say only the latter: there, both are always said to be tied.
    is_tied = config.choice("tie_word_embeddings", (True, False), True)
    num_layers = config.size("num_layers", 6)
    pad = None if "pad_token_id" in config.fields and config.get("pad_token_id") is None else config.size("pad_token_id", 0, minimum=0)
    return T5(
        vocab_size=config.size("vocab_size", 32128),
        width=config.size("d_model", 512),
        num_layers=num_layers,
        num_heads=config.size("num_heads", 8),
        num_decoder_layers=config.size("num_decoder_layers", num_layers),
        head_size=config.size("d_kv", 64),
        hidden=config.size("d_ff", 2048),
        num_buckets=config.size("relative_attention_num_buckets", 32, minimum=4),
        max_distance=config.size("relative_attention_max_distance", 128, minimum=2),
        activation=jax.nn.gelu if proj == "gated-gelu" else ACTIVATIONS[proj.removeprefix("gated-")],
        is_gated=proj.startswith("gated-"),
        is_tied=config.choice("scale_decoder_outputs", (True, False), is_tied),
        pad=pad,
        epsilon=config.number("layer_norm_epsilon", 1e-6),
        dropout_rate=config.number("dropout_rate", 0.1, 0, 1),
    )


def _to_config(model: T5) -> dict[str, Any]:
    name = next(name for name, function in ACTIVATIONS.items() if function is model.activation)
    if model.is_gated:
        if name == "gelu":
            raise ValueError("to_safetensors: transformers' gated T5 has gelu by its formula with tanh (jax.nn.gelu), got the exact one")
        name = {"gelu_new": "gated-gelu"}.get(name, f"gated-{name}")
    return {
        "model_type": "t5",
        "architectures": ["T5ForConditionalGeneration"],
        "is_encoder_decoder": True,
        "vocab_size": model.vocab_size,
        "d_model": model.width,
        "d_kv": model.width // model.num_heads if model.head_size is None else model.head_size,
        "d_ff": 4 * model.width if model.hidden is None else model.hidden,
        "num_layers": model.num_layers,
        "num_decoder_layers": model.decoder_layers,
        "num_heads": model.num_heads,
        "relative_attention_num_buckets": model.num_buckets,
        "relative_attention_max_distance": model.max_distance,
        "feed_forward_proj": name,
        "tie_word_embeddings": model.is_tied,
        "pad_token_id": model.pad,
        "decoder_start_token_id": model.pad,
        "layer_norm_epsilon": model.epsilon,
        "dropout_rate": model.dropout_rate,
    }


def _example(model: T5) -> tuple[Any, ...]:
    return ({"source": jnp.zeros((1, 1), jnp.int32), "inputs": jnp.zeros((1, 1), jnp.int32)},)


FAMILY = Family((T5,), _from_config, _to_config, t5_weights, _example)
