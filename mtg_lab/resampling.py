"""Seeds and subjects drawn anew, both with replacement: the bootstrap that the lab's intervals rest on."""

import numpy as np

LEVELS = (0.025, 0.975)


def draw_counts(size: int, draws: int, rng: np.random.Generator) -> np.ndarray:
    """How often each of ``size`` things is drawn, with replacement, in each of ``draws`` repetitions: [draws, size]."""
    return rng.multinomial(size, np.full(size, 1 / size), size=draws)


def weighted_means(cells: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Means of ``cells`` with row s counted ``rows[:, s]`` times and column p ``columns[:, p]`` times.

    Args:
        cells: [seeds, subjects, ...]; NaN cells are left out.
        rows, columns: [draws, seeds] and [draws, subjects].

    Returns:
        [draws, ...]; NaN where a draw has no cell.
    """
    flat = cells.reshape(*cells.shape[:2], -1)
    filled, there = np.nan_to_num(flat), np.isfinite(flat).astype(float)
    # Seed by seed, so that no array has draws, seeds and subjects at once.
    sums = sum(rows[:, [s]] * (columns @ filled[s]) for s in range(len(flat)))
    counts = sum(rows[:, [s]] * (columns @ there[s]) for s in range(len(flat)))
    means = np.divide(sums, counts, out=np.full((len(rows), flat.shape[2]), np.nan), where=np.asarray(counts) > 0)
    return means.reshape(len(rows), *cells.shape[2:])


def resampled_means(cells: np.ndarray, draws: int, rng: np.random.Generator) -> np.ndarray:
    """Means of ``cells`` [seeds, subjects, ...] over both axes drawn anew: [draws, ...]; NaN cells are left out.

    Where there is one seed, the spread is that of the subjects alone.
    """
    rows, columns = (draw_counts(n, draws, rng) for n in cells.shape[:2])
    return weighted_means(cells, rows, columns)


def interval(draws: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Percentile interval, 95 %, over the first axis (Efron 1979); NaN where every draw is."""
    known = np.isfinite(draws).any(axis=0)
    low, high = np.nanquantile(np.where(known, draws, 0.0), LEVELS, axis=0)
    return np.where(known, low, np.nan), np.where(known, high, np.nan)
