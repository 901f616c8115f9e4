"""The command: what each part prints and writes, and that bad input is one line, exit code 1, and nothing on disk."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from nbformat.v4 import new_code_cell, new_notebook

from mtg_lab import __version__
from mtg_lab.cli import main
from mtg_lab.gap import MEASURES, read_latents
from mtg_lab.manifest import read_manifest, write_manifest
from mtg_lab.missingness import Missingness, read_pattern

COMMANDS = ("phantom", "index", "export", "convert", "doctor", "train", "evaluate", "gap", "missing", "predict",
            "reliability", "run", "sweep")  # fmt: skip
MODALITIES = ("t1n", "t1c", "t2w", "t2f")
TINY = ("--preset", "smoke", "--set", "steps=2", "--set", "sampling.crop_voxels=24", "--set", "backbone.width=4")


def call(*arguments):
    return CliRunner().invoke(main, [str(a) for a in arguments])


def done(*arguments):
    result = call(*arguments)
    assert result.exit_code == 0, result.output + repr(result.exception)
    return result.stdout


def listing(folder):
    """Every file below a folder with its content's length and time."""
    return {p.relative_to(folder): p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}


def refused(folder, told, *arguments):
    """Exit code 1, one line that says what and where, no traceback, and no file that was not there before."""
    before = listing(folder)
    result = call(*arguments)
    assert result.exit_code == 1, result.output + repr(result.exception)
    assert isinstance(result.exception, SystemExit), repr(result.exception)
    lines = [line for line in result.stderr.splitlines() if line.startswith("mtg-lab:")]
    assert result.stderr == lines[0] + "\n"
    assert told in lines[0]
    assert result.stdout == ""
    assert listing(folder) == before
    return lines[0]


def misused(*arguments, told=""):
    result = call(*arguments)
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith("Usage: ")
    assert told in result.stderr
    assert "Traceback" not in result.output


@pytest.fixture(scope="module")
def trained(cohort, tmp_path_factory):
    """A run folder as the command makes it."""
    folder = tmp_path_factory.mktemp("cli") / "run"
    told = done("train", "--manifest", cohort, *TINY, "--out", folder)
    assert told.startswith(f"{folder}: ")
    assert "final loss" in told
    return folder


@pytest.fixture
def shrunk(cohort, tmp_path):
    """Write a manifest of some of the cohort's rows, by absolute paths; keywords change cells."""

    def write(name="m.csv", modalities=MODALITIES, split=None, **cells):
        rows = []
        for s in read_manifest(cohort):
            row = {"subject": s.name, "split": split or s.split, "schema": s.schema, "site": s.site}
            rows.append(row | {c: str(p) for c, p in s.files.items() if c in (*modalities, "label")} | cells)
        (tmp_path / "cohort").mkdir(exist_ok=True)
        return write_manifest(rows, modalities, tmp_path / "cohort" / name)

    return write


# --- each part at its work --------------------------------------------------------------------------------------------


def test_help_and_version():
    told = done("--help")
    assert all(command in told for command in COMMANDS)
    assert done("-h") == told
    assert done("--version") == f"mtg-lab, version {__version__}\n"
    for command in COMMANDS:
        assert "--help" in done(command, "--help")


def test_phantom_writes_a_cohort_that_doctor_finds_in_order(tmp_path):
    out = tmp_path / "new" / "cohort"
    told = done("phantom", "--out", out, "--subjects", 3, "--spacing", 4, "--workers", 1)
    assert told == f"{out / 'data_manifest.csv'}\n"
    manifest = read_manifest(out / "data_manifest.csv")
    assert len(manifest) == 3
    assert {s.split for s in manifest} == {"train", "val", "test"}
    assert all(p.is_relative_to(out) and p.is_file() for s in manifest for p in s.files.values())
    assert nib.load(manifest.subjects[0].label).header.get_zooms() == (4, 4, 4)
    told = done("doctor", out / "data_manifest.csv")
    assert f"{out / 'data_manifest.csv'}: 3 subjects, t1n, t1c, t2w, t2f; " in told
    assert "0 errors" in told
    before = listing(out / "4mm")
    done("phantom", "--out", out, "--subjects", 3, "--spacing", 4)
    assert listing(out / "4mm") == before, "what is there is not made again"


def test_doctor_tells_every_fault_and_fails(shrunk):
    faulty = shrunk(t2f="nowhere.nii.gz")
    result = call("doctor", faulty)
    assert result.exit_code == 1
    lines = result.stdout.splitlines()
    assert all(line.startswith("error: subject phantom-00") and "no such file" in line for line in lines[:9])
    assert lines[-1].startswith(f"{faulty}: 9 subjects, t1n, t1c, t2w, t2f; 9 errors, ")
    as_json = call("doctor", faulty, "--json")
    assert as_json.exit_code == 1
    findings = json.loads(as_json.stdout)
    assert [f["severity"] for f in findings][:9] == ["error"] * 9
    assert findings[0]["code"] == "file-unreadable"
    assert findings[0]["file"].endswith("nowhere.nii.gz")
    assert set(findings[0]) == {"severity", "code", "subject", "file", "line", "mend"}


def test_doctor_in_json_without_faults_is_an_empty_list(cohort, tmp_path):
    rows = [{"subject": f"P{i}", "t1c": str(s.images["t1c"]), "label": str(s.label), "schema": s.schema, "split":
             ("train", "val", "test")[i % 3]} for i, s in enumerate(read_manifest(cohort))]  # fmt: skip
    assert json.loads(done("doctor", write_manifest(rows, ("t1c",), tmp_path / "m.csv"), "--json")) == []
    assert done("doctor", tmp_path / "m.csv").endswith("; nothing to mend; 0 errors, 0 warnings, 0 notes\n")


