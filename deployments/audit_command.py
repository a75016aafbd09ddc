"""`facegate audit`: what an outsider does with the log, for those who have the command line: fetch it, check it, look at one decision in it.

Checking is `moderation.adapters.verify_log`, the very file that outsiders get; nothing here believes the service.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console
from rich.markup import escape
from rich.progress import DownloadColumn, Progress, TextColumn, TransferSpeedColumn
from rich.table import Table

from deployments.client import Answer, Client, ServiceFault
from moderation.adapters import verify_log


def export(client: Client, file: Path, bounds: Mapping[str, str], *, progress: Console) -> int:
    """Save the log, or the part of it within `bounds` (`from`, `to`, `origin`); how many bytes it has. Raises ServiceFault."""
    columns = (TextColumn("fetching the log"), DownloadColumn(), TransferSpeedColumn())
    pieces = client.stream("/v1/audit/export", **bounds)  # a refusal leaves the file as it was
    with Progress(*columns, console=progress, transient=True) as bar, file.open("wb") as into:
        task = bar.add_task("")
        for piece in pieces:
            into.write(piece)
            bar.advance(task, len(piece))
        return into.tell()


def verify(
    file: Path,
    keys: Sequence[str],
    *,
    checkpoints: Sequence[Path] = (),
    receipts: Path | None = None,
    exported_at: datetime | None = None,
    report: Path | None = None,
    former: Sequence[Path] = (),
    needs_entries: bool = False,
) -> int:
    """Check an export or a proof; what is found is printed. `exported_at`: when the whole log was asked for; `former`: logs before it.

    Exit status 0 holds, 1 does not hold, 2 could not be checked, 3 holds as far as it is covered.
    """
    asked = [str(file), *[f"--key={key}" for key in keys], *[f"--checkpoint={path}" for path in checkpoints]]
    asked += [f"--receipts={receipts}"] * (receipts is not None) + [f"--report={report}"] * (report is not None)
    asked += [f"--former={path}" for path in former]
    asked += [] if exported_at is None else [f"--exported-at={exported_at.isoformat()}"]
    return verify_log.main([*asked, *["--needs-entries"] * needs_entries])


def keys_of(client: Client, out: Console) -> list[str]:
    """The keys that the service says it signs with. Good for a first look only, which is said. Raises ServiceFault."""
    out.print("The key is the service's own word: this shows that the log agrees with itself. Pin the key with --key to know whose it is.")
    return [str(key) for key in _good(client.get("/v1/audit/checkpoint")).body["keys"]]


def show(client: Client, decision: str, keys: Sequence[str], out: Console) -> int:
    """One decision with its place in the log. Exit status 0 proved, 1 the proof does not hold, 3 not sealed yet. Raises ServiceFault."""
    found = _good(client.get(f"/v1/decisions/{decision}")).body
    table = Table("what", "how", title=f"decision {decision}")
    for name in ("created_at", "stage", "verdict", "effective_verdict", "reference"):
        table.add_row(name, escape(str(found[name])))
    table.add_row("policy", escape(f"{found['policy']['name']} version {found['policy']['version']}"))
    table.add_row("media", f"{found['media']['type']} {found['media']['sha256']}")
    answer = client.get(f"/v1/decisions/{decision}/proof")
    if answer.status == httpx.codes.CONFLICT:
        table.add_row("in the log", "[yellow]not yet[/]: it is recorded and will be sealed within seconds")
        out.print(table)
        return 3
    proof = dict(_good(answer).body)
    table.add_row("leaf", f"{proof['index']} of {proof['size']}, {proof['leaf']}")
    status = _prove(decision, proof, keys, table)
    out.print(table)
    if proof["entry"] is not None:
        out.print_json(json.dumps(json.loads(proof["entry"])))
    return status


def _prove(decision: str, proof: dict[str, Any], keys: Sequence[str], table: Table) -> int:
    asked = proof | {"id": decision}  # of this one, whatever the answer says it is of
    try:
        proved = verify_log.check_proof(asked, [verify_log.read_key(key) for key in keys], ())
        table.add_row("in the log", f"[green]proved[/]: {escape(proved)}")
    except verify_log.Wrong as wrong:
        table.add_row("in the log", f"[red]the proof does not hold[/]: {escape(str(wrong))}")
        return 1
    except verify_log.Unusable as unusable:
        raise ServiceFault(str(unusable)) from unusable
    return 0


def _good(answer: Answer) -> Answer:
    if answer.status != httpx.codes.OK:
        error = answer.body.get("error", {})
        raise ServiceFault(f"{error.get('code', answer.status)}: {error.get('message', 'refused')}")
    return answer
