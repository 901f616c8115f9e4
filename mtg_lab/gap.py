"""Latents of a run and the gap between modalities: tables, a handful of scale-free numbers, embeddings."""

import sys
from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from mtg_lab.backbones import with_latents
from mtg_lab.data import cached_dataset
from mtg_lab.errors import InputError
from mtg_lab.hardware import default_device, precision_context
from mtg_lab.manifest import Manifest, read_manifest
from mtg_lab.progress import progress
from mtg_lab.runs import Run

KEYS = ("subject", "site", "tissue", "voxel", "modality")


@torch.inference_mode()
def latents(
    run: Run, manifest: Manifest | str | Path, split: str = "test", voxels: int = 60, seed: int = 0, scale: int = 0
) -> pd.DataFrame:
    """Paired latents: the same voxels of the same subjects, once for every modality.

    Voxels are drawn per subject and tissue (brain outside the lesion, then each label), so that a small part of a
    tumour is seen as often as the brain around it.

    Args:
        run: of a backbone with one encoder a modality.
        manifest: cohort or its path; every subject of the split must have all its modalities.
        split: ``train``, ``val`` or ``test``.
        voxels: at most so many per subject and tissue.
        seed: of the draw.
        scale: which of the backbone's scales, 0 the finest.

    Returns:
        Columns subject, site, tissue, voxel, modality, z0 ... z(C-1); one row a voxel and modality.

    Raises:
        InputError: an unknown modality, split or scale, a backbone without latents, or no subject with two modalities.
    """
    cohort = (manifest if isinstance(manifest, Manifest) else read_manifest(manifest)).split(split)
    run.check_modalities(cohort.modalities, str(cohort.path))
    device = default_device()
    backbone = with_latents(run.backbone(device), "the modality gap")
    cohort.materialise()
    samples = cached_dataset(cohort.subjects, run.modalities, run.recipe.preprocessing)
    tissues = ("brain", *cohort.schema.class_names[1:])
    frames = []
    for index, (subject, sample) in enumerate(
        progress(zip(cohort, samples, strict=True), total=len(cohort), desc="encoding")
    ):
        present = sample["present"]
        if int(present.sum()) < 2:
            continue
        with precision_context(device, "auto"):
            scales = backbone.encode(sample["image"][None].to(device), present[None].to(device))
        if not 0 <= scale < len(scales):
            raise InputError(f"scale is {scale}; the backbone {run.recipe.backbone} has {len(scales)}, the finest is 0")
        encoded = scales[scale]
        flat = encoded[0].float().cpu().flatten(2).numpy()  # [M, C, voxels]
        # A coarser scale has fewer voxels: take the label of the voxel at the same place.
        grid = encoded.shape[-3:]
        label = _nearest(sample["label"][0], grid)
        brain = _nearest(sample["brain"][0], grid) > 0
        rng = np.random.default_rng([seed, index])
        for tissue, name in enumerate(tissues):
            where = np.flatnonzero((label == tissue) & brain)
            chosen = np.sort(rng.choice(where, min(voxels, where.size), replace=False))
            for m, modality in enumerate(run.modalities):
                if present[m] and chosen.size:
                    frame = pd.DataFrame(flat[m][:, chosen].T, columns=_columns(flat.shape[1]))
                    keys = {"subject": subject.name, "site": subject.site, "tissue": name, "voxel": chosen}
                    frames.append(pd.DataFrame({**keys, "modality": modality}).join(frame))
    if not frames:
        raise InputError(f"{cohort.path}: no subject of split {split} has two modalities; a gap needs two")
    return pd.concat(frames, ignore_index=True)


