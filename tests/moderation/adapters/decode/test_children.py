"""What happens to children: limits, deaths, cancellations, and what they are left with."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moderation.adapters.classifiers.correlation import INPUT
from moderation.adapters.decode import ChildDecoder, pool, wire
from moderation.errors import DecoderUnavailable, MediaRefused, Overloaded, Refusal
from moderation.frames import DecodePlan, Fit, InputSpec, Limits
from tests import corpus
from tests.impostor import OUTPUT, Impostor

PLAN = DecodePlan(specs=(INPUT,))
ROOT = Path(__file__).parents[4]


async def ignore(_):
    pass


async def means(decoder, data, plan=PLAN):
    """Mean grey of each input: enough to know one picture from another."""
    found = []

    async def deliver(batch):
        found.extend(float(item.pixels.mean()) for item in batch)

    await decoder.decode(data, plan, deliver)
    return found


def run(story, children=2, **settings):
    """Run `story(decoder)` with a decoder of its own."""

    async def told():
        decoder = ChildDecoder(children, **settings)
        await decoder.start()
        try:
            return await story(decoder)
        finally:
            await decoder.close()

    return asyncio.run(told())


async def until(condition, seconds=10.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "in vain"
        await asyncio.sleep(0.01)


def slow_gif() -> bytes:
    """300 frames of a size that takes a child some seconds."""
    return corpus.gif(1000, 1000, corpus.gif_frame(0, 0, 1000, 1000, lzw(1000 * 1000)), *[corpus.gif_frame(0, 0, 1, 1)] * 299)


def lzw(pixels: int) -> bytes:
    """Uncompressed LZW of that many pixels of colour 1: a clear code before every second one keeps codes at 3 bits."""
    pair, end = [0, 0, 1, 1, 0, 0, 1, 0, 0], [1, 0, 1]
    packed = np.packbits(np.array([*pair * (pixels // 2), *end], np.uint8), bitorder="little").tobytes()
    blocks = b"".join(bytes([len(packed[at : at + 255])]) + packed[at : at + 255] for at in range(0, len(packed), 255))
    return b"\x02" + blocks + b"\x00"


@pytest.fixture(scope="module")
def slow() -> bytes:
    return slow_gif()


def test_a_child_has_an_empty_environment_and_one_descriptor_beside_the_null_device():
    async def story(decoder):
        for pid in decoder.pids:
            with suppress(PermissionError):
                assert Path(f"/proc/{pid}/environ").read_bytes() == b""
            with suppress(PermissionError):
                held = {int(fd): os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")}
                assert {fd: held[fd] for fd in (0, 1, 2)} == dict.fromkeys((0, 1, 2), "/dev/null")
                assert set(held) == {0, 1, 2, wire.SOCKET_FD}
                assert held[wire.SOCKET_FD].startswith("socket:")
        assert "limits" in decoder.confined

    leaked = os.open("/dev/null", os.O_RDONLY)
    os.set_inheritable(leaked, True)  # a library that forgot O_CLOEXEC
    try:
        run(story)
    finally:
        os.close(leaked)


def test_a_child_has_its_limits():
    async def story(decoder):
        (pid,) = decoder.pids
        await decoder.decode(corpus.plain("PNG"), replace(PLAN, limits=Limits(decode_cpu_s=3)), ignore)
        lines = Path(f"/proc/{pid}/limits").read_text().splitlines()
        soft = {line[:26].strip(): line[26:].split()[0] for line in lines[1:]}
        assert soft["Max core file size"] == "0"
        assert soft["Max file size"] == "0"
        assert soft["Max open files"] == str(wire.SOCKET_FD + 1)
        assert int(soft["Max address space"]) < 500_000_000 + 400_000_000
        assert 4 <= int(soft["Max cpu time"]) <= 6

    run(story, 1, memory_bytes=500_000_000)


@pytest.mark.skipif(os.uname().machine not in ("x86_64", "aarch64"), reason="the filter knows two processors")
def test_a_confined_process_can_open_connect_fork_and_kill_nothing():
    tried = """
