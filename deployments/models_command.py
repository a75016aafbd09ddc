"""`facegate models`: what is known, fetch one, check what is here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from deployments.settings import SettingsRefused
from moderation.adapters.classifiers import registry
from moderation.adapters.classifiers.registry import State

_COLOUR: Final = {State.HERE: "green", State.ABSENT: "dim", State.ALTERED: "red", State.UNEXPECTED: "red"}


def show(models_dir: Path, out: Console) -> None:
    """Every known model, its licence, and whether it is here."""
    table = Table("model", "what for", "licence", "pinned", "here")
    for status in registry.list_models(models_dir):
        model = status.model
        purpose = f"{model.purpose}; {model.note}" if model.note else model.purpose
        state = f"[{_COLOUR[status.state]}]{status.state}[/]"
        table.add_row(escape(model.name), escape(purpose), escape(model.licence), "yes" if model.pinned else "in part", state)
    out.print(table)


def pull(models_dir: Path, name: str, *, revision: str | None, pins: Sequence[str], out: Console) -> None:
    """Fetch a model, each file checked against its pin. Raises ModelUnusable, SettingsRefused."""
    pulled = registry.pull(
        name,
        models_dir=models_dir,
        revision=revision,
        sha256=_pins(pins),
        tell=lambda line: out.print(line, highlight=False, markup=False, soft_wrap=True),
    )
    out.print(f"{'in place' if pulled.fresh else 'was here already'}: {pulled.folder}", highlight=False, soft_wrap=True)


def verify(models_dir: Path, out: Console) -> int:
    """Hash everything again; exit status 1 if a file is not what was pinned."""
    checks = registry.verify(models_dir)
    table = Table("model", "file", "state")
    for check in checks:
        table.add_row(escape(check.model), escape(check.file), f"[{_COLOUR[check.state]}]{check.state}[/]")
    out.print(table if checks else "no models are here")
    return 0 if all(check.state is State.HERE for check in checks) else 1


def _pins(texts: Sequence[str]) -> dict[str, str]:
    pins = {}
    for text in texts:
        file, sign, digest = text.partition("=")
        if not (file and sign and digest):
            raise SettingsRefused(f"--sha256 {text!r}: write FILE=HEX")
        pins[file] = digest
    return pins
