"""Bad input over the whole command: exit code 1, one line that says what, where and how to mend it, nothing written.

`docs/bad_inputs.md` is the table of these lines, and every test compares one row of it with what the command prints.
With MTG_LAB_WRITE_TABLE=1 the table is written anew instead: look at the difference before you commit it.
"""

import json
import os
import re
import shlex
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import nbformat
import nibabel as nib
import numpy as np
import pytest
from click.testing import CliRunner
from nbformat.v4 import new_code_cell, new_notebook

from mtg_lab.cli import main
from mtg_lab.manifest import read_manifest, write_manifest

TABLE = Path(__file__).resolve().parent.parent / "docs" / "bad_inputs.md"
MODALITIES = ("t1n", "t1c", "t2w", "t2f")
TINY = ("--preset", "smoke", "--set", "steps=2", "--set", "sampling.crop_voxels=24", "--set", "backbone.width=4")


@dataclass
class Place:
    """A folder to be wrong in, a good cohort and a good run; ``DIR``, ``COHORT`` and ``RUN`` in the table."""

    folder: Path
    cohort: Path
    run: Path
    names: dict[str, Path] = field(default_factory=dict)

    def file(self, name: str, content: str | bytes = "") -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    def out(self, name: str) -> Path:
        return self.folder / "new" / name

    def image(self, name: str, voxels: np.ndarray, affine: np.ndarray | None = None) -> str:
        path = self.folder / name
        nib.save(nib.Nifti1Image(voxels, np.diag([4.0, 4, 4, 1]) if affine is None else affine), path)
        return str(path)

    def like(self, column: str, change: Callable[[np.ndarray], np.ndarray], flip: bool = False) -> str:
        """A file of the first test subject with its voxels changed."""
        image = nib.load(self.rows()[0][column])
        affine = image.affine @ np.diag([-1.0 if flip else 1, 1, 1, 1])
        return self.image(f"{column}.nii.gz", change(np.asarray(image.dataobj)), affine)

    def rows(self) -> list[dict[str, str]]:
        """The rows of the cohort's test split, by absolute paths."""
        return [
            {"subject": s.name, "split": "test", "schema": s.schema} | {c: str(p) for c, p in s.files.items()}
            for s in read_manifest(self.cohort).split("test")
        ]

    def manifest(self, modalities: Sequence[str] = MODALITIES, **cells: str) -> Path:
        """A manifest of the test split; keywords change cells of its first row."""
        rows = self.rows()
        rows[0] |= cells
        return write_manifest(rows, modalities, self.folder / "m.csv")

    def evaluate(self, manifest: Path | None = None, *more: str) -> tuple:
        return ("evaluate", self.run, "--manifest", manifest or self.cohort, *more, "--out", self.out("scores.csv"))

    def train(self, *more: object) -> tuple:
        return ("train", "--manifest", self.cohort, "--preset", "smoke", *more, "--out", self.out("run"))

    def predict(self, *more: object) -> tuple:
        return ("predict", self.run, *more, "--out", self.out("mask.nii.gz"))

    def index(self, *more: object) -> tuple:
        return ("index", self.cohort.parent / "4mm", *more, "--out", self.out("m.csv"))

    def notebook(self) -> Path:
        book = new_notebook(cells=[new_code_cell("seed = 0", metadata={"tags": ["parameters"]})])
        path = self.folder / "00_good.ipynb"
        nbformat.write(book, path)
        return path

    def execute(self, *more: object) -> tuple:
        return ("run", self.notebook(), *more, "--out", self.out("lab"))

    def sweep(self, text: str, *more: object) -> tuple:
        self.notebook()
        return ("sweep", self.file("sweep.yaml", text), *more, "--out", self.out("lab"))

    def half_run(self, name: str, **changes: object) -> Path:
        """A copy of the run: files by name, None takes one away, a dictionary changes its recipe."""
        folder = self.folder / name
        shutil.copytree(self.run, folder)
        for file, content in changes.items():
            path = folder / {"recipe": "recipe.json", "weights": "weights.safetensors"}[file]
            if content is None:
                path.unlink()
            elif isinstance(content, dict):
                path.write_text(json.dumps(json.loads(path.read_text()) | content))
            else:
                path.write_text(str(content))
        return folder


def table(place: Place, text: str) -> Path:
    return place.file("m.csv", text)


