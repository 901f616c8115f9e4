"""A protocol says in one line how scores came about, and in what two of them differ; files old and new are read."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import mtg_lab
from mtg_lab.errors import InputError
from mtg_lab.metrics import METRICS, MetricSettings
from mtg_lab.protocol import (
    Protocol,
    check_comparable,
    protocol_attrs,
    protocol_line,
    read_scores,
    save_scores,
    select_metric,
)

PLAIN = Protocol("cohort", "test", ("P1", "P2"), ("t1c", "t2f"), ("WT", "ET"), 2.0, 0, 0.0, "one", "fp32")
FULL = replace(
    PLAIN, metric="dice,hd95,nsd,lesion_dice,ece", regions=("WT", "ET", "ETpp"), window=96, overlap=0.5,
    metric_settings=MetricSettings().of(["hd95", "nsd", "lesion_dice", "ece"]),
    postprocessing=("ETpp = ET without its components below 500 mm3",), versions={"mtg-lab": "1.0"},
    seeds={"training": 3},
)  # fmt: skip


def table(protocol, metrics=("dice",)):
    rows = [{"subject": s, "site": "", "subset": u, "modalities": 1, "region": r, "metric": m, "value": 0.5}
            for s in protocol.cases for u in protocol.subsets for r in protocol.regions for m in metrics]  # fmt: skip
    found = pd.DataFrame(rows).assign(protocol=protocol.digest())
    found.attrs["protocol"] = asdict(protocol)
    return found


def test_one_line_says_all_that_decides():
    assert str(PLAIN) == (
        f"protocol {PLAIN.digest()}: dice, 2 test cases, 2 subsets, WT/ET, 2 mm grid, whole volume, argmax, "
        "empty reference: one, fp32"
    )
    assert str(FULL) == (
        f"protocol {FULL.digest()}: dice, hd95 (max_of_directed, empty mask: 374), nsd (1 mm, voxels), "
        "lesion_dice (GLI), ece (15 bins), 2 test cases, 2 subsets, WT/ET/ETpp, "
        "ETpp = ET without its components below 500 mm3, "
        "2 mm grid, windows of 96^3, overlap 0.5, argmax, empty reference: one, fp32, "
        "training seed 3, mtg-lab 1.0"
    )


def test_scores_of_several_runs_are_told_with_the_seeds_of_all():
    tables = [table(replace(FULL, seeds={"training": s, "subsets": 0})) for s in (2, 0, 2)]
    assert "fp32, training seeds 0, 2, mtg-lab" in protocol_line(*tables)
    joint = protocol_attrs(*tables)["protocol"]
    assert joint["seeds"] == {"training": [0, 2], "subsets": 0}
    assert Protocol.from_json(json.loads(json.dumps(joint))).digest() == FULL.digest()
    again = pd.concat(tables)
    again.attrs["protocol"] = joint
    assert protocol_attrs(again, tables[0])["protocol"]["seeds"]["training"] == [0, 2]
    unknown = tables[0].copy()
    del unknown.attrs["protocol"]
    assert protocol_attrs(unknown, tables[0]) == {"digests": [FULL.digest()]}


def test_versions_and_seeds_are_told_and_keep_nothing_apart():
    assert replace(FULL, versions={"mtg-lab": "2.0"}, seeds={"training": 4}).digest() == FULL.digest()


def test_digests_from_before_there_were_settings_are_those_of_today():
    """The digest that 0.1.0 gave to this protocol, when it had these fields and no others."""
    before = {
        "cohort": "cohort", "split": "test", "cases": ["P1", "P2"], "subsets": ["t1c", "t2f"], "regions": ["WT", "ET"],
        "spacing_mm": 2.0, "window": 0, "overlap": 0.0, "empty": "one", "precision": "fp32", "metric": "dice",
    }  # fmt: skip
    import hashlib

    digest = hashlib.sha256(json.dumps(before, sort_keys=True).encode()).hexdigest()[:8]
    assert Protocol.from_json(before).digest() == PLAIN.digest() == digest


def test_scores_from_before_there_were_other_metrics_are_still_read():
    newer = ("metric_settings", "postprocessing", "decision", "versions", "seeds")
    stored = {name: value for name, value in asdict(PLAIN).items() if name not in newer}
    protocol = Protocol.from_json(stored)
    assert (protocol.metric, protocol.metric_settings, protocol.postprocessing) == ("dice", {}, ())
    assert protocol.decision == "argmax"
    assert protocol.digest() == PLAIN.digest()


@pytest.mark.parametrize("study", ["alignment_study", "alignment_sweep"])
def test_stored_studies_of_the_package_have_a_protocol(study):
    stored = json.loads((Path(mtg_lab.__file__).parent / f"results/{study}/about.json").read_text())["protocol"]
    assert Protocol.from_json(stored).metric == "dice"


@pytest.mark.parametrize("protocol", [PLAIN, FULL])
def test_what_is_saved_is_read(protocol, tmp_path):
    scores = table(protocol)
    scores.loc[0, "value"] = np.nan
    scores["subject"] = scores["subject"].replace({"P1": "007", "P2": "NA"})
    back = read_scores(save_scores(scores, tmp_path / "scores.csv"))
    pd.testing.assert_frame_equal(back, scores, check_dtype=False)
    assert Protocol.from_json(back.attrs["protocol"]) == protocol
    assert back.attrs["protocol"]["cases"] == ("P1", "P2")


DIFFERENCES = [
    ({"empty": "nan"}, "empty (one against nan)"),
    ({"window": 96, "overlap": 0.5}, "window (0 against 96), overlap (0 against 0.5)"),
    ({"cases": ("P1",)}, "cases (only the first has P2)"),
    ({"cases": ("P2", "P1")}, "cases (in another order)"),
    ({"subsets": tuple("abcdefgh")}, "subsets (only the first has t1c, t2f; only the other a, b, c, d and 4 more)"),
    ({"metric": "dice,hd95", "metric_settings": {"hd95": "pooled"}},
     "metric (dice against dice,hd95), hd95 (none against pooled)"),
    ({"postprocessing": ("ETpp = ET",)}, "postprocessing (none against ETpp = ET)"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "told"), DIFFERENCES)
def test_a_refusal_says_in_what_protocols_differ(change, told):
    with pytest.raises(InputError) as refusal:
        check_comparable([table(PLAIN), table(replace(PLAIN, **change))])
    assert (
        str(refusal.value) == f"these scores cannot be compared: they differ in {told}; score both under one protocol"
    )


def test_settings_of_a_metric_differ_one_by_one():
    other = replace(FULL, metric_settings={**FULL.metric_settings, "hd95_empty": "nan", "nsd_mm": 2.0})
    assert FULL.differences(other) == ["hd95_empty (374 against nan)", "nsd_mm (1 against 2)"]
    assert FULL.differences(replace(FULL, versions={})) == []


def test_one_metric_of_several_has_the_protocol_of_that_metric():
    several = table(FULL, FULL.metric.split(","))
    chosen = select_metric(several, "hd95")
    protocol = Protocol.from_json(chosen.attrs["protocol"])
    assert (protocol.metric, set(protocol.metric_settings)) == ("hd95", {"hd95", "hd95_empty"})
    assert set(chosen["protocol"]) == {protocol.digest()}
    assert (chosen["metric"] == "hd95").all()
    assert set(several["protocol"]) == {FULL.digest()}, "the table itself is left as it was"
    with pytest.raises(InputError, match="have no metric 'iou'; they have dice, hd95, nsd, lesion_dice, ece"):
        select_metric(several, "iou")


def test_the_order_in_which_metrics_are_asked_for_does_not_matter():
    from mtg_lab.metrics import choose_metrics

    assert choose_metrics(["nsd", "dice", "nsd"]) == ("dice", "nsd")
    assert choose_metrics(METRICS[::-1]) == METRICS


# --- bad input --------------------------------------------------------------------------------------------------------


def test_files_that_are_no_scores_are_one_line(tmp_path):
    def refused(told, path=tmp_path / "scores.csv"):
        with pytest.raises(InputError, match=told) as refusal:
            read_scores(path)
        assert "\n" not in str(refusal.value)

    refused("cannot read .*scores.csv")
    save_scores(table(PLAIN), tmp_path / "scores.csv")
    beside = tmp_path / "scores.protocol.json"
    whole = beside.read_text()
    beside.write_text(whole[:40])
    refused("is damaged")
    beside.write_text(json.dumps({**json.loads(whole), "empty": "nan"}))
    refused("is not the protocol of .*scores.csv; copy the one that was written with it")
    beside.write_text(json.dumps({**json.loads(whole), "colour": "blue"}))
    refused("has the unknown setting 'colour'; read it with the version of mtg-lab that wrote it")
    beside.write_text("{}")
    refused("does not tell cohort, split, cases, subsets, regions, spacing_mm")
    beside.unlink()
    refused("cannot read .*scores.protocol.json")
    beside.write_text(whole)
    (tmp_path / "scores.csv").write_text("a,b\n1,2\n")
    refused("has no column subject; give a table that 'mtg-lab evaluate' wrote")
