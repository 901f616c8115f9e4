"""The benchmarks measure what they say: ratios within a round, sections that fill one table."""

import importlib
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from mtg_lab import phantom, read_manifest, training

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


def test_the_speed_that_is_told_is_the_speed_that_was_measured():
    """README, the page of benchmarks and notebook 12 against the last rows of the stored table."""
    rows = pd.read_csv(BENCHMARKS / "measured.csv").drop_duplicates(["section", "case"], keep="last")
    told = {p: (BENCHMARKS.parent / p).read_text() for p in ("README.md", "benchmarks/README.md")}
    lesson = (BENCHMARKS.parent / "notebooks/12_trained_on_nobody.ipynb").read_text()
    rows = rows.set_index(["section", "case"])
    ours = rows.loc["evaluation"].filter(regex="80.*, less the naive", axis=0).iloc[0]
    words = f"{ours['ratio']:.1f} [{ours['least']:.1f}, {ours['most']:.1f}]"
    differs = ours.name.split("naive loop's ")[1]
    for text in told.values():
        assert words in text
        assert differs in text
    seconds = rows["seconds"]
    assert f"a patient {seconds['phantom', '2 mm']:.2f} s plain" in lesson
    assert f"{seconds['phantom', '2 mm, all ingredients']:.1f} s with all ingredients" in lesson
    assert f"of a step {seconds['randomising', 'its crops']:.3f} s, where the step takes" in lesson
    step = {p: seconds["randomising", f"step, {p}"] for p in ("fp32", "bf16")}
    assert f"takes {step['fp32']:.2f} s in fp32 and {step['bf16']:.2f} s in bf16" in lesson
    assert f"At 1 mm a plain patient takes {seconds['phantom', '1 mm']:.1f} s" in lesson


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


STUDIES = ["alignment_study", "balancing_study", "strategies_study", "nobody_study", "fine_tuning"]


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_says_what_it_takes_without_training(scripts, name, monkeypatch, capsys):
    study = importlib.import_module(name)
    monkeypatch.setattr("sys.argv", [name, "--help"])
    with pytest.raises(SystemExit) as ended:
        study.main()
    assert ended.value.code == 0
    told = capsys.readouterr().out
    assert all(option in told for option in ("--seeds", "--preset", "--jobs", "--out"))


def test_the_nobody_study_takes_away_one_ingredient_an_arm(scripts):
    from nobody_study import ARMS

    everything = set(phantom.chosen_ingredients("all"))
    lacking = {arm: everything - set(phantom.chosen_ingredients(words)) for arm, words in ARMS.items()}
    assert lacking["all"] == lacking["all_randomised"] == set()
    assert lacking["plain"] == lacking["plain_randomised"] == everything
    assert {name: lacking[f"no_{name}"] for name in everything} == {name: {name} for name in everything}


def test_the_strategies_study_changes_what_an_arm_says_and_nothing_else(scripts):
    from strategies_study import COMPARISONS, OPEN, PARTS, _opened, arms

    found = arms("smoke", "", 0, {"steps": 3})
    network = {a: (o.get("adapters", True), o.get("graph", True), o.get("gate", "hard"), o.get("presence_norm"))
               for a in PARTS if (o := found[a].backbone_options) or True}  # fmt: skip
    assert network["adamm"] == (True, True, "hard", None)
    assert network["adamm_no_adapters"] == (False, False, "hard", None)
    assert network["adamm_no_graph"] == (True, False, "hard", None)
    assert network["adamm_no_presence"] == (True, True, "off", None)
    assert network["adamm_free_head"] == (True, True, "hard", "none")
    terms = {a: found[a].method_options for a in PARTS}
    assert terms["adamm_no_bbdm"] == terms["adamm"] | {"style": "off", "content_weight": 0.0, "adversary_weight": 0.0}
    assert terms["adamm_no_presence"] == terms["adamm"] | {"presence_weight": 0.0, "presence_weights": False}
    assert terms["adamm_plain_units"] == terms["adamm"] | {"relative": False}
    assert terms["adamm_no_graph"] == terms["adamm_free_head"] == terms["adamm"]
    assert {a for a, r in found.items() if _opened(r)} == {a for a, b in COMPARISONS if b == a + OPEN}
    assert {r.steps for r in found.values()} == {3}
    for part in PARTS:
        same = replace(found[part], backbone_options={}, method_options={})
        assert same == replace(found["adamm"], backbone_options={}, method_options={}), part
    assert len({r.digest() for r in found.values()}) == len(found), "no arm is another again"
    alone = [r.missing["subset"] for arm, r in found.items() if arm.startswith("specialist ")]
    assert len(set(alone)) == 14


def test_a_drawn_patient_is_in_every_larger_sample_of_the_same_seed(scripts, cohort, tmp_path):
    from fine_tuning import drawn

    everyone = read_manifest(cohort)
    few, more = (
        {s.name for s in read_manifest(drawn(everyone, n, 1, "test", tmp_path)).split("train")} for n in (1, 3)
    )
    assert len(few) == 1
    assert len(more) == 3
    assert few < more


