from __future__ import annotations

import asyncio
import os
import stat
import time

import pytest

from moderation.adapters.media_store import Buckets, ObjectMediaStore
from moderation.errors import MediaRefused, Overloaded, RecordUnavailable, Refusal
from moderation.media import sha256_of

DATA = b"\xff\xd8 a picture"
TENANT = "0190a0b0c0d07000800000000000000f"
NAME = f"{TENANT}/{sha256_of(DATA)}"


@pytest.fixture(params=["folder", "file url", "memory", "s3"])
def store(request, tmp_path):
    if request.param == "s3":
        return ObjectMediaStore(request.getfixturevalue("s3_bucket").url)
    return ObjectMediaStore({"folder": str(tmp_path / "m"), "file url": f"file://{tmp_path}/m%20x", "memory": "memory:///"}[request.param])


def test_what_was_put_is_got_and_after_delete_is_gone(store):
    async def story():
        assert await store.get("intake", NAME) is None
        await store.put("intake", NAME, DATA)
        assert await store.get("intake", NAME) == DATA
        assert await store.get("held", NAME) is None
        await store.delete("intake", NAME)
        await store.delete("intake", NAME)
        await store.ping()
        return await store.get("intake", NAME)

    assert asyncio.run(story()) is None


def test_an_object_is_read_piece_by_piece_and_its_size_is_known_before(store):
    async def story():
        assert (await store.size("intake", NAME), await store.piece("intake", NAME, 0, 4)) == (None, None)
        await store.put("intake", NAME, DATA)
        assert await store.size("intake", NAME) == len(DATA)
        pieces = [await store.piece("intake", NAME, start, start + 5) for start in range(0, len(DATA), 5)]
        with pytest.raises(RecordUnavailable):
            await store.piece("intake", NAME, len(DATA) + 5, len(DATA) + 9)
        return pieces

    pieces = asyncio.run(story())
    assert b"".join(pieces) == DATA
    assert {len(piece) for piece in pieces[:-1]} == {5}


def test_what_is_old_enough_is_listed_with_its_age_within_its_area_only(store):
    async def story():
        await store.put("intake", NAME, DATA)
        await store.put("held", NAME, DATA)
        return [[one async for batch in store.aged("intake", older_than_s=age_s) for one in batch] for age_s in (3600.0, -3600.0)]

    young, (old,) = asyncio.run(story())
    assert young == []
    assert old.name == NAME
    assert abs(old.age_s) < 60


def test_the_same_name_and_bytes_twice_is_no_error(store):
    async def story():
        await asyncio.gather(*(store.put("intake", NAME, DATA) for _ in range(20)))
        return await store.get("intake", NAME)

    assert asyncio.run(story()) == DATA


@pytest.mark.parametrize(
    "name", ["", "..", "../x", "a" * 64 + "/..", "/" + "a" * 64, "A" * 64, "a" * 64 + "\n", "a" * 7, "a" * 129, "%2e%2e", "ab/" * 5 + "ab"]
)
def test_a_name_that_is_not_hex_is_refused(store, name):
    for work in (store.put("intake", name, DATA), store.get("intake", name), store.delete("intake", name)):
        with pytest.raises(ValueError, match="hex"):
            asyncio.run(work)


@pytest.mark.parametrize("area", ["", "..", "Intake", "in/take", ".staging"])
def test_an_area_that_is_not_a_word_is_refused(store, area):
    with pytest.raises(ValueError, match="area"):
        asyncio.run(store.put(area, NAME, DATA))


def test_an_altered_object_is_unavailable_and_not_a_media(tmp_path):
    store = ObjectMediaStore(str(tmp_path))
    asyncio.run(store.put("intake", NAME, DATA))
    (tmp_path / "intake" / NAME).write_bytes(DATA + b"!")
    with pytest.raises(RecordUnavailable, match="not what was stored"):
        asyncio.run(store.get("intake", NAME))


def test_an_object_that_was_altered_in_its_bucket_is_unavailable_and_not_a_media(s3_bucket):
    store = ObjectMediaStore(s3_bucket.url)
    asyncio.run(store.put("intake", NAME, DATA))
    assert s3_bucket.keys() == [f"kept/intake/{NAME}"]
    s3_bucket.client.put_object(Bucket=s3_bucket.name, Key=f"kept/intake/{NAME}", Body=DATA + b"!")
    with pytest.raises(RecordUnavailable, match="not what was stored"):
        asyncio.run(store.get("intake", NAME))


@pytest.mark.usefixtures("s3_bucket")
def test_a_bucket_that_is_not_there_is_unavailable():
    store = ObjectMediaStore("s3://misspelt/kept")
    for work in (store.put("intake", NAME, DATA), store.ping()):
        with pytest.raises(RecordUnavailable):
            asyncio.run(work)


def test_folders_and_files_are_private_whatever_the_umask(tmp_path):
    root = tmp_path / "deep" / "media"
    before = os.umask(0)
    try:
        store = ObjectMediaStore(str(root))
        asyncio.run(store.put("intake", NAME, DATA))
    finally:
        os.umask(before)
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in [root, *root.rglob("*")]}
    assert {mode for path, mode in modes.items() if path.is_dir()} == {0o700}
    assert {mode for path, mode in modes.items() if path.is_file()} == {0o600}
    assert [path.name for path in root.rglob("*") if path.is_file()] == [sha256_of(DATA)]


