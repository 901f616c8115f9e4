"""Scores of every subset, the protocol that they carry, and differences that know their own uncertainty."""

import json
import math
from dataclasses import replace

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
from monai.metrics import compute_dice

from mtg_lab import evaluation, vocabulary
from mtg_lab.backbones import ModalityBackbone, Prediction
from mtg_lab.data import cached_dataset
from mtg_lab.errors import InputError
from mtg_lab.evaluation import (
    Protocol,
    check_comparable,
    dice,
    evaluate,
    missingness_curve,
    paired_difference,
    read_scores,
    region_masks,
    save_scores,
    select_metric,
)
from mtg_lab.hardware import precision_context
from mtg_lab.manifest import read_manifest
from mtg_lab.metrics import METRICS, MetricSettings, region_scores
from mtg_lab.runs import Run
from mtg_lab.score_stream import ScoreStream, stream_file
from mtg_lab.training import train

MODALITIES = ("t1n", "t1c", "t2w", "t2f")


# --- Dice -------------------------------------------------------------------------------------------------------------


def masks(*rows):
    return torch.tensor(rows, dtype=torch.bool).reshape(len(rows), -1, 1, 1)


def test_dice_worked_by_hand():
    """Two voxels each, one shared: 2 x 1 / (2 + 2) = 1/2; and a perfect region beside it."""
    predicted, truth = masks([1, 1, 0, 0], [0, 0, 1, 1]), masks([0, 1, 1, 0], [0, 0, 1, 1])
    assert dice(predicted, truth) == pytest.approx([0.5, 1.0])


@pytest.mark.parametrize(("rule", "value"), [("one", 1.0), ("nan", math.nan)])
def test_a_region_that_neither_has(rule, value):
    nothing = masks([0, 0, 0, 0])
    assert dice(nothing, nothing, rule) == pytest.approx([value], nan_ok=True)


@pytest.mark.parametrize(("rule", "value"), [("one", 0.0), ("nan", math.nan)])
def test_a_false_positive_where_the_reference_is_empty(rule, value):
    assert dice(masks([0, 1, 0, 0]), masks([0, 0, 0, 0]), rule) == pytest.approx([value], nan_ok=True)


@pytest.mark.parametrize("rule", ["one", "nan"])
def test_a_lesion_that_is_missed_scores_zero(rule):
    assert dice(masks([0, 0, 0, 0]), masks([0, 1, 0, 0]), rule) == [0.0]


def test_dice_is_that_of_monai_and_of_its_formula():
    generator = torch.Generator().manual_seed(0)
    predicted, truth = (torch.rand(3, 8, 8, 8, generator=generator) < 0.3 for _ in range(2))
    reference = compute_dice(predicted[None].float(), truth[None].float(), include_background=True)[0].tolist()
    formula = [2 * float((p & t).sum()) / float(p.sum() + t.sum()) for p, t in zip(predicted, truth, strict=True)]
    assert dice(predicted, truth) == pytest.approx(reference)
    assert reference == pytest.approx(formula)


def test_regions_are_unions_of_classes():
    classes = torch.tensor([0, 1, 2, 3], dtype=torch.uint8).reshape(4, 1, 1)
    found = region_masks(classes, vocabulary.schema("brats2021").region_classes)
    assert found.flatten(1).int().tolist() == [[0, 1, 1, 1], [0, 1, 0, 1], [0, 0, 0, 1]], "WT, TC, ET"


# --- a run's scores ---------------------------------------------------------------------------------------------------


class Oracle(ModalityBackbone):
    """Told the classes by its images, it answers perfectly from whatever is there."""

    def __init__(self, classes):
        super().__init__()
        self.classes = torch.nn.Parameter(torch.arange(float(classes)).reshape(1, classes, 1, 1, 1))

    def encode(self, images, present):
        return [images[:, :, None]]

    def decode(self, latents, present):
        count = present.sum(1)[:, None, None, None]
        there = torch.where(present[..., None, None, None], latents[0][:, :, 0], 0).sum(1) / count
        return Prediction(-(there[:, None] - self.classes).square(), latents[0][:, 0])


