"""A policy of LeRobot in its own Python, served over the socket to an evaluation in this package's ordinary one."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from failwise.rollout import RolloutItem, RolloutOptions, collect
from failwise.store import EpisodeStore

pytestmark = pytest.mark.lerobot

OTHER = Path(__file__).parents[2] / ".venv" / "bin" / "failwise"


@pytest.mark.skipif(not OTHER.exists(), reason="the ordinary environment is not here; set it up with: make setup")
def test_one_command_in_each_of_two_pythons(smolvla: Path, tmp_path: Path) -> None:
    here = Path(sys.executable).parent / "failwise"
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    serve = [str(here), "serve", "--policy", str(smolvla), "--port", "0", "--threads", "1"]
    with subprocess.Popen(serve, stdout=subprocess.PIPE, text=True, env=env) as server:
        try:
            assert server.stdout is not None
            said = ""
            while (found := re.search(r"listening at (ws://\S+);", said)) is None:
                line = server.stdout.readline()
                assert line, said
                said += line
            run = subprocess.run(
                [
                    str(OTHER), "evaluate", "--policy", f"openpi:{found[1]}", "--env", "tiny/reach", "--seeds", "5:7",
                    "--workers", "1", "--out", str(tmp_path / "served"),
                ],
                capture_output=True, text=True, env=env, timeout=300, check=False,
            )  # fmt: skip
            assert run.returncode == 0, run.stderr
        finally:
            server.terminate()
            server.communicate(timeout=60)
    assert server.returncode == 0
    served = EpisodeStore(tmp_path / "served" / "episodes", create=False)
    items = [RolloutItem("tiny/reach", m.env_seed, m.policy_seed, "here", str(smolvla)) for m in served.metas()]
    assert [item.env_seed for item in items] == [5, 6]
    collect(items, tmp_path / "here", workers=1, options=RolloutOptions(), title="here")
    inside = EpisodeStore(tmp_path / "here", create=False)
    for meta, item in zip(served.metas(), items, strict=True):
        mine, other = inside.read(item.episode_id).actions(), served.read(meta.episode_id).actions()
        assert mine.shape == other.shape
        np.testing.assert_allclose(mine, other, atol=1e-5)
