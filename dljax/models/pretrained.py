"""Trained models from a folder, as the libraries of Hugging Face keep them: config.json, model.safetensors, tokenizer.json; and back."""

import importlib
import importlib.util
import json
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
from flax import linen

from dljax.core.contract import Key
from dljax.models.tensor_files import place_file, read_json, read_tensors, write_tensors
from dljax.models.weights import Weight, export_weights, import_weights
from dljax.nn.model import Variables

FAMILIES = {
    "albert": "bert_weights", "bert": "bert_weights", "gpt2": "gpt_weights", "llama": "llama_weights", "roberta": "bert_weights",
    "t5": "t5_weights", "vit": "vit_weights",
    "resnet18": "resnet_weights", "resnet34": "resnet_weights", "resnet50": "resnet_weights", "resnet101": "resnet_weights",
    "resnet152": "resnet_weights", "resnext50_32x4d": "resnet_weights", "resnext101_32x8d": "resnet_weights", "seresnet50": "resnet_weights",
    "wide_resnet50_2": "resnet_weights",
}  # fmt: skip
"""Where the `FAMILY` of each `model_type`, or of timm's `architecture`, is found: a module of `dljax.models`."""

ACTIVATIONS: dict[str, Callable[[Any], Any]] = {
    "gelu": partial(jax.nn.gelu, approximate=False),
    "gelu_new": jax.nn.gelu,
    "gelu_pytorch_tanh": jax.nn.gelu,
    "gelu_fast": jax.nn.gelu,
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
    "swish": jax.nn.silu,
    "tanh": jax.numpy.tanh,
}
"""The activations of transformers by name; "gelu" is exact, the three after it are one formula with tanh."""


class Pretrained(NamedTuple):
    """A model with its weights.

    Attributes:
      model: a linen module; `model.apply(variables, ...)`.
      variables: its variables, `{"params": ...}`.
      config: the fields of config.json.
      tokeniser: a `dljax.data.Tokeniser`, None where the folder has no tokenizer.json or the library `tokenizers` is not installed.
    """

    model: linen.Module
    variables: Variables
    config: dict[str, Any]
    tokeniser: Any


class Family(NamedTuple):
    """What a family of models says about itself, as `FAMILY` in its module.

    Attributes:
      models: the classes of its models.
      from_config: `Config -> model`; it asks for the fields it knows, and for nothing else.
      to_config: `model -> fields` of a config.json with `model_type` and `architectures`, such that `from_config` gives the model again.
      weights: `model -> list of Weight`.
      example: `model -> arguments` of its `init` after the key.
      prefixes: beginnings of names that a file may have or not.
    """

    models: tuple[type, ...]
    from_config: Callable[["Config"], linen.Module]
    to_config: Callable[[Any], dict[str, Any]]
    weights: Callable[[Any], list[Weight]]
    example: Callable[[Any], tuple[Any, ...]]
    prefixes: tuple[str, ...] = ()