@pytest.fixture
def run(tiny_recipe):
    """Two steps old; the cache keeps it for the whole session."""
    return train(tiny_recipe(steps=2))


@pytest.fixture
def oracle(run, monkeypatch):
    """A run that cannot err, because its images are made of the labels."""
    original = evaluation.cached_dataset

    def told(*args):
        return [{**s, "image": s["label"].float().expand_as(s["image"])} for s in original(*args)]

    monkeypatch.setattr(evaluation, "cached_dataset", told)
    monkeypatch.setattr(Run, "backbone", lambda self, device="cpu": Oracle(self.schema.classes).to(device))
    return run


def edited(cohort, tmp_path, change):
    """The manifest with rows changed, its paths still valid."""
    table = pd.read_csv(cohort, dtype=str, keep_default_na=False)
    for column in (*MODALITIES, "label"):
        table[column] = [str(cohort.parent / cell) for cell in table[column]]
    table = change(table)
    table.drop(columns="seed").to_csv(tmp_path / "manifest.csv", index=False)
    return tmp_path / "manifest.csv"


def test_every_subset_of_every_subject_is_scored_once(run, cohort):
    table = evaluate(run, cohort)
    assert list(table) == ["subject", "site", "subset", "modalities", "region", "metric", "value", "protocol"]
    assert len(table) == 2 * 15 * 3, "test subjects, subsets, regions"
    assert not table.duplicated(["subject", "subset", "region"]).any()
    assert set(table["subset"]) == {vocabulary.subset_name(s, MODALITIES) for s in vocabulary.subsets(MODALITIES)}
    assert (table["modalities"] == table["subset"].str.count(r"\+") + 1).all()
    assert list(table["region"].unique()) == ["WT", "TC", "ET"]
    assert set(table["metric"]) == {"dice"}
    assert table["value"].between(0, 1).all()
    assert set(table["subject"]) == {s.name for s in read_manifest(cohort).split("test")}


def test_scoring_again_gives_the_same_table(run, cohort):
    pd.testing.assert_frame_equal(evaluate(run, cohort), evaluate(run, read_manifest(cohort)))


def test_a_perfect_predictor_scores_one_on_every_subset(oracle, cohort):
    assert (evaluate(oracle, cohort)["value"] == 1).all()
    assert (evaluate(oracle, cohort, window=12)["value"] == 1).all()


def test_a_score_is_that_of_forward_with_the_subsets_mask(run, cohort):
    table = evaluate(run, cohort, subsets=["t1c+t2f"], window=0)
    test = read_manifest(cohort).split("test")
    regions = run.schema.region_classes
    samples = cached_dataset(test.subjects, MODALITIES, run.recipe.preprocessing)
    for name, sample in zip((s.name for s in test), samples, strict=True):
        with torch.inference_mode(), precision_context(torch.device("cpu"), "auto"):
            logits = run.backbone()(sample["image"][None], torch.tensor([[False, True, False, True]])).logits
        expected = dice(region_masks(logits[0].argmax(0), regions), region_masks(sample["label"][0], regions))
        assert table[table["subject"] == name]["value"].tolist() == pytest.approx(expected, abs=1e-3)


def test_subsets_may_be_named_by_aliases_and_count_once(run, cohort):
    table = evaluate(run, cohort, subsets=["t1ce+flair", "t2f+t1c", "t1"])
    assert list(table["subset"].unique()) == ["t1c+t2f", "t1n"]
    assert len(table) == 2 * 2 * 3


