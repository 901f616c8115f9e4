"""Growth and mass effect against what the equations imply."""

import numpy as np
import pytest

from mtg_lab.phantom.atlas import Field, Grid, Person, displacement, load_atlas
from mtg_lab.phantom.tumour import along_sheets, grow


def _seed(shape=(41, 41, 41)):
    density = np.zeros(shape, np.float32)
    density[tuple(n // 2 for n in shape)] = 1
    return density


def test_without_proliferation_cells_are_conserved():
    diffusion = np.full((21, 21, 21), 0.15, np.float32)
    after = grow(_seed((21, 21, 21)), diffusion, np.zeros_like(diffusion), np.inf, max_steps=30)
    assert after.sum() == pytest.approx(1, rel=1e-4)
    # Free diffusion in three dimensions: variance per axis grows by 2 D a step.
    x = np.arange(21) - 10
    assert (after.sum(axis=(1, 2)) * x**2).sum() == pytest.approx(2 * 0.15 * 30, rel=0.02)


def test_front_travels_at_fishers_speed():
    # Fisher 1937: 2 sqrt(D rho). On a grid with unit steps a tail exp(-k x) grows by 1 + rho + 2 D (cosh k - 1) a step,
    # and the front takes the slowest speed, ln(growth) / k; it approaches that as 3 / (2 k t) (Bramson 1983).
    shape = (200, 3, 3)
    density = np.zeros(shape, np.float32)
    density[:5] = 1
    diffusion, rate = np.full(shape, 0.15, np.float32), np.full(shape, 0.1, np.float32)
    early = grow(density, diffusion, rate, np.inf, max_steps=200)
    late = grow(early, diffusion, rate, np.inf, max_steps=300)
    speed = (np.count_nonzero(late[:, 1, 1] > 0.5) - np.count_nonzero(early[:, 1, 1] > 0.5)) / 300
    k = np.linspace(0.1, 3, 2000)
    speeds = np.log(1 + 0.1 + 2 * 0.15 * (np.cosh(k) - 1)) / k
    expected = speeds.min() - 1.5 / k[speeds.argmin()] * np.log(500 / 200) / 300
    assert speed == pytest.approx(expected, rel=0.02)
    assert speed == pytest.approx(2 * np.sqrt(0.15 * 0.1), rel=0.1)


def test_nothing_crosses_what_does_not_conduct():
    diffusion = np.full((41, 41, 41), 0.15, np.float32)
    diffusion[25] = 0
    after = grow(_seed(), diffusion, np.full_like(diffusion, 0.2), np.inf, max_steps=150)
    assert after[:25].min() > 0.5
    assert after[25:].max() == 0


def test_growing_ball_moves_its_surroundings_like_its_volume():
    # Where tissue keeps its volume, a source of strength s in a ball of radius R moves it by s R^3 / (3 r^2).
    grid = Grid((-59.0,) * 3, (60,) * 3, 2.0)
    r = np.sqrt((grid.points_mm() ** 2).sum(axis=0))
    moved = displacement((r < 12).astype(np.float32), 2.0)
    # Half a voxel off the axis on a grid without a voxel at zero.
    at = (30 + 10, 30, 30)
    volume = np.count_nonzero(r < 12) * 8
    assert moved[0][at] == pytest.approx(volume / (4 * np.pi * r[at] ** 2), rel=0.08)
    assert moved[0][at] > 0


def test_fields_have_unit_variance_and_agree_across_spacings():
    field = Field.draw(np.random.default_rng(0), 5.0)
    fine, coarse = field.on(Grid.box(2.0)), field.on(Grid.box(4.0))
    assert fine.std() == pytest.approx(1, abs=0.05)
    # Eight fine voxels surround each coarse centre.
    mean = fine.reshape(44, 2, 56, 2, 44, 2).mean(axis=(1, 3, 5))
    assert np.corrcoef(mean.ravel(), coarse.ravel())[0, 1] > 0.97


def test_tissue_fractions_sum_to_one_where_there_is_brain():
    grid = Grid.box(4.0)
    person = Person.draw(np.random.default_rng(3))
    tissue = person.tissues(load_atlas(1.2), person.to_atlas_mm(grid), person.sulci.on(grid))
    total = tissue["gm"] + tissue["wm"] + tissue["csf"]
    assert total == pytest.approx(1, abs=1e-5)
    brain_ml = np.count_nonzero(tissue["depth_mm"] > 0) * grid.voxel_ml
    assert 1200 < brain_ml < 2100


def test_a_front_runs_along_a_sheet_and_hardly_across():
    white = np.zeros((40, 40, 40), np.float32)
    white[18:22] = 1  # a sheet with normal x
    along = along_sheets(white)
    assert along.sum(axis=0) == pytest.approx(3, abs=1e-3)
    assert along.min() > 0.05
    inside = (slice(17, 23), slice(5, -5), slice(5, -5))
    assert along[0][inside].max() < 0.5
    assert along[1][inside].min() > 1.2

    cells = np.zeros(white.shape, np.float32)
    cells[20, 20, 20] = 0.9
    diffusion = np.full(white.shape, 0.16, np.float32)
    spread = grow(cells, diffusion, np.full(white.shape, 0.1, np.float32), 2000, along=along)
    grown = np.argwhere(spread > 0.5)
    across, one, other = grown.max(axis=0) - grown.min(axis=0) + 1
    assert min(one, other) > 1.3 * across


def test_a_ball_of_white_matter_has_no_direction_in_its_middle():
    x, y, z = np.meshgrid(*[np.arange(-16, 17)] * 3, indexing="ij")
    along = along_sheets((np.sqrt(x**2 + y**2 + z**2) < 12).astype(np.float32))
    assert along[:, 16, 16, 16] == pytest.approx(1, abs=0.05)
