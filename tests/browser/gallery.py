"""Every widget of the package on one page, each in a box of a class of its own, on data that take no time."""

import nbformat
from nbformat.v4 import new_code_cell, new_notebook

DATA = """
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

MODALITIES = ("t1n", "t1c", "t2w", "t2f")
rng = np.random.default_rng(0)
head = np.zeros((24, 28, 20))
head[3:21, 3:25, 2:18] = 1
images = {m: np.where(head > 0, rng.normal(3 + i, 1, head.shape), 0) for i, m in enumerate(MODALITIES)}
label = np.zeros(head.shape, dtype=int)
label[8:16, 8:18, 6:14] = 2
label[10:14, 10:15, 8:12] = 1
def show(name, box):
    box.add_class(name)
    display(box)
"""

CELLS = {
    "volume": "from mtg_lab import widgets\nshow('volume', widgets.volume_viewer(images, label))",
    "subsets": """
rows = [(s, r, 0.2 + 0.1 * len(s) + 0.1 * (r == "WT")) for s in ("t1c", "t2f", "t1c+t2f") for r in ("WT", "ET")]
show("subsets", widgets.subset_explorer(pd.DataFrame(rows, columns=["subset", "region", "value"])))
""",
    "quiz": "show('quiz', widgets.quiz('Which?', ['this', 'that'], 'that', 'Because.'))",
    "gaussians": "show('gaussians', widgets.gaussian_anchor())",
    "weights": """
from mtg_lab.widgets_latents import alignment_weight, anchor_weights
cloud = [("P1", v, m, "brain", w, *(rng.normal(size=2) + i))
         for w in (0.0, 0.1) for v in range(30) for i, m in enumerate(MODALITIES)]
stored = pd.DataFrame(cloud, columns=["subject", "voxel", "modality", "tissue", "weight", "x", "y"])
facts = pd.DataFrame({"weight": [0.0, 0.1], "relative_gap": [0.8, 0.6], "effective_rank": [4.0, 3.0],
                      "dice": [0.5, 0.4]})
show("weights", alignment_weight(stored, facts))
""",
    "anchors": "show('anchors', anchor_weights(stored[stored['weight'] == 0]))",
    "masks": """
from mtg_lab.widgets_masks import StoredMasks, weight_masks
flat = label[:, :, 10]
drawn = np.stack([[flat, flat, flat], [flat * (flat > 1)] * 3])
slices = np.stack([images[m][:, :, 10] for m in MODALITIES[:2]])
masks = StoredMasks(slices, flat, drawn, (0.0, 1.0), MODALITIES[:2], ("t1n", "t1c", "t1n+t1c"), ("a", "b"), "P1")
show("masks", weight_masks(masks))
""",
    "patients": """
from mtg_lab.widgets_cases import case_explorer
def scores(gain):
    rows = [(f"P{p}", s, "WT", "dice", 0.5 + gain * p, "x") for p in range(4) for s in ("t1c", "t2f", "t1c+t2f")]
    return pd.DataFrame(rows, columns=["subject", "subset", "region", "metric", "value", "protocol"])
def picture(name):
    figure = Figure(figsize=(2, 2))
    figure.suptitle(name)
    return figure
show("patients", case_explorer(scores(0.1), scores(0.0), ("ours", "theirs"), picture))
""",
    "niivue": """
from mtg_lab.widgets_viewer import niivue_viewer
two = {m: images[m] for m in ("t1c", "t2f")}
show("niivue", niivue_viewer(two, label, (2, 2, 2), label_names={1: "NCR", 2: "ED"}, height=180))
""",
    "decoder": """
from mtg_lab.backbones import build
from mtg_lab.encoded_crop import EncodedCrop
from mtg_lab.vocabulary import schema
from mtg_lab.widgets_decode import anchor_decoder, gap_decoder, subset_decoder
torch.manual_seed(0)
network = build("unet", MODALITIES, 4, {"width": 4, "latent": 4, "depth": 2}).eval()
volume, everything = torch.tensor(np.stack(list(images.values()))).float(), torch.ones(4, dtype=torch.bool)
with torch.inference_mode():
    latents = network.encode(volume[None], everything[None])
truth, brain = torch.tensor(label, dtype=torch.uint8), torch.tensor(head > 0)
crop = EncodedCrop("P1", network, schema("brats2023"), volume, truth, brain, latents, everything)
show("decoder", subset_decoder(crop))
""",
    "anchoring": "show('anchoring', anchor_decoder(crop, ticked=['t1n', 't2f']))",
    "gap": "show('gap', gap_decoder(crop))",
    "points": """
from mtg_lab.widgets_points import point_explorer
from mtg_lab.widgets_rotation import rotating_view
voxels = rng.choice(np.flatnonzero(head), 60, replace=False)
found = [("P1", "A", t, int(v), m, *(rng.normal(size=3) + i))
         for v, t in zip(voxels, ["brain", "ED", "ET"] * 20) for i, m in enumerate(MODALITIES)]
table = pd.DataFrame(found, columns=["subject", "site", "tissue", "voxel", "modality", "x", "y", "z"])
show("points", point_explorer(table, lambda name: images))
""",
    "rotation": "show('rotation', rotating_view(table))",
    "phantom": """
from mtg_lab.phantom_views import Step
from mtg_lab.widgets_phantom import phantom_builder
tissue = Step("tissue", "shares of a voxel", {"gm": head / 2}, 0 * label, shares=True)
steps = [tissue, Step("scanner", "noise", images, label)]
show("phantom", phantom_builder(steps, {1: "NCR", 2: "ED"}))
""",
    "guess": """
from mtg_lab.widgets_guess import guess
show("guess", guess("How much?", 0.25, "So it was measured."))
""",
}


def write_gallery(path, names=tuple(CELLS)):
    """A notebook with the widgets of these names."""
    sources = [DATA, *(CELLS[name] for name in names)]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(new_notebook(cells=[new_code_cell(s.strip()) for s in sources], metadata=kernel), path)
    return path
