"""What a phantom can have beyond the plain one: every ingredient a switch with a random stream of its own.

With an ingredient taken away all the others stay as they were drawn, so that what it is worth can be measured on the
same patients; only a tumour follows the brain that it grows in, place and shape. Without any the phantom is the plain
one, bit for bit.
"""

from collections.abc import Collection, Mapping
from types import MappingProxyType

import numpy as np

# The order is part of every stream: new ones come last.
INGREDIENTS: Mapping[str, str] = MappingProxyType(
    {
        "anatomy": "heads further from the average: form, ventricles, atrophy, unequal halves, a hindbrain of its own",
        "lesions": "any size, up to four foci, cysts, necrosis without a rim, soft oedema or hardly any, also below",
        "tracts": "tumour and oedema grow along the white matter's sheets rather than across them",
        "haemorrhage": "blood of some stage in the core of a third of the patients",
        "calcification": "chalk in the core of a fifth",
        "cavity": "fluid where tumour and what is around it were taken out; not labelled",
        "scanners": "field, kind of sequence, TR, TE, TI, slices, dose, noise and coil drawn for every patient",
        "artefacts": "ringing, ghosts and a head that moved",
        "stripping": "a skull strip that bites off brain and leaves skull",
        "coverage": "a sequence that ends before the head does; it is zero there",
        "resampling": "sequences that are registered to within about a millimetre, and blurred by it",
        "ceilings": "the brightest voxels cut off, or 256 levels",
    }
)
# Before an operation there is none.
OPTIONAL = ("cavity",)
_FIRST_STREAM = 100
# Of what ingredients draw: raise it when the same words give another patient. The plain phantom has its own.
VARIED_VERSION = "1"


def chosen_ingredients(words: str | Collection[str]) -> tuple[str, ...]:
    """The ingredients that words name, in their one order.

    Args:
        words: names, or text as ``scanners+haemorrhage``, ``all`` (but the optional ones), ``all+cavity``,
            ``all-lesions-coverage``; empty for the plain phantom.

    Raises:
        ValueError: an unknown name.
    """
    found: set[str] = set()
    for term in _terms(words):
        name = term.lstrip("+-")
        if name != "all" and name not in INGREDIENTS:
            raise ValueError(f"ingredient {name!r} is unknown; choose from all, {', '.join(INGREDIENTS)}")
        meant = set(INGREDIENTS) - set(OPTIONAL) if name == "all" else {name}
        found = found - meant if term.startswith("-") else found | meant
    return tuple(name for name in INGREDIENTS if name in found)


def stream(seed: int, ingredient: str, *more: int) -> np.random.Generator:
    """The random numbers of one ingredient of one patient; `more` tells sequences and sites apart."""
    return np.random.default_rng([seed, _FIRST_STREAM + list(INGREDIENTS).index(ingredient), *more])


def _terms(words: str | Collection[str]) -> list[str]:
    if not isinstance(words, str):
        return list(words)
    return "".join(words.split()).replace("-", "+-").lstrip("+").split("+") if words.strip() else []
