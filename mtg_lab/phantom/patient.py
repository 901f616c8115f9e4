"""One patient from a seed: anatomy, vessels and tumour, the share of every tissue, and the scans of them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from types import MappingProxyType
from typing import Any

import numpy as np
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


def check_patient(seed: int, spacing_mm: float, site: str = "A", protocol: str = "standard") -> None:
    """Raise ValueError for what no patient can be made of."""
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


def _texture(patient: _Patient, grid: Grid, maps: dict[str, Any]) -> dict[str, Array]:
    """What makes a tissue unlike itself from place to place, at the brain's voxels."""
    inside = maps["inside"]
    texture = {name: field.on(grid)[inside] for name, field in patient.body.fields.items()}
    texture["nuclei"] = maps["tissue"]["nuclei"]
    if any(patient.body.hindbrain):
        texture["hindbrain"] = hindbrain(maps["atlas_mm"])
    return texture


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
    check_patient(seed, spacing_mm, site, protocol)
    chosen = chosen_ingredients(ingredients)
    grid, scanner, patient = Grid.box(spacing_mm), SITES[site], _patient(seed, chosen)
    maps = _anatomy(patient, grid)
    inside = maps["inside"]
    fractions, within = _fractions(patient, grid, maps)
    texture = _texture(patient, grid, maps)
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


def layers(
    seed: int, spacing_mm: float = 2.0, ingredients: str | Collection[str] = "", site: str = "A"
) -> dict[str, Array]:
    """The maps a patient is built from, for looking at: name to [X, Y, Z] float32 ([3, X, Y, Z] for `push_mm`).

    `healthy_gm healthy_wm healthy_csf` before the tumour; `core_mm` distance to the core's surface, `water` of the
    oedema; `push_mm` the mass effect; then the share of every tissue in the end (`wm gm csf oedema solid enhancing
    necrosis vessel meninges plexus gliosis`, and what `ingredients` add), `brain` and `label`; and `signal_t1n` to
    `signal_t2f`, what the site's sequences would show without noise, coil and slices, whatever scanner is drawn.

    Raises:
        ValueError: an unknown ingredient or site, spacing out of range, or negative seed.
    """
    check_patient(seed, spacing_mm, site)
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
    texture, scanner = _texture(patient, grid, maps), SITES[site]
    for name in MODALITIES:
        signal = weigh(scanner.sequences[name], shares, patient.body, texture, contrast=name == "t1c")
        found[f"signal_{name}"] = volume(signal)
    return found | {"brain": inside.astype(np.float32), "label": volume(label)}
