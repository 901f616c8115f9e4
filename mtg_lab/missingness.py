"""Who misses what: draws of modality subsets during training, and fixed patterns of missing files in a cohort.

A fixed pattern follows from a rule, a seed and the subjects' names (:class:`Missingness`), so every method that trains
on a cohort meets the same one. Files that a pattern takes away are never opened.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mtg_lab import vocabulary
from mtg_lab.errors import InputError
from mtg_lab.files import content_fingerprint, is_there
from mtg_lab.manifest import Manifest, Subject
from mtg_lab.missingness_draws import (
    PASSION_SEED,
    draw_subset,
    each_at_its_rate,
    imbalanced,
    presence_chance,
    subject_generator,
)
from mtg_lab.missingness_options import checked_options, split_text
from mtg_lab.missingness_tables import availability, counts, read_pattern, save_pattern

__all__ = [
    "PASSION_SEED",
    "Missingness",
    "availability",
    "counts",
    "draw_subset",
    "imbalanced",
    "presence_chance",
    "read_pattern",
    "save_pattern",
    "tumour_volume_ml",
]


@dataclass(frozen=True)
class Missingness:
    """A rule for who lacks what, with one result for every method that asks.

    ============= ======================================= =========================================================
    rule          options                                 who has what
    ============= ======================================= =========================================================
    complete                                              everybody everything that there is
    subset        ``subset="t1n+t2w"``                    everybody this subset
    uniform                                               a subset drawn uniformly over the non-empty ones
    independent   ``rates={"t1c": 0.4}``                  each modality missing at its rate, given that one is left
    imbalanced    ``rates`` of every modality             PASSION's published files, see :func:`imbalanced`
    site          ``sites={"B": "-t1c", "C": "t1n+t2w"}`` a site lacks these (minus), or has nothing but these
    case          ``modality, rate, slope``               missing not at random, see :func:`presence_chance`
    table         ``modalities, subjects``                a table written down, see :meth:`from_csv`
    ============= ======================================= =========================================================

    What is drawn for a subject depends on its name and the seed, not on the order of rows or columns; for
    ``imbalanced`` on the sorted names of all subjects, for ``case`` on all their volumes as well.

    Attributes:
        seed: 1037 with ``imbalanced`` gives PASSION's published files.

    Raises:
        InputError: an unknown rule or option, or a value of no use.
    """

    rule: str = "complete"
    options: Mapping[str, Any] = field(default_factory=dict)
    seed: int = PASSION_SEED

    def __post_init__(self) -> None:
        object.__setattr__(self, "options", checked_options(self.rule, self.options))
        if type(self.seed) is not int or not 0 <= self.seed < 2**32:
            raise InputError(f"the seed of rule {self.rule} is {self.seed!r}; give a whole number from 0 to 2^32 - 1")

    def __str__(self) -> str:
        told = {k: f"{len(v)} subjects" if k == "subjects" else _told(v) for k, v in self.options.items()}
        words = "; ".join([f"{k} {v}" for k, v in told.items()] + [f"seed {self.seed}"] * (self.rule in _DRAWN))
        return f"rule {self.rule}" + (f" ({words})" if words else "")

    @staticmethod
    def parse(text: str, seed: int | None = None) -> "Missingness":
        """Read ``RULE``, ``RULE:OPTIONS`` or the path of a table: ``imbalanced:t1n=.2,t1c=.4``, ``missing.csv``.

        Args:
            text: a word of the command line; a seed can stand in it, as ``uniform:seed=3``.
            seed: where the text names none.

        Raises:
            InputError: it cannot be read.
        """
        if text.strip().lower().endswith(".csv"):
            return Missingness.from_csv(text.strip())
        rule, options, named = split_text(text)
        chosen = named if named is not None else seed
        return Missingness(rule, options, PASSION_SEED if chosen is None else chosen)

    @staticmethod
    def from_csv(path: str | Path) -> "Missingness":
        """The rule ``table`` with the cells of a CSV as :func:`save_pattern` writes it; the file is needed no more.

        Raises:
            InputError: see :func:`read_pattern`.
        """
        table = read_pattern(path)
        rows = {
            str(name): vocabulary.subset_name(row.index[row], table.columns.tolist()) for name, row in table.iterrows()
        }
        return Missingness("table", {"modalities": list(table.columns), "subjects": rows})

    def to_json(self) -> dict[str, Any]:
        """As plain values: rule, seed and the options by their names."""
        return {"rule": self.rule, "seed": self.seed, **self.options}

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> "Missingness":
        """The inverse of :meth:`to_json`.

        Raises:
            InputError: as the constructor.
        """
        if not isinstance(values, Mapping) or "rule" not in values:
            raise InputError(f"missing is {values!r}; it needs a rule, as missing.rule=uniform")
        options = {k: v for k, v in values.items() if k not in ("rule", "seed")}
        return Missingness(values["rule"], options, values.get("seed", PASSION_SEED))

    def pattern(self, manifest: Manifest, split: str = "") -> pd.DataFrame:
        """Who has what under this rule.

        Args:
            manifest: the cohort; what it lacks stays lacking. Images are not opened, labels only by ``case``.
            split: whose rows, by default everybody's.

        Returns:
            bool, subjects (index ``subject``, in the manifest's order) x the manifest's modalities; no row is empty.

        Raises:
            InputError: the rule names what the manifest lacks, or would leave a subject with nothing.
        """
        sites = {s.site for s in manifest}
        chosen = manifest.split(split) if split else manifest
        had = availability(chosen)
        there = _DRAWS[self.rule](self, chosen, had, sites) & had
        for name in there.index[~there.any(axis=1)]:
            has = "+".join(had.columns[had.loc[name]])
            mend = "drop its row or mend the rule"
            raise InputError(f"{manifest.path}: {self} leaves subject {name} nothing of its {has}; {mend}")
        return there

    def apply(self, manifest: Manifest, split: str = "") -> Manifest:
        """The cohort without the files that the rule takes away, as if they had never been there.

        Args:
            manifest: the cohort.
            split: whose rows lose files, by default everybody's; the others stay as they are.

        Raises:
            InputError: see :meth:`pattern`.
        """
        if self.rule == "complete":
            return manifest
        there = self.pattern(manifest, split).to_dict(orient="index")
        subjects = [
            replace(s, images={m: file for m, file in s.images.items() if there[s.name][m]}) if s.name in there else s
            for s in manifest
        ]
        return replace(manifest, subjects=tuple(subjects))


def tumour_volume_ml(subject: Subject) -> float:
    """Volume of all labels of the subject's schema together, in millilitres.

    Raises:
        InputError: there is no label or schema, or the file cannot be read.
    """
    if subject.label is None:
        raise InputError(f"subject {subject.name} has no label; the rule case reads its tumour's volume, fill the cell")
    if not is_there(subject.label):
        raise InputError(f"subject {subject.name}: label does not exist: {subject.label}; mend the path")
    return _volume_ml(subject.label, content_fingerprint(subject.label), subject.label_schema.values)


# --- the rules: bool, subjects x modalities; what a subject lacks is taken away afterwards ---------------------------


def _complete(rule: Missingness, cohort: Manifest, had: pd.DataFrame, sites: set[str | None]) -> pd.DataFrame:
    return had


def _one_subset(rule: Missingness, cohort: Manifest, had: pd.DataFrame, sites: set[str | None]) -> pd.DataFrame:
    members = vocabulary.parse_subset(rule.options["subset"], had.columns.tolist())
    return had & had.columns.isin(members)


def _uniform(rule: Missingness, cohort: Manifest, had: pd.DataFrame, sites: set[str | None]) -> pd.DataFrame:
    rows = had[sorted(had.columns)]
    drawn = [
        draw_subset(row, subject_generator(rule.seed, n)) for n, row in zip(rows.index, rows.to_numpy(), strict=True)
    ]
    return _like(rows, drawn)[had.columns]


def _independent(rule: Missingness, cohort: Manifest, had: pd.DataFrame, sites: set[str | None]) -> pd.DataFrame:
    rates = rule.options["rates"]
    vocabulary.parse_subset(list(rates), had.columns.tolist())  # refuse a rate of what the manifest does not have
    rows = had[sorted(had.columns)]
    missing = np.array([rates.get(m, 0.0) for m in rows.columns])
    drawn = [
        each_at_its_rate(row, missing, subject_generator(rule.seed, n))
        for n, row in zip(rows.index, rows.to_numpy(), strict=True)
    ]
    return _like(rows, drawn)[had.columns]


def _imbalanced(rule: Missingness, cohort: Manifest, had: pd.DataFrame, sites: set[str | None]) -> pd.DataFrame:
    rates = rule.options["rates"]
    vocabulary.parse_subset(list(rates), had.columns.tolist())
    if unnamed := [m for m in had.columns if m not in rates]:
        raise InputError(
            f"rule imbalanced needs the rate of every modality of {cohort.path}; give that of {unnamed[0]}"
        )
    rows = had.sort_index()[list(rates)]
    drawn = _like(rows, imbalanced(list(rows.index), rates, rule.seed))
    # Of a cohort that lacks files of its own: whom the rule would leave with nothing is drawn anew, as it does itself.
    for name in rows.index[~(drawn & rows).any(axis=1)]:
        drawn.loc[name] = each_at_its_rate(
            rows.loc[name].to_numpy(), np.array(list(rates.values())), subject_generator(rule.seed, name)
        )
    return drawn.loc[had.index, had.columns]


def _site(rule: Missingness, cohort: Manifest, had: pd.DataFrame, sites: set[str | None]) -> pd.DataFrame:
    members = {}
    for site, words in rule.options["sites"].items():
        if site not in sites:
            known = ", ".join(sorted(s for s in sites if s)) or "none, fill the column 'site'"
            raise InputError(f"{cohort.path}: no subject of site {site!r}; sites here: {known}")
        named = vocabulary.parse_subset(words.strip("-").replace("-", "+"), had.columns.tolist())
        members[site] = had.columns.isin(named) ^ words.startswith("-")
    return _like(had, [members.get(str(s.site), np.ones(had.shape[1], dtype=bool)) for s in cohort])


def _case(rule: Missingness, cohort: Manifest, had: pd.DataFrame, sites: set[str | None]) -> pd.DataFrame:
    (modality,) = vocabulary.parse_subset([rule.options["modality"]], had.columns.tolist())
    seeded = tuple(s for s in cohort if s.seed is not None and modality in s.images)
    replace(cohort, subjects=seeded).materialise()
    concerned = [s for s in cohort if modality in s.images]
    if not concerned:
        return had
    volumes = np.array([tumour_volume_ml(s) for s in concerned])
    chances = presence_chance(volumes, rule.options["slope"], rule.options["rate"])
    drawn = had.copy()
    for subject, chance in zip(concerned, chances, strict=True):
        alone = len(subject.images) == 1  # nobody loses the only one
        drawn.loc[subject.name, modality] = alone or subject_generator(rule.seed, subject.name).random() < chance
    return drawn


def _table(rule: Missingness, cohort: Manifest, had: pd.DataFrame, sites: set[str | None]) -> pd.DataFrame:
    columns, rows = rule.options["modalities"], rule.options["subjects"]
    if unnamed := [m for m in had.columns if m not in columns]:
        raise InputError(f"the table of missingness has no column {unnamed[0]}, which {cohort.path} has; add it")
    if unnamed := [n for n in had.index if n not in rows]:
        raise InputError(f"the table of missingness has no row of subject {unnamed[0]}, whom {cohort.path} has; add it")
    return _like(had, [[m in rows[n].split("+") for m in had.columns] for n in had.index])


_DRAWS: dict[str, Callable[[Missingness, Manifest, pd.DataFrame, set[str | None]], pd.DataFrame]] = {
    "complete": _complete, "subset": _one_subset, "uniform": _uniform, "independent": _independent,
    "imbalanced": _imbalanced, "site": _site, "case": _case, "table": _table,
}  # fmt: skip
_DRAWN = ("uniform", "independent", "imbalanced", "case")


def _like(frame: pd.DataFrame, values: Any) -> pd.DataFrame:
    return pd.DataFrame(np.asarray(values, dtype=bool).reshape(frame.shape), frame.index, frame.columns)


@lru_cache(maxsize=10_000)  # a recipe asks at every look at its cohort
def _volume_ml(label: Path, _fingerprint: str, values: tuple[int, ...]) -> float:
    from mtg_lab.scans import load_image, read_voxels

    image = load_image(label)
    inside = np.isin(np.rint(read_voxels(image)), values)
    return float(inside.sum() * abs(np.linalg.det(image.affine[:3, :3])) / 1000)


def _told(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{k} {_told(v)}" for k, v in value.items())
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
