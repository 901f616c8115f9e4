"""Rows of a manifest that have a seed: what they ask of the phantom, where their files lie, and how these are made."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mtg_lab.errors import InputError
from mtg_lab.files import cache_folder, is_there, make_folder

if TYPE_CHECKING:
    from mtg_lab.manifest import Subject


def seed_fault(row: Mapping[str, str]) -> str | None:
    """What is wrong with a row's seed and what stands beside it, without the subject's name."""
    if not row.get("seed"):
        return "a real subject has no ingredients; empty the cell or give a seed" if row.get("ingredients") else None
    if not row["seed"].isdecimal():
        return f"seed {row['seed']!r} is not a whole number; give one, or none for a real subject"
    from mtg_lab import phantom

    if row.get("site") not in phantom.SITES:
        sites = ", ".join(phantom.SITES)
        return f"a row with a seed needs one of the sites {sites}; found {row.get('site', '')!r}, fill 'site'"
    try:
        ingredients_of(row)
    except ValueError as unknown:
        return str(unknown)
    return None


def ingredients_of(row: Mapping[str, str]) -> tuple[str, ...]:
    """What the row's phantom has beyond the plain one, in the one order.

    Raises:
        ValueError: an unknown ingredient.
    """
    if not row.get("ingredients"):
        return ()
    from mtg_lab import phantom

    return phantom.chosen_ingredients(row["ingredients"])


def remembered_files(row: Mapping[str, str], files: dict[str, Path]) -> dict[str, Path]:
    """The files of a row with a seed: where the row says if all are there, else their places in the cache."""
    if all(map(is_there, files.values())):
        return files
    from mtg_lab import phantom

    # phantom-001 of another seed, site or other ingredients is another patient
    mine = f"-{row['seed']}{row['site']}{_variety(ingredients_of(row))}"
    home = cache_folder("phantom", f"v{phantom.GENERATOR_VERSION}")
    places = {column: home / row[column] for column in files}
    return {column: p.parent.with_name(p.parent.name + mine) / p.name for column, p in places.items()}


def phantom_fingerprint(subject: Subject) -> str:
    """A digest of what a synthetic subject is."""
    from mtg_lab import phantom

    _, spacing = _root_and_spacing(subject)
    plain = f"phantom-{phantom.GENERATOR_VERSION}-{subject.seed}-{subject.site}-{spacing:g}"
    return plain + _variety(subject.ingredients)


def _variety(ingredients: Sequence[str]) -> str:
    """What sets a varied phantom apart in names; nothing for the plain one."""
    from mtg_lab import phantom

    return "-".join(["", f"varied{phantom.VARIED_VERSION}", *ingredients]) if ingredients else ""


def _root_and_spacing(subject: Subject) -> tuple[Path, float]:
    """Where the cohort of a synthetic row lies, and its spacing in mm, from the folder's name (``ROOT/2mm/...``)."""
    path = next(iter(subject.images.values()))
    for folder in path.parents:
        if found := re.fullmatch(r"(\d+(?:\.\d+)?)mm", folder.name):
            return folder.parent, float(found.group(1))
    raise InputError(
        f"subject {subject.name}: a row with a seed keeps its files below a folder such as 2mm/; found {path}"
    )


def synthesise_missing(subjects: Sequence[Subject], workers: int | None) -> None:
    """Write the files of these synthetic subjects that are not there.

    Raises:
        InputError: a file of another name or place than the generator's, or a folder that cannot be written to.
    """
    from mtg_lab import phantom
    from mtg_lab.progress import progress

    groups: dict[tuple[Path, float], list[dict[str, Any]]] = {}
    for s in subjects:
        # The generator writes every sequence of the row's protocol, also those that the row leaves out.
        folder = next(iter(s.images.values())).parent
        root, spacing = place = _root_and_spacing(s)
        names = phantom.file_names(s.name, phantom.find_protocol(s.images))
        if wrong := [c for c, path in s.files.items() if path != folder / names.get(c, "")]:
            mend = f"name its file {names[wrong[0]]}" if wrong[0] in names else "leave its cell empty"
            raise InputError(f"subject {s.name}: no phantom has the {wrong[0]} {s.files[wrong[0]]}; {mend}")
        row = {"subject": s.name, "site": s.site, "seed": s.seed, "ingredients": "+".join(s.ingredients)}
        row |= {column: str((folder / name).relative_to(root)) for column, name in names.items()}
        groups.setdefault(place, []).append(row)
    for (root, spacing), rows in groups.items():
        try:
            phantom.materialise(rows, make_folder(root), spacing, workers=workers, progress=progress)
        except ValueError as refusal:
            raise InputError(f"subject {rows[0]['subject']}: {refusal}") from refusal
        except OSError as error:
            raise InputError(f"cannot write the phantom to {root} ({error.strerror or error}); free space") from error
