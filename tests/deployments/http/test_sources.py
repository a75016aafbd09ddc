from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest

from deployments.http.source_routes import SourceView
from deployments.ids import from_wire
from moderation.access import key_text
from moderation.adapters.areas import object_name
from moderation.decision import Verdict
from moderation.errors import ClassifierUnavailable, MediaRefused, RecordUnavailable, Refusal
from moderation.media import MediaKind, Stage, sha256_of
from moderation.transform import Basis, ConsentStatement
from tests.builders import LOUD, OTHER_TENANT, TENANT, jpeg_bytes, make_facts, make_policy
from tests.fakes import ScriptedClassifier, ScriptedDecoder
from tests.http_kit import KEY_ID, SECRET, Service, bearer, error_of, make_key, make_service, status_and_code
from tests.transform_kit import HELD_SCORES, SOURCE, Hand, accepted, ask, make_review

FACE = jpeg_bytes(seed=11)
OPTIONS: dict[str, Any] = {"consent": {"basis": "licensed", "statement": "Model release.", "reference": "contract 9"}, "label": "Ada"}


def approve(service: Service, data: bytes = FACE, *, key: str | None = None, **options: Any) -> httpx.Response:
    files = {"media": ("x", data), "options": ("o", json.dumps({**OPTIONS, **options}).encode())}
    headers = bearer() if key is None else {**bearer(), "idempotency-key": key}
    return service.request("POST", "/v1/sources", headers=headers, files=files)


def approved(service: Service, data: bytes = FACE) -> str:
    """The id of an approved face."""
    answer = approve(service, data)
    assert answer.status_code == 201
    id: str = answer.json()["id"]
    return id


def listed(service: Service) -> list[str]:
    return [one["id"] for one in service.request("GET", "/v1/sources").json()["data"]]


def only_catalogue(service: Service) -> Service:
    service.policies.shelf[TENANT, "default"] = [make_policy(sources="catalogue")]
    return service


# --- approving -------------------------------------------------------------------------------------


def test_a_face_that_is_allowed_is_approved_with_its_consent(service: Service) -> None:
    answer = approve(service)
    assert answer.status_code == 201
    (decision,) = service.log.decisions
    assert (decision.stage, decision.media.sha256, decision.transform) == (Stage.SOURCE, sha256_of(FACE), None)
    assert answer.json() == {
        "id": f"src_{decision.id.hex}",
        "object": "source",
        "sha256": sha256_of(FACE),
        "type": "image/jpeg",
        "bytes": len(FACE),
        "decision_id": f"dec_{decision.id.hex}",
        "consent": OPTIONS["consent"],
        "label": "Ada",
        "created_at": "2026-09-01T12:00:00.123456Z",
    }
    assert list(answer.json()) == list(SourceView.model_fields)
    assert service.areas.files == {("catalogue", object_name(TENANT, decision.id, sha256_of(FACE))): FACE}
    (entry,) = service.sources.entries.values()
    assert (entry.actor, entry.consent.basis) == (KEY_ID, Basis.LICENSED)


@pytest.mark.parametrize("scores", [LOUD, HELD_SCORES])
def test_only_an_allow_is_an_approval(scores: dict[str, int]) -> None:
    service = make_service(classifiers=(ScriptedClassifier(scores=scores),))
    answer = approve(service)
    assert status_and_code(answer) == (422, "not_approved")
    assert error_of(answer)["decision_id"] == f"dec_{service.log.decisions[0].id.hex}"
    assert listed(service) == []
    assert not [name for name in service.areas.files if name[0] == "catalogue"]


def test_an_animation_is_no_face_for_the_catalogue() -> None:
    service = make_service(decoder=ScriptedDecoder(facts=make_facts(kind=MediaKind.ANIMATION, frames=2)))
    answer = approve(service)
    assert status_and_code(answer) == (422, "still_picture_required")
    assert (error_of(answer)["param"], error_of(answer)["decision_id"]) == ("media", f"dec_{service.log.decisions[0].id.hex}")
    assert not service.areas.files


@pytest.mark.parametrize(
    ("fault", "status", "code"),
    [(MediaRefused(Refusal.TRUNCATED), 422, "truncated"), (ClassifierUnavailable("x"), 503, "classifier_unavailable")],
)
def test_a_face_that_cannot_be_judged_is_not_approved_and_says_why(fault: Exception, status: int, code: str) -> None:
    service = make_service(decoder=ScriptedDecoder(fault=fault))
    answer = approve(service)
    assert status_and_code(answer) == (status, code)
    assert error_of(answer)["decision_id"] == f"dec_{service.log.decisions[0].id.hex}"
    assert listed(service) == []


