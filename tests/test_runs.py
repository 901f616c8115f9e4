"""A run folder says by itself what its channels and classes mean, and refuses what would change their order."""

import json
import shutil
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import torch

from mtg_lab import evaluate, load_run, predict, read_manifest, train, vocabulary
from mtg_lab.data import Preprocessing, cached_dataset
from mtg_lab.errors import InputError
from mtg_lab.inference import native_probabilities
from mtg_lab.manifest import write_manifest
from mtg_lab.recipes import Recipe
from mtg_lab.runs import begun_with, weights_meaning
from mtg_lab.training import build_method

OWN = {"name": "mine", "labels": {"1": "necrosis", "2": "oedema", "3": "rim"},
       "regions": {"all": [1, 2, 3], "rim": [3]}, "source": "made for a test"}  # fmt: skip


def with_schema(cohort, path, name="mine", definition=OWN):
    """The phantom's files under another schema, which lies beside the manifest."""
    rows = [
        {"subject": s.name, "split": s.split, "schema": name} | {c: str(p) for c, p in s.files.items()}
        for s in read_manifest(cohort)
    ]
    path.parent.mkdir(exist_ok=True)
    path.with_name(f"{path.stem}.schema.json").write_text(json.dumps(definition))
    return write_manifest(rows, read_manifest(cohort).modalities, path)


@pytest.fixture(scope="module")
def folder(cohort, tmp_path_factory):
    """A run of the own schema, whose manifest is gone."""
    from mtg_lab.data import Sampling
    from mtg_lab.recipes import Recipe

    place = tmp_path_factory.mktemp("own")
    manifest = with_schema(cohort, place / "cohort" / "m.csv")
    recipe = Recipe(manifest=str(manifest), preprocessing=Preprocessing(4.0), sampling=Sampling(24), steps=2,
                    backbone_options={"width": 4, "latent": 3, "depth": 2}, precision="fp32")  # fmt: skip
    train(recipe, place / "run")
    shutil.rmtree(place / "cohort")
    return place / "run"


@pytest.fixture
def copy(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "copy")


def test_an_own_schema_travels_with_the_run(copy, cohort, tmp_path):
    run = load_run(copy)
    assert dict(run.schema.regions) == {"all": (1, 2, 3), "rim": (3,)}
    scores = evaluate(run, with_schema(cohort, tmp_path / "again" / "m.csv"), subsets=["t1c+t2f"])
    assert list(dict.fromkeys(scores["region"])) == ["all", "rim"]
    with pytest.raises(InputError, match="the run knows all, rim, not WT"):
        evaluate(run, cohort)


def test_one_volume_of_a_file_predicts_like_a_file(copy, cohort, tmp_path):
    subject = read_manifest(cohort).split("test").subjects[0]
    joined = nib.concat_images([nib.load(subject.images[m]) for m in ("t2w", "t1c")])
    joined.set_data_dtype(np.float32)
    joined.to_filename(tmp_path / "two.nii.gz")
    run = load_run(copy)
    one, other = predict(run, t1c=subject.images["t1c"]), predict(run, t1c=f"{tmp_path / 'two.nii.gz'}[1]")
    assert (np.asarray(one.dataobj) == np.asarray(other.dataobj)).mean() > 0.999
    np.testing.assert_array_equal(one.affine, other.affine)


def changed(copy, **facts):
    path = copy / "recipe.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | facts))


def test_regions_in_another_order_are_refused(copy):
    changed(copy, regions=["rim", "all"])
    with pytest.raises(InputError, match=r"is damaged \(its regions are not those of its schema, in their order"):
        load_run(copy)


@pytest.mark.parametrize("what", ["modalities", "labels", "regions"])
def test_channels_or_labels_in_another_order_than_the_weights_are_refused(copy, what):
    if what == "modalities":
        changed(copy, modalities=["t1c", "t1n", "t2w", "t2f"])
    elif what == "labels":
        changed(copy, schema_definition=OWN | {"labels": {"1": "oedema", "2": "necrosis", "3": "rim"}})
    else:
        changed(copy, schema_definition=OWN | {"regions": {"all": [1, 2, 3], "rim": [2]}})
    with pytest.raises(InputError, match=r"trained with other channels or labels than recipe\.json says"):
        load_run(copy).backbone()


def test_a_run_without_a_definition_reads_its_schema_by_name(copy):
    """Runs of the first version have no definition, and nothing in their weights' file."""
    from safetensors.torch import load_file, save_file

    save_file(load_file(copy / "weights.safetensors"), copy / "weights.safetensors")
    facts = json.loads((copy / "recipe.json").read_text())
    del facts["schema_definition"]
    brats = vocabulary.schema("brats2023")
    (copy / "recipe.json").write_text(json.dumps(facts | {"schema": brats.name, "regions": list(brats.regions)}))
    run = load_run(copy)
    assert run.schema is brats
    assert run.backbone().modalities == run.modalities