def gap(table: pd.DataFrame, draws: int = 200, seed: int = 0) -> pd.DataFrame:
    """Numbers that describe the modality gap of a table of :func:`latents`, with intervals over subjects.

    * ``centroid_gap``: mean distance between the modalities' centroids, in units of the spread within a modality (root
      mean square distance to its centroid). Sees an offset; blind to shape.
    * ``relative_gap``: mean squared distance of paired latents to their mean over modalities, divided by the total
      variance. 0: the modalities of a voxel agree; blind to a common scale, so shrinking does not lower it.
    * ``modality_accuracy``: how often a logistic regression tells the modality from the latent, cross-validated over
      subjects; chance is 1/M. No interval is given for it: the folds share subjects.
    * ``latent_scale``: standard deviation of the latents, which alignment may shrink.
    * ``effective_rank``: exp of the entropy of the covariance's normalised eigenvalues (Roy and Vetterli 2007); falls
      towards 1 when latents collapse.

    Args:
        table: paired latents.
        draws: bootstrap repetitions over subjects; 0 for none.
        seed: of the bootstrap.

    Returns:
        Columns metric, value, low, high (95 %; NaN where not given).

    Raises:
        InputError: fewer than two modalities, or no voxel has all of them.
    """
    z, modality, subject = _arrays(table)
    groups = [np.flatnonzero(subject == s) for s in range(subject.max() + 1)]
    rng = np.random.default_rng(seed)
    picks = [np.concatenate([groups[i] for i in rng.integers(len(groups), size=len(groups))]) for _ in range(draws)]
    measures: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
        "centroid_gap": centroid_gap,
        "relative_gap": lambda a, m: relative_gap(a, int(m.max()) + 1),
        "latent_scale": lambda a, m: float(a.std(axis=0).mean()),
        "effective_rank": lambda a, m: effective_rank(a),
    }
    rows: list[dict[str, Any]] = []
    for name, measure in measures.items():
        sampled = [measure(z[p], modality[p]) for p in picks]
        low, high = np.quantile(sampled, [0.025, 0.975]) if sampled else (np.nan, np.nan)
        rows.append({"metric": name, "value": measure(z, modality), "low": low, "high": high})
    accuracy = modality_accuracy(z, modality, subject)
    rows.append({"metric": "modality_accuracy", "value": accuracy, "low": np.nan, "high": np.nan})
    return pd.DataFrame(rows)


def centroid_gap(z: np.ndarray, modality: np.ndarray) -> float:
    """Mean distance between centroids over the within-modality spread; z [n, C], modality int [n]."""
    centroids = np.stack([z[modality == m].mean(axis=0) for m in np.unique(modality)])
    within = np.mean([((z[modality == m] - c) ** 2).sum(axis=1).mean() for m, c in enumerate(centroids)])
    between = [np.linalg.norm(a - b) for a, b in combinations(centroids, 2)]
    return float(np.mean(between) / max(np.sqrt(within), 1e-12))


def relative_gap(z: np.ndarray, modalities: int) -> float:
    """Variance between the modalities of one voxel over total variance; rows in blocks of one voxel's modalities."""
    paired = z.reshape(-1, modalities, z.shape[1])
    between = ((paired - paired.mean(axis=1, keepdims=True)) ** 2).sum()
    return float(between / max(((z - z.mean(axis=0)) ** 2).sum(), 1e-12))


def effective_rank(z: np.ndarray) -> float:
    """exp(H(p)), p the normalised eigenvalues of the covariance of z [n, C]."""
    values = np.linalg.eigvalsh(np.cov(z, rowvar=False).reshape(z.shape[1], z.shape[1])).clip(min=0)
    p = values / max(values.sum(), 1e-12)
    p = p[p > 1e-12]
    return float(np.exp(-(p * np.log(p)).sum()))


def modality_accuracy(z: np.ndarray, modality: np.ndarray, subject: np.ndarray) -> float:
    """Cross-validated accuracy of a linear classifier of the modality; folds never share a subject."""
    folds = min(4, len(np.unique(subject)))
    if folds < 2:
        return float("nan")
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=300))
    return float(cross_val_score(model, z, modality, groups=subject, cv=GroupKFold(folds)).mean())


