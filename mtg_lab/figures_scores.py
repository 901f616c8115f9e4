"""Pictures of score statistics: worth of sequences, two runs case by case, firm and loose rankings, claims and spread.

Functions of the tables of :mod:`mtg_lab.shapley`, :mod:`mtg_lab.statistics` and :mod:`mtg_lab.literature` that return a
matplotlib Figure, with the colours of :mod:`mtg_lab.palette`; nothing touches pyplot.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from mtg_lab.figure_notes import note_protocol, titled, wrapped
from mtg_lab.palette import COLOURS, MARKERS, modality_style
from mtg_lab.postprocessing import derived_regions
from mtg_lab.score_cube import EVERY_REGION, Scores, comparable_cubes, more_is_better, nanmean
from mtg_lab.statistics import SIGNIFICANT

_GREY = "#6b6b6b"
_FAINT = "#e5e5e5"
_REGION_WORDS = {EVERY_REGION: "all regions"}


def shapley_bars(worth: pd.DataFrame, title: str = "") -> Figure:
    """What each sequence is worth, a panel a region, on one scale; the table of :func:`mtg_lab.shapley.worth`.

    Whiskers are the 95 % intervals; bars of a panel sum to the score with all sequences, which its title gives.
    """
    regions, modalities = (list(dict.fromkeys(worth[c])) for c in ("region", "modality"))
    style, places = modality_style(modalities), np.arange(len(modalities))
    figure = Figure(figsize=(1.1 + 2.3 * len(regions), 1.5 + 0.4 * len(modalities)), layout="constrained")
    for axes, region in zip(figure.subplots(1, len(regions), sharey=True, sharex=True, squeeze=False)[0], regions,
                            strict=True):  # fmt: skip
        part = worth[worth["region"] == region].set_index("modality").loc[modalities]
        axes.barh(places, part["value"], color=[style[m][0] for m in modalities], height=0.66)
        for colour, width in (("white", 4.5), ("black", 1.6)):  # seen on a dark bar as well as beside it
            axes.hlines(places, part["low"], part["high"], color=colour, lw=width)
        for place, (value, high, share) in enumerate(part[["value", "high", "share"]].to_numpy()):
            words = f"{share:.0%}" if np.isfinite(share) else f"{value:.2f}"
            axes.annotate(words, (max(high, value, 0), place), (5, 0), textcoords="offset points", va="center",
                          fontsize=8.5, color="#333333")  # fmt: skip
        axes.set_title(f"{_REGION_WORDS.get(region, region)}: {part['full'].iloc[0]:.2f} with all", fontsize=10)
        axes.axvline(0, color="black", lw=0.8)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="x", color=_FAINT, zorder=0)
        axes.set_axisbelow(True)
    axes.set_yticks(places, modalities)
    axes.set_ylim(len(modalities) - 0.5, -0.5)
    axes.set_xlim(right=1.22 * max(worth["high"].max(), worth["value"].max()))
    figure.supxlabel("Shapley value (Dice), with its share of the score with all sequences", fontsize=10)
    titled(figure, title or _most_worth(worth))
    return note_protocol(figure, worth)


def _most_worth(worth: pd.DataFrame) -> str:
    aside = [EVERY_REGION, *derived_regions(list(worth["region"].unique()))]
    leading = worth[~worth["region"].isin(aside)]
    leading = leading if len(leading) else worth
    best = leading.loc[leading.groupby("region", sort=False)["value"].idxmax()]
    return "Worth most: " + ", ".join(f"{m} for {r}" for r, m in zip(best["region"], best["modality"], strict=True))


def case_scatter(
    ours: Scores,
    theirs: Scores,
    names: tuple[str, str] = ("ours", "theirs"),
    metric: str = "dice",
    title: str = "",
    links: Mapping[str, str] | None = None,
    marked: str = "",
) -> Figure:
    """Every subject under two methods, a panel a region; a subject's score is the mean over subsets and seeds.

    Args:
        ours, theirs: a table of :func:`mtg_lab.evaluate`, or seed to table, under one protocol.
        names: of the two.
        metric: which score.
        title: a sentence.
        links: subject to the address that its point leads to where the figure is saved as SVG.
        marked: a subject whose points are ringed and named; without one the furthest from the diagonal is named.
    """
    cubes = comparable_cubes(dict(zip(names, (ours, theirs), strict=True)), metric)
    mine, other = (nanmean(cubes[n].values, axis=(0, 2)) for n in names)  # [subjects, regions]
    regions, subjects = cubes[names[0]].regions, cubes[names[0]].subjects
    sign = 1 if more_is_better(metric) else -1
    figure = Figure(figsize=(0.6 + 2.75 * len(regions), 3.6), layout="constrained")
    for number, (axes, region) in enumerate(
        zip(figure.subplots(1, len(regions), squeeze=False)[0], regions, strict=True)
    ):
        known = np.isfinite(other[:, number]) & np.isfinite(mine[:, number])
        x, y = other[known, number], mine[known, number]
        gains = sign * (y - x) > 0
        axes.axline((0, 0), slope=1, color="black", lw=0.9)
        drawn = [n for n, k in zip(subjects, known, strict=True) if k]
        for chosen, look in ((gains, {"color": COLOURS[4], "marker": "o", "linewidths": 0, "alpha": 0.85}),
                             (~gains, {"facecolor": "none", "edgecolor": COLOURS[3], "marker": "D"})):  # fmt: skip
            points = axes.scatter(x[chosen], y[chosen], s=34, **look)  # type: ignore[arg-type]
            points.set_urls([(links or {}).get(n) for n, c in zip(drawn, chosen, strict=True) if c])
        axes.set_title(f"{_REGION_WORDS.get(region, region)}: {gains.sum()} of {len(x)} better", fontsize=10)
        if len(x):
            edge = 0.08 * (np.ptp([x, y]) or 1)
            limits = (min(x.min(), y.min()) - edge, max(x.max(), y.max()) + edge)
            axes.set(xlim=limits, ylim=limits)
            if marked in drawn:
                place = drawn.index(marked)
                axes.scatter(x[place], y[place], s=130, facecolor="none", edgecolor="black", linewidths=1.6)
            _name_point(axes, x, y, drawn, drawn.index(marked) if marked in drawn else int(np.abs(y - x).argmax()))
        axes.set(aspect="equal", xlabel=names[1])
        axes.locator_params(nbins=5)
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylabel(names[0])
    handles = [
        Line2D([], [], ls="", marker="o", color=COLOURS[4], label=f"better under {names[0]}"),
        Line2D([], [], ls="", marker="D", mfc="none", mec=COLOURS[3], label=f"not better under {names[0]}"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    titled(figure, title or f"{metric.capitalize()} of every subject, mean over subsets and seeds")
    return note_protocol(figure, cubes[names[0]].table([]))


def _name_point(axes: Axes, x: np.ndarray, y: np.ndarray, subjects: Sequence[str], place: int) -> None:
    """Name a subject's point, on the side away from the diagonal."""
    if x[place] == y[place]:
        return
    above = y[place] > x[place]
    # Away from the edge that the name would run over, and from the diagonal.
    where = (
        {"xytext": (-6, 5), "ha": "right", "va": "bottom"} if above else {"xytext": (6, -5), "ha": "left", "va": "top"}
    )
    low, high = axes.get_xlim()
    if not above and x[place] > low + 0.6 * (high - low):
        where = {"xytext": (4, -9), "ha": "center", "va": "top"}
    if above and x[place] < low + 0.4 * (high - low):
        where = {"xytext": (-4, 9), "ha": "center", "va": "bottom"}
    axes.annotate(subjects[place], (x[place], y[place]), textcoords="offset points", fontsize=8, color=_GREY,
                  **where)  # type: ignore[arg-type]  # fmt: skip


