"""``failwise store check|repair|stats``."""

import pytest

from failwise.cli.store import main
from failwise.errors import SetupError
from failwise.store import EpisodeStore, stores_under

from .samples import fill, meta_for, record, sample_id


@pytest.fixture
def run(tmp_path):
    for name in ("base", "deep/er"):
        store = EpisodeStore(tmp_path / "run" / name)
        for seed in range(2):
            record(store, seed)
    return tmp_path / "run"


def test_check_and_repair_find_every_store_of_a_run(run, capsys):
    assert stores_under(run) == [run / "base", run / "deep/er"]
    assert main(["check", str(run)]) == 0
    assert f"{run / 'base'}: 2 episodes, 2 sound (2 success)" in capsys.readouterr().out
    (run / "base" / sample_id(1) / "steps.parquet").write_bytes(b"")
    (run / "base" / ".writing--elsewhere").mkdir()
    assert main(["check", str(run)]) == 1
    output = capsys.readouterr().out
    assert f"{run / 'base' / sample_id(1)}: steps.parquet has 0 bytes, expected" in output
    assert f"to put them aside: failwise store repair {run / 'base'}" in output
    assert main(["repair", str(run)]) == 0
    assert "1 sound episodes; 1 put into quarantine" in capsys.readouterr().out
    assert main(["check", str(run), "--every-image"]) == 0
    assert stores_under(run) == [run / "base", run / "deep/er"]


def test_a_store_in_which_nothing_is_sound_is_found(run, capsys):
    for seed in range(2):
        (run / "base" / sample_id(seed) / "meta.json").unlink()
        (run / "base" / sample_id(seed) / "manifest.json").unlink()
    assert main(["check", str(run / "base")]) == 1
    assert "2 episodes, 0 sound (none)" in capsys.readouterr().out


def test_stats_count_by_task_arm_and_outcome(run, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    store = EpisodeStore(run / "base")
    writer = store.begin("other")
    fill(writer, 0)
    fields = {
        "success_once": False,
        "success_at_end": False,
        "first_success_step": None,
        "outcome": "timeout",
    }
    writer.commit(meta_for("other", arm="steered", env_seed=5, **fields))
    assert main(["stats", str(run / "base")]) == 0
    lines = capsys.readouterr().out.splitlines()
    base = next(line for line in lines if " base " in line)
    steered = next(line for line in lines if " steered " in line)
    total = next(line for line in lines if " all " in line)
    assert [cell.strip() for cell in base.strip("│ ").split("│")][:10] == (
        ["tiny/reach", "base", "2", "0", "0", "0", "0", "2", "40", "12"]
    )
    assert [cell.strip() for cell in steered.strip("│ ").split("│")][:10] == (
        ["tiny/reach", "steered", "0", "0", "1", "0", "0", "1", "20", "6"]
    )
    assert [cell.strip() for cell in total.strip("│ ").split("│")][2:10] == [
        "2",
        "0",
        "1",
        "0",
        "0",
        "3",
        "60",
        "18",
    ]


def test_bad_requests_are_one_line(tmp_path):
    with pytest.raises(SetupError, match="is not a folder"):
        main(["check", str(tmp_path / "nothing")])
    with pytest.raises(SetupError, match="no episodes in"):
        main(["stats", str(tmp_path)])
    with pytest.raises(SystemExit) as caught:
        main(["mend", str(tmp_path)])
    assert caught.value.code == 2
