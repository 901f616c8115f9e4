"""Numbers of others: each with where it was read, compared within its own table only, kept apart from ours."""

import pandas as pd
import pytest

from mtg_lab import lesson, vocabulary
from mtg_lab.errors import InputError
from mtg_lab.literature import AVERAGE, claimed, claimed_gains, reported_spread
from mtg_lab.score_cube import score_cube

MODALITIES = ("t1n", "t1c", "t2w", "t2f")


def value_of(block, method, region):
    table = claimed()
    (row,) = table[
        (table["block"] == block) & (table["method"] == method) & (table["region"] == region)
        & (table["subset"] == AVERAGE)
    ].to_dict("records")  # fmt: skip
    return row["value"]


def test_every_number_says_where_it_was_read():
    table = claimed()
    assert len(table) > 200
    for column in (
        "block",
        "method",
        "paper",
        "source",
        "table",
        "dataset",
        "split",
        "subset",
        "postprocessing",
        "note",
    ):
        assert table[column].str.strip().ne("").all(), column
    assert set(table["origin"]) == {"own", "peer", "digest", "rerun"} == set(lesson.measured("literature")[1]["origin"])
    assert set(table["region"]) == {"WT", "TC", "ET"}
    assert set(table["metric"]) == {"dice"}
    assert set(table["unit"]) == {"%"}
    assert table["year"].between(2015, 2025).all()
    assert table["value"].between(20, 100).all(), "percent"
    assert not table.duplicated(["block", "method", "region", "subset"]).any()
    for subset in set(table.loc[~table["doubtful"], "subset"]) - {AVERAGE}:
        assert vocabulary.subset_name(vocabulary.parse_subset(subset, MODALITIES), MODALITIES) == subset


@pytest.mark.parametrize(
    ("block", "method", "values"),
    [("RFNet README, BraTS 2020", "RFNet", (86.98, 78.23, 61.47)),
     ("RFNet README, BraTS 2018", "HeMIS", (78.60, 59.70, 48.10)),
     ("DeMoSeg README, BraTS 2020", "DeMoSeg", (88.90, 81.58, 69.71)),
     ("DC-Seg reproduction, BraTS 2020", "DC-Seg", (87.09, 78.85, 64.42)),
     ("IM-Fuse, BraTS 2023", "IM-Fuse", (90.2, 85.5, 74.3))],
)  # fmt: skip
def test_numbers_are_those_of_their_sources(block, method, values):
    """Read again in the repositories that the rows name."""
    assert tuple(value_of(block, method, r) for r in ("WT", "TC", "ET")) == values


def test_an_average_is_that_of_its_fifteen_rows():
    rows = claimed("BraTS", 2020).query("block == 'DC-Seg reproduction, BraTS 2020'")
    for region, part in rows.groupby("region"):
        single = part[part["subset"] != AVERAGE]["value"]
        assert len(single) == 15
        assert single.mean() == pytest.approx(value_of("DC-Seg reproduction, BraTS 2020", "DC-Seg", region), abs=0.01)


def test_a_gain_is_over_the_best_other_of_the_same_table():
    gains = claimed_gains().set_index(["block", "region"])
    row = gains.loc["RFNet README, BraTS 2020", "ET"]
    assert (row["method"], row["over"]) == ("RFNet", "RobustSeg")
    assert row["gain"] == pytest.approx(61.47 - 55.49)
    assert gains.loc[("DeMoSeg README, BraTS 2015", "ET"), "gain"] == pytest.approx(66.17 - 66.92), "not best there"
    assert ("MST-KDNet, BraTS 2024", "WT") not in gains.index, "the rows beside it are doubtful"
    assert gains.loc[("MST-KDNet, BraTS 2024", "ET"), "over"] == "M2FTrans"
    assert gains.index.is_unique


def test_a_spread_needs_two_different_values():
    spread = reported_spread().set_index(["method", "year", "region"])
    assert spread.loc[("mmFormer", 2018, "WT"), ["low", "high", "reports"]].tolist() == [82.94, 86.38, 3]
    assert spread.loc[("mmFormer", 2018, "WT"), "range"] == pytest.approx(3.44)
    assert (spread["range"] > 0).all()
    assert ("RFNet", 2015, "WT") not in spread.index, "a copied number is one report"
    assert spread.loc[("DC-Seg", 2020, "ET"), "low"] == 64.42, "raw ET is another quantity"


def test_a_part_of_the_table_or_none():
    assert set(claimed(year=2023)["block"]) == {"IM-Fuse, BraTS 2023"}
    assert set(claimed("FeTS")["year"]) == {2024}
    assert claimed_gains(claimed("FeTS")).empty
    with pytest.raises(InputError, match="no number of BraTS 2012 is kept; there are: 2015, 2018"):
        claimed("BraTS", 2012)


def test_they_are_not_taken_for_scores():
    with pytest.raises(InputError, match="no table of scores: it lacks the column subject"):
        score_cube(claimed())
    pd.testing.assert_frame_equal(lesson.measured("literature")[0]["scores"][["method", "value"]],
                                  claimed()[["method", "value"]])  # fmt: skip
