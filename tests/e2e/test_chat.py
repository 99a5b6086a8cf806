"""Chat over HTTP, Server-Sent Events and WebSocket, on the real model."""

import asyncio
import json
import time

import httpx
import pytest
import websockets

from conftest import run

QUESTION = "What is the capital of France?"


def events(response: httpx.Response):
    """(event, data) pairs of a Server-Sent Events body."""
    name, data = None, []
    for line in response.iter_lines():
        if line.startswith("event:"):
            name = line[6:].strip()
        elif line.startswith("data:"):
            data.append(line[5:].strip())
        elif line == "" and name:
            yield name, json.loads("\n".join(data))
            name, data = None, []


def stream(node, **fields):
    body = {"prompt": QUESTION, "max_tokens": 16, "temperature": 0, **fields}
    with node.http.stream("POST", "/chat/stream", json=body) as response:
        assert response.status_code == 200, response.read()
        assert response.headers["content-type"].startswith("text/event-stream")
        return list(events(response))


def text_of(seen):
    return "".join(data["token"] for name, data in seen if name == "token")


def test_the_answer_is_english_and_right(node):
    answer = node.chat(QUESTION).raise_for_status().json()
    assert "Paris" in answer["text"]
    assert answer["finish_reason"] in ("stop", "length")
    usage = answer["usage"]
    assert usage["prompt_tokens"] + usage["completion_tokens"] == usage["total_tokens"]
    assert 0 < usage["completion_tokens"] <= 16
    assert answer["experts"]["top_k"] == 16 and answer["experts"]["used"] == 480
    assert set(answer["timing"]) >= {"queue_ms", "prefill_ms", "decode_ms", "tokens_per_second"}
    assert answer["request_id"] and len(answer["model_id"]) == 64


def test_messages_and_prompt_say_the_same(node):
    by_prompt = node.chat(QUESTION).json()
    by_messages = node.http.post("/chat", json={
        "messages": [{"role": "user", "content": QUESTION}], "max_tokens": 16, "temperature": 0}).json()
    assert by_prompt["text"] == by_messages["text"]


def test_a_seed_repeats_and_another_differs(node):
    ask = lambda seed: node.chat("Tell me a story.", temperature=1.0, seed=seed, max_tokens=24).json()["text"]
    assert ask(7) == ask(7)
    assert len({ask(seed) for seed in range(7, 12)}) > 1


def test_fewer_experts_are_used_when_asked_for(node):
    answer = node.chat(QUESTION, top_k_experts=12).raise_for_status().json()
    assert answer["experts"]["top_k"] == 12
    assert node.chat(QUESTION, top_k_experts=4).status_code == 200


@pytest.mark.parametrize("fields", [
    {"top_k_experts": 3}, {"top_k_experts": 17}, {"use_moe": False, "top_k_experts": 12}, {"max_tokens": 0},
    {"temperature": -1}, {"top_p": 0}, {"unknown_field": 1}, {"stop": ["x"] * 5},
    {"prompt": None, "messages": []}, {"messages": [{"role": "user", "content": "both"}]},
])
def test_bad_requests_are_refused_with_what_to_do(node, fields):
    body = {"prompt": QUESTION, "max_tokens": 4, **fields}
    body = {k: v for k, v in body.items() if v is not None}
    refused = node.http.post("/chat", json=body)
    assert refused.status_code == 400, refused.text
    error = refused.json()["error"]
    assert error["code"] and error["message"] and error["hint"]


def test_stop_ends_before_its_text(node):
    whole = node.chat(QUESTION).json()["text"]
    assert "Paris" in whole
    answer = node.chat(QUESTION, stop=["Paris"]).json()
    assert answer["text"] == whole.split("Paris")[0]
    assert answer["finish_reason"] == "stop"