def test_warnings_alone_are_no_failure_unless_it_is_strict(shrunk):
    told = done("doctor", shrunk(split=" "))
    assert told.startswith("warning: ")
    assert "no row has a split" in told
    assert told.endswith("; 0 errors, 1 warning, 0 notes\n")
    result = call("doctor", shrunk(split=" "), "--strict")
    assert (result.exit_code, result.stdout) == (1, told)


def test_many_warnings_of_one_kind_are_folded(shrunk):
    told = done("doctor", shrunk(modalities=("t1c",), label=""))
    assert told.count("it has no label") == 9
    from mtg_lab.findings import Finding
    from mtg_lab.findings import told as lines

    many = [Finding("warning", "saturated", f"P{i}", "", f"subject P{i}: bright", "dim it") for i in range(30)]
    assert len(list(lines(many))) == 11
    assert list(lines(many))[-1] == "warning: 20 more of the kind saturated; --json lists them all"


def test_doctor_writes_a_page(cohort, tmp_path):
    told = done("doctor", cohort, "--html", tmp_path / "new" / "page.html")
    assert told.endswith(f"open {(tmp_path / 'new' / 'page.html').as_uri()}\n")
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["page.html"]


def test_a_trained_run_is_not_trained_again(cohort, trained):
    before = listing(trained)
    assert {"recipe.json", "weights.safetensors", "history.csv", "log.txt", "environment.json"} <= {
        p.name for p in before
    }
    recipe = json.loads((trained / "recipe.json").read_text())
    assert (recipe["steps"], recipe["sampling"]["crop_voxels"], recipe["backbone_options"]["width"]) == (2, 24, 4)
    done("train", "--manifest", cohort, *TINY, "--out", trained)
    assert listing(trained) == before


def test_a_student_learns_from_the_run_that_it_is_given(cohort, tmp_path, monkeypatch):
    """The teacher's folder is used as it is, wherever it lies; hours of training are not repeated."""
    monkeypatch.setenv("MTG_LAB_CACHE", str(tmp_path / "cache"))
    done("train", "--manifest", cohort, "--method", "complete", *TINY, "--out", tmp_path / "teacher")
    arguments = ("--manifest", cohort, "--method", "student", "--teacher", tmp_path / "teacher", *TINY)
    done("train", *arguments, "--out", tmp_path / "student")
    facts = json.loads((tmp_path / "student" / "recipe.json").read_text())
    kept = tmp_path / "cache" / "runs" / facts["teacher_hash"]
    for name in ("log.txt", "weights.safetensors"):
        assert (kept / name).read_bytes() == (tmp_path / "teacher" / name).read_bytes()
    assert [p.name for p in kept.parent.iterdir()] == [kept.name], "nothing is left aside"


def test_missing_writes_counts_and_draws_who_lacks_what(cohort, tmp_path):
    out = tmp_path / "new" / "missing.csv"
    rates = ("--rule", "independent", "--rates", "t1n=.2,t1ce=.9", "--seed", 3, "--out", out)
    told = done("missing", cohort, *rates, "--png").splitlines()
    assert told[0] == "rule independent (rates t1n 0.2, t1c 0.9; seed 3): 6 subjects (train)"
    pattern = read_pattern(out)
    assert pattern.equals(Missingness.parse("independent:t1n=.2,t1c=.9", 3).pattern(read_manifest(cohort), "train"))
    rows = {line.split()[0]: line.split()[1:] for line in told[2:7] if line.split()}
    assert rows["t1c"][:2] == [str(int(n)) for n in (pattern["t1c"].sum(), (~pattern["t1c"]).sum())]
    sizes = np.bincount(pattern.sum(axis=1), minlength=5)[1:]
    assert "subjects with " + ", ".join(f"{i}: {n}" for i, n in enumerate(sizes, 1)) + " modalities" in told
    files = ["missing.csv", "missing.png", "missing-subjects.png"]
    assert told[-3:] == [str(out.parent / name) for name in files]
    assert {p.name for p in out.parent.iterdir()} == {*files, "missing.rule.json"}
    again = tmp_path / "again.csv"
    done("missing", cohort, "--rule", "independent:t1n=.2,t1ce=.9,seed=3", "--out", again)
    assert again.read_bytes() == out.read_bytes()


def test_fine_tuning_takes_the_network_of_its_start(cohort, trained, tmp_path):
    done("train", "--manifest", cohort, "--preset", "smoke", "--set", "steps=1", "--start", trained, "--out",
         tmp_path / "tuned")  # fmt: skip
    begun, tuned = (json.loads((folder / "recipe.json").read_text()) for folder in (trained, tmp_path / "tuned"))
    assert tuned["start"] == str(trained)
    for name in ("backbone", "backbone_options", "preprocessing"):
        assert tuned[name] == begun[name]
    misused("train", "--manifest", cohort, "--start", trained, "--backbone", "rfnet", "--out", tmp_path / "other",
            told="--start brings its own network")  # fmt: skip


def test_missing_takes_train_or_the_split_that_is_named(cohort, shrunk, tmp_path):
    out = ("--rule", "uniform", "--out", tmp_path / "m.csv")
    assert "2 subjects (test)" in done("missing", cohort, *out, "--split", "test")
    assert "9 subjects (all)" in done("missing", cohort, *out, "--split", "all")
    assert "9 subjects (all)" in done("missing", shrunk(split=" "), *out)


def test_a_table_and_its_rule_train_on_the_same_pattern(cohort, tmp_path):
    rule = "site:B=-t1c,C=t1n+t2w"
    done("missing", cohort, "--rule", rule, "--out", tmp_path / "m.csv")
    for name, word in (("by-rule", rule), ("by-table", tmp_path / "m.csv")):
        done("train", "--manifest", cohort, *TINY, "--missing", word, "--out", tmp_path / name)
    tables = [(tmp_path / name / "missing.csv").read_bytes() for name in ("by-rule", "by-table")]
    assert tables[0] == tables[1] == (tmp_path / "m.csv").read_bytes()
    settings = ("--set", "missing.rule=site", "--set", "missing.sites=B=-t1c,C=t1n+t2w")
    told = done("train", "--manifest", cohort, *TINY, *settings, "--out", tmp_path / "by-rule")
    assert "by-rule" in told, "the same recipe in other words: nothing is trained again"