@pytest.mark.parametrize(
    ("options", "status", "code", "param"),
    [
        ({"consent": None}, 422, "invalid_parameter", "consent"),
        ({"consent": {"basis": "because"}}, 422, "invalid_parameter", "consent.basis"),
        ({"label": ""}, 422, "invalid_parameter", "label"),
        ({"label": "a\nb"}, 422, "invalid_parameter", "label"),
        ({"colour": "red"}, 422, "invalid_parameter", "colour"),
        ({"policy": "other"}, 403, "policy_not_allowed", "policy"),
    ],
)
def test_impossible_options_are_refused(service: Service, options: dict[str, Any], status: int, code: str, param: str) -> None:
    answer = approve(service, **options)
    assert (status_and_code(answer), error_of(answer)["param"]) == ((status, code), param)
    assert service.log.decisions == []


def test_a_face_without_consent_or_without_a_file_is_refused(service: Service) -> None:
    alone = service.request("POST", "/v1/sources", files={"media": ("x", FACE)})
    assert status_and_code(alone) == (422, "invalid_parameter")
    without = service.request("POST", "/v1/sources", files={"options": ("o", json.dumps(OPTIONS).encode())})
    assert status_and_code(without) == (400, "bad_request")
    assert status_and_code(service.request("POST", "/v1/sources", json=OPTIONS)) == (415, "unsupported_media_type")


def test_the_same_bytes_again_give_the_entry_that_there_is(service: Service) -> None:
    first = approved(service)
    assert approved(service) == first
    assert listed(service) == [first]
    assert len(service.areas.files) == 1


def test_the_same_request_again_is_screened_once(service: Service) -> None:
    first, second = approve(service, key="k"), approve(service, key="k")
    assert first.content == second.content
    assert second.headers["idempotent-replayed"] == "true"
    assert len(service.log.decisions) == 1
    assert status_and_code(approve(service, key="k", label="Eve")) == (422, "idempotency_mismatch")
    assert status_and_code(approve(service, SOURCE, key="k")) == (422, "idempotency_mismatch")


def test_a_retry_after_the_decision_was_committed_goes_on_from_there(service: Service) -> None:
    service.sources.fault = RecordUnavailable("x")
    assert status_and_code(approve(service, key="k")) == (503, "record_unavailable")
    service.sources.fault = None
    answer = approve(service, key="k")
    assert answer.status_code == 201
    assert len(service.log.decisions) == 1
    assert listed(service) == [answer.json()["id"]]


def test_a_face_that_is_held_is_kept_and_approved_once_a_person_allowed_it() -> None:
    service = make_service(classifiers=(ScriptedClassifier(scores=HELD_SCORES),))
    held = approve(service, key="k")
    id = error_of(held)["decision_id"]
    assert service.request("GET", f"/v1/reviews/{id}/media").status_code == 200
    assert status_and_code(approve(service, key="k")) == (422, "not_approved")
    body = {"decision_id": id, "verdict": "allow", "reason": "A passport photograph."}
    assert service.request("POST", "/v1/reviews", json=body).status_code == 201
    assert approve(service, key="k").json()["decision_id"] == id
    assert len(listed(service)) == 1


def test_a_store_in_trouble_approves_nothing(service: Service) -> None:
    service.areas.fault = RecordUnavailable("x")
    assert status_and_code(approve(service)) == (503, "record_unavailable")
    assert listed(service) == []


# --- the list --------------------------------------------------------------------------------------


def test_faces_are_listed_newest_first_in_pages(service: Service) -> None:
    ids = [approved(service, jpeg_bytes(seed=20 + number)) for number in range(3)]
    first = service.request("GET", "/v1/sources?limit=2").json()
    second = service.request("GET", f"/v1/sources?limit=2&cursor={first['next_cursor']}").json()
    assert [one["id"] for one in first["data"] + second["data"]] == ids[::-1]
    assert second["next_cursor"] is None


def test_one_face_can_be_read(service: Service) -> None:
    made = approve(service).json()
    assert service.request("GET", f"/v1/sources/{made['id']}").json() == made


@pytest.mark.parametrize("id", ["src_" + "0" * 32, "src_1", "dec_" + "0" * 32])
def test_what_is_no_face_is_404(service: Service, id: str) -> None:
    for method in ("GET", "DELETE"):
        assert status_and_code(service.request(method, f"/v1/sources/{id}")) == (404, "not_found")


@pytest.mark.parametrize("query", ["?cursor=dec_" + "0" * 32, "?limit=0", "?x=1"])
def test_a_page_that_cannot_be_is_422(service: Service, query: str) -> None:
    assert status_and_code(service.request("GET", f"/v1/sources{query}")) == (422, "invalid_parameter")


def test_another_tenants_catalogue_is_its_own(service: Service) -> None:
    id = approved(service)
    service.keys.keys["o" * 20] = make_key("o" * 20, tenant=OTHER_TENANT)
    other = bearer(key_text("o" * 20, SECRET))
    assert service.request("GET", "/v1/sources", headers=other).json()["data"] == []
    for method in ("GET", "DELETE"):
        assert status_and_code(service.request(method, f"/v1/sources/{id}", headers=other)) == (404, "not_found")
    assert listed(service) == [id]


