"""The table of the gap: intervals, nulls, parts and pairs; the measures have tests of their own."""

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from clouds import cloud

from mtg_lab.errors import InputError
from mtg_lab.gap import BASIC, MEASURES, described, gap, gap_by, gap_matrix

QUICK = ("centroid_gap", "relative_gap")


def numbers(table, **options):
    return gap(table, **{"draws": 0, "nulls": 0, **options}).set_index("metric")["value"]


def test_every_measure_has_a_row_an_interval_and_a_null():
    table = gap(cloud(offset=1.0, shared=0.5), draws=50, nulls=19).set_index("metric")
    assert list(table.index) == list(MEASURES)
    assert list(table) == ["value", "low", "high", "null_mean", "null_low", "null_high", "p"]
    assert (table["low"] <= table["value"]).all()
    assert (table["value"] <= table["high"]).all()
    assert (table["low"] < table["high"]).all()
    permuted = [name for name, m in MEASURES.items() if m.null]
    assert table.loc[permuted, "p"].tolist() == pytest.approx([0.05] * len(permuted)), "one of twenty, the observed"
    assert table.loc[["latent_scale", "effective_rank"], "p"].isna().all()


def test_nothing_is_drawn_where_nothing_is_asked_for():
    table = gap(cloud(offset=1.0), draws=0, nulls=0, measures=QUICK)
    assert table["metric"].tolist() == list(QUICK)
    assert table.drop(columns=["metric", "value"]).isna().all(axis=None)


def test_a_seed_fixes_intervals_and_nulls():
    table = cloud(offset=0.2, subjects=4)
    once = gap(table, draws=20, nulls=20, measures=QUICK, seed=1)
    pd.testing.assert_frame_equal(gap(table, draws=20, nulls=20, measures=QUICK, seed=1), once)
    assert not gap(table, draws=20, nulls=20, measures=QUICK, seed=2).equals(once)


def test_one_measure_does_not_change_with_the_others():
    table = cloud(offset=1.0, subjects=4)
    alone = gap(table, draws=10, nulls=10, measures=["mmd"]).iloc[0]
    among = gap(table, draws=10, nulls=10).set_index("metric").loc["mmd"]
    assert alone.drop("metric").tolist() == among.tolist()


def test_the_interval_shrinks_with_the_number_of_subjects():
    widths = []
    for subjects in (5, 80):
        row = gap(cloud(offset=1.0, subjects=subjects), nulls=0, measures=QUICK).set_index("metric").loc["relative_gap"]
        widths.append(row["high"] - row["low"])
    assert widths[1] < 0.6 * widths[0]


def test_the_interval_of_a_distance_that_cannot_be_negative_holds_it():
    """Drawn with repetition, subjects of one law look further apart than they are."""
    row = gap(cloud(subjects=16), nulls=0, measures=["sliced_wasserstein"]).iloc[0]
    assert row["low"] < row["value"] < row["high"]


def test_the_order_of_rows_does_not_matter():
    table = cloud(offset=1.0, shared=0.5, modalities=3)
    shuffled = table.sample(frac=1, random_state=0)
    pd.testing.assert_series_equal(numbers(shuffled).drop("silhouette"), numbers(table).drop("silhouette"), rtol=0.05)


def test_voxels_that_lack_a_modality_do_not_count():
    table = cloud(offset=1.0, modalities=3)
    lacking = table.drop(table[(table["modality"] == "t2w") & (table["subject"] < "P4")].index)
    whole = table[table["subject"] >= "P4"]
    assert numbers(lacking, measures=QUICK).to_dict() == pytest.approx(numbers(whole, measures=QUICK).to_dict())


def test_a_gap_needs_two_modalities():
    with pytest.raises(InputError, match="these latents are of t1n alone; a gap needs two"):
        gap(cloud(modalities=1))
    halves = cloud()
    apart = halves[(halves["modality"] == "t1n") == (halves["subject"] < "P4")]
    with pytest.raises(InputError, match="no voxel of these latents has all modalities"):
        gap(apart)


