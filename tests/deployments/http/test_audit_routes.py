"""The log over HTTP: checkpoints, proofs and exports, each good enough for the verifier that outsiders have."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import httpx
import pytest

from deployments.http.errors import ApiError
from deployments.http.gateway import Bounds
from moderation.access import Scope
from moderation.adapters import verify_log
from tests.builders import OTHER_TENANT, TENANT, make_decision, make_id
from tests.http_kit import KEY_ID, SECRET, Service, bearer, key_text, make_key, make_service, status_and_code
from tests.log_kit import ORIGIN, Signer

KEY = Signer().text
COUNT = 20


@pytest.fixture
def service() -> Service:
    """Every other entry is another tenant's; the last one is not sealed yet."""
    service = make_service()
    for number in range(COUNT):
        decision = make_decision(id=make_id(number), tenant=TENANT if number % 2 == 0 else OTHER_TENANT)
        service.log.decisions.append(decision)
        service.sealed.entries.append((decision.tenant, decision.id, json.dumps({"id": str(decision.id), "kind": "decision"}).encode()))
    service.sealed.sealed = COUNT - 2
    return service


def path_of(service: Service, index: int) -> str:
    return f"/v1/decisions/dec_{service.sealed.entries[index][1].hex}/proof"


def verified(tmp_path: Path, data: bytes, *options: str) -> int:
    (tmp_path / "file").write_bytes(data)
    return verify_log.main([str(tmp_path / "file"), "--key", KEY, *options])


def test_the_checkpoint_is_the_signed_note_with_its_keys_and_can_be_kept_as_it_comes(service: Service, tmp_path: Path):
    answer = service.request("GET", "/v1/audit/checkpoint")
    document = answer.json()
    assert (document["origin"], document["size"], document["keys"]) == (ORIGIN, COUNT - 2, [KEY])
    (tmp_path / "kept").write_bytes(answer.content)
    export = service.request("GET", "/v1/audit/export")
    assert verified(tmp_path, export.content, "--checkpoint", str(tmp_path / "kept")) == 0


def test_a_proof_holds_and_says_which_entry_it_is_of(service: Service, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    answer = service.request("GET", path_of(service, 4))
    assert json.loads(answer.json()["entry"]) == {"id": str(make_id(4)), "kind": "decision"}
    assert verified(tmp_path, answer.content) == 0
    assert f"the entry is leaf 4 of {COUNT - 2} in {ORIGIN}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("entry", "{}", "the entry was changed"),
        ("id", "dec_" + "0" * 32, "the entry is not that of dec_0000"),
        ("index", 5, "leaf 5 is not in the tree"),
        ("leaf", "00" * 32, "the entry was changed"),
        ("entry", "\ud800", "neither an export"),
        ("size", 5, "the proof is for 5 leaves, its checkpoint for 18"),
        ("hashes", [], "the proof is too short"),
        ("checkpoint", "x", "not a signed note"),
    ],
)
def test_a_proof_that_was_changed_does_not_hold(
    service: Service, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, value: Any, said: str
):
    document = service.request("GET", path_of(service, 4)).json() | {name: value}
    assert verified(tmp_path, json.dumps(document).encode()) == 1
    assert said in capsys.readouterr().out


def test_what_is_recorded_and_not_sealed_is_said_so_and_when_to_ask_again(service: Service):
    answer = service.request("GET", path_of(service, COUNT - 2))
    assert status_and_code(answer) == (409, "not_sealed_yet")
    assert answer.headers["retry-after"] == "1"


def test_there_is_no_proof_of_what_is_not_there_or_another_tenants(service: Service):
    service.keys.keys["r" * 20] = make_key("r" * 20, scopes=frozenset({Scope.AUDIT_READ}), tenant=TENANT)
    for path in (path_of(service, 5), f"/v1/decisions/dec_{'0' * 32}/proof", "/v1/decisions/trf_1/proof"):
        assert status_and_code(service.request("GET", path, headers=bearer(key_text("r" * 20, SECRET)))) == (404, "not_found")


def test_a_key_that_may_read_all_gets_the_proof_of_any_tenants_decision(service: Service, tmp_path: Path):
    service.keys.keys["r" * 20] = make_key("r" * 20, scopes=frozenset({Scope.AUDIT_ALL}), tenant=TENANT)
    for index in (4, 5):
        answer = service.request("GET", path_of(service, index), headers=bearer(key_text("r" * 20, SECRET)))
        assert json.loads(answer.json()["entry"]) == {"id": str(make_id(index)), "kind": "decision"}
        assert verified(tmp_path, answer.content) == 0


