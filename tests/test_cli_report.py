"""``mtg-lab report`` from runs to a page: scored once, compared, drawn."""

import pandas as pd
import pytest
from click.testing import CliRunner

from mtg_lab import evaluation
from mtg_lab.cli import main
from mtg_lab.training import train


@pytest.fixture
def trained(tiny_recipe, tmp_path):
    """Two runs of one seed that differ in how long they were trained."""
    return [train(tiny_recipe(steps=n, method="dropout"), tmp_path / f"steps{n}").folder for n in (1, 3)]


def report(cohort, out, *words):
    arguments = ["report", *map(str, words), "--manifest", str(cohort), "--split", "val", "--out", str(out)]
    return CliRunner().invoke(main, arguments, catch_exceptions=False)


def test_runs_are_scored_once_compared_and_drawn(trained, cohort, tmp_path, monkeypatch):
    out = tmp_path / "report"
    first = report(cohort, out, f"short={trained[0]}", trained[1])
    assert first.exit_code == 0, first.output
    told, path = first.stdout.splitlines()[-2:]
    assert "short" in told
    assert "steps3" in told
    assert path == str(out / "index.html")
    page = (out / "index.html").read_text()
    assert page.count('<article class="case"') == 1
    assert page.count("data:image/webp") == 2  # all sequences, and the worst subset
    assert "seed 0" in page
    means = pd.read_csv(out / "tables" / "summary.csv")
    assert set(means["method"]) == {"short", "steps3"}
    assert len(list((out / "scores").glob("*.csv"))) == 2

    def refuse(*args, **options):
        raise AssertionError("scored again")

    monkeypatch.setattr(evaluation, "evaluate", refuse)
    again = report(cohort, out, f"short={trained[0]}", trained[1], "--no-cases")
    assert again.exit_code == 0
    assert '<article class="case"' not in (out / "index.html").read_text()
    pd.testing.assert_frame_equal(means, pd.read_csv(out / "tables" / "summary.csv"))


def test_a_stored_table_needs_no_run(trained, cohort, tmp_path):
    table = tmp_path / "stored.csv"
    arguments = ["evaluate", str(trained[0]), "--manifest", str(cohort), "--split", "val", "--out", str(table)]
    assert CliRunner().invoke(main, arguments).exit_code == 0
    found = report(cohort, tmp_path / "report", table)
    assert found.exit_code == 0
    assert found.stdout.splitlines() == [str(tmp_path / "report" / "index.html")]
    wrong = CliRunner().invoke(main, ["report", str(table), "--case", "t1c", "--out", str(tmp_path / "other")])
    assert wrong.exit_code == 2
    assert "--case needs runs" in wrong.stderr
    assert not (tmp_path / "other").exists()