def test_the_meaning_of_weights_is_the_order_of_channels_labels_and_regions():
    brats = vocabulary.schema("brats2023")
    assert weights_meaning(("t1c", "t2f"), brats) != weights_meaning(("t2f", "t1c"), brats)
    assert weights_meaning(("t1c",), brats) == weights_meaning(("t1c",), vocabulary.schema("brats2023_ssa"))
    assert weights_meaning(("t1c",), brats) != weights_meaning(("t1c",), vocabulary.schema("msd_task01"))


def test_a_teacher_whose_classes_mean_something_else_is_refused(cohort, tiny_recipe, tmp_path):
    """1 is necrosis for the one and oedema for the other; both have three classes, so nothing else would notice."""
    swapped = OWN | {"labels": {"1": "ED", "2": "NCR", "3": "ET"}}
    other = with_schema(cohort, tmp_path / "m.csv", definition=swapped)
    teacher = tiny_recipe(manifest=str(other), method="complete")
    with pytest.raises(
        InputError, match=r"the teacher was trained on mine \(ED, NCR, ET\), the cohort's labels are of"
    ):
        train(tiny_recipe(method="student", teacher=teacher), tmp_path / "run")


def test_integers_above_a_byte_are_written_as_they_are(copy, cohort, monkeypatch):
    """The heart of MyoPS has labels up to 2221."""
    large = vocabulary.LabelSchema("mine", {200: "a", 1220: "b", 2221: "c"}, {"all": (200, 1220, 2221)}, "")
    run = load_run(copy)
    network = run.backbone()
    object.__setattr__(run, "schema", large)
    monkeypatch.setattr(type(run), "backbone", lambda *_: network)
    third = torch.tensor([0.0, 0.0, 0.0, 1.0]).reshape(4, 1, 1, 1)
    monkeypatch.setattr(
        "mtg_lab.patients.native_probabilities", lambda *given: third.expand_as(native_probabilities(*given))
    )
    subject = read_manifest(cohort).split("test").subjects[0]
    image = predict(run, t1c=subject.images["t1c"])
    assert set(np.unique(image.dataobj)) == {2221}
    assert np.iinfo(image.get_data_dtype()).max >= 2221


# --- the schema beside a manifest -------------------------------------------------------------------------------------


def test_an_own_schema_is_part_of_what_a_cohort_is(cohort, tmp_path):
    one = read_manifest(with_schema(cohort, tmp_path / "m.csv"))
    sample = cached_dataset(one.subjects[:1], one.modalities, Preprocessing(4.0))[0]
    before = one.fingerprint()
    swapped = {"1": "oedema", "2": "necrosis", "3": "rim"}
    other = read_manifest(with_schema(cohort, tmp_path / "m.csv", definition=OWN | {"labels": swapped}))
    assert other.fingerprint() != before
    fewer = OWN | {"labels": {"1": "necrosis", "3": "rim"}, "regions": {"rim": [3]}, "ignored": [2]}
    third = read_manifest(with_schema(cohort, tmp_path / "m.csv", definition=fewer))
    again = cached_dataset(third.subjects[:1], third.modalities, Preprocessing(4.0))[0]
    assert {1, 2} <= set(np.unique(sample["label"]))
    expected = np.array([0, 1, 0, 2])[sample["label"].numpy()]  # what is ignored is background; no stale entry
    np.testing.assert_array_equal(again["label"].numpy(), expected)


def test_a_name_that_is_taken_or_unknown_is_told(cohort, tmp_path):
    path = with_schema(cohort, tmp_path / "m.csv", definition=OWN | {"name": "brats2023"})
    with pytest.raises(InputError, match=r"m\.schema\.json: the name brats2023 is taken by a schema of the package"):
        read_manifest(path)
    with pytest.raises(InputError, match="unknown label schema 'yours'"):
        read_manifest(with_schema(cohort, tmp_path / "m.csv", name="yours"))


# --- a run that begins with the weights of another --------------------------------------------------------------------


@pytest.fixture(scope="module")
def begun(cohort, tmp_path_factory):
    """A small generalist of the phantom, with another crop and voxel size than the recipes that go on from it."""
    from mtg_lab.data import Sampling
    from mtg_lab.recipes import Recipe

    recipe = Recipe(manifest=str(cohort), preprocessing=Preprocessing(5.0), sampling=Sampling(16), steps=3, seed=9,
                    backbone_options={"width": 4, "latent": 3, "depth": 2}, precision="fp32")  # fmt: skip
    return train(recipe, tmp_path_factory.mktemp("begun") / "run")