def test_what_cannot_be_missing(cohort, tmp_path):
    out = ("--out", tmp_path / "new" / "m.csv")
    for rule, told in (
        ("uniforn", "did you mean 'uniform'"),
        ("imbalanced:t1n=.2,t1c=.4,t2f=.6,t2w=.8", "6 subjects cannot show all 15 patterns of 4 modalities"),
        ("subset:dwi", "names 'dwi'"),
        ("nowhere.csv", "cannot read the table of missingness nowhere.csv"),
        ("case:rate=1.5", "give a number from 0 to 1"),
    ):
        refused(tmp_path, told, "missing", cohort, "--rule", rule, *out)
        refused(tmp_path, told, "train", "--manifest", cohort, *TINY, "--missing", rule, "--out", tmp_path / "run")
    refused(tmp_path, "no subject in split 'x'", "missing", cohort, "--rule", "uniform", "--split", "x", *out)
    (tmp_path / "file").touch()
    refused(tmp_path, "cannot write", "missing", cohort, "--rule", "uniform", "--out", tmp_path / "file" / "m.csv")
    misused("missing", cohort, *out, told="--rule")


def test_evaluate_samples_subsets_where_there_are_more_than_wanted(cohort, trained, tmp_path):
    arguments = ("evaluate", trained, "--manifest", cohort, "--out", tmp_path / "s.csv", "--subsets")
    assert "10 subsets (10 of 15, seed 0, by size)" in done(*arguments, 10)
    assert json.loads((tmp_path / "s.protocol.json").read_text())["subset_choice"] == "10 of 15, seed 0"
    assert "15 subsets, WT" in done(*arguments, "all")
    refused(tmp_path, "at most 4 subsets of 4 modalities; a sample holds 9 at least", *arguments, 4)
    misused(*arguments, "few", told="give a number, or all")


def test_evaluate_writes_scores_with_their_protocol(cohort, trained, tmp_path):
    out = tmp_path / "new" / "scores.csv"
    told = done("evaluate", trained, "--manifest", cohort, "--subset", "flair+t1ce", "--subset", "t1n", "--out", out)
    table = pd.read_csv(out)
    assert list(table.columns)[:7] == ["subject", "site", "subset", "modalities", "region", "metric", "value"]
    assert set(table["subset"]) == {"t1c+t2f", "t1n"}
    assert len(table) == 2 * 2 * 3, "two subjects of test, two subsets, three regions"
    protocol = json.loads((tmp_path / "new" / "scores.protocol.json").read_text())
    assert protocol["split"] == "test"
    assert protocol["versions"]["mtg-lab"] == __version__
    assert f"protocol {table['protocol'][0]}: dice, 2 test cases, 2 subsets, WT/TC/ET" in told
    assert told.endswith(f"{out}\n")
    assert "t1c+t2f" in told


def test_evaluate_in_json_is_json_even_where_there_is_no_mean(cohort, trained, tmp_path, monkeypatch):
    """Under the rule nan a region that no reference holds has no mean, and NaN is no JSON."""
    from mtg_lab import scoring

    score = scoring.dice
    monkeypatch.setattr(scoring, "dice", lambda *a: [*score(*a)[:2], float("nan") if len(a) else 0])
    arguments = ("--manifest", cohort, "--split", "val", "--empty", "nan", "--json", "--out", tmp_path / "s.csv")

    def refuse(word):
        raise AssertionError(f"{word} is no JSON")

    found = json.loads(done("evaluate", trained, *arguments), parse_constant=refuse)
    assert len(found["mean"]) == 15
    assert set(found["mean"]["t1n+t1c+t2w+t2f"]) >= {"WT", "TC"}
    assert found["protocol"]["empty"] == "nan"


def test_evaluate_knows_other_metrics_and_their_settings(cohort, trained, tmp_path):
    out = tmp_path / "scores.csv"
    arguments = ("evaluate", trained, "--manifest", cohort, "--metrics", "hd95,dice,nsd", "--set", "hd95=pooled",
                 "--set", "nsd_mm=4", "--remove", "ET:500", "--subset", "t1c", "--out", out)  # fmt: skip
    told = done(*arguments)
    table = pd.read_csv(out)
    assert list(table["metric"].unique()) == ["dice", "hd95", "nsd"]
    assert list(table["region"].unique()) == ["WT", "TC", "ET", "ETpp"]
    assert "dice, hd95 (pooled, empty mask: 374), nsd (4 mm, voxels), 2 test cases" in told
    assert told.index("dice\n") < told.index("hd95\n") < told.index("nsd\n")
    mean = json.loads(done(*arguments, "--json"))["mean"]
    assert set(mean) == {"dice", "hd95", "nsd"}
    assert set(mean["hd95"]["t1c"]) == {"WT", "TC", "ET", "ETpp"}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--metrics", "dice,assd"), "unknown metric 'assd'; there are: dice, iou"),
        (("--set", "hd95=medpy"), "unknown definition of HD95 'medpy'; there are: max_of_directed"),
        (("--set", "nsd_mm=wide"), "--set nsd_mm=wide: give a number"),
        (("--set", "colour=blue"), "no metric has the setting 'colour'; there are: hd95, hd95_empty"),
        (("--remove", "ET"), "cannot read the removal 'ET'"),
    ],
)
def test_evaluate_refuses_unknown_metrics_in_one_line(cohort, trained, tmp_path, words, told):
    result = call("evaluate", trained, "--manifest", cohort, *words, "--out", tmp_path / "scores.csv")
    assert result.exit_code == 1
    assert told in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_gap_writes_a_table_and_pictures(cohort, trained, tmp_path):
    out, kept = tmp_path / "gap.csv", tmp_path / "latents.safetensors"
    given = ("gap", trained, "--manifest", cohort, "--voxels", 10, "--nulls", 9, "--out", out)
    result = call(*given, "--json", "--latents", kept)
    assert result.exit_code == 0, result.stderr
    rows = {row["metric"]: row for row in json.loads(result.stdout)}
    assert set(rows) == set(MEASURES)
    table = pd.read_csv(out).set_index("metric")
    assert table.loc["centroid_gap", "value"] == pytest.approx(rows["centroid_gap"]["value"])
    assert (table["p"].dropna() >= 0.1).all(), "nine permutations cannot say less"
    pictures = {f"gap_{name}.png" for name in ("chance", "tissues", "pairs", "modality", "tissue")}
    assert {p.name for p in tmp_path.iterdir()} == {"gap.csv", kept.name} | pictures
    assert len(read_latents(kept)) > 0
    for name in ("gap.csv", kept.name, *pictures):
        assert name in result.stderr
    told = done(*given, "--no-pictures", "--stage", "decoder")
    assert "centroid_gap" in told
    assert "png" not in told


