"""What the routes serve: models by name, limits and the room for requests."""

from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request

from suffice_runtime.http import outputs
from suffice_runtime.http.errors import RequestError
from suffice_runtime.http.outputs import Described
from suffice_runtime.http.transport.limits import Limits, Room
from suffice_runtime.policy import Policy
from suffice_runtime.runner import Runner
from suffice_runtime.scheduling.options import Options
from suffice_runtime.serving.engine import Engine
from suffice_runtime.serving.history import History
from suffice_runtime.serving.models import Models


@dataclass(frozen=True)
class Service:
    """Models with what is needed to answer requests.

    Attributes:
        models: Engine of each model.
        limits: Limits.
        options: Options of the schedulers.
        token: Token that requests must carry, or None.
        estimators: Runner of each model, by name and version, whose bundle has a variation estimator.
        is_replica: Whether it is one of several behind a proxy, so that a client cannot choose which one it reaches.
        tracer: Tracer of OpenTelemetry that makes a span for each request, or None.
        room: Room for requests.
        responses: Numbers of responses by status.
        threads: Threads that run estimators.
        histories: History of each model, by name and version.
    """

    models: Models
    limits: Limits = field(default_factory=Limits)
    options: Options = field(default_factory=Options)
    token: bytes | None = None
    estimators: Mapping[tuple[str, str], Runner] = field(default_factory=dict)
    is_replica: bool = False
    tracer: Any = None
    room: Room = field(init=False)
    responses: Counter[int] = field(default_factory=Counter)
    threads: ThreadPoolExecutor = field(init=False)
    histories: Mapping[tuple[str, str], History] = field(init=False)
    _outputs: dict[tuple[str, str, bool], dict[str, Described]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "room", Room(self.limits))
        object.__setattr__(self, "threads", ThreadPoolExecutor(max_workers=1, thread_name_prefix="suffice-estimates"))
        object.__setattr__(self, "histories", {key: History() for key in self.models})

    @property
    def engines(self) -> list[Engine]:
        """Engines of all models."""
        return [self.models[key] for key in self.models]

    def estimator(self, engine: Engine) -> Runner | None:
        """Return the runner of a model whose bundle has an estimator, or None."""
        return self.estimators.get((engine.name, engine.version))

    def outputs(self, engine: Engine, policy: Policy | None = None) -> dict[str, Described]:
        """Return the outputs of a model by name, under a policy or the one in force."""
        policy = policy or engine.policy
        key = engine.name, engine.version, policy.sets is not None
        if key not in self._outputs:
            self._outputs[key] = outputs.described(engine.manifest, policy, self.estimator(engine) is not None)
        return self._outputs[key]


def service_of(request: Request) -> Service:
    """Return the service that a request came to."""
    service: Service = request.app.state.service
    return service


def engine_of(request: Request) -> Engine:
    """Return the engine that the path of a request names.

    Raises:
        RequestError: If there is no such model, or version.
    """
    try:
        engine = service_of(request).models.get(request.path_params["model"], request.path_params.get("version"))
    except LookupError as error:
        raise RequestError(404, f"{error}; see /v2/repository/index") from None
    request.state.log.update(model=engine.name, version=engine.version)
    return engine
