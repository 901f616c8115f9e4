"""Training: asked twice it trains once; interrupted and resumed it ends in the same bits; damage is one line."""

import json
import math
import multiprocessing
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from safetensors.torch import load_file

from mtg_lab import methods, training
from mtg_lab.errors import InputError, LostProcess
from mtg_lab.hardware import seeded, use_bf16
from mtg_lab.manifest import read_manifest
from mtg_lab.methods import AlignedTeacher
from mtg_lab.missingness import Missingness, read_pattern
from mtg_lab.runs import load_run
from mtg_lab.training import rate_factor, train

RUN_FILES = {"recipe.json", "weights.safetensors", "history.csv", "log.txt", "environment.json"}


def recipe_of(tiny_recipe, method, **changes):
    """The method's recipe, with an aligned teacher where it needs one."""
    if methods.find(method).needs_teacher:
        changes["teacher"] = tiny_recipe(method="aligned_teacher", steps=2)
    usual = methods.find(method).usual_backbone
    usual = "unet" if usual == "adamm" else usual  # whose options the tiny recipe has
    return tiny_recipe(**{"method": method, "backbone": usual, **changes})


def stop_before(patch, folder, step):
    """The user presses Ctrl-C when so many steps of this run are done."""
    advance = training._Training._advance

    def interrupted(self, batch):
        if self.folder == folder and self.step == step:
            raise KeyboardInterrupt
        advance(self, batch)

    patch.setattr(training._Training, "_advance", interrupted)


def interrupt(recipe, folder, step, **options):
    with pytest.MonkeyPatch.context() as patch:
        stop_before(patch, folder, step)
        with pytest.raises(KeyboardInterrupt):
            train(recipe, folder, **options)


def assert_same_bits(run, other):
    ours, theirs = (load_file(r.folder / "weights.safetensors") for r in (run, other))
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert torch.equal(ours[name], theirs[name]), name
    assert (run.folder / "history.csv").read_bytes() == (other.folder / "history.csv").read_bytes()


# --- one run ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(cohort, tmp_path_factory):
    """A trained run of four steps that no test changes."""
    from mtg_lab.data import Preprocessing, Sampling
    from mtg_lab.recipes import Recipe

    recipe = Recipe(
        str(cohort), preprocessing=Preprocessing(4.0), sampling=Sampling(24), steps=4, precision="fp32",
        backbone_options={"width": 4, "latent": 3, "depth": 2},
    )  # fmt: skip
    return train(recipe, tmp_path_factory.mktemp("runs") / "run")


def test_a_run_folder_holds_what_the_plan_says(finished):
    assert {p.name for p in finished.folder.iterdir()} - {".lock"} == RUN_FILES
    facts = json.loads((finished.folder / "recipe.json").read_text())
    assert facts["hash"] == finished.digest == finished.recipe.digest()
    assert facts["modalities"] == list(finished.modalities) == ["t1n", "t1c", "t2w", "t2f"]
    assert facts["schema"] == finished.schema.name == "brats2023"
    assert {"python", "packages", "device", "precision", "seconds", "peak_memory_mb"} <= set(finished.environment)


def test_the_history_has_one_row_a_step(finished):
    assert list(finished.history.index) == [0, 1, 2, 3]
    assert {"loss", "segmentation"} <= set(finished.history)
    each_step = [c for c in finished.history if not c.startswith("probe_")]
    assert np.isfinite(finished.history[each_step].to_numpy()).all()
    assert finished.history["probe_dice"].notna().tolist() == [False, False, True, True], "an epoch, and the end"


def test_a_run_comes_back_from_its_folder(finished):
    run = load_run(finished.folder)
    assert run.recipe == finished.recipe
    network = run.backbone()
    assert not network.training
    weights = load_file(run.folder / "weights.safetensors")
    assert all(torch.equal(v, weights[k]) for k, v in network.state_dict().items())


