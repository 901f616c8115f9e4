"""Strategies against missing sequences side by side: what each changes, what it costs, what it invents."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from mtg_lab.errors import InputError
from mtg_lab.figure_notes import logarithmic, note_protocol, titled
from mtg_lab.palette import COLOURS, MARKERS

# AdaMM's authors tell six categories apart (arXiv 2509.15017); what papers leave out comes first.
CATEGORIES: Mapping[str, str] = {
    "zero_fill": "baseline",
    "mean_fill": "baseline",
    "specialists": "baseline",
    "nnunet": "baseline",
    "data_generation": "data generation",
    "feature_generation": "feature generation",
    "sample_retrieval": "sample retrieval",
    "dropout": "robustness",
    "dropout_tuned": "robustness",
    "dropout_adamm": "robustness",
    "multi_task": "multi-task",
    "plain": "distillation",
    "mind_the_gap": "distillation",
    "adamm_unet": "distillation",
    "adamm": "distillation",
    "adamm_tuned": "distillation",
}
TITLES: Mapping[str, str] = {
    "zero_fill": "zero-fill",
    "mean_fill": "mean-fill",
    "specialists": "a specialist a subset",
    "nnunet": "nnU-Net's network",
    "data_generation": "images painted",
    "feature_generation": "latents guessed",
    "sample_retrieval": "latents borrowed",
    "dropout": "subsets drawn",
    "dropout_tuned": "subsets drawn, best rate",
    "dropout_adamm": "subsets drawn, AdaMM's net",
    "multi_task": "reconstruction beside",
    "plain": "plain teacher",
    "mind_the_gap": "Mind the Gap",
    "adamm_unet": "AdaMM's terms, U-Net",
    "adamm": "AdaMM",
    "adamm_tuned": "AdaMM, best weight",
}
_ORDER = tuple(dict.fromkeys(CATEGORIES.values()))
_COLOURS = (7, 3, 5, 0, 2, 1, 4)
_ENTRY = 1.5  # inches of the widest entry of the legend, "feature generation"


def strategy_name(arm: str) -> str:
    """What an arm of the study is called in figures and tables."""
    whole = arm.removesuffix("_open")
    words = TITLES.get(whole, whole.replace("adamm_", "AdaMM, ").replace("_", " "))
    return words if whole == arm else f"{words}, gate open"


def strategy_forest(differences: pd.DataFrame, against: str = "dropout", title: str = "") -> Figure:
    """Dice less that of one strategy, with intervals: a row a strategy, a panel a number of missing sequences.

    Args:
        differences: columns ours, theirs, region, modalities (number, or ``all``), difference, low, high.
        against: whose Dice is taken off.
        title: of the figure.

    Raises:
        InputError: there are no such differences.
    """
    table = differences[(differences["theirs"] == against) & (differences["region"] == "all")]
    arms = [a for a in CATEGORIES if a in set(table["ours"])]
    if not arms:
        raise InputError(f"no differences to {against!r}; there are those to: {', '.join(set(differences['theirs']))}")
    numbers = sorted((int(m) for m in set(table["modalities"].astype(str)) - {"all"}), reverse=True)
    panels = {"all": "mean of these"} | {str(n): f"{numbers[0] - n} missing" for n in numbers}
    figure = Figure(figsize=(2.3 + 1.75 * len(panels), 1.3 + 0.3 * len(arms)), layout="constrained")
    row = figure.subplots(1, len(panels), sharey=True, sharex=True, squeeze=False)[0]
    for axes, (chosen, words) in zip(row, panels.items(), strict=True):
        part = table[table["modalities"].astype(str) == chosen].set_index("ours")
        for place, arm in enumerate(arms):
            if arm not in part.index:
                continue
            colour, marker = _style(arm)
            middle, low, high = part.loc[[arm], ["difference", "low", "high"]].to_numpy(dtype=float)[0]
            clear = low > 0 or high < 0
            axes.plot([low, high], [place, place], color=colour, lw=1.8)
            axes.plot(middle, place, marker, color=colour, mfc=None if clear else "white", ms=6)
        axes.axvline(0, color="black", lw=0.8)
        axes.set_title(words, fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="x", color="#e5e5e5")
        axes.tick_params(axis="x", labelsize=8)
    row[0].set(yticks=range(len(arms)), yticklabels=[strategy_name(a) for a in arms], ylim=(len(arms) - 0.5, -0.5))
    row[len(row) // 2].set_xlabel(f"Dice less that of: {strategy_name(against)}")
    _legend(figure, arms)
    titled(figure, title or "Strategies against missing sequences (filled where the interval excludes zero)")
    return note_protocol(figure, differences)


def cost_against_dice(runs: pd.DataFrame, title: str = "") -> Figure:
    """Mean Dice beside parameters, seconds a training step and seconds a patient: a row a strategy, the best first.

    Args:
        runs: a line a run: arm, dice, parameters, seconds_per_step, scoring_seconds. Where an arm has several, lines
            reach from the least to the most. With a column ``networks``, steps are counted for so many.
        title: of the figure.

    Raises:
        InputError: none of the arms is a strategy.
    """
    known = runs[runs["arm"].isin(list(CATEGORIES))]
    if known.empty:
        raise InputError(f"none of {', '.join(map(str, runs['arm']))} is a strategy; there are {', '.join(CATEGORIES)}")
    each = known.get("networks", 1)
    known = known.assign(parameters=known["parameters"] / 1e6, seconds_per_step=known["seconds_per_step"] * each)
    kinds = {"dice": "mean Dice", "parameters": "million parameters", "seconds_per_step": "seconds a step",
             "scoring_seconds": "seconds a patient"}  # fmt: skip
    of_arms = (
        known.groupby("arm")[list(kinds)].agg(["mean", "min", "max"]).sort_values(("dice", "mean"), ascending=False)
    )
    figure = Figure(figsize=(11, 1.5 + 0.28 * len(of_arms)), layout="constrained")
    row = figure.subplots(1, len(kinds), sharey=True)
    for axes, (column, words) in zip(row, kinds.items(), strict=True):
        for place, (arm, (middle, low, high)) in enumerate(of_arms[column].iterrows()):
            colour, marker = _style(str(arm))
            axes.plot([low, high], [place, place], color=colour, lw=1.8)
            axes.plot(middle, place, marker, color=colour, ms=6)
        axes.set_xlabel(words)
        if column != "dice":
            logarithmic(axes)
        axes.margins(x=0.1)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="#e5e5e5")
        axes.set_axisbelow(True)
    names = [strategy_name(str(arm)) for arm in of_arms.index]
    row[0].set(yticks=range(len(names)), yticklabels=names, ylim=(len(names) - 0.5, -0.5))
    _legend(figure, list(of_arms.index))
    titled(figure, title or "What a strategy reaches, and what it costs")
    return note_protocol(figure, runs)


def invented_bars(invented: pd.DataFrame, arms: Sequence[str], title: str = "") -> Figure:
    """Where there is no enhancing tumour: how often a network draws some, and how much, by number of sequences.

    Args:
        invented: columns arm, modalities (how many), share (of predictions with any) and millilitres (mean).
        arms: in order.
        title: of the figure.
    """
    figure = Figure(figsize=(9, 3.2 + 0.2 * (len(arms) // 3)), layout="constrained")
    row = figure.subplots(1, 2)
    sizes = sorted(set(invented["modalities"]))
    for axes, column, words in zip(row, ("share", "millilitres"), ("share with any", "ml on average"), strict=True):
        for number, arm in enumerate(arms):
            part = invented[invented["arm"] == arm].groupby("modalities")[column].mean()
            places = np.array([sizes.index(m) for m in part.index]) + 0.8 * ((number + 0.5) / len(arms) - 0.5)
            axes.bar(places, part, 0.75 / len(arms), color=COLOURS[(4, 1, 3, 0, 2, 5, 7, 6)[number % 8]],
                     label=strategy_name(arm))  # fmt: skip
        axes.set_xticks(range(len(sizes)), [str(s) for s in sizes])
        axes.set(xlabel="sequences", ylabel=words, ylim=(0, None))
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#e5e5e5")
        axes.set_axisbelow(True)
    figure.legend(*row[0].get_legend_handles_labels(), loc="outside lower center", ncols=min(len(arms), 3),
                  frameon=False)  # fmt: skip
    titled(figure, title or "Enhancing tumour drawn where there is none")
    return note_protocol(figure, invented)


def _style(arm: str) -> tuple[str, str]:
    place = _ORDER.index(CATEGORIES[arm])
    return COLOURS[_COLOURS[place]], MARKERS[place]


def _legend(figure: Figure, arms: Sequence[str]) -> None:
    handles = []
    for category in _ORDER:
        if of := [a for a in arms if CATEGORIES[a] == category]:
            colour, marker = _style(of[0])
            handles.append(Line2D([], [], color=colour, marker=marker, ls="", label=category))
    fitting = max(1, int(figure.get_figwidth() / _ENTRY))
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), fitting), frameon=False,
                  fontsize=9)  # fmt: skip
