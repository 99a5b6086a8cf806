"""A changed expert becomes part of the model that answers, by an admin's word: what was begun before ends as it began.
BLYAN_CHAOS sets the number of kills, BLYAN_ADOPTIONS that of changes back and forth."""

import json
import os
import pathlib
import random
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from conftest import run
from test_admin import records
from test_failover import Stream
from test_miner import Miner, grant, versions

KILLS = int(os.environ.get("BLYAN_CHAOS", "4"))
ROUNDS = int(os.environ.get("BLYAN_ADOPTIONS", "20"))
# An expert that every token goes through: a change of it shows in every answer.
EXPERT = "layer4.expert0"
FACTOR = -2.0
PROMPT = "Tell me a story about two travellers and a river."
STREAMS = 8
# Alone or beside others, a stream's tokens are then the same.
STRICT = {"BLYAN__INFERENCE__STRICT": "true"}


def story(number, tokens):
    return {"prompt": f"{PROMPT} They are {number} years old.", "max_tokens": tokens, "temperature": 0}


def adopt(node, *blocks):
    return node.http.post("/model/adopt", json={"blocks": blocks, "reason": "it was asked for"}, headers=node.admin)


def served(node):
    """What the node says that it serves: all parts of it agree."""
    model = node.chat().json()["model_id"]
    assert node.http.get("/monitoring/health", headers=node.admin).json()["model_id"] == model
    return model


def answer(node, body):
    one = Stream(node, body).start()
    one.thread.join()
    assert one.end in ("stop", "length"), one.end
    return one


def mine(node, miner, factor=FACTOR):
    """A changed expert on the chain: its block and that of the expert that it was made of."""
    before = next(version["hash"] for version in versions(node, EXPERT) if version["current"])
    miner.changed(factor, EXPERT)
    return before, json.loads(miner.upload(node.url).stdout)["block"]


@pytest.fixture
def miner(tmp_path, store):
    return Miner(tmp_path / "miner", store)


@pytest.fixture
def mined(start, store, miner):
    """A node, and the blocks of an expert before and after."""
    node = start(store, env=STRICT)
    grant(node, miner.public_key)
    return node, *mine(node, miner)


def test_a_mined_expert_answers_after_its_adoption(mined):
    node, old, new = mined
    model = served(node)
    calm = answer(node, story(7, 120))

    running = Stream(node, story(7, 120)).start()
    node.wait_for(lambda: len(running.tokens) >= 3)
    told = run("model", "adopt", new, "--node", node.url, "--reason", "it answers better", "--json",
               data_dir=node.data_dir)
    assert running.end is None, "the stream was to be running while the model changed"
    adopted = json.loads(told.stdout)
    assert (adopted["model_id_before"], adopted["replaced"]) == (model, [{"name": EXPERT, "from": old, "to": new}])
    changed = served(node)
    assert changed == adopted["model_id"] != model
    after = answer(node, story(7, 120))
    running.thread.join()
    assert running.answer == calm.answer, "it ends as it began"
    assert after.tokens != calm.tokens

    lineage = node.http.get(f"/chain/B/lineage/{new}").json()
    assert {old, new} <= {block["hash"] for block in lineage["blocks"]}, lineage
    current = {version["hash"]: version["current"] for version in versions(node, EXPERT)}
    assert current == {old: False, new: True}
    assert adopt(node, new).json() == {"model_id": changed, "model_id_before": changed, "replaced": []}
    check_audit(node, new, changed)

    back = adopt(node, old).raise_for_status().json()
    assert back["replaced"] == [{"name": EXPERT, "from": new, "to": old}]
    assert answer(node, story(7, 120)).answer == calm.answer, "the older block leads back"

    assert node.stop() == 0
    receipts = json.loads(run("receipts", "--json", data_dir=node.data_dir).stdout)
    models = {receipt["request_id"]: receipt["model_id"] for receipt in receipts}
    assert [models[one.request_id] for one in (calm, running, after)] == [model, model, changed]
    run("verify", data_dir=node.data_dir)
    run("audit", "verify", data_dir=node.data_dir)


def check_audit(node, block, model):
    adoptions = [record for record in records(node.data_dir) if record["action"] == "adopt"]
    subject = f"{EXPERT}={block}"
    said = [(record["outcome"], record["subject"], record["reason"]) for record in adoptions]
    assert said == [("begun", subject, "it answers better"), ("done", subject, model)]


