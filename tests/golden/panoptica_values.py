"""Masks, and what panoptica says of them: it holds numpy and pandas back, so that it cannot live in our environment.

In one of its own: ``pip install panoptica==2.1.7``, then ``python tests/golden/panoptica_values.py`` writes
panoptica_values.json beside this file.
"""

import json
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import numpy as np

STORED = Path(__file__).with_suffix(".json")
SHAPE, CELL = (48, 32, 32), 16
SPACINGS = ((1.0, 1.0, 1.0), (1.0, 1.0, 5.0), (0.7, 1.3, 2.0))
NSD_MM = 2.0


def cases() -> Iterator[tuple[str, np.ndarray, np.ndarray, tuple[float, float, float]]]:
    """Name, prediction, reference (bool), spacing in mm. Lesions are ragged boxes, at most one in a cell of 16^3."""
    empty, voxel, border = (np.zeros(SHAPE, dtype=bool) for _ in range(3))
    voxel[20, 10, 10] = True
    border[:6, -5:, :7] = True
    for spacing in SPACINGS:
        yield "the same voxel", voxel, voxel, spacing
        yield "a voxel more", voxel | np.roll(voxel, (1, 0, 1), (0, 1, 2)), voxel, spacing
        yield "in the corner", border, border & (np.indices(SHAPE).sum(axis=0) % 7 > 0), spacing
        yield "everything", ~empty, ~empty, spacing
    for seed in range(24):
        yield f"random {seed}", *random_lesions(seed), SPACINGS[seed % 3]


def random_lesions(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A prediction that misses some lesions, invents some, and is displaced and ragged on the others."""
    rng = np.random.default_rng(seed)
    predicted, truth = np.zeros(SHAPE, dtype=bool), np.zeros(SHAPE, dtype=bool)
    for cell in np.ndindex(*(n // CELL for n in SHAPE)):
        kind = rng.integers(6)  # nothing twice, missed, invented, found twice
        if kind < 2:
            continue
        edge = rng.integers(5, 9, 3)
        corner = np.array(cell) * CELL + rng.integers(3, 5, 3)
        shift = rng.integers(-1, 2, 3)
        ragged = rng.random(edge) < 0.9
        if kind != 3:
            put(truth, corner, np.ones(edge, dtype=bool))
        if kind != 2:
            ragged[1:-1, 1:-1, 1:-1] = True  # holds it together
            put(predicted, corner + shift, ragged)
    put(predicted, np.array([4, 4, 4]), np.ones((5, 5, 5), dtype=bool))  # neither is ever empty
    put(truth, np.array([5, 4, 4]), np.ones((5, 5, 5), dtype=bool))
    return predicted, truth


def put(mask: np.ndarray, corner: np.ndarray, box: np.ndarray) -> None:
    mask[tuple(slice(c, c + n) for c, n in zip(corner, box.shape, strict=True))] |= box


def main() -> None:
    from panoptica import (
        ConnectedComponentsInstanceApproximator,
        InputType,
        NaiveThresholdMatching,
        Panoptica_Evaluator,
    )
    from panoptica.metrics import Metric

    metrics = [Metric.DSC, Metric.IOU, Metric.HD95]
    evaluator = Panoptica_Evaluator(
        expected_input=InputType.SEMANTIC,
        instance_approximator=ConnectedComponentsInstanceApproximator(),
        instance_matcher=NaiveThresholdMatching(matching_threshold=0.01),
        instance_metrics=metrics,
        global_metrics=metrics,
    )
    values = {}
    for name, predicted, truth, spacing in cases():
        results = evaluator.evaluate(predicted.astype(np.uint8), truth.astype(np.uint8), voxelspacing=spacing)
        found = next(iter(results.values()))
        values[f"{name} {spacing}"] = {
            "dice": float(found.global_bin_dsc),
            "iou": float(found.global_bin_iou),
            "hd95_voxels": float(found.global_bin_hd95),  # panoptica 2.1.7 takes no spacing for the whole mask
            "tp": int(found.tp),
            "fp": int(found.fp),
            "fn": int(found.fn),
            "lesion_dice": float(found.sq_dsc),
            "lesion_hd95_mm": float(found.sq_hd95),
        }
    STORED.write_text(json.dumps({"panoptica": version("panoptica"), "values": values}, indent=1) + "\n")


if __name__ == "__main__":
    main()
