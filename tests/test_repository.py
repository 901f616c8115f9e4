"""What the repository promises about itself: versions, pins, licence, paths, the order of the rooms, the installer."""

import ast
import importlib.util
import itertools
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
LOCK = (ROOT / "requirements" / "lock.txt").read_text(encoding="utf-8")

# From the bottom to the top: a room may import the rooms before it, never one after it.
# fmt: off
ROOMS = (
    "vocabulary", "phantom", "manifest", "missingness", "data", "backbones", "alignment", "distillation", "methods",
    "training", "inference", "evaluation", "gap", "figures", "widgets", "notebooks", "cli",
)
# fmt: on


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def repository_files() -> list[Path]:
    """Files that git tracks or would track; skips where there is no git, as in an unpacked archive."""
    try:
        listing = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT,
            capture_output=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no git, or not a checkout")
    return [ROOT / name for name in listing.stdout.decode().split("\0") if name and (ROOT / name).is_file()]


def load_tool(name: str):
    spec = importlib.util.spec_from_file_location(f"tools_{name}", ROOT / "tools" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def install():
    return load_tool("install")


# --- metadata ---------------------------------------------------------------------------------------------------------


def test_one_version_everywhere():
    version = PROJECT["version"]
    cited = re.search(r"^version: (\S+)$", text_of("CITATION.cff"), flags=re.MULTILINE)
    assert cited is not None
    assert cited[1] == version
    assert re.search(rf"(?<![\d.]){re.escape(version)}(?![\d.]*\d)", text_of("CHANGELOG.md"))


def test_the_citation_names_papers_and_anatomy():
    citation = text_of("CITATION.cff")
    for source in ("2409.19366", "2407.14796", "2509.15017", "10.1016/j.neuroimage.2010.07.033", "Nilearn"):
        assert source in citation


def test_licence_is_apache_2_in_full():
    licence = text_of("LICENSE")
    assert "Apache License" in licence
    assert "END OF TERMS AND CONDITIONS" in licence
    assert PROJECT["license"] == "Apache-2.0"


def test_the_command_and_the_extras_are_declared():
    assert PROJECT["scripts"] == {"mtg-lab": "mtg_lab.cli:main"}
    assert {"lab", "cluster", "dev"} <= set(PROJECT["optional-dependencies"])


def test_notebooks_named_in_the_readme_exist():
    if not (ROOT / "README.md").is_file():
        pytest.skip("no README yet")
    for name in set(re.findall(r"\b\d\d_\w+(?=\.ipynb)", text_of("README.md"))):
        assert (ROOT / "notebooks" / f"{name}.ipynb").is_file(), name


PAGES = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/findings.md", "docs/devices_and_sweeps.md"]


@pytest.mark.parametrize("page", [*PAGES, "benchmarks/README.md"])
def test_links_of_a_page_lead_somewhere(page):
    """Files beside it, pictures, and headings by the anchors that Markdown's viewers give them."""
    text = text_of(page)
    headings = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    anchors = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith("#"):
            assert target[1:] in anchors, target
        elif "://" not in target:
            assert ((ROOT / page).parent / target).exists(), target


def test_make_lists_its_targets():
    listed = subprocess.run(
        ["make", "--no-print-directory"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    for target in ("run", "test", "lab", "lint", "clean", "lock"):
        assert re.search(rf"^make {target}\s", listed, flags=re.MULTILINE), target


def test_continuous_integration_runs_what_the_readme_says():
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert script.read_text(encoding="utf-8").splitlines()[-1] == "make test"


def test_no_path_of_one_machine_is_written_down():
    roots = "|".join(("home", "Users", "root", "work", "tmp", "mnt", "opt", "private", "scratch"))
    # Not after a letter, dot or bracket: that is the tail of a relative path, an address or a variable.
    absolute = re.compile(rf"(?<![\w.~$)}}\]\-*])/(?:{roots})/[\w.-]")
    found = []
    for path in repository_files():
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError:
            continue
        found += [f"{path.relative_to(ROOT)}:{n}" for n, line in enumerate(lines, 1) if absolute.search(line)]
    assert not found


# --- pins -------------------------------------------------------------------------------------------------------------


def locked() -> dict[str, list[str]]:
    """Entries of the lock: the package's name to the lines of its entries (one package may have one per Python)."""
    entries: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in LOCK.splitlines():
        if line.lstrip().startswith("#") or not line.strip():
            continue
        if not line.startswith(" "):
            lines = entries.setdefault(canonicalize_name(line.split("==")[0].strip()), [])
        lines.append(line)
    return entries


def test_every_locked_package_has_one_version_and_hashes():
    assert len(locked()) > 100
    for name, lines in locked().items():
        heads = [line for line in lines if not line.startswith(" ")]
        assert all(re.match(r"[\w.-]+==[\w.!+]+( ; .*)? \\$", head) for head in heads), name
        assert sum("--hash=sha256:" in line for line in lines) >= len(heads), name


def test_pins_name_no_index_and_no_address():
    for name in ("lock.txt", "torch.txt", "tools.in"):
        text = text_of(f"requirements/{name}")
        assert "://" not in text
        assert not re.search(r"--(extra-)?index-url|--find-links|--trusted-host", text)


def test_the_lock_satisfies_the_project():
    wanted = list(itertools.chain(PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()))
    entries = locked()
    for requirement in map(Requirement, wanted):
        if requirement.name == "torch":
            continue
        heads = [line for line in entries[canonicalize_name(requirement.name)] if not line.startswith(" ")]
        for head in heads:
            assert requirement.specifier.contains(re.split(r"==|[ ;\\]", head)[1]), f"{requirement}; run make lock"


def test_torch_is_pinned_apart_within_the_range_of_the_project():
    pin = Requirement(text_of("requirements/torch.txt").strip())
    (wanted,) = (r for r in map(Requirement, PROJECT["dependencies"]) if r.name == "torch")
    (exact,) = pin.specifier
    assert exact.operator == "=="
    assert wanted.specifier.contains(exact.version)
    assert not any(name == "torch" or name.startswith(("nvidia-", "cuda-", "triton")) for name in locked())


def test_the_lock_loses_torch_and_its_gpu_packages_only():
    def entry(name: str) -> str:
        return f"{name}==1 \\\n    --hash=sha256:0\n    # via x\n"

    names = ("a", "torch", "torchmetrics", "nvidia-cudnn", "cuda-bindings", "triton", "z")
    lock = "# made by uv\n" + "".join(map(entry, names))
    assert load_tool("lock").without_torch(lock) == "# made by uv\n" + entry("a") + entry("torchmetrics") + entry("z")


# --- the installer ----------------------------------------------------------------------------------------------------


def report(version: str, *requires: str) -> dict:
    """Cut pip's installation report down to the part that is read."""
    return {"install": [{"metadata": {"name": "torch", "version": version, "requires_dist": list(requires)}}]}


@pytest.mark.parametrize(
    ("candidate", "is_cpu"),
    [
        (report("2.13.0+cpu"), True),
        (report("2.13.0+cu130"), False),
        (report("2.13.0", "filelock", "sympy>=1.13.3"), True),
        (report("2.13.0", "filelock", 'nvidia-cudnn-cu13==9.2; platform_system == "Linux"'), False),
        (report("2.13.0", "cuda-bindings<14,>=13"), False),
        (report("2.13.0", 'triton==3.7.1; platform_system == "Linux"'), False),
        (report("2.13.0", 'nvidia-extra; extra == "gpu"'), True),
    ],
)
def test_a_cpu_build_is_known_by_its_version_or_its_requirements(install, candidate, is_cpu):
    assert install.is_cpu_build(candidate) is is_cpu


class Machine:
    """A stand-in for what install_torch asks and does: records commands, fails those whose words it is told to."""

    def __init__(self, install, monkeypatch, *, gpu=False, system="linux", present="", candidate=None, failing=()):
        self.commands: list[str] = []
        self.failing = failing
        self.fault = install.InstallError
        answer = subprocess.CompletedProcess([], 0 if candidate else 1, stdout=json.dumps(candidate), stderr="")
        monkeypatch.setattr(install, "has_gpu", lambda: gpu)
        monkeypatch.setattr(install, "installed_torch", lambda: present)
        monkeypatch.setattr(install.sys, "platform", system)
        monkeypatch.setattr(install.subprocess, "run", lambda *args, **options: answer)
        monkeypatch.setattr(install, "step", self.step)
        install.install_torch("torch==2.13.0")

    def step(self, name, command):
        line = " ".join(command)
        self.commands.append(line[line.index("install") :])
        if any(word in line for word in self.failing):
            raise self.fault(name)


def test_with_a_gpu_pip_chooses_torch(install, monkeypatch):
    machine = Machine(install, monkeypatch, gpu=True)
    assert machine.commands == ["install torch==2.13.0"]


def test_a_gpu_added_later_replaces_the_cpu_build(install, monkeypatch):
    machine = Machine(install, monkeypatch, gpu=True, present="2.13.0+cpu")
    assert machine.commands == ["install --force-reinstall torch==2.13.0"]


def test_on_macos_pip_chooses_torch(install, monkeypatch):
    machine = Machine(install, monkeypatch, system="darwin")
    assert machine.commands == ["install torch==2.13.0"]


def test_a_cpu_build_that_pip_would_take_is_taken(install, monkeypatch):
    machine = Machine(install, monkeypatch, candidate=report("2.13.0+cpu"))
    assert machine.commands == ["install --no-deps torch==2.13.0"]


@pytest.mark.parametrize("candidate", [report("2.13.0", "nvidia-nccl-cu13==2.29.7"), None])
def test_otherwise_uv_brings_the_cpu_build(install, monkeypatch, candidate):
    machine = Machine(install, monkeypatch, candidate=candidate)
    assert len(machine.commands) == 1
    assert machine.commands[0].endswith("--torch-backend cpu torch==2.13.0")


def test_the_large_build_is_the_last_resort_and_is_announced(install, monkeypatch, capsys):
    machine = Machine(install, monkeypatch, candidate=report("2.13.0", "triton==3.7.1"), failing=["--torch-backend"])
    assert machine.commands[-1] == "install torch==2.13.0"
    warning = capsys.readouterr().out
    assert "several GB" in warning
    assert warning.count("\n") == 1


def test_a_torch_that_nobody_has_is_an_error_and_not_a_large_download(install, monkeypatch):
    with pytest.raises(install.InstallError, match=r"^torch: "):
        Machine(install, monkeypatch, candidate=None, failing=["--torch-backend"])


@pytest.mark.parametrize("present", ["2.13.0", "2.13.0+cpu"])
def test_the_pinned_torch_is_not_installed_twice(install, monkeypatch, present):
    assert Machine(install, monkeypatch, present=present).commands == []


@pytest.fixture
def finished(install, monkeypatch, tmp_path):
    """An installer whose .venv, in a folder of its own, is complete and stamped."""
    venv = tmp_path / ".venv"
    (venv / "bin").mkdir(parents=True)
    (venv / "bin" / "python").touch()
    version = ".".join(map(str, sys.version_info[:3]))
    (venv / "pyvenv.cfg").write_text(f"version = {version}\ncommand = python3 -m venv --clear {venv}\n")
    monkeypatch.setattr(install, "VENV", venv)
    monkeypatch.setattr(install, "VENV_PYTHON", venv / "bin" / "python")
    monkeypatch.setattr(install, "STAMP", venv / "stamp")
    install.STAMP.write_text(install.digest())
    install.steps = []
    monkeypatch.setattr(install, "step", lambda name, command: install.steps.append(name))
    monkeypatch.setattr(install, "install_torch", lambda pin: install.steps.append("torch"))
    return install


def test_nothing_is_repeated_when_nothing_changed(finished):
    assert finished.main() == 0
    assert finished.steps == []


def test_half_an_install_is_completed(finished):
    finished.STAMP.unlink()
    assert finished.main() == 0
    assert finished.steps == ["packages", "torch", "mtg_lab", "check"]
    assert finished.STAMP.read_text().strip() == finished.digest()


def test_a_package_cut_short_is_installed_again(install, tmp_path):
    packages = tmp_path / "lib" / "python3.11" / "site-packages"
    for name in ("whole-1.dist-info", "half-1.dist-info"):
        (packages / name).mkdir(parents=True)
        (packages / name / "METADATA").touch()
    (packages / "whole-1.dist-info" / "INSTALLER").touch()
    install.forget_half_installed(tmp_path)
    assert [path.name for path in packages.iterdir()] == ["whole-1.dist-info"]


def test_another_pin_is_installed(finished, monkeypatch, tmp_path):
    pins = tmp_path / "torch.txt"
    pins.write_text("torch==2.12.0\n")
    monkeypatch.setattr(finished, "INPUTS", (*finished.INPUTS, pins))
    assert finished.main() == 0
    assert "packages" in finished.steps


def test_a_moved_environment_is_made_anew(finished):
    config = finished.VENV / "pyvenv.cfg"
    config.write_text(config.read_text().replace(str(finished.VENV), "elsewhere/.venv"))
    assert finished.main() == 0
    assert finished.steps[0] == "environment"


def test_a_failed_step_leaves_no_stamp_and_one_line(finished, monkeypatch, capsys):
    def fail(name, command):
        raise finished.InstallError(f"{name}: no such package")

    finished.STAMP.write_text("of another time")
    monkeypatch.setattr(finished, "step", fail)
    assert finished.main() == 1
    assert not finished.STAMP.exists()
    assert capsys.readouterr().err == "install: packages: no such package\n"


def test_an_old_python_is_refused_with_a_cure(install, monkeypatch, capsys):
    monkeypatch.setattr(install.sys, "version_info", (3, 10, 4))
    monkeypatch.setattr(install.shutil, "which", lambda name: name if name == "python3.12" else None)
    assert install.main() == 1
    line = capsys.readouterr().err
    assert "3.11 or newer" in line
    assert "PYTHON=python3.12" in line
    assert line.count("\n") == 1


def test_a_python_without_venv_is_refused_with_debians_cure(install, monkeypatch, capsys):
    monkeypatch.setattr(install.importlib.util, "find_spec", lambda name: None if name == "ensurepip" else name)
    assert install.main() == 1
    assert "apt install python3-venv" in capsys.readouterr().err


def test_an_unreachable_index_is_named_as_such(install):
    stderr = (
        "WARNING: Retrying (Retry(total=0)) after connection broken\nERROR: No matching distribution found for a==1\n"
    )
    line = install.last_complaint(stderr)
    assert line.startswith("No matching distribution found for a==1")
    assert "is there a network?" in line


# --- the order of the rooms -------------------------------------------------------------------------------------------


def imported_modules(path: Path, package: Path) -> set[str]:
    """Dotted names below mtg_lab that a file imports, at its top or inside a function; relative imports resolved."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.startswith("mtg_lab.")}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                folder = path.parent.relative_to(package.parent).parts
                base = ".".join((*folder[: len(folder) - node.level + 1], *([base] if base else [])))
            if base == "mtg_lab":
                # `from mtg_lab import x`: a room, or something of the facade, which reaches everything.
                found |= {f"mtg_lab.{alias.name}" for alias in node.names if not alias.name.startswith("__")}
            elif base.startswith("mtg_lab."):
                found.add(base)
    return found


def upward_imports(package: Path) -> list[str]:
    """Imports that point up the list; modules outside the list (errors, files) count by what they import in turn."""
    graph: dict[str, set[str]] = {}
    for path in sorted(package.rglob("*.py")):
        room = path.relative_to(package).parts[0].removesuffix(".py")
        if room != "__init__":
            graph.setdefault(room, set()).update(name.split(".")[1] for name in imported_modules(path, package))

    wrong = []
    for height, room in enumerate(ROOMS):
        reached: set[str] = set()
        pending = set(graph.get(room, ()))
        while pending:
            other = pending.pop()
            reached.add(other)
            if other not in ROOMS:
                pending |= graph.get(other, set()) - reached
        above = set(ROOMS[height + 1 :])
        wrong += [f"{room} -> {other}" for other in sorted(reached) if other in above]
        wrong += [f"{room} -> mtg_lab itself, for {other}" for other in sorted(reached) if other not in graph]
    return wrong


def test_imports_never_point_up_the_house():
    assert upward_imports(ROOT / "mtg_lab") == []


@pytest.mark.parametrize(
    ("statement", "fault"),
    [
        ("from mtg_lab.gap import latents", "data -> gap"),
        ("def late():\n    from .gap import latents", "data -> gap"),
        ("import mtg_lab.gap", "data -> gap"),
        ("from mtg_lab import gap", "data -> gap"),
        ("from mtg_lab.helper import x", "data -> gap"),
        ("from mtg_lab import train", "data -> mtg_lab itself, for train"),
        ("from mtg_lab.manifest import read_manifest", None),
        ("from mtg_lab import __version__", None),
    ],
)
def test_an_upward_import_is_found_however_it_is_written(tmp_path, statement, fault):
    package = tmp_path / "mtg_lab"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "manifest.py").touch()
    (package / "gap.py").touch()
    (package / "helper.py").write_text("from mtg_lab.gap import x\n")
    (package / "data.py").write_text(statement + "\n")
    assert upward_imports(package) == ([fault] if fault else [])
