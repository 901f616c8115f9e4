"""What the splits of a cohort hold: how many subjects, which sites, which regions, which sequences."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from scipy.stats import contingency

from mtg_lab.findings import Finding
from mtg_lab.manifest import SPLITS, Manifest

FEWEST = 3
IMBALANCE_P = 0.01
_SHUFFLES = 2000


def split_findings(manifest: Manifest, regions: Mapping[str, Mapping[str, float]]) -> Iterator[Finding]:
    """What the split of a cohort makes impossible or doubtful.

    Args:
        manifest: the cohort.
        regions: subject to region to its volume in ml, for the subjects with a usable label.
    """
    yield from _missing_sequences(manifest)
    sizes = Counter(s.split for s in manifest if s.split)
    if not sizes:
        if len(manifest):
            yield _told(
                manifest, "warning", "split-absent", "no row has a split", "fill 'split' with train, val or test"
            )
        return
    if without := len(manifest) - sum(sizes.values()):
        line = f"{without} of {len(manifest)} rows have no split and are never used"
        yield _told(manifest, "note", "split-absent", line, "fill 'split' with train, val or test")
    for split in [s for s in SPLITS if s not in sizes]:
        severity = "note" if split == "val" else "warning"
        yield _told(manifest, severity, "split-absent", f"no row is in split {split}", f"move some subjects to {split}")
    if small := [f"{split} {sizes[split]}" for split in SPLITS if 0 < sizes[split] < FEWEST]:
        line = f"splits of fewer than {FEWEST} subjects: {', '.join(small)}"
        yield _told(manifest, "note", "split-tiny", line, "a mean over them says little, move subjects there")
    yield from _sites(manifest)
    yield from _regions(manifest, regions)


def _told(manifest: Manifest, severity: str, code: str, line: str, mend: str) -> Finding:
    return Finding(severity, code, "", str(manifest.path), f"{manifest.path}: {line}", mend)


def _missing_sequences(manifest: Manifest) -> Iterator[Finding]:
    groups = [g for g in (*SPLITS, None) if any(s.split == g for s in manifest)]
    for modality in manifest.modalities:
        of = {g: [modality in s.images for s in manifest if s.split == g] for g in groups}
        if all(all(there) for there in of.values()):
            continue
        counts = ", ".join(f"{g or 'no split'} {there.count(False)} of {len(there)}" for g, there in of.items())
        nowhere = any(not any(there) for there in of.values())
        line = f"{modality} is missing in {counts} subjects"
        mend = "an empty cell is an absent sequence, fill it if there is a file"
        yield _told(manifest, "warning" if nowhere else "note", "modality-missing", line, mend)


def _sites(manifest: Manifest) -> Iterator[Finding]:
    placed = [(s.site, s.split) for s in manifest if s.site and s.split]
    sites = sorted({str(site) for site, _ in placed})
    splits = [s for s in SPLITS if any(split == s for _, split in placed)]
    if len(sites) < 2 or len(splits) < 2:
        return
    rows = np.array([sites.index(str(site)) for site, _ in placed])
    columns = np.array([splits.index(str(split)) for _, split in placed])
    table = _crossed(rows, columns, (len(sites), len(splits)))
    for site, row in zip(sites, table, strict=True):
        where = [split for split, n in zip(splits, row, strict=True) if n]
        if len(where) == 1 and row.sum() > 1:
            unseen = where[0] != "train" and "train" in splits
            line = f"site {site} occurs in split {where[0]} only ({row.sum()} subjects)"
            mend = "training never sees this site" if unseen else "no score tells how well this site goes"
            mend += ", share it out unless that is the question"
            yield _told(manifest, "warning" if unseen else "note", "site-one-split", line, mend)
    expected = contingency.expected_freq(table)
    chi_square = _chi_square(table, expected)
    rng = np.random.default_rng(0)
    drawn = [
        _chi_square(_crossed(rows, rng.permutation(columns), table.shape), expected) for _ in range(_SHUFFLES)
    ]  # fmt: skip
    p = (1 + sum(d >= chi_square - 1e-9 for d in drawn)) / (1 + _SHUFFLES)
    if p < IMBALANCE_P:
        excess = (table - expected) / np.sqrt(expected)
        row, column = np.unravel_index(int(np.argmax(excess)), table.shape)
        line = (
            f"site {sites[row]} has {table[row, column]} of its {table[row].sum()} subjects in split {splits[column]}, "
            f"{expected[row, column]:.1f} would be even (chi-square by permutation, p = {p:.2g})"
        )
        yield _told(manifest, "warning", "site-imbalance", line, "draw the split within each site")


def _crossed(rows: np.ndarray, columns: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    table = np.zeros(shape, dtype=int)
    np.add.at(table, (rows, columns), 1)
    return table


def _chi_square(table: np.ndarray, expected: np.ndarray) -> float:
    return float(((table - expected) ** 2 / expected).sum())


def _regions(manifest: Manifest, regions: Mapping[str, Mapping[str, float]]) -> Iterator[Finding]:
    for split in SPLITS:
        labelled: Sequence[Mapping[str, float]] = [
            regions[s.name] for s in manifest if s.split == split and regions.get(s.name)
        ]
        if not labelled:
            continue
        names = dict.fromkeys(name for volumes in labelled for name in volumes)
        if absent := [n for n in names if not any(volumes.get(n) for volumes in labelled)]:
            line = f"no subject of split {split} has {' or '.join(absent)} ({len(labelled)} with a label)"
            mend = f"scores of {', '.join(absent)} mean nothing there, move subjects that have it"
            yield _told(manifest, "warning", "region-absent", line, mend)
