"""`facegate`: the command line. Each command reads settings, calls one function, and turns its errors into one line.

Modules are imported inside the commands, so that `facegate screen` does not wait for what only `serve` needs.
"""

from __future__ import annotations

import sys
from datetime import UTC, datetime
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
    from deployments.client import ServiceFault
    from deployments.embedded_postgres import EmbeddedPostgresError
    from deployments.settings import SettingsRefused
    from moderation.errors import ModerationError

    try:
        app()
    except (ModerationError, ServiceFault, SettingsRefused, EmbeddedPostgresError) as fault:
        sys.stderr.write(f"facegate: {fault}\n")
        sys.exit(1)


@app.command()
def serve() -> None:
    """Run the whole service on this machine; Ctrl-C stops all of it."""
    from deployments.serve_command import serve as run
    from deployments.settings import load_settings

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
    from rich.console import Console

    from deployments.client import Client
    from deployments.screen_command import screen_files

    with Client(*_service(url, key)) as client:
        status = screen_files(client, paths, policy=policy or None, as_json=as_json, out=Console(), progress=Console(stderr=True))
    raise typer.Exit(status)


@app.command()
def transform(
    source: Annotated[Path, typer.Argument(help="The picture with the face to bring in.")],
    target: Annotated[Path, typer.Argument(help="The picture that receives it.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Where to save the released result.")],
    consent: Annotated[str, typer.Option(help="On what grounds the source's face may be used: self, subject_consent or licensed.")],
    statement: Annotated[str, typer.Option(help="What was agreed, in words.", show_default=False)] = "",
    faces: Annotated[str, typer.Option(help="largest, all, or a number counted from 0 from the left.")] = "largest",
    swapper: Annotated[str, typer.Option(help="auto, classical or neural.")] = "auto",
    language: Annotated[str, typer.Option(help="Of the visible label: en, ko or both.")] = "en",
    policy: Annotated[str, typer.Option(help="One of the key's policies.", show_default=False)] = "",
    reference: Annotated[str, typer.Option(help="Your own name for it.", show_default=False)] = "",
    url: Url = "",
    key: KeyText = "",
    as_json: Annotated[bool, typer.Option("--json", help="The transform as the service says it.")] = False,
) -> None:
    """A gated face swap with the running service. Exit status: 0 released, 3 denied or held, 4 not done."""
    from rich.console import Console

    from deployments.client import Client
    from deployments.transform_command import transform_files

    options: dict[str, object] = {
        "consent": {"basis": consent, "statement": statement or None},
        "faces": {"index": int(faces)} if faces.isdigit() else faces,
        "swapper": swapper,
        "label": {"language": language},
    }
    options |= {name: value for name, value in (("policy", policy), ("reference", reference)) if value}
    with Client(*_service(url, key)) as client:
        status = transform_files(client, source, target, output, options, as_json=as_json, out=Console(), progress=Console(stderr=True))
    raise typer.Exit(status)


def _service(url: str, key: str) -> tuple[str, str]:
    """Where the service is and with which key to ask, from the options or from the settings."""
    from deployments.client import read_key
    from deployments.settings import load_settings

    return url or _local_url(), key or read_key(load_settings().home / "local.key")


def _local_url() -> str:
    from deployments.settings import load_settings

    return f"http://127.0.0.1:{load_settings().port}"


@app.command()
def report(
    name: Annotated[str, typer.Argument(help="Which report; by default they are listed.", show_default=False)] = "",
    since: Annotated[str, typer.Option("--from", help="A day or a time; by default 30 days before --to.", show_default=False)] = "",
    until: Annotated[str, typer.Option("--to", help="A day or a time, exclusive; by default now.", show_default=False)] = "",
    format: Annotated[str, typer.Option(help="table, json, csv, ndjson or parquet.")] = "table",
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Where to save a file; by default standard output.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write one page with charts of the period here.")] = None,
    parameter: Annotated[list[str], typer.Option("--set", help="NAME=VALUE of any other parameter; several times.")] = [],  # noqa: B006
    tenant: Annotated[str, typer.Option(help="One tenant, for keys with audit.all.", show_default=False)] = "",
    url: Url = "",
    key: KeyText = "",
) -> None:
    """Ask the record. Without a name, the reports and their parameters."""
    from rich.console import Console

    from deployments import report_command
    from deployments.client import Client

    asked = _asked(since, until, parameter) | ({"tenant": tenant} if tenant else {})
    if format not in report_command.FORMATS:
        raise typer.BadParameter(f"one of {', '.join(report_command.FORMATS)}", param_hint="--format")
    with Client(*_service(url, key)) as client:
        if html is not None:
            report_command.save_page(client, name or None, asked, to=html, out=Console())
        elif not name:
            report_command.show_catalogue(client, Console())
        elif format == "table":
            report_command.show(client, name, asked, out=Console(), progress=Console(stderr=True))
        else:
            report_command.save(client, name, asked, format=format, to=output)


