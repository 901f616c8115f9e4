"""Missingness as one object: rules hold, what is absent is never touched, one seed gives one pattern for everybody."""

import json
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

from mtg_lab import missingness
from mtg_lab.data import Preprocessing, cached_dataset
from mtg_lab.errors import InputError
from mtg_lab.manifest import Manifest, Subject, read_manifest
from mtg_lab.missingness import Missingness

BRATS = ("t1n", "t1c", "t2w", "t2f")
EIGHT = (*BRATS, "adc", "rcbv", "dwi", "swi")
RATES = {"t1n": 0.2, "t1c": 0.4, "t2f": 0.6, "t2w": 0.8}
NOWHERE = Path("nowhere")


def cohort(count=60, modalities=BRATS, has=None, sites="ABC", split="train"):
    """A manifest of files that do not exist, so that whatever opens one fails; ``has``: bool, subjects x modalities."""
    has = np.ones((count, len(modalities)), dtype=bool) if has is None else np.asarray(has)
    subjects = tuple(
        Subject(f"P{i:03}", {m: NOWHERE / f"{i}-{m}.nii.gz" for m, h in zip(modalities, row, strict=True) if h},
                split, "brats2023", site=sites[i % len(sites)] if sites else None)
        for i, row in enumerate(has)
    )  # fmt: skip
    return Manifest(Path("m.csv"), tuple(modalities), subjects)


def reordered(manifest, order):
    return replace(manifest, subjects=tuple(manifest.subjects[i] for i in order))


def rule(name, **options):
    return Missingness(name, options)


DRAWN = [rule("uniform"), rule("independent", rates=RATES), rule("imbalanced", rates=RATES)]
ALL = [Missingness(), rule("subset", subset="t1c+t2w"), *DRAWN, rule("site", sites={"B": "-t1c", "C": "t1n+t2w"})]
every_rule = pytest.mark.parametrize("asked", ALL, ids=lambda r: r.rule)
haves = st.lists(st.lists(st.booleans(), min_size=4, max_size=4).filter(any), min_size=15, max_size=40)


# --- what holds for every rule ----------------------------------------------------------------------------------------


@settings(max_examples=30)
@given(haves, st.integers(0, 2**32 - 1), st.data())
def test_a_pattern_takes_away_and_never_everything(has, seed, data):
    asked = replace(data.draw(st.sampled_from(ALL)), seed=seed)
    manifest = cohort(len(has), has=has)
    fixed = asked.rule in ("subset", "site")  # only these can leave somebody with nothing
    if fixed and not (asked.pattern(cohort(len(has))).to_numpy() & np.array(has)).any(axis=1).all():
        with pytest.raises(InputError, match="leaves subject P"):
            asked.pattern(manifest)
        return
    there = asked.pattern(manifest)
    assert there.shape == (len(has), 4)
    assert list(there.columns) == list(BRATS)
    assert there.to_numpy().dtype == bool
    assert not (there.to_numpy() & ~np.array(has)).any()
    assert there.any(axis=1).all()


@every_rule
@settings(max_examples=10)
@given(order=st.permutations(range(40)), columns=st.permutations(BRATS))
def test_the_order_of_rows_and_columns_does_not_matter(asked, order, columns):
    manifest = cohort(40)
    expected = asked.pattern(manifest)
    moved = replace(reordered(manifest, order), modalities=tuple(columns))
    found = asked.pattern(moved)
    assert list(found.index) == [s.name for s in moved]
    pd.testing.assert_frame_equal(found.loc[expected.index, list(BRATS)], expected)


@every_rule
def test_the_same_rule_gives_the_same_pattern_to_everybody(asked):
    pd.testing.assert_frame_equal(asked.pattern(cohort()), Missingness.from_json(asked.to_json()).pattern(cohort()))


@pytest.mark.parametrize("asked", DRAWN, ids=lambda r: r.rule)
def test_another_seed_gives_another_pattern(asked):
    assert not asked.pattern(cohort()).equals(replace(asked, seed=1).pattern(cohort()))