def test_gap_of_two_runs_is_on_the_same_voxels_and_one_map(cohort, trained, tmp_path):
    other = shutil.copytree(trained, tmp_path / "other")
    given = ("gap", trained, other, "--manifest", cohort, "--voxels", 6, "--nulls", 0)
    told = done(*given, "--out", tmp_path / "gap.csv")
    table = pd.read_csv(tmp_path / "gap.csv")
    assert table["run"].unique().tolist() == [Path(trained).name, "other"]
    one, two = (part.drop(columns="run").reset_index(drop=True) for _, part in table.groupby("run", sort=False))
    pd.testing.assert_frame_equal(one, two)
    assert "gap_modality.png" in told
    out = ("--out", tmp_path / "again.csv")
    refused(tmp_path, "--latents keeps the latents of one run", *given, *out, "--latents", tmp_path / "kept")
    refused(tmp_path, f"the run {trained} is named twice", "gap", trained, other, trained, "--manifest", cohort, *out)


def oblique(cohort, path):
    """A t1c of the cohort on a grid of its own: axes turned round, another origin."""
    source = nib.load(read_manifest(cohort).split("test").subjects[0].images["t1c"])
    flipped = np.asarray(source.dataobj)[::-1, :, :-3]
    affine = source.affine @ np.diag([-1.0, 1, 1, 1])
    affine[:3, 3] = (70, -100, -60)
    nib.save(nib.Nifti1Image(flipped, affine), path)
    return path


@pytest.mark.parametrize("words", [("--t1c",), ("--T1ce",), ("--t1_gd",), ("--t1c=",)], ids=str)
def test_predict_draws_a_mask_in_the_grid_of_the_one_sequence(cohort, trained, tmp_path, words):
    scan = oblique(cohort, tmp_path / "scan.nii.gz")
    (word,) = words
    given = [f"{word}{scan}"] if word.endswith("=") else [word, scan]
    out = tmp_path / "new" / "mask.nii.gz"
    assert done("predict", trained, *given, "--out", out) == f"{out}\n{out.with_name('mask.json')}\n"
    mask, image = nib.load(out), nib.load(scan)
    assert mask.shape == image.shape
    np.testing.assert_allclose(mask.affine, image.affine)
    assert mask.get_data_dtype() == image.get_data_dtype() == np.int16
    assert set(np.unique(mask.dataobj)) <= {0, 1, 2, 3}
    assert {p.name for p in out.parent.iterdir()} == {"mask.nii.gz", "mask.json"}
    report = json.loads(out.with_name("mask.json").read_text())
    ml = float(abs(np.linalg.det(image.affine[:3, :3]))) / 1000
    assert report["volumes_ml"]["WT"] == pytest.approx((np.asarray(mask.dataobj) > 0).sum() * ml, abs=1e-3)


def test_what_was_measured_as_unreliable_is_said_beside_every_mask(cohort, trained, tmp_path):
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    told = done("reliability", run, "--manifest", cohort, "--split", "test", "--least-dice", "1.1")
    assert told.splitlines()[1] == str(run / "reliability.json")
    scan = read_manifest(cohort).split("test").subjects[0].images["t2f"]
    out = tmp_path / "mask.nii.gz"
    result = CliRunner().invoke(main, ["predict", str(run), "--t2f", str(scan), "--out", str(out)])
    warnings = json.loads((tmp_path / "mask.json").read_text())["warnings"]
    lines = [w for w in warnings if w.startswith(("WT", "TC", "ET"))]
    assert len(lines) == 3
    assert all("measured on 2 test subjects only; whether to trust it is not known" in line for line in lines)
    assert all(f"warning: {line}" in result.stderr for line in lines)


def test_predict_takes_a_whole_cohort_and_goes_on(cohort, trained, tmp_path):
    given = ("predict", trained, "--manifest", cohort, "--split", "test", "--out", tmp_path / "masks")
    assert done(*given, "--overlay").startswith("2 subjects (0 were there already)")
    volumes = pd.read_csv(tmp_path / "masks" / "volumes.csv")
    assert list(volumes) == ["subject", "subset", "WT_ml", "TC_ml", "ET_ml", "warnings"]
    names = {f"{s}{ending}" for s in volumes["subject"] for ending in (".nii.gz", ".json", ".png")}
    assert {p.name for p in (tmp_path / "masks").iterdir()} == names | {"volumes.csv"}
    assert done(*given).startswith("2 subjects (2 were there already)")
    everything = [part for region in ("WT", "TC", "ET") for part in ("--remove", f"{region}:1e9")]
    assert done(*given, *everything).startswith("2 subjects (0 were there already)"), "masks of another kind"
    emptied = pd.read_csv(tmp_path / "masks" / "volumes.csv")
    assert (emptied[["WT_ml", "TC_ml", "ET_ml"]] == 0).all(axis=None)
    assert "no voxel was labelled" in emptied["warnings"][0]
    report = json.loads((tmp_path / "masks" / f"{emptied['subject'][0]}.json").read_text())
    assert report["removed_ml"]["WT"] == pytest.approx(volumes["WT_ml"][0], abs=1e-3)
    assert f"WT: all {volumes['WT_ml'][0]:.2f} ml of it lay in parts that are too small" in emptied["warnings"][0]


