"""Phantoms made once for all tests of this folder, on the coarsest grid that still shows the facts."""

from functools import lru_cache

import pytest

from mtg_lab import phantom


@lru_cache(maxsize=32)
def _case(seed, site, spacing_mm):
    return phantom.synthesise(seed, site, spacing_mm)


@pytest.fixture(scope="session")
def make_case():
    """Synthesise, remembering what was made."""
    return lambda seed, site="A", spacing_mm=4.0: _case(seed, site, spacing_mm)


@pytest.fixture(scope="session")
def find_case(make_case):
    """The first seed whose facts satisfy a condition."""

    def find(condition, site="A"):
        return next(case for seed in range(40) if condition((case := make_case(seed, site)).facts))

    return find
