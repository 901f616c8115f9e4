"""What does a PASSION step cost over its baseline step, and what do the other balancing methods?

    python benchmarks/balancing_time.py --preset lab --backbones unet rfnet --rounds 7

All methods are timed in turn in one process, round by round, so that a machine that slows down slows all of them;
printed are medians of process time and of its ratio to the baseline of the same round, with the smallest and largest
ratio. The baseline is the fused prediction alone (``complete``); ``inverse_frequency`` is PASSION's own baseline, which
has uni-modal supervision; ``one by one`` is PASSION without sharing: every student encoded and decoded for itself.
"""

import argparse
from collections.abc import Callable

import pandas as pd
import torch
from step_time import batch_of
from timing import in_turn, ratios

from mtg_lab.backbones import Prediction
from mtg_lab.hardware import default_device
from mtg_lab.methods import checked_options, find, passion
from mtg_lab.methods.contract import Fusion
from mtg_lab.methods.students import Students, one_hot_students
from mtg_lab.recipes import override, preset

ARMS = ("complete", "inverse_frequency", "passion", "one by one", "prototype_modulation", "gradient_modulation")


def one_by_one(images: torch.Tensor) -> Callable[..., Students]:
    """Students without sharing: every modality encoded anew and decoded in a batch of its own."""

    def students(backbone, fusion: Fusion) -> Students:
        found, sample, modality = [], [], []
        for m in range(images.shape[1]):
            rows = fusion.encoded[:, m].nonzero()[:, 0]
            if len(rows):
                alone = torch.zeros(len(rows), images.shape[1], dtype=torch.bool, device=images.device)
                alone[:, m] = True
                found.append(backbone(images[rows], alone))
                sample.append(rows)
                modality.append(torch.full_like(rows, m))
        prediction = Prediction(
            torch.cat([p.logits for p in found]),
            torch.cat([p.features for p in found]),
            tuple(torch.cat(a) for a in zip(*(p.aux for p in found), strict=True)),
        )
        joined = torch.cat(sample)
        return Students(joined, torch.cat(modality), prediction, len(joined), fusion.encoded)

    return students


def stepper(name: str, network: torch.nn.Module, batch: dict[str, torch.Tensor]) -> Callable[[], None]:
    method = find("passion" if name == "one by one" else name)
    built = method(network, **checked_options(method, {})).train()
    optimizer = torch.optim.AdamW([p for p in built.parameters() if p.requires_grad], lr=1e-4)

    def step() -> None:
        passion.one_hot_students = one_by_one(batch["image"]) if name == "one by one" else one_hot_students
        losses = built(batch)
        losses.total.backward()
        built.after_backward(losses.statistics, 0, 1000)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="lab")
    parser.add_argument("--backbones", nargs="+", default=["unet", "rfnet"])
    parser.add_argument("--available", type=float, default=1.0, help="share of files that are there")
    parser.add_argument("--uni-decoder", action="store_true", help="with the decoder of single modalities")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    for backbone in options.backbones:
        found = table(options.preset, backbone, options.rounds, options.available, options.uni_decoder)
        print(f"{backbone}, {options.preset}: {found.attrs['words']}, {default_device()}, "
              f"{torch.get_num_threads()} threads, torch {torch.__version__}")  # fmt: skip
        print(found.round(3).to_string(index=False), flush=True)


def table(name: str, backbone: str, rounds: int, available: float = 1.0, uni_decoder: bool = False) -> pd.DataFrame:
    """A row a method: seconds, and ratio to ``complete``."""
    options = {"uni_decoder": True} if uni_decoder and backbone != "unet" else {}
    recipe = override(preset(name, backbone=backbone), {f"backbone.{k}": v for k, v in options.items()})
    batch, cohort = batch_of(recipe), recipe.cohort()
    generator = torch.Generator().manual_seed(0)
    present = torch.rand(batch["present"].shape, generator=generator) < available
    present[:, 0] |= ~present.any(dim=1)
    batch["present"] = present.to(batch["image"].device)
    steps = {
        arm: stepper(arm, recipe.build_backbone(cohort.modalities, cohort.schema).to(default_device()), batch)
        for arm in ARMS
    }
    found = ratios(in_turn(steps, rounds), lambda _: "complete")
    found.attrs["words"] = (
        f"crop {recipe.sampling.crop_voxels}^3, batch {recipe.batch}, {int(present.sum())} of {present.numel()} files"
    )
    return found


if __name__ == "__main__":
    main()
