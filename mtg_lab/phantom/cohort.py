"""One patient from a seed, the files of a patient, and the table of a cohort."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import nibabel as nib
import numpy as np
from joblib import Parallel, delayed
from numpy.typing import NDArray

from .artefacts import Mishaps, Strip
from .atlas import Array, Atlas, Grid, Person, hindbrain, load_atlas
from .contents import Contents
from .ingredients import chosen_ingredients, stream
from .maps import EXTENDED, Physiology, Scene, acquire_maps
from .scanners import at_field, dosed, draw_scanner
from .signal import MODALITIES, SCALP, SITES, Body, acquire, weigh
from .tumour import Biology, Tumour, divide, grow_tumour
from .vessels import Vessels

GENERATOR_VERSION = "3"
SCHEMA = "brats2023"
PROTOCOLS: Mapping[str, tuple[str, ...]] = MappingProxyType({"standard": MODALITIES, "extended": EXTENDED})
_OF_GROWTH = ("anatomy", "lesions", "tracts")
_TUMOUR_TISSUES = ("necrosis", "solid", "enhancing", "oedema")


@dataclass(frozen=True)
class PhantomCase:
    """One synthetic patient.

    `images` maps `t1n t1c t2w t2f` to int16 [X, Y, Z], zero outside the brain and positive inside (where the sequence
    covers it, see `INGREDIENTS`), and in the extended protocol `adc` (int16, 1e-6 mm^2/s) and `rcbv` (float32, white
    matter = 1) as well; `label` is uint8 with 1 necrotic and non-enhancing core, 2 oedema, 3 enhancing tumour (BraTS
    2023); `affine` leads to millimetres, axes right, anterior, superior; `facts` says what the patient has.
    """

    images: Mapping[str, NDArray[Any]]
    label: NDArray[np.uint8]
    affine: NDArray[np.float64]
    facts: dict[str, Any]


@dataclass(frozen=True)
class _Patient:
    person: Person
    vessels: Vessels
    body: Body
    tumour: Tumour
    contents: Contents
    strip: Strip | None


def _check(seed: int, spacing_mm: float, site: str = "A", protocol: str = "standard") -> None:
    if isinstance(seed, bool) or int(seed) != seed or seed < 0:
        raise ValueError(f"seed {seed!r} is not a whole number from 0 on; pass one, as seed=3")
    if not 0.8 <= spacing_mm <= 6:
        raise ValueError(f"spacing {spacing_mm!r} mm is outside 0.8 to 6 mm; pass one in that range, as spacing_mm=2.0")
    if site not in SITES:
        raise ValueError(f"site {site!r} is unknown; choose one of {', '.join(SITES)}")
    if protocol not in PROTOCOLS:
        raise ValueError(f"protocol {protocol!r} is unknown; choose one of {', '.join(PROTOCOLS)}")


def _patient(seed: int, ingredients: tuple[str, ...] = ()) -> _Patient:
    """Everything about a patient that no scanner changes."""
    person, tumour = _grown(seed, tuple(name for name in ingredients if name in _OF_GROWTH))
    body, contents = Body.draw(_organ(seed, 2)), Contents.draw(seed, ingredients)
    if "anatomy" in ingredients:
        grey, white = stream(seed, "anatomy", 1).normal(0, [0.08, 0.06])
        body = replace(body, hindbrain=(float(grey), float(white)))
    body = replace(body, tissues=MappingProxyType({**body.tissues, **contents.tissues, "scalp": SCALP}))
    strip = Strip.draw(seed) if "stripping" in ingredients else None
    return _Patient(person, Vessels.draw(_organ(seed, 1)), body, tumour, contents, strip)


@lru_cache(maxsize=2)  # growth takes longest, and the same patient is often looked at in several ways
def _grown(seed: int, ingredients: tuple[str, ...]) -> tuple[Person, Tumour]:
    person = Person.draw(_organ(seed, 0))
    if "anatomy" in ingredients:
        person = person.further(stream(seed, "anatomy"))
    varied = "lesions" in ingredients
    biology = Biology.draw_any(stream(seed, "lesions")) if varied else Biology.draw(_organ(seed, 3))
    return person, grow_tumour(person, biology, _organ(seed, 4), tracts="tracts" in ingredients)


def _organ(seed: int, number: int) -> np.random.Generator:
    # One stream an organ: a new draw in one leaves the others as they were.
    return np.random.default_rng([seed, number])


def _atlas_for(grid: Grid) -> Atlas:
    # A coarse voxel must average over its volume rather than pick a point of it.
    return load_atlas(0.0 if grid.spacing_mm < 1.3 else round(0.3 * grid.spacing_mm, 2))


def _anatomy(patient: _Patient, grid: Grid) -> dict[str, Any]:
    """All maps of a patient on a grid; every map but `inside` is [voxels inside]."""
    person, tumour = patient.person, patient.tumour
    atlas = _atlas_for(grid)
    atlas_mm = person.to_atlas_mm(grid)
    depth = atlas.grid.sample(atlas.depth_mm, atlas_mm, outside=-20.0)
    edge = 1.1 * person.edge.on(grid)
    if patient.strip:
        edge = edge + patient.strip.on(grid)
    inside = depth + edge > 0.4
    points = grid.points_mm()[:, inside]
    push = np.stack([tumour.push_grid.sample(tumour.push_mm[i], points) for i in range(3)])
    before = points - push
    # The map into the atlas is smooth: its change over the push is read off the grid rather than drawn again.
    moved = np.stack([grid.sample(atlas_mm[i], before) for i in range(3)])
    tissue = person.tissues(atlas, moved, person.sulci.on(grid)[inside])
    parts = divide(tumour, grid, inside, before, tissue["csf"])
    return {"inside": inside, "tissue": tissue, "parts": parts, "atlas_mm": moved, "push_mm": push, "before_mm": before}


def _core_mm(patient: _Patient, grid: Grid, maps: dict[str, Any]) -> Array:
    """Distance to the core's surface at the brain's voxels, mm, positive inside."""
    return patient.tumour.grid.sample(patient.tumour.core_mm, maps["before_mm"], outside=-60.0)


def _fractions(patient: _Patient, grid: Grid, maps: dict[str, Any]) -> tuple[dict[str, Array], NDArray[np.uint8]]:
    """Share of every tissue at the brain's voxels, which sum to one, and the label there."""
    tissue, parts = maps["tissue"], maps["parts"]
    shares = {name: getattr(parts, name) for name in _TUMOUR_TISSUES}
    tumour = np.clip(sum(shares.values()), 0, 1)
    # Vessels are pushed along or swallowed by the core, and show through oedema.
    core = np.clip(tumour - shares["oedema"], 0, 1)
    extra = patient.vessels.parts(grid, maps["inside"], maps["atlas_mm"], tissue)
    extra = {name: share * (1 - core) for name, share in extra.items()}
    room = np.clip(1 - sum(extra.values()), 0, 1)
    shares = {name: share * room for name, share in shares.items()}
    rest = np.clip(1 - tumour, 0, 1) * room
    shares |= {name: tissue[name] * rest for name in ("gm", "wm", "csf")} | extra
    scarred = shares["wm"] * patient.body.gliosis(grid, maps["inside"], tissue["rim"])
    shares |= {"wm": shares["wm"] - scarred, "gliosis": scarred}
    if patient.strip:
        skull = np.clip(-0.5 - tissue["depth_mm"], 0, 1)
        shares = {name: share * (1 - skull) for name, share in shares.items()} | {"scalp": skull}
    shares, taken = patient.contents.fill(shares, grid, maps["inside"], maps["before_mm"], patient.tumour.seeds_mm[0])
    total = np.maximum(sum(shares.values()), np.float32(1e-6))
    fractions = {name: (share / total).astype(np.float32) for name, share in shares.items()}
    return fractions, np.where(taken, 0, parts.label).astype(np.uint8)


