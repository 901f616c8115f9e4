"""The benchmarks measure what they say: ratios within a round, sections that fill one table."""

import sys
from pathlib import Path

import pandas as pd
import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def scripts(monkeypatch):
    """The folder of benchmarks on the path, and what was imported from it forgotten afterwards."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    names = {path.stem for path in BENCHMARKS.glob("*.py")}
    before = set(sys.modules)
    yield
    for name in names & (set(sys.modules) - before):
        del sys.modules[name]


def test_ratios_are_of_one_round_and_their_median_is_no_ratio_of_medians(scripts):
    from timing import ratios

    measured = pd.DataFrame({"plain": [1.0, 10.0, 2.0], "ours": [0.5, 2.0, 2.0]})
    cost = ratios(measured, lambda _: "plain").set_index("case")
    assert cost.loc["ours", ["seconds", "ratio", "least", "most"]].tolist() == [2.0, 0.5, 0.2, 1.0]
    assert cost.loc["plain", ["ratio", "least", "most"]].tolist() == [1, 1, 1]
    faster = ratios(measured, lambda _: "plain", faster=True).set_index("case")
    assert faster.loc["ours", ["ratio", "least", "most"]].tolist() == [2.0, 1.0, 5.0]


def test_ways_are_timed_in_turn_after_a_round_that_warms_up(scripts):
    from timing import in_turn

    called = []
    ways = {("a", 1): lambda: called.append("a"), ("b", 2): lambda: called.append("b")}
    measured = in_turn(ways, rounds=2)
    assert called == ["a", "b"] * 3
    assert measured.shape == (2, 2)
    assert list(measured.columns) == [("a", 1), ("b", 2)]


def test_every_section_fills_the_same_table_beside_the_machine(scripts, monkeypatch, tmp_path):
    import bench

    out = tmp_path / "new" / "bench.csv"
    chosen = ["start", "phantom"]
    arguments = ["bench.py", "--preset", "smoke", "--rounds", "1", "--only", *chosen, "--out", str(out)]
    monkeypatch.setattr("sys.argv", arguments)
    bench.main()
    table = pd.read_csv(out)
    assert list(table["section"].unique()) == chosen
    assert list(table.columns[: len(bench.COLUMNS)]) == bench.COLUMNS
    assert {"processor", "threads", "torch", "mtg-lab"} <= set(table.columns)
    assert (table["seconds"] > 0).all()
    start = table.set_index("case")
    assert start.loc["python -c pass", "ratio"] == 1
    assert start.loc["mtg-lab --help", "ratio"] > 1
    assert set(bench.SECTIONS) == set(bench.__doc__.split()) & set(bench.SECTIONS), "the docstring names every section"


def test_what_cannot_be_measured_is_refused(scripts, monkeypatch, tmp_path):
    import bench

    out = tmp_path / "bench.csv"
    monkeypatch.setattr("sys.argv", ["bench.py", "--rounds", "0", "--out", str(out)])
    with pytest.raises(SystemExit, match="--rounds is 0; a ratio needs at least 1"):
        bench.main()
    monkeypatch.setattr("sys.argv", ["bench.py", "--preset", "big", "--out", str(out)])
    with pytest.raises(SystemExit):
        bench.main()
    assert not out.exists()
