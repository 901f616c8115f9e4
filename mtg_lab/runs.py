"""A run folder read back: recipe, weights, history; nothing is unpickled."""

import json
from dataclasses import dataclass, replace
from functools import cache, cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from mtg_lab.backbones import Backbone
from mtg_lab.errors import InputError
from mtg_lab.files import content_fingerprint, write_text
from mtg_lab.manifest import Manifest
from mtg_lab.missingness import availability, save_pattern
from mtg_lab.recipes import Recipe
from mtg_lab.schemas import LabelSchema, check_same_classes, schema, schema_from_json


@dataclass(frozen=True)
class Run:
    """A trained network and where it came from.

    Attributes:
        folder: holds recipe.json, weights.safetensors, history.csv, log.txt, environment.json.
        modalities: channel order.
    """

    folder: Path
    recipe: Recipe
    digest: str
    modalities: tuple[str, ...]
    schema: LabelSchema

    @property
    def operations(self) -> tuple[str, ...]:
        """What was done to the network after its training, see :mod:`mtg_lab.surgery`; nothing to a run of a folder."""
        return ()

    @property
    def weights(self) -> Path:
        """The file of the network's weights."""
        return self.folder / "weights.safetensors"

    def backbone(self, device: str | torch.device = "cpu") -> Backbone:
        """The trained network in eval mode.

        Raises:
            InputError: the weights are damaged or of another network.
        """
        network = self.recipe.build_backbone(self.modalities, self.schema)
        try:
            with safe_open(self.weights, framework="pt") as stored:
                meaning = stored.metadata()
            network.load_state_dict(load_file(self.weights))
        except (SafetensorError, RuntimeError, OSError) as error:
            raise InputError(
                f"{self.weights} does not fit its recipe ({str(error).splitlines()[0]}); "
                "train the run again in another folder"
            ) from error
        if meaning and meaning != weights_meaning(self.modalities, self.schema):
            raise InputError(
                f"{self.folder}: the weights were trained with other channels or labels than recipe.json says; their "
                "order must not change, copy both files again or train the run again in another folder"
            )
        return network.to(device).eval()

    @cached_property
    def history(self) -> pd.DataFrame:
        """One row a step: losses and what the method logs."""
        return pd.read_csv(self.folder / "history.csv", index_col="step")

    @cached_property
    def environment(self) -> dict:
        """Versions, device, precision, seconds and peak memory of the training."""
        return json.loads((self.folder / "environment.json").read_text())

    def check_modalities(self, others: tuple[str, ...], source: str) -> None:
        """Refuse modalities that the run has never seen.

        Raises:
            InputError: one of ``others`` is unknown to the run.
        """
        for name in others:
            if name not in self.modalities:
                raise InputError(
                    f"{source} has the modality {name!r}; the run {self.folder.name} was trained on "
                    f"{', '.join(self.modalities)}; choose a run of these modalities or rename the column"
                )


def weights_meaning(modalities: tuple[str, ...], schema: LabelSchema) -> dict[str, str]:
    """What the channels and classes of a network mean, in their order, as it is stored inside the weights' file."""
    facts = schema.to_json()
    meaning = {"modalities": list(modalities), "labels": facts["labels"], "regions": facts["regions"]}
    return {"mtg_lab": json.dumps(meaning)}  # one entry, since the order of several is not kept


@cache
def boxed_runs() -> dict[str, Path]:
    """Folders of the trained networks that come with the package, by name; mtg_lab/weights/README.md is their card."""
    return {
        found.parent.name: found.parent for found in sorted(Path(str(files("mtg_lab"))).glob("weights/*/recipe.json"))
    }


def boxed_run(digest: str) -> Path | None:
    """The folder that comes with the package for a recipe of this hash, if there is one."""
    for folder in boxed_runs().values():
        if json.loads((folder / "recipe.json").read_text())["hash"] == digest:
            return folder
    return None


