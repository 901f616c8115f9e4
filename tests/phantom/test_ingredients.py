"""Words for ingredients, and that each is a switch: one taken away leaves the rest of the patient as it was drawn."""

from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from mtg_lab import phantom, read_manifest
from mtg_lab.cli import main
from mtg_lab.errors import InputError
from mtg_lab.manifest import subject_fingerprint, write_manifest
from mtg_lab.phantom import INGREDIENTS, chosen_ingredients, patient
from mtg_lab.phantom.artefacts import Mishaps, Strip
from mtg_lab.phantom.atlas import Grid, Person, load_atlas
from mtg_lab.phantom.contents import Contents
from mtg_lab.phantom.ingredients import OPTIONAL, stream
from mtg_lab.phantom.scanners import at_field, dosed, draw_scanner
from mtg_lab.phantom.signal import TISSUES

ALL = tuple(name for name in INGREDIENTS if name not in OPTIONAL)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("", ()),
        ("  ", ()),
        ("all", ALL),
        ("all+cavity", tuple(INGREDIENTS)),
        ("all - lesions-tracts", tuple(n for n in ALL if n not in ("lesions", "tracts"))),
        ("scanners+anatomy", ("anatomy", "scanners")),
        ("-anatomy", ()),
        (["scanners", "anatomy", "scanners"], ("anatomy", "scanners")),
    ],
)
def test_words_name_ingredients_in_one_order(words, expected):
    assert chosen_ingredients(words) == expected
    assert chosen_ingredients("+".join(expected)) == expected  # as a manifest keeps them


@pytest.mark.parametrize("words", ["salt", "all-salt", "all,lesions", ["salt"]])
def test_an_unknown_ingredient_is_named_with_those_there_are(words):
    with pytest.raises(ValueError, match=r"ingredient '.*' is unknown; choose from all, anatomy, .*ceilings"):
        chosen_ingredients(words)


@pytest.mark.parametrize("name", ALL)
def test_taking_one_away_leaves_the_streams_of_the_others(name, monkeypatch):
    monkeypatch.setattr(patient, "grow_tumour", lambda person, biology, rng, tracts: SimpleNamespace(biology=biology))
    monkeypatch.setattr(patient, "_grown", patient._grown.__wrapped__)
    whole, without = patient._patient(3, ALL), patient._patient(3, tuple(n for n in ALL if n != name))
    kept = {
        "anatomy": lambda p: (p.person.matrix.tolist(), p.person.lopsided, p.body.hindbrain),
        "lesions": lambda p: p.tumour.biology,
        "haemorrhage": lambda p: (p.contents.blood is None, p.contents.blood_level),
        "calcification": lambda p: (p.contents.chalk is None, p.contents.chalk_level),
        "stripping": lambda p: p.strip and (p.strip.amplitude_mm, p.strip.offset_mm),
    }
    for other, what in kept.items():
        if other != name:
            assert what(whole) == what(without), other
    assert whole.body.uptake == without.body.uptake


def _bleeding(seed):
    return Contents.draw(seed, ("haemorrhage",)).blood is not None


def test_blood_moves_no_number_of_the_scanner_or_the_dose(monkeypatch):
    monkeypatch.setattr(patient, "grow_tumour", lambda person, biology, rng, tracts: SimpleNamespace(biology=biology))
    monkeypatch.setattr(patient, "_grown", patient._grown.__wrapped__)
    seed = next(filter(_bleeding, range(40)))
    doses = []
    for words in ("all", "all-haemorrhage"):
        chosen = chosen_ingredients(words)
        rng = stream(seed, "scanners", 0)
        scanner, tesla = draw_scanner(rng)
        body = dosed(at_field(patient._patient(seed, chosen).body, tesla), rng)
        doses.append((body.uptake, {name: body.tissues[name].gadolinium_mm for name in TISSUES}, scanner))
    assert doses[0] == doses[1]