# What is wrong, and the command that meets it.
CASES: dict[str, Callable[[Place], tuple]] = {
    # the manifest
    "no such manifest": lambda p: ("doctor", p.folder / "nowhere.csv"),
    "a folder instead of a manifest": lambda p: ("doctor", p.folder),
    "an empty manifest": lambda p: ("doctor", table(p, "")),
    "a manifest that is no text": lambda p: ("doctor", p.file("m.csv", b"subject,t1c\nP1,\xff\xfe.nii\n")),
    "a header alone": lambda p: ("doctor", table(p, "subject,split,t1c\n")),
    "no column subject": lambda p: ("doctor", table(p, "case,t1c\nP1,a.nii\n")),
    "semicolons between cells": lambda p: ("doctor", table(p, "subject;t1c\nP1;a.nii\n")),
    "a column without a name": lambda p: ("doctor", table(p, "subject,t1c,\nP1,a.nii,b.nii\n")),
    "one modality under two names": lambda p: ("doctor", table(p, "subject,flair,t2f\nP1,a.nii,b.nii\n")),
    "a plus in a modality's name": lambda p: ("doctor", table(p, "subject,dwi+adc\nP1,a.nii\n")),
    "a real subject with ingredients": lambda p: p.evaluate(p.manifest(ingredients="all")),
    "no modality": lambda p: ("doctor", table(p, "subject,label,schema\nP1,a.nii,lesion\n")),
    "a row with too few cells": lambda p: p.evaluate(table(p, "subject,split,t1c\nP1,test\n")),
    "a row without a name": lambda p: p.evaluate(table(p, "subject,split,t1c\n,test,a.nii\n")),
    "one name twice": lambda p: p.evaluate(table(p, "subject,t1c\nP1,a.nii\nP1,b.nii\n")),
    "several faults at once": lambda p: p.evaluate(table(p, "subject,t1c\nP1,\n,a.nii\nP3,\n")),
    "an unknown split": lambda p: p.evaluate(table(p, "subject,split,t1c\nP1,dev,a.nii\n")),
    "a seed that is no number": lambda p: p.evaluate(table(p, "subject,seed,site,t1c\nP1,x,A,a.nii\n")),
    "a seed without a site": lambda p: p.evaluate(table(p, "subject,seed,t1c\nP1,3,a.nii\n")),
    "a row without any image": lambda p: p.evaluate(table(p, "subject,split,t1c\nP1,test,\n")),
    "a label without a schema": lambda p: p.evaluate(table(p, "subject,t1c,label\nP1,a.nii,b.nii\n")),
    "a schema that does not exist": lambda p: p.evaluate(table(p, "subject,t1c,schema\nP1,a.nii,brats2020\n")),
    "two schemas in one cohort": lambda p: p.evaluate(p.manifest(schema="brats2024")),
    # the files
    "an image that is not there": lambda p: p.evaluate(p.manifest(t1c=str(p.folder / "nowhere.nii.gz"))),
    "a label that is not there": lambda p: p.evaluate(p.manifest(label=str(p.folder / "nowhere.nii.gz"))),
    "a subject without a label": lambda p: p.evaluate(p.manifest(label="")),
    "a text instead of an image": lambda p: p.evaluate(p.manifest(t1c=str(p.file("a.nii", "a report" * 99)))),
    "an image of four dimensions": lambda p: p.evaluate(
        p.manifest(t1c=p.image("a.nii", np.ones((9, 9, 9, 4), np.int16)))
    ),
    "a colour image": lambda p: p.evaluate(
        p.manifest(t1c=p.image("a.nii", np.zeros((9, 9, 9), [("R", "u1"), ("G", "u1"), ("B", "u1")])))
    ),
    "another shape": lambda p: p.evaluate(p.manifest(t2f=p.like("t2f", lambda v: v[2:]))),
    "another place in space": lambda p: p.evaluate(
        p.manifest(t2f=p.image("a.nii", np.ones((44, 56, 44), np.int16), np.diag([4.0, 4, 5, 1])))
    ),
    "another orientation": lambda p: p.evaluate(p.manifest(t2f=p.like("t2f", lambda v: v, flip=True))),
    "a label of another schema": lambda p: p.evaluate(
        p.manifest(label=p.like("label", lambda v: np.where(v > 0, 4, v).astype(np.uint8)))
    ),
    "an interpolated label": lambda p: p.evaluate(
        p.manifest(label=p.like("label", lambda v: (v > 0).astype(np.float32) / 2))
    ),
    "an image that holds NaN": lambda p: p.evaluate(
        p.manifest(t1c=p.like("t1c", lambda v: np.where(v > 99, np.nan, v).astype(np.float32)))
    ),
    "an empty brain mask": lambda p: p.evaluate(p.manifest(mask=p.like("label", lambda v: 0 * v))),
    # index
    "no such folder": lambda p: ("index", p.folder / "nowhere", "--out", p.out("m.csv")),
    "a folder without scans": lambda p: ("index", p.file("scans/read.me").parent, "--out", p.out("m.csv")),
    "an unknown schema": lambda p: p.index("--schema", "brats"),
    "shares that are no split": lambda p: p.index("--split", "60:40"),
    "a seed below zero": lambda p: p.index("--seed", "-1"),
    "one modality twice": lambda p: p.index("--modality", "t1c=*-t1c*", "--modality", "t1c=*-t2f*"),
    "one modality under two aliases": lambda p: p.index("--modality", "t1c=*-t1c*", "--modality", "t1ce=*-t2f*"),
    "a pattern for labels alone": lambda p: p.index("--label", "*seg*"),
    "a reserved word for a modality": lambda p: p.index("--modality", "site=*-t1c*"),
    "a pattern that is none": lambda p: p.index("--modality", "t1c=./"),
    "a pattern that nothing matches": lambda p: p.index("--modality", "t1c=*T1POST*"),
    "a pattern that two files match": lambda p: (
        "index", p.file("scans/P1/a-T1.nii").parents[1] if p.file("scans/P1/b-T1.nii") else 0, "--modality", "t1n=*T1*",
        "--out", p.out("m.csv")),
    "patterns with labels and no schema": lambda p: p.index("--modality", "t1c=*-t1c*", "--label", "*-seg*"),
    "index into a file": lambda p: (*p.index()[:-1], p.file("file") / "m.csv"),
    # phantom
    "a phantom of huge voxels": lambda p: ("phantom", "--spacing", "7", "--out", p.out("cohort")),
    "a phantom of a negative seed": lambda p: ("phantom", "--seed", "-1", "--out", p.out("cohort")),
    "a phantom with an unknown ingredient": lambda p: ("phantom", "--with", "all-salt", "--out", p.out("cohort")),
    "a phantom into a file": lambda p: ("phantom", "--out", p.file("file") / "cohort"),
    # train
    "an unknown method": lambda p: p.train("--method", "magic"),
    "an unknown backbone": lambda p: p.train("--backbone", "resnet"),
    "an unknown setting": lambda p: p.train("--set", "stepps=3"),
    "a setting of another type": lambda p: p.train("--set", "steps=few"),
    "no steps": lambda p: p.train("--set", "steps=0"),
    "one setting twice": lambda p: p.train("--set", "steps=3", "--set", "steps=4"),
    "an option that the method lacks": lambda p: p.train("--set", "method.magic=1"),
    "an option that the backbone lacks": lambda p: p.train("--set", "backbone.magic=1"),
    "a learning rate of zero": lambda p: p.train("--set", "learning_rate=0"),
    "a share above one": lambda p: p.train("--set", "warmup=2"),
    "a precision that does not exist": lambda p: p.train("--set", "precision=fp8"),
    "crops of nothing": lambda p: p.train("--set", "sampling.crop_voxels=0"),
    "a student without a teacher": lambda p: p.train("--method", "student"),
    "a teacher for a method that needs none": lambda p: p.train("--teacher", p.run),
    "fine-tuning from nothing": lambda p: p.train("--start", p.folder / "nowhere"),
    "fine-tuning with other sequences": lambda p: (
        "train", "--manifest", p.manifest(("t1c", "t2f"), split="train"), "--preset", "smoke", "--start", p.run,
        "--out", p.out("run"),
    ),
    "a teacher that was interrupted": lambda p: p.train(
        "--method", "student", "--teacher", p.half_run("teacher", weights=None)
    ),
    "a teacher of other data": lambda p: p.train(
        "--method", "student", "--teacher", p.half_run("teacher", recipe={"hash": "0123456789ab"})
    ),
    "another recipe in the same folder": lambda p: (*p.train("--set", "steps=2")[:-1], p.run),
    "train into a file": lambda p: (*p.train()[:-1], p.file("file") / "run"),
    # evaluate
    "no such run": lambda p: ("evaluate", p.folder / "nowhere", "--manifest", p.cohort, "--out", p.out("s.csv")),
    "a folder without a run": lambda p: ("evaluate", p.folder, "--manifest", p.cohort, "--out", p.out("s.csv")),
    "a report on no run": lambda p: ("report", p.folder / "nowhere", "--manifest", p.cohort, "--out", p.out("report")),
    "a report on one seed twice": lambda p: (
        "report", f"ours={p.run}", f"ours={p.run}", "--manifest", p.cohort, "--split", "val", "--out", p.out("report")),
    "a report on a table that is none": lambda p: (
        "report", p.file("scores.csv", "a,b\n1,2\n"), "--manifest", p.cohort, "--out", p.out("report")),
    "an interrupted run": lambda p: (
        "evaluate", p.half_run("half", weights=None), "--manifest", p.cohort, "--out", p.out("s.csv")),
    "a damaged recipe": lambda p: (
        "evaluate", p.half_run("half", recipe="{"), "--manifest", p.cohort, "--out", p.out("s.csv")),
    "a recipe of another version": lambda p: (
        "evaluate", p.half_run("half", recipe={"sampling": {"crops": 3}}), "--manifest", p.cohort, "--out",
        p.out("s.csv")),
    "damaged weights": lambda p: (
        "evaluate", p.half_run("half", weights="none"), "--manifest", p.cohort, "--out", p.out("s.csv")),
    "no such split": lambda p: p.evaluate(None, "--split", "testing"),
    "a subset of an unknown modality": lambda p: p.evaluate(None, "--subset", "t1c+dwi"),
    "an empty subset": lambda p: p.evaluate(None, "--subset", "+"),
    "an unknown rule for empty regions": lambda p: p.evaluate(None, "--empty", "zero"),
    "a modality that the run never saw": lambda p: p.evaluate(
        write_manifest([{**r, "dwi": r["t1c"]} for r in p.rows()], ("dwi",), p.folder / "m.csv")
    ),
    "a cohort of other regions": lambda p: p.evaluate(
        write_manifest([{**r, "schema": "lesion"} for r in p.rows()], MODALITIES, p.folder / "m.csv")
    ),
    "scores into a file": lambda p: (*p.evaluate(None, "--subset", "t1c")[:-1], p.file("file") / "s.csv"),
    # gap
    "a gap of one modality": lambda p: (
        "gap", p.run, "--manifest", write_manifest(p.rows(), ("t1c",), p.folder / "m.csv"), "--out", p.out("gap.csv")),
    "a gap of no split": lambda p: ("gap", p.run, "--manifest", p.cohort, "--split", "dev", "--out", p.out("gap.csv")),
    # predict
    "a patient without a scan": lambda p: p.predict(),
    "a sequence that the run never saw": lambda p: p.predict("--pet", p.rows()[0]["t1c"]),
    "a scan that is not there": lambda p: p.predict("--t1c", p.folder / "nowhere.nii.gz"),
    "a scan that is no image": lambda p: p.predict("--t1c", p.file("a.nii", "a report" * 99)),
    "one sequence under two names": lambda p: p.predict("--t1c", p.rows()[0]["t1c"], "--t1ce", p.rows()[0]["t1c"]),
    "scans of two grids": lambda p: p.predict(
        "--t1c", p.rows()[0]["t1c"], "--flair", p.image("a.nii", np.ones((20, 20, 9), np.int16))
    ),
    "a mask that is no NIfTI": lambda p: (*p.predict("--t1c", p.rows()[0]["t1c"])[:-1], p.out("mask.png")),
    "small parts of a region that is not there": lambda p: p.predict(
        "--t1c", p.rows()[0]["t1c"], "--remove", "lesion:500"
    ),
    "small parts without a size": lambda p: p.predict("--t1c", p.rows()[0]["t1c"], "--remove", "ET"),
    "a region scored twice without small parts": lambda p: p.evaluate(
        None, "--remove", "ET:500", "--remove", "ET:200"
    ),
    # run and sweep
    "no such notebook": lambda p: ("run", "77", "--out", p.out("lab")),
    "an unknown parameter": lambda p: p.execute("-p", "sede", "2"),
    "a parameter of another type": lambda p: p.execute("-p", "seed", "two"),
    "notebooks on no manifest": lambda p: p.execute("--manifest", p.folder / "nowhere.csv"),
    "notebooks into a file": lambda p: (*p.execute()[:-1], p.file("file") / "lab"),
    "no such sweep": lambda p: ("sweep", p.folder / "nowhere.yaml", "--out", p.out("lab")),
    "a sweep that is no YAML": lambda p: p.sweep("a: ["),
    "a sweep without a grid": lambda p: p.sweep("notebook: 00_good.ipynb\n"),
    "a sweep of an empty grid": lambda p: p.sweep("notebook: 00_good.ipynb\ngrid: {}\n"),
    "a sweep of a notebook with a split": lambda p: p.sweep("notebook: 00_good.ipynb\nsplit: val\ngrid: {seed: [1]}\n"),
    "a sweep of recipes with an unknown setting": lambda p: p.sweep("grid: {stepz: [1]}\n"),
    "a sweep of recipes with an unknown method": lambda p: p.sweep("grid: {method: [nothing]}\n"),
    "a sweep with one run twice": lambda p: p.sweep("grid: [{seed: 1}, {seed: 1}]\n"),
    "a sweep of students without a teacher": lambda p: p.sweep("grid: {method: [student]}\n"),
    "a sweep by an option that submitit lacks": lambda p: p.sweep("grid: {seed: [1]}\n", "--slurm", "colour=red"),
    "a sweep of an unknown parameter": lambda p: p.sweep("notebook: 00_good.ipynb\ngrid: {sede: [1]}\n"),
    # doctor's page
    "a page into a file": lambda p: ("doctor", p.cohort, "--html", p.file("file") / "page.html"),
}  # fmt: skip

