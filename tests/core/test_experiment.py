"""Experiments, targets and the registry of recipes."""

import math

import jax.numpy as jnp
import pytest

from dljax.core import RECIPES, AtLeast, AtMost, Experiment, Fold, HostSource, Learner, Mean, Source, recipe

LEARNER = Learner(lambda key, batch: (), lambda key, state, batch: (state, {}))


@pytest.fixture
def registered():
    before = dict(RECIPES)
    yield RECIPES
    RECIPES.clear()
    RECIPES.update(before)


def test_recipe_is_found_by_name_and_its_function_stays_what_it_is(registered):
    @recipe("test/tiny", chapter=3, target=AtLeast("accuracy", 0.9, "a book"), minutes=0.5, rows=("3.1",), seeds=2, data="digits")
    def tiny(width: int = 8, learning_rate: float = 0.1) -> Experiment:
        return Experiment(LEARNER, steps=width)

    found = registered["test/tiny"]
    assert tiny(width=5).steps == 5
    assert found.build is tiny
    assert found.options == {"width": 8, "learning_rate": 0.1}
    assert (found.chapter, found.rows, found.seeds, found.data, found.minutes) == (3, ("3.1",), 2, "digits", 0.5)
    assert found.target == AtLeast("accuracy", 0.9, "a book")


def test_name_that_is_taken_is_refused(registered):
    decorate = recipe("test/twice", chapter=0, target=AtMost("loss", 1), minutes=0)
    decorate(lambda: None)
    with pytest.raises(ValueError, match="recipe: 'test/twice' is taken by test_experiment; choose another name"):
        decorate(lambda: None)


def test_option_without_a_default_is_refused_and_nothing_registered(registered):
    with pytest.raises(ValueError, match="recipe: 'test/bare': option 'width' needs a default"):
        recipe("test/bare", chapter=0, target=AtMost("loss", 1), minutes=0)(lambda width: None)
    assert "test/bare" not in registered


@pytest.mark.parametrize(
    ("target", "value", "holds"),
    [
        (AtLeast("a", 0.9), 0.9, True),
        (AtLeast("a", 0.9), 0.899, False),
        (AtLeast("a", 0.9), math.nan, False),
        (AtMost("a", 0.9), 0.9, True),
        (AtMost("a", 0.9), 0.901, False),
        (AtMost("a", 0.9), math.nan, False),
    ],
)
def test_target_holds_at_its_bound_and_never_for_nan(target, value, holds):
    assert target.holds(value) is holds


@pytest.mark.parametrize(("steps", "error"), [(0, ValueError), (1.5, TypeError)])
def test_experiment_without_a_whole_number_of_steps_is_refused(steps, error):
    with pytest.raises(error, match="Experiment: steps must be"):
        Experiment(LEARNER, steps=steps)


def test_parts_of_the_contract_know_each_other():
    class Lines:
        def take(self, num): ...
        def state(self): ...
        def restore(self, state): ...

    assert isinstance(Lines(), HostSource)
    assert not isinstance(object(), HostSource)
    assert isinstance(Experiment(LEARNER).source, Source)
    assert Learner(lambda key, batch: {"params": 1}, None).params({"params": 2}) == 2
    assert math.isnan(Mean(jnp.float32(0), jnp.float32(0)).value)
    assert Fold(None, None, len).finish([1, 2]) == 2
