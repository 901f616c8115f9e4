"""A recipe names a run: cohort, backbone, method and their options, seed and steps; its hash is the run's folder."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from typing import Any

from mtg_lab import backbones, methods, vocabulary
from mtg_lab.data import Preprocessing, Sampling
from mtg_lab.errors import InputError
from mtg_lab.files import content_fingerprint
from mtg_lab.manifest import Manifest, read_manifest
from mtg_lab.missingness import Missingness

# Part of every hash: raise it when the training loop changes what a recipe computes.
_RECIPE_VERSION = 5
_RANDOMISATION_VERSION = 2  # of what sampling.randomise draws: only recipes with it are named by it

PRESETS = ("smoke", "lab", "paper")

_NOBODY_STEPS = 6000  # in lab; four times the preset's, as varied patients take longer to learn (notebook 12)

# How large each network is in each preset. lab: the common width of PASSION's comparison, and as many tokens on 40^3
# voxels with one halving less as there on 80^3; paper: the widths of the networks' own releases.
_NETWORKS: dict[str, dict[str, dict[str, Any]]] = {
    "smoke": {
        "unet": {"width": 8, "latent": 4, "depth": 2},
        "rfnet": {"width": 4, "hidden": 16},
        "mmformer": {"width": 4, "depth": 3, "tokens": 32, "heads": 2, "mlp": 64},
        "m2ftrans": {"width": 4, "depth": 3, "layers": 2, "heads": 2, "mlp": 64},
        "adamm": {"width": 4, "adapter_width": 16, "nodes": 4},
        "nnunet": {"width": 8, "depth": 2},
        "synthesis": {"width": 8, "latent": 4, "depth": 2, "painter_width": 8},
        "feature_generation": {"width": 8, "latent": 4, "depth": 2, "generator_width": 4},
        "sample_retrieval": {"width": 8, "latent": 4, "depth": 2, "memory": 64},
        "segresnet": {"init_filters": 8, "blocks_down": [1, 1, 1], "blocks_up": [1, 1]},
    },
    "lab": {
        "unet": {"width": 8, "latent": 8, "depth": 3},
        "rfnet": {"width": 8},
        "mmformer": {"width": 8, "depth": 3, "tokens": 128, "heads": 4, "mlp": 256},
        "m2ftrans": {"width": 8, "depth": 3, "heads": 4, "mlp": 256},
        "adamm": {"width": 8, "adapter_width": 32},
        "nnunet": {"width": 8, "depth": 3},
        "synthesis": {"width": 8, "latent": 8, "depth": 3, "painter_width": 16},
        "feature_generation": {"width": 8, "latent": 8, "depth": 3},
        "sample_retrieval": {"width": 8, "latent": 8, "depth": 3},
        "segresnet": {"init_filters": 8},
    },
    "paper": {
        "unet": {"width": 32, "latent": 16, "depth": 4},
        "rfnet": {"width": 16},
        "mmformer": {"width": 8},
        "m2ftrans": {"width": 16},
        "adamm": {"width": 16},
        "nnunet": {},
        "synthesis": {"width": 32, "latent": 16, "depth": 4, "painter_width": 32},
        "feature_generation": {"width": 32, "latent": 16, "depth": 4, "generator_width": 64},
        "sample_retrieval": {"width": 32, "latent": 16, "depth": 4, "memory": 4096},
        "segresnet": {"init_filters": 16},
    },
}


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what a training run computes.

    Attributes:
        manifest: path of the cohort, empty for the committed phantom.
        limit: only the first n subjects of train, val, test (0 = all).
        backbone, backbone_options: which network, see :data:`mtg_lab.backbones.BACKBONES`.
        method, method_options: how it is trained, see :data:`mtg_lab.methods.METHODS`.
        teacher: recipe of the frozen teacher, for methods that need one.
        steps: optimiser steps.
        batch: samples a step, over all devices together.
        learning_rate: peak of a linear warm-up followed by a cosine to zero (AdamW).
        warmup: share of the steps with rising rate.
        averaging: horizon of the running average of weights, as a share of the steps.
        precision: ``fp32``, ``bf16``, or ``auto``: bf16 where the processor multiplies it in hardware.
        seed: of weights, crops, augmentation and drawn subsets.
        missing: who lacks what in the training split, as :meth:`Missingness.to_json` writes it, such as
            ``{"rule": "uniform", "seed": 3}``; empty for nothing. A teacher's own recipe decides for the teacher.
        start: folder of the run (or name of one in the box) whose network this one begins with, empty for random
            weights; see :func:`mtg_lab.runs.begun_with`.
        start_weights: fingerprint of those weights, by which they enter the hash; empty to read it off ``start``.
    """

    manifest: str = ""
    limit: tuple[int, int, int] = (0, 0, 0)
    backbone: str = "unet"
    backbone_options: Mapping[str, Any] = field(default_factory=dict)
    method: str = "dropout"
    method_options: Mapping[str, Any] = field(default_factory=dict)
    teacher: "Recipe | None" = None
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    sampling: Sampling = field(default_factory=Sampling)
    steps: int = 1000
    batch: int = 2
    learning_rate: float = 2e-3
    weight_decay: float = 1e-4
    warmup: float = 0.05
    averaging: float = 0.05
    precision: str = "auto"
    seed: int = 0
    missing: Mapping[str, Any] = field(default_factory=dict)
    start: str = ""
    start_weights: str = ""

    def __post_init__(self) -> None:
        method = methods.find(self.method)
        object.__setattr__(self, "method_options", methods.checked_options(method, self.method_options))
        object.__setattr__(self, "manifest", str(self.manifest))
        object.__setattr__(self, "start", str(self.start))
        object.__setattr__(self, "start_weights", self.start_weights if self.start else "")
        # In its one form: rules in other words are one recipe, and to miss nothing is no setting.
        rule = Missingness.from_json(self.missing) if self.missing else Missingness()
        object.__setattr__(self, "missing", {} if rule.rule == "complete" else rule.to_json())
        if method.needs_teacher and self.teacher is None:
            raise InputError(f"method {self.method} needs a teacher; give --teacher RUN or Recipe(teacher=...)")
        if self.teacher is not None and not (method.needs_teacher or method.takes_teacher):
            raise InputError(f"method {self.method} learns from no teacher; leave the teacher out")
        if self.start and self.method_options.get("from_teacher"):
            raise InputError("a student begins with its teacher's weights (from_teacher) or those of start; drop one")
        for name in ("steps", "batch"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.seed < 0:
            raise InputError(f"seed is {self.seed}; it must be 0 or more")
        if self.sampling.crop_voxels < 4 or not self.preprocessing.spacing_mm > 0:
            raise InputError(
                f"crops of {self.sampling.crop_voxels} voxels of {self.preprocessing.spacing_mm} mm; give at least 4 "
                "voxels (sampling.crop_voxels) and a spacing above 0 (preprocessing.spacing_mm)"
            )
        if not 0 <= self.sampling.randomise <= 3:
            raise InputError(f"sampling.randomise is {self.sampling.randomise}; it must lie between 0 and 3")
        if not self.learning_rate > 0:
            raise InputError(f"learning_rate is {self.learning_rate}; it must be above 0")
        for name in ("weight_decay", "warmup", "averaging"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name} is {getattr(self, name)}; it must lie between 0 and 1")
        if self.precision not in ("auto", "fp32", "bf16"):
            raise InputError(f"precision is {self.precision!r}; it can be auto, fp32 or bf16")

    def cohort(self) -> Manifest:
        """The manifest, cut to ``limit``, its training split without the files that ``missing`` takes away.

        Raises:
            InputError: see :func:`mtg_lab.read_manifest` and :meth:`Missingness.pattern`.
        """
        cohort = read_manifest(self.manifest).limit(*self.limit)
        return Missingness.from_json(self.missing).apply(cohort, "train") if self.missing else cohort

    def digest(self, cohorts: dict[str, str] | None = None) -> str:
        """Twelve hexadecimal digits that name the run; the cohort enters by its content, not by its path.

        Args:
            cohorts: fingerprints of cohorts that are known already, and where a new one is noted: to name many recipes
                of one cohort, whose files do not change meanwhile, without reading it for each.

        Raises:
            InputError: as :meth:`cohort`, or ``start`` is no run.
        """
        settings = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("manifest", "teacher")}
        settings = {k: asdict(v) if is_dataclass(v) and not isinstance(v, type) else v for k, v in settings.items()}
        if not self.missing:  # so that runs from before these settings keep their names
            del settings["missing"]
        if self.sampling.randomise:
            settings["sampling"]["randomised"] = _RANDOMISATION_VERSION
        else:
            del settings["sampling"]["randomise"]
        del settings["start_weights"]
        if self.start:
            settings["start"] = self.start_weights or _weights_of(self.start)
        else:
            del settings["start"]
        cohorts = {} if cohorts is None else cohorts
        of_whom = json.dumps([self.manifest, self.limit, self.missing], sort_keys=True)
        if of_whom not in cohorts:
            cohorts[of_whom] = self.cohort().fingerprint()
        settings["cohort"] = cohorts[of_whom]
        settings["teacher"] = self.teacher.digest(cohorts) if self.teacher else None
        settings["version"] = _RECIPE_VERSION
        return hashlib.sha256(json.dumps(_canonical(settings), sort_keys=True).encode()).hexdigest()[:12]

    def build_backbone(self, modalities: tuple[str, ...], schema: vocabulary.LabelSchema) -> backbones.Backbone:
        """The untrained network."""
        return backbones.build(self.backbone, modalities, schema.classes, self.backbone_options)

    def to_json(self) -> dict[str, Any]:
        """As plain values, nested teachers included."""
        return {**{f.name: getattr(self, f.name) for f in fields(self)}, "teacher": self.teacher and
                self.teacher.to_json(), "preprocessing": asdict(self.preprocessing), "sampling": asdict(self.sampling),
                "backbone_options": dict(self.backbone_options), "method_options": dict(self.method_options),
                "missing": dict(self.missing), "limit": list(self.limit)}  # fmt: skip

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> "Recipe":
        """The inverse of :meth:`to_json`; keys of the run folder that are no settings are left out.

        Raises:
            InputError: a value is missing or of no use.
        """
        known = {f.name for f in fields(Recipe)}
        chosen = {k: v for k, v in values.items() if k in known}
        try:
            chosen["preprocessing"] = Preprocessing(**chosen["preprocessing"])
            chosen["sampling"] = Sampling(**chosen["sampling"])
            chosen["limit"] = tuple(chosen["limit"])
            chosen["teacher"] = Recipe.from_json(chosen["teacher"]) if chosen.get("teacher") else None
            return Recipe(**chosen)
        except (KeyError, TypeError, AttributeError) as error:
            raise InputError(f"not a recipe of this version of mtg_lab ({error}); train the run again") from error


