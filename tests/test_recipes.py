"""A recipe names a run: every setting changes its hash, the place of its files does not."""

import hashlib
import json
import shutil
from dataclasses import asdict, fields, replace

import pytest
import torch

from mtg_lab import recipes
from mtg_lab.backbones import BACKBONES
from mtg_lab.data import Preprocessing, Sampling
from mtg_lab.errors import InputError
from mtg_lab.methods import METHODS
from mtg_lab.recipes import PRESETS, Recipe, nobody, override, preset, suite

CHANGES = {
    "limit": (2, 1, 1),
    "missing": {"rule": "uniform"},
    "backbone_options": {"width": 5},
    "method": "complete",
    "preprocessing": Preprocessing(3.0),
    "sampling": Sampling(24, foreground=0.5),
    "steps": 5,
    "batch": 3,
    "learning_rate": 1e-3,
    "weight_decay": 1e-3,
    "warmup": 0.1,
    "averaging": 0.1,
    "precision": "bf16",
    "seed": 1,
}


# --- the hash ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CHANGES)
def test_the_hash_changes_with_each_setting(tiny_recipe, name):
    assert tiny_recipe(**{name: CHANGES[name]}).digest() != tiny_recipe().digest()


def test_no_setting_is_forgotten_by_the_test_above():
    apart = {
        "manifest",
        "backbone",
        "method_options",
        "teacher",
        "start",
        "start_weights",
    }  # the last two: tests/test_runs.py
    assert set(CHANGES) | apart == {f.name for f in fields(Recipe)}


def test_the_hash_changes_with_the_options_of_a_method_and_with_the_teacher(tiny_recipe):
    weights = [tiny_recipe(method="aligned_teacher", method_options={"align_weight": w}).digest() for w in (0, 0.1, 1)]
    assert len(set(weights)) == 3
    teachers = [tiny_recipe(method="complete", seed=s) for s in (0, 1)]
    assert len({tiny_recipe(method="student", teacher=t).digest() for t in teachers}) == 2


def test_the_hash_does_not_change_with_the_place_of_the_files(tiny_recipe, cohort, tmp_path):
    moved = tmp_path / "elsewhere"
    shutil.copytree(cohort.parent, moved)
    assert tiny_recipe(manifest=moved / cohort.name).digest() == tiny_recipe().digest()


def test_the_hash_changes_with_the_cohort(tiny_recipe, cohort, tmp_path):
    moved = tmp_path / "elsewhere"
    shutil.copytree(cohort.parent, moved)
    lines = (moved / cohort.name).read_text().splitlines()
    (moved / cohort.name).write_text("\n".join(lines[:-1]) + "\n")
    assert tiny_recipe(manifest=moved / cohort.name).digest() != tiny_recipe().digest()


def test_the_same_recipe_in_other_words_has_the_same_hash(tiny_recipe):
    plain = tiny_recipe(method="aligned_teacher", method_options={"align_weight": 1.0})
    wordy = tiny_recipe(method="aligned_teacher", method_options={"dropout": False, "align_weight": 1})
    assert wordy.digest() == plain.digest()
    assert override(plain, {"preprocessing.spacing_mm": 4}).digest() == plain.digest()
    assert len(plain.digest()) == 12


def test_recipes_of_one_cohort_are_named_by_reading_it_once(tiny_recipe, monkeypatch):
    """And have the names that they have alone, also where files are taken away or subjects left out."""
    named = [tiny_recipe(seed=s, **{n: CHANGES[n] for n in chosen}) for s in (0, 1) for chosen in
             ((), ("limit",), ("missing",), ("limit", "missing"))]  # fmt: skip
    named += [tiny_recipe(method="student", teacher=named[0])]
    alone = [recipe.digest() for recipe in named]
    read, opened = recipes.read_manifest, []
    monkeypatch.setattr(recipes, "read_manifest", lambda path: opened.append(path) or read(path))
    cohorts = {}
    assert [recipe.digest(cohorts) for recipe in named] == alone
    assert len(opened) == len(cohorts) == 4


# --- who lacks what ---------------------------------------------------------------------------------------------------

SITES = {"rule": "site", "sites": {"B": "-t1c", "C": "t1n+t2w"}}


def test_a_recipe_keeps_the_name_it_had_before_it_could_name_missing_files_or_randomise(tiny_recipe):
    """The digest as it was computed when no recipe could say either."""
    recipe = tiny_recipe()
    settings = {f.name: getattr(recipe, f.name) for f in fields(Recipe)}
    for name in ("manifest", "missing", "start", "start_weights"):
        del settings[name]
    settings |= {"preprocessing": asdict(recipe.preprocessing), "sampling": asdict(recipe.sampling), "version": 5}
    del settings["sampling"]["randomise"]
    settings |= {"cohort": recipe.cohort().fingerprint(), "teacher": None}
    text = json.dumps(recipes._canonical(settings), sort_keys=True)
    assert recipe.digest() == hashlib.sha256(text.encode()).hexdigest()[:12]
    assert tiny_recipe(missing={"rule": "complete", "seed": 3}) == recipe