def test_a_network_that_has_one_layer_under_two_names_is_kept(tiny_recipe, tmp_path):
    """DynUNet's skip layers are its other layers once more."""
    run = train(tiny_recipe(backbone="nnunet", backbone_options={"width": 4, "depth": 2}, steps=1), tmp_path / "run")
    network = run.backbone()
    names = [name for name, _ in network.named_parameters(remove_duplicate=False)]
    assert len(names) > len(list(network.parameters()))
    before = training.build_method(run.recipe, run.recipe.cohort(), None).backbone.state_dict()
    assert any(not torch.equal(value, before[name]) for name, value in network.state_dict().items())
    batch = torch.randn(1, 4, 8, 8, 8), torch.ones(1, 4, dtype=torch.bool)
    again = load_run(run.folder).backbone()
    with torch.no_grad():
        assert torch.equal(network(*batch).logits, again(*batch).logits)


def test_nothing_is_unpickled_when_a_run_is_loaded(finished, monkeypatch):
    """A run folder from a stranger must not be able to run code."""

    def explode(*args, **options):
        raise AssertionError("something was unpickled")

    for module, name in [(pickle, "load"), (pickle, "loads"), (pickle, "Unpickler"), (torch, "load")]:
        monkeypatch.setattr(module, name, explode)
    run = load_run(finished.folder)
    run.backbone()
    assert len(run.history) == 4
    assert run.environment


def test_asking_twice_trains_once(finished, monkeypatch):
    before = {p.name: p.stat().st_mtime_ns for p in finished.folder.iterdir()}
    monkeypatch.setattr(training, "_Training", None)  # nobody may start one
    again = train(finished.recipe, finished.folder)
    assert again.recipe == finished.recipe
    assert {p.name: p.stat().st_mtime_ns for p in finished.folder.iterdir()} == before


def test_a_finished_run_needs_no_writable_folder(finished, monkeypatch):
    monkeypatch.setattr(training, "make_folder", None)
    train(finished.recipe, finished.folder)


def test_by_default_the_hash_is_the_folder(tiny_recipe, session_cache):
    recipe = tiny_recipe(steps=1)
    assert train(recipe).folder == session_cache / "runs" / recipe.digest()


def test_the_trained_weights_differ_from_the_untrained(finished):
    untrained = training.build_method(finished.recipe, finished.recipe.cohort(), None).backbone.state_dict()
    trained = finished.backbone().state_dict()
    assert not torch.equal(untrained["head.weight"], trained["head.weight"])


# --- who lacks what ---------------------------------------------------------------------------------------------------


@pytest.fixture
def lacking(tiny_recipe):
    """A recipe whose training subjects lack what a rule takes away."""
    missing = {"rule": "independent", "rates": {"t1c": 0.5, "t2f": 0.5}, "seed": 3}
    return lambda **changes: tiny_recipe(missing=missing, **changes)


def test_a_run_folder_shows_who_lacked_what(lacking, tmp_path):
    run = train(lacking(), tmp_path / "run")
    assert {p.name for p in run.folder.iterdir()} - {".lock"} == RUN_FILES | {"missing.csv", "missing.rule.json"}
    pattern = read_pattern(run.folder / "missing.csv")
    rule = Missingness.from_json(json.loads((run.folder / "missing.rule.json").read_text()))
    whole = read_manifest(run.recipe.manifest)
    pd.testing.assert_frame_equal(pattern, rule.pattern(whole, "train"))
    assert 0 < (~pattern).to_numpy().sum() < 12
    assert load_run(run.folder).recipe == run.recipe
    assert [len(s.images) for s in run.recipe.cohort().split("test")] == [4, 4]


def test_every_method_meets_the_same_pattern(lacking, tmp_path):
    teacher = lacking(method="complete")
    recipes = [teacher, lacking(), lacking(method="aligned_teacher"), lacking(method="student", teacher=teacher)]
    tables = [train(r, tmp_path / str(i)).folder / "missing.csv" for i, r in enumerate(recipes)]
    assert len({t.read_bytes() for t in tables}) == 1