@pytest.mark.parametrize("asked", DRAWN[:2], ids=lambda r: r.rule)
def test_a_subject_is_drawn_for_itself(asked):
    """Patients that are added or dropped change nothing for the others."""
    few = reordered(cohort(), range(5, 20))
    pd.testing.assert_frame_equal(asked.pattern(few), asked.pattern(cohort()).iloc[5:20])


@every_rule
def test_a_rule_comes_back_from_json(asked):
    back = Missingness.from_json(json.loads(json.dumps(asked.to_json())))
    assert back == asked
    assert json.dumps(back.to_json()) == json.dumps(asked.to_json()), "in order as well"


@every_rule
def test_a_split_is_drawn_apart(asked):
    whole = cohort()
    mixed = replace(whole, subjects=tuple(replace(s, split="test") if i % 2 else s for i, s in enumerate(whole)))
    applied = asked.apply(mixed, "train")
    assert [s for s in applied if s.split == "test"] == [s for s in mixed if s.split == "test"]
    assert missingness.availability(applied.split("train")).equals(asked.pattern(mixed, "train"))
    assert asked.pattern(mixed, "train").equals(asked.pattern(mixed.split("train")))
    with pytest.raises(InputError, match="no subject in split 'val'"):
        asked.pattern(mixed, "val")


@every_rule
def test_applied_cells_are_gone_and_the_rest_is_as_it_was(asked):
    before, after = cohort(), asked.apply(cohort())
    there = asked.pattern(before)
    assert after.modalities == before.modalities
    for old, new in zip(before, after, strict=True):
        assert dict(new.images) == {m: f for m, f in old.images.items() if there.loc[old.name, m]}
        assert replace(new, images=old.images) == old


# --- each rule --------------------------------------------------------------------------------------------------------


def test_complete_takes_nothing_away():
    assert Missingness().apply(cohort()) == cohort()
    assert Missingness().pattern(cohort()).all(axis=None)


def test_everybody_has_the_subset():
    there = rule("subset", subset="FLAIR+t1ce").pattern(cohort())
    assert (there == [False, True, False, True]).all(axis=None)


@pytest.mark.parametrize("count", [2, 4])
def test_subsets_are_uniform(count):
    there = rule("uniform").pattern(cohort(3000, BRATS[:count]))
    codes = there.to_numpy() @ (1 << np.arange(count))
    assert stats.chisquare(np.bincount(codes, minlength=2**count)[1:]).pvalue > 0.01


@settings(max_examples=15)
@given(st.lists(st.floats(0, 0.95), min_size=2, max_size=8), st.integers(0, 2**32 - 1))
def test_realised_rates_are_those_asked_for_given_that_something_is_left(rates, seed):
    modalities, count = EIGHT[: len(rates)], 600
    asked = Missingness("independent", {"rates": dict(zip(modalities, rates, strict=True))}, seed)
    there = asked.pattern(cohort(count, modalities)).sum()
    for modality, rate in zip(modalities, rates, strict=True):
        chance = min(1.0, (1 - rate) / (1 - np.prod(rates)))
        assert stats.binomtest(int(there[modality]), count, chance).pvalue > 1e-6


def test_a_modality_without_a_rate_is_always_there():
    there = rule("independent", rates={"flair": 1, "t1ce": 0.5}).pattern(cohort())
    assert there[["t1n", "t2w"]].all(axis=None)
    assert not there["t2f"].any()


