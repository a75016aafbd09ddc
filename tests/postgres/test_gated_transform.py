"""What must not be possible, tried on the real thing: Postgres, decode children, stores, C2PA, detector and swapper."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import encypher_c2pa
import numpy as np
import pytest

from deployments import transform_worker
from deployments.policy_file import shipped_policy
from moderation.adapters.areas import object_name
from moderation.adapters.decode import ChildDecoder
from moderation.adapters.provenance import COMPOSITE, read_credentials
from moderation.adapters.transforms import PostgresTransforms
from moderation.decision import ReasonCode, Verdict
from moderation.errors import CannotSign, FactsChanged, Overloaded, RecordUnavailable
from moderation.media import Stage, sha256_of
from moderation.policy import Policy
from moderation.transform import Options, PartKind, State
from tests.gate_kit import SIDE, Composing, Yard, barely_marked, face, in_yard, joined, jpeg, marked, marker_halves, states, unchanged

pytestmark = pytest.mark.postgres

WAY = [State.QUEUED, State.SCREENING, State.TRANSFORMING, State.SCREENING_OUTPUT, State.RELEASED]


@pytest.fixture(autouse=True)
def _own_preferences(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "preferences"))


def strict_marker(**changes) -> Policy:
    """The marker policy with other thresholds for the marker."""
    shipped = shipped_policy("marker")
    rules = tuple(replace(rule, **changes) if rule.category == "test.marker" else rule for rule in shipped.rules)
    return replace(shipped, rules=rules)


def held_at(review_at: int = 1) -> Policy:
    """Everything that looks a little like a marker is held; nothing blocks."""
    return strict_marker(block_at=None, review_at=review_at)


def faint(frame: np.ndarray) -> np.ndarray:
    """A marker that is as loud as any: under a policy that only holds, it is held."""
    return marked(frame)


def test_two_ordinary_pictures_are_screened_swapped_screened_again_signed_and_released(database, tmp_path):
    async def scenario(yard: Yard) -> None:
        source, target = jpeg(face("ada")), jpeg(face("bo"))
        done = await yard.swap(source, target)
        assert states(done) == WAY
        assert [event.sequence for event in done.events] == [1, 2, 3, 4, 5]
        assert sorted((one.stage, one.verdict) for one in done.decisions) == [
            (Stage.OUTPUT, Verdict.ALLOW),
            (Stage.SOURCE, Verdict.ALLOW),
            (Stage.TARGET, Verdict.ALLOW),
        ]
        encoded, signed = done.part(PartKind.ENCODED), done.part(PartKind.SIGNED)
        by_stage = {one.stage: one for one in done.decisions}
        assert by_stage[Stage.OUTPUT].media.sha256 == encoded.sha256 == signed.made_of == done.release.encoded_sha256
        assert (encoded.frame_digest, signed.sha256) == (None, done.release.signed_sha256)
        assert done.release.decisions == {stage: one.id for stage, one in by_stage.items()}
        data = await yard.served(done)
        assert sha256_of(data) == done.release.signed_sha256
        shown = await yard.decoder.picture(data, yard.worker()._plan)
        digest = await yard.decoder.frame_digest(data, yard.worker()._plan)
        assert digest == signed.frame_digest == by_stage[Stage.OUTPUT].media.facts.frame_digest
        before = await yard.decoder.picture(target, yard.worker()._plan)
        assert np.abs(shown.pixels.astype(int) - before.pixels).max() > 30, "the input never comes back as a result"

    in_yard(database, tmp_path, scenario)


def test_a_released_file_says_what_it_is_to_two_libraries_that_share_no_code(database, tmp_path):
    async def scenario(yard: Yard) -> None:
        done = await yard.swap(face("ada"), face("bo"))
        data, anchor = await yard.served(done), (tmp_path / "c2pa" / "development-ca.pem").read_bytes()
        anchor = anchor[anchor.index(b"-----BEGIN CERTIFICATE") :]
        said = read_credentials(data, "image/jpeg", anchors=anchor)
        assert (said.state, said.actions, said.source_type) == ("Trusted", ("c2pa.opened", "c2pa.edited"), COMPOSITE)
        report = encypher_c2pa.verify(data, "image/jpeg", trust_pem=anchor.decode(), no_default_trust=True, telemetry=False, online=False)
        assert report["validation_state"] == "Trusted"

    in_yard(database, tmp_path, scenario)


@pytest.mark.parametrize("stage", [Stage.SOURCE, Stage.TARGET])
def test_a_marked_input_is_denied_with_a_reason_that_says_where_and_nothing_looks_for_a_face(database, tmp_path, stage):
    async def scenario(yard: Yard) -> None:
        yard.renderer = unchanged()
        pictures = {Stage.SOURCE: face("ada"), Stage.TARGET: face("bo")}
        pictures[stage] = marked(pictures[stage])
        done = await yard.swap(pictures[Stage.SOURCE], pictures[Stage.TARGET])
        assert states(done) == [State.QUEUED, State.SCREENING, State.DENIED]
        denial = done.events[-1].denial
        assert denial.stage is stage
        assert denial.reasons[0].category == "test.marker"
        assert denial.decision in {one.id for one in done.decisions if one.verdict is Verdict.BLOCK}
        assert yard.renderer.calls == 0
        assert (done.parts, done.release, await yard.served(done)) == ((), None, None)

    in_yard(database, tmp_path, scenario)


def test_an_output_that_only_becomes_explicit_through_the_swap_is_denied(database, tmp_path):
    async def scenario(yard: Yard) -> None:
        left, right = marker_halves()
        yard.renderer = Composing(change=joined)
        done = await yard.swap(left, right)
        verdicts = {one.stage: one.verdict for one in done.decisions}
        assert verdicts == {Stage.SOURCE: Verdict.ALLOW, Stage.TARGET: Verdict.ALLOW, Stage.OUTPUT: Verdict.BLOCK}
        assert done.state is State.DENIED
        assert (done.events[-1].denial.stage, done.release, await yard.served(done)) == (Stage.OUTPUT, None, None)

    in_yard(database, tmp_path, scenario)


def test_an_output_that_only_becomes_explicit_through_the_encoder_is_denied(database, tmp_path):
    async def scenario(yard: Yard) -> None:
        ends = []
        for format, quality in (("png", 90), ("jpeg", 90), ("jpeg", 1)):
            yard.renderer = Composing(change=lambda *_: barely_marked(), format=format, quality=quality)
            done = await yard.swap(face("ada"), face("bo"))
            ends.append(done.state)
        assert ends == [State.RELEASED, State.RELEASED, State.DENIED], "the frame itself shows nothing"
        assert (done.events[-1].denial.stage, done.release, await yard.served(done)) == (Stage.OUTPUT, None, None)

    in_yard(database, tmp_path, scenario, policy=strict_marker(block_at=100_000, review_at=None))


def test_a_denial_is_final_whoever_asks_again(database, tmp_path):
    async def scenario(yard: Yard) -> None:
        denied = await yard.swap(marked(face("ada")), face("bo"))
        assert await yard.finish(denied.transform.id) == denied
        assert not await yard.worker().run_once()
        await yard.review(denied, Stage.SOURCE, Verdict.ALLOW)
        assert not await yard.worker().run_once()
        assert (await yard.load(denied.transform.id)).state is State.DENIED

    in_yard(database, tmp_path, scenario)


def test_what_is_held_goes_on_when_a_person_allows_it(database, tmp_path):
    async def scenario(yard: Yard) -> None:
        held = await yard.swap(faint(face("ada")), face("bo"))
        assert states(held)[-1] is State.HELD
        assert held.events[-1].held.stage is Stage.SOURCE
        assert not await yard.worker().run_once()
        yard.renderer = unchanged()
        await yard.review(held, Stage.SOURCE, Verdict.ALLOW)
        assert await yard.worker().run_once()
        assert (await yard.load(held.transform.id)).state is State.RELEASED

    in_yard(database, tmp_path, scenario, policy=held_at(300_000))


def test_what_is_held_ends_when_a_person_blocks_it(database, tmp_path):
    async def scenario(yard: Yard) -> None:
        held = await yard.swap(face("ada"), faint(face("bo")))
        await yard.review(held, Stage.TARGET, Verdict.BLOCK)
        assert await yard.worker().run_once()
        ended = await yard.load(held.transform.id)
        assert (ended.state, ended.events[-1].denial.stage) == (State.DENIED, Stage.TARGET)

    in_yard(database, tmp_path, scenario, policy=held_at(300_000))


def test_a_policy_tightened_between_acceptance_and_release_stops_the_release(database, tmp_path):
    async def scenario(yard: Yard) -> None:
        class Tightening(Composing):
            async def render(self, *asked):
                await yard.publish(strict_marker(block_at=1, review_at=1))
                return await super().render(*asked)

        yard.renderer = Tightening(change=lambda _, target: marked_faintly(target))
        done = await yard.swap(face("ada"), face("bo"))
        assert done.transform.policy.version == 1
        assert done.state is State.DENIED
        assert (done.release, await yard.served(done)) == (None, None)

    in_yard(database, tmp_path, scenario)


def marked_faintly(frame: np.ndarray) -> np.ndarray:
    """Blended, so that the finder is far from sure, yet not at zero."""
    loud = marked(frame).astype(float)
    return (0.16 * loud + 0.84 * frame).astype(np.uint8)


def test_a_policy_that_is_loosened_meanwhile_lets_nothing_more_pass(database, tmp_path):
    async def scenario(yard: Yard) -> None:
        id = await yard.accept(marked(face("ada")), face("bo"))
        rules = tuple(rule for rule in shipped_policy("marker").rules if rule.category != "test.marker")
        loose = replace(
            shipped_policy("marker"),
            rules=rules,
            ignore=(*shipped_policy("marker").ignore, "test.*"),
            requires=(),
        )
        await yard.publish(loose)
        await yard.worker().run_once()
        assert (await yard.load(id)).state is State.DENIED

    in_yard(database, tmp_path, scenario)


def test_bytes_changed_in_intake_are_never_screened_as_the_ones_that_were_named(database, tmp_path):
    async def scenario(yard: Yard) -> None:
        id = await yard.accept(face("ada"), face("bo"))
        accepted = await yard.load(id)
        file = tmp_path / "media" / "intake" / object_name(yard.tenant, id, accepted.transform.source.sha256)
        file.write_bytes(jpeg(face("eve")))
        await yard.worker().run_once()
        stopped = await yard.finish(id)
        assert stopped.release is None
        assert Stage.SOURCE not in {one.stage for one in stopped.decisions if one.verdict is Verdict.ALLOW}

    in_yard(database, tmp_path, scenario)


def test_an_output_changed_in_quarantine_is_neither_signed_nor_released(database, tmp_path):
    async def scenario(yard: Yard) -> None:
        class Swapping:
            """Signs, after somebody has put another file where the screened one lay."""

            async def sign(self, data, claim):
                for file in (tmp_path / "media" / "quarantine").rglob("*"):
                    if file.is_file():
                        file.write_bytes(jpeg(marked(face("eve"))))
                return await yard.signer.sign(data, claim)

        id = await yard.accept(face("ada"), face("bo"))
        await yard.worker(signer=Swapping()).run_once()
        done = await yard.load(id)
        assert done.state is State.RELEASED, "what was signed had been read and checked before"
        assert sha256_of(await yard.served(done)) == done.release.signed_sha256

        class Forging:
            """Signs something else."""

            async def sign(self, data, claim):  # noqa: ARG002
                return await yard.signer.sign(jpeg(marked(face("eve"))), claim)

        id = await yard.accept(face("ada"), face("bo"))
        await yard.worker(signer=Forging()).run_once()
        stopped = await yard.load(id)
        assert (stopped.part(PartKind.SIGNED), stopped.release, await yard.served(stopped)) == (None, None, None)

    in_yard(database, tmp_path, scenario)


def test_what_was_screened_without_a_name_for_what_it_shows_is_not_signed_and_screened_again_by_a_decoder_that_has_one(database, tmp_path):
    class Earlier:
        """The decoder of a version before there was one."""

        version = "earlier"

        def __init__(self, decoder: ChildDecoder) -> None:
            self._decoder = decoder
            self.frame_digest, self.picture = decoder.frame_digest, decoder.picture

        async def decode(self, *asked, **kept):
            return replace(await self._decoder.decode(*asked, **kept), frame_digest=None)

    async def scenario(yard: Yard) -> None:
        id = await yard.accept(face("ada"), face("bo"))
        earlier: Any = Earlier(yard.decoder)
        await replace(yard, decoder=earlier).worker().run_once()
        before = await yard.load(id)
        assert [one.verdict for one in before.decisions] == [Verdict.ALLOW] * 3
        assert (before.part(PartKind.SIGNED), before.release) == (None, None)
        done = await yard.finish(id)
        assert done.state is State.RELEASED
        assert {one.decoder for one in done.decisions if one.id in done.release.decisions.values()} == {yard.decoder.version}
        assert done.parts[0] == before.parts[0], "the file is still the one that was made then"

    in_yard(database, tmp_path, scenario)


def test_what_cannot_be_signed_is_not_released_and_is_tried_again(database, tmp_path):
    async def scenario(yard: Yard) -> None:
        class Broken:
            async def sign(self, data, claim):  # noqa: ARG002
                raise CannotSign("no key")

        id = await yard.accept(face("ada"), face("bo"))
        for _ in range(3):
            await yard.lapse(id)
            assert await yard.worker(signer=Broken()).run_once()
        await yard.log.end_parked()
        ended = await yard.load(id)
        assert (ended.state, ended.events[-1].failure.retryable, ended.release) == (State.FAILED, True, None)
        assert ended.events[-1].failure.code == "attempts_exhausted"

    in_yard(database, tmp_path, scenario)


def test_want_of_room_is_no_attempt_and_ends_no_transform(database, tmp_path):
    async def scenario(yard: Yard) -> None:
        class Full:
            async def sign(self, data, claim):  # noqa: ARG002
                raise Overloaded("room")

        id = await yard.accept(face("ada"), face("bo"))
        for _ in range(4):
            await yard.lapse(id)
            assert not await yard.worker(signer=Full()).run_once()
        assert await yard.log.end_parked() == 0
        await yard.lapse(id)
        await yard.worker().run_once()
        assert (await yard.load(id)).state is State.RELEASED

    in_yard(database, tmp_path, scenario)


def test_facts_that_change_for_ever_end_the_attempt_as_any_fault_does(database, tmp_path, monkeypatch):
    monkeypatch.setattr(transform_worker, "_AGAIN_S", 0.0)
    monkeypatch.setattr(transform_worker, "LOOKS_IN_VAIN", 3)

    class Restless(PostgresTransforms):
        """Says at every step that somebody has changed what it is about; what it loads shows nothing of that."""

        looks = 0

        async def load(self, tenant, id, *, known=()):
            self.looks += 1
            return await super().load(tenant, id, known=known)

        async def advance(self, job, to):  # noqa: ARG002
            raise FactsChanged("somebody")

    async def scenario(yard: Yard) -> None:
        restless = yard.transforms = Restless(yard.database)
        id = await yard.accept(face("ada"), face("bo"))
        for _ in range(3):
            await yard.lapse(id)
            assert await yard.worker().run_once()
        await yard.log.end_parked()
        ended = await yard.load(id)
        assert (ended.state, ended.events[-1].failure.code, ended.release) == (State.FAILED, "attempts_exhausted", None)
        assert restless.looks == 3 * (1 + 3)

    in_yard(database, tmp_path, scenario)


def test_a_cancel_before_the_release_ends_it_and_after_it_comes_too_late(database, tmp_path):
    async def scenario(yard: Yard) -> None:
        id = await yard.accept(face("ada"), face("bo"))
        assert await yard.log.request_cancel(yard.tenant, id, "key") is State.QUEUED
        await yard.worker().run_once()
        assert states(await yard.load(id)) == [State.QUEUED, State.CANCELLED]
        done = await yard.swap(face("ada"), face("bo"))
        assert await yard.log.request_cancel(yard.tenant, done.transform.id, "key") is State.RELEASED
        assert await yard.finish(done.transform.id) == done

    in_yard(database, tmp_path, scenario)


def test_a_cancel_in_the_midst_of_the_work_is_heard_before_the_next_step(database, tmp_path):
    async def scenario(yard: Yard) -> None:
        id = await yard.accept(face("ada"), face("bo"))

        class Cancelling(Composing):
            async def render(self, *asked):
                await yard.log.request_cancel(yard.tenant, id, "key")
                return await super().render(*asked)

        yard.renderer = Cancelling(change=lambda _, target: target)
        await yard.worker().run_once()
        done = await yard.load(id)
        assert states(done) == [State.QUEUED, State.SCREENING, State.TRANSFORMING, State.CANCELLED]
        assert Stage.OUTPUT not in {one.stage for one in done.decisions}

    in_yard(database, tmp_path, scenario)


@pytest.mark.parametrize(
    ("source", "code"),
    [
        (np.full((SIDE, SIDE, 3), 90, np.uint8), "no_face"),
        (jpeg(face("ada"))[:2000], "truncated"),
    ],
)
def test_an_unusable_source_fails_with_a_code_and_is_no_denial(database, tmp_path, source, code):
    async def scenario(yard: Yard) -> None:
        done = await yard.swap(source, face("bo"))
        failure = done.events[-1].failure
        assert (done.state, failure.code, failure.retryable) == (State.FAILED, code, False)
        assert done.events[-1].denial is None

    in_yard(database, tmp_path, scenario)


def test_nothing_of_an_inputs_metadata_is_in_what_is_released(database, tmp_path):
    async def scenario(yard: Yard) -> None:
        import io  # noqa: PLC0415

        from PIL import Image  # noqa: PLC0415

        exif = Image.Exif()
        exif[0x010E] = "PLANTED-DESCRIPTION"
        out = io.BytesIO()
        Image.fromarray(face("bo")).save(out, "JPEG", exif=exif, comment=b"PLANTED-COMMENT", quality=92)
        done = await yard.swap(face("ada"), out.getvalue())
        data = await yard.served(done)
        assert b"PLANTED" not in data

    in_yard(database, tmp_path, scenario)


def test_intake_and_quarantine_are_empty_once_a_transform_is_released(database, tmp_path):
    async def scenario(yard: Yard) -> None:
        await yard.swap(face("ada"), face("bo"))
        left = [file.relative_to(tmp_path / "media").parts[0] for file in (tmp_path / "media").rglob("*") if file.is_file()]
        assert left == ["released"]

    in_yard(database, tmp_path, scenario)


def test_the_label_is_drawn_unless_policy_and_options_leave_it_out(database, tmp_path):
    async def scenario(yard: Yard) -> None:
        labelled = await yard.swap(face("ada"), face("bo"), options=Options(format="png"))
        bare = await yard.swap(face("ada"), face("bo"), options=Options(format="png", label=False))
        assert (labelled.state, bare.state) == (State.RELEASED, State.RELEASED)
        assert labelled.part(PartKind.SIGNED).frame_digest != bare.part(PartKind.SIGNED).frame_digest

    in_yard(database, tmp_path, scenario, policy=replace(shipped_policy("marker"), label_visible=False))


def test_options_that_leave_out_the_label_do_not_pass_a_policy_that_asks_for_it(database, tmp_path):
    async def scenario(yard: Yard) -> None:
        done = await yard.swap(face("ada"), face("bo"), options=Options(label=False))
        assert (done.state, done.events[-1].failure.code, done.decisions, done.parts) == (State.FAILED, "policy_changed", (), ())

    in_yard(database, tmp_path, scenario)


def test_without_a_statement_of_consent_nothing_is_made(database, tmp_path):
    async def scenario(yard: Yard) -> None:
        done = await yard.swap(face("ada"), face("bo"), consent=None)
        assert (done.state, done.events[-1].failure.code, done.decisions, done.parts) == (State.FAILED, "policy_changed", (), ())

    in_yard(database, tmp_path, scenario)


def test_a_verdict_is_not_used_for_another_policy_than_the_one_it_was_made_under(database, tmp_path):
    async def scenario(yard: Yard) -> None:
        first = await yard.swap(face("ada"), face("bo"))
        yard.policy = await yard.publish(strict_marker(block_at=600_000))
        second = await yard.swap(face("ada"), face("bo"))
        assert {one.id for one in first.decisions}.isdisjoint(one.id for one in second.decisions)
        assert {one.policy.version for one in second.decisions} == {2}
        assert {one.reused_from for one in second.decisions if one.stage is Stage.SOURCE} == {
            one.id for one in first.decisions if one.stage is Stage.SOURCE
        }, "scores of the same bytes are used again, and decided on anew"

    in_yard(database, tmp_path, scenario)


def test_a_classifier_that_cannot_be_asked_stops_everything_and_nothing_is_released(database, tmp_path):
    async def scenario(yard: Yard) -> None:
        from moderation.errors import ClassifierUnavailable  # noqa: PLC0415

        screener = yard.screener()

        async def away(inputs):  # noqa: ARG001
            raise ClassifierUnavailable("away")

        screener._classifiers[0].classify = away  # type: ignore[method-assign]
        id = await yard.accept(face("ada"), face("bo"))
        await yard.worker(screener=screener).run_once()
        stopped = await yard.load(id)
        assert stopped.state is State.SCREENING
        assert {one.reasons[0].code for one in stopped.decisions} <= {ReasonCode.CLASSIFIER_UNAVAILABLE}
        assert (await yard.finish(id)).state is State.RELEASED, "with the classifier back it goes on by itself"

    in_yard(database, tmp_path, scenario)


def test_a_store_that_is_away_at_the_end_delays_the_release_and_does_not_double_it(database, tmp_path):
    async def scenario(yard: Yard) -> None:
        real = yard.area("released")

        class Away:
            name = "released"

            async def put(self, name, data):  # noqa: ARG002
                raise RecordUnavailable("full")

        id = await yard.accept(face("ada"), face("bo"))
        await yard.worker(released=Away()).run_once()
        waiting = await yard.load(id)
        assert (waiting.state, waiting.release is None) == (State.SCREENING_OUTPUT, False)
        done = await yard.finish(id)
        assert (done.state, done.release) == (State.RELEASED, waiting.release)
        assert await real.get(object_name(yard.tenant, id, done.release.signed_sha256)) is not None

    in_yard(database, tmp_path, scenario)


def test_many_transforms_at_once_each_end_once(database, tmp_path):
    async def scenario(yard: Yard) -> None:
        yard.renderer = unchanged()
        ids = [await yard.accept(face("ada"), face("bo")) for _ in range(8)]
        workers = [yard.worker() for _ in range(4)]

        async def work(worker) -> None:
            while await worker.run_once():
                pass

        await asyncio.gather(*map(work, workers))
        for id in ids:
            assert states(await yard.load(id)) == WAY

    in_yard(database, tmp_path, scenario)
