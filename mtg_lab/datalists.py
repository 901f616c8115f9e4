"""Cohorts that a JSON file describes: nnU-Net v2 raw folders, MONAI datalists, the Medical Segmentation Decathlon."""

import json
import os
import re
from collections.abc import Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

from mtg_lab import vocabulary
from mtg_lab.conventions import Cells, Layout
from mtg_lab.errors import InputError
from mtg_lab.files import is_there
from mtg_lab.schemas import SCHEMAS, LabelSchema, schema_from_json

OWN = "mtg_lab"  # the key under which an export keeps what the format has no place for
SECTIONS = {"training": "train", "validation": "val", "test": "test", "testing": "test"}
_ENDING = re.compile(r"\.nii(?:\.gz)?$", re.IGNORECASE)


def described(source: Path, order: Sequence[str] = ()) -> Layout | None:
    """What a JSON file, or the one that a folder holds, describes; None if there is none.

    Args:
        source: a datalist, or a folder with dataset.json or a datalist in it.
        order: names of the channels, where the file does not tell them.

    Raises:
        InputError: several files, or one that is at fault.
    """
    if source.is_file():
        values = _read(source)
        if not isinstance(values, dict) or not _entries(values):
            raise InputError(f"{source} is no datalist: no list 'training', 'validation' or 'test' with images")
        return datalist(source, values, order)
    found = {}
    for path in sorted(p for p in source.glob("*.json") if p.is_file() and not p.name.startswith(".")):
        values = _read(path) if path.name == "dataset.json" else _read_or_none(path)
        if isinstance(values, dict) and "channel_names" in values:
            return nnunet(source, values)
        if isinstance(values, dict) and _entries(values):
            found[path] = values
    if len(found) > 1:
        raise InputError(f"{source} holds several datalists ({', '.join(p.name for p in found)}); name one of them")
    return next((datalist(path, values, order) for path, values in found.items()), None)


# --- nnU-Net v2 -------------------------------------------------------------------------------------------------------


def nnunet(folder: Path, facts: Mapping[str, Any]) -> Layout:
    """An nnU-Net v2 raw folder: dataset.json, imagesTr/CASE_0000.nii.gz, labelsTr, imagesTs.

    Raises:
        InputError: dataset.json is at fault, or the images are no NIfTI.
    """
    where = folder / "dataset.json"
    ending = str(facts.get("file_ending", ".nii.gz"))
    if not _ENDING.fullmatch(ending):
        raise InputError(f"{where}: file_ending is {ending}; only .nii and .nii.gz are read, convert the images")
    names = _named(facts["channel_names"], f"{where}, channel_names")
    pattern = re.compile(rf"(?P<case>.+)_(?P<channel>\d{{4}}){re.escape(ending)}", re.IGNORECASE)
    cells: Cells = {}
    for part, labels, split in (("imagesTr", "labelsTr", ""), ("imagesTs", "labelsTs", "test")):
        for path in sorted((folder / part).glob("[!.]*")):
            if not (found := pattern.fullmatch(path.name)):
                continue
            if int(found["channel"]) >= len(names):
                raise InputError(
                    f"{path} is channel {int(found['channel'])}; {where} names {len(names)} from 0 on, mend either"
                )
            files = cells.setdefault(found["case"], {"split": split} if split else {})
            if files.get("split", "") != split:
                raise InputError(f"{found['case']} is in imagesTr and in imagesTs; keep it in one of them")
            files[names[int(found["channel"])]] = str(path)
            label = folder / labels / f"{found['case']}{ending}"
            if label.is_file():
                files["label"] = str(label)
    own = facts.get(OWN) if isinstance(facts.get(OWN), dict) else None
    splits = "given"
    if own:
        _restore(cells, own)
    elif not _folds(folder, cells):
        splits = "partly" if any(f.get("split") for f in cells.values()) else "drawn"
    name, definition = schema_of(facts.get("labels"), own, folder.name, where)
    return Layout(
        cells, names, f"nnU-Net v2: dataset.json with channel_names {', '.join(names)}", name, definition=definition,
        splits=splits,
    )  # fmt: skip


