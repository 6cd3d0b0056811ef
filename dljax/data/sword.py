"""Bibles in the format of the SWORD library, read by pysword: clean verses with their references, and two translations side by side."""

import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

NUM_VERSES = 31_102


def parse_sword(files: Mapping[str, bytes]) -> dict[str, Any]:
    """A module of 66 books in King James's division, as clean text without Strong's numbers, headings, notes and pilcrows.

    Args:
      files: the module's six, `ot.bzs`, `ot.bzv`, `ot.bzz` and the same of `nt`: blocks, verses and text, a book a zlib block.
    Returns:
      `verses`, a list of 31,102 strings, white space single, "" where the translation has no verse of that number; `reference` int32 [31102, 3],
      book in 1 ... 66, chapter and verse from 1; `books`, the 66 names ("Gen", "Exod", ...); `text`, the verses that are not empty, a line each.
    Raises:
      ModuleNotFoundError: pysword is not installed.
      ValueError: blocks or verses that cannot be read.
    """
    try:
        from pysword.bible import ZTextModule
    except ModuleNotFoundError:
        raise ModuleNotFoundError("parse_sword: the bibles are read by pysword, which is not installed; `pip install 'dljax[text]'`") from None

    class Module(ZTextModule):
        """One that keeps the block it has unpacked: pysword unpacks a book for each of its verses."""

        kept: tuple[Any, bytes] = (None, b"")

        def _decompressed_text(self, testament: str, buf_num: int) -> bytes:
            if self.kept[0] != (testament, buf_num):
                self.kept = (testament, buf_num), super()._decompressed_text(testament, buf_num)
            return self.kept[1]

    with tempfile.TemporaryDirectory() as folder:
        # What was verified is what is read: the files are not opened again where they were found.
        for name, data in files.items():
            Path(folder, name).write_bytes(data)
        module = Module(folder, encoding="utf-8")
        structure = module.get_structure().get_books()
        books = [book for testament in ("ot", "nt") for book in structure.get(testament, ())]
        verses = [clean_verse(raw) for book in books for raw in module.get_iter(books=[book.name], clean=False)]
        del module  # it holds the files open
    lengths = [length for book in books for length in book.chapter_lengths]
    chapters = [(book, chapter) for book, one in enumerate(books, 1) for chapter in range(1, one.num_chapters + 1)]
    reference = np.array([(*chapter, verse) for chapter, length in zip(chapters, lengths, strict=True) for verse in range(1, length + 1)], np.int32)
    num_empty = sum(not verse for verse in verses)
    if len(verses) != NUM_VERSES or num_empty > 100:
        raise ValueError(f"parse_sword: {NUM_VERSES} verses are expected, got {len(verses)}, {num_empty} of them empty; the module is damaged")
    return {"verses": verses, "reference": reference, "books": [book.osis_name for book in books], "text": "\n".join(filter(None, verses))}


def clean_verse(raw: str) -> str:
    """A verse without its OSIS markup: notes and headings go, all other elements leave their text.

    >>> clean_verse('¶ <title>A song</title> And <w lemma="strong:H0430">God</w> <w lemma="strong:H7200">saw</w><note>or, beheld</note>. ')
    'And God saw.'
    """
    text = re.sub(r"<(note|title)\b.*?</\1>", "", raw)
    # Words that the translators added have lost the spaces around them in places; a pronoun at the end of a Spanish verb has none.
    text = _BEFORE_ADDED.sub(r" <\1", text)
    text = _AFTER_ADDED.sub(" ", text)
    text = re.sub(r"<[^>]*>|\\\+?nd\b\*?|¶", "", text)
    return " ".join(text.split())


def parallel_verses() -> dict[str, Any]:
    """The verses that the King James bible (`bible-kjv`) and the Reina-Valera (`bible-es`) divide alike, side by side.

    In a few chapters the Spanish numbers run ahead or behind; there a table sets them right. Verses that one of the two joins or divides are
    left out, 43 of 31,102.

    Returns:
      `english` and `spanish`, lists of N strings; `reference` int32 [N, 3], book, chapter and verse in the King James bible, ascending.
    Raises:
      FileNotFoundError, ValueError: as `load`.

    Source: the table was made by comparing the Strong's numbers of each verse with those of its neighbours in the other language.
    """
    from dljax.data.catalogue import load

    english, spanish = load("bible-kjv"), load("bible-es")
    place = {tuple(row): index for index, row in enumerate(spanish["reference"].tolist())}
    target = np.array([index if verse else -1 for index, verse in enumerate(spanish["verses"])])
    for book, chapter, first, last, shift in _DIVISION:
        for verse in range(first, last + 1):
            index = place[book, chapter, verse]
            target[index] = -1 if shift is None else index + shift
    pairs = sorted((index, source) for source, index in enumerate(target.tolist()) if index >= 0)
    return {
        "english": [english["verses"][index] for index, _ in pairs],
        "spanish": [spanish["verses"][source] for _, source in pairs],
        "reference": english["reference"][[index for index, _ in pairs]],
    }


_PRONOUN = r"(?:l[aeo]s?|[mst]e|nos|os)</transChange>(?!<w|\w)"
# Looking back only from a "<" that was found: from every letter it would take ten times as long.
_BEFORE_ADDED = re.compile(rf"<(?<=\w<)((?:/\w+><)*transChange[^>]*>)(?!{_PRONOUN})(?=<w|\w)")
_AFTER_ADDED = re.compile(r"</transChange>(?=<w|\w)")

# Book, chapter, first and last verse of the Reina-Valera, and how far behind they stand in the King James bible; None where one joins or divides
# what the other does not.
_DIVISION = (
    (4, 13, 1, 32, -1), (4, 13, 33, 33, None), (4, 30, 1, 15, -1), (4, 30, 16, 16, None), (7, 14, 18, 20, None), (9, 24, 1, 20, -1),
    (9, 24, 21, 22, None), (10, 20, 25, 25, None), (11, 22, 43, 44, None), (11, 22, 45, 52, -1), (11, 22, 53, 53, None), (13, 1, 30, 32, None),
    (13, 21, 15, 16, None), (13, 21, 17, 29, -1), (13, 21, 30, 30, None), (14, 33, 10, 10, None), (14, 33, 11, 24, 1), (18, 35, 15, 15, None),
    (18, 39, 1, 29, -3), (18, 39, 30, 30, None), (18, 40, 1, 18, 5), (18, 40, 19, 19, None), (28, 12, 1, 13, -1), (28, 12, 14, 14, None),
    (32, 2, 1, 9, -1), (32, 2, 10, 10, None), (44, 19, 40, 40, None), (47, 13, 12, 12, None), (47, 13, 13, 13, 1),
)  # fmt: skip
