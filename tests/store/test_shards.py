"""Many episodes in one file: nothing is lost on the way there, whatever happens, and readers see no difference."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from failwise.cli.store import main
from failwise.errors import SetupError, StoreError
from failwise.store import EpisodeStore, check, clear_leftovers, compact, merge, repair, summarise
from failwise.store import compaction as compaction_module
from failwise.store import shards as shards_module
from failwise.store.durable import locked
from failwise.store.shards import Shard, unpack, write_shard
from failwise.types import Outcome

from .samples import CAMERAS, fill, meta_for, record, sample_id


@pytest.fixture
def store(tmp_path):
    made = EpisodeStore(tmp_path / "run")
    for seed in range(7):
        record(made, seed)
    return made


def record_as(store, seed, arm):
    writer = store.begin(sample_id(seed, arm))
    fill(writer, seed)
    writer.commit(meta_for(writer.id, seed, arm=arm))


def everything(store, name):
    """All that can be read of an episode, as plain values."""
    episode = store.read(name)
    arrays = [episode.actions(), episode.states(), episode.rewards(), episode.chunk_starts(), *episode.features()]
    arrays += [episode.frames(camera) for camera in CAMERAS] + [episode.frames(CAMERAS[1], [2, 0])]
    arrays += [a for step in episode.snapshot_steps() for _, a in sorted(episode.snapshot(step).items())]
    chunk = episode.action_chunk(15, 8)
    return episode.meta, [a.tolist() for a in (*arrays, *chunk)], list(map(repr, episode.steps()))


def test_readers_see_no_difference(store):
    names = store.ids()
    before = {name: everything(store, name) for name in names}
    metas, rows = store.metas(), summarise(store)
    done = compact(store, per_shard=3)
    assert (done.episodes, len(done.shards), done.damaged) == (7, 3, {})
    assert not any((store.path / name).exists() for name in names)
    for seen in (store, EpisodeStore(store.path, create=False)):
        assert seen.ids() == names
        assert {name: everything(seen, name) for name in names} == before
        assert seen.metas() == metas
        assert all(name in seen for name in names)
        assert sample_id(99) not in seen
    assert summarise(store) == rows, "also the bytes"
    assert check(store, every_image=True).sound


def test_a_shard_is_an_archive_that_any_tool_opens(store):
    (path,) = compact(store).shards
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        assert f"{sample_id(0)}/steps.parquet" in archive.namelist()
    again = EpisodeStore(store.path.parent / "again")
    for seed in range(7):
        record(again, seed)
    (other,) = compact(again).shards
    assert other.name == path.name
    assert other.read_bytes() == path.read_bytes(), "the same episodes give the same bytes"


def test_video_is_read_from_a_shard(tmp_path):
    store = EpisodeStore(tmp_path, frames="video")
    record(store, 0)
    before = store.read(sample_id(0)).frames(CAMERAS[0])
    compact(store)
    assert np.array_equal(store.read(sample_id(0)).frames(CAMERAS[0]), before)


def test_what_is_in_a_shard_is_not_recorded_again(store):
    compact(store)
    writer = store.begin(sample_id(3))
    fill(writer, 3)
    writer.commit(meta_for(writer.id, 3))
    assert not writer.first
    assert not (store.path / sample_id(3)).exists()
    record(store, 8)
    assert len(store) == 8
    assert compact(store).episodes == 1
    assert len(store) == 8


def test_episodes_are_filtered_without_reading_them_all_at_once(store):
    record_as(store, 20, "other")
    compact(store, per_shard=4)
    record_as(store, 21, "other")
    assert [m.env_seed for m in store.scan(arm="other")] == [20, 21]
    assert list(store.scan(arm="other", outcome=Outcome.TIMEOUT)) == []
    assert len(list(store.scan(env_id="tiny/reach", outcome=Outcome.SUCCESS))) == 9


def test_damaged_episodes_stay_where_they_are(store):
    (store.path / sample_id(2) / "steps.parquet").write_bytes(b"")
    done = compact(store)
    assert done.episodes == 6
    assert "steps.parquet has 0 bytes" in done.damaged[sample_id(2)]
    assert (store.path / sample_id(2) / "meta.json").is_file()


def test_a_shard_that_does_not_come_back_as_written_removes_nothing(store, monkeypatch):
    write = compaction_module.write_shard

    def badly(root, name, episodes):
        path = write(root, name, episodes)
        content = bytearray(path.read_bytes())
        content[200] ^= 255
        path.write_bytes(content)
        return path

    monkeypatch.setattr(compaction_module, "write_shard", badly)
    with pytest.raises(StoreError, match="did not come back as it was written"):
        compact(store)
    assert check(store).episodes == 7
    assert check(store).sound
    assert all((store.path / name / "meta.json").is_file() for name in store.ids())


KILLED = """
import os, sys
from failwise.store import EpisodeStore, compact, compaction
removed = 0
real = compaction._remove
def until(root, name):
    global removed
    if removed == int(sys.argv[2]):
        os.kill(os.getpid(), 9)
    removed += 1
    real(root, name)
