"""A thing to move on stored results: the missing rates, and what each method of balancing makes of them."""

from __future__ import annotations

import ipywidgets
import pandas as pd

from mtg_lab.figures_balancing import balance_scores
from mtg_lab.widgets import Picture, _checkboxes, _live, _ticked


def missing_rates(runs: pd.DataFrame) -> ipywidgets.VBox:
    """Slide the missing rates of training from balanced to far apart, and see Dice by modality and by number missing.

    Args:
        runs: of the balancing study, one line a run; columns arm, rates, seed, ``share_<modality>``,
            ``dice_<modality>_alone``, ``dice_<n>_missing``, and backbone where there are several.

    Raises:
        ValueError: there is no run.
    """
    if runs.empty:
        raise ValueError("the table holds no run")
    networks = list(dict.fromkeys(runs["backbone"])) if "backbone" in runs else [""]
    chosen = ipywidgets.SelectionSlider(
        options=by_imbalance(runs), description="missing rates", style={"description_width": "11em"},
        layout={"width": "32em", "max_width": "100%"},
    )  # fmt: skip
    network = ipywidgets.Dropdown(options=networks, description="network")
    arms = list(dict.fromkeys(runs["arm"]))
    boxes = _checkboxes(arms, arms)

    def draw() -> Picture:
        shown = runs[(runs["rates"] == chosen.value) & runs["arm"].isin(_ticked(boxes) or arms)]
        if "backbone" in runs:
            shown = shown[shown["backbone"] == network.value]
        return balance_scores(shown), told(shown)

    return _live(draw, [chosen, *([network] if len(networks) > 1 else []), boxes])


def by_imbalance(runs: pd.DataFrame) -> list[str]:
    """The sets of rates, those first under which the modalities were there almost equally often."""
    shares = runs.groupby("rates")[[c for c in runs if str(c).startswith("share_")]].mean()
    return list((shares.max(axis=1) - shares.min(axis=1)).sort_values(kind="stable").index)


def told(runs: pd.DataFrame) -> str:
    """In words: how often each modality was there, and mean Dice of every arm, of the rarest modality alone as well."""
    shares = runs[[c for c in runs if str(c).startswith("share_")]].mean().rename(lambda c: c.removeprefix("share_"))
    rarest = shares.idxmin()
    there = ", ".join(f"{m} {s:.0%}" for m, s in shares.items())
    means = runs.groupby("arm", sort=False)[["dice", f"dice_{rarest}_alone"]].mean()
    words = [f"{str(arm).replace('_', ' ')} {a:.3f}, {rarest} alone {b:.3f}" for arm, (a, b) in means.iterrows()]
    return f"Training patients with the sequence: {there}. Mean Dice over all subsets: {'; '.join(words)}."
