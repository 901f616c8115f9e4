"""From files to tensors: one grid, brain box, z-scores, a cache keyed by content, and reproducible random crops."""

import hashlib
import json
import os
import warnings
from collections.abc import Hashable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from monai.data import MetaTensor, PersistentDataset
from monai.transforms import (
    Compose,
    CropForegroundd,
    MapTransform,
    Orientationd,
    RandCropByLabelClassesd,
    RandFlipd,
    RandGaussianNoised,
    RandScaleIntensityd,
    RandShiftIntensityd,
    Spacingd,
    SpatialPadd,
    Transform,
)
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch.utils.data import Dataset

from mtg_lab import missingness
from mtg_lab.cache import trim
from mtg_lab.class_voxels import FindClasses
from mtg_lab.errors import InputError
from mtg_lab.files import cache_folder, make_folder, written_aside
from mtg_lab.manifest import Subject, subject_fingerprint
from mtg_lab.randomisation import randomising
from mtg_lab.scans import grid_faults, label_fault, load_image, read_voxels

# Part of every cache key: raise it when a transform below changes what it computes.
_CACHE_VERSION = 2


@dataclass(frozen=True)
class Preprocessing:
    """How a subject is brought to tensors.

    Attributes:
        spacing_mm: isotropic voxel size that the network works on.
        margin_voxels: rim kept around the brain box.
    """

    spacing_mm: float = 2.0
    margin_voxels: int = 2


class LoadSubject(Transform):
    """Files of a subject as ``image`` [M, D, H, W], ``brain`` and ``label`` [1, D, H, W], ``present`` bool [M].

    An absent modality is never opened: its channel is zero and its entry of ``present`` false. The brain is the mask
    column where the manifest names one, else every voxel that is not zero in some modality. Labels become class
    indices of the schema (0 is background).

    Raises:
        InputError: grids differ, a file cannot be read, or a label value is outside the schema.
    """

    def __init__(self, modalities: Sequence[str]):
        self.modalities = tuple(modalities)

    def __call__(self, item: Mapping[str, Any]) -> dict[str, Any]:  # noqa: D102
        subject: Subject = item["subject"]
        images = {column: load_image(path) for column, path in subject.files.items()}
        for _, line in grid_faults(images):
            raise InputError(f"subject {subject.name}: {line}")
        reference = next(iter(images))
        shape, affine = images[reference].shape, torch.as_tensor(images[reference].affine)
        channels = np.zeros((len(self.modalities), *shape), dtype=np.float32)
        for index, modality in enumerate(self.modalities):
            if modality in subject.images:
                channels[index] = read_voxels(images[modality])
                if not np.isfinite(channels[index]).all():
                    file = images[modality].get_filename() or "the image"
                    raise InputError(
                        f"subject {subject.name}: {modality} has NaN or infinite voxels; replace them in {file}"
                    )
        if "mask" in images:
            brain = read_voxels(images["mask"]) > 0
        else:
            brain = (channels != 0).any(axis=0)
        if not brain.any():
            raise InputError(f"subject {subject.name}: no brain voxel (all zero); check its images and its mask")
        sample = {
            "image": MetaTensor(torch.from_numpy(channels), affine=affine),
            "brain": MetaTensor(torch.from_numpy(brain[None].astype(np.uint8)), affine=affine),
            "present": torch.tensor([m in subject.images for m in self.modalities]),
        }
        if subject.label is not None:
            classes = label_classes(read_voxels(images["label"]), subject)
            sample["label"] = MetaTensor(torch.from_numpy(classes[None]), affine=affine)
        return sample


def label_classes(voxels: np.ndarray, subject: Subject) -> np.ndarray:
    """Integers of a label file as class indices (uint8): 0 background, k the k-th label of the subject's schema.

    Raises:
        InputError: a value is outside the schema.
    """
    schema = subject.label_schema
    if fault := label_fault(voxels, schema):
        raise InputError(f"subject {subject.name}: {fault} {subject.label}")
    rounded = np.rint(voxels).astype(np.int64)
    classes = np.zeros(rounded.shape, dtype=np.uint8)
    for index, value in enumerate(schema.values, start=1):
        classes[rounded == value] = index
    return classes


class ZScoreInBrain(MapTransform):
    """Each channel to mean 0 and standard deviation 1 over the brain; exactly 0 outside it and where absent."""

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:  # noqa: D102
        sample = dict(data)
        brain = sample["brain"][0] > 0
        for key in self.key_iterator(sample):
            image = sample[key]
            for channel, present in zip(image, sample["present"], strict=True):
                if present:
                    inside = channel[brain]
                    channel[brain] = (inside - inside.mean()) / inside.std().clamp_min(1e-6)
                channel[~brain] = 0
        return sample


