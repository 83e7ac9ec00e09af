"""Killed writers, concurrent writers, full and unwritable disks."""

import errno
import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from failwise.errors import SetupError, StoreError
from failwise.store import EpisodeStore, check, durable, repair
from failwise.store.naming import WRITING

from .samples import fill, meta_for, record, sample_id

WRITING_PROCESS = Path(__file__).with_name("writing_process.py")


def start(*arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, str(WRITING_PROCESS), *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_a_writer_killed_at_any_flush_leaves_a_whole_episode_or_none(tmp_path):
    with start("die-at-all", tmp_path) as process:
        kills = int(process.communicate(timeout=60)[0])
    store = EpisodeStore(tmp_path)
    result = check(store)
    # Seven files, the hidden directory, and the store's own folder after the rename.
    assert kills == 9
    assert result.problems == ()
    assert len(result.leftovers) == 8
    for leftover in result.leftovers:
        files = {path.name for path in leftover.iterdir()}
        assert "meta.json" not in files or len(files) == 7, "meta.json comes last: it says that the rest is there"
    # Killed after the rename: whole. And the last child lived.
    assert store.ids() == [sample_id(9), sample_id(10)]
    assert repair(store).removed == result.leftovers
    assert check(store).sound and len(store) == 2


def test_kill_9_at_random_moments_then_resume_loses_nothing_that_was_committed(tmp_path):
    count, moments, committed = 40, random.Random(0), []
    for _ in range(4):
        with start("write", tmp_path, count) as process:
            committed.append(process.stdout.readline().strip())
            time.sleep(moments.uniform(0, 0.05))
            process.send_signal(signal.SIGKILL)
            committed += process.stdout.read().split()
        store = EpisodeStore(tmp_path)
        assert set(filter(None, committed)) <= set(store.ids())
        assert check(store).problems == ()
        assert len(store.metas()) == len(store)
    with start("write", tmp_path, count) as process:
        finished = process.communicate(timeout=60)[0].split()
        assert process.returncode == 0
    assert not set(finished) & set(committed), "an episode was recorded twice"
    repair(store)
    result = check(store)
    assert result.sound and sum(result.outcomes.values()) == count
    assert store.ids() == [sample_id(seed) for seed in range(count)]


def test_concurrent_writers_of_the_same_ids_leave_each_once(tmp_path):
    count = 25
    writers = [start("write", tmp_path, count) for _ in range(3)]
    outputs = [writer.communicate(timeout=60)[0] for writer in writers]
    assert [writer.returncode for writer in writers] == [0, 0, 0]
    store = EpisodeStore(tmp_path)
    assert store.ids() == [sample_id(seed) for seed in range(count)] == sorted(set("".join(outputs).split()))
    assert check(store).sound
    assert [path for path in tmp_path.iterdir() if path.name.startswith(WRITING)] == []


def test_the_first_of_two_writers_wins_and_the_second_says_so(tmp_path, caplog, monkeypatch):
    store = EpisodeStore(tmp_path)
    first, second, third = (store.begin("same") for _ in range(3))
    for writer in (first, second, third):
        fill(writer, 0)
    assert first.commit(meta_for("same", extra={"who": "first"})) == tmp_path / "same"
    assert first.first and caplog.text == ""
    assert second.commit(meta_for("same", extra={"who": "second"})) == tmp_path / "same"
    assert not second.first
    assert "same is already in" in caplog.text and "the first one stays, this one is dropped" in caplog.text
    # The other writer may also finish while this one is writing: then the rename itself must refuse.
    real, asked = Path.is_file, []

    def not_yet(path: Path) -> bool:
        asked.append(path)
        return len(asked) > 1 and real(path)

    monkeypatch.setattr(Path, "is_file", not_yet)
    third.commit(meta_for("same", extra={"who": "third"}))
    assert not third.first
    monkeypatch.undo()
    assert store.read("same").meta.extra == {"who": "first"}
    assert check(store).sound


def test_a_full_disk_is_one_line_and_the_commit_can_be_tried_again(tmp_path, monkeypatch):
    store = EpisodeStore(tmp_path)
    writer = store.begin("e")
    fill(writer, 0)

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match="No space left on device; free some space and run the same") as caught:
        writer.commit(meta_for("e"))
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    writer.commit(meta_for("e"))
    assert check(store).sound and store.ids() == ["e"]


def test_a_file_that_the_system_refuses_to_grow_leaves_nothing(tmp_path):
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500))
        try:
            record(EpisodeStore(tmp_path))
        except StoreError as error:
            os._exit(0 if "cannot write" in str(error) and "\n" not in str(error) else 1)
        os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_refused_before_recording(tmp_path, monkeypatch):
    store = EpisodeStore(tmp_path)
    # Root may write anywhere, so the refusal is played here.
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)
    with pytest.raises(SetupError, match=r"cannot write to the episode store .* choose another"):
        store.begin("e")


def test_a_store_that_vanished_is_one_line(tmp_path):
    store = EpisodeStore(tmp_path / "gone")
    writer = store.begin("e")
    fill(writer, 0)
    (tmp_path / "gone").rmdir()
    with pytest.raises(StoreError, match="was it moved"):
        writer.commit(meta_for("e"))
    with pytest.raises(StoreError, match="cannot list the episode store"):
        store.ids()


def test_an_interrupted_commit_leaves_nothing(tmp_path, monkeypatch):
    def interrupted(descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        record(EpisodeStore(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_leftovers_are_told_from_the_work_of_living_writers(tmp_path):
    with subprocess.Popen([sys.executable, "-c", "pass"]) as dead:
        dead.wait()
    host, own = durable._host(), durable._process_start(os.getpid())
    alive = tmp_path / f"{WRITING}{host}--{os.getpid()}--{own}--00"
    reused = tmp_path / f"{WRITING}{host}--{os.getpid()}--1--00"
    killed = tmp_path / f"{WRITING}{host}--{dead.pid}--77--00"
    far_away = tmp_path / f"{WRITING}elsewhere--1--2--00"
    for path in (alive, reused, killed, far_away):
        path.mkdir()
    assert durable.leftovers(tmp_path) == sorted([reused, killed])
    later = time.time() + durable.FOREIGN_LEFTOVER_AGE_S + 1
    assert durable.leftovers(tmp_path, now=later) == sorted([reused, killed, far_away])
    repair(EpisodeStore(tmp_path))
    assert alive.exists() and far_away.exists() and not reused.exists() and not killed.exists()
