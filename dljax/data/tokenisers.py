"""Tokenisers: vocabularies of word pieces learned from the user's text, by the library `tokenizers` (extra `text`), as padded arrays."""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from dljax.core.checks import check_choice, check_int

KINDS = ("bpe", "byte-bpe", "wordpiece", "unigram")
PAD, UNKNOWN, CLASS, SEPARATOR, MASK = SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_PADS = (PAD, "<pad>", "<|pad|>", "<|endoftext|>")
_LARGEST_FILE = 100_000_000  # bytes


class Encoded(NamedTuple):
    """Texts as arrays, padded behind.

    Attributes:
      tokens: int32 [N, T], the padding token behind each text.
      mask: bool [N, T], True where there is a token and False where there is padding.
      lengths: int32 [N], the tokens of each text, special ones included.
      types: int32 [N, T], 0 for the first text of a pair, 1 for the second.
      words: int32 [N, T], which word of its row a token belongs to, counted from 0; -1 for special tokens and padding.
    """

    tokens: Int[np.ndarray, "N T"]
    mask: Bool[np.ndarray, "N T"]
    lengths: Int[np.ndarray, " N"]
    types: Int[np.ndarray, "N T"]
    words: Int[np.ndarray, "N T"]


class Tokeniser:
    """A vocabulary and the rules by which texts become its tokens and come back.

    Made by `train_tokeniser` or `load_tokeniser`.

    Attributes:
      library: the `tokenizers.Tokenizer` that does the work.
      vocab_size: V, one more than the largest id.
      pad: the id of padding.
    """

    def __init__(self, library: Any) -> None:
        padding = library.padding
        library.no_padding()
        library.no_truncation()
        self.library = library
        named = next((library.token_to_id(name) for name in _PADS if library.token_to_id(name) is not None), 0)
        self.pad: int = padding["pad_id"] if padding else named
        self.vocab_size: int = max(self.vocabulary.values(), default=-1) + 1

    @property
    def vocabulary(self) -> Mapping[str, int]:
        """The id of each token."""
        return self.library.get_vocab(with_added_tokens=True)

    @property
    def special(self) -> Mapping[str, int]:
        """The ids of the special tokens."""
        return {token.content: index for index, token in sorted(self.library.get_added_tokens_decoder().items()) if token.special}

    def encode(
        self,
        texts: Sequence[str],
        pairs: Sequence[str] | None = None,
        *,
        length: int | None = None,
        truncate: bool = False,
        add_special: bool = True,
        parse_special: bool = False,
    ) -> Encoded:
        """Texts as padded arrays.

        Args:
          texts: N texts.
          pairs: a second text for each, such as an answer to a question.
          length: T, at least 1; None takes the longest text's.
          truncate: whether what is longer is cut behind (of a pair the longer text); special tokens stay.
          add_special: whether the frame of special tokens, such as `[CLS] text [SEP]`, is put around each text.
          parse_special: whether `[MASK]` written in a text means the special token. It does not by default: no text can smuggle one in.
        Raises:
          ValueError: a text longer than `length` without `truncate`; no room for the special tokens; a text that no UTF-8 can spell.
          TypeError: something else than a sequence of strings.

        >>> tokeniser = train_tokeniser(["to be or not to be"], "wordpiece", min_count=1, frame=("[CLS]", "[SEP]"))
        >>> tokeniser.encode(["to be", "to be or not"]).mask.astype(int).tolist()
        [[1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1]]
        """
        for name, given in (("texts", texts), *([("pairs", pairs)] if pairs is not None else [])):
            if isinstance(given, str):
                raise TypeError(f"encode: {name} must be a sequence of strings, got one string; give [text]")
            _check_texts(f"encode: {name}", given)
        if pairs is not None and len(pairs) != len(texts):
            raise ValueError(f"encode: pairs must be as many as texts, got {len(pairs)} and {len(texts)}")
        self.library.encode_special_tokens = not parse_special
        inputs = list(texts) if pairs is None else list(zip(texts, pairs, strict=True))
        found = self.library.encode_batch(inputs, add_special_tokens=add_special)
        size = max((len(one) for one in found), default=0) if length is None else check_int("encode", "length", length, minimum=1)
        for row, one in enumerate(found):
            if len(one) > size:
                if not truncate:
                    raise ValueError(f"encode: text {row} has {len(one)} tokens, more than length={size}; give truncate=True to cut it")
                found[row] = self._cut(inputs[row], size, add_special)
        return self._padded(found, size)

    def decode(self, tokens: Any, *, skip_special: bool = True) -> Any:
        """Tokens as text.

        Args:
          tokens: whole numbers [T], for one string, or [N, T], for a list of them.
          skip_special: whether special tokens and padding are left out.
        Raises:
          ValueError: an id that the vocabulary does not have. TypeError: no whole numbers.

        >>> tokeniser = train_tokeniser(["to be or not to be"], "byte-bpe", vocab_size=280)
        >>> tokeniser.decode(tokeniser.encode(["not to be"]).tokens)
        ['not to be']
        """
        array = np.asarray(tokens)
        if array.size == 0 and not isinstance(tokens, np.ndarray):
            array = array.astype(np.int32)
        if not np.issubdtype(array.dtype, np.integer) or array.ndim not in (1, 2):
            raise TypeError(f"decode: tokens must be whole numbers [T] or [N, T], got {array.dtype} of shape {array.shape}")
        for token in np.unique(array).tolist():
            if not 0 <= token < self.vocab_size or self.library.id_to_token(token) is None:
                raise ValueError(f"decode: tokens must be in the vocabulary of {self.vocab_size} tokens, 0 ... {self.vocab_size - 1}, got {token}")
        texts = self.library.decode_batch(np.atleast_2d(array).tolist(), skip_special_tokens=skip_special)
        return texts[0] if array.ndim == 1 else texts

    def save(self, path: Path | str) -> Path:
        """Write a `tokenizer.json`, which `load_tokeniser` and the library itself read.

        Raises:
          FileExistsError: the file exists.
        """
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as file:
            file.write(self.library.to_str(pretty=True))
        return path

    def _cut(self, given: Any, size: int, add_special: bool) -> Any:
        texts = [given] if isinstance(given, str) else list(given)
        room = size - (self.library.num_special_tokens_to_add(len(texts) == 2) if add_special else 0)
        if room < 0:
            raise ValueError(f"encode: length={size} has no room for the {size - room} special tokens")
        parts = [self.library.encode(text, add_special_tokens=False) for text in texts]
        sizes = [len(part) for part in parts]
        while sum(sizes) > room:
            sizes[sizes.index(max(sizes))] -= 1
        for part, kept in zip(parts, sizes, strict=True):
            part.truncate(kept)
        return self.library.post_process(*parts, add_special_tokens=add_special)

    def _padded(self, found: Sequence[Any], size: int) -> Encoded:
        lengths = np.array([len(one) for one in found], np.int32)
        tokens, types, words = (np.full((len(found), size), fill, np.int32) for fill in (self.pad, 0, -1))
        for row, one in enumerate(found):
            tokens[row, : len(one)] = one.ids
            types[row, : len(one)] = one.type_ids
            number = np.array([-1 if word is None else word for word in one.word_ids], np.int32)
            is_second = np.array([sequence == 1 for sequence in one.sequence_ids], bool) & (number >= 0)
            words[row, : len(one)] = number + is_second * (number[~is_second].max(initial=-1) + 1)
        return Encoded(tokens, np.arange(size) < lengths[:, None], lengths, types, words)


