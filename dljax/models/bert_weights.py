"""BERT, RoBERTa, ALBERT and MiniLM as transformers keeps them: the names of their tensors and the fields of their config.json."""

from typing import Any

import jax.numpy as jnp
from flax import linen

from dljax.models.bert import BERT, MaskedLanguageModel, TextClassifier, TokenClassifier
from dljax.models.pretrained import ACTIVATIONS, Config, Family
from dljax.models.weights import Weight


def bert_weights(model: BERT | MaskedLanguageModel | TextClassifier | TokenClassifier) -> list[Weight]:
    """What transformers calls the tensors of BERT, RoBERTa (`counts_positions`), ALBERT (`embedding_size`) and MiniLM, with their heads.

    Raises:
      ValueError: rotary positions or norms first, which these families do not have.

    >>> bert_weights(BERT())[0]
    Weight(name='embeddings.word_embeddings.weight', path='embed/embedding', layout='same', part=(0, 1))
    """
    bert = model if isinstance(model, BERT) else model.bert
    if bert.rotary is not None or bert.norm_first:
        raise ValueError("bert_weights: transformers' BERT has a table of positions and norms last, not rotary positions or norms first")
    kind = _kind(bert)
    name, path = ("", "") if isinstance(model, BERT) else (f"{kind}.", "bert/")
    weights = [
        Weight(f"{name}embeddings.word_embeddings.weight", f"{path}embed/embedding"),
        Weight(f"{name}embeddings.position_embeddings.weight", f"{path}positions"),
        Weight(f"{name}embeddings.position_ids", ""),
        Weight(f"{name}embeddings.token_type_ids", ""),
        *_norm(f"{name}embeddings.LayerNorm", f"{path}embed_norm"),
    ]
    if bert.num_types:
        weights.append(Weight(f"{name}embeddings.token_type_embeddings.weight", f"{path}types"))
    if bert.embedding_size is not None:
        weights += _dense(f"{name}encoder.embedding_hidden_mapping_in", f"{path}project")
    layer = f"{name}encoder.albert_layer_groups.0.albert_layers.0." if kind == "albert" else f"{name}encoder.layer.{{}}."
    for theirs, ours, part in _ALBERT_LAYER if kind == "albert" else _BERT_LAYER:
        weights += part(layer + theirs, f"{path}encoder/layers/{ours}")
    is_classifier = isinstance(model, TextClassifier)
    if bert.has_pooler:
        pooler = {"bert": "pooler.dense", "roberta": "pooler.dense", "albert": "pooler"}[kind]
        weights += _dense("classifier.dense" if kind == "roberta" and is_classifier else f"{name}{pooler}", f"{path}pooler")
    if isinstance(model, TextClassifier | TokenClassifier):
        weights += _dense("classifier.out_proj" if kind == "roberta" and is_classifier else "classifier", "classifier")
    if isinstance(model, MaskedLanguageModel):
        dense, norm, bias, decoder = _HEADS[kind]
        weights += [*_dense(dense, "transform"), *_norm(norm, "norm"), Weight(bias, "bias"), Weight(f"{decoder}.bias", "bias")]
        weights += [Weight(f"{decoder}.weight", f"{path}embed/embedding")]
        if kind == "bert":  # the next-sentence head of a file from pre-training
            weights += [Weight(f"cls.seq_relationship.{end}", "") for end in ("weight", "bias")]
            weights += [] if bert.has_pooler else [Weight(f"bert.pooler.dense.{end}", "") for end in ("weight", "bias")]
    return weights


def _from_config(config: Config) -> linen.Module:
    kind = config.get("model_type")
    name = {"bert": "Bert", "roberta": "Roberta", "albert": "Albert"}[kind]
    architectures = [f"{name}{end}" for end in ("Model", "ForMaskedLM", "ForSequenceClassification", "ForTokenClassification")]
    architecture = config.architecture([*architectures, *(["BertForPreTraining"] if kind == "bert" else [])])
    is_albert, is_masked = kind == "albert", architecture.endswith(("ForMaskedLM", "ForPreTraining"))
    config.choice("position_embedding_type", ("absolute",), "absolute")
    for field in ("num_hidden_groups", "inner_group_num"):
        config.choice(field, (1,), 1)
    # A head without the embeddings' matrix has no counterpart, and RoBERTa's head is gelu whatever the layers are.
    config.choice("tie_word_embeddings", (True,) if is_masked else (True, False), True)
    if kind == "roberta" and is_masked:
        config.choice("hidden_act", ("gelu",), "gelu")
    pad = config.size("pad_token_id", 1 if kind == "roberta" else 0, minimum=0)
    num_positions = config.size("max_position_embeddings", 512)
    bert = BERT(
        vocab_size=config.size("vocab_size", {"bert": 30522, "roberta": 50265, "albert": 30000}[kind]),
        width=config.size("hidden_size", 4096 if is_albert else 768),
        num_layers=config.size("num_hidden_layers", 12),
        num_heads=config.size("num_attention_heads", 64 if is_albert else 12),
        hidden=config.size("intermediate_size", 16384 if is_albert else 3072),
        context=num_positions - (pad + 1) * (kind == "roberta"),
        num_types=config.size("type_vocab_size", 2, minimum=0),
        embedding_size=config.size("embedding_size", 128) if is_albert else None,
        is_shared=is_albert,
        pad=pad,
        counts_positions=kind == "roberta",
        activation=config.activation("hidden_act", "gelu_new" if is_albert else "gelu"),
        epsilon=config.number("layer_norm_eps", 1e-12),
        dropout_rate=config.number("hidden_dropout_prob", 0.0 if is_albert else 0.1, 0, 1),
        attention_dropout_rate=config.number("attention_probs_dropout_prob", 0.0 if is_albert else 0.1, 0, 1),
        has_pooler=architecture in architectures[::2],
    )
    dropout = "classifier_dropout_prob" if is_albert else "classifier_dropout"
    dropout_rate = None if config.get(dropout) is None else config.number(dropout, 0.0, 0, 1)
    if architecture == architectures[0]:
        return bert
    if is_masked:
        return MaskedLanguageModel(bert)
    labels = config.get("id2label")
    num_classes = config.size("num_labels", len(labels) if isinstance(labels, dict) else 2)
    return (TextClassifier if architecture == architectures[2] else TokenClassifier)(bert, num_classes, dropout_rate)


