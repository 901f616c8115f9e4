"""How networks do on patients of another kind than those they were trained on."""

from collections.abc import Iterator, Mapping, Sequence

import pandas as pd
from matplotlib.figure import Figure

from mtg_lab.errors import InputError
from mtg_lab.figure_notes import note_protocol, titled
from mtg_lab.palette import MARKERS, RUN_COLOURS

_WIDE = 80  # letters of a legend's names that stand side by side


def transfer_dots(tables: Mapping[str, pd.DataFrame], title: str = "") -> Figure:
    """Mean scores with intervals: a panel a cohort, a row a way of training, a mark a region.

    Args:
        tables: cohort to what :func:`mtg_lab.score_summary.summary` says of it: method, region, mean, low, high.
        title: of the figure.

    Raises:
        InputError: there is no table, or the tables have different methods.
    """
    methods = {cohort: tuple(dict.fromkeys(table["method"])) for cohort, table in tables.items()}
    if len(set(methods.values())) != 1:
        told = "; ".join(f"{cohort}: {', '.join(names)}" for cohort, names in methods.items()) or "there is none"
        raise InputError(f"every cohort needs the scores of the same methods; {told}")
    rows = next(iter(methods.values()))
    regions = list(dict.fromkeys(region for table in tables.values() for region in table["region"] if region != "all"))
    figure = Figure(figsize=(1.6 + 2.9 * len(tables), 1.5 + 0.45 * len(rows)), layout="constrained")
    panels = figure.subplots(1, len(tables), sharey=True, sharex=True, squeeze=False)[0]
    for axes, (cohort, table) in zip(panels, tables.items(), strict=True):
        for region, places, colour, marker in _beside(regions, len(rows)):
            part = table[table["region"] == region].set_index("method").reindex(rows)
            axes.hlines(places, part["low"], part["high"], color=colour, lw=1.6)
            axes.plot(part["mean"], places, marker, color=colour, ls="", ms=6, label=region)
        axes.set(title=cohort, xlabel="mean Dice", xlim=(0, 1))
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="x", color="#e5e5e5")
    panels[0].set(yticks=range(len(rows)), yticklabels=rows, ylim=(len(rows) - 0.5, -0.5))
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=6, frameon=False)
    titled(figure, title or "Trained on the left, tested above (95 % over patients)")
    return note_protocol(figure, list(tables.values()))