def rank_plot(stability: pd.DataFrame, tests: pd.DataFrame | None = None, title: str = "") -> Figure:
    """How firm each method's rank is, a panel a region; after the critical-difference diagram of Demšar 2006.

    A point is the rank by mean score, its bar the 95 % of bootstrap draws, the number at the side how often the method
    is first. Grey brackets on the right join methods of neighbouring ranks that the tests cannot tell apart (Holm's p
    of Wilcoxon's test at 0.05, as Benavoli et al. 2016 advise, not Nemenyi's distance).

    Args:
        stability: of :func:`mtg_lab.statistics.rank_stability`.
        tests: of :func:`mtg_lab.statistics.paired_tests` over all pairs; None draws no brackets.
        title: a sentence.
    """
    regions = list(dict.fromkeys(stability["region"]))
    count = stability["method"].nunique()
    longest = max(len(m) for m in stability["method"])
    figure = Figure(figsize=((2.1 + 0.08 * longest) * len(regions), 1.7 + 0.36 * count), layout="constrained")
    for axes, region in zip(figure.subplots(1, len(regions), squeeze=False)[0], regions, strict=True):
        part = stability[stability["region"] == region].sort_values(["rank", "case_rank"], kind="stable")
        methods = list(part["method"])
        colours = [COLOURS[(4, 3, 2, 0, 5, 1, 7, 6)[list(stability["method"]).index(m) % 8]] for m in methods]
        markers = [MARKERS[list(stability["method"]).index(m) % 8] for m in methods]
        for place, (rank, low, high) in enumerate(part[["rank", "rank_low", "rank_high"]].to_numpy()):
            axes.plot([low, high], [place, place], color=colours[place], lw=3, alpha=0.45, solid_capstyle="round")
            axes.plot(rank, place, markers[place], color=colours[place], ms=7)
        _brackets(axes, methods, region, tests, count)
        axes.set_yticks(range(count), [f"{m}  {f:.0%}" for m, f in zip(methods, part["first"], strict=True)])
        axes.set(xlim=(0.6, count + 1.2), xticks=range(1, count + 1))
        axes.set_ylim(count - 0.5, -0.6)
        axes.set_title(f"{_REGION_WORDS.get(region, region)}, τ = {part['tau'].iloc[0]:.2f}", fontsize=10)
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="x", color=_FAINT)
        axes.set_axisbelow(True)
        axes.spines[["top", "right", "left"]].set_visible(False)
    words = "rank by mean score; bar: 95 % of draws of patients and seeds; %: how often first; τ: agreement of draws"
    words += "; bracket: not told apart" if tests is not None else ""
    figure.supxlabel("\n".join(wrapped(words, figure.get_figwidth() - 0.2, 9)), fontsize=9)
    titled(figure, title or "How firm the ranking is")
    return note_protocol(figure, stability)