def test_a_put_that_fails_leaves_nothing_behind(tmp_path, monkeypatch):
    store = ObjectMediaStore(str(tmp_path))

    def full(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RecordUnavailable):
        asyncio.run(store.put("intake", NAME, DATA))
    monkeypatch.undo()
    assert asyncio.run(store.get("intake", NAME)) is None
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_leftovers_of_a_put_that_died_are_removed_after_an_hour(tmp_path):
    staging = tmp_path / ".staging"
    staging.mkdir()
    old, young = staging / "old", staging / "young"
    old.write_bytes(b"x")
    young.write_bytes(b"x")
    os.utime(old, (time.time() - 4000,) * 2)
    ObjectMediaStore(str(tmp_path))
    assert [path.name for path in staging.iterdir()] == ["young"]


def test_a_store_that_is_not_there_is_unavailable(tmp_path):
    store = ObjectMediaStore(str(tmp_path / "m"))
    asyncio.run(store.ping())
    (tmp_path / "m").rmdir()
    (tmp_path / "m").write_text("a file in its place")
    for work in (store.put("intake", NAME, DATA), store.get("intake", NAME), store.ping()):
        with pytest.raises(RecordUnavailable):
            asyncio.run(work)


def test_a_cloud_store_that_does_not_answer_is_unavailable_in_time(monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x" * 20)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x" * 40)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    store = ObjectMediaStore("s3://bucket/prefix", timeout_s=1.0)
    started = time.monotonic()
    with pytest.raises(RecordUnavailable, match="in time"):
        asyncio.run(store.get("intake", NAME))
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("location", ["", "http://somewhere/else", "ftp://x", "postgresql://x"])
def test_a_location_of_another_kind_is_refused(location):
    with pytest.raises(ValueError, match="media store"):
        ObjectMediaStore(location)


def test_a_configured_bucket_is_read_and_no_other(tmp_path):
    (tmp_path / "b" / "in").mkdir(parents=True)
    (tmp_path / "b" / "in" / "a b.jpg").write_bytes(DATA)
    (tmp_path / "secret").write_bytes(b"s")
    buckets = Buckets({"photos": str(tmp_path / "b")})
    assert "photos" in buckets
    assert "other" not in buckets

    sizes = []

    async def story():
        assert await buckets.get("photos", "in/a b.jpg", max_bytes=100, admit=sizes.append) == DATA
        assert await buckets.get("photos", "in/none.jpg", max_bytes=100, admit=sizes.append) is None
        assert await buckets.get("other", "in/a b.jpg", max_bytes=100, admit=sizes.append) is None
        assert await buckets.get("photos", "", max_bytes=100, admit=sizes.append) is None
        os.mkfifo(tmp_path / "b" / "pipe")
        outside = ("../secret", "in/../../secret", "/../secret", f"{tmp_path}/secret")
        for name in (*outside, "in", "pipe", "in/a b.jpg/x", "in//a b.jpg", "a\0b", "x" * 300, "x" * 5000, "é", "\ud800", "in/"):
            assert await buckets.get("photos", name, max_bytes=100, admit=sizes.append) is None
        with pytest.raises(MediaRefused) as refused:
            await buckets.get("photos", "in/a b.jpg", max_bytes=3, admit=sizes.append)
        return refused.value.refusal

    assert asyncio.run(story()) is Refusal.PAYLOAD_TOO_LARGE
    assert sizes == [len(DATA)]


def test_a_bucket_of_a_cloud_is_read_up_to_what_is_taken(s3_bucket):
    s3_bucket.client.put_object(Bucket=s3_bucket.name, Key="kept/in/a b.jpg", Body=DATA)
    s3_bucket.client.put_object(Bucket=s3_bucket.name, Key="secret", Body=b"s")
    buckets = Buckets({"photos": s3_bucket.url})
    sizes = []

    async def story():
        assert await buckets.get("photos", "in/a b.jpg", max_bytes=100, admit=sizes.append) == DATA
        for name in ("in/none.jpg", "../secret", "in/../../secret", "in", "in//a b.jpg"):
            assert await buckets.get("photos", name, max_bytes=100, admit=sizes.append) is None
        with pytest.raises(MediaRefused) as refused:
            await buckets.get("photos", "in/a b.jpg", max_bytes=3, admit=sizes.append)
        return refused.value.refusal

    assert asyncio.run(story()) is Refusal.PAYLOAD_TOO_LARGE
    assert sizes == [len(DATA)]


def test_nothing_is_read_of_an_object_for_which_there_is_no_room(tmp_path):
    (tmp_path / "a.jpg").write_bytes(DATA)

    def full(size):
        raise Overloaded(f"{size} bytes")

    with pytest.raises(Overloaded, match=f"{len(DATA)} bytes"):
        asyncio.run(Buckets({"photos": str(tmp_path)}).get("photos", "a.jpg", max_bytes=100, admit=full))