def test_a_subject_is_scored_only_on_what_it_has(oracle, cohort, tmp_path):
    def lose(table):
        table.loc[table.index[table["split"] == "test"][0], ["t1c", "t2w"]] = ""
        return table

    table = evaluate(oracle, edited(cohort, tmp_path, lose))
    counts = table.groupby("subject", sort=False)["subset"].nunique()
    assert counts.tolist() == [3, 15]
    assert set(table[table["subject"] == counts.index[0]]["subset"]) == {"t1n", "t2f", "t1n+t2f"}
    assert (table["value"] == 1).all()


def test_a_cohort_with_fewer_modalities_in_another_order(oracle, cohort, tmp_path):
    manifest = edited(cohort, tmp_path, lambda t: t[["subject", "split", "schema", "label", "t2f", "t1n", "seed"]])
    assert list(evaluate(oracle, manifest)["subset"].unique()) == ["t1n", "t2f", "t1n+t2f"]


def test_another_schema_is_compared_by_the_names_of_its_regions(run, cohort, tmp_path, monkeypatch):
    """The same classes in another order of integers (Decathlon: 1 oedema, 2 core): the same masks, the same scores."""

    def convert(table):
        for row, cell in enumerate(table["label"]):
            image = nib.load(cell)
            moved = np.array([0, 2, 1, 3], dtype=np.uint8)[np.asarray(image.dataobj)]
            nib.save(nib.Nifti1Image(moved, image.affine), tmp_path / f"{row}.nii.gz")
            table.loc[row, ["label", "schema"]] = [str(tmp_path / f"{row}.nii.gz"), "msd_task01"]
        return table

    converted = evaluate(run, edited(cohort, tmp_path, convert))
    assert converted["value"].tolist() == evaluate(run, cohort)["value"].tolist()
    assert converted["protocol"][0] != evaluate(run, cohort)["protocol"][0], "another cohort, another protocol"


# --- other metrics than Dice ------------------------------------------------------------------------------------------


def test_dice_among_other_metrics_is_the_dice_of_a_table_of_its_own(run, cohort):
    alone = evaluate(run, cohort, subsets=["t1c", "t1c+t2f"])
    several = evaluate(run, cohort, "test", ("hd95", "dice"), subsets=["t1c", "t1c+t2f"])
    assert several["metric"].tolist() == ["dice", "hd95"] * len(alone)
    assert list(several) == list(alone)
    pd.testing.assert_frame_equal(select_metric(several, "dice"), alone)
    assert select_metric(several, "dice").attrs["protocol"] == alone.attrs["protocol"]
    check_comparable([select_metric(several, "dice"), alone])
    with pytest.raises(InputError, match=r"they differ in metric \(dice,hd95 against dice\), hd95 \(max_of_directed"):
        check_comparable([several, alone])


def test_every_metric_of_an_oracle_is_perfect(oracle, cohort):
    table = evaluate(oracle, cohort, "test", METRICS, subsets=["t1c"], window=12)
    means = table.groupby("metric", sort=False)["value"].agg(["min", "max"])
    assert list(means.index) == list(METRICS)
    for metric in ("dice", "iou", "sensitivity", "precision", "nsd", "lesion_dice"):
        assert tuple(means.loc[metric]) == (1, 1), metric
    for metric in ("hd95", "volume_error_ml", "relative_volume_error", "lesion_hd95", "lesions_missed"):
        assert tuple(means.loc[metric]) == (0, 0), metric
    # Its logits are -(k - class)^2. Furthest from the truth is TC (classes 1 and 3) in a voxel of class 2.
    furthest = 2 * math.exp(-1) / (1 + 2 * math.exp(-1) + math.exp(-4))
    assert 0 < means.loc["brier", "max"] <= furthest**2
    assert 0 < means.loc["ece", "max"] <= furthest


