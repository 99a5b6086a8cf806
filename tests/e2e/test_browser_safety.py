"""What another origin's page, a foreign Host or a WebSocket with a wrong Origin gets: a refusal."""

import asyncio
import http.client
import json

import pytest
import websockets

BODY = json.dumps({"prompt": "Hello", "max_tokens": 1})


def request(node, method, path, headers, body=None):
    connection = http.client.HTTPConnection("127.0.0.1", node.port, timeout=60)
    connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
    for name, value in headers.items():
        connection.putheader(name, value)
    if body is not None:
        connection.putheader("Content-Type", "application/json")
        connection.putheader("Content-Length", str(len(body)))
    connection.endheaders(body.encode() if body else None)
    answer = connection.getresponse()
    return answer, answer.read().decode()


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "localhost:1", ""])
@pytest.mark.parametrize("path", ["/health", "/supervision/tree", "/", "/v1/models"])
def test_a_foreign_host_is_refused(node, host, path):
    answer, text = request(node, "GET", path, {"Host": host})
    assert answer.status in (400, 403), text


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost", "[::1]"])
def test_loopback_names_at_the_port_in_use_pass(node, name):
    answer, _ = request(node, "GET", "/health", {"Host": f"{name}:{node.port}"})
    assert answer.status == 200


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://localhost:1", "https://127.0.0.1.evil.example"])
@pytest.mark.parametrize("method,path", [("POST", "/chat"), ("POST", "/chat/stream"), ("POST", "/v1/chat/completions"),
                                         ("GET", "/chat/stream?prompt=hi&max_tokens=1")])
def test_another_origin_is_refused(node, origin, method, path):
    headers = {"Host": f"127.0.0.1:{node.port}", "Origin": origin}
    answer, text = request(node, method, path, headers, BODY if method == "POST" else None)
    assert answer.status == 403, text
    assert "access-control-allow-origin" not in {k.lower() for k, _ in answer.getheaders()}


def test_the_own_origin_passes(node):
    own = f"http://127.0.0.1:{node.port}"
    answer, text = request(node, "POST", "/chat", {"Host": f"127.0.0.1:{node.port}", "Origin": own}, BODY)
    assert answer.status == 200, text


def test_a_preflight_gets_no_permission(node):
    answer, _ = request(node, "OPTIONS", "/chat", {
        "Host": f"127.0.0.1:{node.port}", "Origin": "http://evil.example",
        "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type"})
    assert "access-control-allow-origin" not in {k.lower() for k, _ in answer.getheaders()}


@pytest.mark.parametrize("origin,allowed", [("http://evil.example", False), ("null", False), (None, True), ("own", True)])
def test_websocket_origin(node, origin, allowed):
    async def connect():
        sent = f"http://127.0.0.1:{node.port}" if origin == "own" else origin
        async with websockets.connect(f"ws://127.0.0.1:{node.port}/ws/chat", origin=sent) as socket:
            await socket.send(json.dumps({"type": "ping", "id": "x"}))
            return json.loads(await socket.recv())["type"]

    if allowed:
        assert asyncio.run(connect()) == "pong"
    else:
        with pytest.raises(websockets.InvalidStatus) as refused:
            asyncio.run(connect())
        assert refused.value.response.status_code == 403


def test_prompts_and_panic_texts_need_the_admin_key(node):
    def exits(tree):
        yield tree.get("last_exit")
        for child in tree.get("children") or []:
            yield from exits(child)

    def shape(tree):
        return tree["id"], tree["kind"], [shape(c) for c in tree.get("children") or []]

    public = node.http.get("/supervision/tree").json()
    full = node.http.get("/supervision/tree", headers=node.admin).json()
    bearer = node.http.get("/supervision/tree", headers={"Authorization": f"Bearer {node.admin_key}"}).json()
    assert shape(public) == shape(full) == shape(bearer)
    assert all(last is None or "text" not in last for last in exits(public) if not isinstance(last, str))


def test_security_headers(node):
    headers = node.http.get("/health").headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"
    assert headers["content-security-policy"].startswith("default-src 'self'")


def test_keys_are_private_files(node):
    for name in ("node.key", "admin.key"):
        assert (node.data_dir / name).stat().st_mode & 0o777 == 0o600
