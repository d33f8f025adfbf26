"""WebSockets: how events reach people who are connected. The protocol is in docs/realtime.md.

`api` has the routes, `tickets` lets people in, `hub` holds the sockets of this process and hands events to them, `socket`
is one of them, `listener` hears from Redis what other processes publish, `server` is what uvicorn has to do otherwise.
"""