def _to_config(model: BERT | MaskedLanguageModel | TextClassifier | TokenClassifier) -> dict[str, Any]:
    bert = model if isinstance(model, BERT) else model.bert
    kind = _kind(bert)
    end = {"BERT": "Model", "MaskedLanguageModel": "ForMaskedLM", "TextClassifier": "ForSequenceClassification"}
    fields = {
        "model_type": kind,
        "architectures": [kind.capitalize() + end.get(type(model).__name__, "ForTokenClassification")],
        "vocab_size": bert.vocab_size,
        "hidden_size": bert.width,
        "num_hidden_layers": bert.num_layers,
        "num_attention_heads": bert.num_heads,
        "intermediate_size": 4 * bert.width if bert.hidden is None else bert.hidden,
        "max_position_embeddings": bert.num_positions,
        "type_vocab_size": bert.num_types,
        "pad_token_id": bert.pad,
        "hidden_act": next(name for name, function in ACTIVATIONS.items() if function is bert.activation),
        "layer_norm_eps": bert.epsilon,
        "hidden_dropout_prob": bert.dropout_rate,
        "attention_probs_dropout_prob": bert.attention_dropout_rate,
    }
    if kind == "albert":
        fields |= {"embedding_size": bert.embedding_size, "num_hidden_groups": 1, "inner_group_num": 1}
    if isinstance(model, TextClassifier | TokenClassifier):
        names = [f"LABEL_{label}" for label in range(model.num_classes)]
        fields |= {"id2label": {str(label): name for label, name in enumerate(names)}, "label2id": {name: label for label, name in enumerate(names)}}
        fields["classifier_dropout_prob" if kind == "albert" else "classifier_dropout"] = model.dropout_rate
    return fields


def _kind(bert: BERT) -> str:
    if bert.is_shared != (bert.embedding_size is not None) or (bert.is_shared and bert.counts_positions):
        raise ValueError(
            "bert_weights: transformers has BERT, RoBERTa (counts_positions) and ALBERT (is_shared with an embedding_size), but no model with "
            f"is_shared={bert.is_shared}, embedding_size={bert.embedding_size}, counts_positions={bert.counts_positions}"
        )
    return "albert" if bert.is_shared else "roberta" if bert.counts_positions else "bert"


def _dense(theirs: str, ours: str) -> list[Weight]:
    return [Weight(f"{theirs}.weight", f"{ours}/kernel", "transposed"), Weight(f"{theirs}.bias", f"{ours}/bias")]


def _norm(theirs: str, ours: str) -> list[Weight]:
    # The oldest files call scale and bias gamma and beta.
    ends = (("weight", "scale"), ("bias", "bias"), ("gamma", "scale"), ("beta", "bias"))
    return [Weight(f"{theirs}.{end}", f"{ours}/{leaf}") for end, leaf in ends]


_BERT_LAYER = (
    *((f"attention.self.{name}", f"attention/{name}", _dense) for name in ("query", "key", "value")),
    ("attention.output.dense", "attention/out", _dense), ("attention.output.LayerNorm", "attention_norm", _norm),
    ("intermediate.dense", "feed_forward/up", _dense), ("output.dense", "feed_forward/down", _dense),
    ("output.LayerNorm", "feed_forward_norm", _norm),
)  # fmt: skip
_ALBERT_LAYER = (
    *((f"attention.{name}", f"attention/{name}", _dense) for name in ("query", "key", "value")),
    ("attention.dense", "attention/out", _dense), ("attention.LayerNorm", "attention_norm", _norm),
    ("ffn", "feed_forward/up", _dense), ("ffn_output", "feed_forward/down", _dense), ("full_layer_layer_norm", "feed_forward_norm", _norm),
)  # fmt: skip
_HEADS = {
    "bert": ("cls.predictions.transform.dense", "cls.predictions.transform.LayerNorm", "cls.predictions.bias", "cls.predictions.decoder"),
    "roberta": ("lm_head.dense", "lm_head.layer_norm", "lm_head.bias", "lm_head.decoder"),
    "albert": ("predictions.dense", "predictions.LayerNorm", "predictions.bias", "predictions.decoder"),
}

FAMILY = Family(
    (BERT, MaskedLanguageModel, TextClassifier, TokenClassifier), _from_config, _to_config, bert_weights,
    lambda model: (jnp.zeros((1, 1), jnp.int32),), ("bert.", "roberta.", "albert."),
)  # fmt: skip
