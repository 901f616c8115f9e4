"""Two copies of one scan are known for one, two people are not."""

import itertools

import nibabel as nib
import numpy as np
import pytest
from scipy.ndimage import zoom

from mtg_lab.manifest import read_manifest
from mtg_lab.twins import EDGE, SAME_SCAN, fingerprint, near_identical


@pytest.fixture(scope="module")
def scans(cohort):
    """Modality to subject to voxels and affine, of nine phantoms at 4 mm."""
    images = {m: {s.name: nib.load(p) for s in read_manifest(cohort) for n, p in s.images.items() if n == m}
              for m in ("t1n", "t1c", "t2w", "t2f")}  # fmt: skip
    return {m: {n: (np.asarray(i.dataobj), i.affine) for n, i in of.items()} for m, of in images.items()}


def noisy(voxels, affine):
    return voxels + np.random.default_rng(0).normal(0, 0.1 * voxels[voxels > 0].std(), voxels.shape), affine


CHANGES = {
    "scaled": lambda v, a: (3.7 * v + 11, a),
    "eight bits": lambda v, a: (np.clip(v / np.percentile(v, 99.9) * 255, 0, 255).astype(np.uint8), a),
    "noise, also around the head": noisy,
    "cropped": lambda v, a: (v[2:-2, 2:-2, 2:-2], a),
    "brighter in the middle": lambda v, a: ((v / v.max()) ** 0.8, a),
    "resampled": lambda v, a: (zoom(v.astype(float), 0.8, order=1), a @ np.diag([1.25, 1.25, 1.25, 1])),
    "stored from left to right": lambda v, a: (v[::-1], a @ np.diag([-1.0, 1, 1, 1])),
    "stored in another order": lambda v, a: (v.transpose(2, 0, 1), a[:, [2, 0, 1, 3]]),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_copy_is_known(scans, change):
    for of in scans.values():
        for voxels, affine in list(of.values())[:3]:
            assert fingerprint(*CHANGES[change](voxels, affine)) @ fingerprint(voxels, affine) > SAME_SCAN + 0.03


def test_two_people_are_told_apart(scans):
    for of in scans.values():
        patterns = [fingerprint(*scan) for scan in of.values()]
        assert max(float(a @ b) for a, b in itertools.combinations(patterns, 2)) < SAME_SCAN - 0.1


def test_a_fingerprint_is_a_unit_vector_or_nothing(scans):
    pattern = fingerprint(*next(iter(scans["t1c"].values())))
    assert pattern.shape == (EDGE**3,)
    assert pattern.dtype == np.float32
    assert np.linalg.norm(pattern) == pytest.approx(1)
    assert fingerprint(np.zeros((9, 9, 9)), np.eye(4)) is None
    assert fingerprint(np.ones((9, 9, 1), np.int16), np.eye(4)) is None


def test_groups_are_joined_over_common_members():
    """A and B share one sequence, B and C another: one patient in three rows; D is alone."""
    rng = np.random.default_rng(0)

    def unit():
        v = rng.normal(size=EDGE**3).astype(np.float32)
        return v / np.linalg.norm(v)

    one, two = unit(), unit()
    patterns = {
        "A": {"t1c": one},
        "B": {"t1c": one, "t2f": two},
        "C": {"t2f": two},
        "D": {"t1c": unit(), "t2f": unit()},
    }
    ((names, modalities, correlation),) = near_identical(patterns)
    assert (names, modalities) == (["A", "B", "C"], ["t1c", "t2f"])
    assert correlation == pytest.approx(1, abs=1e-5)
    assert list(near_identical({"A": {"t1c": one}, "B": {"t2f": one}})) == [], "other sequences are not compared"
    assert list(near_identical({})) == []
