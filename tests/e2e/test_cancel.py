"""Cancels and disconnects while a request waits, reads its prompt or answers. BLYAN_CHAOS sets the number of cases."""

import asyncio
import collections
import contextlib
import dataclasses
import json
import os
import random
import re
import statistics

import pytest
from clients import Client
from conftest import run

CASES = int(os.environ.get("BLYAN_CHAOS", "40"))
BATCH = 32
STAYING = 4
CHUNK = 16
WAYS = ("http", "sse", "ws_cancel", "ws_close")
PHASES = ("queue", "prefill", "decode")
ENDED = "blyan_inference_ended_requests_total"
STEPS = "blyan_inference_step_seconds_count"
# An expert that computes every token: its count is the node's count of computed tokens.
WITNESS = "layer0.expert0"
SAMPLE = re.compile(r"^(\w+)(?:\{(.*)\})? (\S+)$", re.MULTILINE)


def seeded() -> random.Random:
    seed = int(os.environ.get("BLYAN_SEED", random.randrange(1 << 32)))
    print(f"\nseed {seed}: BLYAN_SEED={seed} repeats it")
    return random.Random(seed)


def phase_of(receipt) -> str:
    """As far as the receipt tells: what began its first step and did not end it looks as if it still waited."""
    if receipt["tokens_out"]:
        return "decode"
    return "prefill" if receipt["computed"] else "queue"


class Counts:
    """The node's metrics and its count of computed tokens at one time."""

    def __init__(self, node):
        self.samples = SAMPLE.findall(node.http.get("/metrics").raise_for_status().text)
        self.computed = node.http.get(f"/experts/stats/{WITNESS}").raise_for_status().json()["tokens"]

    def sum(self, name, *labels) -> float:
        return sum(float(value) for known, with_labels, value in self.samples
                   if known == name and all(label in with_labels for label in labels))

    def cut_in(self, phase) -> float:
        """Requests that did not finish, by where they were."""
        label = f'phase="{phase}"'
        return self.sum(ENDED, label) - self.sum(ENDED, label, 'outcome="finished"')


@dataclasses.dataclass
class Audit:
    """What has happened since the last one."""

    # Requests that did not finish, by the phase that the node gives them.
    cut: dict
    # Tokens computed for requests that had ended meanwhile.
    thrown_away: int
    # Since the start.
    steps: float


class Books:
    """What the node says about itself, held against what the clients know."""

    def __init__(self, node):
        self.node, self.seen = node, set()
        few, many = (node.http.post("/chat", json=Client("http", words, 1).body).json()["usage"]["prompt_tokens"]
                     for words in (3, 40))
        assert many - few == 37, "a word is a token"
        self.tokens_beside_words = few - 3
        self.settle()
        self.new_receipts()
        self.sockets, self.generations = self.open_sockets(), self.all_generations()
        self.before = Counts(node)

    def open_sockets(self) -> int:
        folder, links = f"/proc/{self.node.process.pid}/fd", []
        for entry in os.listdir(folder):
            with contextlib.suppress(FileNotFoundError):
                links.append(os.readlink(f"{folder}/{entry}"))
        return sum(link.startswith("socket:") for link in links)

    def all_generations(self) -> dict:
        return {path: one["generation"] for path, one in self.node.tree().items()}

    def settle(self):
        """Waits until nothing is left of any request: no sequence, no key/value memory, no stream, no connection."""
        gauges = ("blyan_inference_admitted_requests", "blyan_inference_waiting_requests", "blyan_inference_kv_bytes",
                  "blyan_edge_streams_count", "blyan_edge_websockets_count")
        self.node.wait_for(lambda: not any((now := Counts(self.node)).sum(gauge) for gauge in gauges), 60)

    def new_receipts(self) -> list[dict]:
        listed = json.loads(run("receipts", "--json", data_dir=self.node.data_dir).stdout)
        assert len({receipt["request_id"] for receipt in listed}) == len(listed), "a receipt is there twice"
        new = [receipt for receipt in listed if receipt["request_id"] not in self.seen]
        for receipt in new:
            receipt["computed"] = receipt.pop("experts").get(WITNESS, 0)
        self.seen.update(receipt["request_id"] for receipt in new)
        return new

    def audit(self, clients) -> "Audit":
        """Once the node is idle, holds everything against everything."""
        self.settle()
        self.node.wait_for(lambda: self.open_sockets() <= self.sockets)
        before, now, receipts = self.before, Counts(self.node), self.new_receipts()
        self.before = now
        self._match(clients, receipts)
        for counter in ("blyan_edge_stream_ends_total", ENDED):
            assert now.sum(counter) - before.sum(counter) == len(receipts), counter
        assert self.all_generations() == self.generations, "something was restarted"
        assert now.sum("blyan_edge_panics_total") == 0
        return Audit(cut={phase: now.cut_in(phase) - before.cut_in(phase) for phase in PHASES}, steps=now.sum(STEPS),
                     thrown_away=tokens_thrown_away(receipts, now.computed - before.computed))

    def _match(self, clients, receipts):
        """Each admitted request has one receipt. Its number of prompt tokens tells whose it is."""
        by_prompt = collections.defaultdict(list)
        for receipt in receipts:
            by_prompt[receipt["tokens_in"]].append(receipt)
        for client in clients:
            mine = by_prompt.pop(client.words + self.tokens_beside_words, [])
            assert len(mine) <= 1, mine
            client.receipt = mine[0] if mine else None
            if client.request_id is not None:
                assert client.receipt and client.receipt["request_id"] == client.request_id, client
                assert client.receipt["tokens_out"] >= client.tokens, client
        assert not by_prompt, f"receipts of nobody: {by_prompt}"


