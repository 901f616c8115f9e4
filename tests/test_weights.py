"""The networks that come with the package: those of the lab preset, small, found by their recipes, described."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import mtg_lab
from mtg_lab import training
from mtg_lab.errors import InputError
from mtg_lab.recipes import Recipe, nobody, suite
from mtg_lab.runs import boxed_runs, load_run

HOME = Path(mtg_lab.__file__).parent / "weights"
ARMS = {"teacher": "complete", "aligned_teacher": "aligned", "student": "aligned_student"}
NAMES = (*ARMS, "nobody")


def recipe_of(name: str, seed: int = 0) -> Recipe:
    return nobody(seed=seed) if name == "nobody" else suite("lab", seed=seed)[ARMS[name]]


def test_they_are_the_runs_that_the_notebooks_ask_for():
    """If this fails, a setting of the lab preset has changed: run benchmarks/weights_in_the_box.py and nobody_...py."""
    assert set(boxed_runs()) == set(NAMES)
    assert {name: load_run(name).digest for name in NAMES} == {name: recipe_of(name).digest() for name in NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_training_such_a_recipe_takes_no_time(name, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "_Training", None)
    monkeypatch.setenv("MTG_LAB_CACHE", str(tmp_path))
    recipe = recipe_of(name)
    assert training.is_trained(recipe)
    run = training.train(recipe)
    assert run.folder == HOME / name
    assert len(run.history) == recipe.steps
    assert run.environment["seconds"] > 0
    with pytest.raises(TypeError):  # another seed is another recipe, and would be trained
        training.train(suite("lab", seed=1)[ARMS["teacher"]])


@pytest.mark.parametrize("name", NAMES)
def test_half_precision_on_disk_is_float32_in_use(name):
    network = load_run(name).backbone()
    assert all(p.dtype == torch.float32 and bool(p.isfinite().all()) for p in network.parameters())
    image = torch.randn(1, 4, 16, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        logits = network(image, torch.tensor([[True, False, False, True]])).logits
    assert bool(logits.isfinite().all())
    assert float(logits.std()) > 0.1


def test_those_of_the_suite_stay_below_three_megabytes_and_each_below_one():
    sizes = {name: sum(path.stat().st_size for path in (HOME / name).iterdir()) for name in NAMES}
    assert sum(sizes[name] for name in ARMS) < 3e6
    assert max(sizes.values()) < 1e6


def test_the_cards_name_every_network_with_its_recipe_and_no_machine():
    card, own = (HOME / "README.md").read_text(), (HOME / "nobody" / "README.md").read_text()
    for name in ARMS:
        assert f"| `{name}` |" in card
        assert load_run(name).digest in card
    assert load_run("nobody").digest in own
    assert f"--set steps={nobody().steps} " in own
    for word in ("Data", "Training", "Scores", "Limits", "Protocol"):
        assert word in card
        assert word in own
    assert "No medical device" in own
    for path in HOME.rglob("*.json"):
        assert not {"platform", "device_name"} & set(json.loads(path.read_text()))


def test_a_folder_goes_before_a_name_and_no_name_is_told_what_there_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_run("student").folder == HOME / "student"
    (tmp_path / "student").mkdir()
    with pytest.raises(InputError, match="holds no run"):
        load_run("student")
    with pytest.raises(
        InputError, match=r"does not exist.*or take one that comes with mtg_lab: aligned_teacher, nobody, student"
    ):
        load_run("pupil")


@pytest.mark.parametrize("name", ["student", "nobody"])
def test_out_of_the_box_a_patient_is_segmented(name, cohort):
    """A phantom that neither has seen, at another resolution: the whole tumour is found from t2f and t1c."""
    from mtg_lab.manifest import read_manifest
    from mtg_lab.patients import predict

    scores = []
    for subject in read_manifest(cohort).split("test"):
        import nibabel as nib

        mask = predict(load_run(name), t1c=subject.images["t1c"], t2f=subject.images["t2f"])
        found, truth = (np.asarray(x.dataobj) > 0 for x in (mask, nib.load(subject.label)))
        scores.append(2 * (found & truth).sum() / (found.sum() + truth.sum()))
    assert np.mean(scores) > 0.4
