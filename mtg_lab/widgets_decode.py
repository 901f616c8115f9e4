"""Latents to move by hand, and the segmentation that changes with them: sequences, anchor weights, the gap.

One patient's crop is encoded once; a moved control decodes it again and draws it. Every widget has a static twin: the
picture of the same state, by :func:`decoded_picture`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import ipywidgets
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from torch import Tensor

from mtg_lab.encoded_crop import Decoded, EncodedCrop, LatentMap, crop_offsets, decode_crop, mixture_of
from mtg_lab.figures import COLOURS, OUTLINES, fullest_slice, modality_style
from mtg_lab.slices import mark_sides
from mtg_lab.widgets import Picture, _checkboxes, _list, _live, _slider, _ticked

_NOTHING = "Nothing is ticked, and from nothing no mask can be drawn."


def subset_decoder(crop: EncodedCrop, ticked: Sequence[str] | None = None, shown: str = "") -> ipywidgets.VBox:
    """Tick the sequences that are there and see the mask that the network draws from them.

    Args:
        crop: one patient, encoded.
        ticked: sequences at the start, all that the patient has unless given.
        shown: sequence under the outlines, the first one unless given.
    """
    return _decoder(crop, ticked, shown, [], lambda sequences: decode_crop(crop, sequences), cloud=False)


def anchor_decoder(crop: EncodedCrop, ticked: Sequence[str] | None = None, shown: str = "") -> ipywidgets.VBox:
    """Move weights over the sequences: their mixture stands for what is absent, and the mask follows.

    Args:
        crop, ticked, shown: as for :func:`subset_decoder`; without an absent sequence there is nothing to fill.
    """
    sliders = [_slider(1.0, 0.0, 4.0, 0.5, f"weight of {m}") for m in crop.modalities]

    def decode(sequences: Sequence[str]) -> Decoded:
        return decode_crop(crop, sequences, weights=[s.value for s in sliders])

    def words() -> str:
        normalised = mixture_of([s.value for s in sliders], len(sliders)).theta.exp()
        return "anchor weights " + ", ".join(f"{m} {w:.2f}" for m, w in zip(crop.modalities, normalised, strict=True))

    return _decoder(crop, ticked, shown, sliders, decode, words)


def gap_decoder(
    crop: EncodedCrop,
    offsets: Sequence[Tensor] | None = None,
    ticked: Sequence[str] | None = None,
    shown: str = "",
) -> ipywidgets.VBox:
    """Close the gap by hand, in two ways, and see what the decoder makes of it.

    The first slider moves all latents of a sequence by the same vector: 1 takes the offset between the sequences away
    (z_m - offset_m), below 0 the gap grows. The second pulls the latents of each voxel to their mean. The caption
    counts the voxels that differ from the mask without a move.

    Args:
        crop, ticked, shown: as for :func:`subset_decoder`.
        offsets: of each modality, [M, C_s] for every scale; those of this crop unless given.
    """
    along = crop_offsets(crop) if offsets is None else offsets
    amount = _slider(0.0, -1.0, 2.0, 0.1, "offset taken away")
    pull = _slider(0.0, 0.0, 1.0, 0.1, "pulled to the mean")
    unmoved: dict[tuple[str, ...], Decoded] = {}
    changed = 0

    def decode(sequences: Sequence[str]) -> Decoded:
        nonlocal changed
        found = decode_crop(crop, sequences, offsets=along, amount=amount.value, pull=pull.value)
        if tuple(sequences) not in unmoved:
            unmoved[tuple(sequences)] = decode_crop(crop, sequences)
        changed = int((found.classes != unmoved[tuple(sequences)].classes).sum())
        return found

    def words() -> str:
        return (
            f"offset taken away: {amount.value:.1f}, pulled to the mean: {pull.value:.1f}, which changes {changed} of "
            f"{crop.truth.numel()} voxels"
        )

    return _decoder(crop, ticked, shown, [amount, pull], decode, words)


def _decoder(
    crop: EncodedCrop,
    ticked: Sequence[str] | None,
    shown: str,
    sliders: Sequence[ipywidgets.FloatSlider],
    decode: Callable[[Sequence[str]], Decoded],
    words: Callable[[], str] = lambda: "",
    cloud: bool = True,
) -> ipywidgets.VBox:
    there = [m for m, p in zip(crop.modalities, crop.present, strict=True) if p]
    boxes = _checkboxes(there, there if ticked is None else ticked)
    depth = crop.truth.shape[2]
    position = ipywidgets.IntSlider(
        value=fullest_slice(crop.truth.numpy()), min=0, max=depth - 1, description="axial slice",
        style={"description_width": "11em"}, layout={"width": "32em", "max_width": "100%"},
    )  # fmt: skip
    places = LatentMap(crop) if cloud else None
    answers: dict[tuple, Decoded] = {}

    def draw() -> Picture:
        sequences = _ticked(boxes)
        if not sequences:
            return decoded_picture(crop, None, places, shown, position.value), _NOTHING
        state = (*sequences, *(s.value for s in sliders))
        if state not in answers:  # another slice needs no other mask
            answers.clear()
            answers[state] = decode(sequences)
        found = answers[state]
        return decoded_picture(crop, found, places, shown, position.value), decoded_words(crop, found, words())

    return _live(draw, [boxes, *sliders, position])


def decoded_words(crop: EncodedCrop, decoded: Decoded, how: str = "") -> str:
    """What was drawn, in a sentence: from what, how, and Dice of each region within the crop."""
    scores = ", ".join(f"{region} {value:.2f}" for region, value in decoded.dice.items())
    absent = [m for m in crop.modalities if m not in decoded.sequences]
    filled = f"; an anchor stands for {_list(list(decoded.filled))}" if decoded.filled else ""
    without = f", without {_list(absent)}" if absent else ""
    moved = f"; {how}" if how else ""
    return f"{crop.name} from {_list(decoded.sequences)}{without}{filled}{moved}. Dice within the crop: {scores}."


def decoded_picture(
    crop: EncodedCrop,
    decoded: Decoded | None,
    places: LatentMap | None = None,
    shown: str = "",
    index: int | None = None,
) -> Figure:
    """The reference and the mask outlined on one axial slice, beside where the decoded latents lie.

    Args:
        crop, decoded: what was drawn of what; without ``decoded`` the reference alone.
        places: fitted to the crop; without it there is no panel of latents.
        shown: sequence under the outlines, the first one unless given.
        index: axial slice of the crop, that with most of the reference unless given.
    """
    panels = 2 + (places is not None)
    width = 3.1 * panels
    # Places by hand: to let matplotlib find them takes as long as everything else.
    figure = Figure(figsize=(width, 3.5))
    boxes = [(i / panels + 0.01, 0.1, 1 / panels - 0.02, 0.8) for i in range(panels)]
    at = fullest_slice(crop.truth.numpy()) if index is None else index
    pixels = crop.image[crop.modalities.index(shown) if shown else 0, :, :, at].numpy()
    masks = {"reference": crop.truth[:, :, at].numpy()}
    if decoded is not None:
        masks[f"from {'+'.join(decoded.sequences)}"] = decoded.classes[:, :, at]
    for box, (title, mask) in zip(boxes, masks.items(), strict=False):
        _outlined(figure.add_axes(box), pixels, mask, list(crop.labels), title)
    if places is not None:
        _latents(figure.add_axes(boxes[2]), crop, decoded, places)
    handles = [
        Line2D([], [], color=COLOURS[n % len(COLOURS)], ls=OUTLINES[n % len(OUTLINES)], label=name)
        for n, name in enumerate(crop.labels.values())
    ]
    figure.legend(handles=handles, loc="lower left", ncols=len(handles), fontsize=9, frameon=False)
    return figure


def _outlined(axes: Axes, pixels: np.ndarray, mask: np.ndarray, classes: Sequence[int], title: str) -> None:
    low, high = np.percentile(pixels[pixels != 0], (1, 99.5)) if (pixels != 0).any() else (0.0, 1.0)
    axes.imshow(np.where(pixels == 0, low, pixels).T, cmap="gray", vmin=low, vmax=high, origin="lower")
    for number, value in enumerate(classes):
        if (mask == value).any():
            style, colour = OUTLINES[number % len(OUTLINES)], COLOURS[number % len(COLOURS)]
            axes.contour((mask == value).T, levels=[0.5], colors=[colour], linestyles=[style], linewidths=1.5)
    mark_sides(axes)
    axes.set(xticks=[], yticks=[])
    axes.set_title(title, fontsize=10)


def _latents(axes: Axes, crop: EncodedCrop, decoded: Decoded | None, places: LatentMap) -> None:
    """Where the latents of some voxels lie, one colour and marker a sequence; hollow where an anchor stands for it."""
    before = places(crop.latents)
    after = before if decoded is None else places(decoded.latents)
    drawn = crop.modalities if decoded is None else (*decoded.sequences, *decoded.filled)
    for m, (name, (colour, marker)) in enumerate(modality_style(crop.modalities).items()):
        if name not in drawn:
            continue
        filled = decoded is not None and name in decoded.filled
        face = "none" if filled else colour
        label = f"{name} (anchor)" if filled else name
        x, y = after[m].T
        axes.scatter(x, y, s=10, marker=marker, facecolors=face, edgecolors=colour, linewidths=0.6, label=label)
    # The same frame whatever is ticked and however far is moved, or the eye would take zooming for moving.
    shown = before[crop.present.numpy()].reshape(-1, 2)
    low, high = shown.min(axis=0), shown.max(axis=0)
    margin = 0.2 * (high - low)
    axes.set(xlim=(low[0] - margin[0], high[0] + margin[0]), ylim=(low[1] - margin[1], high[1] + margin[1]))
    axes.set(xticks=[], yticks=[])
    axes.set_title("latents of some voxels (PCA)", fontsize=10)
    axes.legend(fontsize=8, loc="upper left", frameon=False, handletextpad=0.1, borderpad=0.1)