def test_scores_of_a_region_are_those_of_its_masks_and_probabilities(run, cohort):
    chosen = MetricSettings("pooled", "diagonal", 4.0, "surface_weighted", "MET", 5)
    table = evaluate(run, cohort, "test", METRICS, settings=chosen, subsets=["t1c+t2f"], window=0)
    test = read_manifest(cohort).split("test").materialise()
    samples = cached_dataset(test.subjects, MODALITIES, run.recipe.preprocessing)
    for subject, sample in zip(test, samples, strict=True):
        with torch.inference_mode(), precision_context(torch.device("cpu"), "auto"):
            net, mask = run.backbone(), torch.tensor([[False, True, False, True]])
            (answer,) = net.decode_each(net.encode(sample["image"][None], mask), mask)
            logits = answer.logits[0].float()
        image = nib.load(subject.images["t1c"])
        for region, members in run.schema.region_classes.items():
            predicted = torch.isin(logits.argmax(0), torch.tensor(members)).numpy()
            truth = torch.isin(sample["label"][0], torch.tensor(members)).numpy()
            expected = region_scores(
                predicted, truth, (4.0, 4.0, 4.0), METRICS, chosen,
                diagonal_mm=float(np.linalg.norm(np.array(image.shape) * image.header.get_zooms())),
                probability=logits.softmax(0)[list(members)].sum(0).numpy(), brain=sample["brain"][0].numpy() > 0,
            )  # fmt: skip
            found = table[(table["subject"] == subject.name) & (table["region"] == region)].set_index("metric")["value"]
            assert list(found.index) == list(METRICS)
            assert found.to_dict() == pytest.approx(expected, rel=1e-4, abs=1e-6, nan_ok=True)


def test_a_region_without_its_small_parts_stands_beside_it(run, cohort):
    """Removing what is below 1 mm3 removes nothing, what is below a hundred litres everything."""
    plain = evaluate(run, cohort, subsets=["t1c"])
    kept, gone = (
        evaluate(run, cohort, "test", ("dice", "brier"), removals=[r], subsets=["t1c"])
        for r in ("WT:1", "WT:1e8:region")
    )
    for table in (kept, gone):
        assert list(table["region"].unique()) == ["WT", "TC", "ET", "WTpp"]
        assert set(table[table["region"] == "WTpp"]["metric"]) == {"dice"}, "no probability knows of removal"
        dice_of = table[table["metric"] == "dice"].set_index(["subject", "region"])["value"].unstack("region")
        pd.testing.assert_series_equal(
            dice_of[["WT", "TC", "ET"]].stack().sort_index(),
            plain.set_index(["subject", "region"])["value"].sort_index(), check_names=False,
        )  # fmt: skip
        assert (dice_of["WTpp"] == (dice_of["WT"] if table is kept else 0.0)).all()
    protocol = Protocol.from_json(gone.attrs["protocol"])
    assert protocol.postprocessing == ("WTpp = WT, empty where all of it is below 1e+08 mm3",)
    assert "WTpp = WT, empty where all of it is below 1e+08 mm3" in str(protocol)
    assert protocol.digest() != Protocol.from_json(kept.attrs["protocol"]).digest()


# --- the protocol -----------------------------------------------------------------------------------------------------

PROTOCOL = Protocol(
    "cohort", "test", ("P1", "P2"), ("t1c", "t2f"), ("WT", "ET"), 2.0, 0, 0.0, "one", "fp32", "dice"
)  # fmt: skip


def test_the_protocol_travels_with_the_scores(run, cohort):
    table = evaluate(run, cohort, subsets=["t2f", "t1c"], window=16, overlap=0.25, empty="nan")
    protocol = Protocol(**table.attrs["protocol"])
    assert set(table["protocol"]) == {protocol.digest()}
    assert (protocol.window, protocol.overlap, protocol.empty, protocol.split) == (16, 0.25, "nan", "test")
    assert protocol.cases == tuple(s.name for s in read_manifest(cohort).split("test"))
    assert protocol.regions == ("WT", "TC", "ET")
    assert protocol.subsets == ("t2f", "t1c")
    for word in (protocol.digest(), "2 test cases", "2 subsets", "WT/TC/ET", "4 mm", "windows of 16^3", "nan"):
        assert word in str(protocol)
    assert "whole volume" in str(PROTOCOL)


