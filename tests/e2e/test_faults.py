"""Panics, windows and stuck runs in a fault node, under streaming chats. BLYAN_CHAOS sets the number of panics."""

import json
import os
import random
import statistics
import threading
import time

import httpx
import pytest

PANICS = int(os.environ.get("BLYAN_CHAOS", "40"))
RAISED = {
    "BLYAN__SUPERVISION__CHILD_RESTARTS_MAX": "100000",
    "BLYAN__SUPERVISION__CHILD_WINDOW_MS": "20000000",
    "BLYAN__SUPERVISION__SUPERVISOR_RESTARTS_MAX": "100000",
    "BLYAN__SUPERVISION__SUPERVISOR_WINDOW_MS": "20000000",
    "BLYAN__SUPERVISION__BACKOFF_INITIAL_MS": "10",
    "BLYAN__SUPERVISION__BACKOFF_MAX_MS": "50",
    "BLYAN__SECURITY__STUCK_MAX": "100000",
}
ACTORS = {
    "chain": ("storage/chain", lambda node: node.http.get("/chain/B/head")),
    "expert_cache": ("serving/expert_cache", lambda node: node.http.get("/security/integrity_status")),
    "inference-1": ("serving/replicas/inference-1", lambda node: node.http.get("/ready")),
    "inference-2": ("serving/replicas/inference-2", lambda node: node.http.get("/ready")),
    "edge": ("edge", lambda node: node.http.get("/health")),
}


class Chats:
    """Streaming chats in threads, each ending in an answer or a typed error."""

    def __init__(self, node, count):
        self.node, self.running = node, True
        self.answers, self.typed, self.broken = 0, {}, []
        self.lock = threading.Lock()
        self.threads = [threading.Thread(target=self._loop, args=(n,)) for n in range(count)]
        for thread in self.threads:
            thread.start()

    def _loop(self, number):
        # A connection for each chat: HTTP lets a server close an idle one at any moment, also under a request that is
        # just on its way, and an edge that is replaced does.
        while self.running:
            with httpx.Client(base_url=self.node.url, timeout=120) as client:
                self._count(*self._one(client, number))

    def _one(self, client, number):
        body = {"prompt": f"Say something about the number {number}.", "max_tokens": 12, "temperature": 0}
        last, data = None, None
        try:
            with client.stream("POST", "/chat/stream", json=body) as response:
                if response.status_code != 200:
                    code = json.loads(response.read())["error"]["code"]
                    time.sleep(0.02)
                    return "typed", code
                for line in response.iter_lines():
                    if line.startswith("event:"):
                        last = line[6:].strip()
                    elif line.startswith("data:"):
                        data = json.loads(line[5:])
        except (httpx.TransportError, ValueError, KeyError) as error:
            return "broken", repr(error)
        if last == "stream_end":
            return "answer", None
        if last == "error":
            return "typed", data["error"]["code"]
        return "broken", f"ended after {last}"

    def _count(self, kind, what):
        with self.lock:
            if kind == "answer":
                self.answers += 1
            elif kind == "typed":
                self.typed[what] = self.typed.get(what, 0) + 1
            else:
                self.broken.append(what)

    def end(self):
        self.running = False
        for thread in self.threads:
            thread.join()


