"""A cell may name one volume of a 4-D file: it is read alone, and everywhere as if it were a file of its own."""

import nibabel as nib
import numpy as np
import pytest

from mtg_lab import files
from mtg_lab.data import Preprocessing, cached_dataset
from mtg_lab.doctor import doctor, load_image, read_voxels
from mtg_lab.errors import InputError
from mtg_lab.manifest import read_manifest, write_manifest


@pytest.fixture
def four(tmp_path, nifti):
    """A file of four volumes whose voxels are scaled by its header, and its voxels."""
    stored = np.random.default_rng(0).integers(1, 999, (6, 5, 4, 4)).astype(np.int16)
    image = nib.Nifti1Image(stored, np.diag([2.0, 2, 2, 1]))
    image.header.set_slope_inter(0.5, 3)
    image.to_filename(tmp_path / "four.nii.gz")
    return tmp_path / "four.nii.gz", nib.load(tmp_path / "four.nii.gz").get_fdata()


def volume(path, k):
    return path.with_name(f"{path.name}[{k}]")


def test_a_cell_is_a_file_and_perhaps_a_volume(tmp_path):
    assert files.file_and_volume("a/b.nii.gz[2]") == (tmp_path.__class__("a/b.nii.gz"), 2)
    assert files.file_and_volume("a/b.NII[0]")[1] == 0
    for plain in ("a/b.nii.gz", "a[1]/b.nii", "b[1].nii.gz", "b.csv[1]", "b.nii[-1]", "b.nii[x]"):
        assert files.file_and_volume(plain) == (tmp_path.__class__(plain), None)


@pytest.mark.parametrize("k", range(4))
def test_a_volume_has_its_voxels_its_grid_and_its_scale(four, k):
    path, voxels = four
    image = load_image(volume(path, k))
    assert image.shape == (6, 5, 4)
    np.testing.assert_array_equal(image.affine, nib.load(path).affine)
    np.testing.assert_allclose(read_voxels(image), voxels[..., k])
    np.testing.assert_allclose(image.get_fdata(), voxels[..., k])
    assert image.header.get_zooms() == (2, 2, 2)


def test_one_volume_is_read_and_no_other(four, monkeypatch):
    path, _ = four
    image = load_image(volume(path, 2))
    asked = []
    whole = type(image.dataobj.volumes).__getitem__
    monkeypatch.setattr(type(image.dataobj.volumes), "__getitem__", lambda s, at: asked.append(at) or whole(s, at))
    read_voxels(image)
    assert asked == [(Ellipsis, 2)]


def test_what_is_no_volume_is_told(four, nifti, tmp_path):
    path, _ = four
    with pytest.raises(InputError, match=r"6x5x4x4, 4 volumes; .*, four\.nii\.gz\[0\] to \[3\]$"):
        load_image(path)
    with pytest.raises(InputError, match=r"there is no volume \[4\], they are \[0\] to \[3\]"):
        load_image(volume(path, 4))
    flat = nifti(tmp_path / "flat.nii", np.ones((3, 3, 3)))
    with pytest.raises(InputError, match=r"3x3x3 and no volumes to choose from; leave out \[1\]"):
        load_image(volume(flat, 1))
    with pytest.raises(InputError, match=r"no such file: .*none\.nii; mend the path"):
        load_image(volume(tmp_path / "none.nii", 1))


@pytest.fixture
def twins(cohort, tmp_path):
    """The same subject from four files and from one file of four volumes."""
    subject = read_manifest(cohort).subjects[0]
    joined = nib.concat_images([nib.load(p) for p in subject.images.values()])
    joined.set_data_dtype(np.float32)  # else the four would share one scale, and round anew
    joined.to_filename(tmp_path / "all.nii.gz")
    base = {"subject": "P1", "split": "train", "schema": subject.schema, "label": str(subject.label)}
    apart = base | {m: str(p) for m, p in subject.images.items()}
    whole = base | {m: f"all.nii.gz[{k}]" for k, m in enumerate(subject.images)}
    paths = (write_manifest([row], list(subject.images), tmp_path / f"{n}.csv") for n, row in enumerate((apart, whole)))
    return [read_manifest(p) for p in paths]


def test_a_subject_in_one_file_gives_the_same_sample(twins):
    one, other = (cached_dataset(m.subjects, m.modalities, Preprocessing(4.0))[0] for m in twins)
    for key in ("image", "label", "brain", "present"):
        np.testing.assert_allclose(one[key].numpy(), other[key].numpy(), atol=1e-5)


def test_volumes_are_examined_fingerprinted_and_missed_like_files(twins, tmp_path):
    _, whole = twins
    assert [str(f) for f in doctor(whole.path) if f.severity == "error"] == [], "four volumes are no duplicates"
    assert whole.materialise() is whole
    prints = {files.content_fingerprint(p) for p in whole.subjects[0].images.values()}
    assert len(prints) == 4
    before = whole.fingerprint()
    swapped = whole.path.read_text().replace("[0]", "[x]").replace("[1]", "[0]").replace("[x]", "[1]")
    whole.path.write_text(swapped)
    assert read_manifest(whole.path).fingerprint() != before, "other channels are another cohort"
    (tmp_path / "all.nii.gz").unlink()
    with pytest.raises(InputError, match=r"subject P1: .* does not exist: .*all\.nii\.gz\[\d\]"):
        whole.materialise()