def test_the_training_split_lacks_what_the_rule_takes_and_the_others_do_not(tiny_recipe):
    before, after = tiny_recipe().cohort(), tiny_recipe(missing=SITES).cohort()
    for old, new in zip(before, after, strict=True):
        lost = set(old.images) - set(new.images)
        assert lost == ({"B": {"t1c"}, "C": {"t1c", "t2f"}}.get(old.site, set()) if old.split == "train" else set())


def test_rules_in_other_words_are_one_recipe_and_seeds_are_not(tiny_recipe):
    words = {"rule": "site", "sites": {"C": ["t2", "t1"], "B": "-t1ce"}, "seed": 1037}
    assert tiny_recipe(missing=words).digest() == tiny_recipe(missing=SITES).digest()
    seeds = [tiny_recipe(missing={"rule": "uniform", "seed": s}).digest() for s in (1, 2)]
    assert len(set(seeds)) == 2


def test_a_rule_is_set_by_dotted_names_all_at_once(tiny_recipe):
    rates = {"missing.rates": "t1c=.5,t2f=.25", "missing.rule": "independent", "missing.seed": 3}
    recipe = override(tiny_recipe(missing=SITES), rates)
    assert recipe.missing == {"rule": "independent", "seed": 3, "rates": {"t1c": 0.5, "t2f": 0.25}}
    assert override(recipe, {"missing.seed": 4}).missing == recipe.missing | {"seed": 4}
    with pytest.raises(InputError, match="rule site takes no option 'rates'"):
        override(tiny_recipe(missing=SITES), {"missing.rates": {"t1c": 0.5}})
    with pytest.raises(InputError, match="it needs a rule"):
        override(tiny_recipe(), {"missing.seed": 3})


def test_a_teacher_decides_for_itself(tiny_recipe):
    teacher = tiny_recipe(method="complete")
    student = tiny_recipe(method="student", teacher=teacher, missing=SITES)
    assert student.teacher.missing == {}
    assert all(len(s.images) == 4 for s in student.teacher.cohort())
    assert student.digest() != tiny_recipe(method="student", teacher=teacher).digest()


# --- to a file and back -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_a_recipe_comes_back_from_json_with_its_teachers(tiny_recipe, method):
    teacher = tiny_recipe(method="aligned_teacher", method_options={"align_weight": 0.3})
    extra = {"teacher": teacher} if METHODS[method].needs_teacher else {}
    recipe = tiny_recipe(method=method, limit=(3, 1, 1), missing=SITES, **extra)
    back = Recipe.from_json(json.loads(json.dumps(recipe.to_json())))
    assert back == recipe
    assert back.digest() == recipe.digest()


@pytest.mark.parametrize(
    "damage",
    [
        {"preprocessing": None},
        {"preprocessing": {"spacing_cm": 1}},
        {"limit": 3},
        {"steps": "many"},
        {"method_options": 3},
        {"teacher": {"method": "complete"}},
    ],
)
def test_a_damaged_recipe_is_one_line(tiny_recipe, damage):
    with pytest.raises(InputError) as refusal:
        Recipe.from_json({**tiny_recipe().to_json(), **damage})
    assert "\n" not in str(refusal.value)
    assert "train the run again" in str(refusal.value)


# --- what cannot be meant ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"steps": 0}, "steps is 0; it must be at least 1"),
        ({"batch": -1}, "batch is -1"),
        ({"precision": "fp8"}, "it can be auto, fp32 or bf16"),
        ({"method": "magic"}, "unknown method 'magic'"),
        ({"method": "student"}, "needs a teacher"),
        ({"method_options": {"colour": 1}}, "takes no option 'colour'"),
        ({"missing": {"rule": "never"}}, "unknown rule of missingness 'never'"),
        ({"missing": ["t1c"]}, "it needs a rule"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0; it must be above 0"),
        ({"learning_rate": float("nan")}, "learning_rate is nan"),
        ({"warmup": 1.5}, "warmup is 1.5; it must lie between 0 and 1"),
        ({"sampling": Sampling(16, randomise=9)}, "sampling.randomise is 9; it must lie between 0 and 3"),
        ({"averaging": -0.1}, "averaging is -0.1"),
    ],
)
def test_what_cannot_be_meant_is_refused(tiny_recipe, change, told):
    with pytest.raises(InputError, match=told):
        tiny_recipe(**change)