def test_adoptions_back_and_forth_leave_nothing_behind(mined):
    node, old, new = mined
    calm = {old: [answer(node, story(number, 40)) for number in range(STREAMS)]}
    models = {adopt(node, new).json()["model_id"]: new}
    calm[new] = [answer(node, story(number, 40)) for number in range(STREAMS)]
    models[adopt(node, old).json()["model_id"]] = old
    assert all(a.tokens != b.tokens for a, b in zip(calm[old], calm[new], strict=True))
    before = resources(node)
    rng = random.Random(20)
    for turn in range(ROUNDS):
        now, then = (old, new) if turn % 2 == 0 else (new, old)
        running = [Stream(node, story(number, 40)).start() for number in range(STREAMS)]
        at = rng.randrange(1, 20)
        node.wait_for(lambda: all(len(one.tokens) >= at for one in running))
        adopt(node, then).raise_for_status()
        late = Stream(node, story(0, 40)).start()
        for one, undisturbed in zip(running, calm[now], strict=True):
            one.thread.join()
            assert one.answer == undisturbed.answer, (turn, one.end)
        late.thread.join()
        assert late.answer == calm[then][0].answer, (turn, "the next request is answered by the next model")
    node.wait_for(lambda: resources(node)[:2] <= before[:2])
    print(f"\n{ROUNDS} adoptions under {STREAMS} streams: threads, tree {before[:2]} -> {resources(node)[:2]},"
          f" memory {before[2] >> 20} -> {resources(node)[2] >> 20} MiB")
    assert resources(node)[2] < before[2] + (64 << 20)
    assert node.stop() == 0


def resources(node):
    """Threads, children in the tree, bytes in memory that are the process's own."""
    status = pathlib.Path(f"/proc/{node.pid}/status").read_text()
    fields = dict(line.split(":\t", 1) for line in status.splitlines())
    return int(fields["Threads"]), len(node.tree()), int(fields["RssAnon"].split()[0]) * 1024


def test_a_killed_adoption_happened_or_did_not(start, store, miner):
    seed = int(os.environ.get("BLYAN_SEED", random.randrange(1 << 32)))
    print(f"\nseed {seed}: BLYAN_SEED={seed} repeats it")
    rng = random.Random(seed)
    node = start(store, env=STRICT)
    grant(node, miner.public_key)
    old, new = mine(node, miner)
    calm = {old: answer(node, story(7, 24)).answer}
    began = time.monotonic()
    adopt(node, new).raise_for_status()
    takes = time.monotonic() - began
    calm[new] = answer(node, story(7, 24)).answer
    now, acknowledged, happened = new, 0, 0
    for _ in range(KILLS):
        then = old if now == new else new
        with ThreadPoolExecutor(1) as admin:
            order = admin.submit(adopt, node, then)
            time.sleep(rng.uniform(0, 1.3 * takes))
            node.kill()
        done = order.exception() is None and order.result().status_code == 200
        node = start(store, env=STRICT)
        current = [version["hash"] for version in versions(node, EXPERT) if version["current"]]
        assert current in ([now], [then])
        assert not done or current == [then], "it was acknowledged"
        acknowledged, happened = acknowledged + done, happened + (current == [then])
        (now,) = current
        assert answer(node, story(7, 24)).answer == calm[now]
    print(f"{KILLS} kills of adoptions: {happened} happened, {acknowledged} of them acknowledged; {takes:.2f} s each")
    assert node.stop() == 0
    run("verify", data_dir=store)
    run("audit", "verify", data_dir=store)


def test_what_cannot_be_part_of_the_model_is_refused_in_words(mined):
    node, old, new = mined
    before = served(node)
    model = json.loads(run("model", "info", "--json", data_dir=node.data_dir).stdout)["entries"]
    shared = next(entry["block"] for name, entry in model.items() if "expert" not in name)
    for blocks, status, words in [
        ([], 400, "no block"),
        ([new, old], 400, f"Two of the blocks are for {EXPERT}"),
        (["00" * 32], 404, "no block"),
        ([before], 422, "manifest"),
        ([shared], 422, "shared_weights"),
    ]:
        refused = adopt(node, *blocks)
        error = refused.json()["error"]
        assert refused.status_code == status and words in error["message"] and error["hint"], (blocks, refused.text)
    assert node.http.post("/model/adopt", json={"blocks": [new]}).status_code == 401

    version = next(version for version in versions(node, EXPERT) if version["hash"] == new)
    payload = node.data_dir / "payloads" / version["payload_hash"]
    whole = payload.read_bytes()
    payload.chmod(0o600)
    payload.write_bytes(whole[:5000] + bytes([whole[5000] ^ 1]) + whole[5001:])
    refused = adopt(node, new)
    assert refused.status_code == 422 and "does not match its hash" in refused.text, refused.text
    assert refused.json()["error"]["expert"] == {"name": EXPERT, "hash": version["payload_hash"]}
    assert served(node) == before
    payload.write_bytes(whole)
    assert adopt(node, new).status_code == 200, "mended, it is adopted"
    assert node.stop() == 0
