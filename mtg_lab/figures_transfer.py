"""How networks do on patients of another kind than those they were trained on."""

from collections.abc import Mapping

import pandas as pd
from matplotlib.figure import Figure

from mtg_lab.errors import InputError
from mtg_lab.figure_notes import note_protocol, titled
from mtg_lab.palette import MARKERS, RUN_COLOURS


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
        for number, region in enumerate(regions):
            part = table[table["region"] == region].set_index("method").reindex(rows)
            shift = 0.22 * (number - (len(regions) - 1) / 2)
            places = [place + shift for place in range(len(rows))]
            colour, marker = RUN_COLOURS[number % len(RUN_COLOURS)], MARKERS[number % len(MARKERS)]
            axes.hlines(places, part["low"], part["high"], color=colour, lw=1.6)
            axes.plot(part["mean"], places, marker, color=colour, ls="", ms=6, label=region)
        axes.set(title=cohort, xlabel="mean Dice", xlim=(0, 1))
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="x", color="#e5e5e5")
    panels[0].set(yticks=range(len(rows)), yticklabels=rows, ylim=(len(rows) - 0.5, -0.5))
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=6, frameon=False)
    titled(figure, title or "Trained on the left, tested above (95 % over patients)")
    return note_protocol(figure, list(tables.values()))
