"""g2p-en's GRU in our hands says what it says in its library."""

import importlib.util
import sys
import types

import pytest

from dljax.models.g2p import GRAPHEMES, PHONEMES, g2p_en, pronounce

pytestmark = pytest.mark.skipif(importlib.util.find_spec("g2p_en") is None, reason="g2p-en is not installed")

WORDS = """a i ox be the zephyr quixotic rhythm knight psalm colonel yacht hello world neural network gradient descent attention encoder decoder
recurrent transformer backpropagation convolution learning machine shakespeare fashion jax flax optax tensor matrix vector scalar logarithm softmax
strengths queue bureau chrysanthemum onomatopoeia antidisestablishmentarianism pneumonia worcestershire leicester edinburgh arkansas illinois zzzz qqq
don't mother-in-law naïve xylophone activationist covfefe brexit wug blick bnick sphinx twelfths squirrel"""


@pytest.fixture
def library(monkeypatch):
    """The package, without nltk and its data, nor what spells numbers: its network uses neither."""

    class Anything(types.ModuleType):
        __path__ = ()

        def __getattr__(self, name):
            return lambda *args, **options: Anything(name)

    nltk = Anything("nltk")
    nltk.data = types.SimpleNamespace(find=lambda name: None)
    corpus = types.ModuleType("nltk.corpus")
    corpus.cmudict = types.SimpleNamespace(dict=dict)
    for name, module in {"nltk": nltk, "nltk.corpus": corpus, "nltk.tokenize": Anything("tokenize"), "inflect": Anything("inflect")}.items():
        monkeypatch.setitem(sys.modules, name, module)
    for name in [name for name in sys.modules if name.partition(".")[0] == "g2p_en"]:
        monkeypatch.delitem(sys.modules, name)
    from g2p_en.g2p import G2p

    yield G2p()
    for name in [name for name in sys.modules if name.partition(".")[0] == "g2p_en"]:
        del sys.modules[name]


def test_6_2_the_imported_gru_says_what_its_library_says(library):
    words = WORDS.split()
    assert len(words) >= 60
    assert list(GRAPHEMES) == library.graphemes
    assert list(PHONEMES) == library.phonemes
    assert pronounce(*g2p_en(), words) == [library.predict(word) for word in words]


def test_another_file_and_no_words_are_refused(tmp_path):
    other = tmp_path / "checkpoint20.npz"
    other.write_bytes(b"PK")
    with pytest.raises(ValueError, match="must be the checkpoint of g2p-en 2.1.0, 3342298 bytes with SHA-256 b8af.*, got 2 bytes"):
        g2p_en(other)
    other.write_bytes(bytes(3342298))
    with pytest.raises(ValueError, match="got SHA-256"):
        g2p_en(other)
    with pytest.raises(ValueError, match="at least one word"):
        pronounce(*g2p_en(), [])
