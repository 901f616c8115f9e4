"""Several recipes in one table: every one trained once, teachers before students, scored under one protocol."""

import functools
import time

import pandas as pd
import pytest

import mtg_lab.recipes
from mtg_lab import comparison, train
from mtg_lab.comparison import compare, conduct
from mtg_lab.errors import InputError
from mtg_lab.evaluation import evaluate, paired_difference
from mtg_lab.recipes import Recipe
from mtg_lab.training import is_trained

SUBSETS = ["t1c", "t1c+t2f"]


@pytest.fixture
def family(tiny_recipe):
    """A teacher and two kinds of students, by a seed of their own so that no other test has trained them."""

    def make(seed):
        teacher = tiny_recipe(method="complete", seed=seed, steps=2)
        student = functools.partial(tiny_recipe, method="student", seed=seed, steps=2, teacher=teacher)
        return {"teacher": teacher, "soft": student(), "hard": student(method_options={"logit_weight": 0.0})}

    return make


def test_one_tidy_table_with_every_arm_seed_and_run(tiny_recipe):
    recipes = {"a": [tiny_recipe(steps=2, seed=s) for s in (0, 1)], "b": tiny_recipe(steps=2, method="complete")}
    table = compare(recipes, subsets=SUBSETS)
    assert table[["arm", "seed"]].drop_duplicates().values.tolist() == [["a", 0], ["a", 1], ["b", 0]]
    assert len(table) == 3 * 2 * 2 * 3, "runs, test subjects, subsets, regions"
    assert not table.duplicated(["arm", "seed", "subject", "subset", "region"]).any()
    assert set(table["run"]) == {r.digest() for r in (*recipes["a"], recipes["b"])}
    alone = evaluate(train(recipes["b"]), recipes["b"].cohort(), subsets=SUBSETS)
    pd.testing.assert_frame_equal(table[table["arm"] == "b"][alone.columns].reset_index(drop=True), alone)
    seeds = table.attrs["protocol"].pop("seeds")
    assert seeds == {"training": [0, 1], "subsets": 0}
    assert alone.attrs["protocol"].pop("seeds") == {"training": 0, "subsets": 0}
    assert table.attrs["protocol"] == alone.attrs["protocol"]
    sides = [{0: table[(table["arm"] == arm) & (table["seed"] == 0)]} for arm in "ab"]
    assert len(paired_difference(*sides)) > 0, "its parts go into the paired statistics as they are"


def test_a_teacher_is_trained_once_and_before_its_students(family, monkeypatch):
    recipes, trained = family(7001), []
    whole = comparison.train
    monkeypatch.setattr(comparison, "train", lambda r: trained.append((r.method, is_trained(r))) or whole(r))
    compare({k: recipes[k] for k in ("soft", "hard", "teacher")}, subsets=["t1c"])
    assert trained == [("complete", False), ("student", False), ("student", False)]
    assert compare(recipes, subsets=["t1c"])["arm"].unique().tolist() == ["teacher", "soft", "hard"]
    assert all(known for _, known in trained[3:]), "nothing is trained again"


def test_several_processes_find_the_same(family):
    recipes = family(7002)
    del recipes["teacher"]  # trained by the student that comes first
    together = compare(recipes, subsets=SUBSETS, jobs=2)
    pd.testing.assert_frame_equal(together, compare(recipes, subsets=SUBSETS))


def test_two_students_of_one_untrained_teacher_do_not_wait_on_a_lock(family, monkeypatch):
    """The second starts when the first has made their teacher, and other work goes on meanwhile."""
    recipes = family(7003)
    del recipes["teacher"]
    order = []

    class Recorder(comparison._Here):
        def submit(self, fn, /, recipe):
            order.append(recipe)
            return super().submit(fn, recipe)

    monkeypatch.setattr(comparison, "_Here", Recorder)
    ended = list(conduct(recipes, lambda recipe: recipe.method_options["logit_weight"], jobs=1))
    assert [(key, job.result()) for key, job in ended] == [("soft", 0.05), ("hard", 0.0)]
    assert order == [recipes["soft"], recipes["hard"]]


def test_an_error_of_one_does_not_stop_the_others(tiny_recipe):
    def work(recipe):
        if recipe.seed == 0:
            raise InputError("no such thing")
        return recipe.seed

    ended = dict(conduct({s: tiny_recipe(seed=s) for s in (0, 1, 2)}, work))
    assert isinstance(ended[0].exception(), InputError)
    assert [ended[s].result() for s in (1, 2)] == [1, 2]


def test_after_its_minutes_nothing_is_started(tiny_recipe):
    recipes = {s: tiny_recipe(seed=s) for s in range(3)}
    ended = list(conduct(recipes, lambda recipe: time.sleep(0.2), minutes=0.1 / 60))
    assert [key for key, _ in ended] == [0]


def test_nothing_and_twins_are_refused(tiny_recipe):
    with pytest.raises(InputError, match="nothing to compare"):
        compare({})
    with pytest.raises(InputError, match="arm a has two recipes with seed 0"):
        compare({"a": [tiny_recipe(), tiny_recipe(steps=9)]})


def test_what_scoring_refuses_is_told(tiny_recipe):
    with pytest.raises(InputError, match="t9"):
        compare({"a": tiny_recipe(steps=2)}, subsets=["t9"])


def test_each_manifest_is_read_once_however_many_recipes_there_are(tiny_recipe, monkeypatch):
    recipes = {seed: tiny_recipe(seed=seed) for seed in range(20)}
    counted, whole = [], Recipe.digest
    monkeypatch.setattr(Recipe, "digest", lambda r, known=None: counted.append(r.seed) or whole(r, known))
    read, opened = mtg_lab.recipes.read_manifest, []
    monkeypatch.setattr(mtg_lab.recipes, "read_manifest", lambda path: opened.append(path) or read(path))
    assert [key for key, _ in conduct(recipes, lambda r: None)] == list(range(20))
    assert counted == list(range(20)), "asked again for every pair, it held studies back"
    assert len(opened) == 1, "all are of one cohort"
