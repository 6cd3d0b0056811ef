"""The bibles: what is known of their text, clean of all markup, and two languages side by side by the Strong's numbers that both carry."""

import re
from collections import Counter

import numpy as np
import pytest

from dljax import data
from dljax.data import fetch, sword

MISSING = [name for name in ("bible-kjv", "bible-es") if data.info(name).missing]
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"{MISSING} are not on this machine: install sword-text-kjv and sword-text-sparv")


@pytest.fixture(scope="module")
def bibles():
    pytest.importorskip("pysword")
    return {name: data.load(name) for name in ("bible-kjv", "bible-es")}


@pytest.fixture(scope="module")
def parallel(bibles):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dljax.data.catalogue.load", bibles.get)
        return data.parallel_verses()


def verse(bible, book, chapter, number):
    return bible["verses"][bible["reference"].tolist().index([book, chapter, number])]


def test_king_james_has_31102_verses_whose_text_is_known(bibles):
    kjv = bibles["bible-kjv"]
    assert len(kjv["verses"]) == 31_102 == sword.NUM_VERSES
    assert all(kjv["verses"])
    assert (len(kjv["books"]), kjv["books"][0], kjv["books"][-1]) == (66, "Gen", "Rev")
    assert kjv["reference"].dtype == np.int32
    assert len(np.unique(kjv["reference"][:, :2], axis=0)) == 1189
    assert verse(kjv, 1, 1, 1) == "In the beginning God created the heaven and the earth."
    assert verse(kjv, 19, 3, 1) == "LORD, how are they increased that trouble me! many are they that rise up against me."  # without the psalm's title
    assert verse(kjv, 43, 11, 35) == "Jesus wept."
    assert verse(kjv, 66, 22, 21) == "The grace of our Lord Jesus Christ be with you all. Amen."
    assert kjv["text"].split("\n") == kjv["verses"]


def test_reina_valera_has_31084_verses_whose_text_is_known(bibles):
    spanish = bibles["bible-es"]
    assert sum(map(bool, spanish["verses"])) == 31_084
    np.testing.assert_array_equal(spanish["reference"], bibles["bible-kjv"]["reference"])
    assert verse(spanish, 1, 1, 1) == "EN el principio crió Dios los cielos y la tierra."
    assert verse(spanish, 43, 11, 35) == "Y lloró Jesús."
    assert verse(spanish, 45, 1, 1) == "PABLO, siervo de Jesucristo, llamado á ser apóstol, apartado para el evangelio de Dios,"
    assert "plantóla" in verse(spanish, 1, 31, 25)


@pytest.mark.parametrize("name", ["bible-kjv", "bible-es"])
def test_nothing_of_the_markup_is_left(bibles, name):
    text = bibles[name]["text"]
    assert not re.search(r"[<>\\¶\d*+]|  ", text)
    # No two words in one: a small letter before a capital one.
    assert not re.findall(r"[a-zñáéíóú][A-Z]|[,.;:?!][A-Za-z]", text)


def test_verses_side_by_side_carry_the_same_strongs_numbers(parallel):
    """The oracle is no text of ours: the publishers numbered the Hebrew and Greek words of both translations."""
    from pysword.bible import SwordBible

    numbers = {}
    for name in ("bible-kjv", "bible-es"):
        module = SwordBible(str(next(iter(data.where(name).values())).parent), "ztext", "kjv", "utf-8", "OSIS", "BOOK", "ZIP")
        books = module.get_structure().get_books()
        for book in (1, 4, 18, 32, 47):  # where verses are divided alike, and where they are not
            title = [one.name for part in ("ot", "nt") for one in books[part]][book - 1]
            for chapter in {1: (1,), 4: (12, 13, 14), 18: (38, 39, 40), 32: (1, 2), 47: (13,)}[book]:
                for number, raw in enumerate(module.get_iter(books=[title], chapters=[chapter], clean=False), 1):
                    numbers[sword.clean_verse(raw), name] = Counter(re.findall(r"[HG]\d{4}", raw.split("<note")[0])), (book, chapter, number)
    similarities = []
    for english, spanish, reference in zip(parallel["english"], parallel["spanish"], parallel["reference"].tolist(), strict=True):
        if (english, "bible-kjv") not in numbers or (spanish, "bible-es") not in numbers:
            continue
        (a, place), (b, _) = numbers[english, "bible-kjv"], numbers[spanish, "bible-es"]
        if list(place) == reference:  # not another verse with the same words
            similarities.append((a & b).total() / max((a | b).total(), 1))
    assert len(similarities) > 180
    assert np.mean(similarities) > 0.7
    assert np.mean(np.array(similarities) < 0.1) < 0.03


def test_parallel_verses_are_all_but_43(parallel):
    num = len(parallel["reference"])
    assert (len(parallel["english"]), len(parallel["spanish"]), num) == (31_059, 31_059, 31_059)
    assert all(parallel["english"])
    assert all(parallel["spanish"])
    order = parallel["reference"] @ [1_000_000, 1_000, 1]
    assert (np.diff(order) > 0).all()
    pairs = dict(zip(map(tuple, parallel["reference"].tolist()), zip(parallel["english"], parallel["spanish"], strict=True), strict=True))
    english, spanish = pairs[18, 38, 39]  # Job 39:1 in Spanish
    assert english.startswith("Wilt thou hunt the prey for the lion?")
    assert spanish.startswith("¿CAZARÁS tú la presa para el león?")


def test_a_damaged_module_is_refused_before_it_is_read(bibles, tmp_path, monkeypatch):
    entry = data.CATALOGUE["bible-kjv"]
    files = {file.name: fetch.read(entry, file) for file in entry.files}
    with pytest.raises(ValueError, match=r"parse_sword: 31102 verses are expected, got \d+, \d+ of them empty; the module is damaged"):
        sword.parse_sword(files | {"ot.bzz": bytes(len(files["ot.bzz"]))})
    folder = tmp_path / "bible-kjv"
    folder.mkdir()
    (folder / "ot.bzs").write_bytes(bytes(480))
    monkeypatch.setenv("DLJAX_DATA", str(tmp_path))
    with pytest.raises(ValueError, match="bible-kjv: .*ot.bzs has the wrong checksum"):
        data.load("bible-kjv")


def test_without_pysword_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pysword.bible", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'dljax\[text\]'"):
        sword.parse_sword({})
