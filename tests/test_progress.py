"""Progress is text where somebody watches, and nothing at all in batch."""

import io
import sys
from types import SimpleNamespace

import pytest

from mtg_lab.progress import progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def outside(monkeypatch):
    monkeypatch.delenv("MTG_LAB_BATCH", raising=False)
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: None))
    return monkeypatch


def drawn(monkeypatch, stream) -> str:
    monkeypatch.setattr(sys, "stderr", stream)
    assert list(progress(iter("abc"), total=3, desc="subjects")) == ["a", "b", "c"]
    return stream.getvalue()


def test_a_terminal_sees_the_bar(outside):
    assert "subjects: 100%" in drawn(outside, Terminal())


def test_a_log_file_sees_nothing(outside):
    assert drawn(outside, io.StringIO()) == ""


def test_batch_sees_nothing_even_on_a_terminal(outside):
    outside.setenv("MTG_LAB_BATCH", "1")
    assert drawn(outside, Terminal()) == ""


def test_a_notebook_that_somebody_reads_sees_text_and_no_widget(outside):
    outside.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: SimpleNamespace(kernel=1)))
    stream = io.StringIO()
    assert "subjects: 100%" in drawn(outside, stream)
    assert type(progress([])).__module__ == "tqdm.std"


def test_a_bar_without_an_iterable_counts_by_hand(outside):
    outside.setattr(sys, "stderr", Terminal())
    with progress(total=2, desc="steps") as bar:
        bar.update(2)
        assert bar.n == 2