def preset(name: str, method: str = "dropout", manifest: str = "", seed: int = 0, **changes: Any) -> Recipe:
    """A recipe for one of three scales.

    ``smoke`` proves that everything runs (5 mm voxels, a handful of subjects, seconds); ``lab`` is made for a laptop
    without a GPU (2 mm); ``paper`` is for a GPU and BraTS (1 mm, 80^3 crops, BraTS-sized training). Each backbone has
    sizes of its own in each of them, unless ``backbone_options`` are among the changes; without a ``backbone`` among
    them it is the method's usual one.

    Raises:
        InputError: an unknown preset.
    """
    if name not in PRESETS:
        raise InputError(f"unknown preset {name!r}; there are: {', '.join(PRESETS)}")
    backbone = str(changes.get("backbone", methods.find(method).usual_backbone))
    common: dict[str, Any] = {"manifest": str(manifest), "method": method, "seed": seed, "backbone": backbone,
                              "backbone_options": dict(_NETWORKS[name].get(backbone, {}))}  # fmt: skip
    scales: dict[str, dict[str, Any]] = {
        "smoke": {"limit": (6, 2, 3), "steps": 30, "preprocessing": Preprocessing(5.0), "sampling": Sampling(24)},
        # Steps and rate: benchmarks/README.md.
        "lab": {"steps": 1500, "learning_rate": 2e-3, "preprocessing": Preprocessing(2.0), "sampling": Sampling(40)},
        "paper": {"steps": 60_000, "batch": 4, "learning_rate": 1e-3, "preprocessing": Preprocessing(1.0),
                  "sampling": Sampling(80)},
    }  # fmt: skip
    return Recipe(**{**common, **scales[name], **changes})


