"""Llama as transformers keeps it: the names of its tensors and the fields of its config.json."""

from typing import Any

import jax.numpy as jnp

from dljax.models.llama import Llama
from dljax.models.pretrained import Config, Family
from dljax.models.weights import Weight
from dljax.nn.positions import Rotary


def llama_weights(model: Llama) -> list[Weight]:
    """What transformers calls the tensors of Llama.

    >>> llama_weights(Llama(vocab_size=10))[1]
    Weight(name='model.norm.weight', path='decoder/norm/scale', layout='same', part=(0, 1))
    """
    weights = [Weight("model.embed_tokens.weight", "embed/embedding"), Weight("model.norm.weight", "decoder/norm/scale")]
    layer, ours = "model.layers.{}.", "decoder/layers/"
    for theirs, name, has_bias in (
        *((f"self_attn.{short}_proj", f"attention/{name}", model.use_attention_bias) for short, name in zip("qkvo", _PARTS, strict=True)),
        *((f"mlp.{name}_proj", f"feed_forward/{name}", model.use_hidden_bias) for name in ("gate", "up", "down")),
    ):
        weights.append(Weight(f"{layer}{theirs}.weight", f"{ours}{name}/kernel", "transposed"))
        weights += [Weight(f"{layer}{theirs}.bias", f"{ours}{name}/bias")] if has_bias else []
    weights.append(Weight(f"{layer}input_layernorm.weight", f"{ours}attention_norm/scale"))
    weights.append(Weight(f"{layer}post_attention_layernorm.weight", f"{ours}feed_forward_norm/scale"))
    weights.append(Weight(f"{layer}self_attn.rotary_emb.inv_freq", ""))
    return [*weights, Weight("lm_head.weight", "embed/embedding") if model.is_tied else Weight("lm_head.weight", "head/kernel", "transposed")]


def _from_config(config: Config) -> Llama:
    config.architecture(["LlamaForCausalLM"])
    config.choice("hidden_act", ("silu", "swish"), "silu")
    config.get("pretraining_tp")  # how a sum is split
    num_heads = config.size("num_attention_heads", 32)
    width = config.size("hidden_size", 4096)
    context = config.size("max_position_embeddings", 2048)
    head_size = None if config.get("head_dim") is None else config.size("head_dim")
    return Llama(
        vocab_size=config.size("vocab_size", 32000),
        context=context,
        num_layers=config.size("num_hidden_layers", 32),
        num_heads=num_heads,
        width=width,
        num_groups=None if config.get("num_key_value_heads") is None else config.size("num_key_value_heads"),
        head_size=None if head_size == width / num_heads else head_size,
        hidden=config.size("intermediate_size", 11008),
        rotary=_rotary(config),
        is_tied=config.choice("tie_word_embeddings", (True, False), False),
        epsilon=config.number("rms_norm_eps", 1e-6),
        use_attention_bias=config.choice("attention_bias", (True, False), False),
        use_hidden_bias=config.choice("mlp_bias", (True, False), False),
        attention_dropout_rate=config.number("attention_dropout", 0.0, 0, 1),
    )


def _rotary(config: Config) -> Rotary:
    """The rotary positions, of `rope_parameters`, or of the older fields `rope_theta` and `rope_scaling`."""
    base = config.number("rope_theta", 10000.0, 1)
    given = config.get("rope_parameters") or config.get("rope_scaling") or {}
    config.get("rope_scaling")
    if not isinstance(given, dict):
        raise ValueError(f"{config.who}: the field 'rope_parameters' must be an object, got {given!r}")
    fields = Config(given, f"{config.who}, rope_parameters")
    base = fields.number("rope_theta", base, 1)
    older = fields.get("type", "default")
    kind = fields.choice("rope_type", ("default", "linear", "llama3"), older)
    rotary = Rotary(base)
    if kind != "default":
        rotary = rotary._replace(factor=fields.number("factor", 1.0))
    if kind == "llama3":
        rotary = rotary._replace(
            low_factor=fields.number("low_freq_factor", 1.0),
            high_factor=fields.number("high_freq_factor", 4.0),
            length=fields.size("original_max_position_embeddings"),
        )
    fields.finish()
    return rotary


def _to_config(model: Llama) -> dict[str, Any]:
    if model.window is not None or model.rotary.size is not None:
        raise ValueError(f"to_safetensors: transformers' Llama has no window and turns whole heads, got window={model.window}, {model.rotary}")
    if model.attention is not None:
        raise ValueError(f"to_safetensors: transformers' Llama has softmax attention only, got attention={model.attention}; use write_tensors")
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": model.rotary.base}
    if model.rotary.length is not None:
        rope |= {"rope_type": "llama3", "low_freq_factor": model.rotary.low_factor, "high_freq_factor": model.rotary.high_factor}
        rope |= {"factor": model.rotary.factor, "original_max_position_embeddings": model.rotary.length}
    elif model.rotary.factor != 1:
        rope |= {"rope_type": "linear", "factor": model.rotary.factor}
    return {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": model.vocab_size,
        "max_position_embeddings": model.context,
        "num_hidden_layers": model.num_layers,
        "num_attention_heads": model.num_heads,
        "num_key_value_heads": model.config.groups,
        "head_dim": model.config.size_of_head(model.width),
        "hidden_size": model.width,
        "intermediate_size": model.num_hidden,
        "hidden_act": "silu",
        "rms_norm_eps": model.epsilon,
        "rope_parameters": rope,
        "tie_word_embeddings": model.is_tied,
        "attention_bias": model.use_attention_bias,
        "mlp_bias": model.use_hidden_bias,
        "attention_dropout": model.attention_dropout_rate,
    }


_PARTS = ("query", "key", "value", "out")

FAMILY = Family((Llama,), _from_config, _to_config, llama_weights, lambda model: (jnp.zeros((1, 1), jnp.int32),))
