"""The protocol that scores were made under: stored with them, printed under them, and keeping unlike scores apart."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import pandas as pd

from mtg_lab.errors import InputError
from mtg_lab.files import write_text, written_aside
from mtg_lab.metrics import LESIONS, MetricSettings
from mtg_lab.subset_choice import ALL

NAMED = "named"
ARGMAX = "argmax"
_NOT_COMPARED = ("versions", "seeds", "operations")
_SHOWN = 4  # names of a list in a message


@dataclass(frozen=True)
class Protocol:
    """How scores came about; two tables can be compared only if theirs are equal.

    Files from before a setting existed are read with its default, which is what was done then.

    Attributes:
        cohort: fingerprint of the subjects' rows and files.
        cases: names of the subjects.
        subsets: as names, in order.
        regions: in order; those with small parts removed (``ETpp``) stand beside the regions themselves.
        spacing_mm: of the grid on which masks are compared.
        window: voxels, 0 = whole volume at once, see :func:`mtg_lab.inference.window_places`; overlap: of neighbouring
            windows.
        empty: overlap and NSD of a region that the reference lacks: ``one`` (1 if the prediction is empty as well, else
            0: the rule of BraTS) or ``nan`` (left out).
        precision: of the network's arithmetic.
        metric: what is computed, names joined by commas.
        subset_choice: ``all``, ``named``, or how a sample was drawn, see :func:`mtg_lab.subset_choice.choose_subsets`.
        metric_settings: what the metrics' names leave open, see :class:`mtg_lab.metrics.MetricSettings`.
        postprocessing: what was removed from which region, see :class:`mtg_lab.postprocessing.Removal`.
        decision: from probabilities to labels; ``argmax``, so that there is no threshold to choose.
        versions: of the packages that computed, for the record: they do not keep scores apart.
        seeds: of the training and of the sample of subsets, several where runs are joined; for the record likewise.
        operations: what was done to the network after its training (:mod:`mtg_lab.surgery`); for the record likewise.
    """

    cohort: str
    split: str
    cases: tuple[str, ...]
    subsets: tuple[str, ...]
    regions: tuple[str, ...]
    spacing_mm: float
    window: int
    overlap: float
    empty: str
    precision: str
    metric: str = "dice"
    subset_choice: str = ALL
    metric_settings: Mapping[str, str | float] = field(default_factory=dict)
    postprocessing: tuple[str, ...] = ()
    decision: str = ARGMAX
    versions: Mapping[str, str] = field(default_factory=dict)
    seeds: Mapping[str, int | Sequence[int]] = field(default_factory=dict)
    operations: tuple[str, ...] = ()

    @classmethod
    def from_json(cls, stored: Mapping[str, Any], source: str = "the protocol") -> "Protocol":
        """From what :func:`save_scores` wrote, now or before some settings existed.

        Args:
            stored: the settings by name.
            source: of them, for messages.

        Raises:
            InputError: a setting that has no default is missing, or one is unknown.
        """
        known = {f.name: f for f in fields(cls)}
        needed = [n for n, f in known.items() if f.default is MISSING and f.default_factory is MISSING]
        if missing := [n for n in needed if n not in stored]:
            raise InputError(f"{source} does not tell {', '.join(missing)}; score the run again")
        if unknown := [n for n in stored if n not in known]:
            raise InputError(
                f"{source} has the unknown setting {unknown[0]!r}; read it with the version of mtg-lab that wrote it"
            )
        given: dict[str, Any] = {n: tuple(v) if isinstance(v, list) else v for n, v in stored.items()}
        return cls(**given)

    def settings(self) -> dict[str, Any]:
        """What decides whether scores can be compared, by name; settings that old files lack only where they matter."""
        found = asdict(self)
        for name in _NOT_COMPARED:
            del found[name]
        if self.subset_choice in (ALL, NAMED):  # the subsets themselves say it
            del found["subset_choice"]
        for name, usual in (("metric_settings", {}), ("postprocessing", ()), ("decision", ARGMAX)):
            if found[name] in (usual, list(usual)):
                del found[name]
        return found

    def digest(self) -> str:
        """Eight hexadecimal digits; equal digests mean comparable scores."""
        return hashlib.sha256(json.dumps(self.settings(), sort_keys=True).encode()).hexdigest()[:8]

    def differences(self, other: "Protocol") -> list[str]:
        """One phrase a setting in which two protocols differ, with both values."""
        told = []
        ours, theirs = ({**p.settings(), "metric_settings": None} for p in (self, other))
        ours, theirs = ours | dict(self.metric_settings), theirs | dict(other.metric_settings)
        for name in dict.fromkeys([*ours, *theirs]):
            a, b = ours.get(name), theirs.get(name)
            if isinstance(a, tuple) and isinstance(b, tuple) and a != b:
                told.append(f"{name} ({_lists(a, b)})")
            elif a != b:
                told.append(f"{name} ({_value(a)} against {_value(b)})")
        return told

    def __str__(self) -> str:
        where = f"windows of {self.window}^3, overlap {self.overlap:g}" if self.window else "whole volume"
        sample = "" if self.subset_choice in (ALL, NAMED) else f" ({self.subset_choice}, by size)"
        removed = "".join(f", {line}" for line in self.postprocessing)
        operated = f", after training: {'; '.join(self.operations)}" if self.operations else ""
        versions = "".join(f", {name} {number}" for name, number in self.versions.items())
        return (
            f"protocol {self.digest()}: {self._metrics()}, {len(self.cases)} {self.split} cases, {len(self.subsets)} "
            f"subsets{sample}, {'/'.join(self.regions)}{removed}, {self.spacing_mm:g} mm grid, {where}, "
            f"{self.decision}, empty reference: {self.empty}, {self.precision}{self._trained()}{operated}{versions}"
        )

    def _trained(self) -> str:
        seeds = _several(self.seeds.get("training", ()))
        return f", training seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}" if seeds else ""

    def _metrics(self) -> str:
        given = self.metric_settings
        notes = {
            "hd95": f"{given.get('hd95')}, empty mask: {given.get('hd95_empty')}",
            "nsd": f"{given.get('nsd_mm', 0):g} mm, {given.get('nsd')}",
            "ece": f"{given.get('ece_bins')} bins",
            **dict.fromkeys(LESIONS, f"{given.get('lesions')}"),
        }
        return ", ".join(f"{m} ({notes[m]})" if given and m in notes else m for m in self.metric.split(","))


def check_comparable(tables: Sequence[pd.DataFrame]) -> None:
    """Refuse to compare scores of different protocols, and say in what they differ.

    Raises:
        InputError: the protocols differ.
    """
    for other in tables[1:]:
        first = tables[0]
        ours, theirs = (sorted(set(t["protocol"])) for t in (first, other))
        if ours == theirs:
            continue
        a, b = (t.attrs.get("protocol") for t in (first, other))
        digests = f"protocol ({', '.join(ours)} against {', '.join(theirs)})"
        if not a or not b:
            raise InputError(
                f"these scores cannot be compared: they differ in {digests}; read the files with read_scores to see how"
            )
        told = Protocol.from_json(a).differences(Protocol.from_json(b)) or [digests]
        raise InputError(
            f"these scores cannot be compared: they differ in {', '.join(told)}; score both under one protocol"
        )


def protocol_line(*tables: pd.DataFrame) -> str:
    """What is printed under a table or a figure: the protocol, as far as the tables know it, else nothing."""
    attrs = protocol_attrs(*tables)
    if stored := attrs.get("protocol"):
        return str(Protocol.from_json(stored))
    return f"protocol {', '.join(attrs['digests'])}" if "digests" in attrs else ""


def protocol_attrs(*tables: pd.DataFrame) -> dict[str, Any]:
    """What a table that is computed from the scores of comparable runs keeps in its ``.attrs`` of how they came about.

    That is the protocol, with the seeds and operations of all, or, where a table does not know its own, the digests.
    """
    stored = [p for t in tables if (p := t.attrs.get("protocol"))]
    if stored and len(stored) == len(tables):
        seeds: dict[str, int | list[int]] = {}
        for name in dict.fromkeys(n for p in stored for n in p.get("seeds", {})):
            found = sorted({n for p in stored for n in _several(p.get("seeds", {}).get(name, ()))})
            seeds[name] = found if len(found) > 1 else found[0]
        operations = tuple(dict.fromkeys(o for p in stored for o in p.get("operations", ())))
        return {"protocol": {**stored[0], "seeds": seeds, "operations": operations}}
    found_digests = sorted({d for t in tables for d in digests(t)})
    return {"digests": found_digests} if found_digests else {}


def digests(table: pd.DataFrame) -> Sequence[str]:
    """Of the protocols under which a table's scores came about, as far as it knows them."""
    if stored := table.attrs.get("protocol"):
        return [Protocol.from_json(stored).digest()]
    return sorted(set(table["protocol"].astype(str))) if "protocol" in table else table.attrs.get("digests", [])


