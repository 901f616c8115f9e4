r"""What is it worth to take small parts out of a network's masks? The size is chosen on phantoms, then met by others.

    python benchmarks/small_parts.py nobody --real gliomas.csv --out out/small_parts

Components below a size (26 neighbours) go out of every region; ``mtg-lab predict --remove WT:SIZE --remove TC:SIZE
--remove ET:SIZE`` does the same to a mask. One size for all regions is chosen by the mean Dice of WT, TC and ET on the
split val of ``--choose``; it then meets the test patients of three phantom cohorts and of ``--real``, all subsets.
Dice of a patient without a region is 1 where the mask has none either and 0 where it has some, so that ``overall`` also
tells patients with and without a region apart; sensitivity tells what of the true tumour goes along.

Writes trials.csv (Dice, sensitivity, HD95 by size), overall.csv (before, after, difference with a 95 % interval over
patients; of fewer than six patients their range) and about.json. What is scored is not scored again.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from studies import about, apart

from mtg_lab import read_manifest
from mtg_lab.files import make_folder, write_text
from mtg_lab.protocol import protocol_line
from mtg_lab.resampling import interval, resampled_means
from mtg_lab.runs import Run, load_run
from mtg_lab.sweeps import kept_scores

SIZES = (250, 500, 1000, 2000, 4000, 8000)  # mm3
SHOWN = ("dice", "sensitivity", "hd95")
PRESENT = "relative_volume_error"  # a number exactly where the reference has the region
COHORTS = {"plain": "", "varied": "varied", "sites": "sites"}
REAL = "real patients"
DRAWS = 4000


def scored(run: Run, manifest: str, split: str, size: float, out: Path) -> pd.DataFrame:
    """Scores with and without parts below ``size`` mm3, one row a patient, subset, region and way."""
    cohort = read_manifest(manifest)
    removals = [f"{region}:{size:g}" for region in cohort.schema.regions]
    folder = apart(cohort, split, out) / f"{size:g}"
    table = kept_scores(run, cohort, split, folder, metrics=(*SHOWN, PRESENT), removals=removals)
    names = ["subject", "subset", "region"]
    wide = table.set_index([*names, "metric"])["value"].unstack().reset_index()
    cut = wide["region"].str.endswith("pp")
    wide = wide.assign(region=wide["region"].str.removesuffix("pp"), cut=cut, present=wide[PRESENT].notna())
    wide.attrs.update(table.attrs)
    return wide[[*names, "cut", "present", *SHOWN]]


def compared(table: pd.DataFrame, draws: int = DRAWS) -> pd.DataFrame:
    """Before and after by region and metric; ``who``: all patients, those with the region, those without."""
    everything = table.groupby(["subject", "subset", "cut"], as_index=False)[list(SHOWN)].mean()
    everything = everything.assign(region="all", present=True)
    groups = [("all", everything), *(("all", part) for _, part in table.groupby("region", sort=False))]
    for (_, present), part in table.groupby(["region", "present"], sort=False):
        groups.append(("with it" if present else "without it", part))
    rows = []
    for who, part in groups:
        for metric in SHOWN:
            sides = part.pivot_table(index="subject", columns="cut", values=metric)
            cells = (sides[True] - sides[False]).to_numpy()
            low, high = cells.min(), cells.max()
            if len(cells) > 5:
                low, high = interval(resampled_means(cells[None], draws, np.random.default_rng(0)))
            rows.append({
                "region": part["region"].iloc[0], "who": who, "metric": metric, "before": sides[False].mean(),
                "after": sides[True].mean(), "difference": cells.mean(), "low": float(low), "high": float(high),
                "patients": len(cells),
            })  # fmt: skip
    return pd.DataFrame(rows)


def best(trials: pd.DataFrame) -> float:
    """The size with the highest mean Dice over regions, the smallest of those within half a thousandth."""
    means = trials[trials["region"] == "all"].set_index("mm3")["dice"]
    return float(means[means >= means.max() - 5e-4].index.min())


def tried(run: Run, manifest: str, sizes: Sequence[float], out: Path) -> pd.DataFrame:
    """Mean scores of every size on the split val of a cohort; 0 is the mask as it was."""
    rows = []
    for size in sizes:
        found = compared(scored(run, manifest, "val", size, out), draws=1).query("who == 'all'")
        for way, mm3 in (("before", 0.0), ("after", float(size))):
            means = found.pivot_table(index="region", columns="metric", values=way, sort=False)
            rows.append(means.reset_index().assign(mm3=mm3))
    trials = pd.concat(rows, ignore_index=True).drop_duplicates(["mm3", "region"])
    return trials[["mm3", "region", *SHOWN]].sort_values("mm3", kind="stable")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", help="a run folder or a network of the box")
    parser.add_argument("--choose", default="varied", help="the cohort by whose split val the size is chosen")
    parser.add_argument("--sizes", type=float, nargs="+", default=SIZES, metavar="MM3")
    parser.add_argument("--real", default="", help="manifest of real patients with a split test")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("out/small_parts"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    run, out = load_run(options.run), make_folder(options.out)
    trials = tried(run, options.choose, options.sizes, out)
    trials.to_csv(out / "trials.csv", index=False)
    size = best(trials)
    print(trials.round(3).to_string(index=False), f"\nchosen: {size:g} mm3", flush=True)
    rows, protocols = [], {}
    for cohort, manifest in (COHORTS | ({REAL: options.real} if options.real else {})).items():
        table = scored(run, manifest, "test", size, out)
        protocols[cohort] = protocol_line(table)
        rows.append(compared(table).assign(cohort=cohort))
        print(rows[-1].round(3).to_string(index=False), flush=True)
    pd.concat(rows, ignore_index=True).to_csv(out / "overall.csv", index=False)
    facts = about([]) | {"chosen_mm3": size, "chosen_by": f"{options.choose}, val", "protocols": protocols}
    write_text(out / "about.json", json.dumps(facts, indent=2))


if __name__ == "__main__":
    main()