def test_stream_events_come_in_order_and_cost_whole_units(node):
    seen = stream(node)
    names = [name for name, _ in seen]
    assert names[0] == "stream_start" and names[-1] == "stream_end"
    assert set(names[1:-1]) == {"token"}
    assert text_of(seen) == node.chat(QUESTION).json()["text"]
    start, end = seen[0][1], seen[-1][1]
    assert start["stream_id"] and start["max_tokens"] == 16
    assert int(start["input_cost"]) >= 0 and start["charged"] is False
    costs = [int(data["cumulative_cost"]) for name, data in seen if name == "token"]
    assert costs == sorted(costs)
    assert int(end["total_cost"]) >= costs[-1] and end["total_tokens"] > 0 and end["duration"] > 0


def test_stream_by_get(node):
    with node.http.stream("GET", "/chat/stream", params={"prompt": QUESTION, "max_tokens": 8, "temperature": 0}) as response:
        names = [name for name, _ in events(response)]
    assert names[0] == "stream_start" and names[-1] == "stream_end"


def test_no_half_characters(node):
    seen = stream(node, prompt="Repeat exactly: 🌊🎉 déjà vu 東京", max_tokens=40)
    text = text_of(seen)
    assert "\ufffd" not in text
    assert text == node.chat("Repeat exactly: 🌊🎉 déjà vu 東京", max_tokens=40).json()["text"]


def test_a_closed_stream_stops_and_leaves_a_receipt(node):
    with node.http.stream("POST", "/chat/stream", json={"prompt": "Count to a thousand.", "max_tokens": 500}) as response:
        iterator = events(response)
        _, start = next(iterator)
        next(iterator)
    request = start["stream_id"]

    def receipt():
        listed = json.loads(run("receipts", "--json", data_dir=node.data_dir).stdout)
        return [r for r in listed if r["request_id"] == request]

    found = node.wait_for(receipt)
    assert len(found) == 1
    assert found[0]["outcome"]["kind"] == "cancelled" and found[0]["tokens_out"] < 500


def websocket_url(node):
    return f"ws://127.0.0.1:{node.port}/ws/chat"


def test_websocket_carries_several_streams_cancel_and_ping(node):
    async def talk():
        async with websockets.connect(websocket_url(node)) as socket:
            await socket.send(json.dumps({"type": "start", "id": "a", "prompt": QUESTION, "max_tokens": 12, "temperature": 0}))
            await socket.send(json.dumps({"type": "start", "id": "b", "prompt": "Count to a thousand.", "max_tokens": 400}))
            await socket.send(json.dumps({"type": "ping", "id": "p"}))
            texts, ends, pong, cancelled = {"a": "", "b": ""}, {}, False, False
            while len(ends) < 2:
                message = json.loads(await asyncio.wait_for(socket.recv(), 60))
                kind, stream_id = message["type"], message.get("id")
                if kind == "pong":
                    pong = True
                elif kind == "token":
                    texts[stream_id] += message["token"]
                    if stream_id == "b" and not cancelled:
                        cancelled = True
                        await socket.send(json.dumps({"type": "cancel", "id": "b"}))
                elif kind == "stream_end":
                    ends[stream_id] = message
                else:
                    assert kind == "stream_start", message
            return texts, ends, pong

    texts, ends, pong = asyncio.run(talk())
    assert "Paris" in texts["a"] and ends["a"]["finish_reason"] in ("stop", "length")
    assert ends["b"]["finish_reason"] == "cancelled"
    assert pong


@pytest.mark.parametrize("message", [
    "no json", "[]", "{}", '{"type":"start"}', '{"type":"start","id":7,"prompt":"x"}',
    '{"type":"nonsense","id":"x"}', '{"type":"start","id":"x"}', '{"type":"start","id":"x","prompt":"y","bogus":1}',
    '{"type":"cancel","id":"never-started"}', "{" * 2000, '{"type":"start","id":"' + "i" * 5000 + '","prompt":"x"}',
])
def test_hostile_websocket_messages_get_an_error_and_the_connection_lives(node, message):
    async def talk():
        async with websockets.connect(websocket_url(node)) as socket:
            await socket.send(message)
            answer = json.loads(await asyncio.wait_for(socket.recv(), 10))
            await socket.send(json.dumps({"type": "ping", "id": "p"}))
            while True:
                pong = json.loads(await asyncio.wait_for(socket.recv(), 10))
                if pong["type"] == "pong":
                    return answer

    answer = asyncio.run(talk())
    assert answer["type"] == "error" and "id" in answer and answer["error"]["code"]


