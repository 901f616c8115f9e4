"""What goes wrong in a scanner, held against what Fourier and the clinic say of it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import special

from mtg_lab.phantom.artefacts import NONE, Mishaps, Strip, motion, ringing
from mtg_lab.phantom.atlas import Grid

GRID = Grid((0.0, 0.0, 0.0), (16, 18, 14), 2.0)
images = arrays(np.float32, GRID.shape, elements=st.floats(0, 1000, width=32))


def test_an_edge_overshoots_by_the_constant_of_wilbraham_and_gibbs():
    edge = np.zeros((1, 4096, 1), np.float32)
    edge[:, 1024:3072] = 1
    ringed = ringing(edge, 1 / 16, axis=1)
    gibbs = special.sici(np.pi)[0] / np.pi - 0.5  # 0.0895
    assert ringed.max() - 1 == pytest.approx(gibbs, abs=2e-3)
    assert -ringed.min() == pytest.approx(gibbs, abs=2e-3)


def test_ringing_keeps_what_lies_below_its_last_frequency():
    wave = np.cos(2 * np.pi * 3 * np.arange(64) / 64, dtype=np.float32)[None, :, None]
    assert ringing(wave, 0.5, axis=1) == pytest.approx(wave, abs=1e-5)
    assert ringing(wave, 0.05, axis=1) == pytest.approx(0, abs=1e-5)


@settings(max_examples=20, deadline=None)
@given(image=images, share=st.floats(0, 0.45))
def test_a_head_that_did_not_move_is_where_it_was(image, share):
    assert motion(image, np.zeros(3), share, 1) == pytest.approx(image, abs=1e-2)


def test_a_head_that_moved_before_everything_is_elsewhere_and_whole():
    image = np.zeros(GRID.shape, np.float32)
    image[5:9, 6:10, 4:8] = 100
    shifted = motion(image, np.array([2.0, 0.0, -1.0]), 1.0, 1)
    assert shifted == pytest.approx(np.roll(image, (2, 0, -1), axis=(0, 1, 2)), abs=1e-2)


@settings(max_examples=20, deadline=None)
@given(image=images)
def test_without_mishaps_nothing_happens(image):
    inside = np.ones(GRID.shape, bool)
    assert NONE.scanning(image, inside, GRID) is image
    assert NONE.registering(image, GRID) is image
    units, covered = NONE.filing(image, inside, GRID)
    assert units is image
    assert covered.all()


def test_a_ghost_is_a_part_of_the_image_half_a_field_of_view_away():
    image = np.full(GRID.shape, 50, np.float32)  # what surrounds a head is filled for slices to average; it is air
    image[3, 4, 5] = 100
    inside = image > 50
    seen = Mishaps(phase_axis=1, ghost=0.1, period=2).scanning(image, inside, GRID)
    assert seen[3, 4, 5] == 100
    assert seen[3, 4 + 9, 5] == pytest.approx(60)
    assert (seen - image).sum() == pytest.approx(10)


def test_registration_moves_by_its_residual():
    ramp = np.broadcast_to(np.arange(16, dtype=np.float32)[:, None, None], GRID.shape).copy()
    moved = Mishaps(register_mm=(1.0, 0.0, 0.0)).registering(ramp, GRID)
    assert moved[2:-2, 2:-2, 2:-2] == pytest.approx(ramp[2:-2, 2:-2, 2:-2] + 0.5)


@settings(max_examples=20, deadline=None)
@given(image=images, share=st.floats(0.001, 0.2))
def test_ceilings_cut_no_more_than_their_share_and_keep_the_order(image, share):
    inside = np.ones(GRID.shape, bool)
    units, _ = Mishaps(saturated=share, levels=256).filing(image, inside, GRID)
    assert len(np.unique(units)) <= 256
    order = np.argsort(image, axis=None)
    assert (np.diff(units.ravel()[order]) >= 0).all()
    cut, _ = Mishaps(saturated=share).filing(image, inside, GRID)
    assert np.count_nonzero(cut < image) <= share * image.size + 1


def test_mishaps_are_drawn_for_each_scan_and_by_the_ingredients_alone():
    drawn = [Mishaps.draw(seed, ("artefacts", "coverage", "ceilings"), c, 0) for seed in range(200) for c in range(4)]
    assert all(m.register_mm == (0, 0, 0) for m in drawn)
    for share, of in ((0.5, "resolution_mm"), (0.25, "ghost"), (0.25, "moved_share"), (0.25, "saturated")):
        assert np.mean([getattr(m, of) > 0 for m in drawn]) == pytest.approx(share, abs=0.07)
    cut = np.array([any(m.covered_mm) for m in drawn]).reshape(200, 4)
    assert cut.sum(axis=1).max() == 1
    assert cut.any(axis=1).mean() == pytest.approx(1 / 3, abs=0.1)
    assert Mishaps.draw(7, (), 0, 0) == NONE


def test_a_strip_bites_and_leaves_in_places():
    offsets = np.concatenate([Strip.draw(seed).on(Grid.box(8.0)).ravel() for seed in range(30)])
    assert offsets.min() >= -5
    assert offsets.max() <= 5
    assert 0.35 < (offsets > 0).mean() < 0.65