def select_metric(table: pd.DataFrame, metric: str) -> pd.DataFrame:
    """The scores of one metric, under the protocol of that metric alone: comparable with a table that has no others.

    A table without a column ``metric`` has one metric and is returned as it is.

    Raises:
        InputError: the table has no such metric.
    """
    if "metric" not in table:
        return table
    there = list(dict.fromkeys(table["metric"]))
    if metric not in there:
        raise InputError(f"these scores have no metric {metric!r}; they have {', '.join(there)}")
    chosen = table[table["metric"] == metric].reset_index(drop=True)
    if stored := table.attrs.get("protocol"):
        protocol = Protocol.from_json(stored)
        known = MetricSettings().of([metric])
        kept = {n: v for n, v in protocol.metric_settings.items() if n in known}
        protocol = replace(protocol, metric=metric, metric_settings=kept)
        chosen = chosen.assign(protocol=protocol.digest())
        chosen.attrs["protocol"] = asdict(protocol)
    return chosen


def check_one_metric(table: pd.DataFrame) -> None:
    """Refuse to average over metrics.

    Raises:
        InputError: the table has several.
    """
    there = list(dict.fromkeys(table["metric"])) if "metric" in table else []
    if len(there) > 1:
        raise InputError(f"these scores hold {', '.join(there)}; choose one with select_metric(table, {there[0]!r})")


