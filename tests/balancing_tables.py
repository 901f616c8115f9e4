"""Tables of the balancing study whose every cell is known."""

import itertools

import pandas as pd

MODALITIES = ("t1n", "t1c", "t2w", "t2f")
SHARES = {"mr2468": (0.8, 0.6, 0.2, 0.4), "balanced": (0.5, 0.5, 0.5, 0.5)}


def study_runs(arms=("fused", "passion"), seeds=(0, 1)):
    """Dice alone is half the share, and 0.1 more under PASSION; seeds are 0.02 apart."""
    rows = []
    for arm, rates, seed in itertools.product(arms, SHARES, seeds):
        better = 0.1 * (arm == "passion") + 0.02 * seed
        row = {"arm": arm, "backbone": "unet", "rates": rates, "seed": seed, "dice": 0.5 + better}
        for modality, share in zip(MODALITIES, SHARES[rates], strict=True):
            row |= {f"share_{modality}": share, f"dice_{modality}_alone": share / 2 + better}
        rows.append(row | {f"dice_{n}_missing": 0.7 - 0.1 * n + better for n in range(4)})
    return pd.DataFrame(rows)
