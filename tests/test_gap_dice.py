"""How far a subset moves the latents, what it costs in Dice, and how the two go together."""

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import spearmanr

from mtg_lab.data import cached_dataset
from mtg_lab.errors import InputError
from mtg_lab.gap_dice import correlation, dice_lost, displacement
from mtg_lab.hardware import precision_context
from mtg_lab.manifest import read_manifest
from mtg_lab.training import train


@pytest.fixture
def run(tiny_recipe):
    return train(tiny_recipe(steps=2))


def test_a_displacement_is_the_distance_of_the_mixtures_in_units_of_their_spread(run, cohort):
    table = displacement(run, cohort, subsets=["t1c", "t1n+t2f", "t1n+t1c+t2w+t2f"], voxels=10**6)
    assert list(table) == ["subject", "subset", "modalities", "encoder", "decoder"]
    assert table["subset"].unique().tolist() == ["t1c", "t1n+t2f"], "all sequences are where they are"
    test = read_manifest(cohort).split("test")
    sample = cached_dataset(test.subjects, run.modalities, run.recipe.preprocessing)[0]
    inside = sample["brain"][0].flatten() > 0
    with torch.inference_mode(), precision_context(torch.device("cpu"), "auto"):
        z = run.backbone().encode(sample["image"][None], sample["present"][None])[0][0].float().flatten(2)[..., inside]
    whole = z.mean(dim=0)  # weights are uniform where nothing aligns
    spread = ((whole - whole.mean(dim=1, keepdim=True)) ** 2).sum()
    for name, members in (("t1c", [1]), ("t1n+t2f", [0, 3])):
        expected = float(((z[members].mean(dim=0) - whole) ** 2).sum() / spread)
        row = table[(table["subject"] == table["subject"].iloc[0]) & (table["subset"] == name)].iloc[0]
        assert row["encoder"] == pytest.approx(expected, rel=1e-3)
        assert row["decoder"] > 0


def test_every_subset_but_the_whole_is_asked_for(run, cohort):
    table = displacement(run, cohort, voxels=5, decoder=False)
    assert "decoder" not in table
    assert table.groupby("subject").size().unique().tolist() == [14]
    assert table.groupby("subset")["modalities"].first().value_counts().to_dict() == {1: 4, 2: 6, 3: 4}


def test_a_cohort_without_complete_subjects_is_told(run, cohort):
    lacking = pd.read_csv(cohort, dtype=str)
    lacking["t2f"] = ""
    path = cohort.parent / "lacking_t2f.csv"
    lacking.to_csv(path, index=False)
    with pytest.raises(InputError, match="no subject of split test has all of t1n, t1c, t2w, t2f"):
        displacement(run, path)


def test_dice_lost_is_against_all_sequences_and_averaged_over_regions():
    rows = [("A", "t1c", "WT", 0.5), ("A", "t1c", "ET", 0.1), ("A", "t1c+t2f", "WT", 0.9), ("A", "t1c+t2f", "ET", 0.3),
            ("B", "t1c", "WT", 0.4), ("B", "t1c", "ET", np.nan), ("B", "t1c+t2f", "WT", 0.6)]  # fmt: skip
    scores = pd.DataFrame(rows, columns=["subject", "subset", "region", "value"]).assign(metric="dice")
    lost = dice_lost(pd.concat([scores, scores.assign(metric="hd95", value=7.0)])).set_index(["subject", "subset"])
    assert lost["dice_lost"].to_dict() == pytest.approx({("A", "t1c"): 0.3, ("B", "t1c"): 0.2})


def table_of(x, y, sizes=None, units=1, noise=0.0):
    rng, frames = np.random.default_rng(0), []
    for unit in range(units):
        frame = pd.DataFrame({"group": [f"g{i}" for i in range(len(x))], "unit": unit, "x": x, "y": y})
        frame[["x", "y"]] += noise * rng.normal(size=(len(x), 2))
        frames.append(frame if sizes is None else frame.assign(modalities=sizes))
    return pd.concat(frames, ignore_index=True)


def test_the_correlation_is_spearmans_of_the_means():
    rng = np.random.default_rng(1)
    table = table_of(rng.normal(size=12), rng.normal(size=12), units=5, noise=0.5)
    means = table.groupby("group")[["x", "y"]].mean()
    (row,) = correlation(table, "x", "y", "unit").to_dict("records")
    assert row["over"] == "all"
    assert (row["groups"], row["units"]) == (12, 5)
    assert row["correlation"] == pytest.approx(spearmanr(means["x"], means["y"]).statistic)
    assert row["low"] <= row["correlation"] <= row["high"]


def test_size_alone_is_no_correlation_among_subsets_of_one_size():
    """Both grow with the number missing, and within a number one falls as the other rises."""
    sizes = np.repeat([1, 2, 3], 4)
    within = np.tile([0.1, 0.2, 0.3, 0.4], 3)
    table = table_of(within - sizes, -within - sizes, sizes)
    found = correlation(table, "x", "y", "unit").set_index("over")["correlation"]
    assert found["all"] > 0.5
    assert found["same number"] == pytest.approx(-1)


def test_intervals_draw_units_and_narrow_with_them():
    rng = np.random.default_rng(2)
    x = rng.normal(size=10)
    widths = []
    for units in (4, 64):
        row = correlation(table_of(x, x + rng.normal(size=10), units=units, noise=1.0), "x", "y", "unit").iloc[0]
        widths.append(row["high"] - row["low"])
    assert widths[1] < 0.6 * widths[0]
    assert correlation(table_of(x, x), "x", "y", "unit")[["low", "high"]].isna().all(axis=None), "one unit, no interval"


def test_two_groups_have_no_correlation():
    with pytest.raises(InputError, match="a correlation needs three groups or more; this table has 2"):
        correlation(table_of([1, 2], [1, 2]), "x", "y", "unit")