@pytest.mark.parametrize("name", ["artefacts", "resampling", "coverage", "ceilings"])
def test_a_mishap_taken_away_leaves_the_others(name):
    fields = {
        "artefacts": ("phase_axis", "resolution_mm", "ghost", "period", "moved_mm", "moved_share"),
        "resampling": ("register_mm", "register_deg"),
        "coverage": ("covered_mm",),
        "ceilings": ("saturated", "levels"),
    }
    for seed in range(30):
        whole, without = (Mishaps.draw(seed, words, 1, 2) for words in (ALL, tuple(n for n in ALL if n != name)))
        for other in set(fields) - {name}:
            assert all(getattr(whole, f) == getattr(without, f) for f in fields[other])
    assert any(Mishaps.draw(s, ALL, 1, 2) != Mishaps.draw(s, [n for n in ALL if n != name], 1, 2) for s in range(30))


def test_what_only_the_scanner_does_changes_no_label_and_no_brain():
    whole = phantom.synthesise(4, "B", 6.0, ingredients="all")
    for name in ("scanners", "artefacts", "resampling", "ceilings"):
        other = phantom.synthesise(4, "B", 6.0, ingredients=f"all-{name}")
        assert np.array_equal(whole.label, other.label), name
        assert whole.facts["brain_ml"] == other.facts["brain_ml"]
        assert any(not np.array_equal(whole.images[m], other.images[m]) for m in phantom.MODALITIES), name


def test_coverage_ends_one_sequence_early_and_touches_no_other():
    for seed in range(40):
        full, cut = (Mishaps.draw(seed, words, 0, 0) for words in ((), ("coverage",)))
        if full != cut:
            break
    full, cut = (phantom.synthesise(seed, "A", 6.0, ingredients=words) for words in ("", "coverage"))
    missing = (full.images["t1n"] > 0) & (cut.images["t1n"] == 0)
    slices = np.flatnonzero(missing.any(axis=(0, 1)))
    assert 1 <= len(slices) <= 7  # 8 to 40 mm
    assert np.array_equal(missing[..., slices], full.images["t1n"][..., slices] > 0)
    for name in ("t1c", "t2w", "t2f"):
        assert np.array_equal(full.images[name], cut.images[name])


@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 10**6), site=st.sampled_from("ABC"))
def test_every_varied_patient_keeps_the_promises(seed, site):
    case = phantom.synthesise(seed, site, 6.0, ingredients="all+cavity")
    brain = np.logical_or.reduce([case.images[m] > 0 for m in phantom.MODALITIES])
    for name in phantom.MODALITIES:
        image = case.images[name]
        assert image.dtype == np.int16
        assert image.min() >= 0
        assert image.max() <= 4095
        assert len(np.unique(image)) > 20
    assert set(np.unique(case.label)) <= {0, 1, 2, 3}
    assert not case.label[~brain].any()
    assert 900 < case.facts["brain_ml"] < 2400
    assert case.facts["ingredients"] == list(INGREDIENTS)
    if case.facts["grade"] == "low":
        assert not (case.label == 3).any()


def test_no_brain_reaches_the_edge_of_the_field_of_view():
    grid, atlas = Grid.box(6.0), load_atlas(0.0)
    for seed in range(30):
        person = Person.draw(np.random.default_rng(seed)).further(stream(seed, "anatomy"))
        depth = atlas.grid.sample(atlas.depth_mm, person.to_atlas_mm(grid), outside=-20.0)
        brain = depth + Strip.draw(seed).on(grid) + 1.1 * person.edge.on(grid) > 0.4
        assert not any(brain.take(i, axis=axis).any() for axis in range(3) for i in (0, -1)), seed


def test_the_extended_protocol_has_maps_of_all_that_is_there():
    case = phantom.synthesise(2, "A", 6.0, "extended", "all+cavity")
    assert (case.images["adc"] > 0).any()
    assert np.isfinite(case.images["rcbv"]).all()


