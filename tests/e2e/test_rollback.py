"""A running node goes back to a snapshot: streams hear of it, the store is the snapshot's, the node is well again on the same
address, also when it is killed meanwhile. BLYAN_CHAOS sets the number of kills; BLYAN_GROW_STORE, the path of that example,
grows the store of the last test to BLYAN_BLOCKS blocks and BLYAN_BYTES bytes of payloads."""

import json
import os
import random
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
from conftest import BINARY, clean_environment, free_port, run
from miner import KEY
from test_admin import records
from test_failover import Stream
from test_snapshots import create, receipts

KILLS = int(os.environ.get("BLYAN_CHAOS", "4"))
STORY = {"prompt": "A long story about a river.", "max_tokens": 400, "temperature": 0}


def order(node, **wanted):
    return node.http.post("/chain/rollback", headers=node.admin, json={"reason": "it was poisoned", **wanted})


def last(node):
    return node.http.get("/chain/rollback", headers=node.admin).raise_for_status().json()


def ended(node, timeout=60):
    return node.wait_for(lambda: (now := last(node))["ended_ms"] and now, timeout)


def heads(node):
    return {chain: node.http.get(f"/chain/{chain}/head").json()["hash"] for chain in "AB"}


def log(data_dir):
    return [(record["outcome"], record["reason"]) for record in records(data_dir) if record["action"] == "rollback"]


class Knocker:
    """A client that asks again and again whether the node is there, each time with a new connection."""

    def __init__(self, node):
        self.url, self.statuses, self.refused, self.longest = node.url, [], 0, 0.0
        self.done = threading.Event()
        self.thread = threading.Thread(target=self._knock)
        self.thread.start()

    def _knock(self):
        while not self.done.is_set():
            began = time.monotonic()
            try:
                self.statuses.append(httpx.get(f"{self.url}/ready", timeout=60).status_code)
            except httpx.ConnectError:
                self.refused += 1
            except httpx.TransportError:
                pass
            self.longest = max(self.longest, time.monotonic() - began)
            time.sleep(0.02)

    def stop(self):
        self.done.set()
        self.thread.join()


def test_a_node_goes_back_under_chat(start, store):
    node = start(store)
    assert "Paris" in node.chat().json()["text"]
    node.wait_for(lambda: receipts(store) == 1)
    made = create(node)
    before = heads(node)
    for _ in range(2):
        assert node.chat(max_tokens=2).status_code == 200
    node.wait_for(lambda: receipts(store) == 3)
    assert node.http.post("/chain/keys", headers=node.admin, json={"key": KEY}).status_code == 200
    assert heads(node)["A"] != before["A"]

    knocker = Knocker(node)
    streams = [Stream(node, STORY).start() for _ in range(4)]
    node.wait_for(lambda: all(one.tokens for one in streams))
    ordered = order(node, snapshot=made["id"])
    assert ordered.status_code == 202, ordered.text
    assert ordered.json()["heads"] == before and ordered.json()["state"] == "ordered"
    for one in streams:
        one.thread.join()
        assert one.end == "rolling_back" and one.tokens, one.end
    done = ended(node)
    knocker.stop()
    assert (done["state"], done["failure"], done["snapshot"]) == ("done", None, made["id"])
    print(f"\nwell again {done['ended_ms'] - done['ordered_ms']} ms after the order; a client waited {knocker.longest:.2f} s")
    assert knocker.refused == 0 and set(knocker.statuses) <= {200, 503}, "the address was never given up"
    assert "Paris" in node.chat().json()["text"]
    assert log(store) == [("begun", "it was poisoned"), ("done", f"snapshot of {made['created_ms'] // 1000} s, every part is well")]
    assert node.stop() == 0
    # What has been since: the chat, and what the audit log anchors.
    assert receipts(store) == 2
    run("verify", data_dir=store)
    run("audit", "verify", data_dir=store)


def test_the_command_waits_for_the_end(start, store):
    node = start(store)
    made = create(node)
    command = ["snapshot", "rollback", "--node", node.url, "--reason", "a drill"]
    done = json.loads(run(*command, "--json", data_dir=store).stdout)
    assert (done["state"], done["snapshot"]) == ("done", made["id"])
    assert "every part is well" in run(*command, made["id"], data_dir=store).stdout
    missing = run(*command, "1-0", data_dir=store, check=False)
    assert missing.returncode == 1 and "there is no snapshot 1-0" in missing.stderr
    assert node.stop() == 0


def test_what_cannot_be_gone_back_to_changes_nothing(start, store):
    node = start(store)
    now = int(time.time())
    assert order(node).status_code == 404, "there is none"
    made = create(node)
    for wanted, status, words in [
        ({"timestamp": now - 25 * 3600}, 400, "24 hours"),
        ({"timestamp": now - 3600}, 404, "no snapshot"),
        ({"timestamp": now, "snapshot": made["id"]}, 400, "timestamp or a snapshot"),
        ({"snapshot": "../../etc"}, 404, "no snapshot"),
    ]:
        refused = order(node, **wanted)
        assert refused.status_code == status and words in refused.text, (wanted, refused.text)
    # Every payload of a snapshot is a link to the store's own; one of them rots.
    payload = next((store / "snapshots" / made["id"] / "payloads").iterdir())
    whole = payload.read_bytes()
    payload.chmod(0o600)
    payload.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    refused = order(node, snapshot=made["id"])
    assert refused.status_code in (500, 503) and payload.name in refused.text, refused.text
    payload.write_bytes(whole)
    assert node.http.get("/chain/rollback", headers=node.admin).status_code == 404
    assert log(store) == [] and "Paris" in node.chat().json()["text"]
    assert node.stop() == 0


