"""The doctor: every finding true, every failed finding with the line that mends it."""

import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

import failwise.cli.doctor as doctor
from failwise.cli import main
from failwise.cli.doctor import Check, Doctor


def test_an_absent_and_an_old_package_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        if name == "rich":
            raise PackageNotFoundError(name)
        return "0.1" if name == "scipy" else "999!2.8"

    monkeypatch.setattr(doctor, "version", version)
    check = doctor.check_packages("packages", "")
    assert not check.ok
    assert "rich is not installed" in check.detail and "scipy 0.1 is not >=" in check.detail
    assert check.remedy.startswith(f"{sys.executable} -m pip install ") and "'rich>=" in check.remedy


def test_an_extra_lists_what_only_it_requires() -> None:
    assert {r.name for r in doctor.requirements("metaworld")} == {"metaworld", "packaging"}
    assert "torch" in {r.name for r in doctor.requirements("")}
    assert "metaworld" not in {r.name for r in doctor.requirements("")}


def test_a_full_disk_is_missing_space(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    there = doctor.check_disk(tmp_path / "not" / "made" / "yet")
    assert there.detail.endswith(f"free at {tmp_path}")
    monkeypatch.setattr(doctor, "LEAST_DISK_GIB", 1e9)
    assert not doctor.check_disk(tmp_path).ok and "--out" in doctor.check_disk(tmp_path).remedy


def test_a_renderer_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_RENDER", "import time; time.sleep(60)")
    check = doctor.check_renderer("egl", seconds=0.5)
    assert not check.ok and "no frame within" in check.detail and "libegl1" in check.remedy


def test_a_renderer_that_crashes_the_process_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_RENDER", "import os; os.abort()")
    check = doctor.check_renderer("osmesa", seconds=30)
    assert not check.ok and "-6" in check.detail and "libosmesa6" in check.remedy


@pytest.mark.parametrize(
    ("works", "words", "code"),
    [
        ({"egl": True, "osmesa": True}, ["ok", "ok"], 0),
        ({"egl": False, "osmesa": True}, ["absent", "ok"], 0),
        ({"egl": False, "osmesa": False}, ["missing", "missing"], 1),
    ],
)
@pytest.mark.skipif(sys.platform != "linux", reason="one renderer elsewhere")
def test_one_renderer_is_enough(
    works: dict[str, bool],
    words: list[str],
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(
        doctor,
        "check_renderer",
        lambda backend, seconds: Check(f"renderer {backend}", works[backend], "x", "do this"),
    )
    assert main(["doctor", "--folder", str(tmp_path)]) == code
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if " renderer " in line] == words
    assert sum("mend with: do this" in line for line in lines) == words.count("absent") + words.count("missing")


@pytest.mark.metaworld
def test_this_machine_renders() -> None:
    checks = [doctor.check_renderer(backend, 120.0) for backend in ("egl", "osmesa")]
    assert any(check.ok for check in checks), checks
    assert "cameras" in next(check.detail for check in checks if check.ok)


def test_defaults_are_those_of_the_help() -> None:
    assert Doctor().folder == Path()