@pytest.mark.parametrize("method", ["dropout", "passion"])
def test_training_never_opens_what_is_missing(lacking, cohort, tmp_path, method):
    """The same bits come out of a folder that does not hold the missing files at all, normalisation included."""
    whole = train(lacking(method=method), tmp_path / "whole")
    shutil.copytree(cohort.parent, tmp_path / "cohort")
    table = pd.read_csv(cohort, dtype=str).drop(columns="seed")  # real rows: nothing is synthesised
    table.to_csv(tmp_path / "cohort" / "real.csv", index=False)
    real = read_manifest(tmp_path / "cohort" / "real.csv")
    pattern = read_pattern(whole.folder / "missing.csv")
    for name, modality in pattern.stack().loc[lambda there: ~there].index:
        real[name].images[modality].write_bytes(b"poison") if modality == "t1c" else real[name].images[
            modality
        ].unlink()
    lacked = train(lacking(method=method, manifest=str(real.path)), tmp_path / "lacked")
    ours, theirs = (load_file(r.folder / "weights.safetensors") for r in (whole, lacked))
    assert all(torch.equal(ours[k], theirs[k]) for k in ours)


def test_a_cohort_that_cannot_lack_it_is_refused_before_there_is_a_folder(tiny_recipe, tmp_path):
    rates = dict.fromkeys(("t1n", "t1c", "t2w", "t2f"), 0.2)
    for missing, told in (
        ({"rule": "subset", "subset": "dwi"}, "names 'dwi'"),
        ({"rule": "imbalanced", "rates": rates}, "6 subjects cannot show all 15 patterns"),
    ):
        with pytest.raises(InputError, match=told):
            train(tiny_recipe(missing=missing), tmp_path / "run")
    assert not (tmp_path / "run").exists()


# --- the same bits ----------------------------------------------------------------------------------------------------


def test_the_same_recipe_gives_the_same_bits(finished, tmp_path):
    torch.manual_seed(99)  # a generator of the process has no part in it
    np.random.seed(99)  # noqa: NPY002
    assert_same_bits(train(finished.recipe, tmp_path / "again"), finished)


def test_another_seed_gives_other_weights(finished, tiny_recipe, tmp_path):
    other = train(tiny_recipe(seed=1), tmp_path / "other").backbone().state_dict()
    assert not torch.equal(other["head.weight"], finished.backbone().state_dict()["head.weight"])


def test_workers_change_nothing_but_the_speed(finished, tmp_path):
    assert_same_bits(train(finished.recipe, tmp_path / "worker", workers=1), finished)


@pytest.mark.parametrize(("backbone", "method", "options"), [
    ("mmformer", "dropout", {"depth": 2, "tokens": 8, "heads": 2, "mlp": 8, "positions": 2}),
    ("adamm", "adamm", {"adapter_width": 4, "nodes": 2}),
])  # fmt: skip
def test_dropout_depends_on_the_recipe_alone(tiny_recipe, tmp_path, backbone, method, options):
    """Not on what the process has drawn before, nor on an interruption."""
    network = {"width": 4, "dropout": 0.5, **options}
    recipe = tiny_recipe(backbone=backbone, backbone_options=network, method=method, method_options={}, steps=3)
    torch.manual_seed(1)
    whole = train(recipe, tmp_path / "whole")
    torch.manual_seed(2)
    interrupt(recipe, tmp_path / "stopped", 2)
    assert_same_bits(train(recipe, tmp_path / "stopped"), whole)