def synthesise(
    seed: int, site: str, spacing_mm: float = 2.0, protocol: str = "standard", ingredients: str | Collection[str] = ""
) -> PhantomCase:
    """Make one patient, bit-identical for the same seed, site, spacing and ingredients in one version of the generator.

    The same seed is the same patient at every site, spacing and protocol: sites change the scanner, spacing the grid,
    and the extended protocol adds two maps to the same four sequences.

    Args:
        seed: whole number from 0 on.
        site: `A`, `B` or `C`, a key of `SITES`.
        spacing_mm: isotropic voxel size, 0.8 to 6 mm; the field of view is 176 x 224 x 176 mm.
        protocol: `standard` (t1n, t1c, t2w, t2f) or `extended` (adc and rcbv as well), a key of `PROTOCOLS`.
        ingredients: what the patient has beyond the plain phantom, as `chosen_ingredients` takes it; some need more
            than `spacing_mm` can show. With `scanners` the site says only which of the patient's scanners it was.

    Raises:
        ValueError: unknown site, protocol or ingredient, spacing out of range, or negative seed.
    """
    _check(seed, spacing_mm, site, protocol)
    chosen = chosen_ingredients(ingredients)
    grid, scanner, patient = Grid.box(spacing_mm), SITES[site], _patient(seed, chosen)
    maps = _anatomy(patient, grid)
    inside = maps["inside"]
    fractions, within = _fractions(patient, grid, maps)
    texture = {name: field.on(grid)[inside] for name, field in patient.body.fields.items()}
    texture["nuclei"] = maps["tissue"]["nuclei"]
    if any(patient.body.hindbrain):
        texture["hindbrain"] = hindbrain(maps["atlas_mm"])
    site_number = list(SITES).index(site)
    body = patient.body
    if "scanners" in chosen:
        rng = stream(seed, "scanners", site_number)
        scanner, tesla = draw_scanner(rng)
        body = dosed(at_field(body, tesla), rng)
    images: dict[str, NDArray[Any]] = {}
    for channel, modality in enumerate(MODALITIES):
        sequence = scanner.sequences[modality]
        signal = weigh(sequence, fractions, body, texture, contrast=modality == "t1c")
        white, csf = (body.tissues[name] for name in ("wm", "csf"))
        session = np.random.default_rng([seed, 10 + channel, site_number])
        noise = np.random.default_rng([seed, 20 + channel, site_number, round(1000 * spacing_mm)])
        images[modality] = acquire(
            signal, inside, float(sequence.signal(csf.t1_ms, csf.t2_ms, csf.density)), grid, sequence, scanner,
            float(sequence.signal(white.t1_ms, white.t2_ms, white.density)), session, noise,
            Mishaps.draw(seed, chosen, channel, site_number),
        )  # fmt: skip
    if protocol == "extended":
        physiology = Physiology.draw(np.random.default_rng([seed, 5]), patient.tumour.biology.grade)
        scene = Scene(grid, inside, fractions, _core_mm(patient, grid, maps))
        images |= acquire_maps(scene, body, physiology, site, seed, site_number)
    label = np.zeros(grid.shape, np.uint8)
    label[inside] = within
    biology = patient.tumour.biology
    facts = {
        "seed": int(seed),
        "site": site,
        "spacing_mm": float(spacing_mm),
        "grade": biology.grade,
        "pattern": biology.pattern,
        "foci": biology.foci,
        "volumes_ml": {k: float(np.count_nonzero(label == k) * grid.voxel_ml) for k in (1, 2, 3)},
        "brain_ml": float(np.count_nonzero(inside) * grid.voxel_ml),
        "largest_push_mm": float(np.sqrt((patient.tumour.push_mm**2).sum(axis=0)).max()),
        "seeds_mm": [list(s) for s in patient.tumour.seeds_mm],
        "generator": GENERATOR_VERSION,
        "ingredients": list(chosen),
    }
    return PhantomCase(images, label, grid.affine, facts)


