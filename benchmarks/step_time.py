"""How long is a training step of the U-Net in fp32, bf16 and channels-last, and what do alignment and a teacher add?

    python benchmarks/step_time.py --preset lab --rounds 7

All variants are timed in turn in one process, round by round, so that a machine that slows down slows all of them.
Printed are medians and their ratio to fp32 of the same arm, with the smallest and largest ratio over rounds.
"""

import argparse
import time
from collections.abc import Callable
from contextlib import nullcontext

import pandas as pd
import torch

from mtg_lab.hardware import default_device
from mtg_lab.methods import AlignedTeacher, Complete, Method, Student
from mtg_lab.recipes import suite


def arms(preset: str, device: torch.device) -> dict[str, Callable[[], Method]]:
    recipe = suite(preset)["complete"]
    cohort = recipe.cohort()

    def network() -> torch.nn.Module:
        return recipe.build_backbone(cohort.modalities, cohort.schema).to(device)

    return {
        "complete": lambda: Complete(network()),
        "aligned teacher": lambda: AlignedTeacher(network()),
        "student": lambda: Student(network(), network()),
    }


def stepper(method: Method, batch: dict[str, torch.Tensor], bf16: bool, device: torch.device) -> Callable[[], float]:
    optimizer = torch.optim.AdamW([p for p in method.parameters() if p.requires_grad], lr=1e-4)

    def step() -> float:
        started = time.perf_counter()
        with torch.autocast(device.type, torch.bfloat16) if bf16 else nullcontext():
            loss = method(batch).total
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - started

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="lab")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    device, recipe = default_device(), suite(options.preset)["complete"]
    cohort, edge, size = recipe.cohort(), recipe.sampling.crop_voxels, recipe.batch
    generator = torch.Generator().manual_seed(0)
    batch = {
        "image": torch.randn(size, len(cohort.modalities), edge, edge, edge, generator=generator),
        "label": torch.randint(0, cohort.schema.classes, (size, 1, edge, edge, edge), generator=generator),
        "present": torch.ones(size, len(cohort.modalities), dtype=torch.bool),
        "draw": torch.arange(size),
    }
    batch = {k: v.to(device) for k, v in batch.items()}
    steps = {}
    for arm, make in arms(options.preset, device).items():
        for name, bf16, last in (("fp32", False, False), ("bf16", True, False), ("bf16 channels-last", True, True)):
            method = make()
            if last:
                method = method.to(memory_format=torch.channels_last_3d)
            steps[arm, name] = stepper(method, batch, bf16, device)
    for step in steps.values():
        step()
    seconds = pd.DataFrame([{key: step() for key, step in steps.items()} for _ in range(options.rounds)])
    rows = []
    for arm, name in steps:
        ratio = seconds[arm, "fp32"] / seconds[arm, name]
        rows.append({"arm": arm, "form": name, "seconds": seconds[arm, name].median(), "faster": ratio.median(),
                     "least": ratio.min(), "most": ratio.max()})  # fmt: skip
    print(f"{options.preset}: crop {edge}^3, batch {size}, {device}, {torch.get_num_threads()} threads, "
          f"torch {torch.__version__}, {options.rounds} rounds")  # fmt: skip
    print(pd.DataFrame(rows).round(3).to_string(index=False))
    added = seconds["aligned teacher", "bf16"] / seconds["complete", "bf16"]
    print(f"alignment adds {100 * (added.median() - 1):.1f} % to a bf16 step [{added.min():.3f}, {added.max():.3f}]")


if __name__ == "__main__":
    main()
