"""The summary of a paper: means that a hand can check, and bold that never says more than a test does."""

import numpy as np
import pandas as pd
import pytest
from score_tables import table_of

from mtg_lab.score_summary import escaped, latex, leaders, summary, wide
from mtg_lab.statistics import paired_tests


def by_patient(p, s, r):
    return (0.1 * p + 0.2) if r == "WT" else 0.5


def test_the_mean_weighs_every_subset_alike_and_spreads_over_seeds_are_those_of_numpy():
    tables = {seed: table_of(lambda p, s, r, seed=seed: by_patient(p, s, r) + 0.1 * seed) for seed in (0, 1, 2)}
    found = summary({"ours": tables}, draws=200).set_index("region")
    assert found.loc["WT", "mean"] == pytest.approx(np.mean([0.2, 0.3, 0.4, 0.5]) + 0.1)
    assert found.loc["ET", "mean"] == pytest.approx(0.6)
    assert found.loc["all", "mean"] == pytest.approx(0.525)
    assert found.loc["WT", "sd_seeds"] == pytest.approx(np.std([0, 0.1, 0.2], ddof=1))
    assert (found["low"] <= found["mean"]).all()
    assert (found["mean"] <= found["high"]).all()
    assert set(found["subjects"]) == {4}
    assert set(found["seeds"]) == {3}


def test_one_training_has_no_spread_between_seeds():
    assert summary({"ours": table_of(by_patient)}, draws=20)["sd_seeds"].isna().all()


def test_bold_joins_the_best_to_what_no_test_sets_below_it():
    """Eight patients: a constant gain is significant, a gain of either sign is not."""
    base = table_of(lambda p, s, r: 0.3 + 0.02 * p, subjects=8, regions=("WT",))
    better = table_of(lambda p, s, r: 0.5 + 0.021 * p, subjects=8, regions=("WT",))
    alike = table_of(lambda p, s, r: 0.5 + 0.02 * p + 0.1 * (-1) ** p, subjects=8, regions=("WT",))
    scores = {"base": base, "better": better, "alike": alike}
    table, tests = summary(scores, draws=20), paired_tests(scores, draws=20)
    assert leaders(table, tests) == {("better", "WT"), ("alike", "WT")}
    assert leaders(table, None) == {("better", "WT")}
    written = latex(table, "Dice, 95 % intervals", "tab:dice", tests)
    assert written.count(r"\textbf") == 2
    (line,) = [line for line in written.splitlines() if line.startswith("base")]
    assert "textbf" not in line


def test_of_distances_the_smallest_is_the_best():
    near, far = (table_of(lambda p, s, r, v=v: v + p, regions=("WT",)).assign(metric="hd95") for v in (2.0, 5.0))
    assert leaders(summary({"near": near, "far": far}, "hd95", draws=20), None, "hd95") == {("near", "WT")}


def test_one_method_leads_nobody():
    assert leaders(summary({"ours": table_of(by_patient)}, draws=20), None) == set()


def test_cells_are_mean_and_interval_in_the_order_given():
    shown = wide(summary({"b": table_of(by_patient), "a": table_of(by_patient)}, draws=20))
    assert list(shown.index) == ["b", "a"]
    assert list(shown.columns) == ["WT", "ET", "all regions"]
    assert shown.loc["a", "ET"] == "0.500 [0.500, 0.500]"


def test_what_was_not_scored_is_no_number():
    table = table_of(lambda p, s, r: np.nan if r == "ET" else 0.5)
    shown = wide(summary({"ours": table}, draws=20))
    assert shown.loc["ours", "ET"] == "not scored"
    assert " -- " in latex(summary({"ours": table}, draws=20), "", "x")


def test_every_line_of_the_tabular_has_as_many_cells_as_its_head():
    table = summary({"ours_1": table_of(by_patient), "theirs & co": table_of(by_patient)}, draws=20)
    body = latex(table, "50 % of $x_1$", "tab:x").splitlines()
    rows = [line for line in body if line.endswith(r"\\")]
    assert len(rows) == 3
    assert {line.replace(r"\&", "").count("&") for line in rows} == {3}
    assert any(line.startswith(r"theirs \& co &") for line in rows)
    assert r"\caption{50 \% of \$x\_1\$}" in body


def test_characters_that_tex_reads_are_made_plain():
    assert escaped(r"a_b & 5% {x} #1 $ ~ ^ \end") == (
        r"a\_b \& 5\% \{x\} \#1 \$ \textasciitilde{} \textasciicircum{} \textbackslash{}end"
    )


def test_tables_are_data_frames_that_csv_can_hold(tmp_path):
    table = summary({"ours": table_of(by_patient)}, draws=20)
    table.to_csv(tmp_path / "t.csv", index=False)
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "t.csv"), table, check_dtype=False)