class AsTensors(Transform):
    """Plain tensors and the affine of the working grid, which the cache would otherwise drop."""

    def __call__(self, sample: Mapping[str, Any]) -> dict[str, torch.Tensor]:  # noqa: D102
        affine = sample["image"].affine.to(torch.float64)
        plain = {k: v.as_tensor() if isinstance(v, MetaTensor) else v for k, v in sample.items() if k in _STORED}
        for key in {"brain", "label"} & set(plain):
            plain[key] = plain[key].to(torch.uint8)
        # Copies, because what was cropped is a view, and saving a view saves the whole volume.
        return {**{k: v.clone(memory_format=torch.contiguous_format) for k, v in plain.items()}, "affine": affine}


_STORED = ("image", "brain", "label", "present")


def preprocessing_transform(modalities: Sequence[str], settings: Preprocessing, labelled: bool) -> Compose:
    """Files to normalised tensors in canonical orientation (RAS), cropped to the brain's box."""
    keys = ("image", "brain", "label") if labelled else ("image", "brain")
    modes = ("bilinear", "nearest", "nearest")[: len(keys)]
    return _Steps(
        [
            LoadSubject(modalities),
            Orientationd(keys, axcodes="RAS", labels=None),
            Spacingd(keys, pixdim=(settings.spacing_mm,) * 3, mode=modes),
            CropForegroundd(keys, source_key="brain", margin=settings.margin_voxels, allow_smaller=False),
            ZScoreInBrain("image"),
            AsTensors(),
        ]
    )


class _Steps(Compose):
    """MONAI's, but a refusal of a step comes out as it is and not as "RuntimeError: applying transform"."""

    def __call__(self, *args: Any, **options: Any) -> Any:
        try:
            return super().__call__(*args, **options)
        except RuntimeError as wrapped:
            if isinstance(wrapped.__cause__, InputError):
                raise wrapped.__cause__ from None
            raise


def cached_dataset(
    subjects: Sequence[Subject], modalities: Sequence[str], settings: Preprocessing
) -> Sequence[dict[str, torch.Tensor]]:
    """Preprocessed samples of labelled subjects, computed once and kept on disk.

    The key of an entry holds the content of the subject's files, the order of modalities, the settings and the cache's
    version, so a changed file or setting never meets a stale entry, whether the file was scanned or synthesised.
    Entries hold tensors and no code; they are mapped, so that a crop reads no more than its own voxels. Processes may
    fill and read one cache together. It is kept below ``$MTG_LAB_CACHE_LIMIT``.

    Raises:
        InputError: a subject has no label, or its files are not there.
    """
    for subject in subjects:
        if subject.label is None:
            raise InputError(
                f"subject {subject.name} has no label; training and scoring need one, fill the cell or empty 'split'"
            )

    folder = make_folder(cache_folder("preprocessed"))
    transform = preprocessing_transform(modalities, settings, labelled=True)
    key = partial(_cache_key, modalities=tuple(modalities), settings=settings)
    cached = _Cache([{"subject": s} for s in subjects], transform, folder, hash_func=key)
    return cast(Sequence[dict[str, torch.Tensor]], cached)


def _cache_key(item: Mapping[str, Any], modalities: Sequence[str], settings: Preprocessing) -> bytes:
    """At the top of the module, as workers that are spawned have to unpickle it."""
    subject: Subject = item["subject"]
    content = subject_fingerprint(replace(subject, seed=None))  # of the files that lie there, not of their seed
    facts = [_CACHE_VERSION, content, subject.schema, list(modalities), sorted(subject.images)]
    if subject.definition:
        facts.append(subject.definition.to_json())
    return hashlib.sha256(json.dumps([*facts, asdict(settings)]).encode()).hexdigest()[:32].encode()


class _Cache(PersistentDataset):
    """MONAI's, with entries as safetensors, written beside their place and renamed.

    MONAI pickles them, and moves them from the system's temporary folder, which is a copy where the cache lies on
    another disk: a second process may read half of it. A safetensors file is mapped, four times as fast as torch's
    archive. A damaged entry is computed again, and so is one that another process has dropped.
    """

    def _cachecheck(self, item_transformed: Any) -> Any:
        entry = cast(Path, self.cache_dir) / f"{self.hash_func(item_transformed).decode()}.safetensors"
        try:
            sample = load_file(entry)
            with suppress(OSError):  # a cache that is shared and not ours to write
                os.utime(entry)  # what was not used for longest is dropped first
            return sample
        except FileNotFoundError:
            pass
        except (SafetensorError, OSError):  # cut short, empty, something else
            warnings.warn(f"computing a damaged cache entry again: {entry}", stacklevel=2)
        sample = self.transform(item_transformed)
        with written_aside(entry) as aside:
            aside.write_bytes(save(sample))  # save_file hides what the disk says
        trim(newest=entry)
        return sample


