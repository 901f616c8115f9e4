"""Maps of latents in two or three dimensions, fitted once and applied to others, and how far they can be trusted."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pandas as pd
import torch
from sklearn.decomposition import PCA
from sklearn.manifold import trustworthiness
from sklearn.preprocessing import StandardScaler

from mtg_lab.errors import InputError
from mtg_lab.latent_tables import KEYS, z_columns

AXES = ("x", "y", "z")


class Embedding:
    """A map of latents, fitted on one table and applied to others.

    Two maps that were fitted apart cannot be compared; fit once, then transform.

    Args:
        method: ``pca`` or ``umap``.
        seed: of UMAP. Its coordinates differ between systems all the same; read neighbourhoods, never distances.
        components: 2, or 3 for a view that is turned.
    """

    def __init__(self, method: str = "pca", seed: int = 0, components: int = 2):
        if method not in ("pca", "umap"):
            raise InputError(f"unknown embedding {method!r}; there are: pca, umap")
        if components not in (2, 3):
            raise InputError(f"components is {components}; an embedding has 2 or 3")
        self.method, self.seed, self.components = method, seed, components

    def fit(self, table: pd.DataFrame) -> "Embedding":
        """Learn the map from a table of latents; each component is first brought to unit spread."""
        z = table[z_columns(table)].to_numpy()
        self.scaler = StandardScaler().fit(z)
        if self.method == "pca":
            self.reducer: Any = PCA(n_components=min(self.components, z.shape[1]), random_state=self.seed)
        else:
            from umap import UMAP  # numba compiles for seconds when it is imported

            neighbours = min(15, len(z) - 1)
            self.reducer = UMAP(n_components=self.components, n_neighbors=neighbours, min_dist=0.1,
                                random_state=self.seed, n_jobs=1)  # fmt: skip
        with _threads_kept():
            self.reducer.fit(self.scaler.transform(z))
        return self

    def transform(self, table: pd.DataFrame) -> pd.DataFrame:
        """The table's key columns with coordinates ``x``, ``y`` (and ``z``); zero where latents have fewer channels."""
        with _threads_kept():
            found = self.reducer.transform(self.scaler.transform(table[z_columns(table)].to_numpy()))
        coordinates = {
            axis: found[:, i] if i < found.shape[1] else 0.0 for i, axis in enumerate(AXES[: self.components])
        }
        return table[[c for c in KEYS if c in table]].assign(**coordinates)


@contextmanager
def _threads_kept() -> Iterator[None]:
    """UMAP's compiler resets the number of threads of the whole process, and a training after it crawls."""
    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def neighbourhood_kept(table: pd.DataFrame, embedded: pd.DataFrame, neighbours: int = 15, most: int = 4000) -> float:
    """Trustworthiness (Venna and Kaski 2001) of an embedding: 1 when neighbours in the picture are neighbours.

    Args:
        table: of latents.
        embedded: the same rows on the map.
        neighbours: how many are compared.
        most: rows at most, a draw of them, for time and memory grow with their square.
    """
    if len(table) > most:
        rows = table.reset_index(drop=True).sample(most, random_state=0).index
        table, embedded = table.iloc[rows], embedded.iloc[rows]
    z = StandardScaler().fit_transform(table[z_columns(table)].to_numpy())
    axes = [axis for axis in AXES if axis in embedded]
    k = min(neighbours, len(z) // 2 - 1)
    return float(trustworthiness(z, embedded[axes].to_numpy(), n_neighbors=k))