def _restore(cells: Cells, own: Mapping[str, Any]) -> None:
    """Splits, sites and empty cells of an exported cohort."""
    for case, files in cells.items():
        facts = (own.get("subjects") or {}).get(case, {})
        files |= {"split": ""} | {k: str(facts[k]) for k in ("split", "site") if facts.get(k)}
        for modality in _absent(facts):
            files.pop(modality, None)


def _absent(own: Mapping[str, Any] | None) -> Sequence[str]:
    """Modalities that an export filled with zeros."""
    return (own or {}).get("absent") or ()


def _folds(folder: Path, cells: Cells) -> bool:
    """Train and val of the first fold of splits_final.json, if it lies beside dataset.json."""
    path = folder / "splits_final.json"
    if not path.is_file():
        return False
    folds = _read(path)
    try:
        for split in ("train", "val"):
            for case in folds[0][split]:
                if case in cells:
                    cells[case]["split"] = split
    except (KeyError, IndexError, TypeError) as fault:
        raise InputError(f"{path} is no list of folds with train and val; mend it or move it away") from fault
    return True


# --- MONAI and the Decathlon ------------------------------------------------------------------------------------------


def datalist(path: Path, facts: Mapping[str, Any], order: Sequence[str] = ()) -> Layout:
    """A MONAI datalist, which is also the form of the Decathlon's dataset.json; paths are relative to it.

    Raises:
        InputError: an entry is at fault, a file does not exist, or the channels have no names.
    """
    entries = _entries(facts)
    names = _channels(path, facts, entries, order)
    cells: Cells = {}
    missing = []
    folds = any("fold" in entry for _, entry in entries) and not facts.get("validation")
    for (section, entry), subject in zip(entries, _subjects(path, entries), strict=True):
        images = entry["image"]
        if isinstance(images, list):
            if len(images) != len(names):
                raise InputError(f"{path}: {subject} has {len(images)} images, there are {len(names)} modalities")
            files = dict(zip(names, images, strict=True))
        else:
            files = {m: images if len(names) == 1 else f"{images}[{k}]" for k, m in enumerate(names)}
        files |= {k: entry[k] for k in ("label", "mask") if entry.get(k)}
        own = entry[OWN] if isinstance(entry.get(OWN), dict) else None
        files = {k: os.path.normpath(path.parent / str(v)) for k, v in files.items() if k not in _absent(own)}
        missing += [f for f in files.values() if not is_there(f)]
        files["split"] = ("val" if entry.get("fold") == 0 else "train") if folds and section == "train" else section
        if own is not None:
            files |= {"split": ""} | {k: str(own[k]) for k in ("split", "site") if own.get(k)}
        cells[subject] = files
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise InputError(f"{path} names {missing[0]}{more}, which does not exist; its paths start from its own folder")
    whole = facts.get(OWN) if isinstance(facts.get(OWN), dict) else None
    name, definition = schema_of(facts.get("labels"), whole, path.parent.name, path)
    decathlon = name == "msd_task01" and path.name == "dataset.json"
    told = "Medical Segmentation Decathlon Task01" if decathlon else "MONAI datalist"
    sections = sorted({s for s in SECTIONS if facts.get(s)})
    notes = ("fold 0 is val, as in MONAI's Auto3DSeg",) if folds else ()
    return Layout(
        cells, names, f"{told}: {path.name} with {', '.join(sections)}", name, definition=definition,
        splits="given" if folds or whole or "validation" in sections else "partly" if sections[1:] else "drawn",
        notes=notes,
    )  # fmt: skip


