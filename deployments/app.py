"""The Ray Serve application, wired in one place: for `facegate serve`, for `serve.yaml` and for the tests.

    serve deploy deployments/serve.yaml        # import_path: deployments.app:build_app

`AppArgs` says how much of each runs and with what; everything else comes from the settings that each replica reads
where it runs. Secrets never travel in arguments, which Ray shows to whoever may look at the cluster.
"""

# No `from __future__ import annotations` here: Ray Serve reads the type of `build_app`'s parameter.
import os
import re
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field
from ray import serve
from ray.serve import Application
from ray.serve.config import BackpressureConfig
from ray.serve.schema import LoggingConfig

from deployments.face_handles import FaceRefs
from deployments.face_replicas import FaceAnalyzer, FaceSwapper, detector_here
from deployments.replicas import Api, ClassifierRef, NsfwClassifier, TransformWorker
from deployments.settings import Settings

Share = Annotated[float, Field(ge=0, le=128)]
Count = Annotated[int, Field(ge=1, le=1024)]

APPLICATION: Final = "facegate"
MANY: Final = 100_000
"""Limits of Ray's that never act: ours answer in our words."""

MARKER_FINDER: Final = "correlation"
"""Judges only for policies that name a planted marker; one replica is plenty."""

CLASSICAL: Final = "classical"
"""The swapper that runs on CPUs only."""

_UNRESERVED: Final = 0.01
_HEALTH: Final[dict[str, Any]] = {"health_check_period_s": 5.0, "health_check_timeout_s": 15.0}
_GRACE: Final[dict[str, Any]] = {"graceful_shutdown_wait_loop_s": 0.2, "graceful_shutdown_timeout_s": 20.0}
_QUIET: Final = LoggingConfig(encoding="JSON", log_level="WARNING", enable_access_log=False)