def tokens_thrown_away(receipts, computed) -> int:
    """Nothing was computed twice, and after its end a request was part of the step that was under way at most."""
    under_way = 0
    for receipt in receipts:
        own, prompt, answer = receipt["computed"], receipt["tokens_in"], receipt["tokens_out"]
        if answer:
            assert own == prompt + answer - 1, receipt
        else:
            assert own < prompt and own % CHUNK == 0, receipt
        if receipt["outcome"]["kind"] != "finished":
            under_way += 1 if answer else min(CHUNK, prompt - own)
    thrown_away = computed - sum(receipt["computed"] for receipt in receipts)
    assert 0 <= thrown_away <= under_way, f"{thrown_away} tokens too many, {under_way} were under way"
    return thrown_away


class Tally:
    """How many clients went in which way and phase."""

    def __init__(self):
        self.cells, self.by_node, self.late = collections.Counter(), collections.Counter(), collections.defaultdict(list)
        self.thrown_away = 0

    def add(self, leaving, staying, audit):
        for client in leaving:
            self.cells[client.way, self._column(client)] += 1
            if client.tokens_then and client.receipt["outcome"]["kind"] == "cancelled":
                self.late[client.way].append(client.receipt["tokens_out"] - client.tokens_then)
        out_of_time = [client for client in staying if client.ended == "timeout"]
        for client in out_of_time:
            self.cells["deadline", self._column(client)] += 1
        assert all(client.ended in ("stop", "length") for client in staying if client not in out_of_time), staying
        for phase in PHASES:
            self.by_node[phase] += int(audit.cut[phase])
        assert sum(self.by_node.values()) == self.cut
        self.thrown_away += audit.thrown_away

    def _column(self, client) -> str:
        if client.receipt is None:
            assert client.ended is None and client.way != "deadline", client
            return "not admitted"
        outcome = client.receipt["outcome"]
        if outcome["kind"] == "finished":
            return "answered"
        expected = {"kind": "failed", "code": "timeout"} if client.ended == "timeout" else {"kind": "cancelled"}
        assert outcome == expected, client
        return phase_of(client.receipt)

    @property
    def cut(self) -> int:
        return sum(count for (_, column), count in self.cells.items() if column in PHASES)

    def show(self):
        columns = (*PHASES, "answered", "not admitted")
        print(f"{'':<10}" + "".join(f"{column:>14}" for column in columns))
        for way in sorted({way for way, _ in self.cells}):
            print(f"{way:<10}" + "".join(f"{self.cells[way, column]:>14}" for column in columns))
        print(f"by the node's own count: {dict(self.by_node)}; tokens of steps that were under way: {self.thrown_away}")
        for way, late in sorted(self.late.items()):
            print(f"{way}: tokens made that the client had not heard when it left: "
                  f"median {statistics.median(late):.0f}, max {max(late)}, n={len(late)}")


def measured_work(node):
    """About how long the node computes for a client, in seconds."""
    timing, usage = (answer := node.chat("Count to twenty. " * 20, max_tokens=12).json())["timing"], answer["usage"]
    reading = timing["prefill_ms"] / usage["prompt_tokens"] / 1000
    answering = timing["decode_ms"] / max(1, usage["completion_tokens"] - 1) / 1000
    print(f"alone: {1000 * reading:.1f} ms for a token of a prompt, {1000 * answering:.1f} ms for one of an answer")
    return lambda client: reading * client.words + answering * min(client.max_tokens, 12)