def test_index_leads_to_doctor(cohort, tmp_path):
    scans = cohort.parent / "4mm"
    told = done("index", scans, "--out", tmp_path / "m.csv", "--split", "1:1:1")
    assert "9 subjects (the phantom: names such as phantom-001-t1c.nii.gz): t1n 9, t1c 9, t2w 9, t2f 9; 9" in told
    assert "9 with a label; none lack a modality; 3 train, 3 val, 3 test" in told
    assert told.endswith(f"{tmp_path / 'm.csv'}; next: mtg-lab doctor {tmp_path / 'm.csv'}\n")
    assert "; 0 errors, " in done("doctor", tmp_path / "m.csv")
    told = done("index", scans, "--modality", "t1c=*-t1c*", "--label", "*-seg*", "--schema", "brats2023", "--out",
                tmp_path / "n.csv")  # fmt: skip
    assert "by the given patterns" in told
    assert read_manifest(tmp_path / "n.csv").modalities == ("t1c",)


def test_export_and_convert_lead_back_to_index(cohort, tmp_path):
    folder = tmp_path / "Dataset001_Phantom"
    assert done("export", cohort, "--to", "nnunet", "--out", folder) == f"{folder}\n"
    assert "9 subjects (nnU-Net v2: dataset.json" in done("index", folder, "--out", tmp_path / "n.csv")
    listed = tmp_path / "list.json"
    assert done("export", cohort, "--to", "monai", "--out", listed) == f"{listed}\n"
    assert "9 subjects (MONAI datalist: list.json" in done("index", listed, "--out", tmp_path / "l.csv")
    for name in ("n.csv", "l.csv"):
        assert [(s.name, s.split) for s in read_manifest(tmp_path / name)] == [
            (s.name, s.split) for s in read_manifest(cohort)
        ]
    out = tmp_path / "converted"
    assert done("convert", cohort, "--schema", "brats2021", "--out", out) == f"{out / 'data_manifest.csv'}\n"
    assert read_manifest(out / "data_manifest.csv").schema.name == "brats2021"
    refused(tmp_path, "is there already", "convert", cohort, "--schema", "brats2021", "--out", out)
    refused(tmp_path, "no counterpart in lesion", "convert", cohort, "--schema", "lesion", "--out", tmp_path / "x")
    misused("export", cohort, "--to", "monai", "--copy", "--out", tmp_path / "y.json", told="--copy is for nnunet")


# --- notebooks --------------------------------------------------------------------------------------------------------


@pytest.fixture
def notebook(tmp_path):
    """Write a notebook of one cell."""

    def write(name, source):
        cells = [new_code_cell('preset = "lab"\nseed = 0\nout = ""', metadata={"tags": ["parameters"]})]
        book = new_notebook(cells=[*cells, new_code_cell(source)])
        book.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
        nbformat.write(book, tmp_path / f"{name}.ipynb")
        return tmp_path / f"{name}.ipynb"

    return write


def test_run_executes_notebooks_and_tells_which_cell_failed(notebook, tmp_path):
    good, bad = notebook("00_good", "print(seed)"), notebook("01_bad", "1 / (seed - 3)")
    told = done("run", good, "-p", "seed", 2, "--out", tmp_path / "out")
    assert told == f"open {(tmp_path / 'out' / 'index.html').as_uri()}\n"
    assert (tmp_path / "out" / "00_good" / "00_good.html").is_file()
    result = call("run", bad, "-p", "seed", 3, "--preset", "smoke", "--out", tmp_path / "out")
    assert result.exit_code == 1
    line = result.stderr.splitlines()[-1]
    assert line == "mtg-lab: 01_bad, cell 2 failed: ZeroDivisionError: division by zero"


def test_run_refuses_before_anything_runs(notebook, tmp_path):
    good = notebook("00_good", "print(seed)")
    out = ("--out", tmp_path / "out")
    refused(tmp_path, "did you mean seed?", "run", good, "-p", "sede", 2, *out)
    refused(tmp_path, "declares int", "run", good, "-p", "seed", "two", *out)
    refused(tmp_path, "no notebook 77", "run", "77", *out)
    refused(tmp_path, "no manifest", "run", good, "--manifest", tmp_path / "nowhere.csv", *out)
    assert not (tmp_path / "out").exists()
    misused("run", good, "--preset", "tiny", *out)


