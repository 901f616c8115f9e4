"""Latents as tables: the same voxels of the same subjects once for every modality, from any run or any network."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from torch import Tensor, nn

from mtg_lab.backbones import Backbone, ModalityBackbone
from mtg_lab.data import Preprocessing, cached_dataset
from mtg_lab.errors import InputError
from mtg_lab.files import written_aside
from mtg_lab.hardware import default_device, precision_context
from mtg_lab.manifest import Manifest, read_manifest
from mtg_lab.progress import progress
from mtg_lab.runs import Run

KEYS = ("subject", "site", "tissue", "voxel", "modality")
STAGES = ("encoder", "decoder")
WHOLE = "whole brain"

Source = Callable[[Tensor, Tensor], Tensor]  # image [1, M, D, H, W], present bool [1, M] to latents [M, C, d, h, w]


@torch.inference_mode()
def latents(
    run: Run,
    manifest: Manifest | str | Path,
    split: str = "test",
    voxels: int = 60,
    seed: int = 0,
    scale: int = 0,
    stage: str = "",
    layer: str = "",
    pooled: bool = False,
) -> pd.DataFrame:
    """Paired latents: the same voxels of the same subjects, once for every modality.

    Voxels are drawn per subject and tissue (brain outside the lesion, then each label), so that a small part of a
    tumour is seen as often as the brain around it.

    Args:
        run: a trained network.
        manifest: cohort or its path; subjects with fewer than two modalities are left out.
        split: ``train``, ``val`` or ``test``.
        voxels: at most so many per subject and tissue.
        seed: of the draw.
        scale: which of the encoders' scales, 0 the finest.
        stage: ``encoder``, the latents before fusion; ``decoder``, after it: the last features that each modality
            alone leads to. By default the encoder's where the network has one a modality, else the decoder's.
        layer: name of a submodule, as in ``named_modules()``, whose output to each modality alone is taken instead.
        pooled: means over all voxels of a tissue, and of the whole brain, instead of a draw of voxels.

    Returns:
        Columns subject, site, tissue, voxel (flat index in the grid of the latents, -1 for a mean), modality,
        z0 ... z(C-1); one row a voxel and modality.

    Raises:
        InputError: an unknown modality, split, scale, stage or layer, a stage that the network does not have, or no
            subject with two modalities.
    """
    cohort = manifest if isinstance(manifest, Manifest) else read_manifest(manifest)
    run.check_modalities(cohort.modalities, str(cohort.path))
    backbone = run.backbone(default_device())
    source = hooked(backbone, layer) if layer else stage_of(backbone, stage, scale)
    return latents_from(source, cohort, run.modalities, split, run.recipe.preprocessing, voxels, seed, pooled)


@torch.inference_mode()
def latents_from(
    source: Source,
    manifest: Manifest | str | Path,
    modalities: Sequence[str],
    split: str = "test",
    preprocessing: Preprocessing | None = None,
    voxels: int = 60,
    seed: int = 0,
    pooled: bool = False,
) -> pd.DataFrame:
    """The table of :func:`latents` from any source of paired latents, such as ``hooked(network, "encoder.layer3")``.

    Args:
        source: from an image [1, M, D, H, W] and its mask bool [1, M] to one latent a modality, [M, C, d, h, w].
        modalities: names in the channel order of the source.
        manifest, split, voxels, seed, pooled: as for :func:`latents`.
        preprocessing: grid and normalisation of the images; by default those of the lab.

    Raises:
        InputError: as for :func:`latents`.
    """
    cohort = (manifest if isinstance(manifest, Manifest) else read_manifest(manifest)).split(split)
    cohort.materialise()
    device = default_device()
    samples = cached_dataset(cohort.subjects, tuple(modalities), preprocessing or Preprocessing())
    tissues = ("brain", *cohort.schema.class_names[1:])
    frames = []
    pairs = enumerate(progress(zip(cohort, samples, strict=True), total=len(cohort), desc="encoding"))
    for index, (subject, sample) in pairs:
        present = sample["present"]
        if int(present.sum()) < 2:
            continue
        with precision_context(device, "auto"):
            found = source(sample["image"][None].to(device), present[None].to(device))
        z = found.float().flatten(2).cpu().numpy()  # [M, C, voxels]
        # A coarser scale has fewer voxels: take the label of the voxel at the same place.
        label, brain = (_coarser(sample[k][0], found.shape[-3:]) for k in ("label", "brain"))
        where = {name: np.flatnonzero((label == k) & (brain > 0)) for k, name in enumerate(tissues)}
        keys = {"subject": subject.name, "site": subject.site}
        there = [(m, name) for m, name in enumerate(modalities) if present[m]]
        if pooled:
            frames += _means(z, where | {WHOLE: np.flatnonzero(brain)}, there, keys)
        else:
            frames += _drawn(z, where, there, keys, voxels, np.random.default_rng([seed, index]))
    if not frames:
        raise InputError(f"{cohort.path}: no subject of split {split} has two modalities; a gap needs two")
    return pd.concat(frames, ignore_index=True)


def stage_of(backbone: Backbone, stage: str = "", scale: int = 0) -> Source:
    """Latents before fusion (``encoder``) or the last features that each modality alone leads to (``decoder``).

    A network without an encoder a modality has the second kind only.

    Raises:
        InputError: an unknown stage, one that this network does not have, or no such scale.
    """
    stage = stage or ("encoder" if isinstance(backbone, ModalityBackbone) else "decoder")
    if stage not in STAGES:
        raise InputError(f"stage is {stage!r}; it can be {' or '.join(STAGES)}")

    def encoded(image: Tensor, present: Tensor) -> Tensor:
        assert isinstance(backbone, ModalityBackbone)
        scales = backbone.encode(image, present)
        if not 0 <= scale < len(scales):
            raise InputError(f"scale is {scale}; this {type(backbone).__name__} has {len(scales)}, the finest is 0")
        return scales[scale][0]

    def decoded(image: Tensor, present: Tensor) -> Tensor:
        return _each_alone(lambda mask: backbone(image, mask).features, present)

    def decoded_once(image: Tensor, present: Tensor) -> Tensor:
        assert isinstance(backbone, ModalityBackbone)
        z = backbone.encode(image, present)
        alone = torch.eye(present.shape[1], dtype=torch.bool, device=present.device)[present[0]]
        answers = backbone.decode_each(z, alone)
        return _each_alone(lambda _mask: next(answers).features, present)

    if not isinstance(backbone, ModalityBackbone):
        if stage == "encoder":
            raise InputError(
                f"this {type(backbone).__name__} has no encoder a modality, hence no latents before fusion; take stage "
                "decoder, or the name of a layer"
            )
        return decoded
    return encoded if stage == "encoder" else decoded_once


def hooked(network: nn.Module, layer: str) -> Source:
    """The output of a layer to each modality alone, the other channels zero: latents of any network.

    Args:
        network: a backbone, or any module from images [B, M, D, H, W]; its eval mode is the caller's affair.
        layer: name of a submodule, as in ``network.named_modules()``; it must answer a map [B, C, d, h, w].

    Raises:
        InputError: no such layer, one that is not run, or an answer of another shape.
    """
    found = dict(network.named_modules()).get(layer) if layer else None
    if found is None:
        near = [name for name, _ in network.named_modules() if name][:8]
        raise InputError(f"{type(network).__name__} has no layer {layer!r}; it has {', '.join(near)}, ...")
    module: nn.Module = found

    def seen(image: Tensor, mask: Tensor) -> Tensor:
        kept: list[Tensor] = []
        handle = module.register_forward_hook(lambda _module, _inputs, output: kept.append(output))
        try:
            if isinstance(network, Backbone):
                network(image, mask)
            else:
                network(torch.where(mask[:, :, None, None, None], image, torch.zeros((), dtype=image.dtype)))
        finally:
            handle.remove()
        if not kept:
            raise InputError(f"layer {layer!r} was not run for an image; choose another one")
        if not isinstance(kept[-1], Tensor) or kept[-1].ndim != 5:
            what = list(kept[-1].shape) if isinstance(kept[-1], Tensor) else type(kept[-1]).__name__
            raise InputError(f"layer {layer!r} answered {what}; latents need a map [B, C, D, H, W]")
        return kept[-1][:1]

    return lambda image, present: _each_alone(lambda mask: seen(image, mask), present)


def _each_alone(answer: Callable[[Tensor], Tensor], present: Tensor) -> Tensor:
    """[M, C, d, h, w] from the answers to one-hot masks; zero for absent modalities, which nobody reads."""
    alone = torch.eye(present.shape[1], dtype=torch.bool, device=present.device)
    maps = {m: answer(alone[m : m + 1])[0] for m in present[0].nonzero()[:, 0].tolist()}
    like = next(iter(maps.values()))
    return torch.stack([maps.get(m, torch.zeros_like(like)) for m in range(present.shape[1])])


def _drawn(
    z: np.ndarray,
    where: Mapping[str, np.ndarray],
    there: Sequence[tuple[int, str]],
    keys: Mapping[str, str],
    voxels: int,
    rng: np.random.Generator,
) -> list[pd.DataFrame]:
    frames = []
    for tissue, places in where.items():
        chosen = np.sort(rng.choice(places, min(voxels, places.size), replace=False))
        if chosen.size:
            frames += [_frame(z[m][:, chosen].T, {**keys, "tissue": tissue}, chosen, name) for m, name in there]
    return frames


def _means(
    z: np.ndarray, where: Mapping[str, np.ndarray], there: Sequence[tuple[int, str]], keys: Mapping[str, str]
) -> list[pd.DataFrame]:
    return [
        _frame(z[m][:, places].mean(axis=1)[None], {**keys, "tissue": tissue}, np.array([-1]), name)
        for tissue, places in where.items()
        if places.size
        for m, name in there
    ]


def _frame(z: np.ndarray, keys: Mapping[str, str], voxel: np.ndarray, modality: str) -> pd.DataFrame:
    columns = {f"z{i}": z[:, i] for i in range(z.shape[1])}
    return pd.DataFrame({**keys, "voxel": voxel, "modality": modality, **columns})


def _coarser(volume: Tensor, grid: Sequence[int]) -> np.ndarray:
    """A volume [D, H, W] at the middle of each voxel of a grid 1, 2, 4, ... times coarser, flat; 0 beyond its edge.

    Networks pad behind a volume, so the ratio of sizes is only near the stride.
    """
    picked = volume.numpy()
    for axis, (size, count) in enumerate(zip(volume.shape, grid, strict=True)):
        stride = 2 ** max(0, round(math.log2(size / count)))
        corner = np.arange(count) * stride
        picked = np.take(picked, np.minimum(corner + stride // 2, size - 1), axis)
        beyond = [slice(None)] * 3
        beyond[axis] = corner >= size
        picked[tuple(beyond)] = 0
    return picked.ravel()


# --- storage ----------------------------------------------------------------------------------------------------------


def save_latents(table: pd.DataFrame, path: str | Path) -> Path:
    """Keep a table of latents in one file of half-precision numbers; see :func:`read_latents`.

    Args:
        table: of :func:`latents`.
        path: ``.safetensors``; written aside and renamed.

    Raises:
        InputError: a number that half precision cannot hold.
    """
    codes, names = {}, {}
    for key in ("subject", "site", "tissue", "modality"):
        values, index = pd.factorize(table[key])[::-1]
        codes[key], names[key] = index.astype(np.uint16), list(values)
    z = table[z_columns(table)].to_numpy(np.float32)
    if not (np.abs(z) <= np.finfo(np.float16).max).all():
        raise InputError(f"{path}: latents beyond {np.finfo(np.float16).max} or not finite cannot be stored")
    tensors = {**codes, "voxel": table["voxel"].to_numpy(np.int32), "z": np.ascontiguousarray(z, np.float16)}
    with written_aside(Path(path)) as aside:
        aside.write_bytes(save(tensors, metadata={"latents": json.dumps(names)}))
    return Path(path)


def read_latents(path: str | Path) -> pd.DataFrame:
    """A table that :func:`save_latents` kept; numbers are those of half precision (relative error below 2^-11).

    Raises:
        InputError: no such file, or not such a file.
    """
    try:
        with safe_open(path, framework="numpy") as stored:
            names = json.loads(stored.metadata()["latents"])
            parts = {key: stored.get_tensor(key) for key in stored.keys()}  # noqa: SIM118
        columns = {key: np.asarray(names[key], dtype=object)[parts[key]] for key in ("subject", "site", "tissue")}
        modality = np.asarray(names["modality"], dtype=object)[parts["modality"]]
        z = {f"z{i}": column for i, column in enumerate(parts["z"].astype(np.float32).T)}
        return pd.DataFrame({**columns, "voxel": parts["voxel"].astype(np.int64), "modality": modality, **z})
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, IndexError) as error:
        raise InputError(
            f"{path} holds no latents ({str(error).splitlines()[0]}); make it with save_latents"
        ) from error


def z_columns(table: pd.DataFrame) -> list[str]:
    """Names of the columns z0, z1, ..."""
    return [c for c in table.columns if c.startswith("z") and c[1:].isdigit()]


def of_unit_spread(table: pd.DataFrame) -> pd.DataFrame:
    """The latents less their mean, in units of the spread of all channels together: for maps shared by several runs."""
    z = table[z_columns(table)]
    return table.assign(**(z - z.mean()) / max(float(z.to_numpy().std()), 1e-12))


def thinned(table: pd.DataFrame, voxels: int, seed: int = 0) -> pd.DataFrame:
    """A draw of so many voxels, each in all modalities that it has, for maps that are slow to fit.

    Args:
        table: of :func:`latents`.
        voxels: how many; tables of the same voxels keep the same ones under one seed.
        seed: of the draw.
    """
    keys = ["subject", "tissue", "voxel"]
    known = table[keys].drop_duplicates()
    kept = known.sample(min(voxels, len(known)), random_state=seed)
    return table[table.set_index(keys).index.isin(pd.MultiIndex.from_frame(kept))].reset_index(drop=True)


def complete_pairs(table: pd.DataFrame) -> pd.DataFrame:
    """Only voxels for which every modality of the table is there, sorted so that a voxel's modalities are adjacent."""
    modalities = list(dict.fromkeys(table["modality"]))
    place = table["modality"].map({m: i for i, m in enumerate(modalities)})
    ordered = table.assign(_m=place).sort_values(["subject", "tissue", "voxel", "_m"], kind="stable")
    sizes = ordered.groupby(["subject", "tissue", "voxel"])["_m"].transform("size")
    return ordered[sizes == len(modalities)].drop(columns="_m").reset_index(drop=True)
