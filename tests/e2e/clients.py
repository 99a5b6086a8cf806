"""Clients that go away: over HTTP, Server-Sent Events and WebSocket, politely or not."""

import asyncio
import contextlib
import dataclasses
import json
import socket
import struct

import websockets


@dataclasses.dataclass
class Client:
    """A request, how and when its client goes, and what it heard until then."""

    # http, sse, ws_cancel, ws_close; deadline is an SSE client that never goes.
    way: str
    words: int
    max_tokens: int
    starts_after: float = 0.0
    # Whichever comes first; with none of them the client stays to the end.
    leaves_after: float | None = None
    leaves_after_tokens: int | None = None
    leaves_at: asyncio.Event | None = None
    # Leaves by a reset of the connection, or cancels twice.
    rude: bool = False
    request_id: str | None = None
    tokens: int = 0
    # When it asked to be let go.
    tokens_then: int = 0
    ended: str | None = None
    receipt: dict | None = None

    @property
    def body(self) -> dict:
        prompt = "Write a very long story. " + "word " * self.words
        return {"prompt": prompt, "max_tokens": self.max_tokens, "temperature": 1.0, "seed": self.words}

    async def play(self, port):
        await asyncio.sleep(self.starts_after)
        act = {"http": _whole, "ws_cancel": _over_websocket, "ws_close": _over_websocket}.get(self.way, _streamed)
        await act(port, self)

    def hear(self, kind, data) -> bool:
        """One event of a stream; true when the client has heard enough."""
        if kind == "stream_start":
            self.request_id = data["stream_id"]
        elif kind == "token":
            self.tokens += 1
        elif kind in ("stream_end", "error"):
            self.ended = data["finish_reason"] if kind == "stream_end" else data["error"]["code"]
        return self.ended is not None or self.tokens == self.leaves_after_tokens

    async def listen(self, listening):
        """Listens until it is time to go, or to the end."""
        hearing, leaving = asyncio.ensure_future(listening), asyncio.ensure_future(self._time_to_go())
        await asyncio.wait((hearing, leaving), return_when=asyncio.FIRST_COMPLETED)
        self.tokens_then = self.tokens
        in_time = hearing.done()
        hearing.cancel()
        leaving.cancel()
        results = await asyncio.gather(hearing, leaving, return_exceptions=True)
        if in_time and results[0] is not None:
            raise results[0]

    async def _time_to_go(self):
        if self.leaves_at is not None:
            await self.leaves_at.wait()
        elif self.leaves_after is not None:
            await asyncio.sleep(self.leaves_after)
        else:
            await asyncio.Event().wait()


async def _post(port, path, body):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    data = json.dumps(body).encode()
    writer.write((f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\ncontent-type: application/json\r\n"
                  f"connection: close\r\ncontent-length: {len(data)}\r\n\r\n").encode() + data)
    await writer.drain()
    return reader, writer


async def _whole(port, client):
    reader, writer = await _post(port, "/chat", client.body)

    async def answer():
        head, body = (await reader.read()).split(b"\r\n\r\n", 1)
        reply = json.loads(body)
        if b" 200 " in head.split(b"\r\n")[0]:
            client.ended, client.request_id = reply["finish_reason"], reply["request_id"]
        else:
            client.ended, client.request_id = reply["error"]["code"], reply["error"].get("request_id")

    await client.listen(answer())
    _hang_up(writer.transport, client.rude)


async def _streamed(port, client):
    reader, writer = await _post(port, "/chat/stream", client.body)

    async def events():
        status = await reader.readline()
        assert b" 200 " in status, status
        kind = None
        while line := await reader.readline():
            if line.startswith(b"event: "):
                kind = line[7:].strip().decode()
            elif line.startswith(b"data: ") and client.hear(kind, json.loads(line[6:])):
                return

    await client.listen(events())
    _hang_up(writer.transport, client.rude)


async def _over_websocket(port, client):
    connection = await websockets.connect(f"ws://127.0.0.1:{port}/ws/chat")
    await connection.send(json.dumps({"type": "start", "id": "s", **client.body}))

    async def events():
        async for text in connection:
            message = json.loads(text)
            if client.hear(message["type"], message):
                return

    await client.listen(events())
    if client.way == "ws_cancel" and client.ended is None:
        await _cancel(connection, client, events)
    if client.way == "ws_close" and client.rude:
        _hang_up(connection.transport, rude=True)
    else:
        await connection.close()


async def _cancel(connection, client, events):
    """Cancels, twice if rude, and hears the stream's end."""
    client.leaves_after_tokens = None
    for _ in range(1 + client.rude):
        await connection.send(json.dumps({"type": "cancel", "id": "s"}))
    await events()


def _hang_up(transport, rude):
    """Closes a connection, with a reset if rude."""
    if rude:
        # Unsent and unread bytes are dropped and the peer gets RST.
        with contextlib.suppress(OSError):
            transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()
    else:
        transport.close()
