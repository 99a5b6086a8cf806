"""Quarantine, recovery and failover by an admin, and what the audit log says of them."""

import hashlib
import json
import shutil
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from conftest import run
from test_damage import entries, flip
from test_failover import Stream

ONE, TWO = "serving/replicas/inference-1", "serving/replicas/inference-2"


def order(node, what, path, **body):
    return node.http.post(f"/security/{what}/{path}", headers=node.admin, **({"json": body} if body else {}))


def status(node, path):
    return node.http.get(f"/security/node_status/{path}", headers=node.admin).raise_for_status().json()


def records(store):
    """The audit log, oldest first."""
    files = sorted((store / "audit").glob("*"))
    lines = [json.loads(line) for file in files for line in file.read_text().splitlines() if line.startswith("{")]
    return [line.get("record", line) for line in lines]


def test_a_replica_goes_out_of_service_and_comes_back(start, store):
    node = start(store)
    first = order(node, "quarantine_node", ONE, reason="it looks odd")
    assert first.status_code == 200 and first.json()["changed"] is True, first.text
    assert node.tree()[ONE]["state"] == "quarantined"
    assert node.http.get("/ready").status_code == 200
    assert "Paris" in node.chat().json()["text"]
    again = order(node, "quarantine_node", ONE.replace("/", "%2F"))
    assert again.status_code == 200 and again.json()["changed"] is False
    told = status(node, ONE)
    assert told["state"] == "quarantined" and told["reason"] == "it looks odd" and told["by"] == "owner from 127.0.0.1"
    back = order(node, "recover_node", ONE)
    assert back.status_code == 200 and back.json()["standing"]["state"] == "healthy", back.text
    assert node.tree()[ONE]["state"] == "running"
    assert order(node, "recover_node", ONE).json()["changed"] is False
    assert node.stop() == 0


def test_the_last_that_serves_is_taken_only_by_force(start, store):
    node = start(store)
    assert order(node, "quarantine_node", ONE).status_code == 200
    refused = order(node, "quarantine_node", TWO)
    assert refused.status_code == 400 and "force" in refused.json()["error"]["hint"], refused.text
    assert order(node, "quarantine_node", "node").status_code == 400
    # Who could take it back?
    assert order(node, "quarantine_node", "security", force=True).status_code == 400
    assert order(node, "quarantine_node", "edge", force=True).status_code == 404
    assert node.http.get("/ready").status_code == 200
    forced = order(node, "quarantine_node", TWO, force=True)
    assert forced.status_code == 200, forced.text
    assert node.http.get("/ready").status_code == 503
    assert order(node, "quarantine_node", "serving/replicas/inference-9").status_code == 404
    assert order(node, "recover_node", TWO).status_code == 200
    assert "Paris" in node.chat().json()["text"]
    assert node.stop() == 0


def test_each_admin_signs_with_a_name(start, store, tmp_path):
    keys = tmp_path / "admins"
    keys.write_text(f"night-shift {hashlib.sha256(b'a key of the night').hexdigest()}\n")
    node = start(store, env={"BLYAN__EDGE__ADMIN_KEYS_FILE": str(keys)})
    night = {"X-API-Key": "a key of the night"}
    assert node.http.post(f"/security/quarantine_node/{ONE}", headers=night).status_code == 200
    assert status(node, ONE)["by"] == "night-shift from 127.0.0.1"
    assert order(node, "recover_node", ONE).status_code == 200
    assert node.stop() == 0
    who = [one["who"] for one in records(store) if one["action"] in ("quarantine", "probe")]
    assert who == ["night-shift from 127.0.0.1", "owner from 127.0.0.1"], who


def test_a_decision_outlives_the_process(start, store):
    node = start(store)
    assert order(node, "quarantine_node", ONE, reason="kept").status_code == 200
    node.kill()
    node = start(store)
    node.wait_for(lambda: node.tree()[ONE]["state"] == "quarantined")
    assert status(node, ONE)["reason"] == "kept"
    assert order(node, "recover_node", ONE).status_code == 200
    node.kill()
    node = start(store)
    assert node.tree()[ONE]["state"] == "running" and status(node, ONE)["state"] == "healthy"
    assert node.stop() == 0