def test_an_unknown_measure_is_told_which_there_are():
    with pytest.raises(InputError, match="unknown gap measure 'gap'; there are: centroid_gap, relative_gap, "):
        gap(cloud(), measures=["gap"])
    with pytest.raises(InputError, match="unknown gap measure 'gap'"):
        gap_matrix(cloud(), "gap")


# --- parts and pairs --------------------------------------------------------------------------------------------------


def test_parts_are_measured_as_if_they_were_alone():
    table = cloud(offset=1.0, tissues=3, voxels=60)
    parts = gap_by(table, "tissue", draws=0, nulls=0, measures=QUICK)
    assert list(parts)[:3] == ["tissue", "metric", "value"]
    assert parts["tissue"].unique().tolist() == ["brain", "ED", "ET"]
    edema = numbers(table[table["tissue"] == "ED"], measures=QUICK)
    assert parts[parts["tissue"] == "ED"].set_index("metric")["value"].to_dict() == edema.to_dict()


def test_layers_may_have_channels_of_their_own():
    fine, coarse = cloud(offset=1.0), cloud(offset=1.0, channels=6)
    both = pd.concat([fine.assign(layer="fine"), coarse.assign(layer="coarse")])
    parts = gap_by(both, "layer", draws=0, nulls=0, measures=QUICK).set_index(["layer", "metric"])["value"]
    assert parts["fine"].to_dict() == numbers(fine, measures=QUICK).to_dict()
    assert parts["coarse"].to_dict() == numbers(coarse, measures=QUICK).to_dict()


def test_parts_need_a_column():
    with pytest.raises(InputError, match="no column 'layer'; they have subject, site, tissue"):
        gap_by(cloud(), "layer")
    with pytest.raises(InputError, match="no part of these latents by modality"):
        gap_by(cloud(), "modality")


def test_the_matrix_holds_the_gap_of_every_pair():
    """Modalities at 0, 1 and 2 on a line: the outer two are twice as far apart."""
    table = cloud(offset=1.0, modalities=3, subjects=20, voxels=100)
    found = gap_matrix(table, "centroid_gap")
    assert found.index.tolist() == found.columns.tolist() == ["t1n", "t1c", "t2w"]
    assert np.isnan(np.diag(found)).all()
    np.testing.assert_allclose(found, found.T)
    assert found.loc["t1n", "t2w"] == pytest.approx(2 * found.loc["t1n", "t1c"], rel=0.1)
    pair = table[table["modality"] != "t1c"]
    assert found.loc["t1n", "t2w"] == pytest.approx(numbers(pair, measures=["centroid_gap"])["centroid_gap"])


def test_every_measure_says_what_it_sees_and_is_blind_to():
    words = described()
    assert words.index.tolist() == list(MEASURES)
    assert (words.map(len) > 3).all(axis=None)
    assert (words.map(len) < 50).all(axis=None), "a notebook cuts longer ones"
    assert set(BASIC) <= set(MEASURES)


# --- calling it -------------------------------------------------------------------------------------------------------


def test_gap_can_be_called_by_the_name_of_the_package():
    """The function and its module share a name; importing the module must not hide the function."""
    code = (
        "import mtg_lab, numpy as np, pandas as pd; z = np.random.default_rng(0).normal(size=(8, 2));"
        "t = pd.DataFrame({'subject': list('aabbccdd'), 'tissue': 'x', 'voxel': 0, 'modality': ['p', 'q'] * 4,"
        "'z0': z[:, 0], 'z1': z[:, 1]}); o = {'draws': 0, 'nulls': 0, 'measures': ['centroid_gap']};"
        "print(len(mtg_lab.gap(t, **o)));"
        "import mtg_lab.gap; print(len(mtg_lab.gap(t, **o)), len(mtg_lab.gap.gap(t, **o)))"
    )  # fmt: skip
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert child.stdout.split() == ["1", "1", "1"], child.stderr