def test_a_teacher_that_nobody_asks_is_refused(tiny_recipe):
    """It would be trained for hours and then ignored."""
    with pytest.raises(InputError, match="method dropout learns from no teacher"):
        tiny_recipe(teacher=tiny_recipe(method="complete"))


# --- changes by name --------------------------------------------------------------------------------------------------


def test_settings_change_by_dotted_names(tiny_recipe):
    changed = override(
        tiny_recipe(method="aligned_teacher"),
        {
            "steps": 200,
            "learning_rate": 1,
            "method.align_weight": 1.0,
            "backbone.fill": "anchor",
            "preprocessing.spacing_mm": 3.0,
            "sampling.augment": False,
        },
    )
    assert changed.steps == 200
    assert changed.learning_rate == 1
    assert changed.method_options["align_weight"] == 1.0
    assert changed.backbone_options == {"width": 4, "latent": 3, "depth": 2, "fill": "anchor"}
    assert asdict(changed.preprocessing) == {"spacing_mm": 3.0, "margin_voxels": 2}
    assert changed.sampling == replace(tiny_recipe().sampling, augment=False)


def test_the_original_is_left_alone(tiny_recipe):
    recipe = tiny_recipe()
    override(recipe, {"steps": 7, "backbone.width": 9})
    assert recipe == tiny_recipe()


@pytest.mark.parametrize("name", ["stepz", "manifest", "teacher", "sampling.colour", "backbones.width", "", "a.b.c"])
def test_an_unknown_setting_is_told_which_there_are(tiny_recipe, name):
    with pytest.raises(InputError, match="no such setting; there are steps, batch, learning_rate"):
        override(tiny_recipe(), {name: 1})


@pytest.mark.parametrize(
    ("name", "value"),
    [("steps", 1.5), ("steps", "many"), ("learning_rate", "high"), ("sampling.augment", 3), ("precision", 16),
     ("seed", True)],
)  # fmt: skip
def test_a_value_of_another_type_is_refused(tiny_recipe, name, value):
    with pytest.raises(InputError, match=f"--set {name}: {value!r} is no "):
        override(tiny_recipe(), {name: value})


# --- presets and the suite --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("method", [n for n, m in METHODS.items() if not m.needs_teacher])
def test_presets_are_recipes_of_growing_size(cohort, name, method):
    recipe = preset(name, method, cohort, seed=3, batch=4)
    assert (recipe.manifest, recipe.method, recipe.seed, recipe.batch) == (str(cohort), method, 3, 4)
    spacings = {"smoke": 5.0, "lab": 2.0, "paper": 1.0}  # one proves, one is for a laptop, one is published
    assert recipe.preprocessing.spacing_mm == spacings[name]
    recipe.build_backbone(("t1n", "t2f"), recipe.cohort().schema)


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_preset_knows_a_size_of_every_backbone(cohort, name, backbone):
    recipe = preset(name, "dropout", cohort, backbone=backbone)
    assert recipe.backbone == backbone
    with torch.device("meta"):
        recipe.build_backbone(("t1n", "t2f"), recipe.cohort().schema)
    chosen = preset(name, "dropout", cohort, backbone=backbone, backbone_options={})
    assert chosen.backbone_options == {}


def test_presets_grow():
    assert [p.steps for p in map(preset, PRESETS)] == sorted(p.steps for p in map(preset, PRESETS))


def test_an_unknown_preset_is_told_which_there_are():
    with pytest.raises(InputError, match="unknown preset 'tiny'; there are: smoke, lab, paper"):
        preset("tiny")


def test_the_suite_shares_its_teachers(cohort):
    runs = suite("smoke", str(cohort), seed=2, align_weight=0.5)
    assert list(runs) == ["complete", "aligned", "dropout", "student", "aligned_student", "specialist"]
    assert runs["student"].teacher == runs["complete"]
    assert runs["aligned_student"].teacher == runs["specialist"].teacher == runs["aligned"]
    assert runs["aligned"].method_options["align_weight"] == 0.5
    assert runs["specialist"].method_options["subset"] == "t1n+t2w"
    assert {r.seed for r in runs.values()} == {2}
    assert len({r.digest() for r in runs.values()}) == 6


def test_nobody_is_the_presets_generalist_on_plain_and_varied_phantoms_for_longer():
    run, usual = nobody("lab", seed=3), preset("lab", "dropout", "mixed", 3)
    assert run == replace(usual, steps=run.steps)
    assert run.steps > usual.steps
    assert nobody("paper", "mine.csv") == preset("paper", "dropout", "mine.csv")
    assert all(s.seed is not None for s in run.cohort()), "no file of a patient"
