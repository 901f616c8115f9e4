"""Every ratio that the project tells of its speed, measured in one run.

    make bench                                # lab sizes; BENCH_ARGS="--rounds 9 --only evaluation loading"
    python benchmarks/bench.py --preset smoke --rounds 1 --out out/bench.csv

Ratios hold on a shared machine, seconds do not: what is compared is timed in turn, round by round, in processor time
(wall time on a GPU). Printed after every section, and written to one CSV: median seconds, median, least and greatest
ratio, what the ratio is of, and the machine. ``benchmarks/README.md`` explains each number and what bounds it.

convolution one sample in float32, there and back: PyTorch's own convolution over ours, times faster
backbones   a training step of every network: PyTorch's own fp32 over ours, times faster
alignment   a step with each alignment loss over one without
teacher     a step of teacher, aligned teacher and student in each precision and layout
methods     a step of every method over one of modality dropout on the U-Net
balancing   a step of PASSION and the other balancing methods over one of the fused prediction alone
loading     decoding a subject's files over every way to read the cache, times faster
evaluation  all subsets of a patient: the naive loop over ours, times faster
metrics     HD95: MONAI and medpy's algorithm over ours, times faster
gap         all measures of the gap of 4000 latents: seconds; a fitted UMAP over its first fit
phantom     a synthetic patient at 4, 2 and 1 mm, and with all ingredients: seconds
randomising domain randomisation of a step's crops over the step that learns from them
start       importing the package, ``mtg-lab --help``: over a Python that does nothing
"""

import argparse
import resource
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import balancing_time
import evaluation
import loading
import metrics
import numpy as np
import pandas as pd
import step_time
import torch
from monai.transforms import Compose
from timing import environment, in_turn, ratios, seconds

from mtg_lab.backbones.layout import Conv, channels_last
from mtg_lab.files import make_folder, written_aside
from mtg_lab.methods import Dropout
from mtg_lab.randomisation import randomising
from mtg_lab.recipes import PRESETS
from mtg_lab.recipes import preset as recipe_of

COLUMNS = ["section", "case", "seconds", "ratio", "least", "most", "of", "peak_mb"]


