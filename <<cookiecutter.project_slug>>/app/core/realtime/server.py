"""What uvicorn has to do otherwise with WebSockets: tell them when it stops, and let go of peers that take nothing."""

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from app.core.realtime import closing
from app.core.realtime.socket import MAX_MESSAGE_BYTES

__all__ = ["MAX_MESSAGE_BYTES", "WebSocketProtocol"]


class WebSocketProtocol(WebSocketsSansIOProtocol):
    """uvicorn's own, with better ends.

    A transport that is closed first sends what it holds. To a peer that does not read that takes until the kernel gives
    up, a quarter of an hour, and a stop of the server waits for it.
    """

    def shutdown(self) -> None:
        """The server stops: say so, and when to come back, each at another time."""
        if not self.handshake_complete or self.close_sent:
            super().shutdown()
            return
        self.stop_keepalive()
        self.queue.put_nowait({"type": "websocket.disconnect", "code": closing.RESTARTING.code})
        self.conn.send_close(closing.RESTARTING.code, closing.RESTARTING.text())
        self.transport.write(b"".join(self.conn.data_to_send()))
        self._let_go()

    def keepalive_timeout(self) -> None:
        """The peer has not answered a ping."""
        super().keepalive_timeout()
        self._let_go()

    async def run_asgi(self) -> None:
        """The application's part; afterwards the peer has a while to take the rest."""
        await super().run_asgi()
        if self.close_timer is None:
            self._let_go()
        else:
            self.close_timer.cancel()
            self.close_timer = self.loop.call_later(self.close_timeout, self._let_go)

    def _let_go(self) -> None:
        self.transport.close()
        if self.transport.get_write_buffer_size():
            self.transport.abort()