class Embedding:
    """A two-dimensional map of latents, fitted on one table and applied to others.

    Two maps that were fitted apart cannot be compared; fit once, then transform.

    Args:
        method: ``pca`` or ``umap``.
        seed: of UMAP. Its coordinates differ between systems all the same; read neighbourhoods, never distances.
    """

    def __init__(self, method: str = "pca", seed: int = 0):
        if method not in ("pca", "umap"):
            raise InputError(f"unknown embedding {method!r}; there are: pca, umap")
        self.method, self.seed = method, seed

    def fit(self, table: pd.DataFrame) -> "Embedding":
        """Learn the map from a table of latents; each component is first brought to unit spread."""
        z = table[_z_columns(table)].to_numpy()
        self.scaler = StandardScaler().fit(z)
        if self.method == "pca":
            self.reducer: Any = PCA(n_components=2, random_state=self.seed)
        else:
            from umap import UMAP  # numba compiles for seconds when it is imported

            neighbours = min(15, len(z) - 1)
            self.reducer = UMAP(n_neighbors=neighbours, min_dist=0.1, random_state=self.seed, n_jobs=1)
        self.reducer.fit(self.scaler.transform(z))
        return self

    def transform(self, table: pd.DataFrame) -> pd.DataFrame:
        """The table's key columns with coordinates ``x`` and ``y``."""
        xy = self.reducer.transform(self.scaler.transform(table[_z_columns(table)].to_numpy()))
        keys = [c for c in KEYS if c in table]
        return table[keys].assign(x=xy[:, 0], y=xy[:, 1])


def neighbourhood_kept(table: pd.DataFrame, embedded: pd.DataFrame, neighbours: int = 15) -> float:
    """Trustworthiness (Venna and Kaski 2001) of an embedding: 1 when neighbours in the picture are neighbours."""
    from sklearn.manifold import trustworthiness

    z = StandardScaler().fit_transform(table[_z_columns(table)].to_numpy())
    k = min(neighbours, len(z) // 2 - 1)
    return float(trustworthiness(z, embedded[["x", "y"]].to_numpy(), n_neighbors=k))


def complete_pairs(table: pd.DataFrame) -> pd.DataFrame:
    """Only voxels for which every modality of the table is there, sorted so that a voxel's modalities are adjacent."""
    modalities = list(dict.fromkeys(table["modality"]))
    place = table["modality"].map({m: i for i, m in enumerate(modalities)})
    ordered = table.assign(_m=place).sort_values(["subject", "tissue", "voxel", "_m"], kind="stable")
    sizes = ordered.groupby(["subject", "tissue", "voxel"])["_m"].transform("size")
    return ordered[sizes == len(modalities)].drop(columns="_m").reset_index(drop=True)


def _arrays(table: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    modalities = list(dict.fromkeys(table["modality"]))  # before sorting: the order of the run
    if len(modalities) < 2:
        raise InputError(f"these latents are of {' '.join(modalities) or 'no modality'} alone; a gap needs two")
    pairs = complete_pairs(table)
    if pairs.empty:
        raise InputError("no voxel of these latents has all modalities; choose subjects that are complete")
    modality = pairs["modality"].map({m: i for i, m in enumerate(modalities)}).to_numpy()
    subject = pd.factorize(pairs["subject"])[0]
    return pairs[_z_columns(pairs)].to_numpy(dtype=float), modality, subject


def _z_columns(table: pd.DataFrame) -> list[str]:
    return [c for c in table.columns if c.startswith("z") and c[1:].isdigit()]


def _columns(channels: int) -> list[str]:
    return [f"z{i}" for i in range(channels)]


def _nearest(volume: torch.Tensor, grid: Sequence[int]) -> np.ndarray:
    resized = torch.nn.functional.interpolate(volume[None, None].float(), size=tuple(grid), mode="nearest")
    return resized[0, 0].flatten().numpy()


class _CallableModule(ModuleType):
    """The module and its main function share a name, and importing a submodule binds it in the package: calling
    ``mtg_lab.gap(...)`` must work whichever of the two the name stands for at that moment.
    """

    def __call__(self, *args: Any, **options: Any) -> pd.DataFrame:
        return gap(*args, **options)


sys.modules[__name__].__class__ = _CallableModule
