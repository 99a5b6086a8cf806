"""Streams that outlive the replica that steps them: the client sees no error and the same tokens. BLYAN_CHAOS sets the
number of disturbances."""

import json
import os
import random
import statistics
import threading
import time

import httpx
import pytest
from conftest import run
from test_faults import RAISED

DISTURBANCES = int(os.environ.get("BLYAN_CHAOS", "12"))
REFERENCES = min(50, max(8, DISTURBANCES // 10))
TOKENS = 40
STREAMS = 4
# Undisturbed runs among the disturbed ones, as the measure of what a disturbance costs.
CALM_EVERY = 5
STUCK_MS = 1500
# A stall longer than the replica's stuck limit: its thread is given up and comes back later.
HANG_MS = STUCK_MS + 1500
KINDS = ("panic", "panic in a step", "hang in a step", "quarantine", "failover", "expert_cache", "chain")
REPLICAS = ("inference-1", "inference-2")
ENV = RAISED | {
    "BLYAN__INFERENCE__STRICT": "true",
    "BLYAN__SUPERVISION__REPLICA_STUCK_MS": str(STUCK_MS),
    # More than can be asleep at one time.
    "BLYAN__SUPERVISION__ZOMBIES_MAX": "32",
}


class Stream:
    """One chat, its tokens and when they came."""

    def __init__(self, node, body):
        self.node, self.body = node, body
        self.tokens, self.times, self.end, self.request_id = [], [], None, None
        self.thread = threading.Thread(target=self._listen)

    def start(self):
        self.thread.start()
        return self

    def _listen(self):
        try:
            with httpx.Client(base_url=self.node.url, timeout=60) as client:
                with client.stream("POST", "/chat/stream", json=self.body) as response:
                    assert response.status_code == 200, response.read()
                    for line in response.iter_lines():
                        if line.startswith("event:"):
                            kind = line[6:].strip()
                        elif line.startswith("data:"):
                            self._hear(kind, json.loads(line[5:]))
        except (httpx.HTTPError, AssertionError) as error:
            self.end = repr(error)

    def _hear(self, kind, data):
        if kind == "stream_start":
            self.request_id = data["stream_id"]
        elif kind == "token":
            self.tokens.append(data["token"])
            self.times.append(time.monotonic())
        elif kind == "stream_end":
            self.end = data["finish_reason"]
        elif kind == "error":
            self.end = data["error"]["code"]

    @property
    def answer(self):
        return self.tokens, self.end

    @property
    def longest_stall(self) -> float:
        return max((b - a for a, b in zip(self.times, self.times[1:])), default=0.0)


def bodies():
    """Half greedy, half seeded; long enough to be disturbed while they answer."""
    for number in range(REFERENCES):
        body = {"prompt": f"Tell me a story about {number + 2} travellers and a river.", "max_tokens": TOKENS}
        yield body | ({"temperature": 0} if number % 2 else {"temperature": 1.0, "seed": 7000 + number})


class Disturber:
    """What happens to the node, and how it gets well again."""

    def __init__(self, node, rng):
        self.node, self.rng = node, rng
        self.done = {}

    def strike(self):
        kind = self.rng.choice(KINDS)
        self.done[kind] = self.done.get(kind, 0) + 1
        match kind:
            case "panic":
                self.node.command(f"arm {self.rng.choice(REPLICAS)} panic")
            case "panic in a step":
                self.node.command("arm expert_ffn panic")
            case "hang in a step":
                self.node.command(f"arm expert_ffn stall {HANG_MS}")
            case "failover":
                self.order("failover", self.rng.choice(REPLICAS))
            case "quarantine":
                replica = self.rng.choice(REPLICAS)
                self.order("quarantine_node", replica)
                self.order("recover_node", replica)
            case point:
                self.node.command(f"arm {point} panic")
        return kind

    def order(self, what, replica):
        path = f"/security/{what}/serving/replicas/{replica}"
        self.node.http.post(path, headers=self.node.admin).raise_for_status()

    def settle(self):
        """Until every part runs and no thread is asleep."""
        def well():
            health = self.node.http.get("/monitoring/health", headers=self.node.admin).json()
            states = {one["state"] for one in self.node.tree().values()}
            return health["zombies"] == 0 and states == {"running"}

        self.node.wait_for(well, 30)


class Speeds:
    """Tokens per second of all streams that ran together, from their first token to their last, by what happened."""

    def __init__(self):
        self.all = {}

    def count(self, kind, running):
        times = sorted(time for one in running for time in one.times)
        self.all.setdefault(kind, []).append((len(times), times[-1] - times[0]))

    def rate(self, kind):
        return statistics.median(tokens / took for tokens, took in self.all[kind])

    def tell(self):
        calm = self.rate("calm")
        print(f"undisturbed: median {calm:.0f} tokens/s of {STREAMS} streams, {len(self.all['calm'])} times")
        for kind in sorted(self.all.keys() - {"calm"}):
            missed = statistics.median(calm * took - tokens for tokens, took in self.all[kind])
            print(f"cost, {kind}: {self.rate(kind):.0f} tokens/s while it happens, {missed:.0f} tokens not made")


def undisturbed(node, chosen):
    running = [Stream(node, calm.body).start() for calm in chosen]
    for calm, one in zip(chosen, running, strict=True):
        one.thread.join()
        assert one.answer == calm.answer
    return running


def test_disturbed_streams_give_the_same_tokens(faultnode, store):
    seed = int(os.environ.get("BLYAN_SEED", random.randrange(1 << 32)))
    print(f"\nseed {seed}: BLYAN_SEED={seed} repeats it")
    rng = random.Random(seed)
    node = faultnode(store, env=ENV)
    expected = []
    for body in bodies():
        one = Stream(node, body).start()
        one.thread.join()
        assert one.end in ("stop", "length"), one.end
        expected.append(one)
    disturber, streams, stalls, speeds = Disturber(node, rng), [], {}, Speeds()
    while (number := sum(disturber.done.values())) < DISTURBANCES:
        chosen = [rng.choice(expected) for _ in range(STREAMS)]
        if number % CALM_EVERY == 0:
            speeds.count("calm", undisturbed(node, chosen))
        running = [Stream(node, calm.body).start() for calm in chosen]
        victim, at = rng.choice(running), rng.randrange(1, TOKENS - 10)
        while victim.end is None and len(victim.tokens) < at:
            time.sleep(0.001)
        kind = disturber.strike()
        for calm, one in zip(chosen, running, strict=True):
            one.thread.join()
            assert one.answer == calm.answer, (kind, one.body, one.end)
            stalls.setdefault(kind, []).append(one.longest_stall)
            streams.append((calm, one))
        speeds.count(kind, running)
        disturber.settle()
    print(f"{len(streams)} streams, each like undisturbed, under {disturber.done}")
    for kind, times in sorted(stalls.items()):
        print(f"longest stall, {kind}: median {1000 * statistics.median(times):.0f} ms, max {1000 * max(times):.0f} ms")
    speeds.tell()
    assert max(map(max, stalls.values())) < 3, "SEC-08: three seconds"
    check_receipts(node, streams)
    assert node.stop() == 0


def check_receipts(node, streams):
    """A disturbed stream's receipt counts as many tokens as that of its undisturbed twin, however often they were
    computed."""
    wanted = {one.request_id for pair in streams for one in pair}

    def found():
        listed = json.loads(run("receipts", "--json", data_dir=node.data_dir).stdout)
        tokens = {one["request_id"]: (one["tokens_in"], one["tokens_out"]) for one in listed}
        return tokens if wanted <= tokens.keys() else None

    tokens = node.wait_for(found)
    assert len({one.request_id for _, one in streams}) == len(streams)
    for calm, one in streams:
        assert tokens[one.request_id] == tokens[calm.request_id], one.body
