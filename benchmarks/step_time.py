"""How long is a training step in each precision and memory layout; what do alignment, a teacher, a method add?

    python benchmarks/step_time.py --preset lab --rounds 9 --threads 1 --out step_time.csv
    python benchmarks/step_time.py --tables backbones methods

All variants are timed in turn in one process, round by round, so that a machine that slows down slows all of them.
On the processor it is process time, which other people's jobs disturb less. Printed, and with ``--out`` written as CSV,
are medians, and ratios within a round with their least and greatest value. Peak memory is that of the tensors which a
step allocates, beyond weights, optimiser and batch. bf16 is timed where it is multiplied in hardware. Tables:

forms      teacher, aligned teacher and student on the U-Net: to the contiguous fp32 step of the same
losses     every alignment loss: to the step without alignment
backbones  every network under modality dropout: to its own contiguous fp32 step
methods    every method on the network it is usually trained on: to modality dropout on the U-Net
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from itertools import product
from pathlib import Path
from unittest.mock import patch

import pandas as pd
import torch
from timing import in_turn, ratios
from torch.profiler import ProfilerActivity, profile

from mtg_lab.alignment import LOSSES
from mtg_lab.backbones import Backbone, adamm, contract, outside
from mtg_lab.backbones import layout as memory
from mtg_lab.files import written_aside
from mtg_lab.hardware import default_device, use_bf16
from mtg_lab.methods import METHODS, AlignedTeacher, Complete, Dropout, Method, Student
from mtg_lab.recipes import Recipe, preset

LAYOUTS = ("contiguous", "channels-last")
PRECISIONS = ("fp32", "bf16") if use_bf16("auto") else ("fp32",)  # emulated, bf16 takes twenty times as long
NETWORKS = ("unet", "rfnet", "mmformer", "m2ftrans", "adamm", "nnunet")


@contextmanager
def pytorchs_own() -> Iterator[None]:
    """Images keep their layout and every convolution is PyTorch's, as in a network that nobody has worked on."""
    with ExitStack() as stack:
        stack.enter_context(patch.object(memory, "kept_from_onednn", lambda *_: False))
        for module in (contract, outside, adamm):
            stack.enter_context(patch.object(module, "channels_last", lambda image: image))
        yield


class Step:
    """A training step of one method in one precision and layout."""

    def __init__(self, method: Method, batch: dict[str, torch.Tensor], precision: str, layout: str):
        self.method, self.batch, self.precision, self.layout = method.train(), batch, precision, layout
        self.device = batch["image"].device
        self.optimizer = torch.optim.AdamW([p for p in method.parameters() if p.requires_grad], lr=1e-4)

    def __call__(self) -> None:
        bf16 = torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16")
        with pytorchs_own() if self.layout == "contiguous" else nullcontext(), bf16:
            loss = self.method(self.batch).total
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

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
    seconds = in_turn(steps, rounds)
    peak = {key: step.peak_megabytes() for key, step in steps.items()}
    rows = []
    for line in ratios(seconds, reference).itertuples(index=False):
        key = line.case
        rows.append({
            "arm": key[0], "precision": key[1], "layout": key[2], "seconds": line.seconds,
            "seconds_least": seconds[key].min(), "seconds_most": seconds[key].max(),
            "ratio": line.ratio, "ratio_least": line.least, "ratio_most": line.most,
            "peak_mb": peak[key], "peak_ratio": peak[key] / peak[reference(key)],
        })  # fmt: skip
    return pd.DataFrame(rows)


def batch_of(recipe: Recipe) -> dict[str, torch.Tensor]:
    """Noise and random labels in the shape of a training batch, on the default device."""
    cohort, edge, size = recipe.cohort(), recipe.sampling.crop_voxels, recipe.batch
    generator = torch.Generator().manual_seed(0)
    batch = {
        "image": torch.randn(size, len(cohort.modalities), edge, edge, edge, generator=generator),
        "label": torch.randint(0, cohort.schema.classes, (size, 1, edge, edge, edge), generator=generator),
        "present": torch.ones(size, len(cohort.modalities), dtype=torch.bool),
        "draw": torch.arange(size),
    }
    return {k: v.to(default_device()) for k, v in batch.items()}