def convolution(preset: str, rounds: int) -> pd.DataFrame:
    """Times faster than PyTorch's own convolution of the same single sample, channels-last, gradients included."""
    edge, found = recipe_of(preset).sampling.crop_voxels, []
    for into, out, side, stride in ((1, 8, edge, 1), (8, 8, edge, 1), (8, 16, edge, 2), (32, 32, edge // 4, 1)):
        x = channels_last(torch.randn(1, into, side, side, side)).requires_grad_()
        ways = {}
        for name, kind in (("PyTorch", torch.nn.Conv3d), ("ours", Conv)):
            module = kind(into, out, 3, stride, 1)
            inputs, weighting = [x, *module.parameters()], torch.randn_like(module(x))
            ways[name] = partial(_there_and_back, module, inputs, weighting)
        table = ratios(in_turn(ways, rounds, at_least=0.2), lambda _: "PyTorch", faster=True)[1:]
        strided = " by 2" if stride > 1 else ""
        found.append(table.assign(case=f"{into} to {out} channels, {side}^3{strided}"))
    return pd.concat(found).assign(of="PyTorch's over this")


def _there_and_back(module: torch.nn.Module, inputs: list[torch.Tensor], weighting: torch.Tensor) -> None:
    torch.autograd.grad(module(inputs[0]), inputs, weighting)


def backbones(preset: str, rounds: int) -> pd.DataFrame:
    """Times faster than the plain form of the same network."""
    table = _of_steps(step_time.backbones(preset, rounds))
    ratio, least, most = (1 / table[c] for c in ("ratio", "most", "least"))
    return table.assign(ratio=ratio, least=least, most=most, of="PyTorch's layout in fp32 over this")


def alignment(preset: str, rounds: int) -> pd.DataFrame:
    """What a loss adds to a step."""
    return _of_steps(step_time.losses(preset, rounds)).assign(of="over no alignment")


def teacher(preset: str, rounds: int) -> pd.DataFrame:
    """What precision, layout, alignment and a teacher do to a step."""
    return _of_steps(step_time.forms(preset, rounds)).assign(of="over the same in PyTorch's layout and fp32")


def methods(preset: str, rounds: int) -> pd.DataFrame:
    """What a method adds to a step."""
    return _of_steps(step_time.methods(preset, rounds)).assign(of="over dropout")


def balancing(preset: str, rounds: int) -> pd.DataFrame:
    """What balancing adds to a step, on two networks."""
    tables = {b: balancing_time.table(preset, b, rounds) for b in ("unet", "rfnet")}
    found = [t.assign(case=[f"{b} {c}" for c in t["case"]]) for b, t in tables.items()]
    return pd.concat(found).assign(of="over complete")


def reading(preset: str, rounds: int) -> pd.DataFrame:
    """Times faster than decoding the files."""
    found = [t.assign(case=[f"{name}: {c}" for c in t["case"]]) for name, t in loading.tables(rounds)]
    return pd.concat(found).assign(of="decoding over this")


def all_subsets(preset: str, rounds: int) -> pd.DataFrame:
    """Times faster than the naive loop; one round, the spread is that of the loop's windows."""
    spacing = {"smoke": 4.0, "lab": 1.5, "paper": 1.0}[preset]
    table = evaluation.table(
        spacing=spacing,
        windows=(evaluation.WINDOW, 40, 0),
        timed=max(1, min(rounds, 3)),
        patients=max(2, min(rounds, 8)),
    )
    words = [f"{row['case']}, mean Dice {row['dice']:.3f}" for _, row in table.iterrows()]
    differ = [
        "" if pd.isna(d) else f", less the naive loop's {d:+.3f} [{low:+.3f}, {high:+.3f}]"
        for d, low, high in zip(table["difference"], table["low"], table["high"], strict=True)
    ]
    return table.assign(case=[w + d for w, d in zip(words, differ, strict=True)], of="naive loop over this")


def hausdorff(preset: str, rounds: int) -> pd.DataFrame:
    """Times faster than other libraries, on the same masks, with the same value."""
    table = metrics.table(rounds).reset_index()
    cases = [f"{a}, {p}" for a, p in zip(table["against"], table["prediction"], strict=True)]
    return pd.DataFrame({"case": cases, "seconds": table["ours, s"], "ratio": table["faster"], "least": table["least"],
                         "most": table["most"], "of": "theirs over this"})  # fmt: skip


def gap_measures(preset: str, rounds: int) -> pd.DataFrame:
    """Seconds of all measures with 200 nulls and 200 draws, and of UMAP."""
    from mtg_lab.embedding import Embedding
    from mtg_lab.gap import gap

    table = _latents(voxels=100 if preset == "smoke" else 1000)
    few = table.groupby(["subject", "modality"]).head(60)
    first = seconds(lambda: Embedding("umap").fit(few))  # imports and compiles
    measured = in_turn({"all measures": lambda: gap(table), "UMAP": lambda: Embedding("umap").fit(few)}, rounds)
    found = ratios(measured.assign(first=first), lambda key: "first" if key == "UMAP" else key, faster=True)[:2]
    found["case"] = [f"all measures of {len(table)} latents, 200 nulls", f"UMAP of {len(few)} latents"]
    return found.assign(of=["itself", "first fit over this"])


def phantoms(preset: str, rounds: int) -> pd.DataFrame:
    """Seconds of a synthetic patient, in ratio to one of 2 mm."""
    from mtg_lab.phantom import synthesise

    spacings = (4.0, 2.0) if preset == "smoke" else (4.0, 2.0, 1.0)
    ways = {f"{s:g} mm": (lambda s=s: synthesise(1, "A", s)) for s in spacings}
    ways["2 mm, all ingredients"] = lambda: synthesise(1, "A", 2.0, ingredients="all")
    return ratios(in_turn(ways, rounds), lambda _: "2 mm").assign(of="over 2 mm")


def randomised(preset: str, rounds: int) -> pd.DataFrame:
    """What a loader does for a step with ``sampling.randomise=1``, beside the step in fp32 and, if it pays, bf16."""
    batch = step_time.batch_of(recipe_of(preset))
    crops = [{k: batch[k][i].cpu() for k in ("image", "label")} for i in range(len(batch["label"]))]
    bend = Compose(randomising(1.0))
    ways: dict[str, Callable[[], object]] = {f"step, {p}": step_time.Step(
        Dropout(step_time.network(preset)), batch, p, step_time.native()) for p in step_time.PRECISIONS}  # fmt: skip
    ways["its crops"] = lambda: [bend({k: v.clone() for k, v in crop.items()}) for crop in crops]
    return ratios(in_turn(ways, rounds), lambda _: "step, fp32").assign(of="over the step in fp32")


def start(preset: str, rounds: int) -> pd.DataFrame:
    """Processor time of what a user waits for before anything happens."""
    python = sys.executable
    commands = {
        "python -c pass": [python, "-c", "pass"],
        "import mtg_lab": [python, "-c", "import mtg_lab"],
        "mtg-lab --help": [str(Path(python).with_name("mtg-lab")), "--help"],
    }

    def children() -> float:
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return used.ru_utime + used.ru_stime

    def one(command: list[str]) -> float:
        before = children()
        subprocess.run(command, check=True, capture_output=True)
        return children() - before

    measured = pd.DataFrame([{name: one(c) for name, c in commands.items()} for _ in range(rounds + 1)])[1:]
    return ratios(measured, lambda _: "python -c pass").assign(of="over python -c pass")


SECTIONS: dict[str, Callable[[str, int], pd.DataFrame]] = {
    "convolution": convolution,
    "backbones": backbones,
    "alignment": alignment,
    "teacher": teacher,
    "methods": methods,
    "balancing": balancing,
    "loading": reading,
    "evaluation": all_subsets,
    "metrics": hausdorff,
    "gap": gap_measures,
    "phantom": phantoms,
    "randomising": randomised,
    "start": start,
}


def _of_steps(table: pd.DataFrame) -> pd.DataFrame:
    cases = [" ".join(row) for row in table[["arm", "precision", "layout"]].itertuples(index=False)]
    return pd.DataFrame({"case": cases, "seconds": table["seconds"], "ratio": table["ratio"],
                         "least": table["ratio_least"], "most": table["ratio_most"],
                         "peak_mb": table["peak_mb"]})  # fmt: skip


def _latents(voxels: int, subjects: int = 4, channels: int = 8) -> pd.DataFrame:
    """Paired latents of four modalities, a Gaussian each, in the form of ``mtg_lab.latents``."""
    rng, rows = np.random.default_rng(0), []
    for subject in range(subjects):
        common = rng.standard_normal((voxels // subjects, channels))
        for number, modality in enumerate(("t1n", "t1c", "t2w", "t2f")):
            z = common + 0.5 * number + 0.5 * rng.standard_normal(common.shape)
            part = pd.DataFrame(z, columns=[f"z{c}" for c in range(channels)])
            keys = {"subject": f"P{subject}", "site": "A", "tissue": "brain", "modality": modality}
            rows.append(part.assign(voxel=range(len(part)), **keys))
    return pd.concat(rows, ignore_index=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="lab", choices=PRESETS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--out", type=Path, default=Path("out/bench.csv"))
    options = parser.parse_args()
    if options.rounds < 1:
        raise SystemExit(f"--rounds is {options.rounds}; a ratio needs at least 1")
    torch.set_num_threads(options.threads)
    machine, found = environment(), []
    print(", ".join(f"{k} {v}" for k, v in machine.items() if v))
    make_folder(options.out.parent)
    for name in options.only:
        table = SECTIONS[name](options.preset, options.rounds).assign(section=name).reindex(columns=COLUMNS)
        found.append(table)
        print(f"\n{name}: {SECTIONS[name].__doc__}\n{table[COLUMNS[1:]].round(3).to_string(index=False)}", flush=True)
        with written_aside(options.out) as aside:  # after every section, so that a stop loses nothing
            pd.concat(found).assign(preset=options.preset, rounds=options.rounds, **machine).to_csv(aside, index=False)
    print(f"\n{options.out}")


if __name__ == "__main__":
    main()
