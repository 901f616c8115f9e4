"""Executors for sweeps: workers of this machine, a Dask cluster, jobs of their own."""

import os
import urllib.request

import pytest

from mtg_lab.clusters import dask_cluster, slurm_jobs, usual_workers, workers_here
from mtg_lab.errors import InputError


def _told() -> tuple[str, str, bool]:
    return os.environ["MTG_LAB_BATCH"], os.environ["OMP_NUM_THREADS"], "MALLOC_TRIM_THRESHOLD_" in os.environ


def test_workers_are_processes_of_their_own_that_others_can_join(monkeypatch):
    monkeypatch.delenv("MALLOC_TRIM_THRESHOLD_", raising=False)
    environment = dict(os.environ)
    with workers_here(1, threads=3) as executor:
        assert executor.submit(os.getpid).result() != os.getpid()
        assert executor.submit(_told).result() == ("1", "3", False)
        from distributed import default_client

        with urllib.request.urlopen(default_client().dashboard_link, timeout=60) as page:
            assert b"static/js/bokeh" in page.read(), "plots, not a note that bokeh is missing"
        with dask_cluster(default_client().scheduler.address) as joined:
            assert joined.submit(pow, 2, 5).result() == 32
            with pytest.raises(ZeroDivisionError):
                joined.submit(divmod, 1, 0).result()
    assert dict(os.environ) == environment, "what is started later must not run as if it were a worker"
    assert usual_workers() >= 1


def test_no_scheduler_is_one_line():
    for address in ("gopher://nowhere", "not an address"):
        with (
            pytest.raises(InputError, match=f"--scheduler {address}: no Dask scheduler answers there") as told,
            dask_cluster(address),
        ):
            pass
        assert "\n" not in str(told.value)


def test_each_call_is_a_job_of_its_own(tmp_path):
    with slurm_jobs(tmp_path / "jobs", {"timeout_min": 5}, cluster="local") as executor:
        jobs = [executor.submit(divmod, 7, by) for by in (2, 0)]
        assert jobs[0].result() == (3, 1)
        with pytest.raises(Exception, match="ZeroDivisionError"):
            jobs[1].result()
    assert list((tmp_path / "jobs").glob("*_submission.sh")) or list((tmp_path / "jobs").glob("*.pkl"))


def test_an_option_that_submitit_does_not_know_is_one_line(tmp_path):
    with pytest.raises(InputError, match="submitit refuses"), slurm_jobs(tmp_path, {"colour": "red"}, cluster="local"):
        pass