def test_the_prompt_line_prints_only_the_answer(session_store, node):
    done = run("generate", "--prompt", QUESTION, "--greedy", "--max-tokens", "16", data_dir=session_store)
    assert done.stdout.strip() == node.chat(QUESTION).json()["text"].strip()


def test_read_endpoints(node):
    get = lambda path: node.http.get(path).raise_for_status().json()
    assert get("/health")["status"] == "ok"
    assert node.http.get("/ready").status_code == 200
    assert get("/monitoring/health")
    heads = {chain: get(f"/chain/{chain}/head") for chain in "AB"}
    block = get(f"/chain/A/blocks/{heads['A']['hash']}")
    assert block["header"]["block_type"] == "manifest"
    assert len(get("/genesis/hash")["genesis_hash"]) == 64
    top = get("/experts/top")
    assert top["experts"]
    name = top["experts"][0]["name"]
    assert get(f"/experts/stats/{name}")["name"] == name
    assert node.http.get("/experts/stats/layer99.expert99").status_code == 404
    assert get("/security/integrity_status")["corrupt"] == []
    assert get("/openapi.json")["paths"]["/chat"]
    page = node.http.get("/")
    assert page.status_code == 200 and "<html" in page.text


def test_every_metric_has_its_help(node):
    lines = node.http.get("/metrics").text.splitlines()
    helped = {line.split()[2] for line in lines if line.startswith("# HELP")}
    typed = {line.split()[2] for line in lines if line.startswith("# TYPE")}
    assert typed and typed <= helped


def test_sigterm_tells_open_streams_and_exits_zero(start, store):
    running = start(store)
    with running.http.stream("POST", "/chat/stream", json={"prompt": "Count to a thousand.", "max_tokens": 1500}) as response:
        iterator = events(response)
        assert next(iterator)[0] == "stream_start"
        assert next(iterator)[0] == "token"
        began = time.monotonic()
        running.process.terminate()
        last = list(iterator)[-1]
    assert last[0] == "error" and last[1]["error"]["code"] == "shutting_down"
    assert running.process.wait(10) == 0
    assert time.monotonic() - began < 10, "the interface promises an end within ten seconds"


def test_a_second_writer_is_refused_and_readers_are_not(node):
    refused = run("import", data_dir=node.data_dir, check=False)
    assert refused.returncode == 2 and "node" in refused.stderr
    assert run("verify", data_dir=node.data_dir).returncode == 0
    assert json.loads(run("model", "info", "--json", data_dir=node.data_dir).stdout)["model_id"]


def test_unknown_configuration_keys_are_named(tmp_path):
    config = tmp_path / "bad.toml"
    config.write_text("[inference]\nreplicass = 3\n")
    done = run("model", "info", "--config", config, data_dir=tmp_path / "none", check=False)
    assert done.returncode != 0 and "replicass" in done.stderr
    done = run("model", "info", data_dir=tmp_path / "none", env={"BLYAN__INFERENCE__REPLICASS": "3"}, check=False)
    assert done.returncode != 0 and "replicass" in done.stderr.lower()


def test_a_public_address_without_keys_is_refused(tmp_path):
    done = run("node", "--listen", "0.0.0.0:0", data_dir=tmp_path / "d", check=False, timeout=60)
    assert done.returncode != 0 and "key" in done.stderr.lower()


@pytest.mark.parametrize("command", [("decode", "--prompt", 8, "--generate", 4), ("prefill", "--tokens", 16)])
def test_a_bench_says_its_figure_at_the_top(session_store, node, command):
    done = run("bench", *command, "--repetitions", "2", "--top-k-experts", "12", "--threads", "1", "--json", data_dir=session_store)
    report = json.loads(done.stdout)
    assert report["tokens_per_second"] == report[command[0]]["median"] > 0
    assert (report["top_k_experts"], report["threads"], report["backend"]) == (12, 1, "fast")