def train_tokeniser(
    texts: Iterable[str],
    kind: str = "byte-bpe",
    *,
    vocab_size: int = 4096,
    special: Sequence[str] = SPECIAL,
    frame: tuple[str, str] | None = None,
    lowercase: bool = False,
    min_count: int = 2,
) -> Tokeniser:
    """A vocabulary learned from texts.

    - "bpe": byte-pair encoding of characters: the commonest pair of neighbours within a word becomes one token, again and again.
    - "byte-bpe": the same on the bytes of UTF-8, as in GPT-2: every text has tokens, and comes back exactly.
    - "wordpiece": as in BERT: greedy longest pieces of words, those inside a word marked `##`; white space is not kept.
    - "unigram": the pieces that make the text likeliest as independent draws, as in SentencePiece. The library adds up in an order that changes from
      call to call: scores differ in the third decimal, and so may ids. Save what was trained; the other kinds are the same every time.

    Args:
      texts: what to learn from; read once.
      vocab_size: the most tokens, special ones included; a small text yields fewer.
      special: tokens of their own, ids 0, 1, ... in this order; `[UNK]` must be among them, but for "byte-bpe", which knows no unknown.
      frame: special tokens before and behind each text; in a pair the one behind separates and ends.
      lowercase: whether case and accents are dropped.
      min_count: a pair seen less often becomes no token (not for "unigram").
    Raises:
      ValueError: no text, an unknown kind, a vocabulary too small for the special tokens and the bytes, a frame that is not special.
      ImportError: the library is not installed.
    Source: Sennrich et al. (2016), Neural machine translation of rare words with subword units; Radford et al. (2019), section 2.2; Schuster and
      Nakajima (2012), Japanese and Korean voice search; Kudo (2018), Subword regularization.

    >>> tokeniser = train_tokeniser(["low low low lower newest newest"], "bpe", vocab_size=30)
    >>> [token for token in tokeniser.vocabulary if token == "▁low"]
    ['▁low']
    """
    library = _import_library()
    check_choice("train_tokeniser", "kind", kind, KINDS)
    needed = len(special) + (256 if kind == "byte-bpe" else 1)
    check_int("train_tokeniser", "vocab_size", vocab_size, minimum=needed)
    check_int("train_tokeniser", "min_count", min_count, minimum=1)
    if kind != "byte-bpe" and UNKNOWN not in special:
        raise ValueError(f"train_tokeniser: special must have {UNKNOWN} for kind {kind!r}, got {tuple(special)}")
    if frame is not None and not set(frame) <= set(special):
        raise ValueError(f"train_tokeniser: frame must be of the special tokens {tuple(special)}, got {frame}")
    tokeniser, trainer = _untrained(library, kind, lowercase)
    texts = list(texts)
    _check_texts("train_tokeniser: texts", texts)
    if not any(map(str.strip, texts)):
        raise ValueError("train_tokeniser: texts must have at least one word, got none")
    # The trainer numbers the letters inside words as its hash table hands them out, and breaks ties by number: listed, they keep an order.
    inside = _letters_inside_words(tokeniser, texts) if kind == "wordpiece" else []
    options = {"vocab_size": vocab_size, "special_tokens": [*special, *inside], "show_progress": False}
    tokeniser.train_from_iterator(
        texts, trainer(unk_token=UNKNOWN, **options) if kind == "unigram" else trainer(min_frequency=min_count, **options), length=len(texts)
    )
    if inside:
        vocabulary = tokeniser.get_vocab(with_added_tokens=True)
        tokeniser, _ = _untrained(library, kind, lowercase)
        tokeniser.model = library.models.WordPiece(vocabulary, unk_token=UNKNOWN)
        tokeniser.add_special_tokens(list(special))
    if frame is not None:
        before, behind = frame
        ids = [(name, tokeniser.token_to_id(name)) for name in dict.fromkeys(frame)]
        tokeniser.post_processor = library.processors.TemplateProcessing(
            single=f"{before} $A {behind}", pair=f"{before} $A {behind} $B:1 {behind}:1", special_tokens=ids
        )
    return Tokeniser(tokeniser)


