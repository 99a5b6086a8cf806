"""Payload files that rot under a running node: the scrubber finds and repairs them, and chat goes on."""

import json
import re
import shutil
import subprocess

import pytest

from conftest import run
from test_admin import records
from test_damage import entries

QUICK = {"BLYAN__CHAIN__SCRUB_EVERY_MS": "1000", "BLYAN__CHAIN__SCRUB_BYTES_PER_S": "1000000000"}
OFF = {"BLYAN__CHAIN__SCRUB_BYTES_PER_S": "0"}


def rot(path, count=64):
    """Flips bits in the file itself, all over it: every map and every link of it sees them."""
    with path.open("r+b") as file:
        length = path.stat().st_size
        for number in range(count):
            at = length * (2 * number + 1) // (2 * count)
            file.seek(at)
            byte = file.read(1)[0]
            file.seek(at)
            file.write(bytes([byte ^ 0x55]))


def metric(node, name) -> float:
    found = re.search(rf"^{name} (\S+)$", node.http.get("/metrics").text, re.M)
    return float(found.group(1)) if found else 0.0


def is_out(node, name) -> bool:
    """Whether the orchestrator holds something against a weight; it lists no others."""
    answer = node.http.get(f"/security/node_status/{name}", headers=node.admin)
    assert answer.status_code in (200, 404), answer.text
    return answer.status_code == 200 and answer.json()["state"] != "healthy"


@pytest.fixture
def copies(imported, tmp_path):
    """A second directory with every payload."""
    return shutil.copytree(imported / "payloads", tmp_path / "copies")


def test_a_payload_that_rots_under_its_map_is_repaired_and_chat_goes_on(store, start, copies):
    node = start(store, env={**QUICK, "BLYAN__CHAIN__REPAIR_DIR": str(copies)})
    text = node.chat().json()["text"]
    # One that every token passes through, and one that may not be chosen.
    named = entries(store)
    paths = [store / "payloads" / named[name]["payload_hash"] for name in ("layer3.expert0", "layer20.expert15")]
    for path in paths:
        rot(path)
    node.wait_for(lambda: metric(node, "blyan_chain_scrub_repaired_total") == 2, timeout=60)
    node.wait_for(lambda: node.http.get("/security/integrity_status").json()["corrupt"] == [])
    assert node.chat().json()["text"] == text
    assert metric(node, "blyan_chain_scrub_damaged_total") == 2
    assert all(path.read_bytes() == (copies / path.name).read_bytes() for path in paths)
    node.wait_for(lambda: not is_out(node, "layer3.expert0"))
    assert node.stop() == 0
    assert run("verify", data_dir=store).returncode == 0
    assert {"layer3.expert0", "layer20.expert15"} == {line["subject"] for line in records(store) if line["who"] == "scrubber"}


@pytest.fixture
def image(tmp_path, imported):
    """A file with a file system of its own, mounted, that holds a copy of the store: both paths."""
    image, disk = tmp_path / "image", tmp_path / "disk"
    disk.mkdir()
    with image.open("wb") as file:
        file.truncate(1 << 30)
    for command in (["mkfs.ext4", "-q", image], ["mount", "-o", "loop", image, disk]):
        made = subprocess.run(command, capture_output=True)
        if made.returncode != 0:
            pytest.skip("no file system can be made and mounted here: " + made.stderr.decode().strip())
    try:
        shutil.copytree(imported, disk / "node")
        yield image, disk / "node"
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)


def test_rot_below_good_pages_is_repaired_and_no_answer_misses_it(image, start, copies):
    image, store = image
    node = start(store, env={**QUICK, "BLYAN__CHAIN__REPAIR_DIR": str(copies)})
    text = node.chat().json()["text"]
    name = "layer3.expert0"
    path = store / "payloads" / entries(store)[name]["payload_hash"]
    good, inode = path.read_bytes(), path.stat().st_ino
    subprocess.run(["sync", "--file-system", store], check=True)
    at = image.read_bytes().find(good[:65536])
    assert at > 0
    with image.open("r+b") as file:
        file.seek(at + 4096)
        file.write(bytes(byte ^ 0x55 for byte in good[4096:4160]))
    # What every map sees is in memory, and whole; only the disk is not.
    assert path.stat().st_ino != inode or path.read_bytes() == good
    node.wait_for(lambda: metric(node, "blyan_chain_scrub_repaired_total") == 1, timeout=60)
    assert path.stat().st_ino != inode and path.read_bytes() == good
    node.wait_for(lambda: not is_out(node, name))
    assert node.chat().json()["text"] == text
    assert node.stop() == 0
    seen = [(line["action"], line["who"]) for line in records(store) if line["subject"] == name]
    rule, repair = "orchestrator", "scrubber"
    assert seen == [("quarantine", rule), ("alert", rule), ("probe", repair), ("recover", repair)]
    assert run("verify", data_dir=store).returncode == 0


def test_a_payload_without_a_whole_copy_is_taken_out_and_named(store, start):
    node = start(store, env=QUICK)
    assert node.chat().status_code == 200
    name = "layer7.expert1"
    rot(store / "payloads" / entries(store)[name]["payload_hash"])
    corrupt = node.wait_for(lambda: node.http.get("/security/integrity_status").json()["corrupt"], timeout=60)
    assert [record["name"] for record in corrupt] == [name]
    refused = node.chat()
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "expert_corrupt")
    assert node.process.poll() is None


def test_the_command_repairs_a_stopped_store(store, start, copies):
    name, payload = next((name, entry["payload_hash"]) for name, entry in entries(store).items() if "expert9" in name)
    rot(store / "payloads" / payload)
    refused = run("scrub", data_dir=store, check=False)
    assert refused.returncode == 1 and f"{name} {payload}: not repaired" in refused.stdout
    done = run("scrub", "--repair-dir", copies, data_dir=store)
    assert f"{name} {payload}: repaired from {copies / payload}" in done.stdout
    assert run("verify", data_dir=store).returncode == 0
    node = start(store, env=OFF)
    held = run("scrub", data_dir=store, check=False)
    assert held.returncode == 2, held.stderr
    assert json.loads(node.http.get("/monitoring/health").text)["status"] == "ok"