# PASSION's files for the 219 training patients of BraTS 2020: available t2f, t1c, t1n, t2w; missing rates of the same;
# patients with 1, 2, 3, 4 modalities (arXiv 2407.14796, released split files).
PUBLISHED = {
    "mr2468": ((90, 135, 184, 43), (0.589, 0.384, 0.160, 0.804), (58, 98, 54, 9)),
    "mr1379": ((68, 156, 200, 23), (0.689, 0.288, 0.087, 0.895), (49, 116, 50, 4)),
    "mr5528": ((185, 111, 113, 42), (0.155, 0.493, 0.484, 0.808), (61, 92, 58, 8)),
    "mr8825": ((189, 44, 46, 118), (0.137, 0.799, 0.790, 0.461), (83, 98, 34, 4)),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_files_come_out_of_any_manifest_of_as_many_patients(name):
    available, realised, sizes = PUBLISHED[name]
    rates = {m: int(digit) / 10 for m, digit in zip(("t1n", "t1c", "t2f", "t2w"), name[2:], strict=True)}
    shuffled = dict(sorted(rates.items(), key=lambda item: item[1]))  # the order in which they are written is no matter
    there = rule("imbalanced", rates=shuffled).pattern(cohort(219))
    modalities, counted = missingness.counts(there)
    assert tuple(modalities.loc[["t2f", "t1c", "t1n", "t2w"], "there"]) == available
    np.testing.assert_allclose(modalities.loc[["t2f", "t1c", "t1n", "t2w"], "rate"], realised, atol=5.1e-4)
    assert tuple(counted) == sizes
    rows = missingness.imbalanced(219, rates)
    assert (there[list(rates)].to_numpy() == rows).all(), "row for row, by sorted name"


def test_a_site_lacks_what_it_never_has():
    there = rule("site", sites={"B": "-t1ce", "C": ["t1n", "t2w"]}).pattern(cohort(6))
    rows = there.astype(int).to_numpy().tolist()
    assert rows == [[1, 1, 1, 1], [1, 0, 1, 1], [1, 0, 1, 0]] * 2
    two = Missingness.parse("site:A=-t1c-flair").pattern(cohort(3))
    assert two.iloc[0].tolist() == [True, False, True, False]


# --- depending on the case --------------------------------------------------------------------------------------------


@given(st.lists(st.floats(0, 500), min_size=1, max_size=50), st.floats(-5, 5), st.floats(0.01, 0.99))
def test_chances_rise_with_the_volume_and_have_the_mean_that_was_asked_for(volumes, slope, rate):
    chances = missingness.presence_chance(np.array(volumes), slope, rate)
    assert chances.mean() == pytest.approx(1 - rate, abs=1e-6)
    assert (np.diff(chances[np.argsort(volumes)]) * np.sign(slope) >= -1e-9).all()


@given(st.lists(st.floats(0, 500), min_size=2, max_size=30), st.floats(-3, 3), st.floats(0.1, 0.9))
def test_the_slope_is_the_change_of_the_logit_in_one_standard_deviation(volumes, slope, rate):
    logs = np.log1p(volumes)
    assume(logs.std() > 0.1)
    chances = missingness.presence_chance(np.array(volumes), slope, rate)
    logits = np.log(chances / (1 - chances))
    first, last = np.argmin(logs), np.argmax(logs)
    expected = slope * (logs[last] - logs[first]) / logs.std()
    assert logits[last] - logits[first] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(("rate", "chance"), [(0, 1), (1, 0), (0.3, 0.7)])
def test_equal_volumes_have_equal_chances(rate, chance):
    np.testing.assert_allclose(missingness.presence_chance(np.full(5, 20.0), 4, rate), chance)


@pytest.fixture
def tumours(tmp_path, nifti):
    """240 patients whose labels hold 0 to 239 tumour voxels of 8 mm3; none of their images exists."""
    subjects = []
    for subject in cohort(240, sites=""):
        voxels = np.zeros((8, 8, 8), np.uint8)
        voxels.flat[: int(subject.name[1:])] = 1 + np.arange(int(subject.name[1:])) % 3
        subjects.append(replace(subject, label=nifti(tmp_path / f"{subject.name}.nii.gz", voxels)))
    return replace(cohort(), subjects=tuple(subjects))


def test_volumes_are_those_of_the_labels(tumours):
    assert missingness.tumour_volume_ml(tumours["P100"]) == pytest.approx(100 * 8 / 1000)
    odd = nib.Nifti1Image(np.ones((3, 3, 3), np.uint8), np.array([[0, -2, 0, 0], [1, 0, 0, 0], [0, 0, 3, 0], [0] * 4]))
    nib.save(odd, tumours["P001"].label)
    assert missingness.tumour_volume_ml(tumours["P001"]) == pytest.approx(27 * 6 / 1000), "turned and uneven voxels"
    assert missingness.tumour_volume_ml(replace(tumours["P100"], schema="brats2024")) == pytest.approx(0.8)
    with pytest.raises(InputError, match="has no label; the rule case reads its tumour's volume"):
        missingness.tumour_volume_ml(replace(tumours["P100"], label=None))
    with pytest.raises(InputError, match="label does not exist"):
        missingness.tumour_volume_ml(replace(tumours["P100"], label=NOWHERE))


def test_larger_tumours_have_the_contrast_agent_more_often(tumours):
    there = rule("case", slope=3, rate=0.4).pattern(tumours)
    assert there[["t1n", "t2w", "t2f"]].all(axis=None)
    assert stats.binomtest(int(there["t1c"].sum()), 240, 0.6).pvalue > 1e-4
    assert there["t1c"].iloc[:80].mean() < 0.4 < 0.75 < there["t1c"].iloc[160:].mean()
    other = rule("case", modality="flair", slope=-3, rate=0.4).pattern(tumours)
    assert other["t2f"].iloc[:80].mean() > 0.75 > other["t2f"].iloc[160:].mean()
    random = rule("case", slope=0, rate=0.4).pattern(tumours)["t1c"]
    assert stats.pointbiserialr(random, np.arange(240)).pvalue > 1e-3


def test_the_last_modality_of_a_case_is_left(tumours):
    lonely = rule("subset", subset="t1c").apply(tumours)
    assert rule("case", rate=1).pattern(lonely).equals(missingness.availability(lonely))
    without = rule("subset", subset="t1n").apply(tumours)
    assert rule("case", rate=1).pattern(without).equals(missingness.availability(without))


# --- never opened -----------------------------------------------------------------------------------------------------


def test_absent_files_are_never_opened(nifti, tmp_path):
    """One file does not exist, one is no image: with the rule nobody notices, without it loading fails."""
    rng = np.random.default_rng(0)
    good = {m: nifti(tmp_path / f"{m}.nii.gz", rng.uniform(1, 9, (8, 8, 8))) for m in ("t1n", "t2w")}
    (tmp_path / "poison.nii.gz").write_bytes(b"no image")
    label = nifti(tmp_path / "seg.nii.gz", np.ones((8, 8, 8), np.uint8))
    images = {"t1n": good["t1n"], "t1c": NOWHERE, "t2w": good["t2w"], "t2f": tmp_path / "poison.nii.gz"}
    manifest = Manifest(tmp_path / "m.csv", BRATS, (Subject("P", images, "train", "brats2023", label, site="B"),))
    without = rule("site", sites={"B": "-t1c-t2f"}).apply(manifest, "train")
    without.materialise().fingerprint()
    (sample,) = cached_dataset(without.subjects, BRATS, Preprocessing(2.0))
    assert sample["present"].tolist() == [True, False, True, False]
    assert not sample["image"][[1, 3]].any()
    with pytest.raises(InputError, match="does not exist"):
        cached_dataset(manifest.subjects, BRATS, Preprocessing(2.0))[0]


# --- as a table -------------------------------------------------------------------------------------------------------


@every_rule
def test_what_was_saved_is_read_back(asked, tmp_path):
    pattern = asked.pattern(cohort())
    path = missingness.save_pattern(pattern, tmp_path / "missing.csv", asked.to_json())
    pd.testing.assert_frame_equal(missingness.read_pattern(path), pattern)
    table = Missingness.parse(str(path))
    pd.testing.assert_frame_equal(table.pattern(cohort()), pattern)
    assert Missingness.from_json(json.loads((tmp_path / "missing.rule.json").read_text())) == asked
    path.unlink()
    assert Missingness.from_json(table.to_json()).pattern(cohort()).equals(pattern), "the file is needed no more"
    assert {p.name for p in tmp_path.iterdir()} == {"missing.rule.json"}


def test_a_table_by_hand(tmp_path):
    path = tmp_path / "m.csv"
    path.write_text("\ufeffsubject, FLAIR,T1ce\nP001,1,0\n007,0,1\n\n", encoding="utf-8")
    table = missingness.read_pattern(path)
    assert table.to_dict(orient="index") == {"P001": {"t2f": True, "t1c": False}, "007": {"t2f": False, "t1c": True}}
    names = reordered(cohort(2, ("t1c", "t2f")), [1])
    assert Missingness.from_csv(path).pattern(names).loc["P001"].tolist() == [False, True]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (None, "cannot read the table of missingness"),
        ("", "give subject and each modality once, and rows"),
        ("name,t1c\nP,1\n", "the header is name, t1c; give subject and each modality once"),
        ("subject\nP\n", "give subject and each modality once"),
        ("subject,t1c,t1ce\nP,1,1\n", "give subject and each modality once"),
        ("subject,t1c\nP,yes\n", "subject P, t1c is 'yes'; write 1 .there. or 0 .missing."),
        ("subject,t1c,t2f\nP,1\n", "2 cells in the row of P, the header has 3"),
        ("subject,t1c,t2f\nP,1,\n", "t2f is ''; write 1"),
        ("subject,t1c\n", "give subject and each modality once, and rows"),
        ("subject,t1c\nP,1\nP,1\n", "subject P occurs twice"),
        ("subject,t1c,t2f\nP,0,0\n", "subject P has nothing; give it a modality or drop its row"),
        ("subject,t1c\nP,1,1,1\nQ,1\n", "4 cells in the row of P, the header has 2"),
    ],
)
def test_a_table_of_no_use_is_one_line(tmp_path, text, told):
    if text is not None:
        (tmp_path / "m.csv").write_text(text)
    with pytest.raises(InputError, match=told) as refusal:
        missingness.read_pattern(tmp_path / "m.csv")
    assert "\n" not in str(refusal.value)


