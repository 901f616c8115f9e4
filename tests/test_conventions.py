"""Every convention on a miniature folder: what is recognised and why, the meaning of labels, splits, doctor."""

import json

import layouts
import pytest

from mtg_lab import vocabulary
from mtg_lab.doctor import doctor
from mtg_lab.errors import InputError
from mtg_lab.indexing import index_folder
from mtg_lab.manifest import read_manifest


def indexed(folder, tmp_path, **options):
    """What is told, and the manifest read back; its files are there and doctor finds no error."""
    found = index_folder(folder, **options)
    manifest = read_manifest(found.write(tmp_path / "out" / "m.csv"))
    assert [str(f) for f in doctor(manifest.path) if f.severity == "error"] == []
    return found.told(), manifest


def refusal(folder, **options):
    with pytest.raises(InputError) as caught:
        index_folder(folder, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- BraTS and FeTS ---------------------------------------------------------------------------------------------------


def test_2018_tells_high_and_low_grade(tmp_path):
    layouts.old_case(tmp_path / "d" / "HGG", "Brats18_2013_2_1")
    layouts.old_case(tmp_path / "d" / "LGG", "Brats18_TCIA09_141_1", ending=".nii")
    told, manifest = indexed(tmp_path / "d", tmp_path)
    assert "(BraTS 2018 (HGG 1, LGG 1): names such as Brats18_2013_2_1_flair.nii.gz)" in told
    assert manifest.schema.name == "brats2021"


def test_case_355_of_2020_has_the_label_that_is_called_otherwise(tmp_path):
    folder = tmp_path / "MICCAI_BraTS2020_TrainingData"
    layouts.old_case(folder, "BraTS20_Training_354", ending=".nii")
    layouts.old_case(folder, "BraTS20_Training_355", values=(), ending=".nii")
    layouts.label(folder / "BraTS20_Training_355" / "W39_1998.09.19_Segm.nii", (1, 2, 4))
    told, manifest = indexed(folder, tmp_path)
    assert manifest["BraTS20_Training_355"].label.name == "W39_1998.09.19_Segm.nii"
    assert "the label of BraTS20_Training_355 is called W39_1998.09.19_Segm.nii" in told


KINDS = {  # folder, case, label's integers, schema
    "2023 GLI": ("ASNR-MICCAI-BraTS2023-GLI-Challenge-TrainingData", "BraTS-GLI-00000-000", (1, 2, 3), "brats2023"),
    "2023 MET": ("ASNR-MICCAI-BraTS2023-MET-Challenge-TrainingData", "BraTS-MET-00001-000", (1, 2, 3), "brats2023_met"),
    "2023 MEN": ("ASNR-MICCAI-BraTS2023-MEN-Challenge-TrainingData", "BraTS-MEN-00004-000", (1, 2, 3), "brats2023_men"),
    "2023 PED": ("ASNR-MICCAI-BraTS2023-PED-Challenge-TrainingData", "BraTS-PED-00002-000", (1, 2, 3), "brats2023_ped"),
    "2023 SSA": ("ASNR-MICCAI-BraTS2023-SSA-Challenge-TrainingData", "BraTS-SSA-00002-000", (1, 2, 3), "brats2023_ssa"),
    "2024 GLI": ("training_data1_v2", "BraTS-GLI-00005-100", (1, 2, 3, 4), "brats2024"),
    "2024 PED": ("BraTS-PEDs2024_Training", "BraTS-PED-00001-000", (1, 2, 3, 4), "brats2024_ped"),
    "2024 MET": ("MICCAI-BraTS2024-MET-Challenge-Training", "BraTS-MET-00001-000", (1, 2, 3), "brats2023_met"),
    "2025 MET": ("MICCAI-LH-BraTS2025-MET-Challenge-Training", "BraTS-MET-00001-000", (1, 2, 3, 4), "brats2024"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_kind_and_the_year_tell_the_labels(tmp_path, kind):
    folder, case, values, schema = KINDS[kind]
    told, manifest = indexed(layouts.brats_case(tmp_path / folder, case, values=values), tmp_path)
    assert manifest.schema.name == schema
    assert f"(BraTS {kind}" in told


def test_radiotherapy_of_2024_has_one_modality_and_a_gross_tumour_volume(tmp_path):
    layouts.brats_case(tmp_path / "BraTS-MEN-RT-Train", "BraTS-MEN-RT-0001-1", ("t1c",), "_", (1,), seg="gtv")
    _, manifest = indexed(tmp_path / "BraTS-MEN-RT-Train", tmp_path)
    assert (manifest.modalities, manifest.schema.name) == (("t1c",), "brats2024_men_rt")


def test_children_of_no_year_need_a_schema_and_two_come_into_question(tmp_path):
    """Integer 1 is non-enhancing tumour in 2023 and enhancing tumour in 2024."""
    layouts.brats_case(tmp_path / "data", "BraTS-PED-00001-000")
    line = refusal(tmp_path / "data")
    assert "give --schema (brats2023_ped, brats2024_ped)" in line
    assert index_folder(tmp_path / "data", schema="brats2024_ped").rows[0]["schema"] == "brats2024_ped"


def test_names_of_no_known_year_need_a_schema(tmp_path):
    assert "give --schema" in refusal(layouts.old_case(tmp_path / "data", "Pat01"))


def test_kinds_that_share_their_labels_are_one_cohort_and_others_are_not(tmp_path):
    folder = tmp_path / "BraTS2023"
    layouts.brats_case(folder, "BraTS-GLI-00000-000")
    layouts.brats_case(folder, "BraTS-MET-00001-000")
    told, manifest = indexed(folder, tmp_path)
    assert manifest.schema.name == "brats2023"
    assert "the kinds share their labels" in told
    layouts.brats_case(tmp_path / "BraTS2024", "BraTS-PED-00001-000", values=(1, 2, 3, 4))
    assert "give --schema" in refusal(tmp_path)


def test_fets_has_its_sites_from_the_partitioning_table(tmp_path):
    folder = tmp_path / "MICCAI_FeTS2022_TrainingData"
    for number in range(3):
        layouts.old_case(folder, f"FeTS2022_{number:05d}")
    (folder / "partitioning_1.csv").write_text("Partition_ID,Subject_ID\n1,FeTS2022_00000\n18,FeTS2022_00002\n")
    (folder / "partitioning_2.csv").write_text("Partition_ID,Subject_ID\n7,FeTS2022_00000\n")
    told, manifest = indexed(folder, tmp_path)
    assert [s.site for s in manifest] == ["1", None, "18"], "the natural partition, by institution"
    assert "FeTS 2022" in told


# --- Decathlon --------------------------------------------------------------------------------------------------------


def test_the_decathlon_s_files_of_four_channels_stay_whole(tmp_path):
    told, manifest = indexed(layouts.decathlon(tmp_path / "Task01_BrainTumour"), tmp_path)
    assert "Medical Segmentation Decathlon Task01: dataset.json with test, training" in told
    assert manifest.modalities == ("t2f", "t1n", "t1c", "t2w")
    assert manifest.schema is vocabulary.schema("msd_task01")
    first = manifest["BRATS_001"]
    assert [p.name for p in first.images.values()] == [f"BRATS_001.nii.gz[{k}]" for k in range(4)]
    assert {s.name for s in manifest.split("test")} == {"BRATS_006", "BRATS_007"}
    assert all(s.label is None for s in manifest.split("test"))
    assert [len(manifest.split(s)) for s in ("train", "val")] == [4, 1], "else nothing could be scored"
    assert "val is drawn from the others" in told
    drawn = index_folder(tmp_path / "Task01_BrainTumour", shares="1:1:3").rows
    assert sorted(r["split"] for r in drawn) == ["", "", "test", "test", "test", "train", "val"]


# --- nnU-Net ----------------------------------------------------------------------------------------------------------

REGIONS = {"background": 0, "whole tumor": [1, 2, 3], "tumor core": [2, 3], "enhancing tumor": [3]}


def test_a_raw_folder_of_nnunet_with_regions(tmp_path):
    """The labels of nnU-Net's own BraTS script are those of the Decathlon: 1 oedema, 2 core, 3 enhancing."""
    facts = {"channel_names": {"0": "T1ce", "1": "FLAIR"}, "labels": REGIONS, "file_ending": ".nii.gz",
             "regions_class_order": [1, 2, 3]}  # fmt: skip
    told, manifest = indexed(layouts.nnunet(tmp_path / "Dataset137_BraTS", facts, training="abcde", test=()), tmp_path)
    assert "nnU-Net v2: dataset.json with channel_names t1c, t2f" in told
    assert manifest.modalities == ("t1c", "t2f")
    assert manifest.schema.name == "msd_task01"
    assert manifest["a"].images["t2f"].name == "a_0001.nii.gz"
    assert (manifest["c"].label.name, len(manifest)) == ("c.nii.gz", 5)


def test_labels_of_no_listed_schema_travel_beside_the_manifest(tmp_path):
    facts = {"channel_names": {"0": "dwi", "1": "adc"}, "labels": {"background": 0, "core": 1, "penumbra": [1, 2],
             "rest": 3}, "file_ending": ".nii"}  # fmt: skip
    layouts.nnunet(tmp_path / "Dataset007_Stroke", facts, training="ab", test="z", channels=2)
    _, manifest = indexed(tmp_path / "Dataset007_Stroke", tmp_path)
    assert manifest.schema.name == "dataset007_stroke"
    assert dict(manifest.schema.regions) == {"core": (1,), "penumbra": (1, 2), "rest": (3,)}
    assert json.loads((tmp_path / "out" / "m.schema.json").read_text())["name"] == "dataset007_stroke"
    assert {s.split for s in manifest if s.label is None} == {"test"}
    asked = index_folder(tmp_path / "Dataset007_Stroke", schema="brats2023").write(manifest.path)
    assert read_manifest(asked).schema.name == "brats2023", "what is asked for goes before what is found"


def test_a_schema_of_one_s_own_is_given_as_a_file(tmp_path):
    own = {"name": "ours", "labels": {"1": "core", "2": "rim", "3": "halo"}, "regions": {"all": [1, 2, 3]}}
    layouts.dataset_json(tmp_path, own, "ours.json")
    folder = layouts.brats_case(tmp_path / "data", "Pat-01")
    _, manifest = indexed(folder, tmp_path, schema=str(tmp_path / "ours.json"))
    assert (manifest.schema.name, manifest.schema.class_names[3]) == ("ours", "halo")
    assert "is not a readable JSON file" in refusal(folder, schema=str(tmp_path / "none.json"))


def test_a_channel_that_is_not_there_leaves_its_cell_empty(tmp_path):
    facts = {"channel_names": {"0": "T1", "1": "T2"}, "labels": {"background": 0, "lesion": 1}}
    layouts.nnunet(tmp_path / "d", facts, test=(), values=(1,))
    (tmp_path / "d" / "imagesTr" / "b_0001.nii.gz").unlink()
    told, manifest = indexed(tmp_path / "d", tmp_path)
    assert list(manifest["b"].images) == ["t1n"]
    assert "t1n 2, t2w 1; 2 with a label; 1 lacks a modality" in told
    assert manifest.schema.name == "lesion"


def test_folds_of_nnunet_are_its_splits(tmp_path):
    facts = {"channel_names": {"0": "T1"}, "labels": {"background": 0, "lesion": 1}}
    layouts.nnunet(tmp_path / "d", facts, training="abc", test=(), channels=1, values=(1,))
    layouts.dataset_json(tmp_path / "d", [{"train": ["a", "c"], "val": ["b"]}, {}], "splits_final.json")
    assert [r["split"] for r in index_folder(tmp_path / "d").rows] == ["train", "val", "train"]


NNUNET_FAULTS = {
    "png": ({"channel_names": {"0": "T1"}, "file_ending": ".png"}, "file_ending is .png; only .nii"),
    "a gap": ({"channel_names": {"1": "T1"}}, "write names of the channels '0', '1'"),
    "a name twice": ({"channel_names": {"0": "T1", "1": "t1n"}}, "t1n, t1n; every channel needs a name of its own"),
    "too few": ({"channel_names": {"0": "T1"}}, "is channel 1; "),
    "labels": ({"channel_names": {"0": "a", "1": "b"}, "labels": {"x": "one"}}, "write names and integers"),
    "a label above": ({"channel_names": {"0": "a", "1": "b"}, "labels": {"x": 70000}}, "no integer from 1 to 65535"),
}


@pytest.mark.parametrize("fault", NNUNET_FAULTS)
def test_a_dataset_json_at_fault_is_told(tmp_path, fault):
    facts, told = NNUNET_FAULTS[fault]
    layouts.nnunet(tmp_path / "d", facts | {"file_ending": ".nii.gz"})
    layouts.dataset_json(tmp_path / "d", facts)
    assert told in refusal(tmp_path / "d")


# --- MONAI ------------------------------------------------------------------------------------------------------------


def monai(folder, modality=("T1ce", "FLAIR"), **sections):
    """A datalist of lists of paths; ``sections`` name its subjects."""
    facts = {"modality": dict(enumerate(modality))} if modality else {}
    for section, names in sections.items():
        facts[section] = []
        for name in names:
            images = [layouts.scan(folder / name / f"{name}_{part}.nii.gz") for part in ("t1c", "t2f")]
            entry = {"image": [p.relative_to(folder).as_posix() for p in images]}
            if section != "test":
                entry["label"] = layouts.label(folder / name / "seg.nii.gz").relative_to(folder).as_posix()
            facts[section].append(entry)
    return layouts.dataset_json(folder, facts | {"labels": {"0": "background", "1": "NCR", "2": "ED", "3": "ET"}},
                                "list.json")  # fmt: skip


def test_a_datalist_of_monai_keeps_its_sections(tmp_path):
    folder = monai(tmp_path / "d", training=("P1", "P2"), validation=("P3",), test=("P4",))
    told, manifest = indexed(folder / "list.json", tmp_path)
    assert "MONAI datalist: list.json with test, training, validation" in told
    assert manifest.modalities == ("t1c", "t2f")
    assert [(s.name, s.split) for s in manifest] == [("P1", "train"), ("P2", "train"), ("P3", "val"), ("P4", "test")]
    assert manifest.schema is vocabulary.schema("brats2023")
    assert index_folder(folder).rows == index_folder(folder / "list.json").rows


def test_a_datalist_without_names_takes_them_in_order(tmp_path):
    folder = monai(tmp_path / "d", modality=(), training=("P1",))
    assert "does not name its channels (a subject has 2 images)" in refusal(folder)
    assert index_folder(folder, order=("FLAIR", "t1ce")).modalities == ("t2f", "t1c")
    assert "P1 has 2 images, there are 3 modalities" in refusal(folder, order=("t2f", "t1c", "t1n"))
    assert "given twice" in refusal(folder, order=("t2f", "flair"))


def test_fold_0_is_the_validation_set_of_auto3dseg(tmp_path):
    folder = monai(tmp_path / "d", training=("P1", "P2"))
    facts = json.loads((folder / "list.json").read_text())
    for fold, entry in enumerate(facts["training"]):
        entry["fold"] = fold
    layouts.dataset_json(folder, facts, "list.json")
    assert [r["split"] for r in index_folder(folder).rows] == ["val", "train"]


def test_a_datalist_at_fault_is_told(tmp_path):
    folder = monai(tmp_path / "d", training=("P1", "P2"))
    (folder / "P2" / "P2_t2f.nii.gz").unlink()
    assert "P2_t2f.nii.gz, which does not exist; its paths start from its own folder" in refusal(folder)
    monai(folder, training=("P1",))
    (folder / "second.json").write_text((folder / "list.json").read_text())
    assert "several datalists (list.json, second.json); name one" in refusal(folder)
    (folder / "list.json").write_text("{")
    assert "list.json is not a readable JSON file" in refusal(folder / "list.json")
    (folder / "list.json").write_text('{"training": []}')
    assert "is no datalist" in refusal(folder / "list.json")


# --- other organs and lesions -----------------------------------------------------------------------------------------


def test_isles_prefers_the_flair_on_the_grid_of_the_diffusion(tmp_path):
    told, manifest = indexed(layouts.isles(tmp_path / "ISLES-2022"), tmp_path)
    (subject,) = manifest
    assert (subject.name, manifest.modalities) == ("sub-strokecase0001", ("dwi", "adc", "t2f"))
    assert subject.images["t2f"].name.endswith("_flair_resampled_to_dwi.nii.gz")
    assert subject.label.parts[-4:-1] == ("derivatives", "sub-strokecase0001", "ses-0001")
    assert manifest.schema.name == "isles2022"
    assert "FLAIR resampled to the DWI grid is preferred to the raw one in 1" in told


def test_a_raw_flair_is_kept_told_of_and_refused_by_doctor(tmp_path):
    found = index_folder(layouts.isles(tmp_path / "ISLES-2022", resampled=False))
    assert "the FLAIR of 1 is raw and lies on another grid than DWI, which doctor refuses" in found.told()
    assert any("t2f is 10x10x4" in f.line for f in doctor(found.write(tmp_path / "m.csv")))


@pytest.mark.real
def test_the_real_stroke_case_is_recognised(real_data, tmp_path):
    told, manifest = indexed(real_data / "isles22", tmp_path, shares="1:0:0")
    (subject,) = manifest
    assert list(subject.images) == ["dwi", "adc", "t2f"]
    assert "preferred to the raw one in 1" in told


def test_the_heart_of_myops_has_large_integers_and_a_test_set(tmp_path):
    told, manifest = indexed(layouts.myops(tmp_path / "MyoPS 2020"), tmp_path)
    assert manifest.modalities == ("c0", "de", "t2w")
    assert manifest.schema.values == (200, 500, 600, 1220, 2221)
    assert [len(manifest.split(s)) for s in ("train", "val", "test")] == [4, 1, 2]
    assert "MyoPS 2020" in told


def test_an_index_is_the_same_every_time(tmp_path):
    folder = layouts.decathlon(tmp_path / "Task01_BrainTumour")
    assert index_folder(folder) == index_folder(folder)
    assert f"{folder}" in refusal(tmp_path), "a description that lies deeper is pointed out"
