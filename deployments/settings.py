"""Settings: the environment (`FACEGATE_*`) or a TOML file named by `FACEGATE_CONFIG`; the only reader of either.

The environment wins over the file. A name that is not a setting is refused, in either place, since a
misspelt limit that is silently ignored is worse than a service that does not start.
"""

from __future__ import annotations

import json
import os
import sys
import tomllib
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from moderation.frames import Limits

PREFIX: Final = "FACEGATE_"
CONFIG: Final = "FACEGATE_CONFIG"
MB: Final = 1_000_000
DAY_S: Final = 24 * 3600.0
_BOUNDS: Final = Limits()

Names = Annotated[tuple[str, ...], NoDecode]
"""A tuple of texts, written as a comma-separated list in the environment."""


class SettingsRefused(Exception):  # a refusal, told to a person in one line
    """The settings cannot be used; the text is one line for the operator."""


class Settings(BaseSettings):
    """Everything an operator can set. Sizes in bytes, times in seconds; None means "choose for this machine"."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid", validate_default=True)

    # --- where it listens and lives
    host: str = Field("127.0.0.1", description="Address of the front door.")
    port: int = Field(8000, ge=1, le=65535, description="Port of the front door.")
    home: Path = Field(default_factory=lambda: default_home(), description="Data directory.")  # noqa: PLW0108  # defined below
    serve_mode: Literal["haproxy", "default"] = Field(
        "haproxy" if sys.platform == "linux" else "default", description="HAProxy with throughput mode, or Ray Serve's own proxy."
    )

    # --- the record and the bytes
    database_url: SecretStr | None = Field(None, description="Run-time role. Unset: a Postgres of our own in the data directory.")
    owner_database_url: SecretStr | None = Field(None, description="Owner role, used by `facegate db upgrade` and at start.")
    sealer_database_url: SecretStr | None = Field(None, description="Sealer role.")
    database_connections: int = Field(4, ge=1, le=64, description="Reading connections of one Api replica.")
    media_url: str | None = Field(None, description="Object store; unset: a folder of the data directory.")
    intake_url: str | None = Field(None, description="Store of what was sent, until its work ends; unset: `media_url`.")
    quarantine_url: str | None = Field(None, description="Store of files that are not released; unset: `media_url`.")
    released_url: str | None = Field(None, description="Store of released files; unset: `media_url`.")
    catalogue_url: str | None = Field(None, description="Store of approved source faces; unset: `media_url`.")
    keep_intake_s: float = Field(30 * DAY_S, ge=60, description="What is older was forgotten by a process that died, or held too long.")
    keep_quarantine_s: float = Field(30 * DAY_S, ge=60, description="How long media that was held or denied can be looked at.")
    keep_released_s: float = Field(7 * DAY_S, ge=60, description="How long a released file is served.")
    c2pa_certificate_file: Path | None = Field(None, description="Chain (PEM) that signs content credentials; unset: a development CA.")
    c2pa_key_file: Path | None = Field(None, description="Its P-256 key (PEM), readable by the service only.")
    sealer_dir: Path | None = Field(
        None, description="The sealer's own folder: signing key, last checkpoint; unset: in the data directory."
    )
    log_name: str | None = Field(
        None, pattern=r"^[^\s+]{1,180}$", description="Name of a new log, like a URL without scheme; unset: a random one."
    )
    checkpoint_copies: Names = Field((), description="Where checkpoints are copied to: folders, bucket URLs, git+PATH; comma-separated.")
    service_key_file: Path | None = Field(None, description="Key under which SigV4 secrets are encrypted; unset: in the data directory.")
    buckets: Annotated[dict[str, str], NoDecode] = Field(default_factory=dict, description="Buckets that S3Object may name: name=URL,...")

    # --- classifiers
    classifiers: Names = Field(
        ("nudenet", "correlation"), min_length=1, description="Classifier specs, comma-separated; `correlation` finds planted markers only."
    )
    shadow_classifiers: Names = Field(
        (), description="Specs of classifiers that are asked after each decision and have no say; for `model_comparison`."
    )
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["fp32", "bf16", "int8"] = "fp32"
    models_dir: Path | None = Field(None, description="Model files; unset: in the data directory.")
    classifier_replicas: int | None = Field(None, ge=1, le=256, description="Replicas of each classifier.")
    classifier_threads: int = Field(1, ge=1, le=64, description="Threads of one replica on the CPU.")
    classifier_gpus: float | None = Field(None, ge=0, le=8, description="Share of a GPU for one replica.")
    max_batch: int | None = Field(None, ge=1, le=1024, description="Most inputs in one forward pass.")
    max_waiting: int = Field(512, ge=1, description="Most inputs waiting at one classifier replica.")
    classify_timeout_s: float = Field(30.0, gt=0)
    wedged_after_s: float = Field(60.0, gt=0, description="A forward pass that takes longer has the replica replaced.")

    # --- faces
    swapper: str = Field("classical", description="Which swapper; `classical` needs no weights.")
    swapper_gpus: float | None = Field(None, ge=0, le=8, description="Share of a GPU for one swapper replica; unset: none for `classical`.")
    face_detector: Literal["auto", "yunet", "fallback"] = Field(
        "auto", description="`fallback` needs no weights and finds upright frontal faces only; `auto` is YuNet where it was pulled."
    )
    face_timeout_s: float = Field(30.0, gt=0, description="For one message of frames or crops.")

    # --- the Api replicas
    api_replicas: int | None = Field(None, ge=1, le=256)
    decode_children: int | None = Field(None, ge=1, le=256, description="Decode processes of one Api replica.")
    video_children: int = Field(2, ge=1, le=64, description="The most videos that one replica or worker decodes at once.")
    decode_bytes_in_flight: int = Field(256 * MB, ge=MB, description="Uploaded bytes being decoded at once in one replica.")
    max_requests: int = Field(256, ge=1, description="Screenings at once in one Api replica; more are answered 503.")
    max_queued: int = Field(1000, ge=1, description="Screenings, and transforms, of one tenant that wait or run; more are answered 503.")
    lease_s: float = Field(30.0, ge=3, le=3600, description="Durable work that nothing was heard of for so long is another worker's.")
    max_wait_s: float = Field(60.0, ge=0, le=600, description="Longest `wait` a caller may ask for.")
    header_timeout_s: int = Field(10, ge=1, le=300)
    body_timeout_s: float = Field(60.0, gt=0, description="Time to receive a whole body.")
    openai_text: Literal["refuse", "ignore"] = "refuse"
    url_hosts: Names = Field((), description="Hosts from which http(s) URLs of pictures may be fetched.")
    webhook_hosts: Names = Field((), description="Hosts that may be called at the end of a transform: host, or host:port.")
    webhook_insecure: bool = Field(default=False, description="Call them by http too, and on addresses that are not public.")

    # --- bounds on what is opened
    image_bytes: int = Field(_BOUNDS.image_bytes, ge=1)
    image_pixels: int = Field(_BOUNDS.image_pixels, ge=1)
    total_pixels: int = Field(_BOUNDS.total_pixels, ge=1)
    frames: int = Field(_BOUNDS.frames, ge=1)
    video_bytes: int = Field(_BOUNDS.video_bytes, ge=1)
    video_seconds: int = Field(_BOUNDS.video_seconds, ge=1)
    video_pixels: int = Field(_BOUNDS.video_pixels, ge=1)
    video_cpu_s: int = Field(_BOUNDS.video_cpu_s, ge=1)
    video_wall_s: float = Field(_BOUNDS.video_wall_s, gt=0)
    decode_cpu_s: int = Field(_BOUNDS.decode_cpu_s, ge=1)
    decode_wall_s: float = Field(_BOUNDS.decode_wall_s, gt=0)

    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003  # the library's signature
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment before the file (which arrives as constructor arguments)."""
        return env_settings, init_settings

    @field_validator("classifiers", "shadow_classifiers", "url_hosts", "webhook_hosts", "checkpoint_copies", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value

    @field_validator("buckets", mode="before")
    @classmethod
    def _pairs(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        pairs = [part.strip().partition("=") for part in value.split(",") if part.strip()]
        if not all(name and sign and url for name, sign, url in pairs):
            raise ValueError("write name=url,name=url")
        return {name: url for name, _, url in pairs}

    @field_validator("home", "models_dir", "sealer_dir", "service_key_file", "c2pa_certificate_file", "c2pa_key_file")
    @classmethod
    def _absolute(cls, value: Path | None) -> Path | None:
        return value and value.expanduser().absolute()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if len({*self.classifiers, *self.shadow_classifiers}) != len(self.classifiers) + len(self.shadow_classifiers):
            raise ValueError("classifiers: one is named twice")
        if (self.c2pa_certificate_file is None) is not (self.c2pa_key_file is None):
            raise ValueError("c2pa_key_file: certificate and key go together")
        if self.serve_mode == "haproxy" and sys.platform != "linux":
            raise ValueError("serve_mode: haproxy runs on Linux only")
        return self

    @property
    def limits(self) -> Limits:
        """The bounds as the decoder takes them."""
        return Limits(**{field.name: getattr(self, field.name) for field in fields(Limits) if field.name in type(self).model_fields})

    @property
    def models(self) -> Path:
        """The folder of model files."""
        return self.models_dir or self.home / "models"

    @property
    def media(self) -> str:
        """The object store."""
        return self.media_url or (self.home / "media").as_uri()

    def store_of(self, area: str) -> str:
        """The store of one area of media: `intake`, `quarantine`, `released` or `catalogue`."""
        chosen: str | None = getattr(self, f"{area}_url")
        return chosen or self.media

    @property
    def sealer(self) -> Path:
        """The folder of the process that seals."""
        return self.sealer_dir or self.home / "sealer"

    @property
    def service_key(self) -> Path:
        """The file with the key under which SigV4 secrets are encrypted."""
        return self.service_key_file or self.home / "service.key"

    def database(self) -> str:
        """The run-time URL. Raises SettingsRefused where there is none."""
        if self.database_url is None:
            raise SettingsRefused(f"{PREFIX}DATABASE_URL is not set")
        return self.database_url.get_secret_value()


def default_home() -> Path:
    """`/var/lib/facegate` for root, the user's data folder for anyone else."""
    if os.geteuid() == 0:
        return Path("/var/lib/facegate")
    data = os.environ.get("XDG_DATA_HOME", "")
    return (Path(data) if os.path.isabs(data) else Path.home() / ".local" / "share") / "facegate"  # noqa: PTH117  # on a text


def load_settings(config: Path | None = None) -> Settings:
    """Settings from the environment and the file `config`, by default the one that `FACEGATE_CONFIG` names.

    Raises SettingsRefused, in one line, on unknown names and bad values.
    """
    known = {PREFIX + name.upper() for name in Settings.model_fields} | {CONFIG}
    for name in sorted(os.environ):
        if name.upper().startswith(PREFIX) and name.upper() not in known:
            raise SettingsRefused(f"{name} is not a setting")
    try:
        return Settings(**_file(os.environ.get(CONFIG) if config is None else str(config)))
    except ValidationError as error:
        raise SettingsRefused(_one_line(error)) from None


def to_toml(settings: Settings, *, without: frozenset[str] = frozenset()) -> str:
    """The settings as a TOML file that `load_settings` reads back as the same settings, secrets included."""
    lines = []
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        if value is not None and name not in without:
            lines.append(f"{name} = {_toml(value)}\n")
    return "".join(lines)


def _toml(value: object) -> str:
    if isinstance(value, SecretStr):
        value = value.get_secret_value()
    if isinstance(value, bool | int | float):
        return json.dumps(value)
    if isinstance(value, tuple):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_toml(key)} = {_toml(item)}" for key, item in value.items()) + "}"
    return json.dumps(str(value), ensure_ascii=False)


def _file(name: str | None) -> dict[str, Any]:
    if not name:
        return {}
    try:
        content = tomllib.loads(Path(name).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsRefused(f"{CONFIG}: cannot read {name}: {getattr(error, 'strerror', None) or 'not UTF-8'}") from None
    except tomllib.TOMLDecodeError as error:
        raise SettingsRefused(f"{CONFIG}: {name} is not TOML: {error}") from None
    for key in content:
        if key not in Settings.model_fields:
            raise SettingsRefused(f"{key} in {name} is not a setting")
    return content


def _one_line(error: ValidationError) -> str:
    """The first complaint, without the value: it may be a secret."""
    first = error.errors(include_url=False, include_input=False)[0]
    where = "_".join(str(part) for part in first["loc"][:1]).upper()
    what = first["msg"].removeprefix("Value error, ")
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return f"{PREFIX}{where}: {what}{more}" if where else f"{what}{more}"