def _asked(since: str, until: str, parameters: list[str]) -> dict[str, str]:
    """The parameters of a report as they are sent."""
    from deployments.report_command import moment

    given = dict(parameter.partition("=")[::2] for parameter in parameters)
    return given | {name: moment(text) for name, text in (("from", since), ("to", until)) if text}


database = typer.Typer(no_args_is_help=True, help="The schema of the record.")
app.add_typer(database, name="db")


@database.command("upgrade")
def db_upgrade() -> None:
    """Bring the schema to the newest step and make partitions ahead. Needs the owner's URL, or the embedded Postgres."""
    from deployments.databases import databases, upgrade_schema
    from deployments.settings import load_settings

    with databases(load_settings()) as urls:
        state = upgrade_schema(urls.owner)
    typer.echo(f"the schema is at {state.current}")


@database.command("status")
def db_status() -> None:
    """Say where the schema is. Exit status 1 when it is behind."""
    from deployments.databases import databases, schema_state
    from deployments.settings import load_settings

    with databases(load_settings()) as urls:
        state = schema_state(urls.runtime)
    typer.echo(f"the schema is at {state.current or 'nothing'}; this code wants {state.newest}")
    raise typer.Exit(0 if state.is_current else 1)


sealing = typer.Typer(invoke_without_command=True, help="The signed log.")
app.add_typer(sealing, name="seal")


@sealing.callback()
def seal(context: typer.Context) -> None:
    """Seal the log until stopped: one process, with its own database role and the signing key. `facegate serve` starts it by itself."""
    import logging

    from deployments import sealer
    from deployments.settings import load_settings

    if context.invoked_subcommand is None:
        logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
        sealer.seal(load_settings())


@sealing.command("rotate")
def seal_rotate() -> None:
    """Have a new signing key take over by a checkpoint under both, and print its public half for those who verify."""
    from deployments import sealer
    from deployments.settings import load_settings

    typer.echo(sealer.rotate(load_settings()))


audit = typer.Typer(no_args_is_help=True, help="The log as outsiders check it.")
app.add_typer(audit, name="audit")
ApiKey = Annotated[str, typer.Option("--api-key", help="An API key; by default the one in the data directory.", show_default=False)]
VerifierKeys = Annotated[
    list[str],
    typer.Option("--key", help="The log's public key that you trust: name+id+key, or a file with it; several times.", show_default=False),
]


@audit.command("verify")
def audit_verify(
    export: Annotated[Path | None, typer.Argument(help="An export or a proof; by default the whole log of the running service.")] = None,
    key: VerifierKeys = [],  # noqa: B006  # typer copies it
    checkpoint: Annotated[list[Path], typer.Option(help="A checkpoint that you kept; several times.", show_default=False)] = [],  # noqa: B006
    receipts: Annotated[Path | None, typer.Option(help="Receipts that you kept.", show_default=False)] = None,
    exported_at: Annotated[
        datetime | None,
        typer.Option(
            help="When you asked for this export (UTC): what was promised by then must be in it.",
            formats=["%Y-%m-%dT%H:%M:%SZ"],
            show_default=False,
        ),
    ] = None,
    report: Annotated[Path | None, typer.Option(help="A report of verdicts whose counts are compared.", show_default=False)] = None,
    former: Annotated[
        list[Path],
        typer.Option(help="After a restart: the export of the log before it (`audit export --origin`); several times.", show_default=False),
    ] = [],  # noqa: B006
    needs_entries: Annotated[bool, typer.Option("--needs-entries", help="A leaf without its entry is a fault.")] = False,
    url: Url = "",
    api_key: ApiKey = "",
) -> None:
    """Check the log. Exit status: 0 it holds, 1 it does not, 2 it could not be checked, 3 it holds and does not cover all that you kept."""
    import tempfile

    from rich.console import Console

    from deployments import audit_command
    from deployments.client import Client

    with tempfile.TemporaryDirectory(prefix="facegate-") as folder:
        file = export or Path(folder) / "log.ndjson"
        asked_at = datetime.now(UTC) if export is None else exported_at and exported_at.replace(tzinfo=UTC)
        if export is None or not key:
            with Client(*_service(url, api_key)) as client:
                if export is None:
                    audit_command.export(client, file, {}, progress=Console(stderr=True))
                key = key or audit_command.keys_of(client, Console(stderr=True))
        status = audit_command.verify(
            file,
            key,
            checkpoints=checkpoint,
            receipts=receipts,
            exported_at=asked_at,
            report=report,
            former=former,
            needs_entries=needs_entries,
        )
    raise typer.Exit(status)