compaction._remove = until
compact(EpisodeStore(sys.argv[1]), per_shard=4)
"""


@pytest.mark.parametrize("after", [0, 2, 4, 5])
def test_killed_between_writing_and_removing(store, after):
    names, metas = store.ids(), store.metas()
    assert subprocess.run([sys.executable, "-c", KILLED, str(store.path), str(after)], check=False).returncode == -9
    seen = EpisodeStore(store.path)
    assert seen.ids() == names
    assert seen.metas() == metas
    assert check(seen).episodes == 7, "in both places is still one episode"
    compact(seen, per_shard=4)
    clear_leftovers(seen)
    assert seen.metas() == metas
    assert check(seen).sound
    assert not any((store.path / name).exists() for name in names)


def test_half_a_shard_of_a_killed_writer_is_cleared(store):
    (store.path / "shards").mkdir()
    half = store.path / "shards" / ".writing--nohost--1--2--abcd.zip.half"
    half.write_bytes(b"x")
    os.utime(half, (0, 0))
    assert check(store).leftovers == (half,)
    assert len(store) == 7
    repair(store)
    assert not half.exists()


def damage(path, name, file):
    """Flip a byte of a file inside a shard."""
    start, length = Shard(path).files(name)[file]
    content = bytearray(path.read_bytes())
    content[start + length // 2] ^= 255
    path.write_bytes(content)


def test_a_damaged_episode_in_a_shard_is_found_and_put_aside_and_the_others_are_kept(store):
    names = store.ids()
    before = {name: everything(store, name) for name in names}
    first, _ = compact(store, per_shard=4).shards
    damage(first, sample_id(1), "frames.parquet")
    result = check(store)
    assert result.damaged == [sample_id(1)]
    assert result.episodes == 7
    done = repair(store)
    assert set(done.quarantined) == {f"shards/{first.name}", sample_id(1)}
    assert all(place.exists() for place in done.quarantined.values())
    assert store.ids() == [n for n in names if n != sample_id(1)]
    assert {name: everything(store, name) for name in store.ids()} == {n: before[n] for n in store.ids()}
    assert check(store).sound


@pytest.mark.parametrize("where", [-1, -300])
def test_a_shard_without_its_index_is_taken_apart(store, where):
    names = store.ids()
    (path,) = compact(store).shards
    content = bytearray(path.read_bytes())
    if where == -1:
        content = content.replace(b'{"failwise"', b'{"failwhat"')
    else:
        with zipfile.ZipFile(path) as archive:
            at = archive.getinfo("index.jsonl").header_offset + 60
        content[at] = 0
    path.write_bytes(content)
    with pytest.raises(StoreError, match=r"damaged .*run 'failwise store repair"):
        EpisodeStore(store.path).ids()
    assert not check(store).sound
    repair(store)
    assert EpisodeStore(store.path).ids() == names
    assert check(store).sound


def test_what_is_no_archive_at_all_goes_to_quarantine_whole(store):
    names = store.ids()
    (store.path / "shards").mkdir()
    (store.path / "shards" / "x.zip").write_bytes(b"no archive")
    done = repair(store)
    assert done.quarantined["shards/x.zip"].read_bytes() == b"no archive"
    assert store.ids() == names


def test_merge_copies_what_is_missing_and_refuses_two_of_one_name(store, tmp_path):
    other = EpisodeStore(tmp_path / "other")
    for seed in (5, 6, 7):
        record(other, seed)
    compact(other, per_shard=2)
    into = EpisodeStore(tmp_path / "all")
    done = merge([store, other], into)
    assert (done.copied, done.present) == (8, 2)
    assert [m.env_seed for m in into.metas()] == list(range(8))
    assert check(into).sound
    assert merge([store, other], into).copied == 0
    different = EpisodeStore(tmp_path / "different")
    shutil.copytree(store.path / sample_id(0), different.path / sample_id(0))
    manifest = different.path / sample_id(0) / "manifest.json"
    manifest.write_text(manifest.read_text() + " ")
    fresh = EpisodeStore(tmp_path / "fresh")
    with pytest.raises(StoreError, match="different episodes of the same id"):
        merge([store, different], fresh)
    assert len(fresh) == 0, "found before anything was copied"


def test_the_verbs(store, tmp_path, capsys):
    assert main(["compact", str(store.path), "--per-shard", "5"]) == 0
    assert "7 episodes put into 2 files" in capsys.readouterr().out
    assert main(["check", str(store.path)]) == 0
    assert "7 episodes, 7 sound" in capsys.readouterr().out
    assert main(["stats", str(tmp_path)]) == 0
    assert main(["merge", str(store.path), "--into", str(tmp_path / "all")]) == 0
    assert "7 episodes copied from 1 stores" in capsys.readouterr().out
    with pytest.raises(SetupError, match="merge needs --into"):
        main(["merge", str(store.path)])
    with pytest.raises(SetupError, match="--per-shard must be at least 1"):
        main(["compact", str(store.path), "--per-shard", "0"])


def test_a_shard_that_was_never_read_back_removes_nothing_when_it_is_damaged(store):
    """Killed after the shard was published, and the disk had not written what it was told to."""
    names, metas = store.ids(), store.metas()
    path = write_shard(store.path, "ab", [store.path / name for name in names])
    damage(path, sample_id(4), "frames.parquet")
    done = compact(store)
    assert "its copy in ab.zip is damaged" in done.damaged[sample_id(4)]
    assert (store.path / sample_id(4) / "meta.json").is_file()
    assert check(store).damaged == [sample_id(4)]
    assert (check(store).episodes, store.metas()) == (7, metas)
    repair(store)
    assert check(store).sound
    assert store.metas() == metas
    assert compact(store).episodes == 7


def test_a_damaged_directory_gives_way_to_its_whole_copy(store):
    names, metas = store.ids(), store.metas()
    write_shard(store.path, "ab", [store.path / name for name in names])
    (store.path / sample_id(2) / "meta.json").unlink()
    (store.path / sample_id(3) / "steps.parquet").write_bytes(b"")
    done = repair(store)
    assert {sample_id(2), sample_id(3)} <= set(done.quarantined)
    assert store.metas() == metas
    assert check(store).sound


def test_a_disk_that_fills_while_a_shard_is_taken_apart_loses_nothing(store, monkeypatch):
    names = store.ids()
    (path,) = compact(store).shards
    damage(path, sample_id(6), "frames.parquet")
    real, calls = shards_module.publish, []

    def full(root, name, files):
        calls.append(name)
        if len(calls) == 3:
            raise StoreError("no space left")
        return real(root, name, files)

    monkeypatch.setattr(shards_module, "publish", full)
    with pytest.raises(StoreError, match="no space left"):
        repair(store)
    assert path.exists()
    assert store.ids() == names
    monkeypatch.undo()
    repair(store)
    assert store.ids() == names[:-1]
    assert check(store).sound


def test_members_are_found_by_their_own_headers(tmp_path):
    """As in archives beyond 2 GiB, where the archive's directory says more about a member than its own header does."""
    (tmp_path / "store").mkdir()
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for name in ("e1/meta.json", "e1/steps.parquet", "e2/meta.json", "../e3/meta.json", "e4/../meta.json"):
            with archive.open(zipfile.ZipInfo(name), "w", force_zip64=True) as member:
                member.write(f"content of {name}".encode())
    assert unpack(tmp_path / "store", tmp_path / "x.zip") == ["e1", "e2"]
    assert (tmp_path / "store/e1/steps.parquet").read_bytes() == b"content of e1/steps.parquet"
    assert sorted(p.name for p in tmp_path.rglob("meta.json")) == ["meta.json"] * 2


