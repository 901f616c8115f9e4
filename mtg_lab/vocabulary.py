"""Words of the field: modalities and their aliases, subsets of modalities, label schemas and regions.

The integers of a label map mean nothing without a schema: 4 is enhancing tumour in BraTS 2018-2021 and a resection
cavity in BraTS 2024. Modalities carry the names of BraTS 2023; every other spelling is understood and never written.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import combinations

from mtg_lab.errors import InputError

BRATS_MODALITIES = ("t1n", "t1c", "t2w", "t2f")

# Other spellings, lower case and without separators: "T1_Gd", "t1-gd" and "T1GD" are one word.
ALIASES: dict[str, str] = {
    "t1": "t1n", "t1w": "t1n", "t1pre": "t1n", "t1native": "t1n",
    "t1ce": "t1c", "t1gd": "t1c", "t1post": "t1c", "t1wce": "t1c", "t1wgd": "t1c", "t1wpost": "t1c", "t1km": "t1c",
    "t2": "t2w",
    "flair": "t2f", "fla": "t2f", "t2flair": "t2f", "t2wflair": "t2f",
}  # fmt: skip

LONG_NAMES = {
    "t1n": "T1, native",
    "t1c": "T1, contrast-enhanced",
    "t2w": "T2",
    "t2f": "T2-FLAIR",
    "dwi": "diffusion-weighted",
    "adc": "apparent diffusion coefficient",
    "rcbv": "relative cerebral blood volume",
}


def canonical_modality(name: str) -> str:
    """The written name of a modality: ``canonical_modality("FLAIR") == "t2f"``; unknown names are only lowered."""
    lowered = name.strip().lower()
    key = re.sub(r"[-_+.\s]", "", lowered)  # + as in T1+C
    return ALIASES.get(key, key if key in BRATS_MODALITIES else lowered)


def subsets(modalities: Sequence[str]) -> tuple[frozenset[str], ...]:
    """All non-empty subsets of ``modalities``, the smallest first: 15 for four modalities."""
    return tuple(frozenset(c) for size in range(1, len(modalities) + 1) for c in combinations(modalities, size))


def subset_name(subset: Iterable[str], modalities: Sequence[str]) -> str:
    """A subset printed in the order of the run's modalities, as ``t1c+t2f``."""
    chosen = set(subset)
    return "+".join(m for m in modalities if m in chosen)


def parse_subset(text: str | Iterable[str], modalities: Sequence[str]) -> frozenset[str]:
    """Read ``"t1c+flair"`` or ``["t1c", "flair"]`` as a set of names from ``modalities``.

    Raises:
        InputError: the subset is empty or names a modality that ``modalities`` lacks.
    """
    parts = text.replace(",", "+").split("+") if isinstance(text, str) else list(text)
    names = [canonical_modality(p) for p in parts if p.strip()]
    if not names:
        raise InputError(f"the subset {text!r} is empty; name at least one of {', '.join(modalities)}")
    for name in names:
        if name not in modalities:
            raise InputError(
                f"the subset {text!r} names {name!r}; known here: {', '.join(modalities)}{_nearest(name, modalities)}"
            )
    return frozenset(names)


def _nearest(name: str, known: Iterable[str]) -> str:
    near = get_close_matches(name, known, n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


@dataclass(frozen=True)
class LabelSchema:
    """What the integers of a label map mean, and which regions they make up.

    Attributes:
        name: how the manifest's ``schema`` column names it.
        labels: integer to short name, background (0) left out.
        regions: region name to the integers whose union it is, in the order in which they are reported.
        ignored: integers that occur but are no target (a resection cavity): read as background.
        source: where the meaning is written down.
    """

    name: str
    labels: Mapping[int, str]
    regions: Mapping[str, tuple[int, ...]]
    source: str
    ignored: tuple[int, ...] = ()

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


_GLIOMA = "Baid et al. 2021, arXiv 2107.02314"
SCHEMAS: dict[str, LabelSchema] = {
    s.name: s
    for s in (
        LabelSchema("brats2023", {1: "NCR", 2: "ED", 3: "ET"}, {"WT": (1, 2, 3), "TC": (1, 3), "ET": (3,)},
                    "BraTS 2023 (GLI, MET, PED, SSA), synapse.org/brats"),
        LabelSchema("brats2021", {1: "NCR", 2: "ED", 4: "ET"}, {"WT": (1, 2, 4), "TC": (1, 4), "ET": (4,)},
                    f"BraTS 2017-2021 and FeTS; {_GLIOMA}"),
        LabelSchema("brats2024", {1: "NETC", 2: "SNFH", 3: "ET"}, {"WT": (1, 2, 3), "TC": (1, 3), "ET": (3,)},
                    "BraTS 2024 post-treatment glioma; de Verdier et al. 2024, arXiv 2405.18368", ignored=(4,)),
        LabelSchema("brats2015", {1: "NCR", 2: "ED", 3: "NET", 4: "ET"},
                    {"WT": (1, 2, 3, 4), "TC": (1, 3, 4), "ET": (4,)},
                    "BraTS 2012-2015; Menze et al., IEEE TMI 2015"),
        LabelSchema("msd_task01", {1: "ED", 2: "NET", 3: "ET"}, {"WT": (1, 2, 3), "TC": (2, 3), "ET": (3,)},
                    "Medical Segmentation Decathlon Task01; Antonelli et al., Nat Commun 2022"),
        LabelSchema("lesion", {1: "lesion"}, {"lesion": (1,)}, "one foreground label"),
    )
}  # fmt: skip


_SAME_LABELS = {
    **dict.fromkeys(("brats2012", "brats2013", "brats2014"), "brats2015"),
    **dict.fromkeys(("brats2017", "brats2018", "brats2019", "brats2020", "fets", "fets2022", "fets2024"), "brats2021"),
    **dict.fromkeys(("msd", "task01", "msd_task1"), "msd_task01"),
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
    hint = f"; its labels are those of {same!r}" if same else _nearest(name, SCHEMAS)
    raise InputError(f"unknown label schema {name!r}; known: {', '.join(SCHEMAS)}{hint}")
