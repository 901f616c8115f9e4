"""Latents whose gap is known: Gaussian modalities, as the table that a run would give."""

import numpy as np
import pandas as pd

MODALITIES = ("t1n", "t1c", "t2w", "t2f")


def cloud(
    offset=0.0, shared=0.0, modalities=2, subjects=8, voxels=40, channels=4, seed=0, scale=1.0, turn=False, tissues=1
):
    """Latents of Gaussian modalities, unit variance within a modality before anything is done to it.

    Args:
        offset: moves modality m by m offsets along the first channel.
        shared: correlation of a voxel's modalities.
        scale: stretches modality m by scale^m about the origin.
        turn: the first channel is three times as wide, and the second modality is turned by a right angle.
        tissues: how many, each an equal part of a subject's voxels.
    """
    rng, frames = np.random.default_rng(seed), []
    for s in range(subjects):
        common = rng.normal(size=(voxels, channels))
        for m in range(modalities):
            z = np.sqrt(shared) * common + np.sqrt(1 - shared) * rng.normal(size=(voxels, channels))
            if turn:
                z[:, 0] *= 3
                if m == 1:
                    z[:, [0, 1]] = z[:, [1, 0]] * [-1, 1]
            z *= scale**m
            z[:, 0] += m * offset
            tissue = [("brain", "ED", "ET")[v % tissues] for v in range(voxels)]
            keys = {"subject": f"P{s}", "site": "AB"[s % 2], "tissue": tissue, "voxel": range(voxels)}
            keys["modality"] = MODALITIES[m]
            frames.append(pd.DataFrame(keys).join(pd.DataFrame(z, columns=[f"z{i}" for i in range(channels)])))
    return pd.concat(frames, ignore_index=True)
