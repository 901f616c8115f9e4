"""Words of the field: modalities and their aliases, subsets of modalities, label schemas and regions.

The integers of a label map mean nothing without a schema: 4 is enhancing tumour in BraTS 2018-2021 and a resection
cavity in BraTS 2024. Modalities carry the names of BraTS 2023; every other spelling is understood and never written.
"""

import re
from collections.abc import Iterable, Sequence
from itertools import combinations

from mtg_lab.errors import InputError
from mtg_lab.schemas import SCHEMAS as SCHEMAS
from mtg_lab.schemas import LabelSchema as LabelSchema
from mtg_lab.schemas import conversion as conversion
from mtg_lab.schemas import nearest
from mtg_lab.schemas import schema as schema

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
    "c0": "balanced steady-state free precession, cine",
    "de": "late gadolinium enhancement",
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
                f"the subset {text!r} names {name!r}; known here: {', '.join(modalities)}{nearest(name, modalities)}"
            )
    return frozenset(names)
