"""Policy of a model: the one in force, and another one in its place without a pause."""

from dataclasses import replace
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from suffice_runtime.bundle.entries import Entries
from suffice_runtime.bundle.manifest import Manifest
from suffice_runtime.http.codec.documents import parse
from suffice_runtime.http.codec.errors import ProtocolError
from suffice_runtime.http.entries import entries_of
from suffice_runtime.http.errors import RequestError
from suffice_runtime.http.routes.documents import content, operation, respond
from suffice_runtime.http.service import engine_of, service_of
from suffice_runtime.http.transport import bodies
from suffice_runtime.policy import Policy
from suffice_runtime.serving.engine import Engine

router = APIRouter()

_REMEDY = "send the entry policy of a manifest, or of what GET of this path returns"


@router.get("/v1/models/{model}/policy", **operation("Policy in force", content("PolicyInForce"), path=("model",)))
async def policy(request: Request) -> Response:
    """Return the policy in force, in the form in which it can be sent back."""
    return respond(_in_force(engine_of(request)))


@router.post(
    "/v1/models/{model}/policy",
    **operation(
        "Put a policy in force, for requests that come from now on",
        content("PolicyInForce"),
        (400, 403, 408, 409, 413, 415),
        path=("model",),
        body=content("Policy"),
    ),
)
async def replace_policy(request: Request) -> Response:
    """Put a policy in force. Requests that were accepted before are answered under the one that they came under."""
    service, engine = service_of(request), engine_of(request)
    if service.is_replica:
        raise RequestError(
            409,
            "expected a policy for all replicas, got a request that reaches one of them; deploy again with the policy, "
            "as --policy or in user_config",
        )
    if service.token is None:
        raise RequestError(403, "expected a server with a token to replace a policy, got one without; set a token")
    with service.room.body() as held:
        payload = b"".join(await bodies.read(request, service.limits, held))
        try:
            engine.policy = read(parse(payload), engine.manifest)
        except ValueError as error:
            raise ProtocolError(str(error)) from error
        return respond(_in_force(engine))


def read(entries: dict[str, Any], manifest: Manifest) -> Policy:
    """Return the policy in entries as a manifest has them.

    Args:
        entries: Entries; `made_for` among them is the hash of the calibrated network that it was made for.
        manifest: Description of the bundle.

    Raises:
        ValueError: If an entry is missing or wrong, or the policy is not one for the network.
    """
    assert manifest.kind is not None
    assert manifest.policy is not None
    found = Policy.from_entries(Entries(entries, "the policy", _REMEDY), len(manifest.stages))
    made_for = entries.get("made_for")
    if made_for is not None and not isinstance(made_for, str):
        raise ProtocolError("expected made_for as the hash of a calibrated network, got another value; leave it out")
    if found.sets is not None and not found.sets.applies_to(manifest.kind):
        raise ProtocolError(
            f"expected sets.method as one for a {manifest.kind.kind}, got {found.sets.method!r}; leave sets out"
        )
    found = replace(found, made_for=made_for)
    found.check_replaces(manifest.policy)
    return found


def _in_force(engine: Engine) -> dict[str, Any]:
    """Return the policy in force and its number, which are of one time."""
    while True:
        version, found = engine.watch().policy_version, engine.policy
        if version == engine.watch().policy_version:
            return {"version": version, "policy": entries_of(found)}