def test_chance_within_a_seeded_block_leaves_none_outside():
    before = torch.get_rng_state()
    drawn = []
    for _ in range(2):
        with seeded(torch.device("cpu"), 1, 2):
            drawn.append(torch.rand(3))
    assert torch.equal(*drawn)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("method", "step"), [(m, 3) for m in methods.METHODS] + [(m, 1) for m in ("dropout", "student", "passion")]
)
def test_interrupted_and_resumed_is_never_interrupted(tiny_recipe, tmp_path, method, step):
    recipe = recipe_of(tiny_recipe, method)
    interrupt(recipe, tmp_path / "stopped", step)
    with pytest.raises(InputError, match="was interrupted before its end; the same train command resumes it"):
        load_run(tmp_path / "stopped")
    resumed = train(recipe, tmp_path / "stopped")
    assert_same_bits(resumed, train(recipe, tmp_path / "whole"))
    assert {p.name for p in resumed.folder.iterdir()} - {".lock"} == RUN_FILES
    log = (resumed.folder / "log.txt").read_text()
    assert f"interrupted at step {step}" in log
    assert f"resumed at step {step}" in log


@pytest.mark.parametrize("meanwhile", [False, True])
def test_a_lost_process_costs_no_step_even_if_an_interruption_comes_while_its_fault_is_looked_at(
    finished, tmp_path, monkeypatch, meanwhile
):
    """One Ctrl-C reaches all processes, and whichever leaves first breaks the others' connection."""
    advance, looked_at = training._Training._advance, training._of_a_lost_process

    def lost(self, batch):
        if self.step == 2:
            monkeypatch.setattr(type(self.accelerator), "num_processes", 2)
            raise RuntimeError("[/gloo/transport/tcp/pair.cc:547] Connection closed by peer")
        advance(self, batch)

    def interrupted(fault):
        assert looked_at(fault)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(training._Training, "_advance", lost)
        if meanwhile:
            patch.setattr(training, "_of_a_lost_process", interrupted)
        with pytest.raises(KeyboardInterrupt if meanwhile else LostProcess):
            train(finished.recipe, tmp_path / "stopped")
    monkeypatch.undo()
    log = (tmp_path / "stopped" / "log.txt").read_text()
    assert "interrupted at step 2" in log
    assert ("another process is gone" in log) is not meanwhile
    assert_same_bits(train(finished.recipe, tmp_path / "stopped"), finished)


def test_interrupted_twice_before_the_first_step_as_well(finished, tmp_path):
    for step in (0, 2, 2):
        interrupt(finished.recipe, tmp_path / "stopped", step)
    assert_same_bits(train(finished.recipe, tmp_path / "stopped"), finished)


def interrupt_third_call(patch, owner, name):
    whole, calls = getattr(owner, name), iter(range(9))

    def interrupted(*args):
        if next(calls) == 2:
            raise KeyboardInterrupt
        whole(*args)

    patch.setattr(owner, name, interrupted)


def test_an_interruption_inside_a_step_goes_back_to_the_last_checkpoint(finished, tmp_path, monkeypatch):
    """Weights are one step ahead of their average at that moment: such a state is never stored."""
    with monkeypatch.context() as patch:
        interrupt_third_call(patch, training.AveragedModel, "update_parameters")
        with pytest.raises(KeyboardInterrupt):
            train(finished.recipe, tmp_path / "stopped", checkpoint_steps=1)
    assert_same_bits(train(finished.recipe, tmp_path / "stopped"), finished)
    assert "resumed at step 2" in (tmp_path / "stopped" / "log.txt").read_text()


def test_an_interruption_while_gradients_are_formed_loses_no_step(finished, tmp_path, monkeypatch):
    """Most of a step's time; until the method has seen them nothing of its state has changed."""
    with monkeypatch.context() as patch:
        interrupt_third_call(patch, training.Accelerator, "backward")
        with pytest.raises(KeyboardInterrupt):
            train(finished.recipe, tmp_path / "stopped")
    assert_same_bits(train(finished.recipe, tmp_path / "stopped"), finished)
    assert "resumed at step 2" in (tmp_path / "stopped" / "log.txt").read_text()