def test_a_removed_face_is_gone_with_its_bytes(service: Service) -> None:
    id = approved(service)
    answer = service.request("DELETE", f"/v1/sources/{id}")
    assert (answer.status_code, answer.content) == (204, b"")
    assert listed(service) == []
    assert service.areas.files == {}
    assert status_and_code(service.request("DELETE", f"/v1/sources/{id}")) == (404, "not_found")


def test_a_face_that_a_person_blocks_is_not_listed_and_can_still_be_removed_with_its_bytes(service: Service) -> None:
    id = approved(service)
    asyncio.run(service.reviews.add(make_review(service.log.decisions[0].id, Verdict.BLOCK)))
    assert (listed(service), len(service.areas.files)) == ([], 1)
    assert service.request("DELETE", f"/v1/sources/{id}").status_code == 204
    assert service.areas.files == {}


# --- what a transform may take ---------------------------------------------------------------------


def test_a_policy_of_the_catalogue_takes_no_other_face(service: Service) -> None:
    only_catalogue(service)
    answer = ask(service)
    assert (status_and_code(answer), error_of(answer)["param"]) == ((422, "source_not_approved"), "source")
    assert service.queue.jobs == {}


def test_an_approved_face_may_be_sent_or_named_and_brings_its_consent(service: Service) -> None:
    id = approved(service)
    only_catalogue(service)
    for parts in ({"source": FACE}, {"source": None, "source_id": id}):
        hand = Hand(service=service, id=accepted(service, **parts, consent=None))
        transform = asyncio.run(hand.load()).transform
        assert transform.catalogue_source == from_wire("src", id)
        assert transform.source.sha256 == sha256_of(FACE)
        assert transform.consent == ConsentStatement(basis=Basis.LICENSED, statement="Model release.", reference="contract 9")
        assert service.areas.files["intake", object_name(TENANT, hand.id, sha256_of(FACE))] == FACE


def test_one_bit_makes_another_face(service: Service) -> None:
    approved(service)
    only_catalogue(service)
    assert status_and_code(ask(service, source=FACE + b"\0")) == (422, "source_not_approved")


def test_a_named_face_may_be_used_under_any_policy(service: Service) -> None:
    id = approved(service)
    hand = Hand(service=service, id=accepted(service, source=None, source_id=id, consent={"basis": "self"}))
    assert asyncio.run(hand.load()).transform.consent == ConsentStatement(basis=Basis.SELF)


def test_a_face_is_either_sent_or_named(service: Service) -> None:
    id = approved(service)
    assert status_and_code(ask(service, source_id=id)) == (400, "bad_request")
    assert status_and_code(ask(service, source=None)) == (400, "bad_request")


def test_what_is_not_in_the_catalogue_cannot_be_named(service: Service) -> None:
    answer = ask(service, source=None, source_id="src_" + "0" * 32)
    assert (status_and_code(answer), error_of(answer)["param"]) == ((422, "source_not_approved"), "source_id")


@pytest.mark.parametrize("how", ["removed", "blocked", "another tenant's"])
def test_a_face_that_is_not_approved_any_more_is_not_taken(service: Service, how: str) -> None:
    id = approved(service)
    only_catalogue(service)
    if how == "removed":
        service.request("DELETE", f"/v1/sources/{id}")
    elif how == "blocked":
        decision = service.log.decisions[0]
        asyncio.run(service.reviews.add(make_review(decision.id, Verdict.BLOCK)))
    else:
        service.policies.shelf[OTHER_TENANT, "default"] = [make_policy(sources="catalogue")]
        service.keys.keys[KEY_ID] = make_key(tenant=OTHER_TENANT)
    for parts in ({"source": FACE}, {"source": None, "source_id": id}):
        assert status_and_code(ask(service, **parts)) == (422, "source_not_approved")
    assert not [job for job in service.queue.jobs.values() if job.kind == "transform"]


def test_altered_bytes_of_the_catalogue_are_not_taken(service: Service) -> None:
    id = approved(service)
    (name,) = service.areas.files
    service.areas.files[name] = SOURCE
    assert status_and_code(ask(service, source=None, source_id=id)) == (503, "record_unavailable")
    assert service.alarms == ["media_altered"]
    del service.areas.files[name]
    assert status_and_code(ask(service, source=None, source_id=id)) == (503, "record_unavailable")
    assert service.alarms[1:] == ["catalogue_bytes_gone"]
    assert service.queue.jobs == {}


def test_naming_a_face_is_idempotent_by_its_bytes(service: Service) -> None:
    id = approved(service)
    first = ask(service, key="k", source=None, source_id=id)
    assert ask(service, key="k", source=None, source_id=id).json()["id"] == first.json()["id"]
    assert status_and_code(ask(service, key="k", source=FACE)) == (422, "idempotency_mismatch")
