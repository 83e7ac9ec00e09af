"""The error boundary: what a user causes is one line and an exit code, what is our bug is a traceback."""

import errno
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import failwise.cli as cli
from failwise.errors import DataError


def answer(monkeypatch: pytest.MonkeyPatch, raised: BaseException) -> int:
    """The exit code of a verb that raises."""

    def verb(argv: object) -> int:
        raise raised

    monkeypatch.setattr(cli, "import_module", lambda name: SimpleNamespace(main=verb))
    return cli.main(["report", "runs/a b"])


def test_an_error_of_ours_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert answer(monkeypatch, DataError("no failures in runs/x;\n  collect more")) == 2
    assert capsys.readouterr().err == "failwise: no failures in runs/x; collect more\n"


def test_ctrl_c_names_the_command_that_resumes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert answer(monkeypatch, KeyboardInterrupt()) == 130
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and err.endswith("failwise report 'runs/a b'\n")


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES, errno.EROFS])
def test_what_the_disk_refuses_is_one_line(
    code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert answer(monkeypatch, OSError(code, "refused", "runs/x/meta.json")) == 2
    assert capsys.readouterr().err.startswith("failwise: cannot write or read runs/x/meta.json: refused; ")


@pytest.mark.parametrize("bug", [ValueError("a bug"), OSError(errno.EBADF, "a bug")])
def test_a_bug_is_not_hidden(bug: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(type(bug), match="a bug"):
        answer(monkeypatch, bug)


def test_no_verb_prints_the_help_and_fails(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 2
    shown = capsys.readouterr().out
    assert all(verb in shown for verb in cli.VERBS)


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == "failwise 0.1.0\n"


def test_every_verb_has_a_module_and_every_module_a_verb() -> None:
    files = {path.stem for path in Path(cli.__file__).parent.glob("*.py")} - {
        "__init__",
        "options",
        "stopping",
        "tables",
    }
    assert files == set(cli.VERBS)


def test_a_reader_that_leaves_early_causes_no_noise() -> None:
    many = "import sys; from failwise.cli import main; import failwise.cli.list as l\n"
    many += "l._environments = lambda: iter(['x' * 100] * 10000)\nsys.exit(main(['list', 'envs']))"
    with subprocess.Popen([sys.executable, "-c", many], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.read(50)
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(timeout=60) == 141