def test_a_crash_goes_back_to_the_last_checkpoint(finished, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        advance = training._Training._advance

        def crash(self, batch):
            if self.step == 3:
                raise MemoryError
            advance(self, batch)

        patch.setattr(training._Training, "_advance", crash)
        with pytest.raises(MemoryError):
            train(finished.recipe, tmp_path / "stopped", checkpoint_steps=2)
    assert_same_bits(train(finished.recipe, tmp_path / "stopped"), finished)
    assert "resumed at step 2" in (tmp_path / "stopped" / "log.txt").read_text()


def test_a_history_with_undefined_and_with_tiny_numbers_survives_an_interruption(finished, tmp_path, monkeypatch):
    """A subject with one modality has no gap: NaN; a distillation that has converged is 1e-9."""
    advance = training._Training._advance

    def odd(self, batch):
        advance(self, batch)
        self.history[-1] |= {"gap": torch.tensor(math.nan), "tiny": torch.tensor(1.2345678e-17)}

    monkeypatch.setattr(training._Training, "_advance", odd)
    whole = train(finished.recipe, tmp_path / "whole")
    interrupt(finished.recipe, tmp_path / "stopped", 2)
    resumed = train(finished.recipe, tmp_path / "stopped")
    assert_same_bits(resumed, whole)
    assert resumed.history["gap"].isna().all()
    assert resumed.history["tiny"].tolist() == pytest.approx([1.2345678e-17] * 4, rel=1e-6)


def test_weights_are_averaged_over_steps(tiny_recipe, tmp_path, monkeypatch):
    """Horizon of 4 x 0.75 = 3 steps: a_1 = w_1, a_n = 2/3 a_(n-1) + 1/3 w_n."""
    advance, seen = training._Training._advance, []

    def watched(self, batch):
        advance(self, batch)
        seen.append({k: v.clone() for k, v in self.method.backbone.state_dict().items()})

    monkeypatch.setattr(training._Training, "_advance", watched)
    average = train(tiny_recipe(averaging=0.75), tmp_path / "run").backbone().state_dict()
    for name, value in average.items():
        w = [s[name].double() for s in seen]
        expected = 8 / 27 * w[0] + 4 / 27 * w[1] + 2 / 9 * w[2] + 1 / 3 * w[3]
        torch.testing.assert_close(value.double(), expected, rtol=1e-4, atol=1e-6)


def test_a_teacher_is_trained_once_for_all_its_students(tiny_recipe, tmp_path, session_cache):
    recipe = recipe_of(tiny_recipe, "student", steps=1)
    student = train(recipe, tmp_path / "one")
    teacher = session_cache / "runs" / recipe.teacher.digest()
    log = (teacher / "log.txt").read_text()
    train(recipe_of(tiny_recipe, "student", steps=1, seed=1), tmp_path / "two")
    assert (teacher / "log.txt").read_text() == log
    facts = json.loads((student.folder / "recipe.json").read_text())
    assert facts["teacher_hash"] == recipe.teacher.digest()


def test_a_process_can_train_in_one_precision_after_the_other(tiny_recipe, tmp_path):
    for precision in ("bf16", "fp32", "bf16"):
        run = train(tiny_recipe(steps=1, precision=precision), tmp_path / precision)
        assert run.environment["precision"] == {"bf16": "bf16", "fp32": "no"}[precision]


# --- the learning rate ------------------------------------------------------------------------------------------------


def test_the_rate_rises_to_one_and_falls_to_zero():
    """100 steps, a tenth of them warm-up: rising by tenths, one at the top, one half in the middle of the cosine."""
    factors = [rate_factor(step, 100, 0.1) for step in range(101)]
    assert factors[:11] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.0])
    assert factors[55] == pytest.approx(0.5)
    assert factors[100] == pytest.approx(0, abs=1e-12)


