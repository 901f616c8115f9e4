"""The same notebooks on real scans: another number of modalities, another schema, masks, one subject."""

import json

import pytest
from real_cohorts import COHORTS, real_manifests

from mtg_lab.notebooks import default_folder, find_notebooks, run_notebooks

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.timeout(900)]
ONLY_SPLIT = {"isles22": "train"}
# 07 on all; the gap where modalities are not the phantom's; 12, trained on phantoms, where it knows the regions.
NOTEBOOKS = {"isles22": ["01", "07"], "brats15": ["03", "07", "12"], "open_ms": ["01", "07"]}


@pytest.mark.parametrize("cohort", COHORTS)
def test_notebooks_run_on_real_scans(cohort, real_data, tmp_path):
    manifest = real_manifests(tmp_path, real_data)[cohort]
    drawn = {"umap": False} if "03" in NOTEBOOKS[cohort] else {}  # a parameter that no notebook declares is refused
    outcomes = run_notebooks(
        find_notebooks(NOTEBOOKS[cohort], default_folder()),
        tmp_path / "out",
        preset="smoke",
        manifest=manifest,
        parameters={"split": ONLY_SPLIT.get(cohort, "test"), **drawn},
        progress=False,
    )
    faults = {o.notebook: f"cell {o.cell}: {o.message}" for o in outcomes if o.status != "done"}
    assert not faults
    numbers = json.loads((tmp_path / "out" / "07_evaluation" / "metrics.json").read_text())
    assert 0 <= numbers["dice_dropout"] <= 1
    if "12" in NOTEBOOKS[cohort]:
        numbers = json.loads((tmp_path / "out" / "12_trained_on_nobody" / "metrics.json").read_text())
        assert 0 <= numbers["dice_varied_on_yours"] <= 1
    modalities = {"open_ms": 4, "isles22": 3, "brats15": 2}[cohort]
    table = (tmp_path / "out" / "07_evaluation" / "scores.csv").read_text()
    assert "+".join(["t2f", "t1n", "t1c", "t2w"]) in table or modalities < 4
