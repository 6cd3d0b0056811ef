"""The command line called in this process, with tiny recipes, in an empty folder."""

import pytest
import tiny_recipes

from dljax import recipes
from dljax.cli import main


@pytest.fixture(scope="module", autouse=True)
def registered_recipes():
    before = dict(recipes.RECIPES)
    tiny_recipes.register()
    yield
    recipes.RECIPES.clear()
    recipes.RECIPES.update(before)


@pytest.fixture(scope="session")
def session_cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch, session_cache):
    """An empty working folder, and a cache that is not the user's."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DLJAX_CACHE", str(session_cache))
    monkeypatch.delenv("DLJAX_DEBUG", raising=False)
    return tmp_path


@pytest.fixture
def dljax(capsys):
    """Call `dljax` with arguments; what comes back has `status`, `out` and `err`."""

    class Called:
        def __init__(self, *args: str) -> None:
            capsys.readouterr()
            self.status = main([str(arg) for arg in args])
            self.out, self.err = capsys.readouterr()

    return Called