def test_sweep_runs_a_grid(notebook, tmp_path):
    notebook("00_good", "print(seed)")
    (tmp_path / "sweep.yaml").write_text("notebook: 00_good.ipynb\npreset: smoke\ngrid: {seed: [1]}\n")
    assert "index.html" in done("sweep", tmp_path / "sweep.yaml", "--out", tmp_path / "out")
    assert (tmp_path / "out" / "000_seed=1" / "00_good" / "00_good.ipynb").is_file()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (None, "cannot read"),
        ("a: [", "not YAML, line"),
        ("just words", "a sweep has a grid"),
        ("notebook: 00_good.ipynb\ngrid: {}\n", "grid maps each parameter to values"),
        ("notebook: 00_good.ipynb\ngrid: {sede: [1]}\n", "did you mean seed?"),
        ("notebook: nothing\ngrid: {seed: [1]}\n", "no notebook nothing"),
    ],
)
def test_sweep_refuses_a_bad_file(notebook, tmp_path, text, told):
    notebook("00_good", "print(seed)")
    if text is not None:
        (tmp_path / "sweep.yaml").write_text(text)
    refused(tmp_path, told, "sweep", tmp_path / "sweep.yaml", "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_sweep_trains_and_scores_recipes(cohort, tmp_path):
    grid = "method: [dropout, nothing], steps: 2, sampling.crop_voxels: 16, backbone.width: 4"
    file = tmp_path / "sweep.yaml"
    file.write_text(f"preset: smoke\nmanifest: {cohort}\nsplit: val\ngrid: {{{grid}}}\n")
    refused(tmp_path, "unknown method 'nothing'", "sweep", file, "--out", tmp_path / "out")
    file.write_text(file.read_text().replace(", nothing", ", complete"))
    assert "2 of 2 runs done" in done("sweep", file, "--out", tmp_path / "out", "--workers", 1)
    assert pd.read_csv(tmp_path / "out" / "scores.csv")["arm"].unique().tolist() == ["dropout", "complete"]
    misused("sweep", file, "--out", tmp_path / "out", "--scheduler", "tcp://a:1", "--slurm", "timeout_min=3")


def test_sweep_refuses_a_cluster_that_is_no_address(notebook, tmp_path):
    notebook("00_good", "print(seed)")
    (tmp_path / "sweep.yaml").write_text("notebook: 00_good.ipynb\ngrid: {seed: [1]}\n")
    arguments = ("sweep", tmp_path / "sweep.yaml", "--scheduler", "gopher://nowhere", "--out", tmp_path / "out")
    refused(tmp_path, "--scheduler", *arguments)


# --- bad input --------------------------------------------------------------------------------------------------------


def test_no_such_manifest(trained, tmp_path):
    missing, out = tmp_path / "nowhere.csv", tmp_path / "out.csv"
    refused(tmp_path, "nowhere.csv does not exist", "doctor", missing)
    refused(tmp_path, "nowhere.csv does not exist", "train", "--manifest", missing, "--out", tmp_path / "run")
    refused(tmp_path, "nowhere.csv does not exist", "evaluate", trained, "--manifest", missing, "--out", out)
    refused(tmp_path, "nowhere.csv does not exist", "gap", trained, "--manifest", missing, "--out", out)
    refused(tmp_path, "is a folder", "doctor", tmp_path)


def test_no_such_split(cohort, trained, tmp_path):
    for command in ("evaluate", "gap"):
        arguments = ("--manifest", cohort, "--split", "testing", "--out", tmp_path / "out.csv")
        refused(tmp_path, "no subject in split 'testing'; splits here: test, train, val", command, trained, *arguments)


@pytest.mark.parametrize(
    ("subset", "told"), [("t1c+dwi", "names 'dwi'"), ("", "is empty"), ("+", "is empty"), ("t2", "")]
)
def test_subsets_that_cannot_be(cohort, trained, tmp_path, subset, told):
    arguments = ("evaluate", trained, "--manifest", cohort, "--subset", subset, "--out", tmp_path / "out.csv")
    if told:
        refused(tmp_path, told, *arguments)
    else:
        assert "t2w" in done(*arguments), "an alias is understood"


def test_a_run_of_other_modalities(cohort, trained, shrunk, tmp_path):
    rows = [
        {"subject": s.name, "split": s.split, "schema": s.schema, "dwi": str(s.images["t2f"]), "label": str(s.label)}
        for s in read_manifest(cohort)
    ]
    foreign = write_manifest(rows, ("dwi",), tmp_path / "foreign.csv")
    for command in ("evaluate", "gap"):
        arguments = (command, trained, "--manifest", foreign, "--out", tmp_path / "out.csv")
        refused(tmp_path, "has the modality 'dwi'; the run run was trained on t1n, t1c, t2w, t2f", *arguments)
    scan = rows[0]["dwi"]
    refused(tmp_path, "'dwi'", "predict", trained, "--dwi", scan, "--out", tmp_path / "mask.nii.gz")


def test_run_folders_that_hold_no_whole_run(cohort, trained, tmp_path):
    interrupted, damaged, empty = (tmp_path / name for name in ("interrupted", "damaged", "empty"))
    for folder in (interrupted, damaged, empty):
        folder.mkdir()
    shutil.copy(trained / "recipe.json", interrupted)
    (damaged / "recipe.json").write_text("{")
    scan = next(iter(read_manifest(cohort))).images["t1c"]
    for folder, told in (
        (interrupted, "was interrupted before its end; the same train command resumes it"),
        (damaged, "is damaged"),
        (empty, "holds no run (no recipe.json)"),
        (tmp_path / "nowhere", "does not exist"),
    ):
        refused(tmp_path, told, "evaluate", folder, "--manifest", cohort, "--out", tmp_path / "out.csv")
        refused(tmp_path, told, "gap", folder, "--manifest", cohort, "--out", tmp_path / "out.csv")
        refused(tmp_path, told, "predict", folder, "--t1c", scan, "--out", tmp_path / "mask.nii.gz")
        refused(tmp_path, told, "train", "--manifest", cohort, "--method", "student", "--teacher", folder, *TINY,
                "--out", tmp_path / "student")  # fmt: skip


def test_weights_of_another_network(cohort, trained, tmp_path):
    shutil.copytree(trained, tmp_path / "run")
    (tmp_path / "run" / "weights.safetensors").write_bytes(b"no weights")
    arguments = ("evaluate", tmp_path / "run", "--manifest", cohort, "--out", tmp_path / "out.csv")
    refused(tmp_path, "does not fit its recipe", *arguments)


def test_a_teacher_of_another_version_or_of_other_data(cohort, trained, tmp_path):
    shutil.copytree(trained, tmp_path / "teacher")
    facts = json.loads((tmp_path / "teacher" / "recipe.json").read_text())
    (tmp_path / "teacher" / "recipe.json").write_text(json.dumps(facts | {"hash": "0123456789ab"}))
    refused(tmp_path, "trained on other data or by another version", "train", "--manifest", cohort, "--method",
            "student", "--teacher", tmp_path / "teacher", *TINY, "--out", tmp_path / "student")  # fmt: skip


def test_a_file_stands_where_the_folder_should_be(cohort, trained, tmp_path, notebook):
    """As a full disk would: what cannot be written leaves nothing behind."""
    (tmp_path / "file").write_text("mine")
    good, scan = notebook("00_good", "1"), next(iter(read_manifest(cohort))).images["t1c"]
    (tmp_path / "sweep.yaml").write_text("notebook: 00_good.ipynb\ngrid: {seed: [1]}\n")
    below = tmp_path / "file" / "below"
    for arguments in (
        ("phantom", "--subjects", 1, "--spacing", 6, "--out", below),
        ("phantom", "--subjects", 1, "--spacing", 6, "--out", tmp_path / "file"),
        ("index", cohort.parent / "4mm", "--out", below / "m.csv"),
        ("train", "--manifest", cohort, *TINY, "--out", below),
        ("train", "--manifest", cohort, *TINY, "--out", tmp_path / "file"),
        ("evaluate", trained, "--manifest", cohort, "--subset", "t1c", "--out", below / "scores.csv"),
        ("gap", trained, "--manifest", cohort, "--voxels", 5, "--nulls", 2, "--out", below / "gap.csv"),
        ("predict", trained, "--t1c", scan, "--out", below / "mask.nii.gz"),
        ("run", good, "--out", below),
        ("sweep", tmp_path / "sweep.yaml", "--out", below),
    ):
        refused(tmp_path, "cannot write", *arguments)
    assert (tmp_path / "file").read_text() == "mine"


def test_a_phantom_that_cannot_be_written_leaves_no_manifest(tmp_path):
    """A manifest of files that do not exist would be a cohort of its own."""
    (tmp_path / "6mm").write_text("mine")
    arguments = ("phantom", "--subjects", 1, "--spacing", 6, "--workers", 1, "--out", tmp_path)
    refused(tmp_path, "cannot write the phantom to", *arguments)


@pytest.mark.parametrize("value", [("--spacing", 0.5), ("--spacing", 7), ("--spacing", "nan"), ("--seed", -1)], ids=str)
def test_phantoms_out_of_range(tmp_path, value):
    refused(tmp_path, "pass one", "phantom", "--out", tmp_path / "new", *value)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--method", "magic"), "unknown method 'magic'; there are: complete, dropout, aligned_teacher, student"),
        (("--backbone", "resnet"), "resnet"),
        (("--set", "stepps=3"), "--set stepps: no such setting"),
        (("--set", "steps=few"), "'few' is no int"),
        (("--set", "steps=0"), "it must be at least 1"),
        (("--set", "method.magic=1"), "magic"),
        (("--set", "backbone.magic=1"), "magic"),
        (("--set", "steps=3", "--set", "steps=4"), "--set steps: given twice"),
        (("--method", "student"), "needs a teacher"),
    ],
    ids=str,
)
def test_what_cannot_be_trained(cohort, tmp_path, arguments, told):
    refused(tmp_path, told, "train", "--manifest", cohort, "--preset", "smoke", *arguments, "--out", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_teacher_is_refused_where_none_is_needed(cohort, trained, tmp_path):
    refused(tmp_path, "learns from no teacher", "train", "--manifest", cohort, "--teacher", trained, "--out",
            tmp_path / "run")  # fmt: skip


def test_another_recipe_in_the_same_folder(cohort, trained):
    refused(trained, "holds the run of another recipe", "train", "--manifest", cohort, *TINY, "--seed", 5, "--out",
            trained)  # fmt: skip


def test_labels_outside_the_schema(trained, shrunk, tmp_path):
    """The labels are those of 2023; read as those of 2021 the enhancing tumour has no meaning."""
    wrong = shrunk(schema="brats2021")
    told = "schema brats2021 knows 0, 1, 2, 4; name the right schema (its values fit brats2023, "
    out = ("--split", "val", "--out", tmp_path / "out.csv")  # the patient of val has enhancing tumour
    for command in ("evaluate", "gap"):
        refused(tmp_path, told, command, trained, "--manifest", wrong, *out)
    result = call("doctor", wrong)
    assert result.exit_code == 1
    assert told in result.stdout


def test_a_raw_sequence_on_a_grid_of_its_own(cohort, trained, shrunk, tmp_path, nifti):
    raw = nifti(tmp_path / "raw.nii.gz", np.ones((20, 20, 9), np.int16))
    told = "t2f is 20x20x9, t1n is"
    wrong = shrunk(t2f=str(raw))
    refused(tmp_path, told, "evaluate", trained, "--manifest", wrong, "--out", tmp_path / "out.csv")
    refused(tmp_path, told, "gap", trained, "--manifest", wrong, "--out", tmp_path / "out.csv")
    t1n = next(iter(read_manifest(cohort))).images["t1n"]
    refused(tmp_path, "t2f is 20x20x9, t1n is 44x56x44; resample t2f to t1n's grid", "predict", trained, "--t1n", t1n,
            "--flair", raw, "--out", tmp_path / "mask.nii.gz")  # fmt: skip
    assert call("doctor", wrong).exit_code == 1


@pytest.mark.parametrize("fault", ["schema", "grid"])
def test_training_on_scans_of_no_use_leaves_nothing_that_looks_like_a_run(shrunk, tmp_path, nifti, fault):
    if fault == "schema":
        wrong = shrunk(schema="brats2021")
    else:
        wrong = shrunk(t2f=str(nifti(tmp_path / "raw.nii.gz", np.ones((20, 20, 9), np.int16))))
    result = call("train", "--manifest", wrong, *TINY, "--out", tmp_path / "run")
    assert result.exit_code == 1
    assert result.stderr.startswith("mtg-lab: ")
    assert len(result.stderr.splitlines()) == 1
    assert not list((tmp_path / "run").glob("*.safetensors"))
    assert {path.name for path in (tmp_path / "run").iterdir()} <= {".lock"}


def test_predict_refuses_what_it_cannot_read(trained, tmp_path):
    out = ("--out", tmp_path / "mask.nii.gz")
    (tmp_path / "text.nii.gz").write_text("no image")
    refused(tmp_path, "no such file", "predict", trained, "--t1c", tmp_path / "nowhere.nii.gz", *out)
    refused(tmp_path, "not a readable NIfTI file", "predict", trained, "--t1c", tmp_path / "text.nii.gz", *out)
    refused(tmp_path, "nothing to predict from", "predict", trained, *out)
    refused(tmp_path, "t1ce and t1c are one modality", "predict", trained, "--t1c", "a", "--t1ce", "b", *out)
    refused(tmp_path, "must end in .nii", "predict", trained, "--t1c", "a", "--out", tmp_path / "mask.png")
    for name in ("window", "run", "pet"):
        refused(tmp_path, f"the modality '{name}'", "predict", trained, f"--{name}", "8", *out)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--split", "60:40"), "is not TRAIN:VAL:TEST"),
        (("--seed", "-1"), "--seed -1 is below 0"),
        (("--schema", "brats"), "unknown label schema"),
        (("--modality", "t1c=*a*", "--modality", "t1c=*b*"), "--modality t1c: given twice"),
        (("--modality", "t1c=*nothing*"), "no scans recognised"),
        (("--label", "*seg*"), "name the modalities too"),
        (("--modality", "t1c"), "give it a pattern, as in t1c='*T1POST*'; there is no datalist"),
    ],
    ids=str,
)
def test_index_refuses_in_one_line(cohort, tmp_path, arguments, told):
    refused(tmp_path, told, "index", cohort.parent / "4mm", *arguments, "--out", tmp_path / "m.csv")