class Config:
    """The fields of a config.json, asked for one after another; one that nobody asks for and that is not known to be harmless is refused.

    >>> config = Config({"hidden_size": 8, "hidden_act": "gelu", "window": 4}, "config.json")
    >>> config.size("hidden_size", 768)
    8
    >>> config.activation("hidden_act", "relu") is ACTIVATIONS["gelu"]
    True
    >>> config.finish()
    Traceback (most recent call last):
    ValueError: config.json: the field 'window' = 4 is unknown to dljax, which cannot tell whether it changes the model; ...
    """

    def __init__(self, fields: Mapping[str, Any], who: str) -> None:
        self.fields, self.who = dict(fields), who
        self._asked: set[str] = set()

    def get(self, name: str, default: Any = None) -> Any:
        """The value of a field."""
        self._asked.add(name)
        return self.fields.get(name, default)

    def size(self, name: str, default: int | None = None, *, minimum: int = 1) -> int:
        """A whole number >= minimum.

        Raises:
          ValueError: it is none, or it is missing and has no default.
        """
        value = self.get(name, default)
        if type(value) is not int or not minimum <= value < 2**31:
            raise ValueError(f"{self.who}: the field {name!r} must be a whole number >= {minimum}, got {value!r}")
        return value

    def number(self, name: str, default: float, low: float = 0.0, high: float = float("inf")) -> float:
        """A number in [low, high].

        Raises:
          ValueError: it is none.
        """
        value = self.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise ValueError(f"{self.who}: the field {name!r} must be a number in [{low:g}, {high:g}], got {value!r}")
        return float(value)

    def choice(self, name: str, allowed: Sequence[Any], default: Any) -> Any:
        """One of a few values: those that dljax has.

        Raises:
          ValueError: it is another.
        """
        value = self.get(name, default)
        if not any(type(value) is type(one) and value == one for one in allowed):
            raise ValueError(f"{self.who}: the field {name!r} must be one of {', '.join(map(repr, allowed))} for dljax, got {value!r}")
        return value

    def activation(self, name: str, default: str) -> Callable[[Any], Any]:
        """An activation function by its name in transformers.

        Raises:
          ValueError: dljax has none of this name here.
        """
        return ACTIVATIONS[self.choice(name, tuple(ACTIVATIONS), default)]

    def architecture(self, allowed: Sequence[str]) -> str:
        """The class of transformers that the file was saved from, the first of `architectures`; the first allowed one where the field is missing.

        Raises:
          ValueError: it is none of the allowed.
        """
        names = self.get("architectures") or [allowed[0]]
        if not isinstance(names, list) or names[0] not in allowed:
            raise ValueError(f"{self.who}: the field 'architectures' must begin with one of {', '.join(allowed)} for dljax, got {names!r}")
        return names[0]

    def finish(self) -> None:
        """Refuse what was not asked for.

        Raises:
          ValueError: a field that nobody asked for and that is not known to be harmless.
        """
        for name, value in self.fields.items():
            is_off = name in _HARMLESS_WHEN_OFF and not value
            if name not in self._asked and name not in _HARMLESS and not is_off and not name.startswith("_"):
                raise ValueError(
                    f"{self.who}: the field {name!r} = {value!r} is unknown to dljax, which cannot tell whether it changes the model; "
                    f"if it does not, load with changes={{{name!r}: None}}"
                )


def from_pretrained(
    path: Path | str,
    *,
    changes: Mapping[str, Any] | None = None,
    ignore: Sequence[str] = (),
    keep: Sequence[str] = (),
    key: Key | None = None,
    dtype: Any = None,
) -> Pretrained:
    """A model with trained weights, read from a folder; nothing is downloaded, nothing in it is run.

    Args:
      path: a folder with config.json, the weights as for `read_tensors`, and perhaps tokenizer.json.
      changes: fields of config.json to be read as if these stood there; None takes one away. To put a new head on a trained body:
        `changes={"architectures": ["BertForSequenceClassification"], "num_labels": 5}, keep=("classifier/*",), ignore=("cls.*",), key=key`.
      ignore, keep: as for `import_weights`; what is kept is drawn from `key`.
      dtype: of the floating-point weights; None keeps each as it is in the file.
    Returns:
      Model, variables, config and tokeniser.
    Raises:
      FileNotFoundError: no folder, config.json or weights. ValueError: a `model_type` or a field that dljax does not know, or a value that it does
        not have; weights that do not fit, with all names and shapes; `keep` without a key.

    >>> from_pretrained("nowhere")
    Traceback (most recent call last):
    FileNotFoundError: from_pretrained: there is no nowhere/config.json
    """
    folder = Path(path)
    if not (folder / _CONFIG).is_file():
        raise FileNotFoundError(f"from_pretrained: there is no {folder / _CONFIG}")
    fields = {name: value for name, value in {**read_json(folder / _CONFIG), **(changes or {})}.items() if value is not None}
    kind = fields.get("model_type", fields.get("architecture"))
    if not isinstance(kind, str) or kind not in FAMILIES:
        raise ValueError(f"from_pretrained: model_type must be one of {', '.join(map(repr, FAMILIES))}, got {kind!r} in {folder / _CONFIG}")
    family = _family(FAMILIES[kind])
    config = Config(fields, f"from_pretrained: {folder / _CONFIG}")
    model = family.from_config(config)
    config.finish()
    if keep and key is None:
        raise ValueError(f"from_pretrained: keep={tuple(keep)} needs a key, from which those weights are drawn")
    init = partial(model.init, jax.random.key(0) if key is None else key)
    like = jax.jit(init)(*family.example(model)) if keep else jax.eval_shape(init, *family.example(model))
    variables = import_weights(
        read_tensors(folder), family.weights(model), like, prefixes=family.prefixes, ignore=ignore, keep=keep, dtype=dtype
    )  # fmt: skip
    return Pretrained(model, variables, fields, _tokeniser(folder / "tokenizer.json"))