def suite(name: str, manifest: str = "", seed: int = 0, align_weight: float = 0.1) -> dict[str, Recipe]:
    """The runs that the notebooks share, in the order in which they are best trained.

    ``complete`` (the teacher without alignment, and the zero-filling baseline), ``aligned`` (the teacher with it),
    ``dropout`` (baseline without a teacher), ``student`` (of the unaligned teacher), ``aligned_student`` and
    ``specialist`` (of the aligned teacher; sees every other modality only).
    """
    modalities = read_manifest(manifest).modalities
    complete = preset(name, "complete", manifest, seed)
    aligned = preset(name, "aligned_teacher", manifest, seed, method_options={"align_weight": align_weight})
    special = {"subset": vocabulary.subset_name(modalities[::2], modalities)}
    return {
        "complete": complete,
        "aligned": aligned,
        "dropout": preset(name, "dropout", manifest, seed),
        "student": preset(name, "student", manifest, seed, teacher=complete),
        "aligned_student": preset(name, "student", manifest, seed, teacher=aligned),
        "specialist": preset(name, "student", manifest, seed, teacher=aligned, method_options=special),
    }


def nobody(name: str = "lab", manifest: str = "mixed", seed: int = 0) -> Recipe:
    """The generalist that no patient has taught: drawn subsets, on plain and varied phantoms, for longer than usual.

    Its weights of ``lab`` come with the package as ``nobody``; mtg_lab/weights/nobody/README.md is their card, notebook
    12 says what else was tried. For ``paper`` make a cohort of 1 mm first: ``mtg-lab phantom --with all --spacing 1
    --subjects 200 --out DIR``.

    Args:
        name: of the preset.
        manifest: phantoms to learn from.
        seed: of the training.
    """
    return preset(name, "dropout", manifest, seed, **({"steps": _NOBODY_STEPS} if name == "lab" else {}))


