"""What importing the package settles for PyTorch and MONAI, each in a process of its own."""

import json
import os
import platform
import subprocess
import sys

import pytest

PARSER = "rfc3987_syntax"


def told(code: str, **environment: str):
    """What the code leaves in ``found``."""
    kept = {k: v for k, v in os.environ.items() if k != "GOMP_SPINCOUNT" and not k.startswith("MALLOC_")}
    child = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport json; print(json.dumps(found))"],
        capture_output=True, text=True, timeout=120, check=True, env=kept | environment,
    )  # fmt: skip
    return json.loads(child.stdout)


@pytest.mark.parametrize(("given", "expected"), [({}, "10000"), ({"GOMP_SPINCOUNT": "7"}, "7")])
def test_threads_wait_in_peace_unless_told_otherwise(given, expected):
    assert told("import mtg_lab, os; found = os.environ['GOMP_SPINCOUNT']", **given) == expected


FAULTS = """
import mtg_lab, resource, torch
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        held = [torch.ones(4 * 2**20) for _ in range(4)]
        del held
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults(); found = faults()
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another allocator")
@pytest.mark.parametrize(("given", "kept"), [({}, True), ({"MALLOC_TRIM_THRESHOLD_": "131072"}, False)])
def test_memory_that_a_step_frees_is_there_for_the_next_unless_told_otherwise(given, kept):
    """20 times 64 MB are 327,680 pages of 4 kB, or 640 of 2 MB."""
    assert (told(FAULTS, **given) < 100) == kept


def test_monai_comes_without_the_parser_which_stays_to_be_had():
    pytest.importorskip(PARSER)
    pytest.importorskip("jsonschema")
    loaded, valid, left = told(
        "import mtg_lab, monai, sys\n"
        f"loaded = '{PARSER}' in sys.modules\n"
        f"import {PARSER}\n"
        f"left = sum(type(f).__module__ == 'mtg_lab.startup' for f in sys.meta_path)\n"
        f"found = loaded, {PARSER}.is_valid_syntax('iri', 'http://example.org/\u00e4'), left"
    )
    assert (loaded, valid, left) == (False, True, 0)


def test_jsonschema_still_validates():
    pytest.importorskip("jsonschema")
    found = told(
        "import mtg_lab, monai, jsonschema\n"
        "def fits(value):\n"
        "    try:\n"
        "        jsonschema.validate(value, {'type': 'integer'})\n"
        "    except jsonschema.ValidationError:\n"
        "        return False\n"
        "    return True\n"
        "found = fits(1), fits('one')"
    )
    assert found == [True, False]


def test_what_somebody_imported_before_is_left_alone():
    pytest.importorskip(PARSER)
    assert told(f"import {PARSER}, sys, mtg_lab, monai; found = sys.modules['{PARSER}'] is {PARSER}")