@pytest.mark.parametrize(
    "change",
    [{"cohort": "other"}, {"split": "val"}, {"cases": ("P1",)}, {"subsets": ("t2f", "t1c")}, {"regions": ("WT",)},
     {"spacing_mm": 1.0}, {"window": 96}, {"overlap": 0.5}, {"empty": "nan"}, {"precision": "bf16"},
     {"metric": "hd95"}, {"subset_choice": "63 of 255, seed 0"}, {"metric_settings": {"hd95": "pooled"}},
     {"postprocessing": ("ETpp = ET",)}, {"decision": "above 0.5"}],
)  # fmt: skip
def test_digests_are_equal_if_and_only_if_the_settings_are(change):
    assert replace(PROTOCOL).digest() == PROTOCOL.digest()
    assert replace(PROTOCOL, **change).digest() != PROTOCOL.digest()


def scored(protocol=PROTOCOL, value=0.5, **columns):
    table = pd.DataFrame(
        [{"subject": s, "region": r, "subset": u, "modalities": 1, "value": value}
         for s in protocol.cases for u in protocol.subsets for r in protocol.regions]
    ).assign(protocol=protocol.digest(), **columns)  # fmt: skip
    table.attrs["protocol"] = dict(vars(protocol))
    return table


def test_scores_of_two_protocols_are_not_compared():
    check_comparable([scored(), scored(value=0.7)])
    other = scored(replace(PROTOCOL, window=96, overlap=0.5))
    told = r"cannot be compared: they differ in window \(0 against 96\), overlap \(0 against 0.5\); score both"
    with pytest.raises(InputError, match=told):
        check_comparable([scored(), scored(), other])
    with pytest.raises(InputError, match="cannot be compared"):
        paired_difference({0: scored()}, {0: other})


def test_scores_of_two_samples_of_subsets_are_not_compared():
    ours, theirs = (scored(replace(PROTOCOL, subset_choice=f"63 of 255, seed {s}")) for s in (0, 1))
    with pytest.raises(InputError, match=r"they differ in subset_choice \(63 of 255, seed 0 against"):
        check_comparable([ours, theirs])


def test_named_subsets_are_those_of_all_of_them():
    """Scores from before there was a choice stay comparable, and a list says itself what was scored."""
    assert replace(PROTOCOL, subset_choice="named").digest() == replace(PROTOCOL, subset_choice="all").digest()


def test_more_subsets_than_are_wanted_are_sampled_and_the_protocol_says_so(run, cohort):
    table = evaluate(run, cohort, most_subsets=11)
    protocol = Protocol(**table.attrs["protocol"])
    assert protocol.subset_choice == "11 of 15, seed 0"
    assert "11 subsets (11 of 15, seed 0, by size)" in str(protocol)
    assert table["subset"].nunique() == len(protocol.subsets) == 11
    assert set(table["modalities"]) == {1, 2, 3, 4}
    whole = evaluate(run, cohort).set_index(["subject", "subset", "region"])["value"]
    part = table.set_index(["subject", "subset", "region"])["value"]
    pd.testing.assert_series_equal(part, whole.loc[part.index])
    assert evaluate(run, cohort, subsets=["t1c"]).attrs["protocol"]["subset_choice"] == "named"
    with pytest.raises(InputError, match="at most 3 subsets of 4 modalities"):
        evaluate(run, cohort, most_subsets=3)


def test_scores_read_from_a_file_are_not_compared_across_protocols_either(tmp_path):
    ours, theirs = scored(), scored(replace(PROTOCOL, empty="nan"))
    back = [pd.read_csv(save_scores(t, tmp_path / f"{i}.csv")) for i, t in enumerate((ours, theirs))]
    with pytest.raises(InputError, match=r"they differ in protocol \(.+ against .+\); read the files with read_scores"):
        check_comparable(back)
    with pytest.raises(InputError, match=r"they differ in empty \(one against nan\); score both"):
        check_comparable([read_scores(tmp_path / f"{i}.csv") for i in range(2)])