@audit.command("show")
def audit_show(
    decision: Annotated[str, typer.Argument(help="dec_…")],
    key: VerifierKeys = [],  # noqa: B006
    url: Url = "",
    api_key: ApiKey = "",
) -> None:
    """Show a decision, its entry, and the proof that it is in the log. Exit status: 0 proved, 1 the proof does not hold, 3 not sealed yet."""
    from rich.console import Console

    from deployments import audit_command
    from deployments.client import Client

    with Client(*_service(url, api_key)) as client:
        keys = key or audit_command.keys_of(client, Console(stderr=True))
        status = audit_command.show(client, decision, keys, Console())
    raise typer.Exit(status)


@audit.command("export")
def audit_export(
    output: Annotated[Path, typer.Option("--output", "-o", help="Where to save it.")],
    since: Annotated[str, typer.Option("--from", help="The first leaf, or a moment (RFC 3339).", show_default=False)] = "",
    until: Annotated[str, typer.Option("--to", help="The leaf or moment before which it ends.", show_default=False)] = "",
    origin: Annotated[str, typer.Option(help="A log before this one.", show_default=False)] = "",
    url: Url = "",
    api_key: ApiKey = "",
) -> None:
    """Save the log as a file for whoever verifies it."""
    from rich.console import Console

    from deployments import audit_command
    from deployments.client import Client

    bounds = {name: value for name, value in (("from", since), ("to", until), ("origin", origin)) if value}
    with Client(*_service(url, api_key)) as client:
        size = audit_command.export(client, output, bounds, progress=Console(stderr=True))
    typer.echo(f"saved {size:,} bytes as {output}")


@audit.command("restart")
def audit_restart(reason: Annotated[str, typer.Option(help="What happened, for those who verify.")]) -> None:
    """Open the log again under another origin, after a restore of the database that its last checkpoint contradicts."""
    from deployments import sealer
    from deployments.settings import load_settings

    typer.echo(f"the log goes on as {sealer.restart(load_settings(), reason)}; tell those who verify, and why")


@database.command("drop-months")
def db_drop_months(before: Annotated[str, typer.Option(help="YYYY-MM: the first month that stays.")]) -> None:
    """Drop old months of the record, but for what is under hold or still named. Stops the service while it runs; needs the owner's URL."""
    from deployments.databases import databases, drop_months_before
    from deployments.settings import load_settings

    with databases(load_settings()) as urls:
        dropped = drop_months_before(urls.owner, before)
    for one in dropped:
        typer.echo(f"{one.month:%Y-%m} {one.relation} of tenant {one.tenant}: {one.dropped} rows dropped, {one.kept} kept")
    typer.echo(f"{sum(one.dropped for one in dropped)} rows dropped")


keys = typer.Typer(no_args_is_help=True, help="API keys.")
app.add_typer(keys, name="keys")
Tenant = Annotated[str, typer.Option(help="The tenant by name; made when it is new.")]
AsJson = Annotated[bool, typer.Option("--json", help="For programs.")]


@keys.command("create")
def keys_create(
    tenant: Tenant = "local",
    scope: Annotated[list[str], typer.Option(help="May be given several times.")] = ["screen"],  # noqa: B006  # typer copies it
    policy: Annotated[list[str], typer.Option(help="Policies it may name; the first is its default.")] = ["default"],  # noqa: B006
    subject: Annotated[str, typer.Option(help="The reviewer it is bound to.", show_default=False)] = "",
    days: Annotated[int, typer.Option(help="Expires after so many days; 0: never.")] = 0,
    sigv4: Annotated[bool, typer.Option("--sigv4", help="Also a pair for AWS clients.")] = False,
    as_json: AsJson = False,
) -> None:
    """Make a key; its secret is shown this once."""
    from rich.console import Console

    from deployments import keys_command
    from deployments.settings import load_settings

    created = keys_command.create(
        load_settings(), tenant=tenant, scopes=scope, policies=policy, subject=subject or None, days=days or None, sigv4=sigv4
    )
    keys_command.show_made(created, Console(), as_json=as_json)


@keys.command("list")
def keys_list(tenant: Tenant = "local", as_json: AsJson = False) -> None:
    """List a tenant's keys, without secrets."""
    from rich.console import Console

    from deployments import keys_command
    from deployments.settings import load_settings

    keys_command.show_list(keys_command.list_keys(load_settings(), tenant=tenant), Console(), as_json=as_json)


@keys.command("revoke")
def keys_revoke(
    key_id: Annotated[str, typer.Argument(help="The id between fg_ and the next underscore.")], tenant: Tenant = "local"
) -> None:
    """Revoke a key; it stops within a second. Exit status 1 if there is no such live key."""
    from deployments import keys_command
    from deployments.settings import load_settings

    done = keys_command.revoke(load_settings(), tenant=tenant, key_id=key_id)
    typer.echo("revoked" if done else f"tenant {tenant} has no live key {key_id}", err=not done)
    raise typer.Exit(0 if done else 1)


