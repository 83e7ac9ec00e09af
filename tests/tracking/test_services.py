"""What a command leaves at Weights & Biases, without a network, and with Trackio, where they are installed."""

import json
import os
import subprocess
import sys

import pytest

FAILWISE = "import sys; from failwise.cli import main; sys.exit(main(sys.argv[1:]))"
COMMAND = "evaluate --env tiny/reach --arms random,expert --seeds 8 --workers 1 --out runs/proof --track"
IN_TRACKIO = """
import json
from trackio import Api
from trackio.sqlite_storage import SQLiteStorage
(run,) = Api().runs("failwise")
print(json.dumps([run.name, run.config, SQLiteStorage.get_logs("failwise", run.name)]))
"""


def python(code, *arguments, cwd, **environment):
    outside = {name: value for name, value in os.environ.items() if not name.startswith(("WANDB_", "TRACKIO_"))}
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True,
        timeout=180, cwd=cwd, check=False, env={**outside, "HOME": str(cwd), **environment},
    )  # fmt: skip


def test_wandb_offline(tmp_path):
    pytest.importorskip("wandb")
    done = python(FAILWISE, *COMMAND.split(), "wandb", cwd=tmp_path, WANDB_MODE="offline")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("expert is better than random") and "wandb" not in done.stdout
    (file,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    for name in ("episodes/expert/success_rate", "episodes/expert/step", "random/success_lower", "stop_early"):
        assert name.encode() in file.read_bytes()


def test_wandb_without_a_login_is_told_before_any_episode(tmp_path):
    pytest.importorskip("wandb")
    done = python(FAILWISE, *COMMAND.split(), "wandb", cwd=tmp_path)
    last = done.stderr.splitlines()[-1]
    assert done.returncode == 2
    assert last.startswith("failwise: --track wandb cannot begin") and "WANDB_MODE=offline" in last
    assert not (tmp_path / "runs/proof/episodes").exists()


def test_trackio_on_this_machine(tmp_path):
    pytest.importorskip("trackio")
    done = python(FAILWISE, *COMMAND.split(), "trackio", cwd=tmp_path, TRACKIO_DIR=str(tmp_path / "trackio"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("expert is better than random") and "rackio" not in done.stdout
    read = python(IN_TRACKIO, cwd=tmp_path, TRACKIO_DIR=str(tmp_path / "trackio"))
    name, config, logs = json.loads(read.stdout)
    assert name == "evaluate runs/proof" and config["seeds"] == "8"
    assert [one["step"] for one in logs if "episodes/expert/success_rate" in one] == list(range(1, 9))
    (final,) = (one for one in logs if "summary/expert/success" in one)
    comparison = json.loads((tmp_path / "runs/proof/comparison.json").read_text())
    assert final["summary/expert/success"] == comparison["arms"][1]["pooled"]["rate"]["point"]
