"""What every notebook does the same way: a folder, pictures with words, numbers that any program can read."""

import base64
import io
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from mtg_lab import __version__, lesson
from mtg_lab.errors import InputError
from mtg_lab.evaluation import Protocol
from mtg_lab.lesson import Lesson, begin, check, most_telling

ROOT = Path(__file__).parents[1]


@pytest.fixture
def page(tmp_path):
    return begin("03_modality_gap", "smoke", str(tmp_path / "out" / "03"))


@pytest.fixture
def displayed(monkeypatch):
    """What a notebook would show, as HTML."""
    shown = []
    monkeypatch.setattr(lesson, "display", lambda page: shown.append(page.data))
    return shown


def a_line():
    figure = Figure(figsize=(2, 1))
    figure.subplots().plot([0, 1])
    return figure


def test_begin_makes_the_folder_and_says_what_it_runs_on(tmp_path, capsys):
    page = begin("03_modality_gap", "smoke", str(tmp_path / "out" / "03"))
    assert page == Lesson("03_modality_gap", tmp_path / "out" / "03")
    assert page.folder.is_dir()
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f"mtg_lab {__version__}, torch {torch.__version__}, Python 3.")
    assert re.search(r"device (cpu|cuda), preset smoke$", line)


def test_without_a_folder_results_go_into_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MTG_LAB_CACHE", str(tmp_path))
    folders = {begin(name, preset).folder for name in ("00_a", "01_b") for preset in ("smoke", "lab")}
    assert len(folders) == 4, "no notebook overwrites another's results, no preset those of another"
    assert all(folder.is_dir() and folder.is_relative_to(tmp_path) for folder in folders)


def test_a_folder_that_is_a_file_is_told(tmp_path):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(InputError, match="cannot write to the folder"):
        begin("00_a", "smoke", str(tmp_path / "out"))
    assert (tmp_path / "out").read_text() == "mine"


def test_show_saves_the_picture_with_its_words_and_displays_both(page, displayed):
    words = 'Dice "falls" & <rises> with σ, from left to right.'
    page.show(a_line(), "a_line", words)
    with Image.open(page.folder / "figures" / "a_line.png") as picture:
        assert picture.text["Description"] == words
        assert picture.size == (300, 150), "150 dpi"
    (html,) = displayed
    escaped = "Dice &quot;falls&quot; &amp; &lt;rises&gt; with σ, from left to right."
    assert f'alt="{escaped}"' in html
    assert f">{escaped}</figcaption>" in html
    (source,) = re.findall(r'src="data:image/png;base64,([^"]+)"', html)
    with Image.open(io.BytesIO(base64.b64decode(source))) as picture:
        assert picture.size == (220, 110)
    assert sorted(p.name for p in page.folder.rglob("*")) == ["a_line.png", "figures"], "nothing is left aside"


def test_tables_keep_their_index(page):
    table = pd.DataFrame({"WT": [0.25, 0.5]}, index=pd.Index(["t1c", "t1c+t2f"], name="subset"))
    page.table(table, "dice_table")
    pd.testing.assert_frame_equal(pd.read_csv(page.folder / "dice_table.csv", index_col="subset"), table)


def test_results_are_json_for_every_reader(page, capsys):
    """NaN is no JSON: browsers and jq refuse a whole file for one of them."""
    page.results({
        "steps": np.int64(4), "dice_mean": np.float32(0.5), "gap": torch.tensor(2.0), "won": np.bool_(True),
        "preset": "smoke", "accuracy": float("nan"), "ratio": np.inf, "rank": None,
    })  # fmt: skip

    def refuse(word):
        raise AssertionError(f"{word} is no JSON")

    found = json.loads((page.folder / "metrics.json").read_text(), parse_constant=refuse)
    assert found == {"steps": 4, "dice_mean": 0.5, "gap": 2.0, "won": True, "preset": "smoke", "accuracy": None,
                     "ratio": None, "rank": None}  # fmt: skip
    assert "8 numbers in metrics.json" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("right", "told"), [(True, "Right. Oedema is bright in t2f."), (False, "Not yet. Look at t2f.")]
)
def test_an_exercise_is_praised_or_helped(capsys, right, told):
    check(right, "Oedema is bright in t2f.", "Look at t2f.")
    assert capsys.readouterr().out == told + "\n"


def test_a_long_sentence_is_cut_between_words(capsys):
    sentence = "word " * 60
    lesson.tell(sentence, "short")
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 100
    assert " ".join(" ".join(lines).split()) == f"{sentence.strip()} short"
    assert lines[-1] == "short"