class _Args(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ClassifierArgs(_Args):
    """One classifier. `cpus` and `gpus` are what one replica reserves; a share of a GPU is allowed."""

    spec: str
    replicas: Count = 1
    cpus: Share = 1.0
    gpus: Share = 0.0
    ongoing: Count = 64
    """Messages at one replica; a share of `waiting` are queued at each caller beyond that."""
    waiting: Count = 256


class ApiArgs(_Args):
    """The front."""

    replicas: Count = 1
    cpus: Share = 1.0


class WorkerArgs(_Args):
    """The taker of durable work."""

    replicas: Count = 1
    cpus: Share = 0.5


class FaceArgs(_Args):
    """The finder of faces; it runs on CPUs. A message holds up to 4 MB of frames or crops."""

    replicas: Count = 1
    cpus: Share = 1.0
    ongoing: Count = 16
    """Messages at one replica; `waiting` are queued at each caller beyond that."""
    waiting: Count = 64


class SwapperArgs(FaceArgs):
    """The swapper. A share of a GPU is for one that can use it, which `classical` cannot."""

    spec: str = "classical"
    gpus: Share = 0.0


class FacesArgs(_Args):
    """What a face swap needs."""

    analyzer: FaceArgs = FaceArgs()
    swapper: SwapperArgs = SwapperArgs()


class AppArgs(_Args):
    """The whole application."""

    classifiers: Annotated[tuple[ClassifierArgs, ...], Field(min_length=1)]
    shadows: tuple[ClassifierArgs, ...] = ()
    """Asked after each decision, and without a say."""
    faces: FacesArgs | None = FacesArgs()
    """None for a service that only screens."""
    api: ApiArgs = ApiArgs()
    worker: WorkerArgs = WorkerArgs()


def one_machine(settings: Settings, *, gpus: float = 0.0) -> AppArgs:
    """What `facegate serve` runs: of the CPUs nothing is reserved, since all of it shares one machine.

    On CPUs the best arrangement measured is a one-thread classifier replica for each core. The `gpus` there are, are shared
    by those classifiers that can use one, less what the swapper is given. Without any face detector there are no face swaps.
    """
    cores = os.cpu_count() or 1
    able = sum(_may_use_gpu(spec) for spec in (*settings.classifiers, *settings.shadow_classifiers))
    faces = _faces_here(settings, gpus)
    left = gpus - (faces.swapper.gpus if faces else 0.0)
    share = settings.classifier_gpus if settings.classifier_gpus is not None else min(1.0, left / able if able else 0.0)
    on_cpu = settings.classifier_replicas or max(1, min(8, cores // settings.classifier_threads))

    def classifier(spec: str) -> ClassifierArgs:
        if spec == MARKER_FINDER:
            return ClassifierArgs(spec=spec, cpus=_UNRESERVED)
        if _may_use_gpu(spec) and gpus and share:
            return ClassifierArgs(spec=spec, replicas=settings.classifier_replicas or 1, cpus=_UNRESERVED, gpus=share)
        return ClassifierArgs(spec=spec, replicas=on_cpu, cpus=_UNRESERVED)

    return AppArgs(
        classifiers=tuple(classifier(spec) for spec in settings.classifiers),
        # Nobody waits for these: one replica of each, whatever there is to do.
        shadows=tuple(classifier(spec).model_copy(update={"replicas": 1}) for spec in settings.shadow_classifiers),
        faces=faces,
        api=ApiArgs(replicas=settings.api_replicas or max(1, cores // 4), cpus=_UNRESERVED),
        worker=WorkerArgs(cpus=_UNRESERVED),
    )


def _faces_here(settings: Settings, gpus: float) -> FacesArgs | None:
    if detector_here(settings.face_detector, settings.models) is None:
        return None
    share = settings.swapper_gpus if gpus and settings.swapper_gpus and settings.swapper != CLASSICAL else 0.0
    return FacesArgs(analyzer=FaceArgs(cpus=_UNRESERVED), swapper=SwapperArgs(spec=settings.swapper, cpus=_UNRESERVED, gpus=share))


def _may_use_gpu(spec: str) -> bool:
    return spec.startswith("transformers:")


def build_app(args: AppArgs) -> Application:
    """The application: classifiers, detector and swapper, the front that calls the former, and the worker that calls all of them."""
    alone = len(args.classifiers) + len(args.shadows) == 1
    classifiers = [ClassifierRef(_classifier(one, alone=alone), one.replicas, one.gpus > 0) for one in args.classifiers]
    shadows = {one.spec: ClassifierRef(_classifier(one, alone=alone), one.replicas, one.gpus > 0) for one in args.shadows}
    worker = _deployment(
        TransformWorker, num_replicas=args.worker.replicas, max_ongoing_requests=16, ray_actor_options={"num_cpus": args.worker.cpus}
    )
    api = _deployment(
        serve.ingress()(Api),
        name="Api",
        num_replicas=args.api.replicas,
        max_ongoing_requests=MANY,
        ray_actor_options={"num_cpus": args.api.cpus},
    )
    faces = _faces(args.faces) if args.faces else None
    swappers = ("auto", args.faces.swapper.spec) if args.faces else ()
    bound = worker.bind(*classifiers, faces=faces, shadows=shadows)
    application: Application = api.bind(*classifiers, worker=bound, swappers=swappers, shadows=shadows)
    return application


def _faces(args: FacesArgs) -> FaceRefs:
    analyzer = _deployment(FaceAnalyzer, **_queue(args.analyzer), ray_actor_options={"num_cpus": args.analyzer.cpus})
    swapper = _deployment(
        FaceSwapper,
        **_queue(args.swapper),
        ray_actor_options={"num_cpus": args.swapper.cpus, "num_gpus": args.swapper.gpus},
    )
    return FaceRefs(analyzer=analyzer.bind(), swapper=swapper.bind(args.swapper.spec, on_gpu=args.swapper.gpus > 0))


def _classifier(args: ClassifierArgs, *, alone: bool) -> Application:
    deployment = _deployment(
        NsfwClassifier,
        name="NsfwClassifier" if alone else f"NsfwClassifier-{_slug(args.spec)}",
        **_queue(args),
        ray_actor_options={"num_cpus": args.cpus, "num_gpus": args.gpus},
    )
    application: Application = deployment.bind(args.spec, on_gpu=args.gpus > 0)
    return application


def _queue(args: ClassifierArgs | FaceArgs) -> dict[str, Any]:
    return {
        "num_replicas": args.replicas,
        "max_ongoing_requests": args.ongoing,
        "max_queued_requests": args.waiting,
        "backpressure_config": BackpressureConfig(status_code=503, retry_after_s=1),
    }


def _deployment(cls: type, **options: Any) -> Any:
    return serve.deployment(**_HEALTH, **_GRACE, logging_config=_QUIET, **options)(cls)


def _slug(spec: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "-", spec).strip("-")[-40:]