HEAD = """# Bad inputs and their lines

What the command answers when its input is at fault: exit code 1, nothing half-written, and one line on standard error
that says what was found, where, and how to mend it. `DIR` is a folder of the user's, `COHORT` a phantom cohort, `RUN` a
trained run, `HASH` the name of a recipe. `tests/test_bad_inputs.py` provokes every row and compares the line; to write
the table anew: `MTG_LAB_WRITE_TABLE=1 python -m pytest tests/test_bad_inputs.py`.

Wrong usage (an option that does not exist, a value out of an option's range) has exit code 2 and click's own message.
What `mtg-lab doctor` finds in rows and files is on standard output, one line a finding; `mtg_lab/findings.py` has the
kinds.

| what is wrong | command | line after `mtg-lab: ` |
| --- | --- | --- |
"""


@pytest.fixture(scope="module")
def run(cohort, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained") / "run"
    arguments = ("train", "--manifest", cohort, *TINY, "--out", folder)
    result = CliRunner().invoke(main, [str(a) for a in arguments])
    assert result.exit_code == 0, result.output
    return folder


@pytest.fixture(scope="module")
def rows():
    """Rows of the table by what is wrong: read, or collected and written at the end."""
    if os.environ.get("MTG_LAB_WRITE_TABLE"):
        collected: dict[str, str] = {}
        yield collected
        TABLE.parent.mkdir(exist_ok=True)
        TABLE.write_text(HEAD + "".join(f"{row}\n" for row in collected.values()), encoding="utf-8")
    else:
        lines = TABLE.read_text(encoding="utf-8").splitlines()
        yield {line.split(" | ")[0].removeprefix("| "): line for line in lines if line.startswith("| ")}


def state(*folders):
    return {p: p.stat().st_mtime_ns for folder in folders for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("wrong", CASES)
def test_bad_input_is_one_line_of_the_table(wrong, rows, cohort, run, tmp_path):
    place = Place(tmp_path / "user", cohort, run)
    place.folder.mkdir()
    arguments = [str(a) for a in CASES[wrong](place)]
    before = state(place.folder, run)
    result = CliRunner().invoke(main, arguments)
    assert isinstance(result.exception, SystemExit), repr(result.exception)
    assert result.exit_code == 1, result.output
    assert result.stdout == ""
    assert result.stderr.startswith("mtg-lab: ")
    assert result.stderr.count("\n") == 1
    assert "Traceback" not in result.stderr
    assert state(place.folder, run) == before

    def plain(text: str) -> str:
        for path, name in (
            (place.folder, "DIR"),
            (cohort.parent, "COHORT"),
            (run, "RUN"),
        ):
            text = text.replace(str(path), name)
        return re.sub(r"\b[0-9a-f]{12}\b", "HASH", text).replace("|", "\\|")

    line = plain(result.stderr.removeprefix("mtg-lab: ").strip())
    row = f"| {wrong} | `mtg-lab {plain(shlex.join(arguments))}` | {line} |"
    if os.environ.get("MTG_LAB_WRITE_TABLE"):
        rows[wrong] = row
    else:
        assert rows[wrong] == row


def test_the_table_has_a_row_for_every_case_and_every_line_a_mend(rows):
    if os.environ.get("MTG_LAB_WRITE_TABLE"):
        pytest.skip("the table is being written")
    assert list(rows)[2:] == list(CASES)
    assert len(CASES) >= 40
    for wrong, row in list(rows.items())[2:]:
        assert re.search("; |, e\\.g\\. ", row.rsplit(" | ", 1)[1]), f"{wrong}: what is at fault; how to mend it"