def test_specialists_are_one_line_with_the_cost_of_all_their_networks(scripts):
    from strategies_study import arm_line

    subsets = {"t1c": 1, "t2f": 1, "t1c+t2f": 2}
    scores = pd.DataFrame({"subset": list(subsets), "modalities": list(subsets.values()), "region": "WT"})
    scores["value"] = [0.2, 0.4, 0.9]
    two = pd.DataFrame({"parameters": [10, 10], "scoring_seconds": [1.0, 3.0], "seconds_per_step": [0.1, 0.3]})
    line = arm_line(("specialists", "", 0), scores, two)  # the third one's run is another arm's
    assert line["dice"] == pytest.approx(0.5)
    assert (line["dice_1"], line["dice_2"]) == pytest.approx((0.3, 0.9))
    assert (line["networks"], line["parameters"], line["scoring_seconds"]) == (3, 30, pytest.approx(6.0))
    one = arm_line(("dropout", "", 0), scores, two[:1])
    assert (one["networks"], one["parameters"], one["scoring_seconds"]) == (1, 10, 1.0)
    assert one["seconds_per_step"] == pytest.approx(0.1)


def test_a_study_is_packed_without_its_machine(scripts, tmp_path, monkeypatch):
    import json

    import pack

    for number in (0, 1):
        folder = tmp_path / f"fold{number}"
        folder.mkdir()
        pd.DataFrame({"dice": [0.12345678], "device_name": ["a machine"]}).to_csv(folder / "runs.csv", index=False)
        command = f"python benchmarks/some_study.py student {tmp_path}/gl{number}.csv --set steps=3 --out {folder}"
        (folder / "about.json").write_text(json.dumps({"command": command, "date": "2026-01-01"}))
    monkeypatch.setattr(pack, "HOME", tmp_path / "results")
    monkeypatch.setattr(sys, "argv", ["pack.py", *map(str, (tmp_path / "fold0", tmp_path / "fold1")), "--name", "both",
                                      "--tables", "runs"])  # fmt: skip
    pack.main()
    packed = pd.read_csv(tmp_path / "results" / "both" / "runs.csv")
    assert packed.to_dict("list") == {"dice": [0.123457] * 2, "fold": ["fold0", "fold1"]}
    facts = json.loads((tmp_path / "results" / "both" / "about.json").read_text())
    assert facts["date"] == "2026-01-01"
    assert facts["command"] == "; ".join(
        f"python benchmarks/some_study.py student out/gl{n}.csv --set steps=3 --out out/fold{n}" for n in (0, 1)
    )


def test_small_parts_are_chosen_by_dice_and_compared_within_patients(scripts):
    from small_parts import best, compared

    trials = pd.DataFrame({"mm3": [0.0, 500, 1000, 2000, 2000], "region": ["all"] * 4 + ["ET"],
                           "dice": [0.5, 0.6, 0.6497, 0.65, 0.9]})  # fmt: skip
    assert best(trials) == 1000, "the smallest of those that are as good"
    rows = [(s, subset, region, cut, region == "WT" or s != "p3", 0.5 + gain * cut + 0.1 * (s == "p1"), 0.5, 10.0)
            for s in ("p1", "p2", "p3") for subset in ("t1c", "t2f") for cut in (False, True)
            for region, gain in (("WT", 0.0), ("ET", 0.4 if s == "p3" else -0.1))]  # fmt: skip
    columns = ["subject", "subset", "region", "cut", "present", "dice", "sensitivity", "hd95"]
    found = compared(pd.DataFrame(rows, columns=columns)).query("metric == 'dice'").set_index(["region", "who"])
    assert found.loc[("ET", "all"), "difference"] == pytest.approx(0.2 / 3)
    assert found.loc[("ET", "all"), ["low", "high"]].tolist() == pytest.approx([-0.1, 0.4]), "of three: their range"
    assert found.loc[("ET", "with it"), ["difference", "patients"]].tolist() == pytest.approx([-0.1, 2])
    assert found.loc[("ET", "without it"), "difference"] == pytest.approx(0.4)
    assert found.loc[("all", "all"), "difference"] == pytest.approx(0.1 / 3)
    assert ("WT", "without it") not in found.index


def test_small_parts_are_scored_with_and_without(scripts, tiny_recipe, cohort, tmp_path):
    """With a size beyond any head nothing is left: Dice 0 where the region is, 1 where it is not."""
    from small_parts import compared, scored

    run = training.train(tiny_recipe())
    table = scored(run, str(cohort), "test", 1e9, tmp_path)
    assert set(table["region"]) == {"WT", "TC", "ET"}
    gone = table[table["cut"]]
    assert (gone["dice"] == ~gone["present"]).all()
    assert table[~table["cut"]]["dice"].nunique() > 2
    found = compared(table).set_index(["region", "who", "metric"])
    assert found.loc[("WT", "with it", "sensitivity"), "after"] == 0