def test_scores_are_saved_with_their_protocol_beside_them(run, cohort, tmp_path):
    table = evaluate(run, cohort, subsets=["t1c"])
    path = save_scores(table, tmp_path / "scores.csv")
    pd.testing.assert_frame_equal(pd.read_csv(path), table, check_dtype=False)
    stored = json.loads((tmp_path / "scores.protocol.json").read_text())
    assert {"mtg-lab", "torch", "monai"} == set(stored.pop("versions"))
    as_tuples = {k: tuple(v) if isinstance(v, list) else v for k, v in stored.items()}
    assert Protocol(**as_tuples).digest() == table["protocol"][0]
    assert {p.name for p in tmp_path.iterdir()} == {"scores.csv", "scores.protocol.json"}


# --- interrupted scorings ---------------------------------------------------------------------------------------------


def counted(monkeypatch, stop_at=None):
    """The subjects that are segmented from here on; KeyboardInterrupt in place of number ``stop_at``."""
    seen, segment = [], evaluation.subset_classes

    def counting(backbone, image, *args, **options):
        if len(seen) == stop_at:
            raise KeyboardInterrupt
        seen.append(image.sum().item())
        return segment(backbone, image, *args, **options)

    monkeypatch.setattr(evaluation, "subset_classes", counting)
    return seen


@pytest.fixture
def stopped(run, cohort, tmp_path):
    """Where a scoring of the training split was interrupted after its second subject of six."""
    with pytest.MonkeyPatch.context() as patch:
        counted(patch, stop_at=2)
        with pytest.raises(KeyboardInterrupt):
            evaluate(run, cohort, "train", subsets=["t1c"], out=tmp_path / "scores.csv")
    return tmp_path / "scores.csv"


def test_an_interrupted_scoring_goes_on_where_it_was(run, cohort, stopped, monkeypatch):
    assert not stopped.exists(), "a table is whole or not there"
    expected = evaluate(run, cohort, "train", subsets=["t1c"])
    seen = counted(monkeypatch)
    found = evaluate(run, cohort, "train", subsets=["t1c"], out=stopped)
    assert len(seen) == 4
    pd.testing.assert_frame_equal(found, expected, check_exact=True)
    pd.testing.assert_frame_equal(read_scores(stopped), expected, check_dtype=False)
    assert {p.name for p in stopped.parent.iterdir()} == {"scores.csv", "scores.protocol.json"}


def test_a_line_that_a_crash_has_torn_is_scored_again(run, cohort, stopped, monkeypatch):
    kept = stream_file(stopped)
    kept.write_text(kept.read_text()[:-9])
    seen = counted(monkeypatch)
    assert len(evaluate(run, cohort, "train", subsets=["t1c"], out=stopped)) == 6 * 3
    assert len(seen) == 5


@pytest.mark.parametrize("other", ["network", "protocol", "no text"])
def test_what_belongs_to_another_scoring_is_not_taken_over(run, cohort, stopped, tiny_recipe, monkeypatch, other):
    if other == "no text":
        stream_file(stopped).write_bytes(bytes(range(128, 255)))
    seen = counted(monkeypatch)
    chosen = train(tiny_recipe(steps=3)) if other == "network" else run
    evaluate(chosen, cohort, "train", subsets=["t1c"], empty="nan" if other == "protocol" else "one", out=stopped)
    assert len(seen) == 6


def test_scores_that_are_no_numbers_survive_an_interruption(run, cohort, tmp_path):
    protocol = Protocol.from_json(evaluate(run, cohort, subsets=["t1c"]).attrs["protocol"])
    rows = [{"subject": "a", "site": None, "value": math.nan}, {"subject": "a", "site": None, "value": 0.1 + 0.2}]
    ScoreStream(tmp_path / "s.csv", run.backbone(), protocol).add("a", rows)
    back = ScoreStream(tmp_path / "s.csv", run.backbone(), protocol).kept["a"]
    assert math.isnan(back[0]["value"])
    assert back[1] == rows[1]


