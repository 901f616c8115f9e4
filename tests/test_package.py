"""The names that scripts call, and how quickly the package answers."""

import subprocess
import sys

import pytest

import mtg_lab

HEAVY = ("torch", "monai", "accelerate", "sklearn", "umap", "matplotlib", "nilearn", "papermill")


@pytest.mark.parametrize("module", ["mtg_lab", "mtg_lab.errors", "mtg_lab.vocabulary", "mtg_lab.progress"])
def test_importing_it_loads_nothing_heavy(module):
    """The command answers --help in half a second, and torch alone takes longer."""
    code = f"import {module}, sys; print([m for m in {HEAVY!r} if m in sys.modules])"
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert child.stdout.strip() == "[]"


@pytest.mark.parametrize("name", mtg_lab.__all__)
def test_every_promised_name_is_there(name):
    assert getattr(mtg_lab, name) is not None
    assert name in dir(mtg_lab)


def test_the_promised_names_are_those_of_the_plan():
    """Other people's scripts call these; they may take more arguments, never mean something else."""
    promised = {"read_manifest", "train", "load_run", "evaluate", "latents", "gap", "predict", "missingness"}
    assert promised <= set(mtg_lab.__all__)
    assert all(callable(getattr(mtg_lab, n)) for n in promised - {"missingness"})
    assert callable(mtg_lab.missingness.imbalanced)


def test_an_unknown_name_is_no_attribute():
    with pytest.raises(AttributeError, match="module 'mtg_lab' has no attribute 'trian'"):
        mtg_lab.trian  # noqa: B018
