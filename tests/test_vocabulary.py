"""Words mean one thing: every spelling of the field is understood, a subset is a set, and labels need a schema."""

import string
from math import comb

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtg_lab import vocabulary
from mtg_lab.errors import InputError

BRATS = vocabulary.BRATS_MODALITIES

# Channel orders as public code writes them (RFNet, ACN, DeMoSeg, AURORA, GlioMODA, MONAI's bundle, MSD Task01).
ORDERS = {
    "RFNet family": ("FLAIR T1ce T1 T2", "t2f t1c t1n t2w"),
    "ACN family": ("FLAIR T1 T1ce T2", "t2f t1n t1c t2w"),
    "DeMoSeg, nnU-Net": ("T1 T1ce T2 FLAIR", "t1n t1c t2w t2f"),
    "AURORA": ("t1 t1c t2 fla", "t1n t1c t2w t2f"),
    "GlioMODA": ("t1c flair t1 t2", "t1c t2f t1n t2w"),
    "MONAI bundle": ("T1c T1 T2 FLAIR", "t1c t1n t2w t2f"),
    "MSD Task01": ("FLAIR T1w T1gd T2w", "t2f t1n t1c t2w"),
    "BraTS 2023": ("t2f t1n t1c t2w", "t2f t1n t1c t2w"),
    "open_ms": ("FLAIR T1 T1POST T2", "t2f t1n t1c t2w"),
}


@pytest.mark.parametrize("source", ORDERS)
def test_the_spellings_of_public_code_are_understood_in_their_order(source):
    written, meant = ORDERS[source]
    assert [vocabulary.canonical_modality(name) for name in written.split()] == meant.split()


@pytest.mark.parametrize("name", ["T1_Gd", "t1-gd", "T1GD", "T1+C", " t1ce ", "T1w_post", "T1C"])
def test_case_and_separators_carry_no_meaning(name):
    assert vocabulary.canonical_modality(name) == "t1c"


@pytest.mark.parametrize("name", ["T2-FLAIR", "t2_flair", "T2 Flair", "FLA", "T2-F"])
def test_flair_is_t2f(name):
    assert vocabulary.canonical_modality(name) == "t2f"


def test_names_of_other_tasks_are_lowered_and_otherwise_kept():
    assert vocabulary.canonical_modality(" ADC") == "adc"
    assert vocabulary.canonical_modality("bold_rest") == "bold_rest"


@given(st.text(string.printable, max_size=12))
def test_a_canonical_name_is_its_own(name):
    once = vocabulary.canonical_modality(name)
    assert vocabulary.canonical_modality(once) == once


def test_every_brats_modality_has_a_long_name():
    assert set(BRATS) <= set(vocabulary.LONG_NAMES)
    assert set(vocabulary.ALIASES.values()) == set(BRATS)


@pytest.mark.parametrize("count", range(1, 6))
def test_n_modalities_have_two_to_the_n_less_one_subsets_the_smallest_first(count):
    subsets = vocabulary.subsets([f"m{i}" for i in range(count)])
    assert len(set(subsets)) == len(subsets) == 2**count - 1
    assert [len(s) for s in subsets] == [size for size in range(1, count + 1) for _ in range(comb(count, size))]


def test_four_modalities_have_15_subsets():
    assert len(vocabulary.subsets(BRATS)) == 15


names = st.lists(st.sampled_from([*BRATS, "dwi", "adc", "bold_rest"]), min_size=1, unique=True)


@given(names, st.data())
def test_a_subset_survives_its_name(modalities, data):
    subset = data.draw(st.sampled_from(vocabulary.subsets(modalities)))
    assert vocabulary.parse_subset(vocabulary.subset_name(subset, modalities), modalities) == subset
    assert vocabulary.parse_subset(sorted(subset), modalities) == subset


def test_a_subset_is_printed_in_the_order_of_the_run():
    assert vocabulary.subset_name({"t2f", "t1c"}, BRATS) == "t1c+t2f"
    assert vocabulary.subset_name({"t2f", "t1c"}, BRATS[::-1]) == "t2f+t1c"


