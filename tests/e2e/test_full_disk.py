"""A disk that fills up under a running node: it reads, it says so, and it comes back by itself."""

import os
import shutil
import subprocess
import time

import pytest

from conftest import run
from test_admin import ONE, order

MIB = 1 << 20
RESERVE = 64 * MIB


@pytest.fixture
def small_disk(tmp_path, imported):
    """A file system in memory with a copy of the store, somewhat larger than that."""
    disk = tmp_path / "disk"
    disk.mkdir()
    used = sum(path.stat().st_size for path in imported.rglob("*") if path.is_file())
    size = used + 400 * MIB
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", disk], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("no small file system can be mounted here: " + mounted.stderr.decode().strip())
    try:
        shutil.copytree(imported, disk / "node")
        yield disk
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)


def fill(disk, left):
    """Takes all room but `left` bytes."""
    room = os.statvfs(disk)
    taken = disk / "taken"
    size = taken.stat().st_size if taken.exists() else 0
    with taken.open("ab") as file:
        os.posix_fallocate(file.fileno(), 0, size + room.f_bavail * room.f_frsize - left)


def health(node) -> dict:
    return node.http.get("/monitoring/health").json()


def all_run(node) -> bool:
    return {part["state"] for part in node.tree().values()} == {"running"}


def ordered(node, what):
    """An admin's order: the status and code of its answer."""
    answer = order(node, what, ONE, reason="a full disk")
    return answer.status_code, answer.json().get("error", {}).get("code")


def test_a_full_disk_makes_the_node_read_only_until_there_is_room(small_disk, start):
    store = small_disk / "node"
    env = {"BLYAN__CHAIN__DISK_RESERVE_BYTES": str(RESERVE), "BLYAN__CHAIN__SCRUB_BYTES_PER_S": "0"}
    node = start(store, env=env)
    snapshot = lambda: node.http.post("/chain/snapshots", headers=node.admin)
    assert snapshot().status_code in (200, 201)
    assert health(node)["status"] == "ok" and not health(node)["read_only"]

    # Into the reserve: no growth, but chats, whose receipts have the other half of it.
    fill(small_disk, RESERVE * 3 // 4)
    refused = snapshot()
    assert refused.status_code == 507, refused.text
    assert refused.json()["error"]["code"] == "storage_full" and "disk is full" in refused.json()["error"]["message"]
    said = health(node)
    assert said["read_only"] and said["status"] == "degraded"
    assert any("the disk is full" in reason for reason in said["reasons"])
    assert node.http.get("/ready").status_code == 200
    answered = node.chat()
    assert answered.status_code == 200, answered.text

    # Below half of it no receipt can be promised, so no chat is begun; everything that only reads is answered.
    fill(small_disk, RESERVE // 4)
    refused = node.chat()
    assert (refused.status_code, refused.json()["error"]["code"]) == (507, "storage_full")
    assert node.http.get("/ready").status_code == 507
    assert node.http.get("/health").status_code == 200
    assert node.http.get("/chain/A/head").status_code == 200
    assert health(node)["status"] == "unavailable"
    assert all_run(node)

    # Not one byte is left: nothing is decided that no record can be made of, and no part ends.
    fill(small_disk, 0)
    for number in range(12):
        assert ordered(node, "quarantine_node") == (507, "storage_full"), number
    time.sleep(3)
    assert all_run(node)
    assert node.http.get("/chain/A/head").status_code == 200

    # Room again: nobody has to do anything else.
    (small_disk / "taken").unlink()
    assert ordered(node, "quarantine_node") == (200, None)
    assert ordered(node, "recover_node") == (200, None)
    node.wait_for(lambda: all_run(node))
    assert node.http.get("/ready").status_code == 200
    assert node.chat().json()["text"] == answered.json()["text"]
    assert snapshot().status_code in (200, 201)
    assert health(node)["status"] == "ok" and not health(node)["read_only"]
    assert node.stop() == 0
    assert run("verify", data_dir=store).returncode == 0
    assert run("receipts", data_dir=store).stdout.count("finished") >= 2


def test_a_node_is_not_begun_on_a_full_disk_and_loses_nothing(small_disk, start):
    store = small_disk / "node"
    fill(small_disk, 2 * MIB)
    refused = run("scrub", data_dir=store, check=False)
    assert refused.returncode == 1 and "the disk is full" in refused.stderr
    assert run("verify", data_dir=store).returncode == 0
    (small_disk / "taken").unlink()
    assert start(store).chat().status_code == 200
