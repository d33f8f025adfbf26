"""The routes: a ticket for a socket, and the socket."""

import jwt
from fastapi import Request, Response
from pydantic import BaseModel, Field
from starlette.websockets import WebSocket

from app.core.access import Access
from app.core.api import PREFIX, feature_router
from app.core.rate_limit import limited
from app.core.realtime import tickets
from app.core.realtime.hub import Hub
from app.core.resources import AppResources
from app.core.security import CurrentUser, bearer_of

router = feature_router("realtime")
ACCESS = {
    f"POST {PREFIX}/realtime/tickets": Access.SIGNED_IN,
    "WEBSOCKET /ws": Access.OWN,
}


class TicketOut(BaseModel):
    """What opens a socket."""

    ticket: str = Field(description="For the first message of the socket. Good for one socket.")
    expires_in: int = Field(description="Seconds until it is good for none.", examples=[tickets.SECONDS])


@router.post("/tickets", status_code=201, dependencies=[limited("tickets")])
async def make_ticket(request: Request, response: Response, user: CurrentUser, resources: AppResources) -> TicketOut:
    """A ticket for a WebSocket at /ws. The socket ends when the access token would."""
    response.headers["Cache-Control"] = "no-store"
    # The guard of the route has verified this token.
    claims = jwt.decode(bearer_of(request.scope), options={"verify_signature": False})
    ticket = await tickets.issue(resources.events, user.id, claims["exp"], claims["iat"])
    return TicketOut(ticket=ticket, expires_in=tickets.SECONDS)


async def socket(websocket: WebSocket) -> None:
    """Events for whoever shows a ticket."""
    hub: Hub = websocket.app.state.hub
    await hub.serve(websocket)


router.add_websocket_route("/ws", socket)