def layers(seed: int, spacing_mm: float = 2.0, ingredients: str | Collection[str] = "") -> dict[str, Array]:
    """The maps a patient is built from, for looking at: name to [X, Y, Z] float32 ([3, X, Y, Z] for `push_mm`).

    `healthy_gm healthy_wm healthy_csf` before the tumour; `core_mm` distance to the core's surface, `water` of the
    oedema; `push_mm` the mass effect; then the share of every tissue in the end (`wm gm csf oedema solid enhancing
    necrosis vessel meninges plexus gliosis`, and what `ingredients` add), `brain` and `label`.

    Raises:
        ValueError: an unknown ingredient, spacing out of range, or negative seed.
    """
    _check(seed, spacing_mm)
    grid, patient = Grid.box(spacing_mm), _patient(seed, chosen_ingredients(ingredients))
    maps = _anatomy(patient, grid)
    inside = maps["inside"]

    def volume(values: NDArray[Any]) -> Array:
        filled = np.zeros(inside.shape, np.float32)
        filled[inside] = values
        return filled

    atlas = _atlas_for(grid)
    healthy = patient.person.tissues(
        atlas, patient.person.to_atlas_mm(grid)[:, inside], patient.person.sulci.on(grid)[inside]
    )
    shares, label = _fractions(patient, grid, maps)
    found = {f"healthy_{name}": volume(healthy[name]) for name in ("gm", "wm", "csf")}
    found["core_mm"] = volume(_core_mm(patient, grid, maps))
    found["water"] = volume(patient.tumour.grid.sample(patient.tumour.oedema, maps["before_mm"], outside=0.0))
    found["push_mm"] = np.stack([volume(component) for component in maps["push_mm"]])
    found |= {name: volume(share) for name, share in shares.items()}
    return found | {"brain": inside.astype(np.float32), "label": volume(label)}


def file_names(subject: str, protocol: str = "standard") -> dict[str, str]:
    """Manifest column to the name of a patient's file, in the protocol's order, the label last."""
    return {name: f"{subject}-{name}.nii.gz" for name in PROTOCOLS[protocol]} | {"label": f"{subject}-seg.nii.gz"}