def test_a_killed_rollback_is_finished_or_never_began(start, store):
    seed = int(os.environ.get("BLYAN_SEED", random.randrange(1 << 32)))
    print(f"\nseed {seed}: BLYAN_SEED={seed} repeats it")
    rng = random.Random(seed)
    node = start(store)
    made, base = create(node), receipts(store)
    assert order(node, snapshot=made["id"]).status_code == 202
    known = ended(node)
    takes, happened, acknowledged = (known["ended_ms"] - known["ordered_ms"]) / 1000, 0, 0
    for _ in range(KILLS):
        assert node.chat(max_tokens=1).status_code == 200
        node.wait_for(lambda: receipts(store) > base)
        with ThreadPoolExecutor(1) as admin:
            asked = admin.submit(order, node, snapshot=made["id"])
            time.sleep(rng.uniform(0, 1.5 * takes))
            node.kill()
        told = asked.exception() is None and asked.result().status_code == 202
        node = start(store)
        done = ended(node)
        new = done["id"] != known["id"]
        assert new or not told, "it was acknowledged"
        assert (done["state"], done["failure"]) == ("done", None), done
        assert (receipts(store) == base) == new, "the snapshot's store or the one before, whole"
        assert "Paris" in node.chat().json()["text"]
        known, happened, acknowledged = done, happened + new, acknowledged + told
    print(f"{KILLS} kills of rollbacks of {takes:.1f} s: {happened} happened, {acknowledged} of them acknowledged")
    outcomes = [outcome for outcome, _ in log(store)]
    assert outcomes.count("done") == happened + 1 <= outcomes.count("begun") and "failed" not in outcomes
    assert node.stop() == 0
    run("verify", data_dir=store)
    run("audit", "verify", data_dir=store)


def test_a_rollback_under_chat_is_cut_twice(start, store):
    seed = int(os.environ.get("BLYAN_SEED", random.randrange(1 << 32)))
    print(f"\nseed {seed}: BLYAN_SEED={seed} repeats it")
    rng = random.Random(seed)
    if grow := os.environ.get("BLYAN_GROW_STORE"):
        grown = subprocess.run([grow, store, os.environ["BLYAN_BLOCKS"], os.environ["BLYAN_BYTES"]],
                               env=clean_environment(), check=True, capture_output=True, text=True)
        print(grown.stdout.strip())
    node = start(store)
    assert "Paris" in node.chat().json()["text"]
    node.wait_for(lambda: receipts(store) == 1)
    made, before = create(node), heads(node)

    undisturbed = gone_back(node, made)
    assert receipts(store) == 1

    chatters, began = load(node), time.monotonic()
    assert order(node, snapshot=made["id"]).status_code == 202
    assert {one.cut_off() for one in chatters} == {"rolling_back"}
    time.sleep(rng.uniform(0, undisturbed / 4))
    node.kill()
    command = [BINARY, "node", "--data-dir", str(store), "--listen", f"127.0.0.1:{free_port()}"]
    second = subprocess.Popen(command, env=clean_environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(rng.uniform(0.1, undisturbed / 2))
    state = json.loads((store / "rollback.json").read_text())["state"]
    second.kill()
    second.wait()
    node = start(store)
    done = ended(node, 600)
    took = time.monotonic() - began
    print(f"cut twice, the second time as {state}: {took:.1f} s from the order to the end")
    assert (done["state"], done["failure"], done["heads"]) == ("done", None, before)
    assert receipts(store) == 1
    run("verify", data_dir=store)
    assert heads(node)["B"] == before["B"]
    assert "Paris" in node.chat().json()["text"]
    assert node.stop() == 0
    run("audit", "verify", data_dir=store)


class Chatter:
    """A client that chats, one answer after the other, until one ends in another way."""

    def __init__(self, node):
        self.node, self.last, self.whole = node, Stream(node, STORY), 0
        self.thread = threading.Thread(target=self._chat)
        self.thread.start()

    def _chat(self):
        self.last.start().thread.join()
        while self.last.end in ("stop", "length"):
            self.whole += 1
            self.last = Stream(self.node, STORY).start()
            self.last.thread.join()

    def cut_off(self):
        """What the end of the last answer was."""
        self.thread.join()
        return self.last.end


def load(node):
    chatters = [Chatter(node) for _ in range(4)]
    node.wait_for(lambda: all(one.last.tokens for one in chatters))
    return chatters


def gone_back(node, made):
    """Seconds from the order, once it is acknowledged, to the end, under chat; each stream hears of it."""
    chatters, knocker, began = load(node), Knocker(node), time.monotonic()
    ordered = order(node, snapshot=made["id"])
    verified = time.monotonic() - began
    assert ordered.status_code == 202, ordered.text
    assert {one.cut_off() for one in chatters} == {"rolling_back"}
    done = ended(node, 600)
    took = time.monotonic() - began
    knocker.stop()
    assert (done["state"], done["failure"]) == ("done", None), done
    print(f"undisturbed: {took:.1f} s from the order to the end, {verified:.1f} s of it verification while"
          f" {sum(one.whole for one in chatters)} chats ended well; a client waited {knocker.longest:.1f} s,"
          f" {knocker.refused} times nobody listened")
    return (done["ended_ms"] - done["ordered_ms"]) / 1000
