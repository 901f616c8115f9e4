"""Which subsets are scored: all of them up to six modalities, beyond that a choice that has a name."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from mtg_lab import vocabulary
from mtg_lab.errors import InputError

MOST_SUBSETS = 63  # all of six modalities
ALL = "all"


@dataclass(frozen=True)
class SubsetChoice:
    """Subsets, the smallest first, and how they were chosen.

    Attributes:
        name: ``all``, or limit and seed of a sample: part of the protocol of whatever is scored on it.
    """

    name: str
    subsets: tuple[frozenset[str], ...]


def choose_subsets(modalities: Sequence[str], limit: int = MOST_SUBSETS, seed: int = 0) -> SubsetChoice:
    """All non-empty subsets if they are ``limit`` at most, else a sample of ``limit``.

    A sample holds every single modality, every subset that lacks one, the full set, and of the sizes between them
    equally many, as far as there are so many, drawn without replacement. So each point of a curve over the number of
    missing modalities rests on about as many subsets; a mean over the sample weighs sizes, not subsets, alike. The
    choice depends on the modalities' names, not on their order.

    Raises:
        InputError: no modality, or a limit below the 2 M + 1 subsets that a sample always holds.
    """
    total = len(modalities)
    if not total:
        raise InputError("there is no modality to choose subsets of; name one at least")
    if 2**total - 1 <= limit:
        return SubsetChoice(ALL, vocabulary.subsets(modalities))
    fixed = {1, total - 1, total}
    chosen = {frozenset(c) for size in fixed for c in combinations(modalities, size)}
    if limit < len(chosen):
        raise InputError(f"at most {limit} subsets of {total} modalities; a sample holds {len(chosen)} at least, give "
                         f"as many, or {2**total - 1} for all")  # fmt: skip
    rng, left = np.random.default_rng(seed), limit - len(chosen)
    # The sizes with fewest subsets first, so that what they cannot take goes to the others.
    sizes = sorted((s for s in range(1, total + 1) if s not in fixed), key=lambda s: abs(2 * s - total), reverse=True)
    for place, size in enumerate(sizes):
        candidates = list(combinations(sorted(modalities), size))
        share = min(len(candidates), left // (len(sizes) - place))
        chosen |= {frozenset(candidates[i]) for i in rng.choice(len(candidates), share, replace=False)}
        left -= share
    places = {m: i for i, m in enumerate(modalities)}
    ordered = sorted(chosen, key=lambda s: (len(s), sorted(places[m] for m in s)))
    return SubsetChoice(f"{limit} of {2**total - 1}, seed {seed}", tuple(ordered))
