"""`facegate policy`: show what is in force, and bring a file into force, through the running service.

The service and not the command line checks a policy, since only it knows which classifiers run.
"""

from __future__ import annotations

import json
from pathlib import Path

import httpx
from rich.console import Console
from rich.table import Table

from deployments.client import Answer, Client, ServiceFault
from deployments.policy_file import read_policy_file, write_policy


def show(client: Client, name: str | None, *, as_json: bool, out: Console) -> None:
    """List the policies in force, or show one. Raises ServiceFault."""
    answer = _good(client.get(f"/v1/policies/{name}" if name else "/v1/policies"))
    if as_json or name:
        out.print_json(json.dumps(dict(answer.body)))
        return
    table = Table("policy", "version", "digest")
    for policy in answer.body["data"]:
        table.add_row(policy["name"], str(policy["version"]), policy["digest"])
    out.print(table)


def apply(client: Client, file: Path, *, out: Console) -> None:
    """Bring a policy file into force. Raises PolicyRefused with the place of the mistake, ServiceFault."""
    policy = read_policy_file(file)
    answer = _good(client.post("/v1/policies", content=write_policy(policy), media_type="application/yaml"))
    out.print(f"{answer.body['name']} version {answer.body['version']} is in force ({answer.body['digest']})", highlight=False)


def _good(answer: Answer) -> Answer:
    if answer.status not in (httpx.codes.OK, httpx.codes.CREATED):
        error = answer.body.get("error", {})
        raise ServiceFault(f"{error.get('code', answer.status)}: {error.get('message', 'refused')}")
    return answer