def override(recipe: Recipe, changes: Mapping[str, Any]) -> Recipe:
    """A recipe with settings changed by dotted names: ``{"steps": 200, "method.align_weight": 1.0}``.

    Prefixes: ``backbone.`` and ``method.`` (their options), ``preprocessing.``, ``sampling.``, and ``missing.``
    (``missing.rule``, ``missing.seed`` and the rule's options; another rule starts without the options of the old).

    Raises:
        InputError: an unknown setting, or a value of another type.
    """
    named = {key.removeprefix("missing."): value for key, value in changes.items() if key.startswith("missing.")}
    if named:  # together, as a rule is nothing without its options
        before = {} if "rule" in named else dict(recipe.missing)
        recipe = replace(recipe, missing={**before, **named})
    for key, value in changes.items():
        group, _, name = key.rpartition(".")
        if group == "missing":
            continue
        if group in ("backbone", "method"):
            options = {**getattr(recipe, f"{group}_options"), name: value}
            changed: dict[str, Any] = {f"{group}_options": options}
            recipe = replace(recipe, **changed)
        elif group in ("preprocessing", "sampling") and name in {f.name for f in fields(getattr(recipe, group))}:
            part = getattr(recipe, group)
            checked: dict[str, Any] = {name: _like(getattr(part, name), value, key)}
            recipe = replace(recipe, **{group: replace(part, **checked)})
        elif not group and name in _PLAIN:
            recipe = replace(recipe, **{name: _like(getattr(recipe, name), value, key)})
        else:
            raise InputError(
                f"--set {key}: no such setting; there are {', '.join(_PLAIN)}, backbone.*, method.*, "
                "preprocessing.*, sampling.*, missing.*"
            )
    return recipe


def _like(current: Any, value: Any, key: str) -> Any:
    """``value``, refused unless it has the type of the setting's current value; 1 is a float as well."""
    fits = type(value) is type(current) or (isinstance(current, float) and type(value) is int)
    if not fits:
        raise InputError(f"--set {key}: {value!r} is no {type(current).__name__}; it is {current!r} now")
    return value


def _weights_of(run: str) -> str:
    from mtg_lab.runs import load_run

    return content_fingerprint(load_run(run).weights)


def _canonical(value: Any) -> Any:
    """Floats that are whole as integers, at any depth: 1 and 1.0 are one setting and must name one run."""
    if isinstance(value, Mapping):
        return {k: _canonical(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_canonical(v) for v in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


_PLAIN = ("steps", "batch", "learning_rate", "weight_decay", "warmup", "averaging", "precision", "seed")