def load_run(folder: str | Path) -> Run:
    """A finished run from its folder.

    Args:
        folder: path, or where no such path is there the name of one of :func:`boxed_runs`.

    Raises:
        InputError: no such folder, no run in it, or the run was interrupted.
    """
    folder = Path(folder)
    if not folder.exists():
        folder = boxed_runs().get(str(folder), folder)
    description = folder / "recipe.json"
    if not description.is_file():
        what = "holds no run (no recipe.json)" if folder.is_dir() else "does not exist"
        known = f", or take one that comes with mtg_lab: {', '.join(boxed_runs())}" if boxed_runs() else ""
        raise InputError(f"the run folder {folder} {what}; make one with 'mtg-lab train --out {folder}'{known}")
    try:
        facts = json.loads(description.read_text())
        run = Run(
            folder,
            Recipe.from_json(facts),
            facts["hash"],
            tuple(facts["modalities"]),
            # A run describes its labels itself: its cohort's own schema, or that of another version, is not needed.
            schema_from_json(facts["schema_definition"]) if "schema_definition" in facts else schema(facts["schema"]),
        )
        if (run.schema.name, list(run.schema.regions)) != (facts["schema"], facts["regions"]):
            raise ValueError("its regions are not those of its schema, in their order")
    except InputError as refusal:
        raise InputError(f"{description}: {refusal}") from refusal
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        raise InputError(f"{description} is damaged ({error}); train the run again in another folder") from error
    if not (folder / "weights.safetensors").is_file():
        raise InputError(f"the run {folder} was interrupted before its end; the same train command resumes it")
    return run


def begun_with(recipe: Recipe, run: Run) -> Recipe:
    """The recipe on the network of a trained run, whose weights it begins with: fine-tuning.

    Network, voxel size and crops are those of the run; cohort, method, steps, rate and seed stay the recipe's.
    """
    crops = replace(recipe.sampling, crop_voxels=run.recipe.sampling.crop_voxels)
    return replace(
        recipe, start=str(run.folder.absolute()), start_weights=content_fingerprint(run.weights),
        backbone=run.recipe.backbone,
        backbone_options=run.recipe.backbone_options, preprocessing=run.recipe.preprocessing, sampling=crops,
    )  # fmt: skip


def take_weights(backbone: Backbone, recipe: Recipe, cohort: Manifest) -> None:
    """Give an untrained network the weights of the run that its recipe begins with.

    Raises:
        InputError: the run has another network, other channels or other classes than the cohort, or other weights than
            those that the recipe was made for.
    """
    run = load_run(recipe.start)
    who = f"the run {run.folder.name}, which the training begins with,"
    if recipe.start_weights not in ("", content_fingerprint(run.weights)):
        raise InputError(f"{who} has other weights than when this recipe was made; make it again, or bring them back")
    if run.modalities != cohort.modalities:
        raise InputError(
            f"{who} has the channels {', '.join(run.modalities)}, the cohort {', '.join(cohort.modalities)}; give the "
            "manifest the run's columns in their order, with empty cells where nobody has the sequence"
        )
    check_same_classes(cohort.schema, run.schema, who)
    theirs, ours = ((r.backbone, dict(r.backbone_options)) for r in (run.recipe, recipe))
    if theirs != ours:
        raise InputError(f"{who} has the network {theirs[0]} {theirs[1]}, not {ours[0]} {ours[1]}; leave it as it is")
    backbone.load_state_dict(run.backbone().state_dict())


def write_description(folder: Path, recipe: Recipe, digest: str, cohort: Manifest, teacher: str | None) -> None:
    """Say in ``recipe.json`` what a run is, with everything that :func:`load_run` needs; ``teacher`` is a hash."""
    description: dict[str, Any] = recipe.to_json() | {
        "hash": digest,
        "modalities": list(cohort.modalities),
        "schema": cohort.schema.name,
        "regions": list(cohort.schema.regions),
        "schema_definition": cohort.schema.to_json(),
        "cohort": cohort.fingerprint(),
        "teacher_hash": teacher,
    }
    write_text(folder / "recipe.json", json.dumps(description, indent=2))
    if recipe.missing:
        save_pattern(availability(cohort), folder / "missing.csv", recipe.missing)