# --- summaries --------------------------------------------------------------------------------------------------------


def test_the_curve_averages_over_subsets_of_one_size():
    table = scored().assign(value=[0.2, 0.0, 0.4, 1.0, 0.6, 0.0, 0.8, 1.0])
    both = scored().assign(modalities=2, subset="t1c+t2f", value=0.9).iloc[[0, 1, 4, 5]]
    curve = missingness_curve(pd.concat([table, both]))
    values = curve.set_index(["subject", "region", "missing"])["value"]
    assert values["P1", "WT", 1] == pytest.approx(0.3)
    assert values["P2", "WT", 1] == pytest.approx(0.7)
    assert values["P1", "WT", 0] == pytest.approx(0.9)
    assert set(curve["missing"]) == {0, 1}


def simulated(effect, rng, seeds=4, subjects=20, seed_sd=0.03, subject_sd=0.1):
    """Tables of two methods: subjects differ, trainings differ, and ours is better by ``effect`` on average."""
    protocol = replace(PROTOCOL, cases=tuple(f"P{i:02}" for i in range(subjects)), subsets=("t1c",), regions=("WT",))
    level = rng.normal(0.7, subject_sd, subjects)
    gain = effect + rng.normal(0, 0.05, subjects)  # some patients profit more
    tables = {}
    for who, shift in (("ours", gain), ("theirs", 0.0)):
        tables[who] = {s: scored(protocol).assign(value=level + shift + rng.normal(0, seed_sd)) for s in range(seeds)}
    return tables["ours"], tables["theirs"]


def test_equal_scores_do_not_differ():
    table = paired_difference({0: scored(), 1: scored()}, {0: scored(), 1: scored()}, draws=50)
    assert (table[["difference", "low", "high", "detectable"]] == 0).all(axis=None)
    rows = {("all", "all"), ("WT", "all"), ("WT", 1), ("ET", "all"), ("ET", 1), ("all", 1)}
    assert set(zip(table["region"], table["modalities"], strict=True)) == rows


def test_a_known_shift_is_recovered():
    ours = {0: scored(value=0.6), 1: scored(value=0.6)}
    ours = {s: t.assign(value=t["value"] + 0.1 * (t["region"] == "ET")) for s, t in ours.items()}
    theirs = {0: scored(value=0.5), 1: scored(value=0.5)}
    table = paired_difference(ours, theirs, draws=50).set_index(["region", "modalities"])
    for key, expected in {
        ("WT", 1): 0.1,
        ("ET", 1): 0.2,
        ("ET", "all"): 0.2,
        ("all", 1): 0.15,
        ("all", "all"): 0.15,
    }.items():
        assert table.loc[key, ["difference", "low", "high"]].tolist() == pytest.approx([expected] * 3)


def test_the_interval_covers_seeds_as_well_as_subjects():
    """Many alike subjects and few unlike trainings: an interval over subjects alone would be far too narrow."""
    rng = np.random.default_rng(0)
    ours, theirs = simulated(0.0, rng, seeds=3, subjects=100, seed_sd=0.1, subject_sd=0.0)
    row = paired_difference(ours, theirs, draws=400).iloc[0]
    differences = [ours[s]["value"].mean() - theirs[s]["value"].mean() for s in ours]
    assert row["low"] <= min(differences) + 0.02
    assert row["high"] >= max(differences) - 0.02
    assert row["detectable"] == pytest.approx((row["high"] - row["low"]) / 2)