@keys.command("webhook-secret")
def keys_webhook_secret(tenant: Tenant = "local") -> None:
    """Print the secret with which a tenant's receivers check callbacks (Standard Webhooks)."""
    from deployments import keys_command
    from deployments.settings import load_settings

    typer.echo(keys_command.secret_of_webhooks(load_settings(), tenant=tenant))


policy = typer.Typer(no_args_is_help=True, help="Policies in force.")
app.add_typer(policy, name="policy")


@policy.command("show")
def policy_show(
    name: Annotated[str, typer.Argument(help="One policy; by default all are listed.", show_default=False)] = "",
    url: Url = "",
    key: KeyText = "",
    as_json: AsJson = False,
) -> None:
    """Show the policies in force, or one of them."""
    from rich.console import Console

    from deployments import policy_command
    from deployments.client import Client

    with Client(*_service(url, key)) as client:
        policy_command.show(client, name or None, as_json=as_json, out=Console())


@policy.command("apply")
def policy_apply(file: Annotated[Path, typer.Argument(help="A policy file.")], url: Url = "", key: KeyText = "") -> None:
    """Bring a policy file into force as the next version. Needs a key with scope admin."""
    from rich.console import Console

    from deployments import policy_command
    from deployments.client import Client

    with Client(*_service(url, key)) as client:
        policy_command.apply(client, file, out=Console())


@policy.command("replay")
def policy_replay(
    file: Annotated[Path, typer.Argument(help="A policy file; it comes into force nowhere.")],
    since: Annotated[str, typer.Option("--from", help="A day or a time; by default 30 days before --to.", show_default=False)] = "",
    until: Annotated[str, typer.Option("--to", help="A day or a time, exclusive; by default now.", show_default=False)] = "",
    url: Url = "",
    key: KeyText = "",
) -> None:
    """What a policy file would have decided on the stored scores, without inference. Needs a key with scope audit.read."""
    from rich.console import Console

    from deployments import report_command
    from deployments.client import Client

    with Client(*_service(url, key)) as client:
        report_command.replay(client, file, _asked(since, until, []), out=Console(), progress=Console(stderr=True))


@app.command()
def demo(
    folder: Annotated[Path, typer.Option(help="Where the pictures are saved.")] = Path("facegate-demo"),
    url: Url = "",
    key: KeyText = "",
) -> None:
    """Moderate a few pictures, swap a face through the gate, report on both; starts a service for the moment if none runs here."""
    from rich.console import Console

    from deployments import demo as demonstration
    from deployments import demo_transform, report_command
    from deployments.client import Client
    from deployments.trial_service import is_ready

    out = Console()
    found = _service(url, key) if url or key or is_ready(_local_url()) else None
    with demonstration.service_for_demo(found, out=out) as (where, text), Client(where, text) as client:
        demonstration.run(client, folder, out)
        demo_transform.run(client, folder, out)
        report_command.show(client, "verdicts", {}, out=out, progress=out)
        report_command.save_page(client, None, {}, to=folder / "report.html", out=out)


@app.command()
def doctor() -> None:
    """Say what is missing or wrong on this machine. Exit status 1 if something is."""
    from rich.console import Console

    from deployments.doctor import show
    from deployments.settings import load_settings

    raise typer.Exit(show(load_settings(), Console()))


models = typer.Typer(no_args_is_help=True, help="Model files.")
app.add_typer(models, name="models")


@models.command("list")
def models_list() -> None:
    """List the known models, their licences, and which are here."""
    from rich.console import Console

    from deployments.models_command import show
    from deployments.settings import load_settings

    show(load_settings().models, Console())


@models.command("pull")
def models_pull(
    name: Annotated[str, typer.Argument(help="A known model, or a hub id.")],
    revision: Annotated[str, typer.Option(help="A commit of 40 hex digits.", show_default=False)] = "",
    sha256: Annotated[list[str], typer.Option(help="FILE=HEX, where no pin is known; several times.", show_default=False)] = [],  # noqa: B006
) -> None:
    """Fetch a model; no file gets its name before its SHA-256 matched."""
    from rich.console import Console

    from deployments.models_command import pull
    from deployments.settings import load_settings

    pull(load_settings().models, name, revision=revision or None, pins=sha256, out=Console())


@models.command("verify")
def models_verify() -> None:
    """Hash every model file again. Exit status 1 if one is not what was pinned."""
    from rich.console import Console

    from deployments.models_command import verify
    from deployments.settings import load_settings

    raise typer.Exit(verify(load_settings().models, Console()))
