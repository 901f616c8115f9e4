"""Label schemas as data: what the integers of a label map mean, year by year, their regions, and conversions.

A schema that is not listed here is a small JSON file beside the manifest, see :func:`read_schema`.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from mtg_lab.errors import InputError

LARGEST_LABEL = 65535  # label maps are written with at most two bytes a voxel


@dataclass(frozen=True)
class LabelSchema:
    """What the integers of a label map mean, and which regions they make up.

    Attributes:
        name: how the manifest's ``schema`` column names it.
        labels: integer to short name, background (0) left out.
        regions: region name to the integers whose union it is, in the order in which they are reported.
        ignored: integers that occur but are no target (a resection cavity): read as background.
        source: where the meaning is written down.
        year: of the cohorts that follow it, as ``2018`` or ``2012-2015``; empty if it belongs to none.
    """

    name: str
    labels: Mapping[int, str]
    regions: Mapping[str, tuple[int, ...]]
    source: str
    ignored: tuple[int, ...] = ()
    year: str = ""

    @property
    def values(self) -> tuple[int, ...]:
        """The target integers, ascending; class k of a network is ``values[k - 1]``, class 0 is background."""
        return tuple(sorted(self.labels))

    @property
    def classes(self) -> int:
        """Number of classes of a network's softmax, background included."""
        return len(self.labels) + 1

    @property
    def allowed(self) -> frozenset[int]:
        """Every integer that a label map of this schema may hold."""
        return frozenset({0, *self.labels, *self.ignored})

    @property
    def region_classes(self) -> dict[str, tuple[int, ...]]:
        """Regions as class indices of a network instead of integers of the file."""
        return {r: tuple(self.values.index(v) + 1 for v in members) for r, members in self.regions.items()}

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, background first."""
        return ("background", *(self.labels[v] for v in self.values))

    def to_json(self) -> dict[str, Any]:
        """As plain values, regions in their order; the inverse of :func:`schema_from_json`."""
        return {
            "name": self.name,
            "labels": {str(v): self.labels[v] for v in self.values},
            "regions": {r: list(members) for r, members in self.regions.items()},
            "ignored": list(self.ignored),
            "source": self.source,
            "year": self.year,
        }


_NESTED = {"WT": (1, 2, 3), "TC": (1, 3), "ET": (3,)}
_SYNAPSE = "synapse.org/brats"
SCHEMAS: dict[str, LabelSchema] = {
    s.name: s
    for s in (
        LabelSchema("brats2023", {1: "NCR", 2: "ED", 3: "ET"}, _NESTED,
                    f"BraTS 2023 adult glioma (GLI) and 2024 GoAT, {_SYNAPSE}", year="2023"),
        LabelSchema("brats2021", {1: "NCR", 2: "ED", 4: "ET"}, {"WT": (1, 2, 4), "TC": (1, 4), "ET": (4,)},
                    "BraTS 2017-2021 and FeTS; Baid et al. 2021, arXiv 2107.02314 (1 is NCR and NET together)",
                    year="2017-2021"),
        LabelSchema("brats2024", {1: "NETC", 2: "SNFH", 3: "ET"}, _NESTED,
                    "BraTS 2024 post-treatment glioma, 4 is the resection cavity; de Verdier et al. 2024, arXiv "
                    "2405.18368", ignored=(4,), year="2024"),
        LabelSchema("brats2015", {1: "NCR", 2: "ED", 3: "NET", 4: "ET"},
                    {"WT": (1, 2, 3, 4), "TC": (1, 3, 4), "ET": (4,)},
                    "BraTS 2012-2015; Menze et al., IEEE TMI 2015", year="2012-2015"),
        LabelSchema("brats2023_met", {1: "NETC", 2: "SNFH", 3: "ET"}, _NESTED,
                    "BraTS-METS 2023, arXiv 2306.00838; that 2024 kept the integers is not confirmed from its data "
                    f"page ({_SYNAPSE}); 2025 added 4, a resection cavity", year="2023-2024"),
        LabelSchema("brats2023_men", {1: "NETC", 2: "SNFH", 3: "ET"}, _NESTED,
                    "BraTS 2023 intracranial meningioma; LaBella et al. 2023, arXiv 2305.07642, and 2405.09787",
                    year="2023"),
        LabelSchema("brats2023_ssa", {1: "NCR", 2: "ED", 3: "ET"}, _NESTED,
                    "BraTS-Africa (SSA) 2023; Adewole et al. 2023, arXiv 2305.19369; that 2024 kept the integers "
                    f"is not confirmed from its data page ({_SYNAPSE})", year="2023-2024"),
        LabelSchema("brats2023_ped", {1: "NC", 2: "ED", 3: "ET"}, _NESTED,
                    "BraTS-PEDs 2023, 1 is non-enhancing tumour and cysts together; Kazerooni et al. 2023, arXiv "
                    "2305.17033", year="2023"),
        LabelSchema("brats2024_ped", {1: "ET", 2: "NET", 3: "CC", 4: "ED"},
                    {"WT": (1, 2, 3, 4), "TC": (1, 2, 3), "ET": (1,)},
                    "BraTS-PEDs 2024, regions by RAPNO; Kazerooni et al. 2024, arXiv 2404.15009; the integers from "
                    "public training code (MIC-DKFZ/nnUNet issue 3042), not from the data page", year="2024"),
        LabelSchema("brats2024_men_rt", {1: "GTV"}, {"GTV": (1,)},
                    "BraTS-MEN-RT 2024, gross tumour volume; LaBella et al. 2024, arXiv 2405.18383", year="2024"),
        LabelSchema("msd_task01", {1: "ED", 2: "NET", 3: "ET"}, {"WT": (1, 2, 3), "TC": (2, 3), "ET": (3,)},
                    "Medical Segmentation Decathlon Task01, its dataset.json; Antonelli et al., Nat Commun 2022",
                    year="2018"),
        LabelSchema("isles2022", {1: "infarct"}, {"lesion": (1,)},
                    "ISLES 2022; Hernandez Petzsche et al., Sci Data 2022", year="2022"),
        LabelSchema("myops2020", {200: "myocardium", 500: "LV", 600: "RV", 1220: "edema", 2221: "scar"},
                    {"myocardium": (200, 1220, 2221), "LV": (500,), "RV": (600,), "edema+scar": (1220, 2221),
                     "scar": (2221,)},
                    "MyoPS 2020, zmiclab.github.io/zxh/0/myops20; Li et al., Med Image Anal 2023", year="2020"),
        LabelSchema("lesion", {1: "lesion"}, {"lesion": (1,)}, "one foreground label"),
    )
}  # fmt: skip

_SAME_LABELS = {
    **dict.fromkeys(("brats2012", "brats2013", "brats2014"), "brats2015"),
    **dict.fromkeys(("brats2017", "brats2018", "brats2019", "brats2020", "fets", "fets2022", "fets2024"), "brats2021"),
    **dict.fromkeys(("msd", "task01", "msd_task1"), "msd_task01"),
    **{f"brats2024_{kind}": f"brats2023_{kind}" for kind in ("met", "ssa")},
    **{f"brats_{kind}": f"brats2023_{kind}" for kind in ("met", "men", "ssa")},
}


def schema(name: str) -> LabelSchema:
    """The label schema called ``name``.

    Raises:
        InputError: no schema has this name; the line lists those that exist and the nearest.
    """
    if name in SCHEMAS:
        return SCHEMAS[name]
    # By spelling alone brats2020 is nearest to brats2024, whose 4 means something else.
    same = _SAME_LABELS.get(name.strip().lower())
    hint = f"; its labels are those of {same!r}" if same else nearest(name, SCHEMAS)
    raise InputError(f"unknown label schema {name!r}; known: {', '.join(SCHEMAS)}{hint}")


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of a line about an unknown name: ``; did you mean 't1c'?``, or nothing."""
    near = get_close_matches(name, known, n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


# Which names are one tissue in another year's words: in 2015 necrosis and non-enhancing tumour were told apart, later
# not; 2024 calls oedema and infiltration surrounding non-enhancing FLAIR hyperintensity.
_TISSUES = {
    **dict.fromkeys(("NCR", "NET", "NETC", "NC", "CC"), "core"),
    **dict.fromkeys(("ED", "SNFH"), "oedema"),
    "infarct": "lesion",
}


def conversion(source: LabelSchema | str, target: LabelSchema | str) -> dict[int, int]:
    """Integers of ``source`` as integers of ``target``, by the declared equivalence of their meaning.

    What the source ignores becomes background. Regions that both schemas name are conserved.

    Raises:
        InputError: a label has no counterpart, or the target tells apart what the source does not.
    """
    a, b = (s if isinstance(s, LabelSchema) else schema(s) for s in (source, target))
    mapping = {0: 0, **dict.fromkeys(a.ignored, 0)}
    for value, name in a.labels.items():
        same = {v: n for v, n in b.labels.items() if _tissue(n) == _tissue(name)}
        if len(same) > 1:
            ours = {n for n in a.labels.values() if _tissue(n) == _tissue(name)}
            if ours != set(same.values()):
                told = ", ".join(f"{v} {n}" for v, n in same.items())
                raise InputError(
                    f"label {value} ({name}) of {a.name} is several in {b.name} ({told}); convert the other way round, "
                    "or to a schema that does not tell them apart"
                )
            same = {v: n for v, n in same.items() if n == name}
        if not same:
            raise InputError(
                f"label {value} ({name}) of {a.name} has no counterpart in {b.name} "
                f"({', '.join(b.labels.values())}); choose another schema"
            )
        mapping[value] = next(iter(same))
    for region in set(a.regions) & set(b.regions):
        if {v for v in a.labels if mapping[v] in b.regions[region]} != set(a.regions[region]):
            raise InputError(f"{region} of {a.name} is not {region} of {b.name}; choose another schema")
    return mapping


def convertible(source: LabelSchema) -> list[str]:
    """The listed schemas that ``source`` can be converted to."""
    found = []
    for name in SCHEMAS:
        try:
            conversion(source, name)
        except InputError:
            continue
        found.append(name)
    return found


def check_same_classes(ours: LabelSchema, theirs: LabelSchema, who: str) -> None:
    """Refuse a network whose k-th class is another tissue: 1 is oedema in MSD Task01 and necrosis in BraTS.

    Raises:
        InputError: the classes differ in meaning or order.
    """
    a, b = ([_tissue(n) for n in s.class_names] for s in (ours, theirs))
    if a != b:
        raise InputError(
            f"{who} was trained on {theirs.name} ({', '.join(theirs.class_names[1:])}), the cohort's labels are of "
            f"{ours.name} ({', '.join(ours.class_names[1:])}); convert one of them with 'mtg-lab convert'"
        )


def consecutive(source: LabelSchema) -> LabelSchema:
    """The same labels and regions with the integers 1, 2, ... n and nothing ignored, as nnU-Net needs them."""
    place = {v: k for k, v in enumerate(source.values, start=1)}
    return LabelSchema(
        f"{source.name}_consecutive",
        {place[v]: source.labels[v] for v in source.values},
        {r: tuple(place[v] for v in members) for r, members in source.regions.items()},
        f"{source.name} ({', '.join(f'{v} is {k}' for v, k in place.items())}); {source.source}",
        year=source.year,
    )


def _tissue(name: str) -> str:
    return _TISSUES.get(name, name)


def read_schema(path: str | Path) -> LabelSchema:
    """A schema from its JSON file: name, labels, regions, and optionally ignored, source and year.

    For example ``{"name": "mine", "labels": {"1": "core", "2": "rim"}, "regions": {"all": [1, 2], "core": [1]}}``.

    Raises:
        InputError: the file cannot be read, or its content is no schema; the line says where.
    """
    try:
        values = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as fault:  # what JSON and UTF-8 refuse are ValueErrors
        raise InputError(f"{path} is not a readable JSON file ({str(fault).splitlines()[0]}); mend it") from fault
    try:
        return schema_from_json(values)
    except InputError as fault:
        raise InputError(f"{path}: {fault}") from fault


def schema_from_json(values: Any) -> LabelSchema:
    """A schema from plain values, each of them checked.

    Raises:
        InputError: a field is missing, unknown or of no use.
    """
    if not isinstance(values, dict):
        raise InputError("a schema is an object with name, labels and regions; write it so")
    known = ("name", "labels", "regions", "ignored", "source", "year")
    for field in values:
        if field not in known:
            raise InputError(f"a schema has no field {field!r}{nearest(field, known)}; it has {', '.join(known)}")
    name, labels, regions = (values.get(k) for k in known[:3])
    if not isinstance(name, str) or not name.strip() or "," in name:
        raise InputError(f"the schema's name is {name!r}; give it a word of its own")
    if not isinstance(labels, dict) or not labels or not all(_is_word(n) for n in labels.values()):
        raise InputError(f"labels of schema {name} must map integers to names, as in {{'1': 'core'}}; found {labels!r}")
    by_value = {_integer(v, f"schema {name}, label {n!r}"): n for v, n in labels.items()}
    if len(set(by_value.values())) < len(labels):
        raise InputError(f"schema {name} gives one label twice; every integer and every name occurs once")
    ignored = values.get("ignored", [])
    if not isinstance(ignored, list):
        raise InputError(f"ignored of schema {name} is {ignored!r}; give a list of integers")
    passed = tuple(_integer(v, f"schema {name}, ignored") for v in ignored)
    if both := sorted(set(passed) & set(by_value)):
        raise InputError(f"schema {name} ignores {both[0]}, which is a label; leave it out of one of the two")
    if not isinstance(regions, dict) or not regions:
        raise InputError(f"regions of schema {name} must map names to lists of labels; found {regions!r}")
    members: dict[str, tuple[int, ...]] = {}
    for region, listed in regions.items():
        if not _is_word(region) or not isinstance(listed, list) or not listed:
            raise InputError(f"region {region!r} of schema {name} is {listed!r}; give it a name and a list of labels")
        members[region] = tuple(_integer(v, f"schema {name}, region {region}") for v in listed)
        if unknown := sorted(set(members[region]) - set(by_value)):
            raise InputError(
                f"region {region} of schema {name} names {unknown[0]}; its labels are {', '.join(map(str, by_value))}"
            )
    return LabelSchema(
        name, by_value, members, str(values.get("source", "")), ignored=passed, year=str(values.get("year", ""))
    )


def _is_word(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _integer(value: Any, where: str) -> int:
    text = str(value)
    if not (text.isascii() and text.isdecimal() and len(text) < 9 and 1 <= int(text) <= LARGEST_LABEL):
        raise InputError(f"{where}: {value!r} is no integer from 1 to {LARGEST_LABEL}; 0 is background")
    return int(text)
