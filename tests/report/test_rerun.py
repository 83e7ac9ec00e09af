"""What an episode holds is in its recording."""

from __future__ import annotations

import numpy as np
import pytest

from failwise.cli.report import main
from failwise.errors import DataError, SetupError
from failwise.report import rerun_export
from failwise.store import EpisodeStore
from failwise.types import Outcome

from .runs import CONDITIONS, picture, write_episode


@pytest.fixture
def store(tmp_path):
    made = EpisodeStore(tmp_path / "run" / "episodes")
    for seed in range(2):
        write_episode(made, "base", "metaworld/push", seed, Outcome.TIMEOUT, reached=2)
    return made


def test_a_recording_holds_every_step_look_and_condition(store, tmp_path, capsys):
    reading = pytest.importorskip("rerun.chunk", reason="rerun is not installed, or is too old to read back")
    name = store.ids()[0]
    assert main([str(tmp_path / "run"), "--rerun", name]) == 0
    path = tmp_path / "run" / "rerun" / "episodes" / f"{name}.rrd"
    assert "1 recording;" in capsys.readouterr().out
    found: dict[str, dict[int, object]] = {}
    for chunk in reading.RrdReader(str(path)).stream().to_chunks():
        entity, columns = chunk.entity_path, chunk.to_record_batch().to_pydict()
        values = next((v for k, v in columns.items() if k.endswith(("Scalars:scalars", "Image:buffer"))), None)
        if "step" in columns and values is not None:
            found.setdefault(entity, {}).update(zip(columns["step"], values, strict=True))
    assert set(found["/reward"]) == set(range(16))
    held = store.read(name).conditions()
    for condition in CONDITIONS:
        entity = next(e for e in found if e.replace("\\ ", " ") == f"/condition/{condition}")
        assert [v[0] for _, v in sorted(found[entity].items())] == held[condition].astype(float).tolist()
    images = found["/camera/corner"]
    assert set(images) == {0, 4, 8, 12, 16}
    assert np.array_equal(np.array(images[0][0], np.uint8).reshape(48, 48, 3), picture(0, 0.0, 48))


def test_what_cannot_be_exported_is_one_line(store, tmp_path, monkeypatch):
    with pytest.raises(DataError, match="no episode 'nobody'"):
        main([str(tmp_path / "run"), "--rerun", "nobody"])
    monkeypatch.setitem(__import__("sys").modules, "rerun", None)
    with pytest.raises(SetupError, match=r"pip install 'failwise\[rerun\]'"):
        rerun_export.export_rerun(store.read(store.ids()[0]), tmp_path / "x.rrd")
