"""Labels mean what their year says; a conversion keeps every region or is refused; own schemas are read with care."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtg_lab import schemas
from mtg_lab.errors import InputError
from mtg_lab.schemas import SCHEMAS, conversion, read_schema

PAIRS = [(a, b) for a in SCHEMAS.values() for b in schemas.convertible(a)]


@given(st.sampled_from(PAIRS), st.integers(0, 2**32 - 1))
def test_a_conversion_conserves_every_region_that_both_name(pair, seed):
    source, target = pair[0], SCHEMAS[pair[1]]
    labels = np.random.default_rng(seed).choice(sorted(source.allowed), (6, 6, 6))
    mapping = conversion(source, target)
    moved = np.vectorize(mapping.__getitem__)(labels)
    assert set(source.regions) & set(target.regions)
    for region in set(source.regions) & set(target.regions):
        before, after = np.isin(labels, source.regions[region]), np.isin(moved, target.regions[region])
        np.testing.assert_array_equal(before, after)
    assert set(moved.flat) <= target.allowed - set(target.ignored)


@pytest.mark.parametrize("schema", SCHEMAS.values(), ids=lambda s: s.name)
def test_to_itself_and_to_consecutive_numbers_nothing_is_lost(schema):
    assert conversion(schema, schema) == {0: 0} | {v: v for v in schema.values} | dict.fromkeys(schema.ignored, 0)
    dense = schemas.consecutive(schema)
    assert dense.values == tuple(range(1, schema.classes))
    there, back = conversion(schema, dense), conversion(dense, schema)
    assert all(back[there[v]] == v for v in schema.values)
    assert dense.region_classes == schema.region_classes


# The equivalences of the field's table of conventions (Baid 2021, de Verdier 2024, Menze 2015, MSD's dataset.json).
@pytest.mark.parametrize(
    ("source", "target", "mapping"),
    [
        ("brats2021", "brats2023", {0: 0, 1: 1, 2: 2, 4: 3}),
        ("brats2023", "brats2021", {0: 0, 1: 1, 2: 2, 3: 4}),
        ("brats2015", "brats2023", {0: 0, 1: 1, 2: 2, 3: 1, 4: 3}),
        ("brats2024", "brats2023", {0: 0, 1: 1, 2: 2, 3: 3, 4: 0}),
        ("msd_task01", "brats2023", {0: 0, 1: 2, 2: 1, 3: 3}),
        ("brats2023", "msd_task01", {0: 0, 1: 2, 2: 1, 3: 3}),
        ("brats2024_ped", "brats2023_ped", {0: 0, 1: 3, 2: 1, 3: 1, 4: 2}),
        ("isles2022", "lesion", {0: 0, 1: 1}),
    ],
)
def test_declared_equivalences(source, target, mapping):
    assert conversion(source, target) == mapping


@pytest.mark.parametrize(
    ("source", "target", "told"),
    [
        ("brats2023", "brats2015", r"label 1 \(NCR\) of brats2023 is several in brats2015 \(1 NCR, 3 NET\)"),
        ("brats2015", "brats2024_ped", r"label 1 \(NCR\) of brats2015 is several in brats2024_ped \(2 NET, 3 CC\)"),
        (
            "brats2023",
            "lesion",
            r"label 1 \(NCR\) of brats2023 has no counterpart in lesion \(lesion\); choose another",
        ),
        ("myops2020", "brats2023", "has no counterpart"),
    ],
)
def test_what_cannot_be_converted_is_told(source, target, told):
    with pytest.raises(InputError, match=told):
        conversion(source, target)


def test_regions_of_one_name_and_two_meanings_are_refused():
    other = schemas.LabelSchema("other", SCHEMAS["brats2023"].labels, {"TC": (3,)}, "")
    with pytest.raises(InputError, match="TC of brats2023 is not TC of other"):
        conversion("brats2023", other)


def test_the_resection_cavity_is_never_tumour():
    for name in schemas.convertible(SCHEMAS["brats2024"]):
        assert conversion("brats2024", name)[4] == 0


@pytest.mark.parametrize("schema", SCHEMAS.values(), ids=lambda s: s.name)
def test_every_schema_names_its_source_and_survives_json(schema):
    assert len(schema.source) > 10
    assert schema.year or schema.name == "lesion"
    stored = json.loads(json.dumps(schema.to_json(), sort_keys=False))
    assert schemas.schema_from_json(stored) == schema
    assert list(schemas.schema_from_json(stored).regions) == list(schema.regions), "the order is part of it"


def test_a_teacher_of_another_meaning_is_refused():
    schemas.check_same_classes(SCHEMAS["brats2024"], SCHEMAS["brats2021"], "the teacher")
    with pytest.raises(InputError, match=r"the teacher was trained on msd_task01 \(ED, NET, ET\), the cohort's labels"):
        schemas.check_same_classes(SCHEMAS["brats2023"], SCHEMAS["msd_task01"], "the teacher")


GOOD = {"name": "mine", "labels": {"1": "core", "2": "rim"}, "regions": {"all": [1, 2], "core": [1]}}
FAULTS = {
    "a list": ([], "a schema is an object"),
    "no name": ({**GOOD, "name": " "}, "the schema's name is ' '"),
    "no labels": ({**GOOD, "labels": {}}, "labels of schema mine must map integers to names"),
    "a label without a name": ({**GOOD, "labels": {"1": ""}}, "labels of schema mine must map integers to names"),
    "background as a label": ({**GOOD, "labels": {"0": "core"}}, "'0' is no integer from 1 to 65535"),
    "a word as a label": ({**GOOD, "labels": {"one": "core"}}, "'one' is no integer"),
    "a large label": ({**GOOD, "labels": {"70000": "core"}}, "'70000' is no integer from 1 to 65535"),
    "one name twice": ({**GOOD, "labels": {"1": "a", "2": "a"}}, "gives one label twice"),
    "no regions": ({**GOOD, "regions": {}}, "regions of schema mine must map names"),
    "an empty region": ({**GOOD, "regions": {"all": []}}, "region 'all' of schema mine is []"),
    "an unknown label": (
        {**GOOD, "regions": {"all": [1, 3]}},
        "region all of schema mine names 3; its labels are 1, 2",
    ),
    "a misspelt field": ({**GOOD, "region": {}}, "no field 'region'; did you mean 'regions'?"),
    "ignored and meant": ({**GOOD, "ignored": [2]}, "schema mine ignores 2, which is a label"),
    "ignored as one": ({**GOOD, "ignored": 4}, "ignored of schema mine is 4; give a list"),
    "true": ({**GOOD, "regions": {"all": [True]}}, "True is no integer"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_schema_at_fault_is_told_in_one_line_with_its_file(tmp_path, fault):
    values, told = FAULTS[fault]
    path = tmp_path / "m.schema.json"
    path.write_text(json.dumps(values))
    with pytest.raises(InputError) as refusal:
        read_schema(path)
    assert told in str(refusal.value)
    assert str(refusal.value).startswith(f"{path}: ")
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 100_000], ids=["empty", "cut", "no text", "deep"])
def test_a_file_that_is_no_json_is_told(tmp_path, content):
    (tmp_path / "m.schema.json").write_bytes(content)
    with pytest.raises(InputError, match="is not a readable JSON file"):
        read_schema(tmp_path / "m.schema.json")