def save_scores(table: pd.DataFrame, path: str | Path) -> Path:
    """Write scores as CSV and, beside it, ``<name>.protocol.json`` with the protocol."""
    path = Path(path)
    with written_aside(path) as aside:
        table.to_csv(aside, index=False)
    write_text(path.with_suffix(".protocol.json"), json.dumps(table.attrs.get("protocol", {}), indent=2))
    return path


def read_scores(path: str | Path) -> pd.DataFrame:
    """Scores that :func:`save_scores` wrote, with their protocol in ``.attrs["protocol"]``.

    Raises:
        InputError: a file cannot be read, is no table of scores, or the two do not belong together.
    """
    path, beside = Path(path), Path(path).with_suffix(".protocol.json")
    try:
        table = pd.read_csv(path, dtype=dict.fromkeys(_NAMES, str), keep_default_na=False, na_values={"value": [""]},
                            float_precision="round_trip")  # fmt: skip
        stored = json.loads(beside.read_text(encoding="utf-8"))
    except OSError as fault:
        raise InputError(
            f"cannot read {fault.filename} ({fault.strerror}); scores and protocol lie side by side"
        ) from fault
    except (ValueError, pd.errors.ParserError) as fault:
        raise InputError(
            f"{path} or {beside.name} is damaged ({str(fault).splitlines()[0]}); score the run again"
        ) from fault
    if missing := [c for c in ("subject", "subset", "region", "value", "protocol") if c not in table]:
        raise InputError(f"{path} has no column {missing[0]}; give a table that 'mtg-lab evaluate' wrote")
    protocol = Protocol.from_json(stored, str(beside))
    if set(table["protocol"]) != {protocol.digest()}:
        raise InputError(f"{beside} is not the protocol of {path}; copy the one that was written with it")
    table.attrs["protocol"] = asdict(protocol)
    return table


_NAMES = ("subject", "site", "subset", "region", "metric", "protocol")


def _several(seeds: int | Sequence[int]) -> list[int]:
    return [seeds] if isinstance(seeds, int) else list(seeds)


def _lists(a: tuple[str, ...], b: tuple[str, ...]) -> str:
    if set(a) == set(b):
        return "in another order"
    sides = []
    for words, only in (
        ("only the first has", [x for x in a if x not in b]),
        ("only the other", [x for x in b if x not in a]),
    ):
        if only:
            more = f" and {len(only) - _SHOWN} more" if len(only) > _SHOWN else ""
            sides.append(f"{words} {', '.join(only[:_SHOWN])}{more}")
    return "; ".join(sides)


def _value(value: Any) -> str:
    if value is None:
        return "none"
    return ", ".join(value) if isinstance(value, tuple) else f"{value:g}" if isinstance(value, float) else str(value)
