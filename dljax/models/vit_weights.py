"""ViT as transformers keeps it: the names of its tensors and the fields of its config.json."""

from typing import Any

import jax.numpy as jnp

from dljax.models.pretrained import ACTIVATIONS, Config, Family
from dljax.models.vit import ViT
from dljax.models.weights import Weight


def vit_weights(model: ViT) -> list[Weight]:
    """What transformers calls the tensors of ViT: in the published files, and where they differ in those of version 5.

    Raises:
      ValueError: a model without a class token, which transformers does not have.

    >>> vit_weights(ViT(num_classes=10))[0]
    Weight(name='vit.embeddings.cls_token', path='class_token', layout='same', part=(0, 1))
    """
    if model.pool != "class":
        raise ValueError(f"vit_weights: transformers' ViT has a class token, got pool={model.pool!r}")
    weights = [
        Weight("vit.embeddings.cls_token", "class_token"),
        Weight("vit.embeddings.position_embeddings", "positions"),
        Weight("vit.embeddings.patch_embeddings.projection.weight", "embed/kernel", "convolution"),
        Weight("vit.embeddings.patch_embeddings.projection.bias", "embed/bias"),
    ]
    for older, newer, path in _LAYER:
        for theirs in (f"vit.encoder.layer.{{}}.{older}", f"vit.layers.{{}}.{newer}"):
            leaf = "scale" if path.endswith("norm") else "kernel"
            weights.append(Weight(f"{theirs}.weight", f"encoder/layers/{path}/{leaf}", "same" if leaf == "scale" else "transposed"))
            weights.append(Weight(f"{theirs}.bias", f"encoder/layers/{path}/bias"))
    weights += [Weight("vit.layernorm.weight", "encoder/norm/scale"), Weight("vit.layernorm.bias", "encoder/norm/bias")]
    weights += [Weight("classifier.weight", "head/kernel", "transposed"), Weight("classifier.bias", "head/bias")]
    # What a file may have besides, of the training as a pooled encoder or on hidden patches.
    return [*weights, *(Weight(f"vit.{name}", "") for name in ("pooler.dense.weight", "pooler.dense.bias", "embeddings.mask_token"))]


def _from_config(config: Config) -> ViT:
    config.architecture(["ViTForImageClassification"])
    config.choice("qkv_bias", (True,), True)
    for field in ("encoder_stride", "pooler_output_size", "pooler_act"):
        config.get(field)  # of other heads
    labels = config.get("id2label")
    return ViT(
        num_classes=config.size("num_labels", len(labels) if isinstance(labels, dict) else 2),
        image_size=_sides(config, "image_size", 224),
        patch_size=_sides(config, "patch_size", 16),
        num_channels=config.size("num_channels", 3),
        width=config.size("hidden_size", 768),
        num_layers=config.size("num_hidden_layers", 12),
        num_heads=config.size("num_attention_heads", 12),
        hidden=config.size("intermediate_size", 3072),
        activation=config.activation("hidden_act", "gelu"),
        epsilon=config.number("layer_norm_eps", 1e-12),
        dropout_rate=config.number("hidden_dropout_prob", 0.0, 0, 1),
        attention_dropout_rate=config.number("attention_probs_dropout_prob", 0.0, 0, 1),
    )


def _sides(config: Config, name: str, default: int) -> int | tuple[int, int]:
    value = config.get(name, default)
    if isinstance(value, list) and len(value) == 2 and all(type(side) is int and side > 0 for side in value):
        return value[0] if value[0] == value[1] else (value[0], value[1])
    return config.size(name, default)


def _to_config(model: ViT) -> dict[str, Any]:
    names = [f"LABEL_{label}" for label in range(model.num_classes)]
    picture, patch = model.sides
    return {
        "model_type": "vit",
        "architectures": ["ViTForImageClassification"],
        "image_size": picture[0] if picture[0] == picture[1] else list(picture),
        "patch_size": patch[0] if patch[0] == patch[1] else list(patch),
        "num_channels": model.num_channels,
        "hidden_size": model.width,
        "num_hidden_layers": model.num_layers,
        "num_attention_heads": model.num_heads,
        "intermediate_size": 4 * model.width if model.hidden is None else model.hidden,
        "hidden_act": next(name for name, function in ACTIVATIONS.items() if function is model.activation),
        "layer_norm_eps": model.epsilon,
        "hidden_dropout_prob": model.dropout_rate,
        "attention_probs_dropout_prob": model.attention_dropout_rate,
        "id2label": {str(label): name for label, name in enumerate(names)},
        "label2id": {name: label for label, name in enumerate(names)},
    }


# The names of the published files, and those of transformers 5.
_LAYER = (
    *((f"attention.attention.{name}", f"attention.{name[0]}_proj", f"attention/{name}") for name in ("query", "key", "value")),
    ("attention.output.dense", "attention.o_proj", "attention/out"),
    ("intermediate.dense", "mlp.fc1", "feed_forward/up"),
    ("output.dense", "mlp.fc2", "feed_forward/down"),
    ("layernorm_before", "layernorm_before", "attention_norm"),
    ("layernorm_after", "layernorm_after", "feed_forward_norm"),
)


def _example(model: ViT) -> tuple[Any, ...]:
    return (jnp.zeros((1, *model.sides[0], model.num_channels)),)


FAMILY = Family((ViT,), _from_config, _to_config, vit_weights, _example)