# --- words ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("complete", Missingness()),
        ("uniform", rule("uniform")),
        ("uniform:seed=3", Missingness("uniform", seed=3)),
        ("subset:T1ce+flair", rule("subset", subset="t1c+t2f")),
        ("independent:t1n=.2,flair=1", rule("independent", rates={"t2f": 1.0, "t1n": 0.2})),
        (" imbalanced:t1n=.2, t1c=.4,t2f=.6,t2w=.8,seed=7 ", Missingness("imbalanced", {"rates": RATES}, 7)),
        ("imbalanced:mr2468,seed=7", Missingness("imbalanced", {"rates": RATES}, 7)),
        ("imbalanced:2468", rule("imbalanced", rates=RATES)),
        ("site:B=-t1c,seed=t1n", rule("site", sites={"seed": "t1n", "B": "-t1c"})),
        ("case", rule("case", modality="t1c", rate=0.5, slope=2)),
        ("case:modality=flair,rate=.3", rule("case", modality="t2f", rate="0.3")),
    ],
)
def test_a_rule_is_read_from_a_word(text, expected):
    found = Missingness.parse(text)
    assert found == expected
    assert json.dumps(found.to_json()) == json.dumps(expected.to_json())


def test_the_seed_of_the_text_goes_before_the_one_beside_it():
    assert Missingness.parse("uniform", 5).seed == 5
    assert Missingness.parse("uniform:seed=3", 5).seed == 3


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("unifrm", "unknown rule of missingness 'unifrm'; .* did you mean 'uniform'"),
        ("", "unknown rule of missingness ''"),
        ("uniform:x=3", "write uniform"),
        ("table:x", "write a file, missing.csv"),
        ("subset", "needs subset; write subset:t1n"),
        ("subset:+", "the subset '[+]' is empty"),
        ("independent:t1n", "no list of NAME=VALUE; write independent:"),
        ("independent:t1n=1.2", "the missing rate of t1n is '1.2'; give a number from 0 to 1"),
        ("independent:t1n=nan", "give a number from 0 to 1"),
        ("independent:t2f=.1,flair=.2", "the rate of t2f is given twice"),
        ("imbalanced:t1n=1,t1c=.5", "the missing rate of t1n is 1; give less"),
        ("site:B", "no list of NAME=VALUE"),
        ("site:B=t1c,B=t1n", "the site B is given twice"),
        ("case:colour=1", "rule case takes no option 'colour'; it takes: modality, rate, slope"),
        ("case:slope=steep", "the slope is 'steep'; give a number"),
        ("uniform:seed=-1", "seed is '-1'; give a whole number"),
    ],
)
def test_words_of_no_use_are_one_line(text, told):
    with pytest.raises(InputError, match=told) as refusal:
        Missingness.parse(text)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    "values",
    [{}, {"seed": 3}, {"rule": "uniform", "rates": {}}, {"rule": "table", "modalities": "t1c", "subjects": {"P": "t"}},
     {"rule": "table", "modalities": ["t1c"], "subjects": {}}, {"rule": "independent", "rates": 3},
     {"rule": "uniform", "seed": True}, {"rule": "uniform", "seed": 2**32}, {"rule": ["uniform"]}, None],
)  # fmt: skip
def test_json_of_no_use_is_one_line(values):
    with pytest.raises(InputError) as refusal:
        Missingness.from_json(values)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (rule("subset", subset="dwi"), "names 'dwi'; known here: t1n, t1c, t2w, t2f"),
        (rule("independent", rates={"dwi": 0.5}), "names 'dwi'"),
        (rule("imbalanced", rates={"t1n": 0.5, "t1c": 0.5}), "needs the rate of every modality .* that of t2w"),
        (rule("site", sites={"D": "t1n"}), "no subject of site 'D'; sites here: A, B, C"),
        (rule("site", sites={"A": "-dwi"}), "names 'dwi'"),
        (rule("case", modality="dwi"), "names 'dwi'"),
        (rule("case"), "subject P000 has no label; the rule case"),
        (rule("independent", rates=dict.fromkeys(BRATS, 1)), "leaves subject P000 nothing of its t1n.t1c.t2w.t2f"),
        (rule("site", sites={"C": "-t1n-t1c-t2w-t2f"}), "leaves subject P002 nothing"),
        (rule("table", modalities=BRATS[:3], subjects={"P000": "t1n"}), "no column t2f, which m.csv has"),
        (rule("table", modalities=BRATS, subjects={"P000": "t1n"}), "no row of subject P001, whom m.csv has"),
    ],
    ids=str,
)  # fmt: skip
def test_what_a_cohort_cannot_miss_is_one_line(asked, told):
    with pytest.raises(InputError, match=told) as refusal:
        asked.pattern(cohort())
    assert "\n" not in str(refusal.value)


def test_sites_are_needed_for_a_rule_of_sites():
    with pytest.raises(InputError, match="sites here: none, fill the column 'site'"):
        rule("site", sites={"A": "t1n"}).pattern(cohort(sites=""))


def test_fewer_patients_than_patterns_are_refused():
    with pytest.raises(InputError, match="14 subjects cannot show all 15 patterns"):
        rule("imbalanced", rates=RATES).pattern(cohort(14))


def test_a_rule_tells_what_it_is():
    assert (
        str(rule("imbalanced", rates=RATES)) == "rule imbalanced (rates t1n 0.2, t1c 0.4, t2f 0.6, t2w 0.8; seed 1037)"
    )
    assert str(rule("subset", subset="t1c")) == "rule subset (subset t1c)", "nothing is drawn, so no seed"
    assert str(Missingness()) == "rule complete"


def test_the_committed_cohort_under_a_rule_of_sites():
    there = rule("site", sites={"B": "-t1c"}).pattern(read_manifest(), "train")
    assert there["t1c"].sum() == 24, "12 of the 36 training patients are of site B"
