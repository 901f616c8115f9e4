"""Paired latents as arrays, what is drawn anew from them, and moments that make drawing cheap."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from mtg_lab.errors import InputError
from mtg_lab.latent_tables import complete_pairs, z_columns


@dataclass(frozen=True)
class Paired:
    """Latents of n voxels in M modalities.

    Attributes:
        z: [n, M, C]; rows of one subject are adjacent.
        subject: int [n], 0 ... S-1.
        modalities: names.
    """

    z: np.ndarray
    subject: np.ndarray
    modalities: tuple[str, ...]

    @classmethod
    def of(cls, table: pd.DataFrame) -> "Paired":
        """From a table of :func:`mtg_lab.latents`; voxels that lack a modality are left out.

        Raises:
            InputError: fewer than two modalities, or no voxel has all of them.
        """
        modalities = tuple(dict.fromkeys(table["modality"]))  # before sorting: the order of the run
        if len(modalities) < 2:
            raise InputError(f"these latents are of {' '.join(modalities) or 'no modality'} alone; a gap needs two")
        pairs = complete_pairs(table)
        if pairs.empty:
            raise InputError("no voxel of these latents has all modalities; choose subjects that are complete")
        z = pairs[z_columns(pairs)].to_numpy(dtype=float)
        subject = pd.factorize(pairs["subject"])[0][:: len(modalities)]
        return cls(z.reshape(-1, len(modalities), z.shape[1]), subject, modalities)

    def only(self, modalities: Sequence[str]) -> "Paired":
        """The same voxels in some of the modalities."""
        chosen = [self.modalities.index(m) for m in modalities]
        return Paired(self.z[:, chosen], self.subject, tuple(modalities))

    def at_most(self, voxels: int, seed: int = 0) -> "Paired":
        """A draw of so many voxels; a share of every subject's."""
        if len(self.z) <= voxels:
            return self
        kept = np.sort(np.random.default_rng(seed).choice(len(self.z), voxels, replace=False))
        return Paired(self.z[kept], pd.factorize(self.subject[kept])[0], self.modalities)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels n, modalities M, channels C."""
        n, m, c = self.z.shape
        return n, m, c

    @cached_property
    def voxels(self) -> np.ndarray:
        """How many of each subject, [S]."""
        return np.bincount(self.subject)

    @property
    def subjects(self) -> int:
        """S."""
        return len(self.voxels)

    @cached_property
    def starts(self) -> np.ndarray:
        """First row of each subject, [S]."""
        return np.concatenate([[0], np.cumsum(self.voxels)[:-1]])

    def sums(self, values: np.ndarray) -> np.ndarray:
        """Sums over each subject's voxels: [n, ...] to [S, ...]."""
        return np.add.reduceat(values, self.starts, axis=0)

    @cached_property
    def scale(self) -> float:
        """Root mean square deviation of a channel from its modality's mean; never zero."""
        return float(max(np.sqrt(((self.z - self.z.mean(axis=0)) ** 2).mean()), 1e-12))

    def principal(self, components: int) -> np.ndarray:
        """Scores [n, M, c] on the first principal components of all latents together, in units of :attr:`scale`.

        With fewer channels than components this is a rotation, to which the measures that use it are blind.
        """
        n, m, channels = self.shape
        flat = self.z.reshape(n * m, channels)
        centred = (flat - flat.mean(axis=0)) / self.scale
        _, axes = np.linalg.eigh(centred.T @ centred)
        return (centred @ axes[:, ::-1][:, :components]).reshape(n, m, -1)


def relabelled(sums: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Per-subject sums [S, M, ...] with each subject's modalities renamed: modality m goes by ``labels[s, m]``."""
    return sums[np.arange(len(labels))[:, None], np.argsort(labels, axis=1)]


def label_permutation(paired: Paired, rng: np.random.Generator) -> np.ndarray:
    """Names of the modalities permuted within each subject, int [S, M].

    One permutation a subject, the same for all of its voxels: voxels of one subject are no independent draws, and
    renaming each on its own would make what a single patient has of its own look like a gap.
    """
    return rng.permuted(own_labels(paired), axis=1)


def own_labels(paired: Paired) -> np.ndarray:
    """Every modality under its own name, int [S, M]."""
    return np.tile(np.arange(len(paired.modalities)), (paired.subjects, 1))


def random_pairing(paired: Paired, rng: np.random.Generator) -> np.ndarray:
    """The voxels of each subject in a random order for every modality, int [M, n]: pairs that are no pairs."""
    n, modalities, _ = paired.shape
    return np.argsort(paired.subject + rng.random((modalities, n)), axis=1)


def own_pairing(paired: Paired) -> np.ndarray:
    """Every voxel at its own place, int [M, n]."""
    n, modalities, _ = paired.shape
    return np.tile(np.arange(n), (modalities, 1))


def rearranged(z: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Latents [n, M, ...] with modality m in the order ``order[m]``."""
    return np.stack([z[places, m] for m, places in enumerate(order)], axis=1)
