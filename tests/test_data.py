"""From files to tensors: one grid, one orientation, z-scores; a cache that is never stale; crops that repeat."""

from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from scipy import stats

from mtg_lab import data
from mtg_lab.data import CropStream, LoadSubject, Preprocessing, Sampling, cached_dataset, preprocessing_transform
from mtg_lab.errors import InputError
from mtg_lab.manifest import Subject, read_manifest

pytestmark = pytest.mark.filterwarnings("ignore:Num foregrounds")  # MONAI, of a crop without a lesion

MODALITIES = ("t1c", "t2f")
SHAPE = (20, 24, 18)
MM2 = Preprocessing(spacing_mm=2.0)


@pytest.fixture(scope="module")
def volumes():
    """A block of brain with a rough inside, off centre so that no mirror maps it on itself; and its labels."""
    rng = np.random.default_rng(0)
    images = {}
    for modality in MODALITIES:
        voxels = np.zeros(SHAPE, np.float32)
        voxels[3:14, 5:21, 2:13] = rng.normal(100, 20, (11, 16, 11)).clip(1)
        images[modality] = voxels
    label = np.zeros(SHAPE, np.uint8)
    label[5:9, 8:12, 4:8] = 2
    label[6:8, 9:11, 5:7] = 3
    label[4, 15, 10] = 1
    return {**images, "label": label}


@pytest.fixture
def subject(tmp_path, nifti, volumes):
    """The block as a subject on disk."""
    paths = {name: nifti(tmp_path / f"{name}.nii.gz", voxels) for name, voxels in volumes.items()}
    return Subject("P1", {m: paths[m] for m in MODALITIES}, "train", "brats2023", paths["label"])


def prepared(subject, settings=MM2, modalities=MODALITIES):
    return preprocessing_transform(modalities, settings, subject.label is not None)({"subject": subject})


# One grid.


@pytest.mark.parametrize("orientation", ["LPS", "LAS", "SRA", "IPL"])
def test_a_scan_and_its_reoriented_twin_give_the_same_tensors(subject, tmp_path, orientation):
    turned = {}
    for column, path in subject.files.items():
        image = nib.load(path)
        change = nib.orientations.ornt_transform(
            nib.io_orientation(image.affine), nib.orientations.axcodes2ornt(orientation)
        )
        turned[column] = tmp_path / f"turned-{column}.nii.gz"
        image.as_reoriented(change).to_filename(turned[column])
    twin = replace(subject, images={m: turned[m] for m in MODALITIES}, label=turned["label"])
    assert nib.aff2axcodes(nib.load(turned["t1c"]).affine) == tuple(orientation)
    ours, theirs = prepared(subject), prepared(twin)
    torch.testing.assert_close(theirs["image"], ours["image"], atol=1e-4, rtol=0)
    assert theirs["label"].equal(ours["label"])
    torch.testing.assert_close(theirs["affine"], ours["affine"], atol=1e-5, rtol=0)


def test_the_working_grid_has_the_asked_spacing_and_points_right_anterior_superior(subject):
    for spacing in (1.0, 2.0, 3.0):
        sample = prepared(subject, Preprocessing(spacing))
        np.testing.assert_allclose(sample["affine"][:3, :3], np.eye(3) * spacing, atol=1e-6)
        extent = np.array(sample["image"].shape[1:]) * spacing
        assert (extent >= np.array([22, 32, 22])).all()  # the brain's millimetres


def test_voxels_keep_their_place_in_the_patient(subject, volumes):
    sample = prepared(subject)
    index = torch.nonzero(sample["label"][0] == 1)[0]
    place = sample["affine"][:3, :3] @ index.double() + sample["affine"][:3, 3]
    np.testing.assert_allclose(place, 2.0 * np.argwhere(volumes["label"] == 1)[0], atol=1e-5)


def test_anisotropic_voxels_become_cubes(tmp_path, nifti, volumes):
    affine = np.diag([2.0, 2.0, 4.0, 1])
    image = nifti(tmp_path / "a.nii.gz", volumes["t1c"], affine)
    sample = prepared(Subject("P1", {"t1c": image}), Preprocessing(2.0, 0), ("t1c",))
    assert sample["image"].shape[1:3] == (11, 16)
    assert abs(sample["image"].shape[3] - 2 * 11) <= 2


