"""The verbs together, as a user calls them, on the environment that needs no simulator."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from failwise.errors import SetupError
from failwise.seeds import COLLECT, DEMOS, TEST
from failwise.store import EpisodeStore
from processes import start

FAILWISE = Path(sys.executable).parent / "failwise"
COLLECT_RANDOM = [
    "collect",
    "--env",
    "tiny/reach,push",
    "--policy",
    "random",
    "--episodes",
    "3",
    "--out",
    "runs/a",
]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def failwise(*arguments: str, cwd: Path) -> str:
    """What a command that must succeed printed."""
    done = subprocess.run(
        [str(FAILWISE), *arguments],
        capture_output=True,
        text=True,
        timeout=180,
        cwd=cwd,
        env=ENVIRONMENT,
        check=False,
    )
    assert done.returncode == 0, (done.stdout, done.stderr)
    return done.stdout


def times(folder: Path) -> dict[str, int]:
    """When each file below a folder was last written, in nanoseconds."""
    return {str(p.relative_to(folder)): p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}


def test_collect_counts_every_episode_and_repeats_none(tmp_path: Path) -> None:
    printed = failwise(*COLLECT_RANDOM, "--workers", "1", cwd=tmp_path)
    assert [line.split(":")[0] for line in printed.splitlines()] == ["tiny/push", "tiny/reach"]
    assert all(": 3 episodes, " in line for line in printed.splitlines())
    metas = EpisodeStore(tmp_path / "runs/a", create=False).metas()
    assert not any(meta.error for meta in metas)
    assert len(metas) == 6 and all(meta.env_seed in COLLECT and meta.arm == "random" for meta in metas)
    before = times(tmp_path / "runs/a")
    assert failwise(*COLLECT_RANDOM, cwd=tmp_path) == printed
    assert times(tmp_path / "runs/a") == before


def test_a_second_round_takes_other_seeds(tmp_path: Path) -> None:
    for offset in ("0", "3"):
        failwise(*COLLECT_RANDOM, "--workers", "1", "--offset", offset, cwd=tmp_path)
    seeds = {meta.env_seed for meta in EpisodeStore(tmp_path / "runs/a", create=False).metas()}
    assert seeds == set(COLLECT.claim(6))


def test_demonstrations_have_pictures_and_training_wordings(tmp_path: Path) -> None:
    command = "collect --env tiny/reach --policy expert --quality mixed --episodes 8 --out demos --workers 1"
    failwise(*command.split(), cwd=tmp_path)
    metas = EpisodeStore(tmp_path / "demos", create=False).metas()
    assert all(meta.env_seed in DEMOS and meta.n_frames >= meta.n_steps // 2 for meta in metas)
    assert {meta.arm for meta in metas} == {"expert-mixed"}
    assert len({meta.instruction for meta in metas}) > 1, "paraphrases"


def test_evaluate_gives_a_verdict_and_report_a_page(tmp_path: Path) -> None:
    command = "evaluate --env tiny/reach --arms random,expert --seeds 20 --out runs/proof --workers 2"
    printed = failwise(*command.split(), cwd=tmp_path)
    assert "expert is better than random" in printed and "n = 20 pairs" in printed
    assert not any(meta.error for meta in EpisodeStore(tmp_path / "runs/proof/episodes", create=False).metas())
    metas = EpisodeStore(tmp_path / "runs/proof/episodes", create=False).metas()
    assert len(metas) == 40 and {meta.env_seed for meta in metas} == set(TEST.claim(20))
    page = Path(failwise("report", "runs/proof", cwd=tmp_path).strip())
    text = (tmp_path / page).read_text(encoding="utf-8")
    assert "expert is better than random" in text and "<script src" not in text


def test_seeds_of_another_range_are_pointed_out(tmp_path: Path) -> None:
    command = "evaluate --env tiny/reach --arms expert --seeds 0:2 --out runs/proof --workers 1"
    done = subprocess.run(
        [str(FAILWISE), *command.split()],
        capture_output=True,
        text=True,
        timeout=180,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 0 and "reserved for demos" in done.stderr


def test_list_names_environments_policies_and_methods(tmp_path: Path) -> None:
    assert {"tiny/reach", "tiny/push"} <= set(failwise("list", "envs", cwd=tmp_path).split())
    assert {line.split()[0] for line in failwise("list", "policies", cwd=tmp_path).splitlines()} >= {
        "compact",
        "random",
    }
    methods = failwise("list", "methods", cwd=tmp_path)
    assert "train bc" in methods and "steer afil" in methods


STOPS = {
    "Ctrl-C": (signal.SIGINT, [], 130),
    "SIGTERM": (signal.SIGTERM, [], 143),
    "a closed terminal": (signal.SIGHUP, [], 129),
    "SIGTERM of a background job": (signal.SIGTERM, [signal.SIGINT], 143),
    "SIGTERM under nohup": (signal.SIGTERM, [signal.SIGINT, signal.SIGHUP], 143),
}


@pytest.mark.parametrize(
    ("workers", "how"), [*(("1", how) for how in STOPS), ("2", "Ctrl-C"), ("2", "SIGTERM of a background job")]
)
def test_a_stop_is_one_line_and_the_same_command_resumes(workers: str, how: str, tmp_path: Path) -> None:
    number, ignored, code = STOPS[how]
    command = [*COLLECT_RANDOM, "--workers", workers]
    command[command.index("3")] = "400"
    with start(
        [str(FAILWISE), *command], ignored, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=tmp_path,
        env=ENVIRONMENT,
    ) as process:  # fmt: skip
        deadline = time.monotonic() + 90
        while not list(tmp_path.glob("runs/a/[!.]*/meta.json")) and process.poll() is None:
            assert time.monotonic() < deadline, "no episode was ever recorded"
            time.sleep(0.05)
        for each in ignored:  # is not meant for it
            process.send_signal(each)
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
    kept = times(tmp_path / "runs/a")
    episodes = {name for name in kept if name.endswith("meta.json")}
    assert process.returncode == code, err
    assert err.splitlines()[-1].startswith("failwise: stopped.") and "Traceback" not in err
    assert 0 < len(episodes) < 800

    few = [*COLLECT_RANDOM, "--workers", "1"]
    assert "3 episodes" in failwise(*few, cwd=tmp_path)
    after = times(tmp_path / "runs/a")
    assert {name: after[name] for name in episodes} == {name: kept[name] for name in episodes}, "none was repeated"
    failwise("store", "check", "runs/a", cwd=tmp_path)


def test_a_person_is_asked_in_this_process_only(tmp_path, monkeypatch):
    import failwise.evaluate
    from failwise.cli.evaluate import main

    seen: dict[str, object] = {}

    class SeenError(Exception):
        pass

    def look(*_, **given):
        seen.update(given)
        raise SeenError

    monkeypatch.setattr(failwise.evaluate, "evaluate", look)
    (tmp_path / "detector").mkdir()
    asked = [
        "--env",
        "tiny/reach",
        "--arms",
        "random",
        "--out",
        str(tmp_path / "out"),
        "--monitor",
        str(tmp_path / "detector"),
    ]
    with pytest.raises(SeenError):
        main([*asked, "--on-alarm", "ask", "--workers", "1"])
    assert (seen["workers"], seen["on_alarm"]) == (1, "ask")
    with pytest.raises(SetupError, match="without --executor ray"):
        main([*asked, "--on-alarm", "ask", "--executor", "ray"])
