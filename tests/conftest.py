"""What all tests share: a cache of their own, one small phantom cohort, tiny recipes, and the way to real scans."""

import os
from pathlib import Path

import hypothesis
import pytest

hypothesis.settings.register_profile("shared cores", deadline=None)  # workers wait for each other
hypothesis.settings.load_profile("shared cores")
os.environ["MTG_LAB_BATCH"] = "1"  # no progress bars between the dots


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory) -> Path:
    """One folder for the whole session, the same in every worker of pytest-xdist."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(scope="session", autouse=True)
def session_cache(shared_folder):
    """Tests neither read nor fill the user's cache; what one worker has made, the others find."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MTG_LAB_CACHE", str(shared_folder / "cache"))
        yield shared_folder / "cache"


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    """Workers share the cores, and sums in one thread are the same on every machine of a kind."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def cohort(shared_folder) -> Path:
    """The manifest of nine phantom subjects at 4 mm, three sites: 6 train, 1 val, 2 test."""
    from filelock import FileLock

    from mtg_lab import phantom
    from mtg_lab.manifest import write_manifest

    folder = shared_folder / "cohort"
    with FileLock(shared_folder / "cohort.lock"):
        if not (folder / "data_manifest.csv").is_file():
            rows = phantom.cohort_rows(9, spacing_mm=4.0)
            phantom.materialise(rows, folder, 4.0, workers=1)
            write_manifest(rows, phantom.MODALITIES, folder / "data_manifest.csv")
    return folder / "data_manifest.csv"


@pytest.fixture
def tiny_recipe(cohort):
    """Make recipes that train in a second or two; keywords change settings."""
    from mtg_lab.data import Preprocessing, Sampling
    from mtg_lab.recipes import Recipe

    def make(**changes) -> Recipe:
        settings = {
            "manifest": str(cohort),
            "preprocessing": Preprocessing(4.0),
            "sampling": Sampling(24),
            "steps": 4,
            "batch": 2,
            "backbone_options": {"width": 4, "latent": 3, "depth": 2},
            "precision": "fp32",
        }
        return Recipe(**{**settings, **changes})

    return make


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real scans; they are not in the repository."""
    return _folder_named_by("MTG_LAB_REAL_DATA", "real scans")


@pytest.fixture(scope="session")
def golden() -> Path:
    """The folder of reference values; they are not in the repository."""
    return _folder_named_by("MTG_LAB_GOLDEN", "reference values")


def _folder_named_by(variable: str, content: str) -> Path:
    if not os.environ.get(variable):
        pytest.skip(f"{variable} is not set; set it to the folder of {content}")
    folder = Path(os.environ[variable])
    if not folder.is_dir():
        pytest.fail(f"{variable} is set, but {folder} is no folder")
    return folder


@pytest.fixture(scope="session")
def nifti():
    """Write an array as NIfTI, by default in canonical orientation with 2 mm voxels; returns the path."""
    import nibabel as nib
    import numpy as np

    def write(path, voxels, affine=None) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        image = nib.Nifti1Image(np.asarray(voxels), np.diag([2.0, 2, 2, 1]) if affine is None else affine)
        image.to_filename(path)
        return path

    return write