def _entries(facts: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Split and entry; the Decathlon lists its test images as bare paths."""
    found = []
    for section, split in SECTIONS.items():
        for entry in facts.get(section) if isinstance(facts.get(section), list) else []:  # type: ignore[union-attr]
            entry = {"image": entry} if isinstance(entry, str) else entry
            if isinstance(entry, dict) and entry.get("image") and isinstance(entry["image"], str | list):
                found.append((split, entry))
    return found


def _channels(
    path: Path, facts: Mapping[str, Any], entries: Sequence[tuple[str, dict[str, Any]]], order: Sequence[str]
) -> tuple[str, ...]:
    named = _named(facts["modality"], f"{path}, modality") if isinstance(facts.get("modality"), dict) else ()
    if order and named and len(order) != len(named):
        raise InputError(f"{path} has the channels {', '.join(named)}; name as many with --modality, or none")
    if order or named:
        return tuple(order) or named
    widths = {len(e["image"]) if isinstance(e["image"], list) else 0 for _, e in entries}
    told = f"{max(widths)} images" if max(widths) else "one image, of one channel or of several"
    raise InputError(
        f"{path} does not name its channels (a subject has {told}); give their names in order, as in "
        "--modality t2f --modality t1n --modality t1c --modality t2w"
    )


def _subjects(path: Path, entries: Sequence[tuple[str, dict[str, Any]]]) -> list[str]:
    """Names of the entries: the beginning that the images share, else their folder; whichever tells them apart."""
    images = [e["image"] if isinstance(e["image"], list) else [e["image"]] for _, e in entries]
    stems = [[_ENDING.sub("", Path(str(i).partition("[")[0]).name) for i in group] for group in images]
    shared = [_beginning(group) for group in stems]
    folders = [Path(str(group[0])).parent.name for group in images]
    given = [str(e["subject"]) if e.get("subject") else "" for _, e in entries]
    for names in (given, shared, folders):
        if all(names) and len(set(names)) == len(names):
            return names
    twice = next((n for n in shared if shared.count(n) > 1), shared[0])
    raise InputError(f"{path}: two entries would be called {twice!r}; give each entry its name, as 'subject': 'P001'")


def _beginning(stems: Sequence[str]) -> str:
    """The words that names have in common from their start: ``P1_t1`` and ``P1_t2`` are both of ``P1``."""
    words = zip(*(re.split(r"([-_. ])", stem) for stem in stems))
    return "".join(w[0] for w in takewhile(lambda w: len(set(w)) == 1, words)).rstrip("-_. ")


# --- labels -----------------------------------------------------------------------------------------------------------

_REGION_NAMES = {"wholetumor": "WT", "wt": "WT", "tumorcore": "TC", "tc": "TC", "enhancingtumor": "ET", "et": "ET"}
_LABEL_NAMES = {
    **dict.fromkeys(("edema", "peritumoraledema", "ed"), "ED"),
    **dict.fromkeys(("nonenhancingtumor", "net"), "NET"),
    **dict.fromkeys(("necrosis", "necrotictumorcore", "ncr", "ncrnet"), "NCR"),
    **dict.fromkeys(("enhancingtumor", "et"), "ET"),
}
_LAYERS = {frozenset({"WT", "TC", "ET"}): "ET", frozenset({"WT", "TC"}): "NCR", frozenset({"WT"}): "ED"}


def schema_of(labels: Any, own: Mapping[str, Any] | None, dataset: str, where: Path) -> tuple[str, LabelSchema | None]:
    """The schema's name, and the schema itself where the file defines it.

    nnU-Net writes name to integer, or to a list of them (regions); MONAI and the Decathlon write integer to name.

    Raises:
        InputError: the labels cannot be read.
    """
    if own and own.get("schema"):
        stored = schema_from_json(own["schema"])
        known = SCHEMAS.get(stored.name)
        return stored.name, None if known and known.to_json() == stored.to_json() else stored
    if not isinstance(labels, dict) or not labels:
        return "", None
    try:
        if all(isinstance(v, str) for v in labels.values()):
            labels = {name: int(value) for value, name in labels.items()}
        groups = {str(k): tuple(int(i) for i in (v if isinstance(v, list) else [v])) for k, v in labels.items()}
    except (TypeError, ValueError) as fault:
        raise InputError(f"{where}: labels are {str(labels)[:80]}; write names and integers") from fault
    ignored = tuple(v for name, group in groups.items() if name.lower() == "ignore" for v in group)
    groups = {k: v for k, v in groups.items() if k.lower() != "ignore" and v != (0,) and v}
    if not groups:
        return "", None
    regional = any(len(v) > 1 for v in groups.values())
    named = _regions(groups) if regional else _labels(groups)
    for listed in ("msd_task01", "brats2023", "brats2021", "lesion"):
        if _same(named, SCHEMAS[listed]) and not ignored:
            return listed, None
    name = re.sub(r"\W+", "_", dataset.lower()).strip("_") or "own"
    name = name if name not in SCHEMAS else f"{name}_own"
    values = {"name": name, **named, "ignored": list(ignored), "source": f"{where.name} of {dataset}"}
    try:
        return name, schema_from_json(values)
    except InputError as fault:
        raise InputError(f"{where}: {fault}") from fault


def _labels(groups: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """Labels that are no unions: each is a region, unless they are the parts of a glioma."""
    known = {v[0]: _LABEL_NAMES.get(_plain(name), name) for name, v in groups.items()}
    if {"ED", "ET"} < set(known.values()) <= {"ED", "ET", "NET", "NCR"}:
        core = [v for v, n in sorted(known.items()) if n != "ED"]
        enhancing = [v for v, n in known.items() if n == "ET"]
        return {"labels": known, "regions": {"WT": sorted(known), "TC": core, "ET": enhancing}}
    return {"labels": {v[0]: n for n, v in groups.items()}, "regions": {n: list(v) for n, v in groups.items()}}


def _regions(groups: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """Regions, and for each integer a name by the regions that it belongs to."""
    regions = {_REGION_NAMES.get(_plain(name), name): list(v) for name, v in groups.items()}
    labels: dict[int, str] = {}
    for value in sorted({v for members in regions.values() for v in members}):
        inside = frozenset(r for r, members in regions.items() if value in members)
        name = _LAYERS.get(inside, f"label {value}")
        labels[value] = name if name not in labels.values() else f"label {value}"
    return {"labels": labels, "regions": regions}


def _same(named: Mapping[str, Any], schema: LabelSchema) -> bool:
    core = {"NET": "NCR"}
    ours = {v: core.get(n, n) for v, n in named["labels"].items()}
    theirs = {v: core.get(n, n) for v, n in schema.labels.items()}
    return ours == theirs and [(r, sorted(m)) for r, m in named["regions"].items()] == [
        (r, sorted(m)) for r, m in schema.regions.items()
    ]


def _plain(name: str) -> str:
    return re.sub(r"[^a-z]", "", name.lower()).replace("tumour", "tumor").replace("oedema", "edema")


def _named(values: Any, where: str) -> tuple[str, ...]:
    """Names of channels 0, 1, ... from an object of number to name."""
    try:
        names = [vocabulary.canonical_modality(str(values[str(k)])) for k in range(len(values))]
    except (KeyError, TypeError) as fault:
        raise InputError(f"{where} is {str(values)[:80]}; write names of the channels '0', '1', ...") from fault
    if not names or len(set(names)) < len(names):
        raise InputError(f"{where}: {', '.join(names) or 'nothing'}; every channel needs a name of its own")
    return tuple(names)


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as fault:
        raise InputError(f"{path} is not a readable JSON file ({str(fault).splitlines()[0]}); mend it") from fault


def _read_or_none(path: Path) -> Any:
    try:
        return _read(path)
    except InputError:
        return None