def load_tokeniser(path: Path | str) -> Tokeniser:
    """A tokeniser from a `tokenizer.json`, as the libraries of Hugging Face write it. It is data: nothing in it is run.

    Padding and truncation that the file asks for are left to `encode`.

    Raises:
      FileNotFoundError: there is no such file. ValueError: it is longer than 100 MB, or no tokeniser. ImportError: the library is not installed.

    >>> load_tokeniser("nowhere.json")
    Traceback (most recent call last):
    FileNotFoundError: load_tokeniser: there is no file nowhere.json
    """
    library = _import_library()
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"load_tokeniser: there is no file {path}")
    if path.stat().st_size > _LARGEST_FILE:
        raise ValueError(f"load_tokeniser: {path} has {path.stat().st_size} bytes; at most {_LARGEST_FILE} are read")
    try:
        return Tokeniser(library.Tokenizer.from_str(path.read_text(encoding="utf-8")))
    except Exception as error:  # the library raises plain Exceptions
        raise ValueError(f"load_tokeniser: {path} is no tokenizer.json that the library reads ({str(error)[:200]})") from None


def _untrained(library: Any, kind: str, lowercase: bool) -> tuple[Any, Any]:
    """The rules of one kind without a vocabulary, and the trainer that takes the options common to all."""
    models, normalizers, pre_tokenizers, decoders, trainers = (
        getattr(library, name) for name in ("models", "normalizers", "pre_tokenizers", "decoders", "trainers")
    )
    plain = [normalizers.NFD(), normalizers.Lowercase(), normalizers.StripAccents()] if lowercase else []
    if kind == "wordpiece":
        tokeniser, trainer = library.Tokenizer(models.WordPiece(unk_token=UNKNOWN)), trainers.WordPieceTrainer
        plain = [normalizers.BertNormalizer(lowercase=lowercase, strip_accents=lowercase)]
        tokeniser.pre_tokenizer, tokeniser.decoder = pre_tokenizers.BertPreTokenizer(), decoders.WordPiece()
    elif kind == "byte-bpe":
        tokeniser, trainer = library.Tokenizer(models.BPE()), partial(trainers.BpeTrainer, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
        tokeniser.pre_tokenizer, tokeniser.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    else:
        is_bpe = kind == "bpe"
        tokeniser = library.Tokenizer(models.BPE(unk_token=UNKNOWN) if is_bpe else models.Unigram())
        trainer = trainers.BpeTrainer if is_bpe else trainers.UnigramTrainer
        # A space before the first word as before every other; in decoding that one, and no other, goes.
        plain = [*plain, normalizers.Prepend(" ")]
        tokeniser.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split("\n", "isolated"), pre_tokenizers.Metaspace(prepend_scheme="never")])
        tokeniser.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    if plain:
        tokeniser.normalizer = normalizers.Sequence(plain)
    return tokeniser, trainer


def _letters_inside_words(tokeniser: Any, texts: Sequence[str]) -> list[str]:
    words = {word for text in texts for word, _ in tokeniser.pre_tokenizer.pre_tokenize_str(tokeniser.normalizer.normalize_str(text))}
    return [f"##{letter}" for letter in sorted({letter for word in words for letter in word[1:]})]


def _check_texts(who: str, texts: Sequence[str]) -> None:
    for row, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(f"{who} must be strings, got {text!r} at {row}")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"{who} must be text that UTF-8 can spell, got a lone surrogate {text[error.start]!r} in text {row}") from None


def _import_library() -> Any:
    try:
        import tokenizers
        import tokenizers.trainers
    except ImportError:
        raise ImportError("tokenisers need the library tokenizers: pip install 'dljax[text]'") from None
    return tokenizers