@given(st.integers(1, 500), st.floats(0, 1))
def test_the_rate_is_never_zero_before_the_end_and_never_above_its_peak(steps, warmup):
    factors = [rate_factor(step, steps, warmup) for step in range(steps)]
    assert all(0 < f <= 1 for f in factors)
    top = factors.index(max(factors))
    assert factors[: top + 1] == sorted(factors[: top + 1])
    assert factors[top:] == sorted(factors[top:], reverse=True)


def test_precision_is_as_told():
    assert use_bf16("bf16")
    assert not use_bf16("fp32")
    assert isinstance(use_bf16("auto"), bool)


# --- bad input --------------------------------------------------------------------------------------------------------


def one_line(refusal) -> str:
    assert "\n" not in str(refusal.value)
    return str(refusal.value)


def test_the_folder_of_another_recipe_is_refused_and_left_alone(finished, tiny_recipe):
    before = (finished.folder / "recipe.json").read_bytes()
    with pytest.raises(InputError, match="holds the run of another recipe") as refusal:
        train(tiny_recipe(seed=5), finished.folder)
    assert "choose another --out" in one_line(refusal)
    assert (finished.folder / "recipe.json").read_bytes() == before


@pytest.mark.parametrize("content", ["[1, 2]", "{", ""])
def test_a_folder_with_a_strange_recipe_is_refused(tiny_recipe, tmp_path, content):
    (tmp_path / "recipe.json").write_text(content)
    with pytest.raises(InputError, match="another recipe"):
        train(tiny_recipe(), tmp_path)


