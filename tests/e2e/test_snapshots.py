"""Snapshots of running and stopped nodes, and the way back to one, also when it is killed. BLYAN_CHAOS sets the number of
kills."""

import json
import os
import random
import subprocess
import time

from conftest import BINARY, clean_environment, run
from test_failover import Stream

KILLS = int(os.environ.get("BLYAN_CHAOS", "6"))


def listed(data_dir):
    return json.loads(run("snapshot", "list", "--json", data_dir=data_dir).stdout)


def receipts(data_dir):
    return len(json.loads(run("receipts", "--json", data_dir=data_dir).stdout))


def create(node):
    (made,) = json.loads(run("snapshot", "create", "--json", data_dir=node.data_dir,
                             env={"BLYAN__NODE__LISTEN": f"127.0.0.1:{node.port}"}).stdout)
    return made


def test_a_running_node_is_copied_under_chat_and_goes_back(start, store):
    node = start(store)
    assert "Paris" in node.chat().json()["text"]
    node.wait_for(lambda: receipts(store) == 1)
    body = {"prompt": "A long story about a river.", "max_tokens": 60, "temperature": 0}
    streams = [Stream(node, body).start() for _ in range(2)]
    node.wait_for(lambda: all(len(one.tokens) > 2 for one in streams))
    made = create(node)
    assert made["receipts"] == 1 and made["payloads"] > 600
    for one in streams:
        one.thread.join()
        assert one.end in ("stop", "length") and one.answer == streams[0].answer
    assert listed(store) == [made]
    run("snapshot", "verify", data_dir=store)
    node.wait_for(lambda: receipts(store) == 3)
    held = run("snapshot", "restore", data_dir=store, check=False)
    assert held.returncode == 2 and "held by a running node" in held.stderr
    assert "blyan snapshot rollback" in held.stderr
    assert node.stop() == 0
    run("snapshot", "restore", made["id"], data_dir=store)
    assert receipts(store) == 1
    run("verify", data_dir=store)
    node = start(store)
    assert "Paris" in node.chat().json()["text"]
    assert node.stop() == 0


def test_a_node_makes_them_by_itself_and_admins_ask_for_them(start, store):
    node = start(store, env={"BLYAN__CHAIN__SNAPSHOT_EVERY_MS": "300"})
    node.wait_for(lambda: len(listed(store)) >= 2)
    assert node.http.get("/chain/snapshots").status_code == 401
    assert node.http.post("/chain/snapshots").status_code == 401
    made = node.http.post("/chain/snapshots", headers=node.admin).json()
    told = node.http.get("/chain/snapshots", headers=node.admin).json()["snapshots"]
    assert made in told and made["genesis"] == node.http.get("/genesis/hash").json()["genesis_hash"]
    assert node.stop() == 0
    for one in listed(store):
        run("snapshot", "verify", one["id"], data_dir=store)
    # No node holds the store any more: the command makes one itself.
    run("snapshot", "create", data_dir=store)
    assert listed(store)[-1]["created_ms"] > made["created_ms"]
    unknown = run("snapshot", "verify", "1-0", data_dir=store, check=False)
    assert unknown.returncode == 1 and "there is no snapshot 1-0" in unknown.stderr


def test_a_restore_that_is_killed_is_finished_or_never_began(start, store):
    seed = int(os.environ.get("BLYAN_SEED", random.randrange(1 << 32)))
    print(f"\nseed {seed}: BLYAN_SEED={seed} repeats it")
    rng = random.Random(seed)
    run("snapshot", "create", data_dir=store)
    before, took, ended = receipts(store), 1.0, {"before": 0, "after": 0}
    for _ in range(KILLS):
        node = start(store)
        assert node.chat(max_tokens=1).status_code == 200
        node.wait_for(lambda: receipts(store) > before)
        assert node.stop() == 0
        since = receipts(store)
        command = [BINARY, "snapshot", "restore", listed(store)[0]["id"], "--data-dir", str(store)]
        began = time.monotonic()
        process = subprocess.Popen(command, env=clean_environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            # Its last moments are where things change places.
            process.wait(timeout=took * rng.uniform(0.6, 1.05))
            took = time.monotonic() - began
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        # The next that writes finishes what was begun.
        run("import", data_dir=store)
        run("verify", data_dir=store)
        found = receipts(store)
        assert found in (before, since), "one or the other, whole"
        ended["after" if found == before else "before"] += 1
        run("snapshot", "restore", data_dir=store)
        assert receipts(store) == before
    run("snapshot", "verify", data_dir=store)
    print(f"{KILLS} restores killed: {ended['before']} had not begun, {ended['after']} were finished")