def test_the_most_telling_sample_has_most_labels_then_the_largest_lesion():
    def sample(*counts):
        return {"label": torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts)).reshape(1, 1, -1)}

    many, few, larger = sample(20, 1, 1, 1), sample(3, 20), sample(19, 1, 2, 1)
    assert most_telling([few, many]) == 1
    assert most_telling([larger, many, few]) == 0
    assert most_telling([sample(5)]) == 0, "a patient without a lesion can be shown as well"


# --- what was measured beforehand -------------------------------------------------------------------------------------


def test_the_stored_study_is_what_its_own_scores_say():
    """The difference of two arms, paired over subjects and seeds, is that of their mean curves."""
    tables, about = lesson.measured("alignment_study")
    assert "--seeds 0 1 2" in about["command"]
    assert Protocol(**about["protocol"]).metric == "dice"
    assert tables["runs"].groupby("arm")["seed"].nunique().eq(3).all()
    means = tables["curve"].groupby(["arm", "region"])["value"].mean()
    regions = tables["differences"].query("modalities == 'all' and region != 'all'")
    assert len(regions) == 9
    for row in regions.itertuples():
        assert row.low <= row.difference <= row.high
        assert row.difference == pytest.approx(means[row.ours, row.region] - means[row.theirs, row.region], abs=2e-4)


def test_the_words_about_the_stored_study_are_its_numbers():
    tables, _ = lesson.measured("alignment_study")
    overall = tables["differences"].query("modalities == 'all' and region == 'all'")
    page = (ROOT / "docs" / "findings.md").read_text()
    notebook = (ROOT / "notebooks" / "07_evaluation.ipynb").read_text()
    for row in overall.itertuples():
        told = f"{row.difference:+.3f} [{row.low:+.3f}, {row.high:+.3f}]"
        assert told in page
        assert told in notebook
    for arm, rows in tables["runs"].groupby("arm"):
        cells = f"{rows['dice'].mean():.3f} ± {rows['dice'].std():.3f}"
        assert cells in page, arm


def test_strategies_differ_as_their_own_means_do_and_as_the_words_say():
    """Over all numbers of sequences a difference is the mean of those of one to four."""
    tables, about = lesson.measured("strategies_study")
    assert about["protocol"]["seeds"]["training"] == [0, 1, 2]
    runs = tables["runs"]
    assert runs.groupby("arm")["seed"].nunique().eq(3).all()
    means = runs.groupby("arm")[[f"dice_{n}" for n in (1, 2, 3, 4)]].mean()
    told = tables["differences"].query("region == 'all' and ours in @means.index and theirs in @means.index")
    for row in told.itertuples():
        by_number = means.loc[row.ours] - means.loc[row.theirs]
        expected = by_number.mean() if row.modalities == "all" else by_number[f"dice_{row.modalities}"]
        assert row.difference == pytest.approx(expected, abs=2e-5), (row.ours, row.theirs, row.modalities)
    words = [(ROOT / name).read_text() for name in ("docs/findings.md", "notebooks/11_strategies.ipynb")]
    skipped = {
        "dropout_tuned",
        "adamm_tuned",
        "adamm_unet_open",
        "nnunet",
        "zero_fill",
        "mean_fill",
    }  # told shorter or in one of the two
    of_dropout = told.query("modalities == 'all' and theirs == 'dropout'")
    for row in of_dropout[~of_dropout["ours"].isin(skipped)].itertuples():
        for text in words:
            assert f"{row.difference:+.3f} [{row.low:+.3f}, {row.high:+.3f}]" in text, row.ours