@pytest.mark.parametrize("margin", [0, 2, 5])
def test_the_box_holds_the_whole_brain_and_its_rim(subject, volumes, margin):
    sample = prepared(subject, Preprocessing(2.0, margin))
    assert sample["image"].shape == (2, 11 + 2 * margin, 16 + 2 * margin, 11 + 2 * margin)
    assert int(sample["brain"].sum()) == np.count_nonzero(volumes["t1c"])
    assert torch.bincount(sample["label"].flatten().int()).tolist()[1:] == [1, 56, 8]


def test_the_phantom_s_tumours_survive_the_box(cohort):
    for subject in read_manifest(cohort).limit(1, 1, 1):
        sample = prepared(subject, Preprocessing(4.0), ("t1n", "t1c", "t2w", "t2f"))
        assert (sample["label"] > 0).sum() == np.count_nonzero(nib.load(subject.label).get_fdata())


# z-scores.


def test_brain_voxels_have_mean_0_and_deviation_1_and_all_others_are_0(subject):
    sample = prepared(subject)
    inside = sample["brain"][0] > 0
    for channel in sample["image"]:
        assert abs(channel[inside].mean()) < 1e-5
        assert abs(channel[inside].std() - 1) < 1e-5
        assert (channel[~inside] == 0).all()
    assert sample["image"].dtype == torch.float32
    assert sample["brain"].dtype == sample["label"].dtype == torch.uint8


def test_z_scores_equal_scipy_s(subject, volumes):
    sample = prepared(subject, Preprocessing(2.0, 0))
    block = volumes["t2f"][3:14, 5:21, 2:13]
    np.testing.assert_allclose(sample["image"][1].flatten(), stats.zscore(block, None, 1).flatten(), atol=1e-4)


def test_scale_and_offset_of_a_scanner_do_not_matter(subject, nifti, volumes, tmp_path):
    mask = nifti(tmp_path / "mask.nii.gz", (volumes["t1c"] > 0).astype(np.uint8))
    other = nifti(tmp_path / "other.nii.gz", volumes["t2f"] * 7 - 300)
    twin = replace(subject, images={**subject.images, "t2f": other}, mask=mask)
    torch.testing.assert_close(prepared(twin)["image"], prepared(subject)["image"], atol=1e-3, rtol=0)


def test_the_mask_column_says_what_is_brain(subject, nifti, tmp_path):
    voxels = np.zeros(SHAPE, np.float32)
    voxels[5:10, 8:14, 4:9] = 1
    masked = replace(subject, mask=nifti(tmp_path / "mask.nii.gz", voxels))
    sample = prepared(masked, Preprocessing(2.0, 0))
    assert sample["image"].shape == (2, 5, 6, 5)
    assert sample["brain"].all()


def test_a_constant_channel_becomes_zeros(subject, nifti, volumes, tmp_path):
    flat = nifti(tmp_path / "flat.nii.gz", (volumes["t1c"] > 0).astype(np.float32))
    assert (prepared(replace(subject, images={"t1c": flat}))["image"] == 0).all()


# Absent modalities.


def test_an_absent_modality_is_zero_not_present_and_never_opened(subject, monkeypatch):
    opened = []
    load = data.load_image
    monkeypatch.setattr(data, "load_image", lambda path: opened.append(path) or load(path))
    subject.images["t2f"].unlink()
    sample = prepared(replace(subject, images={"t1c": subject.images["t1c"]}))
    assert sample["present"].tolist() == [True, False]
    assert (sample["image"][1] == 0).all()
    assert opened == [subject.images["t1c"], subject.label]


def test_channels_follow_the_run_and_not_the_row(subject):
    here, there = prepared(subject), prepared(subject, MM2, ("adc", "t2f", "t1c"))
    assert there["present"].tolist() == [False, True, True]
    assert there["image"][1:].flip(0).equal(here["image"])


# Labels.


@pytest.mark.parametrize(
    ("schema", "integers", "classes"),
    [
        ("brats2021", [0, 1, 2, 4], [0, 1, 2, 3]),
        ("brats2023", [0, 1, 2, 3], [0, 1, 2, 3]),
        ("brats2024", [0, 1, 2, 3, 4], [0, 1, 2, 3, 0]),  # 4 is the resection cavity
        ("brats2015", [0, 1, 2, 3, 4], [0, 1, 2, 3, 4]),
        ("lesion", [0, 1], [0, 1]),
    ],
)
@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
def test_integers_become_classes_by_their_schema(schema, integers, classes, dtype):
    found = data.label_classes(np.array(integers, dtype), Subject("P1", {}, schema=schema))
    assert found.tolist() == classes
    assert found.dtype == np.uint8