def test_names_that_lead_out_of_a_store_are_refused(store):
    (path,) = compact(store).shards
    content = path.read_bytes().replace(sample_id(0).encode(), b"../" + sample_id(0).encode()[3:])
    path.write_bytes(content)
    with pytest.raises(StoreError, match="cannot name an episode"):
        EpisodeStore(store.path).ids()


def test_many_shards_stay_open_to_readers(tmp_path):
    store = EpisodeStore(tmp_path)
    for seed in range(40):
        record(store, seed)
    compact(store, per_shard=1)
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    opened = len(list(Path("/proc/self/fd").iterdir()))
    resource.setrlimit(resource.RLIMIT_NOFILE, (opened + 20, limit[1]))
    try:
        assert [m.env_seed for m in EpisodeStore(tmp_path).metas()] == list(range(40))
        assert all(store.read(name).rewards().shape == (20,) for name in store.ids())
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limit)


def test_listing_while_episodes_are_packed_sees_each_once(store, monkeypatch):
    monkeypatch.setattr("failwise.store.episode_store._AT_ONCE", 2)
    listing = store.scan()
    seen = [next(listing).env_seed]
    compact(EpisodeStore(store.path), per_shard=3)
    seen += [m.env_seed for m in listing]
    assert seen == list(range(7))


def test_two_cannot_rearrange_a_store_at_once(store):
    with locked(store.path):
        for work in (compact, repair, check):
            with pytest.raises(StoreError, match="by another process; wait"):
                work(store)
        record(store, 30)
        assert len(store.metas()) == 8, "recording and reading go on"
    with locked(store.path, shared=True):
        assert check(store).sound


def test_a_store_that_cannot_be_locked_is_told_in_a_line_and_may_be_looked_at(store, monkeypatch):
    def refused(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("failwise.store.durable.fcntl.flock", refused)
    with pytest.raises(StoreError, match=r"cannot lock .*No locks available"), locked(store.path):
        pass
    assert check(store).sound
    monkeypatch.setattr(
        "failwise.store.durable.os.open", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full"))
    )
    with pytest.raises(StoreError, match=r"cannot lock .*full"), locked(store.path):
        pass


def test_a_store_that_nobody_may_write_needs_no_lock(store, monkeypatch):
    def refused(*_):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr("failwise.store.durable.os.open", refused)
    with pytest.raises(StoreError, match="cannot lock"), locked(store.path):
        pass  # the folder may be written, only its lock may not be had
    monkeypatch.setattr("failwise.store.durable.os.access", lambda *_: False)
    with locked(store.path):
        pass
