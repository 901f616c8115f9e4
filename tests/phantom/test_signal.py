"""The sequence equations against values worked out by hand, and the tissues against the facts of radiology."""

import math
from dataclasses import replace

import numpy as np
import pytest

from mtg_lab.phantom.atlas import Grid
from mtg_lab.phantom.signal import MODALITIES, R1_PER_MM_S, SITES, TISSUES, Sequence, acquire, null_ti_ms, shortened


def _level(scanner, modality, tissue, contrast=False):
    t = TISSUES[tissue]
    t1, t2 = shortened(t.t1_ms, t.t2_ms, t.gadolinium_mm) if contrast else (t.t1_ms, t.t2_ms)
    return float(scanner.sequences[modality].signal(t1, t2, t.density))


def test_spin_echo_after_one_t1_and_one_t2():
    # TR = T1 and TE = T2: (1 - 1/e) / e of the proton density.
    assert Sequence("spin_echo", 1000, 80).signal(1000, 80, 0.5) == pytest.approx(0.5 * (1 - 1 / math.e) / math.e)


def test_inversion_recovery_is_null_at_t1_log_2_for_long_tr():
    sequence = Sequence("inversion_recovery", 1e9, 0, ti_ms=1000 * math.log(2))
    assert sequence.signal(1000, 80, 1.0) == pytest.approx(0, abs=1e-12)


def test_inversion_time_that_nulls_csf_depends_on_tr():
    # T1 = 4000 ms, TR = 4000 ln 3 ms: exp(-TR/T1) = 1/3, so TI = T1 ln(2 / (4/3)) = T1 ln 1.5.
    assert null_ti_ms(4000, 4000 * math.log(3)) == pytest.approx(4000 * math.log(1.5))


def test_gradient_echo_with_90_degrees_is_a_spin_echo():
    # cos 90 degrees = 0: rho (1 - E) remains.
    gradient = Sequence("spoiled_gradient_echo", 500, 10, flip_deg=90)
    assert gradient.signal(800, 70, 0.7) == pytest.approx(Sequence("spin_echo", 500, 10).signal(800, 70, 0.7))


def test_gradient_echo_is_brightest_at_the_ernst_angle():
    tr, t1 = 20.0, 900.0
    ernst = math.degrees(math.acos(math.exp(-tr / t1)))
    at = [Sequence("spoiled_gradient_echo", tr, 0, flip_deg=ernst + d).signal(t1, 80, 1.0) for d in (-1, 0, 1)]
    assert at[1] > at[0]
    assert at[1] > at[2]


def test_gadolinium_adds_relaxation_rates():
    # 1 mM on a rate of 1/s: 1 + r1 per second.
    t1, _ = shortened(1000.0, 100.0, 1.0)
    assert t1 == pytest.approx(1000 / (1 + R1_PER_MM_S))


def test_every_sequence_shows_what_radiology_says():
    for scanner in SITES.values():

        def level(modality, tissue, scanner=scanner):
            return _level(scanner, modality, tissue, contrast=modality == "t1c")

        assert set(scanner.sequences) == set(MODALITIES)
        assert level("t1n", "wm") > level("t1n", "gm") > level("t1n", "csf")
        assert level("t2w", "csf") > level("t2w", "oedema") > level("t2w", "gm") > level("t2w", "wm")
        assert level("t2f", "oedema") > level("t2f", "gm") > level("t2f", "wm") > 5 * level("t2f", "csf")
        assert level("t1c", "enhancing") > level("t1c", "wm") > level("t1c", "necrosis")
        assert level("t1n", "enhancing") < level("t1n", "wm")
        assert level("t1n", "necrosis") < level("t1n", "wm")


def test_noise_is_rician():
    # A magnitude of complex noise sigma alone has mean sigma sqrt(pi / 2); with much signal it varies by sigma.
    grid = Grid.box(4.0)
    inside = np.ones(grid.shape, bool)
    scanner = replace(SITES["B"], noise=0.05, bias=0.0, gain=100_000.0)
    sequence = Sequence("spin_echo", 5000, 90, thickness_mm=1.0)

    def scan(signal):
        values = np.full(inside.sum(), signal, np.float32)
        return acquire(values, inside, signal, grid, sequence, scanner, 1000.0, *map(np.random.default_rng, (1, 2)))

    dark, bright = scan(0.0).astype(float), scan(50.0).astype(float)
    sigma = bright.std()
    assert dark.mean() == pytest.approx(sigma * math.sqrt(math.pi / 2), rel=0.03)
    assert dark.std() == pytest.approx(sigma * math.sqrt(2 - math.pi / 2), rel=0.03)


def test_thick_slices_blur_only_across_the_slices():
    grid = Grid.box(4.0)
    inside = np.ones(grid.shape, bool)
    scanner = replace(SITES["A"], noise=0.0, bias=0.0)

    def steepest(axis):
        signal = np.zeros(grid.shape, np.float32)
        signal[tuple(slice(20, None) if a == axis else slice(None) for a in range(3))] = 1
        sequence = Sequence("spin_echo", 5000, 90, thickness_mm=12.0)
        image = acquire(signal[inside], inside, 0.0, grid, sequence, scanner, 1.0, *map(np.random.default_rng, (1, 2)))
        return np.abs(np.diff(image.astype(float), axis=axis)).max() / image.max()

    assert steepest(0) > 0.95
    assert steepest(2) < 0.5