def _brackets(axes: Axes, methods: Sequence[str], region: str, tests: pd.DataFrame | None, count: int) -> None:
    """Join the longest runs of neighbours of which no pair differs."""
    if tests is None:
        return
    part = tests[(tests["region"] == region) & (tests["p_holm"] < SIGNIFICANT)]
    apart = {frozenset(pair) for pair in zip(part["ours"], part["theirs"], strict=True)}
    runs: list[tuple[int, int]] = []
    for start in range(len(methods)):
        end = start
        while end + 1 < len(methods) and not any(
            frozenset({methods[i], methods[end + 1]}) in apart for i in range(start, end + 1)
        ):
            end += 1
        if end > start and (not runs or end > runs[-1][1]):
            runs.append((start, end))
    for number, (start, end) in enumerate(runs):
        x = count + 0.45 + 0.25 * (number % 3)
        axes.plot([x, x], [start - 0.15, end + 0.15], color=_GREY, lw=2.5, solid_capstyle="butt")


def claims_against_spread(
    gains: pd.DataFrame,
    reports: pd.DataFrame,
    seeds: pd.DataFrame | None = None,
    runs: str = "our runs",
    title: str = "",
) -> Figure:
    """What papers claim to gain, against what numbers of one method differ by; points of Dice, a panel a region.

    Args:
        gains: of :func:`mtg_lab.literature.claimed_gains`: a point a claim, open where it is smaller than the distance
            between reports.
        reports: of :func:`mtg_lab.literature.reported_spread`: a line at the median distance between the reports of
            one method on one dataset.
        seeds: of :func:`mtg_lab.statistics.seed_spread` of this package's own runs: a band as wide as what two
            trainings of one method differ by in 95 % of pairs; its half width stands above the panel.
        runs: what these runs are, in the legend: another cohort and network than those of the papers.
        title: a sentence.
    """
    regions = [r for r in ("WT", "TC", "ET") if r in set(gains["region"])] or list(dict.fromkeys(gains["region"]))
    claims = list(dict.fromkeys(zip(gains["method"], gains["dataset"], gains["year"], strict=True)))
    claims.sort(key=lambda c: (c[1], c[2]))
    figure = Figure(figsize=(1.8 + 2.4 * len(regions), 2.1 + 0.29 * len(claims)), layout="constrained")
    apart = reports.groupby("region")["range"].median().to_dict()
    chances = {} if seeds is None else dict(zip(seeds["region"], 100 * seeds["chance"], strict=True))
    inside = 0
    panels = figure.subplots(1, len(regions), sharey=True, sharex=True, squeeze=False)[0]
    for axes, region in zip(panels, regions, strict=True):
        part = gains[gains["region"] == region]
        values = dict(zip(zip(part["method"], part["dataset"], part["year"], strict=True), part["gain"], strict=True))
        distance, chance = apart.get(region, np.nan), chances.get(region, np.nan)
        if np.isfinite(chance):
            axes.axvspan(-chance, chance, color="#e6e6e6", lw=0)
        if np.isfinite(distance):
            axes.axvline(distance, color=COLOURS[3], ls="dashed", lw=1.6)
        for place, claim in enumerate(claims):
            if claim in values:
                gain, small = values[claim], abs(values[claim]) < distance
                inside += small
                axes.plot([0, gain], [place, place], color=COLOURS[4], lw=1.2)
                axes.plot(gain, place, "o", color=COLOURS[4], ms=6, mfc="white" if small else None)
        axes.axvline(0, color="black", lw=0.9)
        axes.set_title(region + (f" (seeds: ±{chance:.1f})" if np.isfinite(chance) else ""), fontsize=10)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(axis="y", length=0)
    panels[0].set_yticks(range(len(claims)), [f"{m}, {d} {y}" for m, d, y in claims])
    panels[0].set_ylim(len(claims) - 0.5, -0.5)
    widest = gains["gain"].abs().max()
    panels[0].set_xlim(min(-0.12 * widest, 1.3 * gains["gain"].min()), 1.12 * widest)  # a band may be wider than that
    panels[len(regions) // 2].set_xlabel("claimed gain over the best other method of the same table (points of Dice)")
    handles: list[Line2D | Patch] = [
        Line2D([], [], marker="o", color=COLOURS[4], label="claim (open: smaller than the dashed distance)"),
        Line2D([], [], color=COLOURS[3], ls="dashed", label="median distance between reports of one method"),
    ]
    if chances:
        label = f"what two seeds of one method differ by (95 %): {runs}"
        handles.append(Patch(facecolor="#e6e6e6", edgecolor="#bbbbbb", label=label))
    figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False, fontsize=8.5)
    words = f"{inside} of {len(gains)} claimed gains are smaller than the distance between reports of one method"
    titled(figure, title or words)
    return figure if seeds is None else note_protocol(figure, seeds)
