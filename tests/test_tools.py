"""The scripts that tests and packages are checked with, and the commands that README.md gives."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def tool(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def display(monkeypatch):
    """The check for a display, on a Linux that lacks one library and one program."""
    module = tool("display")
    monkeypatch.setattr(sys, "platform", "linux")
    lacking = {"libabsent1": "libabsent.so.1", "absent": "no-such-program", "libc6": "libc.so.6"}
    monkeypatch.setattr(module, "NEEDED", lacking)
    return module


def test_missing_libraries_stop_the_tests_with_the_line_to_run(display, monkeypatch, capsys):
    monkeypatch.setattr(display.os, "geteuid", lambda: 1000)
    assert display.main() == 1
    line = (
        "sudo apt-get update && sudo apt-get install -y --no-install-recommends libabsent1 absent"
    )
    assert f"    {line}\n" in capsys.readouterr().err


@pytest.mark.parametrize("works", [True, False])
def test_root_installs_what_is_missing(display, monkeypatch, capsys, works):
    commands = []

    def run(command, **_):
        commands.append(command)
        if works and command[1] == "install":
            monkeypatch.setattr(display, "NEEDED", {})

    monkeypatch.setattr(display.os, "geteuid", lambda: 0)
    monkeypatch.setattr(display.shutil, "which", lambda name: "apt" if "apt" in name else None)
    monkeypatch.setattr(display.subprocess, "run", run)
    assert display.main() == (0 if works else 1)
    assert [command[1] for command in commands] == ["update", "install"]
    assert commands[1][-2:] == ["libabsent1", "absent"]
    assert ("sudo apt-get" in capsys.readouterr().err) is not works


def test_nothing_to_do_elsewhere(display, monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert display.main() == 0


def test_archives_without_a_needed_file_are_refused(monkeypatch, tmp_path, capsys):
    module = tool("check_archives")
    needed = [name.replace("*", "model") for name in module.IN_PACKAGE]

    def pack(package):
        with zipfile.ZipFile(tmp_path / "a-1-py3-none-any.whl", "w") as wheel:
            for name in package:
                wheel.writestr(f"napari_wsi_xai/{name}", "")
        with tarfile.open(tmp_path / "a-1.tar.gz", "w:gz") as sdist:
            names = [f"a-1/src/napari_wsi_xai/{name}" for name in package]
            for name in [*names, *(f"a-1/{name}" for name in module.IN_SDIST)]:
                sdist.add(__file__, name)

    monkeypatch.setattr(sys, "argv", ["check_archives.py", str(tmp_path)])
    pack(needed)
    assert module.main() == 0
    pack([name for name in needed if name != "napari.yaml"])
    assert module.main() == 1
    assert capsys.readouterr().err.count("lacks") == 2


@pytest.mark.parametrize("name", ["demo", "test"])
def test_readme_gives_one_command_each(name):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    block = re.search(f"<!-- {name}-command -->\n```sh\n(.*?)\n```\n<!-- end -->", text, re.S)
    command = block.group(1)
    assert "\n" not in command
    assert command.startswith("python3 -m venv")
    done = subprocess.run(["bash", "-n", "-c", command], capture_output=True, check=False)
    assert done.returncode == 0


def test_readme_shows_only_what_is_there():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for link in re.findall(r"\]\(([^)#]+)\)", text):
        assert link.startswith("http") or (ROOT / link).exists(), link


def test_constraints_pin_every_direct_dependency():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    asked = sum(project["optional-dependencies"].values(), project["dependencies"])
    names = {re.split(r"[\[<>=~! ]", requirement)[0] for requirement in asked}
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = dict(line.split("==") for line in lines if "==" in line)
    pinned = {name.lower().replace("_", "-") for name in pins}
    assert {name.lower() for name in names} - pinned == {"napari-wsi-xai"}
    assert (pins["torch"], pins["torchvision"]) == ("2.13.0", "0.28.0")
