"""What a user can get wrong, through the real command line: one line with the remedy, exit code 2."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

FAILWISE = Path(sys.executable).parent / "failwise"


def failwise(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(FAILWISE), *arguments], capture_output=True, text=True, timeout=120, cwd=cwd, check=False
    )


def assert_one_line(done: subprocess.CompletedProcess[str], expected: str) -> None:
    assert done.returncode == 2, (done.returncode, done.stdout, done.stderr)
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("failwise: ")
    assert re.search(expected, lines[0]), lines[0]
    assert "Traceback" not in done.stdout


@pytest.fixture
def there(tmp_path: Path) -> Path:
    """A folder with everything that the commands below misuse."""
    (tmp_path / "file").write_text("mine")
    (tmp_path / "empty").mkdir()
    for name, config in {
        "unknown-kind": json.dumps({"kind": "nosuch"}),
        "no-kind": json.dumps({"horizon": 8}),
        "broken": "{",
        "no-weights": json.dumps({"kind": "compact"}),
    }.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(config)
    return tmp_path


COLLECT = "collect --env tiny/reach --policy random --episodes 2 --out out --workers 1"
EVALUATE = "evaluate --env tiny/reach --arms a=random,b=random --seeds 20 --out out --workers 1"
CASES = {
    "unknown verb": ("colect", "unknown verb 'colect'. Did you mean 'collect'"),
    "unknown suite": (COLLECT.replace("tiny/", "tini/"), "'tini'.* Did you mean 'tiny'"),
    "unknown task": (COLLECT.replace("reach", "raech"), "'raech'.* Did you mean 'reach'"),
    "no task": (COLLECT.replace("tiny/reach", "tiny"), "tiny"),
    "no policy folder": (COLLECT.replace("random", "models/nowhere"), r"models/nowhere.*failwise train"),
    "not a policy folder": (COLLECT.replace("random", "empty"), r"config\.json is missing"),
    "unknown kind of policy": (COLLECT.replace("random", "unknown-kind"), "unknown policy 'nosuch'.*compact"),
    "config names no kind": (COLLECT.replace("random", "no-kind"), r"no-kind.config\.json.* kind"),
    "config is broken": (COLLECT.replace("random", "broken"), r"broken.config\.json"),
    "weights are missing": (COLLECT.replace("random", "no-weights"), "no-weights"),
    "quality of a policy": (COLLECT + " --quality mixed", "--quality mixed is for --policy expert"),
    "out is a file": (COLLECT.replace("out out", "out file"), "--out file is a file"),
    "out is below a file": (COLLECT.replace("out out", "out file/x"), "cannot write to --out file/x"),
    "no episodes": (COLLECT.replace("2", "0", 1), "0 seeds"),
    "a negative offset": (COLLECT + " --offset -1", "collect seeds"),
    "no workers": (COLLECT.replace("--workers 1", "--workers 0"), "--workers 0"),
    "negative steps": (COLLECT + " --look-every -1", "--look-every counts steps"),
    "seeds in words": (EVALUATE.replace("20", "many"), "seeds 'many' are neither"),
    "an empty range": (EVALUATE.replace("20", "7:7"), "seeds '7:7' hold no seed"),
    "too few pairs": (EVALUATE.replace("20", "2"), "too few for any verdict.*at least"),
    "arms of one name": (EVALUATE.replace("b=", "a="), "two arms are called 'a'"),
    "no arms": (EVALUATE.replace("a=random,b=random", ","), "no arms given"),
    "unknown baseline": (EVALUATE + " --baseline c", "baseline 'c' is not among the arms: a, b"),
    "impossible confidence": (EVALUATE + " --confidence 1.5", "--confidence 1.5"),
    "an arm that is not there": (EVALUATE.replace("b=random", "b=models/nowhere"), "models/nowhere"),
    "unknown training method": ("train bcc --episodes empty --out out", "unknown training method 'bcc'"),
    "no episodes to train on": (
        "train bc --episodes nowhere --out out",
        "--episodes nowhere is not a folder",
    ),
    "an empty store": ("train bc --episodes empty --out out", "empty"),
    "report of nothing": ("report nowhere", "nowhere is not a folder.*evaluate"),
    "report of an empty folder": ("report empty", "empty"),
    "store that is not there": ("store check nowhere", "nowhere"),
    "improve without a policy": ("improve --env tiny/reach --policy nowhere --out out", "'nowhere'.*failwise train bc"),
    "improve an unknown task": ("improve --env tiny/raech --policy empty --out out", "'raech'"),
}


@pytest.mark.parametrize(("command", "expected"), CASES.values(), ids=CASES.keys())
def test_bad_input_is_one_line(command: str, expected: str, there: Path) -> None:
    assert_one_line(failwise(*command.split(), cwd=there), expected)
    assert (there / "file").read_text() == "mine"
    assert not list(there.glob("out/**/meta.json")), "no episode ran before the refusal"


@pytest.mark.skipif(sys.platform != "linux", reason="needs a file system that even root may not write")
def test_a_file_system_that_refuses(there: Path) -> None:
    done = failwise(*COLLECT.replace("--out out", "--out /proc/failwise").split(), cwd=there)
    assert_one_line(done, "cannot write to --out /proc/failwise .*name a folder you may write to")


@pytest.mark.parametrize("arguments", [("collect", "--nonsense", "1"), ("list", "cats"), ("report",)])
def test_a_wrong_option_is_explained_without_a_traceback(arguments: tuple[str, ...], tmp_path: Path) -> None:
    done = failwise(*arguments, cwd=tmp_path)
    assert done.returncode == 2 and not done.stdout
    assert "--help" in done.stderr and "Traceback" not in done.stderr


def test_a_random_policy_of_another_width_is_refused_before_anything_runs(tmp_path: Path) -> None:
    done = failwise(*COLLECT.replace("random", "random:9").split(), cwd=tmp_path)
    assert_one_line(done, "random:9 gives 9 numbers an action, but the environment takes 3: write random:3")


def test_episodes_that_all_end_in_an_error_are_said_and_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from failwise.cli import main

    monkeypatch.chdir(tmp_path)
    assert main([*COLLECT.replace("tiny/", "broken/").split(), "--workers", "1"]) == 1
    told = capsys.readouterr()
    assert "broken/reach: 2 episodes, 2 error" in told.out
    assert re.search("failwise: 2 of 2 episodes ended in an error; the first, broken.reach--.*arm came off", told.err)
    assert main([*EVALUATE.replace("tiny/", "broken/").split(), "--workers", "1"]) == 1
    assert "20 of 20 episodes of b ended in an error" in capsys.readouterr().err


def test_only_failures_to_imitate(tmp_path: Path) -> None:
    collected = failwise(*COLLECT.replace("reach", "push").replace("out out", "out failures").split(), cwd=tmp_path)
    assert collected.returncode == 0, collected.stderr
    assert "success" not in collected.stdout
    done = failwise("train", "bc", "--episodes", "failures", "--out", "out", cwd=tmp_path)
    assert_one_line(done, "failures holds no successful episode")