import os, socket, signal
from moderation.adapters.decode.confine import confine
done = confine(1 << 30, 2)
def fails(what):
    try:
        what()
    except OSError as error:
        return True
    return False
tries = {
    "open": lambda: os.open("/etc/passwd", os.O_RDONLY),
    "socket": lambda: socket.socket(),
    "fork": lambda: os.fork() or os._exit(0),
    "exec": lambda: os.execv("/bin/true", ["true"]),
    "kill": lambda: os.kill(os.getppid(), 0),
    "pipe": lambda: os.pipe(),
}
print(done, [name for name, what in tries.items() if not fails(what)])
"""
    ran = subprocess.run([sys.executable, "-c", tried], capture_output=True, text=True, check=True, cwd=ROOT)
    assert "'limits'" in ran.stdout
    if "seccomp" in ran.stdout:
        assert ran.stdout.strip().endswith("[]")


def test_a_killed_child_fails_its_own_media_and_no_other(slow):
    async def story(decoder):
        started = asyncio.Event()

        async def deliver(_):
            started.set()

        victims = set(decoder.pids)
        task = asyncio.create_task(decoder.decode(slow, PLAN, deliver))
        await started.wait()
        (idle,) = [child.pid for child in decoder._pictures.idle]
        (victim,) = victims - {idle}
        neighbour = asyncio.create_task(means(decoder, corpus.plain("PNG")))
        os.kill(victim, signal.SIGKILL)
        with pytest.raises(DecoderUnavailable):
            await task
        assert await neighbour
        await until(lambda: len(decoder.pids) == 2 and victim not in decoder.pids)
        assert await asyncio.gather(*(means(decoder, corpus.plain("PNG")) for _ in range(4)))

    run(story)


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS])
def test_a_crash_in_a_codec_is_the_medias_fault(slow, number):
    async def story(decoder):
        started = asyncio.Event()

        async def deliver(_):
            started.set()

        (pid,) = decoder.pids
        task = asyncio.create_task(decoder.decode(slow, PLAN, deliver))
        await started.wait()
        os.kill(pid, number)
        with pytest.raises(MediaRefused) as refused:
            await task
        assert refused.value.refusal is Refusal.DECODE_FAILED
        assert await means(decoder, corpus.plain("PNG"))

    run(story, 1)


def test_a_stopped_child_is_ended_by_the_clock_while_neighbours_go_on():
    async def story(decoder):
        stopped = decoder._pictures.idle[-1].pid
        os.kill(stopped, signal.SIGSTOP)
        before = time.monotonic()
        task = asyncio.create_task(decoder.decode(corpus.plain("PNG"), replace(PLAN, limits=Limits(decode_wall_s=0.7)), ignore))
        await asyncio.sleep(0)
        for _ in range(5):
            assert await means(decoder, corpus.plain("PNG"))
        assert time.monotonic() - before < 0.7
        with pytest.raises(MediaRefused) as refused:
            await task
        assert refused.value.refusal is Refusal.DECODE_TOO_SLOW
        await until(lambda: len(decoder.pids) == 2 and stopped not in decoder.pids)
        assert await means(decoder, corpus.plain("PNG"))

    run(story)


def test_processor_time_is_limited(slow):
    async def story(decoder):
        (pid,) = decoder.pids
        limits = Limits(decode_cpu_s=0, total_pixels=10**9)
        big = DecodePlan(specs=tuple(InputSpec(width=1000 + k, height=1000, fit=Fit.STRETCH) for k in range(4)), limits=limits)
        with pytest.raises(MediaRefused) as refused:
            await decoder.decode(slow, big, ignore)
        assert refused.value.refusal is Refusal.DECODE_TOO_SLOW
        assert await means(decoder, corpus.plain("PNG"))
        assert decoder.pids != (pid,)

    run(story, 1)


def test_a_picture_that_needs_more_memory_than_there_is_is_refused_and_the_child_lives():
    async def story(decoder):
        (pid,) = decoder.pids
        rows = (b"\0" + bytes(3 * 7000)) * 7000
        data = corpus.png(7000, 7000, 8, 2, rows)
        with pytest.raises(MediaRefused) as refused:
            await decoder.decode(data, PLAN, ignore)
        assert refused.value.refusal is Refusal.DIMENSIONS_TOO_LARGE
        assert await means(decoder, corpus.plain("PNG"))
        assert decoder.pids == (pid,)

    run(story, 1, memory_bytes=100_000_000)


def test_the_largest_picture_allowed_fits_the_memory_of_a_child():
    async def story(decoder):
        data = corpus.png(8000, 8000, 8, 6, (b"\0" + bytes([200, 100, 50, 128]) * 8000) * 8000)
        return await means(decoder, data)

    assert len(run(story, 1)) == 4


def test_a_cancelled_decode_never_answers_the_next_one(slow):
    async def story(decoder):
        expected = await means(decoder, corpus.plain("PNG"))
        for delay in (0, 0.001, 0.01, 0.05, 0.2):
            task = asyncio.create_task(decoder.decode(slow, PLAN, ignore))
            await asyncio.sleep(delay)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await means(decoder, corpus.plain("PNG")) == expected
        assert decoder.bytes_in_flight == 0

    run(story, 1)


def test_what_deliver_raises_comes_out_and_the_child_is_not_used_again(slow):
    class OutOfOrder(Exception):
        pass

    async def story(decoder):
        (pid,) = decoder.pids

        async def deliver(_):
            raise OutOfOrder

        with pytest.raises(OutOfOrder):
            await decoder.decode(slow, PLAN, deliver)
        assert await means(decoder, corpus.plain("PNG"))
        assert decoder.pids != (pid,)

    run(story, 1)


def test_an_orderly_refusal_keeps_the_child():
    async def story(decoder):
        (pid,) = decoder.pids
        with pytest.raises(MediaRefused):
            await decoder.decode(corpus.plain("PNG")[:-5], PLAN, ignore)
        assert await means(decoder, corpus.plain("PNG"))
        assert decoder.pids == (pid,)

    run(story, 1)


def test_an_idle_child_that_dies_is_replaced():
    async def story(decoder):
        for pid in decoder.pids:
            os.kill(pid, signal.SIGKILL)
        dead = set(decoder.pids)
        await until(lambda: len(decoder.pids) == 2 and not dead & set(decoder.pids))
        assert await means(decoder, corpus.plain("PNG"))

    run(story)


def test_a_child_that_dies_between_two_media_hurts_neither():
    async def story(decoder):
        for _ in range(5):
            os.kill(decoder.pids[0], signal.SIGKILL)
            with suppress(DecoderUnavailable):  # when it was not yet known to be dead
                await means(decoder, corpus.plain("PNG"))
            assert await means(decoder, corpus.plain("PNG")) or True

    run(story)


def test_children_are_renewed_after_their_share_of_media():
    async def story(decoder):
        first = set(decoder.pids)
        for _ in range(30):
            assert await means(decoder, corpus.plain("BMP", corpus.quiet(64, 64)))
        await until(lambda: first != set(decoder.pids) and len(decoder.pids) == 2)

    run(story, media_per_child=4)


def test_bytes_in_flight_are_limited():
    async def story(decoder):
        data = corpus.plain("PNG")
        release = asyncio.Event()

        async def deliver(_):
            await release.wait()

        tasks = [asyncio.create_task(decoder.decode(data, PLAN, deliver)) for _ in range(3)]
        await asyncio.sleep(0.05)
        assert decoder.bytes_in_flight == 3 * len(data)
        with pytest.raises(Overloaded):
            await decoder.decode(data, PLAN, deliver)
        release.set()
        await asyncio.gather(*tasks)
        assert decoder.bytes_in_flight == 0
        assert await means(decoder, data)

    run(story, max_bytes_in_flight=3 * len(corpus.plain("PNG")) + 10)


def test_waiting_for_a_child_has_an_end():
    async def story(decoder):
        release = asyncio.Event()

        async def deliver(_):
            await release.wait()

        task = asyncio.create_task(decoder.decode(corpus.plain("PNG"), PLAN, deliver))
        await asyncio.sleep(0.05)
        with pytest.raises(Overloaded):
            await decoder.decode(corpus.plain("PNG"), PLAN, ignore)
        release.set()
        await task
        assert await means(decoder, corpus.plain("PNG"))

    run(story, 1, wait_s=0.2)


def test_the_time_that_deliver_takes_is_not_the_childs():
    async def story(decoder):
        async def deliver(_):
            await asyncio.sleep(0.3)

        facts = await decoder.decode(corpus.animation("WEBP", 42, 41, quality=85), replace(PLAN, limits=Limits(decode_wall_s=1.5)), deliver)
        assert facts.frames == 42

    run(story, 1)


def test_without_an_interpreter_the_decoder_is_unavailable(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")

    async def story():
        with pytest.raises(DecoderUnavailable):
            await ChildDecoder(1).start()

    asyncio.run(story())


def test_when_children_cannot_be_replaced_nobody_waits(monkeypatch):
    async def story(decoder):
        working = sys.executable
        monkeypatch.setattr(sys, "executable", "/nonexistent/python")
        os.kill(decoder.pids[0], signal.SIGKILL)
        await until(lambda: not decoder.pids)
        with pytest.raises(DecoderUnavailable):
            await means(decoder, corpus.plain("PNG"))
        monkeypatch.setattr(sys, "executable", working)
        await until(lambda: decoder.pids)
        assert await means(decoder, corpus.plain("PNG"))

    run(story, 1)


def test_a_decoder_that_is_not_started_or_closed_is_unavailable():
    async def story(decoder):
        await decoder.close()
        with pytest.raises(DecoderUnavailable):
            await means(decoder, corpus.plain("PNG"))

    run(story)
    with pytest.raises(DecoderUnavailable):
        _ = ChildDecoder(1).version
    with pytest.raises(DecoderUnavailable):
        asyncio.run(means(ChildDecoder(1), corpus.plain("PNG")))


def test_closing_ends_what_is_being_decoded_and_leaves_no_process(slow):
    async def story(decoder):
        pids = decoder.pids
        task = asyncio.create_task(decoder.decode(slow, PLAN, ignore))
        await asyncio.sleep(0.05)
        await decoder.close()
        with pytest.raises(DecoderUnavailable):
            await task
        for pid in pids:
            assert not Path(f"/proc/{pid}").exists()

    run(story)


def test_no_descriptor_is_left_behind(slow):
    async def story():
        decoder = ChildDecoder(2)
        await decoder.start()
        for _ in range(3):
            task = asyncio.create_task(decoder.decode(slow, PLAN, ignore))
            await asyncio.sleep(0.02)
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
            await means(decoder, corpus.plain("PNG"))
        await decoder.close()

    def held():
        return len(os.listdir("/proc/self/fd"))

    asyncio.run(story())
    before = held()
    for _ in range(3):
        asyncio.run(story())
    assert held() == before


def test_children_end_with_their_parent():
    script = """
