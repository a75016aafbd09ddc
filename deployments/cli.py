"""`facegate`: the command line. Each command reads settings, calls one function, and turns its errors into one line.

Modules are imported inside the commands, so that `facegate screen` does not wait for what only `serve` needs.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    name="facegate",
    help="Content moderation around a face-swap pipeline, with a record that outsiders can check.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Url = Annotated[str, typer.Option("--url", help="Where the service runs; by default this machine.")]
KeyText = Annotated[str, typer.Option("--key", help="An API key; by default the one in the data directory.", show_default=False)]


def main() -> None:
    """Run the command line; errors that a person can mend are one line and exit status 1."""
    from moderation.errors import ModerationError  # noqa: PLC0415  # see the module docstring

    from deployments.client import ServiceFault  # noqa: PLC0415
    from deployments.settings import SettingsRefused  # noqa: PLC0415

    try:
        app()
    except (ModerationError, ServiceFault, SettingsRefused) as fault:
        sys.stderr.write(f"facegate: {fault}\n")
        sys.exit(1)


@app.command()
def serve() -> None:
    """Run the whole service on this machine; Ctrl-C stops all of it."""
    from deployments.serve_command import serve as run  # noqa: PLC0415
    from deployments.settings import load_settings  # noqa: PLC0415

    raise typer.Exit(run(load_settings()))


@app.command()
def screen(
    paths: Annotated[list[Path], typer.Argument(help="Files and folders.")],
    policy: Annotated[str, typer.Option(help="One of the key's policies.", show_default=False)] = "",
    url: Url = "",
    key: KeyText = "",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per file.")] = False,
) -> None:
    """Screen files with the running service. Exit status: 0 all allowed, 3 something stopped, 4 something not judged."""
    from rich.console import Console  # noqa: PLC0415

    from deployments.client import Client  # noqa: PLC0415
    from deployments.screen_command import screen_files  # noqa: PLC0415

    with Client(*_service(url, key)) as client:
        status = screen_files(client, paths, policy=policy or None, as_json=as_json, out=Console(), progress=Console(stderr=True))
    raise typer.Exit(status)


def _service(url: str, key: str) -> tuple[str, str]:
    """Where the service is and with which key to ask, from the options or from the settings."""
    from deployments.client import read_key  # noqa: PLC0415
    from deployments.settings import load_settings  # noqa: PLC0415

    settings = load_settings()
    return url or f"http://127.0.0.1:{settings.port}", key or read_key(settings.home / "local.key")