def network(name: str, backbone: str = "unet") -> Backbone:
    """A network in the size of a preset, on the default device."""
    recipe = preset(name, backbone=backbone)
    cohort = recipe.cohort()
    return recipe.build_backbone(cohort.modalities, cohort.schema).to(default_device())


def forms(name: str, rounds: int) -> pd.DataFrame:
    """Teacher, aligned teacher and student on the U-Net in every precision and layout."""
    batch = batch_of(preset(name))
    arms: dict[str, Callable[[], Method]] = {
        "complete": lambda: Complete(network(name)),
        "aligned_teacher": lambda: AlignedTeacher(network(name)),
        "student": lambda: Student(network(name), network(name)),
    }
    steps = {key: Step(arms[key[0]](), batch, *key[1:]) for key in product(arms, PRECISIONS, LAYOUTS)}
    return measured(steps, lambda key: (key[0], "fp32", "contiguous"), rounds)


def losses(name: str, rounds: int) -> pd.DataFrame:
    """Every alignment loss in both precisions, and none."""
    batch, layout = batch_of(preset(name)), native()
    steps = {("no alignment", p, layout): Step(Complete(network(name)), batch, p, layout) for p in PRECISIONS}
    for loss, precision in product(LOSSES, PRECISIONS):
        steps[loss, precision, layout] = Step(AlignedTeacher(network(name), align_loss=loss), batch, precision, layout)
    return measured(steps, lambda key: ("no alignment", *key[1:]), rounds)


def backbones(name: str, rounds: int, chosen: Sequence[str] = NETWORKS) -> pd.DataFrame:
    """Every network under modality dropout, as PyTorch has it and as it is trained here."""
    batch = batch_of(preset(name))
    plain, ours = ("fp32", "contiguous"), [(p, native()) for p in PRECISIONS]
    steps = {(b, *form): Step(Dropout(network(name, b)), batch, *form) for b in chosen for form in (plain, *ours)}
    return measured(steps, lambda key: (key[0], *plain), rounds)


def methods(name: str, rounds: int, precision: str = "fp32") -> pd.DataFrame:
    """Every method that needs no trained teacher, on the network that it is usually trained on."""
    batch, form = batch_of(preset(name)), (precision, native())
    steps = {}
    for kind in METHODS.values():
        if not kind.needs_teacher:
            steps[kind.name, *form] = Step(kind(network(name, kind.usual_backbone)), batch, *form)
    return measured(steps, lambda _: ("dropout", *form), rounds)


def native() -> str:
    """The memory layout that the lab trains in."""
    return "contiguous" if default_device().type == "cuda" else "channels-last"


TABLES = {"forms": forms, "losses": losses, "backbones": backbones, "methods": methods}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="lab")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--tables", nargs="+", choices=TABLES, default=["forms", "losses"])
    parser.add_argument("--out", type=Path, help="CSV for all tables")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    recipe = preset(options.preset)
    print(f"{options.preset}: crop {recipe.sampling.crop_voxels}^3, batch {recipe.batch}, {default_device()}, "
          f"{torch.get_num_threads()} threads, torch {torch.__version__}, {options.rounds} rounds")  # fmt: skip
    found = {}
    for name in options.tables:
        found[name] = TABLES[name](options.preset, options.rounds)
        print(f"\n{name}\n{found[name].round(3).to_string(index=False)}", flush=True)
    if options.out:
        with written_aside(options.out) as aside:
            pd.concat(found, names=["table"]).reset_index("table").round(4).to_csv(aside, index=False)


if __name__ == "__main__":
    main()