def test_panics_everywhere_under_chats(faultnode, store):
    node = faultnode(store, env=RAISED)
    seed = int(os.environ.get("BLYAN_SEED", random.randrange(1 << 32)))
    print(f"\nseed {seed}: BLYAN_SEED={seed} repeats it")
    rng = random.Random(seed)
    chats = Chats(node, 8)
    points = [*ACTORS, "expert_ffn"]
    fired = dict.fromkeys(points, 0)
    recovery = {point: [] for point in ACTORS}
    try:
        for number in range(PANICS):
            point = points[number % len(points)] if number < len(points) else rng.choice(points)
            path = ACTORS[point][0] if point in ACTORS else None
            before = node.tree()[path]["generation"] if path else None
            began = time.monotonic()
            node.command(f"arm {point} panic")
            if path:
                node.wait_for(lambda: (n := node.tree()[path])["generation"] > before and n["state"] == "running")
                node.wait_for(lambda: ACTORS[point][1](node).status_code == 200)
                recovery[point].append(1000 * (time.monotonic() - began))
            fired[point] += 1
            time.sleep(rng.random() * 0.05)
    finally:
        chats.end()
    assert node.process.poll() is None, "the process must live"
    assert chats.broken == [], f"{len(chats.broken)} without an answer or a typed error: {chats.broken[:3]}"
    assert chats.answers > 0
    assert "Paris" in node.wait_for(lambda: node.chat(max_tokens=16).json().get("text", ""))
    print(f"panics fired: {fired}\nchats: {chats.answers} answered, typed errors {chats.typed}")
    for point, times in recovery.items():
        if times:
            print(f"panic to first accepted answer, {point}: median {statistics.median(times):.0f} ms, max {max(times):.0f} ms, n={len(times)}")
    assert node.stop() == 0


@pytest.mark.parametrize("point", ["chain", "expert_cache", "inference-1"])
def test_an_actor_over_its_window_is_quarantined_and_refuses_at_once(faultnode, store, point):
    node = faultnode(store)
    path, probe = ACTORS[point]
    for _ in range(4):
        if node.tree()[path]["state"] == "quarantined":
            break
        generation = node.tree()[path]["generation"]
        node.command(f"arm {point} panic")
        node.wait_for(lambda: node.tree()[path]["state"] == "quarantined" or (
            node.tree()[path]["state"] == "running" and node.tree()[path]["generation"] > generation))
    found = node.wait_for(lambda: (t := node.tree()[path])["state"] == "quarantined" and t)
    assert found["last_exit"]["class"] == "panicked"
    assert any("quarantin" in line and path in line for line in node.errors), "the log says why"
    if point == "inference-1":
        assert node.http.get("/ready").status_code == 200, "the other replica serves"
        assert node.chat().status_code == 200
    else:
        began = time.monotonic()
        refused = probe(node)
        took = time.monotonic() - began
        if point == "chain":
            assert refused.status_code == 503 and refused.json()["error"]["code"] == "quarantined"
            assert refused.headers["retry-after"]
        print(f"\n{point}: answered in {1000 * took:.1f} ms while quarantined")
    node.kill()


def test_panics_of_the_edge_end_the_process_with_the_roots_code(faultnode, store):
    node = faultnode(store)
    deadline = time.monotonic() + 120
    while node.process.poll() is None and time.monotonic() < deadline:
        try:
            node.command("arm edge panic", timeout=2)
        except (AssertionError, OSError):
            pass
        time.sleep(0.25)
    assert node.process.wait(5) == 70
    said = "".join(node.errors)
    assert "more than 10 restarts within 60s, last exit: edge panicked" in said, said[-2000:]


def test_a_stuck_run_is_replaced_and_other_streams_go_on(faultnode, store):
    limit_ms = 1500
    node = faultnode(store, env={"BLYAN__SUPERVISION__REPLICA_STUCK_MS": str(limit_ms)})
    chats = Chats(node, 4)
    time.sleep(2)
    before = {path: n["generation"] for path, n in node.tree().items() if "inference-" in path}
    began = time.monotonic()
    node.command("arm expert_ffn stall 6000 1")
    replaced = node.wait_for(lambda: [p for p, n in node.tree().items() if p in before and n["generation"] > before[p] and n["state"] == "running"], 20)
    took = time.monotonic() - began
    assert len(replaced) == 1
    assert node.tree()[replaced[0]]["last_exit"]["class"] == "stuck"
    status = node.http.get("/monitoring/health", headers=node.admin).json()
    print(f"\nstuck run replaced after {took:.2f} s (limit {limit_ms} ms); zombies {status.get('zombies')}")
    assert status["zombies"] == 1
    answered = chats.answers
    node.wait_for(lambda: chats.answers > answered + 2, 60)
    node.wait_for(lambda: node.http.get("/monitoring/health", headers=node.admin).json()["zombies"] == 0, 30)
    chats.end()
    assert chats.broken == []
    assert node.stop() == 0