def test_consistency_holds_between_two_checkpoints_that_were_kept(service: Service, tmp_path: Path):
    kept = []
    for size in (7, COUNT - 2):
        service.sealed.sealed = size
        (tmp_path / str(size)).write_bytes(service.request("GET", "/v1/audit/checkpoint").content)
        kept += ["--checkpoint", str(tmp_path / str(size))]
    answer = service.request("GET", f"/v1/audit/consistency?first=7&second={COUNT - 2}")
    assert verified(tmp_path, answer.content, *kept) == 0
    assert verified(tmp_path, answer.content, *kept[:2]) == 1
    assert verified(tmp_path, json.dumps(answer.json() | {"hashes": ["00" * 32]}).encode(), *kept) == 1


def test_sizes_that_cannot_be_are_refused(service: Service):
    for query, found in {
        "first=9&second=3": (422, "invalid_parameter"),
        "first=0&second=3": (422, "invalid_parameter"),
        "first=3": (422, "invalid_parameter"),
        "first=3&second=99": (409, "not_sealed_yet"),
        "first=3&second=4&origin=else.test": (404, "not_found"),
    }.items():
        assert status_and_code(service.request("GET", f"/v1/audit/consistency?{query}")) == found


@pytest.mark.parametrize("path", ["checkpoint", "export"])
def test_a_log_that_is_none_of_ours_is_not_found(service: Service, path: str):
    assert service.request("GET", f"/v1/audit/{path}?origin={ORIGIN}").status_code == 200
    assert status_and_code(service.request("GET", f"/v1/audit/{path}?origin=else.test")) == (404, "not_found")
    service.sealed.sealed = 0
    assert status_and_code(service.request("GET", f"/v1/audit/{path}")) == (409, "not_sealed_yet")


def test_an_export_has_the_entries_of_the_tenant_and_for_audit_all_those_of_all(service: Service, tmp_path: Path):
    for scope, tenant, shown in (
        (Scope.AUDIT_READ, TENANT, COUNT // 2 - 1),
        (Scope.AUDIT_READ, OTHER_TENANT, COUNT // 2 - 1),
        (Scope.AUDIT_ALL, TENANT, COUNT - 2),
    ):
        service.keys.keys["r" * 20] = make_key("r" * 20, scopes=frozenset({scope}), tenant=tenant)
        answer = service.request("GET", "/v1/audit/export", headers=bearer(key_text("r" * 20, SECRET)))
        assert answer.headers["content-type"] == "application/x-ndjson"
        assert answer.text.count('"entry":') == shown
        assert verified(tmp_path, answer.content) == 0


def test_an_export_begins_where_one_asks_and_a_place_that_is_none_is_refused(service: Service, tmp_path: Path):
    answer = service.request("GET", "/v1/audit/export?from=9")
    assert json.loads(answer.text.splitlines()[0])["start"] == 9
    assert verified(tmp_path, answer.content) == 0
    for query, found in {"from=-1": 422, "from=x": 422, "from=20261127": 409, "to=1e3": 422, "from=99": 409, "since=1": 422}.items():
        assert service.request("GET", f"/v1/audit/export?{query}").status_code == found, query
    assert service.request("GET", "/v1/audit/export?from=2026-11-27T00:00:00Z").status_code == 200


def test_more_exports_than_there_is_room_for_wait(service: Service):
    service.changes["bounds"] = Bounds(exports=0)
    answer = service.request("GET", "/v1/audit/export")
    assert status_and_code(answer) == (503, "overloaded")


def test_an_export_breaks_off_when_its_key_is_revoked_and_makes_room_for_the_next(service: Service):
    lines, ended = service.sealed.lines, []

    async def slowly(*asked: Any) -> AsyncGenerator[bytes, None]:
        try:
            async for piece in lines(*asked):
                yield piece[:300]
                service.keys.keys.clear()
                yield piece[300:]
        finally:
            ended.append(True)

    async def visit(client: httpx.AsyncClient, _app: object) -> int:
        service.sealed.lines = slowly  # type: ignore[method-assign, assignment]
        with pytest.raises(ApiError, match="unauthorized"):
            await client.get("/v1/audit/export", headers=bearer())
        assert ended == [True]
        service.sealed.lines = lines  # type: ignore[method-assign]
        service.keys.keys[KEY_ID] = make_key()
        return (await client.get("/v1/audit/export", headers=bearer())).status_code

    service.changes["bounds"] = Bounds(exports=1)
    assert service.run(visit) == 200
