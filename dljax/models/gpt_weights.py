"""GPT-2 as transformers keeps it: the names of its tensors and the fields of its config.json."""

from typing import Any

import jax.numpy as jnp

from dljax.models.gpt import GPT
from dljax.models.pretrained import ACTIVATIONS, Config, Family
from dljax.models.weights import Weight


def gpt_weights(model: GPT) -> list[Weight]:
    """What transformers calls the tensors of GPT-2, whose queries, keys and values are one.

    >>> gpt_weights(GPT(vocab_size=10))[0]
    Weight(name='transformer.wte.weight', path='embed/embedding', layout='same', part=(0, 1))
    """
    weights = [Weight("transformer.wte.weight", "embed/embedding"), Weight("transformer.wpe.weight", "positions")]
    layer, ours = "transformer.h.{}.", "decoder/layers/"
    for end, leaf in (("weight", "kernel"), ("bias", "bias")):
        for place, name in enumerate(("query", "key", "value")):
            weights.append(Weight(f"{layer}attn.c_attn.{end}", f"{ours}attention/{name}/{leaf}", part=(place, 3)))
        for theirs, name in (("attn.c_proj", "attention/out"), ("mlp.c_fc", "feed_forward/up"), ("mlp.c_proj", "feed_forward/down")):
            weights.append(Weight(f"{layer}{theirs}.{end}", f"{ours}{name}/{leaf}"))
    for end, leaf in (("weight", "scale"), ("bias", "bias")):
        weights.append(Weight(f"{layer}ln_1.{end}", f"{ours}attention_norm/{leaf}"))
        weights.append(Weight(f"{layer}ln_2.{end}", f"{ours}feed_forward_norm/{leaf}"))
        weights.append(Weight(f"transformer.ln_f.{end}", f"decoder/norm/{leaf}"))
    weights += [Weight(f"{layer}attn.{buffer}", "") for buffer in ("bias", "masked_bias")]
    return [*weights, Weight("lm_head.weight", "embed/embedding") if model.is_tied else Weight("lm_head.weight", "head/kernel", "transposed")]


def _from_config(config: Config) -> GPT:
    config.architecture(["GPT2LMHeadModel", "GPT2Model"])
    config.choice("scale_attn_weights", (True,), True)
    config.choice("scale_attn_by_inverse_layer_idx", (False,), False)
    for field in ("reorder_and_upcast_attn", "summary_type", "summary_use_proj", "summary_activation", "summary_proj_to_labels", "n_ctx"):
        config.get(field)  # of other heads, or of no meaning for the values
    config.get("summary_first_dropout")
    dropout_rate = config.number("resid_pdrop", 0.1, 0, 1)
    return GPT(
        vocab_size=config.size("vocab_size", 50257),
        context=config.size("n_positions", 1024),
        num_layers=config.size("n_layer", 12),
        num_heads=config.size("n_head", 12),
        width=config.size("n_embd", 768),
        dropout_rate=dropout_rate,
        is_tied=config.choice("tie_word_embeddings", (True, False), True),
        hidden=None if config.get("n_inner") is None else config.size("n_inner"),
        activation=config.activation("activation_function", "gelu_new"),
        epsilon=config.number("layer_norm_epsilon", 1e-5),
        embed_dropout_rate=config.number("embd_pdrop", 0.1, 0, 1),
        attention_dropout_rate=config.number("attn_pdrop", 0.1, 0, 1),
    )


def _to_config(model: GPT) -> dict[str, Any]:
    if model.attention is not None:
        raise ValueError(f"to_safetensors: transformers' GPT-2 has softmax attention only, got attention={model.attention}; use write_tensors")
    embed, attention = (model.dropout_rate if rate is None else rate for rate in (model.embed_dropout_rate, model.attention_dropout_rate))
    name = next(name for name, function in ACTIVATIONS.items() if function is model.activation)
    return {
        "model_type": "gpt2",
        "architectures": ["GPT2LMHeadModel"],
        "vocab_size": model.vocab_size,
        "n_positions": model.context,
        "n_layer": model.num_layers,
        "n_head": model.num_heads,
        "n_embd": model.width,
        "n_inner": model.hidden,
        "activation_function": name,
        "layer_norm_epsilon": model.epsilon,
        "tie_word_embeddings": model.is_tied,
        "resid_pdrop": model.dropout_rate,
        "embd_pdrop": embed,
        "attn_pdrop": attention,
    }


FAMILY = Family((GPT,), _from_config, _to_config, gpt_weights, lambda model: (jnp.zeros((1, 1), jnp.int32),), ("transformer.",))
