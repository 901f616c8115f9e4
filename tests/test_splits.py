"""What doctor says of a split: sites that are not shared out, regions and sequences that are not there."""

from pathlib import Path

import numpy as np
import pytest
from scipy.stats import chi2_contingency

from mtg_lab import splits
from mtg_lab.manifest import Manifest, Subject
from mtg_lab.splits import split_findings

VOLUMES = {"WT": 30.0, "TC": 10.0, "ET": 5.0}


def cohort(places):
    """A manifest of healthy rows, one for each (site, split)."""
    rows = tuple(Subject(f"P{i}", {"t1c": Path("a")}, split=split, site=site) for i, (site, split) in enumerate(places))
    return Manifest(Path("m.csv"), ("t1c",), rows)


def found(places, volumes=VOLUMES):
    manifest = cohort(places)
    return list(split_findings(manifest, {s.name: volumes for s in manifest}))


def test_a_split_drawn_within_each_site_is_no_finding():
    assert found([(site, split) for site in "ABC" for split in ["train"] * 6 + ["val"] * 2 + ["test"] * 2]) == []


def test_a_site_of_the_test_split_alone_is_named():
    places = [("A", "train")] * 8 + [("A", "test")] * 4 + [("A", "val")] * 4 + [("B", "test")] * 6
    first, second = found(places)
    assert (first.severity, first.code) == ("warning", "site-one-split")
    assert first.line == "m.csv: site B occurs in split test only (6 subjects)"
    assert first.mend == "training never sees this site, share it out unless that is the question"
    assert second.code == "site-imbalance"
    assert "site B has 6 of its 6 subjects in split test, 2.7 would be even" in second.line


def test_a_site_that_only_trains_is_a_note():
    places = [("A", "train")] * 8 + [("A", "test")] * 4 + [("A", "val")] * 4 + [("B", "train")] * 2
    (finding,) = found(places)
    assert (finding.severity, finding.code) == ("note", "site-one-split")


def test_one_subject_of_a_site_can_only_be_in_one_split():
    assert found([("A", "train")] * 8 + [("A", "test")] * 4 + [("A", "val")] * 4 + [("B", "test")]) == []


def test_the_statistic_is_that_of_scipy():
    rng = np.random.default_rng(0)
    rows, columns = rng.integers(0, 3, 80), rng.integers(0, 2, 80)
    table = splits._crossed(rows, columns, (3, 2))
    reference = chi2_contingency(table, correction=False)
    assert table.sum() == 80
    assert splits._chi_square(table, reference.expected_freq) == pytest.approx(reference.statistic)


def test_random_splits_are_seldom_blamed():
    """At the level of one in a hundred, 40 random splits are blamed at most a few times."""
    rng = np.random.default_rng(0)
    blamed = 0
    for _ in range(40):
        split = rng.permutation(["train"] * 36 + ["val"] * 9 + ["test"] * 15)
        blamed += any(f.code == "site-imbalance" for f in found(list(zip(rng.permutation(list("ABC") * 20), split))))
    assert blamed <= 3


def test_rows_without_a_site_are_passed_over():
    assert found([(None, split) for split in ["train"] * 5 + ["val"] * 3 + ["test"] * 3]) == []
    assert found([(None, "train")] * 3 + [("A", "train"), ("B", "val")] * 3 + [(None, "test")] * 3)[0].code


def test_a_region_that_no_subject_has_is_named_with_the_split():
    places = [("A", split) for split in ["train"] * 3 + ["val"] * 3 + ["test"] * 3]
    manifest = cohort(places)
    volumes = {s.name: {**VOLUMES, "ET": 0.0 if s.split == "val" else 5.0} for s in manifest}
    (finding,) = split_findings(manifest, volumes)
    assert (finding.severity, finding.code) == ("warning", "region-absent")
    assert "no subject of split val has ET (3 with a label)" in finding.line


def test_a_cohort_without_test_split_is_warned_of():
    codes = {(f.severity, f.code, f.line.split(": ")[1]) for f in found([("A", "train")] * 5)}
    assert ("warning", "split-absent", "no row is in split test") in codes
    assert ("note", "split-absent", "no row is in split val") in codes