def test_what_was_chosen_for_a_strategy_is_the_best_of_its_trials(monkeypatch):
    """Two learning rates within half a thousandth count as one, and then the common one stays."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    from strategies_study import TUNED

    trials = lesson.measured("strategies_study")[0]["trials"]
    chosen = {arm.removesuffix("_tuned"): next(iter(found.items())) for arm, found in TUNED.items()}
    for arm, (name, value) in chosen.items():
        of_arm = trials[trials["arm"] == arm]
        setting = of_arm[of_arm["setting"] == f"{name.rpartition('.')[2]}={value:g}"]
        assert len(setting) == 1, arm
        assert float(setting["dice_val"].iloc[0]) >= of_arm["dice_val"].max() - 5e-4, arm
        assert len(of_arm) >= 3


def test_the_words_about_phantoms_and_gliomas_are_the_stored_numbers():
    tables, about = lesson.measured("nobody_network")
    assert "--manifest mixed" in about["command"]
    words = [(ROOT / n).read_text() for n in ("docs/findings.md", "notebooks/12_trained_on_nobody.ipynb")]
    candidates = tables["candidates"].set_index(["trained on", "steps", "tested on"])["all"]
    assert len(candidates) == 12
    overall = tables["overall"].query("cohort == 'gliomas' and region == 'all'").set_index("method")["mean"]
    assert set(overall.index) == {"plain", "varied", "plain and varied", "student"}
    for value in [*candidates, *overall]:
        assert all(f"{value:.3f}" in text for text in words), value
    longest, _ = lesson.measured("nobody_box")
    means = longest["overall"].query("metric == 'dice' and region == 'all'").set_index(["method", "cohort"])["mean"]
    mine = means["nobody"]
    assert mine["sites"] == pytest.approx(candidates["plain and varied", 6000, "sites"], abs=1e-3), (
        "as stored, in half precision"
    )
    for value in [*mine.drop("sites"), means["plain6000", "real patients"]]:
        assert all(f"{value:.3f}" in text for text in words), value
    gained = longest["differences"].query("modalities == 'all' and region == 'all'").set_index("cohort")
    for cohort, sign in (("plain", -1), ("varied", 1)):
        low, value, high = sorted(sign * gained.loc[cohort, ["low", "difference", "high"]])
        sides = f"{value:.3f} [{low:.3f}, {high:.3f}]", f"{value:.3f} [+{low:.3f}, +{high:.3f}]"
        assert all(any(side in text for side in sides) for text in words), cohort
    dice = tables["patients"].query("metric == 'dice'").groupby(["network", "region"])["value"].mean()
    regions = tables["overall"].query("cohort == 'gliomas' and region != 'all'")
    for row in regions.itertuples():
        assert row.mean == pytest.approx(dice[row.method, row.region], abs=2e-4)


def test_the_words_about_small_parts_are_the_stored_numbers():
    parts, about = lesson.measured("small_parts")
    trials = parts["trials"].query("region == 'all'").set_index("mm3")["dice"]
    assert trials.idxmax() == about["chosen_mm3"] == 2000
    words = [(ROOT / n).read_text() for n in ("docs/findings.md", "notebooks/12_trained_on_nobody.ipynb")]
    rows = parts["overall"].query("metric == 'dice'").set_index(["cohort", "region", "who"])
    told = [(c, "all", "all") for c in ("plain", "varied", "sites")]
    told += [(c, "ET", "with it") for c in ("plain", "varied", "sites")]
    for row in (rows.loc[key] for key in told):
        assert all(f"{row.difference:+.3f} [{row.low:+.3f}, {row.high:+.3f}]" in text for text in words), row.name
    assert rows.xs(("ET", "without it"), level=["region", "who"])["patients"].sum() == 12
    assert rows.loc[rows.index.isin(told[3:]), "patients"].sum() == 49
    for cohort in ("plain", "varied", "sites", "real patients"):
        before, after = rows.loc[(cohort, "all", "all"), ["before", "after"]]
        assert f"{before:.3f} to {after:.3f}" in words[0], cohort


def test_the_words_about_ingredients_and_patients_are_the_stored_numbers():
    words = [(ROOT / n).read_text() for n in ("docs/findings.md", "notebooks/12_trained_on_nobody.ipynb")]
    worth, _ = lesson.measured("nobody_study")
    found = worth["differences"].query("region == 'all' and modalities == 'all'")
    clear = found[(found["low"] > 0) | (found["high"] < 0)].set_index(["ours", "cohort"])
    assert (len(found), set(clear.index)) == (42, {("plain", "plain"), ("no_scanners", "sites")})
    assert set(found["seeds"]) == {3}
    row = clear.loc["no_scanners", "sites"]
    assert all(f"{row.difference:.3f} [{row.low:.3f}, {row.high:.3f}]" in text for text in words)
    tuned, about = lesson.measured("fine_tuning")
    assert len(about["protocols"]) == 3
    means = tuned["runs"].groupby(["arm", "steps", "patients", "rate"])["dice"].mean()
    assert tuned["runs"].groupby(["arm", "steps", "patients", "rate"])["fold"].nunique().eq(3).all()
    in_both = [("start", 6000, 0, 0.0), ("start", 200, 1, 1e-4), ("start", 200, 2, 1e-4), ("scratch", 1500, 2, 2e-3)]
    for key in in_both:
        assert all(f"{means[key]:.3f}" in text for text in words), key
    in_notebook = [("start", 200, n, rate) for n in (1, 2) for rate in (5e-4, 2e-3)]
    for key in [*in_notebook, ("start", 1500, 2, 5e-4), ("scratch", 1500, 1, 2e-3)]:
        assert f"{means[key]:.3f}" in words[1], key


def test_a_study_that_is_not_there_is_told_which_are():
    with pytest.raises(InputError, match=r"no study 'luck' comes with the package; there are: .*alignment_study"):
        lesson.measured("luck")