def test_a_refusal_of_several_lines_is_told_in_one(monkeypatch, tmp_path):
    from mtg_lab import indexing
    from mtg_lab.errors import InputError

    def refuse(*arguments, **options):
        raise InputError("first\nsecond")

    monkeypatch.setattr(indexing, "index_folder", refuse)
    refused(tmp_path, "mtg-lab: first second", "index", tmp_path, "--out", tmp_path / "m.csv")


def test_an_interruption_is_told_with_its_own_code(monkeypatch, tmp_path):
    from mtg_lab import indexing

    def interrupt(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(indexing, "index_folder", interrupt)
    result = call("index", tmp_path)
    assert result.exit_code == 130
    assert result.stderr == "mtg-lab: interrupted; the same command goes on from here\n"


# --- wrong usage ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        ("phantom",),
        ("phantom", "--default", "--out", "x"),
        ("phantom", "--out", "x", "--subjects", "0"),
        ("phantom", "--out", "x", "--spacing", "wide"),
        ("train",),
        ("train", "--out", "x", "--preset", "tiny"),
        ("train", "--out", "x", "--seed", "-1"),
        ("train", "--out", "x", "--set", "steps"),
        ("evaluate",),
        ("evaluate", "run"),
        ("evaluate", "run", "--out", "x", "--window", "-1"),
        ("gap", "run", "--out", "x", "--voxels", "1"),
        ("predict", "run", "--t1c", "a.nii.gz"),
        ("predict", "run", "t1c", "a.nii.gz", "--out", "x.nii.gz"),
        ("predict", "run", "--t1c", "--out", "x.nii.gz"),
        ("predict", "run", "--t1c", "a", "--t1c", "b", "--out", "x.nii.gz"),
        ("predict", "run", "--t1c", "a", "--manifest", "m.csv", "--out", "x"),
        ("predict", "run", "--t1c", "a", "--split", "test", "--out", "x.nii.gz"),
        ("index",),
        ("index", ".", "--modality", "t1c", "--modality", "t2f=*x*"),
        ("run",),
        ("run", "-p", "seed", "--out", "x"),
        ("sweep", "--out", "x"),
        ("teach",),
        ("--loud",),
    ],
    ids=str,
)
def test_wrong_usage_is_told_with_its_own_code(tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    misused(*arguments)
    assert not list(tmp_path.iterdir())


def test_phantom_needs_a_place():
    misused("phantom", told="give either --out DIR or --default")


# --- as a process -----------------------------------------------------------------------------------------------------


def child(*arguments, **options):
    return subprocess.run([str(a) for a in arguments], capture_output=True, text=True, timeout=120, **options)


def test_help_loads_nothing_heavy():
    """Torch alone takes longer than the half second that an answer may take."""
    code = """
import sys
from mtg_lab.cli import main
for command in ([], ["train"], ["missing"], ["evaluate"], ["predict"], ["run"]):
    main([*command, "--help"], standalone_mode=False)
heavy = ("torch", "monai", "matplotlib", "pandas", "numpy", "sklearn", "nibabel", "papermill", "IPython")
print("heavy:", [m for m in heavy if m in sys.modules])
"""
    result = child(sys.executable, "-c", code, check=True)
    assert result.stdout.endswith("heavy: []\n")


def test_the_installed_command_answers(tmp_path):
    command = Path(sys.executable).parent / ("mtg-lab.exe" if os.name == "nt" else "mtg-lab")
    result = child(command, "--version", cwd=tmp_path)
    assert (result.returncode, result.stdout) == (0, f"mtg-lab, version {__version__}\n")
    result = child(command, "doctor", "nowhere.csv", cwd=tmp_path)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith("mtg-lab: the manifest nowhere.csv does not exist")
    assert len(result.stderr.splitlines()) == 1
    assert child(command, "doctor", "--loud", cwd=tmp_path).returncode == 2