def ingredient_forest(differences: pd.DataFrame, rows: Sequence[str], title: str = "") -> Figure:
    """Dice of a network less that of another, with intervals: a row a way of training, a panel a cohort.

    Args:
        differences: of :func:`mtg_lab.evaluation.paired_difference`, with columns ours, theirs (one and the same) and
            cohort; those over all numbers of sequences are drawn, of all regions with their interval, of each as a dot.
        rows: which of ours, from top to bottom; what is not there is left out.
        title: of the figure.

    Raises:
        InputError: none of ``rows`` is there, or they are held against several.
    """
    table = differences[differences["modalities"].astype(str) == "all"]
    shown = [row for row in rows if row in set(table["ours"])]
    against = list(dict.fromkeys(table["theirs"]))
    if not shown or len(against) != 1:
        raise InputError(
            f"no picture of {', '.join(rows) or 'nothing'} against {', '.join(against) or 'nothing'}; there are "
            f"{', '.join(dict.fromkeys(table['ours'])) or 'no differences'}, and one is needed to hold them against"
        )
    cohorts = list(dict.fromkeys(table["cohort"]))
    figure = Figure(figsize=(2.2 + 2.5 * len(cohorts), 1.5 + 0.3 * len(shown)), layout="constrained")
    panels = figure.subplots(1, len(cohorts), sharey=True, sharex=True, squeeze=False)[0]
    places = range(len(shown))
    for axes, cohort in zip(panels, cohorts, strict=True):
        part = table[table["cohort"] == cohort]
        of_region = {region: t.set_index("ours").reindex(shown) for region, t in part.groupby("region", sort=False)}
        overall = of_region.pop("all")
        for number, (region, found) in enumerate(of_region.items()):
            colour, marker = RUN_COLOURS[number % len(RUN_COLOURS)], MARKERS[number % len(MARKERS)]
            axes.plot(found["difference"], places, marker, color=colour, ls="", ms=4, alpha=0.7, label=region)
        axes.hlines(places, overall["low"], overall["high"], color="black", lw=1.8)
        clear = (overall["low"] > 0) | (overall["high"] < 0)
        for place, (value, filled) in enumerate(zip(overall["difference"], clear, strict=True)):
            axes.plot(value, place, "D", color="black", mfc="black" if filled else "white", ms=6)
        axes.axvline(0, color="black", lw=0.8)
        axes.set_title(f"on {cohort}", fontsize=10)
        axes.locator_params(axis="x", nbins=4)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="x", color="#e5e5e5")
    panels[0].set(yticks=places, yticklabels=shown, ylim=(len(shown) - 0.5, -0.5))
    panels[len(panels) // 2].set_xlabel(f"Dice less that of: {against[0]}")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=6, frameon=False)
    titled(figure, title or "Diamonds: mean of the regions, filled where its interval excludes zero")
    return note_protocol(figure, differences)


def fine_tuning_curve(runs: pd.DataFrame, title: str = "") -> Figure:
    """Dice against the number of patients learnt from: a panel a region, a line a start, a dot a training.

    Args:
        runs: a line a training: arm, patients (0: the network as it came) and ``dice_<region>``.
        title: of the figure.

    Raises:
        InputError: there is no line.
    """
    of_something = [str(c)[5:] for c in runs if str(c).startswith("dice_")]
    regions = [name for name in of_something if not name.isdigit()]
    if not len(runs) or not regions:
        raise InputError("no run to draw; a table with arm, patients and dice_<region> is needed")
    figure = Figure(figsize=(1.0 + 2.4 * len(regions), 3.3), layout="constrained")
    panels = figure.subplots(1, len(regions), sharey=True, squeeze=False)[0]
    for axes, region in zip(panels, regions, strict=True):
        for number, (arm, part) in enumerate(runs.groupby("arm", sort=False)):
            colour, marker = RUN_COLOURS[number % len(RUN_COLOURS)], MARKERS[number % len(MARKERS)]
            mean = part.groupby("patients")[f"dice_{region}"].mean()
            axes.plot(part["patients"], part[f"dice_{region}"], marker, color=colour, ls="", ms=4, alpha=0.5)
            axes.plot(mean.index, mean, marker=marker, color=colour, lw=1.8, ms=7, label=str(arm), clip_on=False)
        axes.set(title=region, ylim=(0, 1), xticks=sorted(runs["patients"].unique()))
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#e5e5e5")
    panels[0].set_ylabel("mean Dice over subsets")
    panels[len(panels) // 2].set_xlabel("patients learnt from")
    handles, names = panels[0].get_legend_handles_labels()
    beside = max(1, min(4, _WIDE // max(map(len, names))))
    figure.legend(handles, names, loc="outside lower center", ncols=beside, frameon=False)
    titled(figure, title or "What a network that was trained on nobody is worth in patients")
    return note_protocol(figure, runs)


def before_and_after(overall: pd.DataFrame, title: str = "") -> Figure:
    """Mean scores before and after a change of the masks: a panel a metric, a row a cohort, a line a region.

    Args:
        overall: columns cohort, region (``all`` is left out), metric, before and after.
        title: of the figure.

    Raises:
        InputError: there is no line.
    """
    table = overall[overall["region"] != "all"]
    cohorts, regions, metrics = (list(dict.fromkeys(table[c])) for c in ("cohort", "region", "metric"))
    if not len(table):
        raise InputError("nothing to draw; a table with cohort, region, metric, before and after is needed")
    figure = Figure(figsize=(1.6 + 3.2 * len(metrics), 1.5 + 0.55 * len(cohorts)), layout="constrained")
    panels = figure.subplots(1, len(metrics), sharey=True, squeeze=False)[0]
    for axes, metric in zip(panels, metrics, strict=True):
        for region, places, colour, marker in _beside(regions, len(cohorts)):
            part = table[(table["metric"] == metric) & (table["region"] == region)].set_index("cohort").reindex(cohorts)
            axes.hlines(places, part["before"], part["after"], color=colour, lw=1.4)
            axes.plot(part["before"], places, marker, color=colour, mfc="white", ls="", ms=6)
            axes.plot(part["after"], places, marker, color=colour, ls="", ms=6, label=region)
        axes.set_xlabel({"dice": "mean Dice", "hd95": "mean HD95 in mm"}.get(metric, f"mean {metric}"))
        axes.set_xlim(0, 1 if metric in ("dice", "sensitivity", "precision") else None)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="x", color="#e5e5e5")
    panels[0].set(yticks=range(len(cohorts)), yticklabels=cohorts, ylim=(len(cohorts) - 0.5, -0.5))
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=6, frameon=False)
    titled(figure, title or "Open: before; filled: after")
    return note_protocol(figure, overall)


def _beside(regions: Sequence[str], rows: int) -> Iterator[tuple[str, list[float], str, str]]:
    """Each region with its places on ``rows`` lines, one beside the other, its colour and its marker."""
    for number, region in enumerate(regions):
        shift = 0.22 * (number - (len(regions) - 1) / 2)
        style = RUN_COLOURS[number % len(RUN_COLOURS)], MARKERS[number % len(MARKERS)]
        yield region, [place + shift for place in range(rows)], *style