@pytest.mark.parametrize(("schema", "value"), [("brats2023", 4), ("brats2021", 3), ("lesion", 2), ("lesion", 0.5),
                                               ("lesion", np.nan), ("lesion", -1)])  # fmt: skip
def test_a_value_outside_the_schema_is_refused(schema, value):
    with pytest.raises(InputError, match=f"subject P1: the label holds {value:g}, schema {schema} knows 0, 1"):
        data.label_classes(np.array([0, 1, value]), Subject("P1", {}, schema=schema))


# Refusals.


def test_what_doctor_knows_is_refused_here_as_well(subject, nifti, volumes, tmp_path):
    spoilt = tmp_path / "spoilt.nii.gz"

    def refused(told, mask=None):
        changed = replace(subject, images={**subject.images, "t2f": spoilt}, mask=mask)
        with pytest.raises(InputError, match=told):
            prepared(changed)
        if spoilt.exists():
            with pytest.raises(InputError, match=told):
                cached_dataset([changed], MODALITIES, MM2)[0]

    refused("no such file")
    nifti(spoilt, volumes["t2f"][:-1])
    refused("subject P1: t2f is 19x24x18, t1c is 20x24x18; resample t2f to t1c's grid or leave its cell empty; file .*")
    nifti(spoilt, volumes["t2f"] * np.float32("nan"))
    refused("subject P1: t2f has NaN or infinite voxels; replace them in ")
    nifti(spoilt, volumes["t2f"])
    content = spoilt.read_bytes()
    refused("no brain voxel", nifti(tmp_path / "mask.nii.gz", np.zeros(SHAPE, np.uint8)))
    spoilt.write_bytes(content[: len(content) // 2])
    refused("spoilt.nii.gz is cut short or damaged")


def test_training_needs_labels(subject):
    with pytest.raises(InputError, match="subject P1 has no label; training and scoring need one"):
        cached_dataset([replace(subject, label=None)], MODALITIES, MM2)


# The cache.


@pytest.fixture
def counted(monkeypatch, tmp_path):
    """A cache of the test's own, and the names of subjects that were computed."""
    monkeypatch.setenv("MTG_LAB_CACHE", str(tmp_path / "cache"))
    computed = []
    load = LoadSubject.__call__
    monkeypatch.setattr(
        LoadSubject, "__call__", lambda self, item: computed.append(item["subject"].name) or load(self, item)
    )
    return computed


def entries(tmp_path):
    return sorted((tmp_path / "cache" / "preprocessed").iterdir())


def test_a_subject_is_computed_once(subject, counted, tmp_path):
    first = cached_dataset([subject], MODALITIES, MM2)[0]
    again = cached_dataset([subject], MODALITIES, MM2)[0]
    assert counted == ["P1"]
    assert first.keys() == again.keys() == {"image", "brain", "label", "present", "affine"}
    assert all(first[k].equal(again[k]) and type(again[k]) is torch.Tensor for k in first)


def test_the_cache_follows_the_content_and_not_the_name(subject, counted, nifti, volumes):
    read = cached_dataset([subject], MODALITIES, MM2)
    before = read[0]["image"]
    moved = subject.images["t2f"].rename(subject.images["t2f"].with_name("moved.nii.gz"))
    renamed = replace(subject, name="P7", images={**subject.images, "t2f": moved})
    cached_dataset([renamed], MODALITIES, MM2)[0]
    assert counted == ["P1"]
    nifti(subject.images["t2f"], volumes["t2f"][::-1])
    assert not read[0]["image"].equal(before)
    assert counted == ["P1", "P1"]


def test_whatever_changes_the_tensors_changes_the_entry(subject, counted, nifti, volumes, tmp_path):
    mask = nifti(tmp_path / "mask.nii.gz", (volumes["t1c"] > 0).astype(np.uint8))
    variants = [
        (subject, MODALITIES, MM2),
        (subject, MODALITIES[::-1], MM2),
        (subject, (*MODALITIES, "t1n"), MM2),
        (subject, MODALITIES, Preprocessing(4.0)),
        (subject, MODALITIES, Preprocessing(2.0, 3)),
        (replace(subject, schema="brats2015"), MODALITIES, MM2),
        (replace(subject, images={"t1c": subject.images["t1c"]}), MODALITIES, MM2),
        (replace(subject, images={"t2f": subject.images["t1c"]}), MODALITIES, MM2),
        (replace(subject, mask=mask), MODALITIES, MM2),
    ]
    for variant, modalities, how in variants:
        cached_dataset([variant], modalities, how)[0]
    assert len(counted) == len(entries(tmp_path)) == len(variants)


def test_entries_hold_tensors_only_and_no_more_than_they_show(subject, counted, tmp_path):
    sample = cached_dataset([subject], MODALITIES, MM2)[0]
    (entry,) = entries(tmp_path)
    stored = load_file(entry)
    assert all(stored[k].equal(sample[k]) for k in sample)
    assert entry.stat().st_size < sum(v.numel() * v.element_size() for v in stored.values()) + 5000


@pytest.mark.parametrize("content", [b"", b"no archive", None])
def test_a_damaged_entry_is_computed_again(subject, counted, tmp_path, content):
    read = cached_dataset([subject], MODALITIES, MM2)
    before = read[0]
    (entry,) = entries(tmp_path)
    entry.write_bytes(entry.read_bytes()[:1000] if content is None else content)
    with pytest.warns(UserWarning, match="computing a damaged cache entry again"):
        assert read[0]["image"].equal(before["image"])
    assert read[0]["image"].equal(before["image"])
    assert counted == ["P1", "P1"]


def test_a_full_disk_leaves_no_half_entry(subject, counted, tmp_path, monkeypatch):
    read = cached_dataset([subject], MODALITIES, MM2)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mtg_lab.files.os.replace", full)
    with pytest.raises(InputError, match="No space left on device"):
        read[0]
    assert entries(tmp_path) == []


# Crops.


@pytest.fixture(scope="module")
def three():
    """Three samples as the cache gives them: one smaller than the crop, one with a small lesion, one without."""

    def sample(shape, lesion):
        generator = torch.Generator().manual_seed(sum(shape))
        label = torch.zeros(1, *shape, dtype=torch.uint8)
        label[(slice(None), *(slice(8, 8 + lesion),) * 3)] = 1
        return {"image": torch.randn(2, *shape, generator=generator), "label": label,
                "present": torch.tensor([True, lesion > 0])}  # fmt: skip

    return [sample((10, 30, 12), 2), sample((26, 24, 28), 3), sample((20, 20, 20), 0)]


def equal(one, two):
    return one.keys() == two.keys() and all(one[k].equal(two[k]) for k in one)


@settings(max_examples=15)
@given(st.lists(st.integers(0, 40), min_size=1, max_size=5), st.integers(0, 1000))
def test_sample_n_is_the_same_in_whatever_order_samples_are_asked_for(three, numbers, seed):
    one, two = (CropStream(three, 100, Sampling(16), seed, classes=4) for _ in range(2))
    ours = {n: one[n] for n in sorted(numbers)}
    assert all(equal(two[n], ours[n]) for n in numbers)


def test_another_seed_gives_other_samples(three):
    one, two = (CropStream(three, 8, Sampling(16), seed, classes=4) for seed in (0, 1))
    assert not any(equal(one[n], two[n]) for n in range(8))
    assert len({int(one[n]["draw"]) for n in range(8)}) == 8


def test_the_global_generators_neither_matter_nor_move(three):
    stream = CropStream(three, 8, Sampling(16), 0, classes=4)
    first = stream[3]
    np.random.seed(7)  # noqa: NPY002
    torch.manual_seed(7)
    before = np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    assert equal(stream[3], first)
    assert (np.random.get_state()[1] == before[0]).all()  # noqa: NPY002
    assert torch.get_rng_state().equal(before[1])


def test_a_crop_has_its_size_even_where_the_volume_is_smaller(three):
    stream = CropStream(three, 9, Sampling(16), 0, classes=4)
    assert len(stream) == 9
    for n in range(9):
        sample = stream[n]
        assert sample["image"].shape == (2, 16, 16, 16)
        assert sample["label"].shape == (1, 16, 16, 16)
        assert [sample[k].dtype for k in ("image", "label", "present", "draw")] == [
            torch.float32, torch.int64, torch.bool, torch.int64,
        ]  # fmt: skip
        assert all(type(v) is torch.Tensor for v in sample.values())


def test_every_subject_comes_once_a_pass(three):
    def marked(number):
        image = torch.full((1, 8, 8, 8), float(number))
        return {"image": image, "label": torch.zeros(1, 8, 8, 8), "present": torch.tensor([True])}

    stream = CropStream([marked(i) for i in range(5)], 50, Sampling(8, augment=False), 3, classes=2)
    order = [int(stream[n]["image"][0, 0, 0, 0]) for n in range(50)]
    passes = [tuple(order[i : i + 5]) for i in range(0, 50, 5)]
    assert all(sorted(p) == [0, 1, 2, 3, 4] for p in passes)
    assert len(set(passes)) > 5


@pytest.mark.parametrize("share", [0.0, 0.67, 1.0])
def test_the_share_of_crops_centred_on_foreground_is_as_asked(share):
    shape = (30, 30, 30)
    label = torch.zeros(1, *shape, dtype=torch.uint8)
    label[:, 12:18, 12:18, 12:18] = 1
    sample = {"image": torch.zeros(1, *shape), "label": label, "present": torch.tensor([True])}
    stream = CropStream([sample], 150, Sampling(8, share, augment=False), 0, classes=2)
    centred = sum(int(stream[n]["label"][0, 4, 4, 4]) for n in range(150))
    assert stats.binomtest(centred, 150, share).pvalue > 0.001


def test_a_small_label_is_seen_as_often_as_a_large_one():
    label = torch.zeros(1, 30, 30, 30, dtype=torch.uint8)
    label[:, 5:25, 5:25, 5:25] = 1
    label[:, 14:16, 14:16, 14:16] = 2
    sample = {"image": torch.zeros(1, 30, 30, 30), "label": label, "present": torch.tensor([True])}
    stream = CropStream([sample], 150, Sampling(8, 1.0, augment=False), 0, classes=3)
    small = sum(int(stream[n]["label"][0, 4, 4, 4] == 2) for n in range(150))
    assert stats.binomtest(small, 150, 0.5).pvalue > 0.001


def test_a_subject_without_any_label_gives_crops_of_background():
    sample = {"image": torch.zeros(1, 9, 9, 9), "label": torch.zeros(1, 9, 9, 9), "present": torch.tensor([True])}
    stream = CropStream([sample], 3, Sampling(4, 1.0, augment=False), 0, classes=4)
    assert all(stream[n]["label"].shape == (1, 4, 4, 4) for n in range(3))


def test_augmentation_moves_image_and_label_together():
    shape = (12, 12, 12)
    image = torch.zeros(1, *shape)
    image[:, :3] = 100
    label = (image > 0).to(torch.uint8)
    stream = CropStream(
        [{"image": image, "label": label, "present": torch.tensor([True])}], 30, Sampling(12), 0, classes=2
    )
    sides = set()
    for n in range(30):
        sample = stream[n]
        assert ((sample["image"] > 50) == (sample["label"] > 0)).all()
        sides.add(bool(sample["label"][0, 0, 0, 0]))
    assert sides == {True, False}


# Subsets of a batch.


@given(st.lists(st.lists(st.booleans(), min_size=4, max_size=4).filter(any), min_size=1, max_size=4), st.data())
def test_a_sample_s_subset_is_fixed_by_its_own_draw(rows, data_):
    present = torch.tensor(rows)
    draw = torch.tensor([data_.draw(st.integers(0, 2**62 - 1)) for _ in rows])
    mask = data.subset_mask(present, draw)
    assert mask.dtype == torch.bool
    assert mask.any(dim=1).all()
    assert not (mask & ~present).any()
    alone = torch.cat([data.subset_mask(p[None], d[None]) for p, d in zip(present, draw)])
    assert mask.equal(alone)


def test_draws_of_a_stream_show_every_subset_equally_often():
    point = {"image": torch.zeros(1, 2, 2, 2), "label": torch.zeros(1, 2, 2, 2), "present": torch.tensor([True])}
    stream = CropStream([point], 450, Sampling(2, augment=False), 0, classes=2)
    draws = torch.stack([stream[n]["draw"] for n in range(450)])
    mask = data.subset_mask(torch.ones(450, 4, dtype=torch.bool), draws)
    counts = torch.bincount((mask * torch.tensor([1, 2, 4, 8])).sum(dim=1), minlength=16)
    assert counts[0] == 0
    assert stats.chisquare(counts[1:]).pvalue > 0.01
