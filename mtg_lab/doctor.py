"""Examine a manifest: every file of every row, and the rows against each other."""

import os
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from mtg_lab import twins
from mtg_lab.examination import Draw, Examination, examine
from mtg_lab.files import content_fingerprint, is_there
from mtg_lab.findings import Finding, split_line
from mtg_lab.manifest import Manifest, parse_manifest
from mtg_lab.progress import progress
from mtg_lab.scans import size_told
from mtg_lab.splits import split_findings

__all__ = ["Checkup", "Finding", "check", "doctor", "examine"]

_MOST_WORKERS = 8  # each holds a subject's volumes in memory


@dataclass(frozen=True)
class Checkup:
    """A cohort, what each of its subjects showed, and all findings in the order of the rows."""

    manifest: Manifest
    examinations: tuple[Examination, ...]
    findings: tuple[Finding, ...]


def doctor(path: str | Path = "", workers: int | None = None) -> list[Finding]:
    """Every fault of a manifest and of the files that it names; :data:`mtg_lab.findings.CODES` lists the kinds.

    Raises:
        InputError: the manifest itself cannot be read.
    """
    return list(check(path, workers).findings)


def check(path: str | Path = "", workers: int | None = None, draw: Draw | None = None) -> Checkup:
    """The same with the measures behind it; ``draw`` makes a picture of each subject while its volumes are at hand.

    Args:
        path: of the manifest, empty for the committed phantom.
        workers: threads, by default one a core, eight at most.
        draw: see :func:`mtg_lab.examination.examine`.

    Raises:
        InputError: the manifest itself cannot be read.
    """
    workers = workers or min(os.cpu_count() or 1, _MOST_WORKERS)
    manifest, faults = parse_manifest(path)
    findings = [Finding("error", "row", "", str(manifest.path), *split_line(line)) for line in faults]
    _synthesise(manifest, workers)
    with ThreadPoolExecutor(workers) as pool:
        jobs = pool.map(lambda s: examine(s, draw), manifest.subjects)
        examinations = tuple(progress(jobs, total=len(manifest), desc="examining"))
    for examination in examinations:
        findings += examination.findings
    same = list(_same_content(manifest))
    findings += [finding for _, finding in same]
    findings += _near_identical(manifest, examinations, [names for names, _ in same])
    findings += _cohort_faults(manifest)
    findings += _grids(manifest, examinations)
    findings += split_findings(manifest, {e.subject.name: e.region_ml for e in examinations})
    return Checkup(manifest, examinations, tuple(findings))


def _synthesise(manifest: Manifest, workers: int) -> None:
    seeded = tuple(s for s in manifest if s.seed is not None)
    Manifest(manifest.path, manifest.modalities, seeded).materialise(workers)


def _cohort_faults(manifest: Manifest) -> Iterator[Finding]:
    schemas = sorted({s.schema for s in manifest if s.schema})
    if len(schemas) > 1:
        line = f"{manifest.path}: the rows name the schemas {', '.join(schemas)}"
        mend = "a cohort has one, split the manifest or convert labels"
        yield Finding("error", "schemas", "", str(manifest.path), line, mend)
    for subject in manifest:
        if subject.split and subject.label is None:
            line = f"subject {subject.name}: it has no label"
            mend = f"training and scoring need one, fill the cell or empty 'split' ({subject.split})"
            yield Finding("warning", "label-missing", subject.name, "", line, mend)


def _grids(manifest: Manifest, examinations: tuple[Examination, ...]) -> Iterator[Finding]:
    """Spacings and orientations that differ between subjects, the rare ones by name."""
    for code, what, mend in (
        ("spacing-differs", "spacings", "all are resampled to the recipe's spacing, coarse ones gain no detail by it"),
        ("orientation-differs", "orientations", "all are turned to RAS here, other programs may not do so"),
    ):
        groups: dict[str, list[str]] = defaultdict(list)
        for e in examinations:
            if e.orientation:
                key = e.orientation if what == "orientations" else f"{size_told(e.spacing)} mm"
                groups[key].append(e.subject.name)
        if len(groups) > 1:
            ordered = sorted(groups.items(), key=lambda group: -len(group[1]))
            told = [f"{key} ({len(names)} subjects, as {names[0]})" for key, names in ordered]
            more = f" and {len(told) - 4} more" if len(told) > 4 else ""
            line = f"{manifest.path}: {len(told)} {what}: {', '.join(told[:4])}{more}"
            yield Finding("note", code, "", str(manifest.path), line, mend)


def _same_content(manifest: Manifest) -> Iterator[tuple[set[str], Finding]]:
    uses: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for subject in manifest:
        for column, path in subject.files.items():
            if column != "mask" and is_there(path):
                uses[content_fingerprint(path)].append((subject.name, column))
    for places in uses.values():
        if len(places) > 1:
            told = ", ".join(f"{name}/{column}" for name, column in places[:4])
            labels = all(column == "label" for _, column in places)
            line = f"the same content stands in {len(places)} places: {told}"
            mend = "keep one (a patient on both sides of a split makes every score wrong)"
            # Two healthy subjects have the same empty label; two equal images are one patient.
            severity, first = "warning" if labels else "error", places[0]
            file = str(manifest[first[0]].files[first[1]])
            names = set() if labels else {name for name, _ in places}
            yield names, Finding(severity, "same-content", first[0], file, line, mend)


def _near_identical(
    manifest: Manifest, examinations: tuple[Examination, ...], known: list[set[str]]
) -> Iterator[Finding]:
    """Copies that are not equal byte for byte; subjects of which a file is known to be equal are left out."""
    for names, modalities, correlation in twins.near_identical({e.subject.name: e.patterns for e in examinations}):
        if any(set(names) <= same for same in known):
            continue
        splits = {manifest[name].split for name in names}
        told = ", ".join(f"{n} ({manifest[n].split or 'no split'})" for n in names[:4])
        more = f" and {len(names) - 4} more" if len(names) > 4 else ""
        line = f"{told}{more} look like one scan in {', '.join(modalities)} (correlation {correlation:.2f})"
        mend = "keep one of them, or move all to one split if they are one patient"
        severity = "error" if len(splits) > 1 else "warning"
        file = str(manifest[names[0]].images[modalities[0]])
        yield Finding(severity, "near-identical", names[0], file, line, mend)