def test_fine_tuning_begins_with_the_weights_and_grid_of_the_run(begun, tiny_recipe, cohort):
    recipe = begun_with(tiny_recipe(backbone="nnunet", seed=1), begun)
    assert (recipe.preprocessing.spacing_mm, recipe.sampling.crop_voxels, recipe.backbone) == (5.0, 16, "unet")
    assert recipe.seed == 1
    method = build_method(recipe, read_manifest(cohort).split("train"), None)
    stored = begun.backbone().state_dict()
    assert all(torch.equal(value, stored[name]) for name, value in method.backbone.state_dict().items())
    fresh = build_method(replace(recipe, start=""), read_manifest(cohort).split("train"), None)
    assert any(not torch.equal(value, stored[name]) for name, value in fresh.backbone.state_dict().items())


def test_a_fine_tuned_run_moves_from_there_and_needs_nobody_afterwards(begun, tiny_recipe, tmp_path):
    start = shutil.copytree(begun.folder, tmp_path / "start")
    recipe = begun_with(tiny_recipe(steps=2, learning_rate=1e-5, averaging=0.0), load_run(start))
    tuned = train(recipe, tmp_path / "tuned")
    shutil.rmtree(start)
    before, after = begun.backbone().state_dict(), load_run(tuned.folder).backbone().state_dict()
    moved = max(float((after[name] - value).abs().max()) for name, value in before.items())
    assert 0 < moved < 1e-4  # AdamW moves no weight further than the sum of its rates, plus what decays


def test_the_weights_and_not_their_place_name_a_fine_tuned_run(begun, tiny_recipe, tmp_path):
    names = {"there": begun_with(tiny_recipe(), begun).digest()}
    assert names["there"] != replace(begun_with(tiny_recipe(), begun), start="").digest()
    copied = load_run(shutil.copytree(begun.folder, tmp_path / "copy"))
    assert begun_with(tiny_recipe(), copied).digest() == names["there"]
    (copied.folder / "weights.safetensors").write_bytes(
        (train(tiny_recipe()).folder / "weights.safetensors").read_bytes()
    )
    assert begun_with(tiny_recipe(), copied).digest() != names["there"]


def test_a_second_network_of_the_method_begins_there_too(begun, tiny_recipe, cohort):
    recipe = begun_with(tiny_recipe(method="adamm"), begun)
    method = build_method(recipe, read_manifest(cohort).split("train"), None)
    stored = begun.backbone().state_dict()
    assert all(torch.equal(value, stored[name]) for name, value in method.guide.state_dict().items() if name in stored)


def test_a_fine_tuned_run_is_known_without_its_start_and_other_weights_are_refused(
    begun, tiny_recipe, cohort, tmp_path
):
    start = load_run(shutil.copytree(begun.folder, tmp_path / "start"))
    recipe = begun_with(tiny_recipe(), start)
    name = recipe.digest()
    start.weights.write_bytes(train(tiny_recipe()).weights.read_bytes())
    with pytest.raises(InputError, match="has other weights than when this recipe was made"):
        build_method(recipe, read_manifest(cohort).split("train"), None)
    shutil.rmtree(start.folder)
    assert recipe.digest() == name == Recipe.from_json(recipe.to_json()).digest()


def test_a_network_in_the_box_can_be_gone_on_with_by_its_name(tiny_recipe, cohort):
    student = load_run("student")
    recipe = replace(begun_with(tiny_recipe(), student), start="student")
    method = build_method(recipe, read_manifest(cohort).split("train"), None)
    stored = student.backbone().state_dict()
    assert all(torch.equal(value, stored[name]) for name, value in method.backbone.state_dict().items())
    assert recipe.digest() == begun_with(tiny_recipe(), student).digest()


def test_what_does_not_fit_the_start_is_refused_before_anything_is_made(begun, tiny_recipe, cohort, tmp_path):
    rows = [
        {"subject": s.name, "split": s.split, "schema": s.schema} | {c: str(p) for c, p in s.files.items()}
        for s in read_manifest(cohort)
    ]
    two = write_manifest(rows, ["t1c", "t2f"], tmp_path / "two.csv")
    other = with_schema(cohort, tmp_path / "own" / "m.csv")
    fitting = begun_with(tiny_recipe(), begun)
    for recipe, said in (
        (replace(fitting, manifest=str(two)), "has the channels t1n, t1c, t2w, t2f, the cohort t1c, t2f; give"),
        (replace(fitting, manifest=str(other)), "was trained on brats2023 .* convert one of them"),
        (replace(fitting, backbone_options={"width": 8}), r"has the network unet \{'width': 4.* leave it as it is"),
        (replace(fitting, start=str(tmp_path / "nowhere")), "the run folder .*nowhere does not exist"),
    ):
        with pytest.raises(InputError, match=said):
            train(recipe, tmp_path / "tuned")
        assert not (tmp_path / "tuned").exists()