def test_failover_under_streams_and_without(start, store):
    node = start(store, env={"BLYAN__INFERENCE__STRICT": "true"})
    bodies = [{"prompt": f"A story about {n} ships.", "max_tokens": 40, "temperature": 1.0, "seed": n} for n in range(4)]
    calm = [Stream(node, body).start() for body in bodies]
    for one in calm:
        one.thread.join()
    before = node.tree()
    streams = [Stream(node, body).start() for body in bodies]
    node.wait_for(lambda: all(len(one.tokens) > 3 for one in streams))
    for path in (ONE, TWO):
        moved = order(node, "failover", path)
        assert moved.status_code == 200 and moved.json()["standing"]["state"] == "healthy", moved.text
        assert node.tree()[path]["state"] == "running"
        assert node.tree()[path]["generation"] == before[path]["generation"] + 1
    for one, undisturbed in zip(streams, calm, strict=True):
        one.thread.join()
        assert one.answer == undisturbed.answer
    assert order(node, "failover", ONE).status_code == 200
    assert node.tree()[ONE]["generation"] == before[ONE]["generation"] + 2
    assert node.stop() == 0


def test_without_the_key_nothing_is_told_or_done_and_every_try_is_written_down(start, store):
    node = start(store)
    asked = [("POST", f"/security/{what}/{ONE}") for what in ("quarantine_node", "recover_node", "failover")]
    asked += [("GET", f"/security/{what}") for what in (f"node_status/{ONE}", "threat_indicators", "dashboard", "events")]
    keys = [{}, {"X-API-Key": "wrong"}, {"Authorization": "Bearer wrong"}]
    for method, path in asked:
        for headers in keys:
            reply = node.http.request(method, path, headers=headers)
            assert reply.status_code == 401 and reply.json()["error"]["code"] == "unauthorized", (path, reply.text)
    assert node.tree()[ONE]["state"] == "running"
    indicators = node.http.get("/security/threat_indicators", headers=node.admin).json()["indicators"]
    failed = next(one for one in indicators if one["indicator"] == "failed_auth_attempts")
    assert failed["count"] == len(asked) * len(keys)
    dashboard = node.http.get("/security/dashboard", headers=node.admin).json()
    assert [alert["indicator"] for alert in dashboard["alerts"]] == ["failed_auth_attempts"]
    assert node.stop() == 0
    denied = [one for one in records(store) if one["action"] == "denied"]
    assert len(denied) == len(asked) * len(keys)
    assert "wrong" not in json.dumps(records(store))


def test_200_orders_at_once_are_all_answered_and_all_written_down(start, store):
    node = start(store)

    def ask(number):
        what = ("quarantine_node", "recover_node", "failover")[number % 3]
        with httpx.Client(base_url=node.url, timeout=60) as client:
            return client.post(f"/security/{what}/{ONE}", headers=node.admin, json={"reason": f"number {number}"}).status_code

    with ThreadPoolExecutor(40) as pool:
        answers = list(pool.map(ask, range(200)))
    assert set(answers) <= {200, 503}, "done, or refused because it is quarantined or on its way"
    assert answers.count(200) > 0
    assert order(node, "recover_node", ONE).status_code == 200
    assert node.tree()[ONE]["state"] == "running"
    assert node.stop() == 0
    # A refusal stands before the admin's words.
    reasons = {one["reason"].rsplit("; ", 1)[-1] for one in records(store)}
    assert {f"number {number}" for number in range(200)} <= reasons


@pytest.mark.parametrize("body", [b"{", b'{"why": 1}', b'{"force": "yes"}', b'{"reason": "%s"}' % (b"x" * 5000)])
def test_an_order_that_is_none_changes_nothing(session_store, node, body):
    reply = node.http.post(f"/security/quarantine_node/{ONE}", headers=node.admin, content=body)
    assert reply.status_code == 400 and reply.json()["error"]["code"] == "invalid_request"
    assert node.tree()[ONE]["state"] == "running"