import asyncio, os
from moderation.adapters.decode import ChildDecoder
async def story():
    decoder = ChildDecoder(2)
    await decoder.start()
    print(*decoder.pids, flush=True)
    os.kill(os.getpid(), 9)
asyncio.run(story())
"""
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd=ROOT)
    pids = ran.stdout.split()
    assert len(pids) == 2
    asyncio.run(
        until(
            lambda: not any(Path(f"/proc/{pid}").exists() and "Z" not in Path(f"/proc/{pid}/stat").read_text().split()[2] for pid in pids)
        )
    )


def test_the_parent_imports_no_codec():
    script = "import sys, moderation.adapters.decode.pool; print([m for m in sys.modules if m.split('.')[0] in ('PIL', 'torch', 'av')])"
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    assert ran.stdout.strip() == "[]"


def test_the_version_names_the_codecs():
    async def story(decoder):
        return decoder.version

    version = run(story, 1)
    for name in ("pillow", "libjpeg_turbo", "webp", "avif", "libtiff", "zlib", "littlecms2"):
        assert name in version
    assert "None" not in version
    assert len(version) < 200


def test_many_media_at_once_come_out_right():
    pictures = {
        level: corpus.encode(corpus.Image.new("RGB", (64 + level, 64), (level, level, level)), "PNG") for level in range(20, 200, 20)
    }

    async def story(decoder):
        spec = DecodePlan(specs=(InputSpec(width=8, height=8, fit=Fit.STRETCH),))
        levels = list(pictures) * 6
        return levels, await asyncio.gather(*(means(decoder, pictures[level], spec) for level in levels))

    levels, found = run(story)
    assert [round(values[0]) for values in found] == levels


# --- a child that is somebody else's by now ------------------------------------------------------------


GOOD_FACTS = {
    "animated": False,
    "width": 8,
    "height": 8,
    "frames": 1,
    "frames_declared": 1,
    "duration_us": None,
    "unscreened": [],
    "renderings": ["plain"],
}
GOOD_INPUT = [0, 0, None, "plain", 0, 0, 8, 8, OUTPUT]


def done(inputs=(GOOD_INPUT,), **facts):
    return {"t": "done", "facts": {**GOOD_FACTS, **facts}, "inputs": list(inputs)}


def changed(at, value):
    return [*GOOD_INPUT[:at], value, *GOOD_INPUT[at + 1 :]]


LIES = [
    b"",
    b"not json",
    b"[" * 60_000,
    b"null",
    b'{"t": "unheard of"}',
    {"t": "done"},
    done([]),
    done([GOOD_INPUT[:-1]]),
    done([changed(0, 1)]),
    done([changed(0, True)]),
    done([changed(1, -1)]),
    done([changed(1, 300)]),
    done([changed(1, 1)]),
    done([changed(2, -5)]),
    done([changed(2, "soon")]),
    done([changed(3, "../../x")]),
    done([changed(3, 7)]),
    done([changed(4, -1)]),
    done([changed(6, 0)]),
    done([changed(7, 10**9)]),
    done([changed(8, 0)]),
    done([changed(8, OUTPUT - 1)]),
    done([changed(8, 10**12)]),
    done([changed(8, OUTPUT + 2 * wire.HALF_BYTES - 100)]),
    done(frames=2),
    done(frames=0),
    done(frames="1"),
    done(width=0),
    done(width=10**9),
    done(unscreened=["everything"]),
    done(unscreened=None),
    done(duration_us=-1),
    done(renderings=[5]),
    {"t": "refused"},
    {"t": "refused", "refusal": "allow", "detail": ""},
    {"t": "inputs", "inputs": 5},
]


def exchange(message):
    async def story():
        child: Any = Impostor(message)
        plan = DecodePlan(specs=(InputSpec(width=8, height=8, fit=Fit.STRETCH),))
        try:
            return await pool._Screening(child, b"x" * 100, pool.Format.PNG, plan, ignore).run()
        finally:
            child.close()

    return asyncio.run(story())


@pytest.mark.parametrize(
    "message", LIES, ids=lambda message: (message if isinstance(message, bytes) else json.dumps(message).encode())[:40].decode()
)
def test_a_child_that_lies_is_not_believed(message):
    with pytest.raises((MediaRefused, DecoderUnavailable)) as error:
        exchange(message)
    assert not isinstance(error.value, pool._Orderly)


def test_a_child_that_tells_the_truth_is_believed():
    facts = exchange(done())
    assert (facts.frames, facts.type) == (1, "image/png")


def test_the_map_cannot_be_shrunk_by_a_child():
    async def story():
        child = pool._Child(1 << 20, 1 << 30)
        try:
            descriptor = next(fd for fd in os.listdir("/proc/self/fd") if "facegate-decode" in os.readlink(f"/proc/self/fd/{fd}"))
            with pytest.raises(PermissionError):
                os.ftruncate(int(descriptor), 0)
        finally:
            child.release()
            await child.exit

    asyncio.run(story())


def test_messages_fit_the_socket():
    """The longest honest message is sent in one piece."""
    entry = [9, 299, 10**12, "still_transversed_stretched_on_white", 30_000, 30_000, 30_000, 30_000, 10**9]
    longest = json.dumps({"t": "inputs", "inputs": [entry] * wire.INPUTS_PER_MESSAGE}, separators=(",", ":"))
    assert len(longest) < wire.MESSAGE_BYTES
