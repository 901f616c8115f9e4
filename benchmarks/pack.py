"""Bring a study's tables into the package, where notebooks find them (``mtg_lab.lesson.measured``).

    python benchmarks/pack.py out/nobody_study
    python benchmarks/pack.py out/fine/gl0 out/fine/gl1 out/longer/gl0 --name fine_tuning --tables runs

Tables are taken as they are, but for digits beyond the sixth and for what tells of a machine and not of a method.
Those of several folders are joined, with the folder's name in a column ``fold``, a line that stands twice once. What
was measured with several commands says all of them.
"""

import argparse
import json
import shlex
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path, PurePath

import pandas as pd
from studies import COST

from mtg_lab.files import make_folder, write_text, written_aside

HOME = Path(str(files("mtg_lab"))) / "results"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--name", help="of the study; by default the folder's")
    parser.add_argument("--tables", nargs="+", default=["runs", "differences"])
    options = parser.parse_args()
    target = make_folder(HOME / (options.name or options.folders[0].name))
    for name in options.tables:
        with written_aside(target / f"{name}.csv") as aside:
            joined(options.folders, name).round(6).to_csv(aside, index=False)
    write_text(target / "about.json", json.dumps(facts(options.folders), indent=2) + "\n")
    print("\n".join(f"{p.stat().st_size:9} {p.name}" for p in sorted(target.iterdir())))


def joined(folders: Sequence[Path], name: str) -> pd.DataFrame:
    """One table of all folders."""
    found = [pd.read_csv(folder / f"{name}.csv").drop(columns=[*COST], errors="ignore") for folder in folders]
    if len(found) == 1:
        return found[0]
    named = [t.assign(fold=folder.name) for folder, t in zip(folders, found, strict=True)]
    return pd.concat(named, ignore_index=True).drop_duplicates(ignore_index=True)


def facts(folders: Sequence[Path]) -> dict[str, object]:
    """How it was made; a path of the machine it was made on becomes the name that it ends with."""
    told = [json.loads((folder / "about.json").read_text()) for folder in folders]
    commands = [shlex.join(_elsewhere(word) for word in shlex.split(about["command"])) for about in told]
    kept = told[0]
    if len(told) > 1:
        kept = {k: v for k, v in kept.items() if k not in ("protocol", "digests")}
        named = zip(folders, told, strict=True)
        kept["protocols"] = {folder.name: about["protocol"] for folder, about in named if "protocol" in about}
    return {**kept, "command": "; ".join(dict.fromkeys(commands))}


def _elsewhere(word: str) -> str:
    option, sign, value = word.rpartition("=")
    return f"{option}{sign}out/{PurePath(value).name}" if PurePath(value).is_absolute() else word


if __name__ == "__main__":
    main()