def test_layers_show_what_was_added():
    plain, full = phantom.layers(2, 6.0), phantom.layers(2, 6.0, "all+cavity")
    assert set(plain) < set(full)
    others = {"healthy_gm", "healthy_wm", "healthy_csf", "core_mm", "water", "push_mm", "brain", "label"}
    tissues = set(full) - others - {f"signal_{m}" for m in phantom.MODALITIES}
    total = sum(full[name] for name in tissues)
    assert total[full["brain"] > 0] == pytest.approx(1, abs=1e-4)


def test_a_manifest_alone_makes_the_varied_cohort_again(tmp_path, monkeypatch):
    monkeypatch.setenv("MTG_LAB_CACHE", str(tmp_path / "cache"))
    (row,) = phantom.cohort_rows(1, spacing_mm=6.0, ingredients="all-stripping")
    names = {}
    for words in ("", row["ingredients"], "scanners"):
        path = write_manifest([{**row, "ingredients": words}], phantom.MODALITIES, tmp_path / f"{len(names)}.csv")
        (subject,) = read_manifest(path).materialise(1)
        names[subject_fingerprint(subject)] = subject.images["t1c"]
        assert subject.ingredients == chosen_ingredients(words)
        case = phantom.synthesise(0, "A", 6.0, ingredients=words)
        assert np.array_equal(np.asarray(nib.load(subject.images["t1c"]).dataobj), case.images["t1c"])
    assert len(names) == len(set(names.values())) == 3


def test_the_command_writes_a_varied_cohort_that_doctor_accepts(tmp_path):
    made = CliRunner().invoke(main, ["phantom", "--out", str(tmp_path), "--subjects", "1", "--spacing", "6",
                                     "--with", "all", "--workers", "1"])  # fmt: skip
    assert made.exit_code == 0, made.output
    assert pd.read_csv(tmp_path / "data_manifest.csv")["ingredients"].tolist() == ["+".join(ALL)]
    checked = CliRunner().invoke(main, ["doctor", str(tmp_path / "data_manifest.csv")])
    assert checked.exit_code == 0, checked.output


def test_a_folder_of_other_phantoms_is_not_written_into(tmp_path):
    arguments = ["phantom", "--out", str(tmp_path), "--subjects", "1", "--spacing", "6", "--workers", "1"]
    assert CliRunner().invoke(main, arguments).exit_code == 0
    assert CliRunner().invoke(main, arguments).exit_code == 0  # the same ones: nothing to do
    for more in (["--with", "ceilings"], ["--seed", "2"]):
        told = CliRunner().invoke(main, [*arguments, *more])
        assert told.exit_code == 1
        assert "holds another cohort (phantom-001 of seed 0, with no ingredients); choose another --out" in told.stderr


def test_help_describes_the_ingredients_and_a_wrong_word_names_them():
    told = CliRunner().invoke(main, ["phantom", "--with", "help"])
    assert told.exit_code == 0
    assert [line.split()[0] for line in told.stdout.splitlines()] == list(INGREDIENTS)
    assert [line.split()[0] for line in told.stdout.splitlines() if line.endswith("(not part of all)")] == ["cavity"]
    told = CliRunner().invoke(main, ["phantom", "--with", "salt"])
    assert told.exit_code == 1
    assert "choose from all, anatomy, lesions" in told.stderr


@pytest.mark.parametrize(
    ("cells", "fault"),
    [
        ({"ingredients": "all-salt"}, "subject phantom-001: ingredient 'salt' is unknown; choose from all"),
        ({"ingredients": "all", "seed": ""}, "a real subject has no ingredients; empty the cell or give a seed"),
    ],
)
def test_a_row_with_impossible_ingredients_is_refused(tmp_path, cells, fault):
    (row,) = phantom.cohort_rows(1, spacing_mm=6.0)
    path = write_manifest([row | cells], phantom.MODALITIES, tmp_path / "m.csv")
    with pytest.raises(InputError, match=fault):
        read_manifest(path)