def test_a_folder_that_cannot_be_written_is_told(tiny_recipe, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write to the folder") as refusal:
        train(tiny_recipe(), tmp_path / "file" / "run")
    assert "choose another place" in one_line(refusal)


@pytest.mark.parametrize(
    "change",
    [
        {"backbone": "vgg"},
        {"backbone_options": {"fill": "mean"}},
        {"method": "aligned_teacher", "method_options": {"align_loss": "l1"}},
        {"method": "student", "method_options": {"subset": "t9"}},
    ],
)
def test_what_cannot_be_built_is_told_before_a_folder_or_a_teacher_is_made(tiny_recipe, tmp_path, monkeypatch, change):
    monkeypatch.setattr(training, "_Training", None)
    recipe = recipe_of(tiny_recipe, **{"method": "dropout", **change})
    with pytest.raises(InputError) as refusal:
        train(recipe, tmp_path / "run")
    one_line(refusal)
    assert not (tmp_path / "run").exists()


def test_a_loss_that_runs_away_ends_without_weights(tiny_recipe, tmp_path):
    recipe = tiny_recipe(learning_rate=1e30)
    with pytest.raises(InputError, match="lower the learning rate") as refusal:
        train(recipe, tmp_path / "run")
    one_line(refusal)
    assert not (tmp_path / "run" / "weights.safetensors").exists()


def test_a_damaged_checkpoint_is_told(finished, tmp_path):
    interrupt(finished.recipe, tmp_path / "run", 2)
    (tmp_path / "run" / training.CHECKPOINT).write_bytes(b"no tensors")
    with pytest.raises(InputError, match="cannot be resumed") as refusal:
        train(finished.recipe, tmp_path / "run")
    assert "delete this file" in one_line(refusal)


def test_a_batch_that_does_not_divide_is_told(finished, tmp_path, monkeypatch):
    monkeypatch.setattr(training.Accelerator, "num_processes", 3)
    with pytest.raises(InputError, match="batch 2 does not divide over 3 processes; set batch to a multiple of 3"):
        train(finished.recipe, tmp_path / "run")


@pytest.fixture
def copied(finished, tmp_path):
    """A copy of a finished run that a test may damage."""
    folder = tmp_path / "copy"
    folder.mkdir()
    for path in finished.folder.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def test_no_run_is_told(tmp_path):
    with pytest.raises(InputError, match="does not exist; make one with 'mtg-lab train"):
        load_run(tmp_path / "nothing")
    with pytest.raises(InputError, match=r"holds no run \(no recipe.json\)"):
        load_run(tmp_path)


@pytest.mark.parametrize("content", ["", "{", "[]", "3", '{"hash": "abc"}', "\x00\xff"])
def test_a_damaged_recipe_is_told(copied, content):
    (copied / "recipe.json").write_text(content, encoding="latin-1")
    with pytest.raises(InputError, match=r"recipe\.json(?: is damaged|: not a recipe)") as refusal:
        load_run(copied)
    one_line(refusal)


def test_damaged_weights_are_told(copied):
    whole = (copied / "weights.safetensors").read_bytes()
    for content in (b"", whole[: len(whole) // 2]):
        (copied / "weights.safetensors").write_bytes(content)
        with pytest.raises(InputError, match=r"weights\.safetensors does not fit its recipe") as refusal:
            load_run(copied).backbone()
        one_line(refusal)


def test_weights_of_another_network_are_told(copied):
    facts = json.loads((copied / "recipe.json").read_text())
    facts["backbone_options"]["width"] = 6
    (copied / "recipe.json").write_text(json.dumps(facts))
    with pytest.raises(InputError, match="does not fit its recipe") as refusal:
        load_run(copied).backbone()
    one_line(refusal)


def test_modalities_that_the_run_has_never_seen_are_told(finished):
    finished.check_modalities(("t2f", "t1n"), "the cohort")
    with pytest.raises(InputError, match="the cohort has the modality 'dwi'; the run run was trained on t1n, t1c"):
        finished.check_modalities(("t1n", "dwi"), "the cohort")


# --- several processes ------------------------------------------------------------------------------------------------

TWO_PROCESSES = """
import json, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from mtg_lab.recipes import Recipe
from mtg_lab.training import train
recipe = Recipe.from_json(json.loads(Path(sys.argv[1]).read_text()))
train(recipe, sys.argv[2], checkpoint_steps=2)
train(recipe, sys.argv[2])
torch.distributed.destroy_process_group()
"""


def in_two_processes(folder, *arguments):
    """``script.py`` of the folder by torchrun, with a cache of its own."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    root = Path(training.__file__).parents[1]
    environment = os.environ | {
        "OMP_NUM_THREADS": "1", "PYTHONPATH": str(root), "CUDA_VISIBLE_DEVICES": "",
        "MTG_LAB_CACHE": str(folder / "cache"),
    }  # fmt: skip
    return subprocess.run(
        [*launch, str(folder / "script.py"), *map(str, arguments)],
        env=environment, capture_output=True, text=True, timeout=200,
    )  # fmt: skip


@pytest.mark.slow
def test_two_processes_train_what_one_would(tiny_recipe, tmp_path, monkeypatch):
    """By torchrun, each half of every batch: one folder, one writer, the same crops, hence the same history.

    What the monitors tell of a process's own samples (the gap, the rank) is averaged, and differs a little.
    """
    changes = {"steps": 6, "batch": 4, "learning_rate": 1e-3}
    teacher = tiny_recipe(method="aligned_teacher", **changes)
    options = {"feature_weight": 0.1}
    recipe = tiny_recipe(method="student", teacher=teacher, seed=7, method_options=options, **changes)
    (tmp_path / "recipe.json").write_text(json.dumps(recipe.to_json()))
    (tmp_path / "script.py").write_text(TWO_PROCESSES)
    child = in_two_processes(tmp_path, tmp_path / "recipe.json", tmp_path / "two")
    assert child.returncode == 0, child.stderr[-3000:]
    monkeypatch.setenv("MTG_LAB_CACHE", str(tmp_path / "cache"))
    together, alone = load_run(tmp_path / "two"), train(recipe, tmp_path / "one")
    assert together.environment["processes"] == 2
    assert {p.name for p in together.folder.iterdir()} - {".lock"} == RUN_FILES
    log = (together.folder / "log.txt").read_text()
    assert [log.count(word) for word in ("started", "done")] == [1, 1]
    assert list(together.history.columns) == list(alone.history.columns)
    pd.testing.assert_frame_equal(together.history, alone.history, rtol=1e-3)
    taught, alone = load_run(tmp_path / "cache" / "runs" / teacher.digest()), train(teacher, tmp_path / "teacher")
    assert taught.environment["processes"] == 2
    pd.testing.assert_frame_equal(taught.history, alone.history, rtol=0.1)
    exact = ["loss", "segmentation", "alignment"]
    pd.testing.assert_frame_equal(taught.history[exact], alone.history[exact], rtol=1e-3)


BALANCED_BY_TWO = """
import json, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from mtg_lab.recipes import Recipe
from mtg_lab.training import train
for name, recipe in json.loads(Path(sys.argv[1]).read_text()).items():
    train(Recipe.from_json(recipe), Path(sys.argv[2]) / name, checkpoint_steps=2)
torch.distributed.destroy_process_group()
"""


@pytest.mark.slow
def test_two_processes_balance_as_one_would(tiny_recipe, tmp_path):
    """State moves by what all processes saw: preferences, coefficients, prototypes, factors are those of one process.

    Without noise; with noise it is drawn alike in both processes. The rate is small because Adam's first steps follow
    the sign of a gradient, and rounding decides some signs.
    """
    options = {
        "passion": {"gate": "off", "published_loss": True},
        "prototype_modulation": {},
        "gradient_modulation": {"noise": False},
        "balanced_teacher": {"gate": "off", "fusion_start": 0.5},
    }
    missing = {"rule": "independent", "rates": {"t1c": 0.5, "t2f": 0.5}, "seed": 3}
    recipes = {
        name: tiny_recipe(method=name, method_options=chosen, missing=missing, batch=4, steps=4, learning_rate=1e-5)
        for name, chosen in options.items()
    }
    (tmp_path / "recipes.json").write_text(json.dumps({name: r.to_json() for name, r in recipes.items()}))
    (tmp_path / "script.py").write_text(BALANCED_BY_TWO)
    child = in_two_processes(tmp_path, tmp_path / "recipes.json", tmp_path / "two")
    assert child.returncode == 0, child.stderr[-3000:]
    for name, recipe in recipes.items():
        together, alone = load_run(tmp_path / "two" / name), train(recipe, tmp_path / "one" / name)
        assert together.environment["processes"] == 2
        watched = [c for c in alone.history if c.split("_")[0] in ("preference", "coefficient", "score", "gradient")]
        assert len(watched) in (4, 8)
        columns = ["loss", *watched]
        pd.testing.assert_frame_equal(together.history[columns], alone.history[columns], rtol=5e-3, atol=1e-4)


def test_what_a_loader_process_refuses_is_told_in_its_own_line(tiny_recipe, tmp_path, monkeypatch):
    def refuse(self, number):
        raise InputError("subject P1: t1c is damaged; copy it again")

    monkeypatch.setattr(training.CropStream, "__getitem__", refuse)
    with pytest.raises(InputError) as told:
        training.train(tiny_recipe(), tmp_path / "run", workers=1)
    assert str(told.value) == "subject P1: t1c is damaged; copy it again"
    assert not multiprocessing.active_children(), "whoever keeps the error, as a notebook does, keeps no process"


def test_a_warning_of_the_method_is_told_once_and_logged(tiny_recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(AlignedTeacher, "warning", lambda self, history: f"collapse after {len(history)} steps")
    recipe = tiny_recipe(method="aligned_teacher", steps=6)
    with pytest.warns(UserWarning, match="collapse after 2 steps") as told:
        run = train(recipe, tmp_path / "run", checkpoint_steps=2)
    assert sum("collapse" in str(w.message) for w in told) == 1
    assert (run.folder / "log.txt").read_text().count("step 2: collapse after 2 steps") == 1
