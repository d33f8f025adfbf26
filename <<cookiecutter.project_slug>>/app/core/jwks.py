"""`/.well-known/jwks.json`: the public keys, for other services that want to check our tokens themselves."""

import orjson
from fastapi import APIRouter, Response

from app.core.access import Access
from app.core.errors import NotFound
from app.core.resources import AppResources
from app.core.signing import keyring

router = APIRouter(include_in_schema=False)
ACCESS = {"GET /.well-known/jwks.json": Access.ANYONE}


@router.get("/.well-known/jwks.json")
async def published(resources: AppResources) -> Response:
    """With HS256 there is no public key, and with an outside provider's keys it is the provider who publishes them."""
    settings = resources.settings.auth
    if settings.outside or not (keys := keyring(settings).public()):
        raise NotFound
    # Short, so that a new key is known everywhere before it signs: see docs/runbook/rotate-signing-keys.md.
    return Response(
        orjson.dumps({"keys": keys}), media_type="application/json", headers={"Cache-Control": "public, max-age=300"}
    )