@dataclass(frozen=True)
class Sampling:
    """What a training sample is.

    Attributes:
        crop_voxels: edge length of the cubic crop.
        foreground: share of crops centred on a label, each label of the schema in equal parts, so that a small one is
            seen as often as a large one; the rest is centred on background inside the volume. Where a subject lacks a
            label, the others and background share its part.
        augment: flips, intensity scale and shift, and noise.
        randomise: strength of domain randomisation on top, see :func:`mtg_lab.randomisation.randomising`; 0 is none.
    """

    crop_voxels: int = 64
    foreground: float = 0.67
    augment: bool = True
    randomise: float = 0.0


class CropStream(Dataset):
    """An endless-looking sequence of random crops in which sample n depends on (seed, n) and on nothing else.

    So the order of workers, an interruption or another number of devices changes no sample, and a resumed run goes on
    bit for bit. ``present`` is what the subject has; which subset a method draws from it uses ``draw``, a uniform
    64-bit integer of the sample's own.

    Each item: image [M, c, c, c] float32, label [1, c, c, c] int64, present bool [M], draw int64.
    """

    def __init__(
        self, cached: Sequence[dict[str, torch.Tensor]], samples: int, sampling: Sampling, seed: int, *, classes: int
    ):
        self.cached, self.samples, self.seed = cached, samples, seed
        self.subjects = len(cached)
        self.transform = crop_transform(sampling, classes)

    def __len__(self) -> int:
        return self.samples

    def __getitem__(self, number: int) -> dict[str, torch.Tensor]:
        # Every subject once per pass over the cohort, in a fresh order each pass.
        passes, place = divmod(number, self.subjects)
        order = np.random.default_rng([self.seed, 1, passes]).permutation(self.subjects)
        rng = np.random.default_rng([self.seed, 2, number])
        self.transform.set_random_state(seed=int(rng.integers(2**31)))
        source = self.cached[int(order[place])]
        (sample,) = self.transform({"image": source["image"], "label": source["label"]})
        return {
            "image": sample["image"].as_tensor(),
            "label": sample["label"].as_tensor().long(),
            "present": source["present"],
            "draw": torch.tensor(int(rng.integers(2**62))),
        }


def crop_transform(sampling: Sampling, classes: int) -> Compose:
    """Padding to the crop's size, a crop balanced between background and each label, light augmentation."""
    keys, size = ("image", "label"), (sampling.crop_voxels,) * 3
    steps: list[Any] = [
        SpatialPadd(keys, spatial_size=size),
        FindClasses(classes),
        RandCropByLabelClassesd(
            keys,
            label_key="label",
            indices_key="voxels",
            spatial_size=size,
            # Never exactly no background: a subject without any label has nothing else.
            ratios=[max(1 - sampling.foreground, 1e-6), *[sampling.foreground / (classes - 1)] * (classes - 1)],
            num_classes=classes,
            warn=False,  # a subject without some label is no fault: low-grade tumours do not enhance
        ),
    ]
    steps += randomising(sampling.randomise)  # first, as it tells the brain by what is not zero
    if sampling.augment:
        steps += [
            RandFlipd(keys, prob=0.5, spatial_axis=0),  # left and right are exchangeable, the other axes are not
            RandScaleIntensityd("image", factors=0.1, prob=0.5, channel_wise=True),
            RandShiftIntensityd("image", offsets=0.1, prob=0.5, channel_wise=True),
            RandGaussianNoised("image", prob=0.2, std=0.1),
        ]
    return Compose(steps)


def subset_mask(present: torch.Tensor, draw: torch.Tensor) -> torch.Tensor:
    """A random non-empty subset of what each sample has, fixed by its own ``draw``.

    Args:
        present: bool [B, M].
        draw: int64 [B].

    Returns:
        bool [B, M].
    """
    rows = [
        missingness.draw_subset(p.cpu().numpy(), np.random.default_rng(int(d)))
        for p, d in zip(present, draw, strict=True)
    ]
    return torch.from_numpy(np.stack(rows)).to(present.device)
