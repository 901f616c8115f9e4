"""Sweeps of recipes: what a point means, what is kept, what a fault or a lost worker costs."""

import json
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pandas as pd
import pytest

from mtg_lab import training
from mtg_lab.errors import InputError
from mtg_lab.evaluation import evaluate
from mtg_lab.files import cache_folder
from mtg_lab.protocol import read_scores
from mtg_lab.recipes import override, preset
from mtg_lab.score_stream import stream_file
from mtg_lab.sweeps import read_sweep_folder, recipes_of, sweep


@pytest.fixture
def here():
    """Works in this process."""
    with ThreadPoolExecutor(1) as pool:
        yield pool


# --- points ---------------------------------------------------------------------------------------------------------


def test_a_point_is_a_recipe_called_by_what_differs(cohort):
    points = [{"method": m, "seed": s, "steps": 7} for m in ("dropout", "complete") for s in (0, 3)]
    found = recipes_of(points, "smoke", cohort)
    assert list(found) == [("dropout", 0), ("dropout", 3), ("complete", 0), ("complete", 3)]
    assert found["complete", 3] == preset("smoke", "complete", str(cohort.resolve()), 3, steps=7)

    points = [
        {"method": "aligned_teacher", "method.align_weight": w, "backbone": b}
        for w in (0.1, 1)
        for b in ("unet", "rfnet")
    ]
    found = recipes_of(points, "lab", cohort)
    assert [arm for arm, _ in found] == [
        f"aligned_teacher align_weight={w} backbone={b}" for w in (0.1, 1) for b in ("unet", "rfnet")
    ]
    assert found["aligned_teacher align_weight=1 backbone=rfnet", 0].method_options["align_weight"] == 1
    assert recipes_of([{}], "lab", cohort) == {("dropout", 0): preset("lab", manifest=str(cohort.resolve()))}


def test_a_teacher_is_that_of_the_same_seed_and_settings(cohort):
    point = {"method": "student", "teacher": "aligned_teacher", "seed": 5, "steps": 9, "method.temperature": 2.0,
             "missing": "uniform", "sampling.crop_voxels": 16}  # fmt: skip
    (recipe,) = recipes_of([point], "smoke", cohort).values()
    assert recipe.missing["rule"] == "uniform"
    settings = {"steps": 9, "sampling.crop_voxels": 16}
    assert recipe.teacher == override(preset("smoke", "aligned_teacher", str(cohort.resolve()), 5), settings)


@pytest.mark.parametrize(
    ("points", "words"),
    [
        ([{"stepz": 3}], "no such setting"),
        ([{"method": "nothing"}], "unknown method"),
        ([{"seed": "one"}], "seed is 'one'"),
        ([{"seed": 1}, {"seed": 1}], "dropout with seed 1 twice"),
        ([{"method": "student"}], "needs a teacher"),
        ([{"missing": "sometimes"}], "sometimes"),
    ],
)
def test_a_point_that_means_nothing_is_refused(cohort, points, words):
    with pytest.raises(InputError, match=words):
        recipes_of(points, "smoke", cohort)


# --- what is kept ---------------------------------------------------------------------------------------------------


def test_what_is_done_is_kept_and_not_done_again(tiny_recipe, here, tmp_path, monkeypatch):
    recipes = {("a", 0): tiny_recipe(steps=2, seed=8100), ("b", 0): tiny_recipe(steps=2, seed=8101)}
    table = sweep(recipes, tmp_path, here)
    assert table["status"].tolist() == ["done", "done"]
    assert table["run"].tolist() == [r.digest() for r in recipes.values()]
    scores = read_scores(tmp_path / "scores.csv")
    expected = evaluate(training.train(recipes["a", 0]), recipes["a", 0].cohort())
    of_a = scores[scores["arm"] == "a"].reset_index(drop=True)
    pd.testing.assert_frame_equal(of_a[expected.columns], expected)
    line = table.iloc[0]
    assert line["dice"] == pytest.approx(expected["value"].mean())
    assert line["dice_3_missing"] == pytest.approx(expected.loc[expected["modalities"] == 1, "value"].mean())
    assert line["parameters"] == sum(p.numel() for p in training.train(recipes["a", 0]).backbone().parameters())
    assert [run["arm"] for run in json.loads((tmp_path / "sweep.json").read_text())["runs"]] == ["a", "b"]

    runs, again = read_sweep_folder(tmp_path)
    told = runs.columns.drop("device_name")  # which an operating system may leave empty
    pd.testing.assert_frame_equal(runs[told], table[told], check_dtype=False)
    pd.testing.assert_frame_equal(again, scores)

    monkeypatch.setattr("mtg_lab.evaluation.evaluate", None)  # nobody asks for it
    pd.testing.assert_frame_equal(sweep(recipes, tmp_path), table)