def to_safetensors(
    path: Path | str, model: linen.Module, variables: Variables, *, config: Mapping[str, Any] | None = None, overwrite: bool = False
) -> Path:
    """Write `model.safetensors` and `config.json`, which transformers and `from_pretrained` read; the weights bit for bit.

    Args:
      path: a folder, made where it is not there.
      model: of one of the `FAMILIES`.
      config: further fields for config.json, such as those of the `Pretrained` it came from; the model's own come on top.
      overwrite: whether files that are there are replaced.
    Returns:
      The folder.
    Raises:
      TypeError: a model of no family. FileExistsError: the files exist. ValueError: weights that are not the model's.

    >>> import tempfile
    >>> from dljax.models.gpt import GPT
    >>> model = GPT(vocab_size=5, context=4, num_layers=1, num_heads=1, width=4)
    >>> variables = jax.jit(model.init)(jax.random.key(0), jax.numpy.zeros((1, 4), int))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     from_pretrained(to_safetensors(f"{folder}/gpt", model, variables)).model.width
    4
    """
    folder = Path(path)
    family = next((family for family in map(_family, dict.fromkeys(FAMILIES.values())) if isinstance(model, family.models)), None)
    if family is None:
        raise TypeError(f"to_safetensors: model must be of one of the families {', '.join(FAMILIES)}, got {type(model).__name__}")
    fields = {**(config or {}), **family.to_config(model)}
    tensors = export_weights(variables, family.weights(model))
    if (folder / _CONFIG).exists() and not overwrite:
        raise FileExistsError(f"to_safetensors: {folder / _CONFIG} exists; choose another folder, or give overwrite=True to replace it")
    write_tensors(folder / "model.safetensors", tensors, metadata={"format": "pt"}, overwrite=overwrite)
    partial_file = folder / f".{_CONFIG}.partial-{os.getpid()}"
    try:
        partial_file.write_text(json.dumps(fields, indent=2, sort_keys=True) + "\n")
        place_file(partial_file, folder / _CONFIG, overwrite=overwrite)
    finally:
        partial_file.unlink(missing_ok=True)
    return folder


_CONFIG = "config.json"

# What transformers keeps in every config.json for other purposes than the model's arithmetic in evaluation: bookkeeping, defaults of generation,
# labels' names, how weights are first drawn.
_HARMLESS = frozenset({
    "architectures", "bad_words_ids", "begin_suppress_tokens", "bos_token_id", "chunk_size_feed_forward", "decoder_start_token_id",
    "diversity_penalty", "do_sample", "dtype", "early_stopping", "encoder_no_repeat_ngram_size", "eos_token_id",
    "exponential_decay_length_penalty", "finetuning_task", "forced_bos_token_id", "forced_eos_token_id", "gradient_checkpointing", "id2label",
    "initializer_factor", "initializer_range", "label2id", "length_penalty", "max_length", "min_length", "model_type", "no_repeat_ngram_size",
    "num_beam_groups", "num_beams", "num_return_sequences", "output_attentions", "output_hidden_states", "output_past", "output_scores",
    "pad_token_id", "prefix", "problem_type", "remove_invalid_values", "repetition_penalty", "return_dict", "return_dict_in_generate",
    "sep_token_id", "suppress_tokens", "task_specific_params", "temperature", "tokenizer_class", "top_k", "top_p", "torch_dtype", "torchscript",
    "transformers_version", "typical_p", "use_cache",
})  # fmt: skip
_HARMLESS_WHEN_OFF = frozenset(
    {"add_cross_attention", "cross_attention_hidden_size", "is_decoder", "is_encoder_decoder", "pruned_heads", "use_bfloat16"}
)


def _family(name: str) -> Family:
    return importlib.import_module(f"dljax.models.{name}").FAMILY


def _tokeniser(path: Path) -> Any:
    if not path.is_file() or importlib.util.find_spec("tokenizers") is None:
        return None
    from dljax.data.tokenisers import load_tokeniser

    return load_tokeniser(path)
