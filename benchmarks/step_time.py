"""How long is a training step of the U-Net in each precision and memory layout; what do alignment and a teacher add?

    python benchmarks/step_time.py --preset lab --rounds 9 --threads 1 --out step_time.csv

All variants are timed in turn in one process, round by round, so that a machine that slows down slows all of them.
On the processor it is process time, which other people's jobs disturb less. Printed, and with ``--out`` written as CSV,
are medians, and ratios within a round with their least and greatest value: ``ratio`` to the contiguous fp32 step of the
same arm for the forms, to the step without alignment for the losses. Peak memory is that of the tensors which a step
allocates, beyond weights, optimiser and batch.
"""

import argparse
import time
from collections.abc import Callable
from contextlib import nullcontext
from itertools import product
from pathlib import Path
from unittest.mock import patch

import pandas as pd
import torch
from torch.profiler import ProfilerActivity, profile

from mtg_lab.alignment import LOSSES
from mtg_lab.backbones import contract
from mtg_lab.files import written_aside
from mtg_lab.hardware import default_device
from mtg_lab.methods import AlignedTeacher, Complete, Method, Student
from mtg_lab.recipes import suite

LAYOUTS = ("contiguous", "channels-last")
PRECISIONS = ("fp32", "bf16")


class Step:
    """A training step of one method in one precision and layout."""

    def __init__(self, method: Method, batch: dict[str, torch.Tensor], precision: str, layout: str):
        self.method, self.batch, self.precision, self.layout = method.train(), batch, precision, layout
        self.device = batch["image"].device
        self.optimizer = torch.optim.AdamW([p for p in method.parameters() if p.requires_grad], lr=1e-4)

    def __call__(self) -> None:
        contiguous = patch.object(contract, "channels_last", lambda image: image)
        bf16 = torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16")
        with contiguous if self.layout == "contiguous" else nullcontext(), bf16:
            loss = self.method(self.batch).total
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def seconds(self) -> float:
        clock = time.perf_counter if self.device.type == "cuda" else time.process_time
        started = clock()
        self()
        return clock() - started

    def peak_megabytes(self) -> float:
        """Highest sum of what was allocated and not yet freed since the step began."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            self()
            return (torch.cuda.max_memory_allocated() - before) / 2**20
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
            self()
        events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
        events.sort(key=lambda event: event.start_ns())
        return float(pd.Series([e.nbytes() for e in events]).cumsum().max()) / 2**20


def measured(steps: dict[tuple[str, ...], Step], reference: Callable, rounds: int) -> pd.DataFrame:
    """One row a step: key, seconds, ratio to the step with the key ``reference(key)``, the same of peak memory."""
    for step in steps.values():
        step()
    peak = {key: step.peak_megabytes() for key, step in steps.items()}
    seconds = pd.DataFrame([[step.seconds() for step in steps.values()] for _ in range(rounds)])
    seconds.columns = list(steps)
    rows = []
    for key in steps:
        ratio = seconds[key] / seconds[reference(key)]
        rows.append({
            "arm": key[0], "precision": key[1], "layout": key[2],
            "seconds": seconds[key].median(), "seconds_least": seconds[key].min(), "seconds_most": seconds[key].max(),
            "ratio": ratio.median(), "ratio_least": ratio.min(), "ratio_most": ratio.max(),
            "peak_mb": peak[key], "peak_ratio": peak[key] / peak[reference(key)],
        })  # fmt: skip
    return pd.DataFrame(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="lab")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, help="CSV for both tables")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
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

    def network() -> torch.nn.Module:
        return recipe.build_backbone(cohort.modalities, cohort.schema).to(device)

    arms: dict[str, Callable[[], Method]] = {
        "complete": lambda: Complete(network()),
        "aligned_teacher": lambda: AlignedTeacher(network()),
        "student": lambda: Student(network(), network()),
    }
    forms = {key: Step(arms[key[0]](), batch, *key[1:]) for key in product(arms, PRECISIONS, LAYOUTS)}
    native = "contiguous" if device.type == "cuda" else "channels-last"
    losses = {("no alignment", p, native): Step(Complete(network()), batch, p, native) for p in PRECISIONS}
    for loss, precision in product(LOSSES, PRECISIONS):
        method = AlignedTeacher(network(), align_loss=loss)
        losses[loss, precision, native] = Step(method, batch, precision, native)
    tables = {
        "forms": measured(forms, lambda key: (key[0], "fp32", "contiguous"), options.rounds),
        "losses": measured(losses, lambda key: ("no alignment", *key[1:]), options.rounds),
    }
    print(f"{options.preset}: crop {edge}^3, batch {size}, {device}, {torch.get_num_threads()} threads, "
          f"torch {torch.__version__}, {options.rounds} rounds")  # fmt: skip
    for name, table in tables.items():
        print(f"\n{name}\n{table.round(3).to_string(index=False)}")
    if options.out:
        with written_aside(options.out) as aside:
            pd.concat(tables, names=["table"]).reset_index("table").round(4).to_csv(aside, index=False)


if __name__ == "__main__":
    main()