def draw(rng, ways, work) -> tuple[list[Client], list[Client]]:
    """More requests than there are slots, so that some wait: those that leave, and a few that stay to the end."""
    words = rng.sample(range(1, 40), STAYING + BATCH // 2) + rng.sample(range(80, 250), BATCH - BATCH // 2)
    staying = [Client("sse", n, 4, starts_after=rng.random() / 2) for n in words[:STAYING]]
    leaving = [Client(rng.choice(ways), n, 400, rude=rng.random() < 0.5) for n in words[STAYING:]]
    horizon = sum(map(work, staying + leaving)) / 2
    for client in leaving:
        # Those with a deadline begin together, so that some end before a slot is free.
        client.starts_after = 0 if client.way == "deadline" else rng.random() / 2
        if client.way not in ("http", "deadline") and rng.random() < 0.5:
            client.leaves_after_tokens = rng.randint(1, 12)
        elif client.way != "deadline":
            client.leaves_after = rng.random() ** 2 * horizon
    return leaving, staying


async def play(node, clients):
    await asyncio.gather(*(client.play(node.port) for client in clients))


@pytest.mark.parametrize("ways, timeout_ms, cases", [(WAYS, 300_000, CASES - CASES // 10), (("deadline",), 4000, CASES // 10)])
def test_random_cancels_leave_nothing_behind(start, store, ways, timeout_ms, cases):
    rng = seeded()
    node = start(store, env={"BLYAN__INFERENCE__PREFILL_CHUNK_TOKENS": str(CHUNK),
                             "BLYAN__INFERENCE__REQUEST_TIMEOUT_MS": str(timeout_ms)})
    work, books, tally = measured_work(node), Books(node), Tally()
    while tally.cut < cases:
        leaving, staying = draw(rng, ways, work)
        asyncio.run(play(node, leaving + staying))
        books.settle()
        fresh = Client("http", 50, 4)
        asyncio.run(play(node, [fresh]))
        tally.add(leaving, staying, books.audit([*leaving, *staying, fresh]))
        assert fresh.ended in ("stop", "length"), fresh
    tally.show()
    if cases >= 100:
        assert all(count >= tally.cut / 20 for count in tally.by_node.values()), "every phase is hit"
    assert node.stop() == 0


async def full_house(node):
    """Two clients that hear their answers, two whose long prompts are read, and one of each way that waits."""
    leave = asyncio.Event()
    answering = [Client(way, 1 + n, 400, leaves_at=leave) for n, way in enumerate(("sse", "ws_cancel"))]
    reading = [Client(way, 800 + n, 100, leaves_at=leave) for n, way in enumerate(("http", "ws_close"))]
    waiting = [Client(way, 10 + n, 100, leaves_at=leave, rude=bool(n % 2)) for n, way in enumerate(WAYS)]
    tasks = []

    async def come(group, here):
        tasks.extend(asyncio.create_task(client.play(node.port)) for client in group)
        await there(here)

    await come(answering, lambda: all(client.tokens for client in answering))
    await come(reading, lambda: load(node) == (4, 0))
    await come(waiting, lambda: load(node) == (8, 4))
    # The prompts take turns, a chunk in each step.
    begun = Counts(node).computed
    await there(lambda: Counts(node).computed >= begun + 4 * (CHUNK + len(answering)))
    return answering + reading + waiting, tasks, leave


def load(node):
    now = Counts(node)
    return now.sum("blyan_inference_admitted_requests"), now.sum("blyan_inference_waiting_requests")


async def there(condition):
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("point, steps_to_come", [("inference-1", 0), ("expert_ffn", 1)])
def test_no_step_is_begun_after_a_cancel(faultnode, store, point, steps_to_come):
    """While the replica is held, between steps or inside one, all clients go; then it is let go."""
    limits = {"BLYAN__INFERENCE__SLOTS_PER_REPLICA": "4",
              "BLYAN__INFERENCE__STEP_TIMEOUT_MS": "60000", "BLYAN__SUPERVISION__REPLICA_STUCK_MS": "90000"}
    node = faultnode(store, env={"BLYAN__INFERENCE__PREFILL_CHUNK_TOKENS": str(CHUNK),
                                 "BLYAN__INFERENCE__REPLICAS": "1", **limits})
    books = Books(node)

    async def scene():
        clients, tasks, leave = await full_house(node)
        node.command(f"arm {point} stall 5000")
        await there(lambda: f"struck {point}\n" in node.lines)
        held = Counts(node)
        leave.set()
        await there(lambda: load(node) == (0, 0))
        ended = Counts(node)
        await asyncio.gather(*tasks)
        return clients, held, ended

    clients, held, ended = asyncio.run(scene())
    assert ended.sum(STEPS) == held.sum(STEPS), "all have ended and have receipts before the replica does anything"
    audit = books.audit(clients)
    assert audit.steps == held.sum(STEPS) + steps_to_come
    phases = collections.Counter(phase_of(client.receipt) for client in clients)
    assert phases == {"decode": 2, "prefill": 2, "queue": 4}
    assert all(client.receipt["outcome"] == {"kind": "cancelled"} for client in clients)
    # One step has a row for each answer and a chunk of one prompt.
    assert audit.thrown_away == steps_to_come * (2 + CHUNK)
    assert node.chat().status_code == 200