def write_case(case: PhantomCase, folder: str | Path, subject: str) -> dict[str, str]:
    """Write a patient's files into a folder; returns manifest column to file name.

    Each file is written aside in the same folder and renamed, so that no reader ever sees a part of one.

    Raises:
        OSError: the folder cannot be written to; nothing half-written stays.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    names = file_names(subject, find_protocol(case.images))
    for column, name in names.items():
        array = case.label if column == "label" else case.images[column]
        image = nib.Nifti1Image(array, case.affine)
        image.header.set_xyzt_units("mm")
        handle, aside = tempfile.mkstemp(prefix=f".{name}.", suffix=".nii.gz", dir=folder)
        os.close(handle)
        try:
            nib.save(image, aside)
            os.chmod(aside, 0o644)
            os.replace(aside, folder / name)
        except BaseException:
            Path(aside).unlink(missing_ok=True)
            raise
    return names


def find_protocol(columns: Iterable[str]) -> str:
    """The protocol that makes these columns of a row: `extended` where it names more than `standard` has."""
    return "standard" if {*columns} <= {"label", *MODALITIES} else "extended"


def cohort_rows(
    subjects: int = 60,
    seed: int = 0,
    spacing_mm: float = 2.0,
    protocol: str = "standard",
    ingredients: str | Collection[str] = "",
) -> list[dict[str, Any]]:
    """The manifest rows of a cohort: train, val and test as 36 : 8 : 16, the three sites balanced within each.

    Paths are relative to the cohort's root, `2mm/phantom-001/phantom-001-t1n.nii.gz`. Seed and site of a subject do
    not depend on the size of the cohort; its split does.

    Raises:
        ValueError: no subjects, negative seed, unknown protocol or ingredient, or spacing out of range.
    """
    _check(seed, spacing_mm, protocol=protocol)
    chosen = "+".join(chosen_ingredients(ingredients))
    if subjects < 1:
        raise ValueError(f"{subjects} subjects make no cohort; ask for at least 1")
    val, test = (max(1, round(subjects * share / 60)) if subjects >= 3 else 0 for share in (8, 16))
    splits = ["train"] * (subjects - val - test) + ["val"] * val + ["test"] * test
    rows = []
    for i, split in enumerate(splits):
        subject = f"phantom-{i + 1:03d}"
        folder = f"{spacing_mm:g}mm/{subject}"
        row = {"subject": subject, "split": split, "site": list(SITES)[i % len(SITES)], "seed": seed * 100_000 + i}
        row |= {"ingredients": chosen} if chosen else {}
        rows.append(row | {"schema": SCHEMA} | {c: f"{folder}/{n}" for c, n in file_names(subject, protocol).items()})
    return rows


def _materialise_row(row: Mapping[str, Any], root: str, spacing_mm: float) -> str:
    columns = [c for c in (*EXTENDED, "label") if row.get(c)]
    case = synthesise(
        int(row["seed"]), str(row["site"]), spacing_mm, find_protocol(columns), str(row.get("ingredients") or "")
    )
    write_case(case, (Path(root) / str(row["label"])).parent, str(row["subject"]))
    return str(row["subject"])


def materialise(
    rows: Sequence[Mapping[str, Any]],
    root: str | Path,
    spacing_mm: float,
    workers: int | None = None,
    progress: Callable[..., Iterable[Any]] | None = None,
) -> None:
    """Write every row whose files are not all there below `root`.

    Args:
        rows: as `cohort_rows` gives them; a row with one of the extended protocol's columns is made by that protocol.
        root: folder that the rows' paths are relative to.
        spacing_mm: voxel size.
        workers: processes; None for one a core, 1 for this process alone.
        progress: wraps the iteration like tqdm, called with the iterable, `total` and `desc`.

    Raises:
        ValueError: as `synthesise`. OSError: the folder cannot be written to.
    """
    root = Path(root)
    for row in rows:
        _check(int(row["seed"]), spacing_mm, str(row["site"]))
    missing = [r for r in rows if not all((root / str(r[c])).is_file() for c in (*EXTENDED, "label") if r.get(c))]
    if not missing:
        return
    show = progress or (lambda iterable, **_: iterable)
    task = partial(_materialise_row, root=str(root), spacing_mm=spacing_mm)
    workers = min(workers or os.cpu_count() or 1, len(missing))
    if workers == 1:
        for row in show(missing, total=len(missing), desc="phantom"):
            task(row)
        return
    # joblib's processes do not import the caller's main module: a script needs no main guard, a notebook none either.
    jobs = Parallel(n_jobs=workers, return_as="generator_unordered")(delayed(task)(dict(row)) for row in missing)
    for _ in show(jobs, total=len(missing), desc="phantom"):
        pass