def test_what_fails_is_tried_once_more_and_told(tiny_recipe, here, tmp_path, monkeypatch):
    recipes = {(arm, 0): tiny_recipe(steps=2, seed=8110 + n) for n, arm in enumerate(("fine", "once", "ever", "bad"))}
    seeds, whole, asked = {arm: r.seed for (arm, _), r in recipes.items()}, training.train, []

    def failing(recipe, *_, **__):
        asked.append(recipe.seed)
        if recipe.seed == seeds["bad"]:
            raise InputError("the scan is torn; copy it again")
        if recipe.seed == seeds["ever"] or (recipe.seed == seeds["once"] and asked.count(recipe.seed) == 1):
            raise RuntimeError("out of\nmemory")
        return whole(recipe)

    monkeypatch.setattr(training, "train", failing)
    table = sweep(recipes, tmp_path, here).set_index("arm")
    assert table["status"].to_dict() == {"fine": "done", "once": "done", "ever": "failed", "bad": "failed"}
    assert table["attempts"].to_dict() == {"fine": 1, "once": 2, "ever": 2, "bad": 1}, "bad input stays bad"
    assert table.loc["ever", "error"] == "RuntimeError: out of memory"
    assert table.loc["bad", "error"] == "the scan is torn; copy it again"
    assert sorted(set(read_scores(tmp_path / "scores.csv")["arm"])) == ["fine", "once"]


def test_what_has_ended_lies_there_after_an_interruption(tiny_recipe, here, tmp_path, monkeypatch):
    recipes = {("a", 0): tiny_recipe(steps=2, seed=8120), ("b", 0): tiny_recipe(steps=2, seed=8121)}
    whole = training.train

    def interrupted(recipe, *_, **__):
        if recipe.seed == 8121:
            raise KeyboardInterrupt
        return whole(recipe)

    monkeypatch.setattr(training, "train", interrupted)
    with pytest.raises(KeyboardInterrupt):
        sweep(recipes, tmp_path, here)
    assert pd.read_csv(tmp_path / "runs.csv")["arm"].tolist() == ["a"]
    assert set(read_scores(tmp_path / "scores.csv")["arm"]) == {"a"}


def test_tables_of_different_protocols_are_not_joined(tiny_recipe, here, tmp_path):
    recipes = {(f"{c}", 0): override(tiny_recipe(steps=1, seed=8130), {"sampling.crop_voxels": c}) for c in (16, 24)}
    with pytest.warns(UserWarning, match="scores.csv is not written: these scores cannot be compared"):
        assert sweep(recipes, tmp_path, here)["status"].tolist() == ["done", "done"]


def test_nothing_and_a_split_that_is_not_there_are_refused(tiny_recipe, here, tmp_path):
    with pytest.raises(InputError, match="nothing to sweep"):
        sweep({}, tmp_path, here)
    with pytest.raises(InputError, match="no subject in split 'exam'"):
        sweep({("a", 0): tiny_recipe()}, tmp_path, here, split="exam")


def test_a_folder_without_a_sweep_is_refused(tmp_path):
    with pytest.raises(InputError, match="holds no sweep"):
        read_sweep_folder(tmp_path)
    (tmp_path / "runs.csv").write_text("arm,seed\na,0\n")
    with pytest.raises(InputError, match=r"runs\.csv is damaged"):
        read_sweep_folder(tmp_path)
    (tmp_path / "runs.csv").write_text("arm,seed,status,error\na,0,failed,memory\n")
    with pytest.raises(InputError, match=r"no run of the sweep .* is done"):
        read_sweep_folder(tmp_path)
    (tmp_path / "runs.csv").write_text("arm,seed,status,error\na,0,done,\n")
    with pytest.raises(InputError, match=r"has no scores\.csv: its runs were not scored alike"):
        read_sweep_folder(tmp_path)


def test_the_rest_of_an_interrupted_scoring_is_not_told_as_its_time(tiny_recipe, here, tmp_path):
    recipes = {("a", 0): tiny_recipe(steps=2, seed=8150)}
    run = sweep(recipes, tmp_path, here)["run"][0]
    path = tmp_path / "scores" / f"{run}-test.csv"
    whole = read_scores(path)
    for left in (path, path.with_suffix(".facts.json")):
        left.unlink()
    stream_file(path).touch()
    table = sweep(recipes, tmp_path, here)
    assert table["scoring_seconds"].isna().all()
    assert table["parameters"].notna().all()
    pd.testing.assert_frame_equal(read_scores(path), whole)


# --- a lost worker --------------------------------------------------------------------------------------------------


def test_a_killed_worker_loses_only_its_run(tiny_recipe, tmp_path):
    from distributed import default_client

    from mtg_lab.clusters import workers_here

    recipes = {("a", s): tiny_recipe(steps=40, seed=8140 + s) for s in range(3)}
    logs = [cache_folder("runs", r.digest(), "log.txt") for r in recipes.values()]
    found = []
    with workers_here(2) as executor:
        client = default_client()
        before = client.run(os.getpid)
        working = threading.Thread(target=lambda: found.append(sweep(recipes, tmp_path, executor)))
        working.start()
        deadline = time.monotonic() + 120
        while sum(log.is_file() for log in logs) < 2 and time.monotonic() < deadline:  # both workers are at it
            time.sleep(0.05)
        assert not any("done:" in log.read_text() for log in logs if log.is_file()), "nobody is to be killed idle"
        holders = {address: keys for address, keys in client.processing().items() if keys}
        lost = before[next(iter(holders))]
        os.kill(lost, signal.SIGKILL)
        working.join(240)
        assert lost not in client.run(os.getpid).values()
    (table,) = found
    assert table["status"].tolist() == ["done"] * 3
    assert table["attempts"].tolist() == [1] * 3, "the cluster hands the run to the next worker"
    starts = [log.read_text().count(" started") for log in logs]
    assert sorted(starts) == [1, 1, 2], "one run began anew, no other was touched"
    assert all(log.read_text().count("done:") == 1 for log in logs)