def test_the_interval_contains_the_truth_as_often_as_it_says():
    """95 % nominal; few seeds make the bootstrap a little narrow, so at least 85 of 100 simulated trials."""
    rng, hits = np.random.default_rng(1), 0
    for _ in range(100):
        ours, theirs = simulated(0.04, rng)
        row = paired_difference(ours, theirs, draws=200).iloc[0]
        hits += bool(row["low"] <= 0.04 <= row["high"])
    assert hits >= 85


def test_regions_without_a_score_are_left_out_of_the_mean():
    ours = scored(replace(PROTOCOL, empty="nan"), value=0.8)
    theirs = scored(replace(PROTOCOL, empty="nan"), value=0.5)
    ours["value"] = ours["value"].mask((ours["subject"] == "P1") & (ours["region"] == "ET"))
    theirs["value"] = theirs["value"].mask((theirs["subject"] == "P1") & (theirs["region"] == "ET"))
    table = paired_difference({0: ours}, {0: theirs}, draws=100)
    assert table["difference"].tolist() == pytest.approx([0.3] * len(table))
    assert np.isfinite(table[["low", "high"]].to_numpy(dtype=float)).all()


@pytest.mark.parametrize(("ours", "theirs"), [({0: scored()}, {1: scored()}), ({}, {})])
def test_seeds_must_pair(ours, theirs):
    with pytest.raises(InputError, match="seeds must pair"):
        paired_difference(ours, theirs)


def test_means_over_several_metrics_are_refused():
    several = pd.concat([scored().assign(metric="dice"), scored().assign(metric="hd95")])
    with pytest.raises(
        InputError, match=r"these scores hold dice, hd95; choose one with select_metric\(table, 'dice'\)"
    ):
        missingness_curve(several)
    with pytest.raises(InputError, match="these scores hold dice, hd95"):
        paired_difference({0: several}, {0: several})


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"split": "exam"}, "no subject in split 'exam'"),
        ({"empty": "zero"}, "unknown rule for empty regions 'zero'; there are: one, nan"),
        ({"metrics": ["dice", "assd"]}, "unknown metric 'assd'; there are: dice, iou"),
        ({"metrics": []}, "no metric is named"),
        ({"removals": ["lesion:500"]}, "unknown region to remove from 'lesion'; there are: WT, TC, ET"),
        ({"removals": ["ET:500", "ET:100"]}, "ETpp would be two regions"),
        ({"removals": ["ET"]}, "cannot read the removal 'ET'"),
        ({"subsets": ["t1c+t9"]}, "names 't9'"),
        ({"subsets": [""]}, "is empty"),
        ({"subsets": []}, "no subset"),
        ({"window": -1}, "window is -1"),
        ({"window": 16, "overlap": 1.0}, "overlap is 1.0"),
    ],
)
def test_what_cannot_be_scored_is_one_line(run, cohort, options, told):
    with pytest.raises(InputError, match=told) as refusal:
        evaluate(run, cohort, **options)
    assert "\n" not in str(refusal.value)


def test_a_cohort_of_other_modalities_is_told(run, cohort, tmp_path):
    manifest = edited(cohort, tmp_path, lambda t: t.rename(columns={"t2w": "dwi"}))
    with pytest.raises(InputError, match="has the modality 'dwi'"):
        evaluate(run, manifest)


def test_a_cohort_of_other_regions_is_told(run, cohort, tmp_path):
    manifest = edited(cohort, tmp_path, lambda t: t.assign(schema="lesion"))
    with pytest.raises(InputError, match="has the regions lesion; the run knows WT, TC, ET"):
        evaluate(run, manifest)


def test_a_cohort_where_nobody_has_the_subset_is_told(run, cohort, tmp_path):
    def lose(table):
        table.loc[table["split"] == "test", "t1c"] = ""
        return table

    with pytest.raises(InputError, match="no subject of split test has all modalities of a wanted subset"):
        evaluate(run, edited(cohort, tmp_path, lose), subsets=["t1c"], out=tmp_path / "new" / "scores.csv")
    assert not (tmp_path / "new").exists()
