"""Damage is found, named, and put aside; the listing stays right."""

import json
import shutil
from hashlib import sha256

import pytest

from failwise.errors import StoreError
from failwise.store import EpisodeStore, check, repair
from failwise.store.naming import INDEX
from failwise.types import Outcome

from .samples import meta_for, record, sample_id

FILES = [
    "steps.parquet",
    "chunks.parquet",
    "frames.parquet",
    "features.safetensors",
    "snapshots.safetensors",
    "meta.json",
    "manifest.json",
]


@pytest.fixture
def store(tmp_path):
    store = EpisodeStore(tmp_path)
    for seed in range(3):
        record(store, seed)
    return store


def truncate(path):
    path.write_bytes(path.read_bytes()[:-7])


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def test_a_whole_store_is_sound(store):
    result = check(store, every_image=True)
    assert result.sound and result.episodes == 3
    assert result.outcomes[Outcome.SUCCESS] == 3 == sum(result.outcomes.values())


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("harm", [truncate, flip_a_bit, lambda path: path.unlink()], ids=["cut", "flip", "gone"])
def test_every_kind_of_damage_is_found_and_put_into_quarantine(store, file, harm):
    harmed = store.path / sample_id(1)
    harm(harmed / file)
    result = check(store)
    assert result.damaged == [sample_id(1)]
    assert any(file in problem.what for problem in result.problems)
    assert sum(result.outcomes.values()) + len(result.damaged) == result.episodes == 3
    before = {path.name: path.read_bytes() for path in harmed.iterdir()}

    repaired = repair(store)
    place = store.path / "quarantine" / sample_id(1)
    assert repaired.quarantined == {sample_id(1): place}
    assert {path.name: path.read_bytes() for path in place.iterdir()} == before
    reasons = json.loads(place.with_name(place.name + ".problems.json").read_text())
    assert any(file in reason for reason in reasons)
    assert check(store).sound
    assert [meta.episode_id for meta in store.metas()] == store.ids() == [sample_id(0), sample_id(2)]

    record(store, 1)
    assert check(store).sound and len(store.metas()) == 3


def test_quarantine_keeps_what_it_has(store):
    for place in ("", ".2", ".3"):
        truncate(store.path / sample_id(1) / "steps.parquet")
        assert repair(store).quarantined[sample_id(1)].name == sample_id(1) + place
        record(store, 1)
    assert len(list((store.path / "quarantine").glob("*.problems.json"))) == 3


def test_reading_a_damaged_file_is_one_line_with_the_remedy(store):
    for file, read in (
        ("steps.parquet", lambda episode: episode.actions()),
        ("chunks.parquet", lambda episode: episode.info()),
        ("frames.parquet", lambda episode: episode.frames("wrist")),
        ("features.safetensors", lambda episode: episode.features()),
        ("snapshots.safetensors", lambda episode: episode.snapshot(8)),
    ):
        truncate(store.path / sample_id(0) / file)
        with pytest.raises(StoreError, match=rf"{file}: is damaged .*; run 'failwise store repair {store.path}'"):
            read(store.read(sample_id(0)))
    truncate(store.path / sample_id(1) / "meta.json")
    with pytest.raises(StoreError, match=r"meta\.json: is damaged") as caught:
        store.read(sample_id(1))
    assert "\n" not in str(caught.value)


def test_contents_are_examined_where_the_checksums_are_right(store):
    path = store.path / sample_id(1)
    meta = meta_for(sample_id(1), 1, n_steps=19, first_success_step=18)
    content = json.dumps(meta.model_dump(mode="json")).encode()
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["meta.json"] = {"bytes": len(content), "sha256": sha256(content).hexdigest()}
    (path / "meta.json").write_bytes(content)
    (path / "manifest.json").write_text(json.dumps(manifest))
    assert [problem.what for problem in check(store).problems] == ["n_steps is 19, recorded were 20"]


def test_an_episode_under_another_name_and_a_stray_file_are_found(store):
    shutil.copytree(store.path / sample_id(0), store.path / "copy")
    (store.path / sample_id(2) / "notes.txt").write_text("mine")
    found = {problem.episode_id: problem.what for problem in check(store).problems}
    assert "stored as 'copy'" in found["copy"]
    assert "notes.txt does not belong" in found[sample_id(2)]


def test_other_peoples_folders_are_left_alone(store):
    (store.path / "logs").mkdir()
    (store.path / "logs" / "log.txt").write_text("x")
    (store.path / "run.json").write_text("{}")
    repair(store)
    assert (store.path / "logs" / "log.txt").exists() and (store.path / "run.json").exists()
    assert len(store) == 3 and check(store).sound


def test_a_damaged_episode_in_the_way_of_a_commit_is_named(store):
    (store.path / sample_id(1) / "meta.json").unlink()
    with pytest.raises(StoreError, match="a damaged episode is in the way; first run 'failwise store repair"):
        record(store, 1)
    repair(store)
    record(store, 1)
    assert check(store).sound


def test_the_listing_sees_what_others_add_change_and_remove(store):
    watching = EpisodeStore(store.path)
    assert len(watching.metas()) == 3
    record(store, 7)
    assert watching.metas()[-1].env_seed == 7
    shutil.rmtree(store.path / sample_id(7))
    assert len(watching.metas()) == 3
    repaired = meta_for(sample_id(0), 0, instruction="another")
    (store.path / sample_id(0) / "meta.json").write_text(repaired.model_dump_json())
    assert watching.metas()[0].instruction == "another"
    assert EpisodeStore(store.path).metas()[0].instruction == "another"


def test_the_listing_opens_no_episode_that_the_index_knows(store, monkeypatch):
    expected = store.metas()
    from failwise.store import index

    opened = []
    real = index.read_meta
    monkeypatch.setattr(index, "read_meta", lambda path: opened.append(path.name) or real(path))
    assert EpisodeStore(store.path).metas() == expected and opened == []
    record(store, 9)
    assert EpisodeStore(store.path).metas()[:3] == expected and opened == [sample_id(9)]


@pytest.mark.parametrize(
    "harm",
    [
        lambda index: index.unlink(),
        lambda index: index.write_bytes(index.read_bytes()[:-20]),
        lambda index: index.write_bytes(b"\x00\xff not json\n" + index.read_bytes()[30:]),
        lambda index: index.write_text('{"id": "tiny", "stamp": [1], "meta": {}}\n[]\n7\n'),
    ],
    ids=["gone", "cut", "torn", "nonsense"],
)
def test_a_damaged_index_costs_time_only(store, harm):
    expected = store.metas()
    harm(store.path / INDEX)
    assert store.metas() == EpisodeStore(store.path).metas() == expected
    record(store, 5)
    assert len(EpisodeStore(store.path).metas()) == 4


def test_repair_makes_the_index_afresh(store):
    expected = store.metas()
    index = store.path / INDEX
    index.write_bytes(index.read_bytes().replace(b"reach the goal", b"what is untrue"))
    assert EpisodeStore(store.path).metas() != expected  # a forged line with the right stamp: a cache is no record
    repair(store)
    assert store.metas() == EpisodeStore(store.path).metas() == expected