def test_a_subset_is_read_with_aliases_commas_and_repetitions():
    assert vocabulary.parse_subset("FLAIR, T1ce+t1gd", BRATS) == {"t2f", "t1c"}


@pytest.mark.parametrize("nothing", ["", " + ", [], [""]])
def test_an_empty_subset_is_refused(nothing):
    with pytest.raises(InputError, match="is empty; name at least one of t1n, t1c, t2w, t2f"):
        vocabulary.parse_subset(nothing, BRATS)


def test_an_unknown_modality_is_told_with_those_that_are_known_and_the_nearest():
    with pytest.raises(InputError, match="names 't1cc'; known here: t1n, t1c, t2w, t2f; did you mean 't1c'"):
        vocabulary.parse_subset("t2f+t1cc", BRATS)
    with pytest.raises(InputError, match="names 't2w'; known here: t1c, t2f"):
        vocabulary.parse_subset("t2", ("t1c", "t2f"))


GLIOMA = [s for s in vocabulary.SCHEMAS.values() if "WT" in s.regions]


@pytest.mark.parametrize("schema", GLIOMA, ids=lambda s: s.name)
def test_enhancing_tumour_lies_in_the_core_and_the_core_in_the_whole(schema):
    et, tc, wt = (set(schema.regions[r]) for r in ("ET", "TC", "WT"))
    assert et < tc < wt == set(schema.labels)


@pytest.mark.parametrize("schema", vocabulary.SCHEMAS.values(), ids=lambda s: s.name)
def test_classes_count_up_from_the_background(schema):
    assert schema.classes == len(schema.class_names) == len(schema.values) + 1
    assert schema.class_names[0] == "background"
    for region, integers in schema.regions.items():
        assert [schema.values[c - 1] for c in schema.region_classes[region]] == list(integers)
    assert schema.allowed >= {0, *schema.values}
    assert not set(schema.ignored) & {v for members in schema.regions.values() for v in members}


# What 4 means, and the regions, by year (the table of BraTS conventions; Baid 2021, de Verdier 2024, Menze 2015).
@pytest.mark.parametrize(
    ("name", "wt", "tc", "et"),
    [
        ("brats2021", (1, 2, 4), (1, 4), (4,)),
        ("brats2023", (1, 2, 3), (1, 3), (3,)),
        ("brats2024", (1, 2, 3), (1, 3), (3,)),
        ("brats2015", (1, 2, 3, 4), (1, 3, 4), (4,)),
        ("msd_task01", (1, 2, 3), (2, 3), (3,)),
    ],
)
def test_regions_by_year(name, wt, tc, et):
    assert dict(vocabulary.schema(name).regions) == {"WT": wt, "TC": tc, "ET": et}


def test_four_is_enhancing_tumour_in_2021_a_cavity_in_2024_and_a_fault_in_2023():
    assert vocabulary.schema("brats2021").labels[4] == "ET"
    assert vocabulary.schema("brats2021").region_classes["ET"] == (3,)
    post_treatment = vocabulary.schema("brats2024")
    assert 4 in post_treatment.allowed
    assert all(4 not in members for members in post_treatment.regions.values())
    assert 4 not in vocabulary.schema("brats2023").allowed


def test_an_unknown_schema_is_told_with_the_nearest():
    with pytest.raises(InputError, match=r"unknown label schema 'lesions'; known: brats2023, .* did you mean 'lesion'"):
        vocabulary.schema("lesions")


@pytest.mark.parametrize(("year", "same"), [("brats2020", "brats2021"), ("brats2018", "brats2021"),
                                            ("BraTS2013", "brats2015"), ("fets2022", "brats2021")])  # fmt: skip
def test_another_year_is_sent_to_the_schema_with_its_labels_and_not_to_the_nearest_spelling(year, same):
    with pytest.raises(InputError, match=f"its labels are those of '{same}'"):
        vocabulary.schema(year)
