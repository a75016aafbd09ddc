"""`facegate transform`: one gated face swap through the running service, followed to its end.

Exit status: 0 when the result was released and saved, 3 when it was denied or is held, 4 when it could not be done.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from deployments.client import Answer, Client, ServiceFault

RELEASED: Final = 0
STOPPED: Final = 3
UNDONE: Final = 4
_STATUS: Final = {"released": RELEASED, "denied": STOPPED, "held": STOPPED}
_COLOUR: Final = {"released": "green", "held": "yellow", "denied": "red"}


def transform_files(
    client: Client,
    source: Path,
    target: Path,
    output: Path,
    options: Mapping[str, object],
    *,
    as_json: bool,
    out: Console,
    progress: Console,
) -> int:
    """Ask, wait, save, show; the exit status. Raises ServiceFault."""
    accepted = client.transform(_read(source), _read(target), options)
    ended = watch(client, accepted, progress)
    if ended.body.get("state") == "released":
        output.write_bytes(fetch(client, ended.body["release"]))
    if as_json:
        out.print_json(data=dict(ended.body))
    else:
        out.print(summary(ended))
        if ended.body.get("state") == "released":
            out.print(f"saved as {output}", highlight=False, soft_wrap=True)
    return _STATUS.get(str(ended.body.get("state")), UNDONE)


def watch(client: Client, accepted: Answer, progress: Console) -> Answer:
    """The transform at its end, its states shown on the way."""
    last = accepted
    with Progress(SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn(), console=progress, transient=True) as bar:
        task = bar.add_task("queued")
        for last in client.follow(accepted):
            bar.update(task, description=progress_line(last.body))
    return last


def progress_line(body: Mapping[str, Any]) -> str:
    """Where it is, and while something is made, how far."""
    state, far = str(body.get("state", "refused")), body.get("progress") or {}
    if state != "transforming":
        return state
    left = "" if far["eta_s"] is None else f", {far['eta_s']:.0f} s left"
    return f"{state} {far['done']} of {far['total']}{left}"


def fetch(client: Client, release: Mapping[str, Any]) -> bytes:
    """The released bytes, which must be those that the release names. Raises ServiceFault."""
    data = client.download(str(release["url"]))
    if hashlib.sha256(data).hexdigest() != release["sha256"]:
        raise ServiceFault("what was served is not what the release names")
    return data


def summary(ended: Answer) -> Table:
    """One row for each thing that explains the end."""
    body = ended.body
    state = str(body.get("state", "refused"))
    table = Table("what", "how", title=f"transform {body.get('id', '')}".strip())
    table.add_row("state", f"[{_COLOUR.get(state, 'magenta')}]{state}[/]")
    for stage, decision in (body.get("decisions") or {}).items():
        table.add_row(f"decision on the {stage}", escape(str(decision or "none")))
    if denial := body.get("denial"):
        table.add_row(f"denied at the {denial['stage']}", escape(reason_line(denial["reasons"])))
    for name in ("failure", "error"):
        if fault := body.get(name):
            table.add_row(name, escape(f"{fault['code']}: {fault['message']}"))
    if release := body.get("release"):
        lasts = "" if release["duration_s"] is None else f", {release['duration_s']:.2f} s"
        table.add_row("released file", f"{release['type']}, {release['width']} x {release['height']}{lasts}, {release['bytes']} bytes")
        skipped = f", {release['faces_skipped']} that were asked for are not" if release["faces_skipped"] else ""
        table.add_row("faces changed", f"{release['faces_changed']}{skipped}")
        table.add_row("SHA-256", release["sha256"])
    return table


def reason_line(reasons: list[Mapping[str, Any]]) -> str:
    """The strongest reason in one line."""
    first: Mapping[str, Any] = reasons[0] if reasons else {"code": "unknown"}
    score = f" {first['score']} >= {first['threshold']}" if first.get("score") else ""
    return f"{first.get('category') or first['code']}{score}"


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as fault:
        raise ServiceFault(f"{path} cannot be read: {fault.strerror}") from fault