def test_events_are_told_as_they_happen(start, store):
    node = start(store)
    with httpx.Client(base_url=node.url, timeout=20) as client:
        with client.stream("GET", "/security/events", headers=node.admin) as response:
            assert response.status_code == 200
            assert order(node, "failover", ONE, reason="watched").status_code == 200
            lines = response.iter_lines()
            event = next(line for line in lines if line.startswith("event:"))
            record = json.loads(next(line for line in lines if line.startswith("data:"))[5:])
    assert event == "event: recorded" and record["action"] == "failover" and record["reason"] == "watched"
    assert node.stop() == 0


def anchored(node):
    return node.http.get("/security/dashboard", headers=node.admin).json()["audit_anchored_count"]


def test_the_log_verifies_and_no_change_or_cut_before_an_anchor_is_missed(start, store):
    node = start(store)
    for what in ("quarantine_node", "recover_node", "quarantine_node"):
        assert order(node, what, ONE).status_code == 200
    # The last quarantine is anchored at once.
    count = node.wait_for(lambda: (held := anchored(node)) >= 3 and held)
    # Beside the running node.
    whole = json.loads(run("audit", "verify", "--json", data_dir=store).stdout)
    assert whole["result"] == "whole" and "after the last anchor" in whole["limit"]
    assert node.stop() == 0
    run("verify", data_dir=store)
    (file,) = (store / "audit").iterdir()
    text = file.read_bytes()
    lines = text.splitlines(keepends=True)
    assert len(lines) >= count >= 3

    def verdict(content):
        file.write_bytes(content)
        done = run("audit", "verify", data_dir=store, check=False)
        return done.returncode, done.stdout + done.stderr

    for name, content in {
        "a byte changed": text.replace(b"quarantine", b"quarantinE", 1),
        "a record removed": b"".join(lines[:1] + lines[2:]),
        "two swapped": b"".join([lines[1], lines[0], *lines[2:]]),
        "cut before the anchor": b"".join(lines[:count - 1]),
        "gone": b"",
    }.items():
        status, said = verdict(content)
        assert status == 1 and "audit" in said, (name, said)
    assert verdict(text)[0] == 0
    # The stated limit.
    assert verdict(b"".join(lines[:count]))[0] == 0


def test_a_damaged_expert_comes_back_once_its_file_is_whole(imported, start, store):
    name = "layer3.expert9"
    payload = entries(store)[name]["payload_hash"]
    path = store / "payloads" / payload
    flip(path, 20_000, 3)
    node = start(store)
    assert node.chat().json()["error"]["code"] == "expert_corrupt"
    node.wait_for(lambda: status(node, name)["state"] == "quarantined")
    still = order(node, "recover_node", name)
    assert still.status_code == 503 and "did not take effect" in still.json()["error"]["message"], still.text
    assert status(node, name)["attempts"] == 1
    whole = path.with_suffix(".whole")
    shutil.copy2(imported / "payloads" / payload, whole)
    whole.rename(path)
    back = order(node, "recover_node", name)
    assert back.status_code == 200 and back.json()["standing"]["state"] == "healthy", back.text
    assert "Paris" in node.chat().json()["text"]
    assert node.stop() == 0


def test_the_tree_in_a_terminal(start, store):
    node = start(store)
    assert order(node, "quarantine_node", TWO, reason="for show").status_code == 200
    shown = run("tree", "--url", node.url, data_dir=store).stdout
    line = next(line for line in shown.splitlines() if "inference-2" in line)
    assert "quarantined" in line and "for show" in line
    told = json.loads(run("tree", "--json", "--url", node.url, data_dir=store).stdout)
    assert [child["id"] for child in told["children"]] == ["security", "storage", "serving", "edge"]
    assert node.stop() == 0
    gone = run("tree", "--url", node.url, data_dir=store, check=False)
    assert gone.returncode == 1 and "no node answers" in gone.stderr
