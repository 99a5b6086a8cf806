"""Orders of admins while the node is killed, or its syncs fail: what was acknowledged is there afterwards. BLYAN_CHAOS sets
the number of kills."""

import os
import random
import shutil
import signal
import statistics
import threading
import time

import httpx
import pytest
from conftest import run
from test_admin import ONE, order, records, status

KILLS = int(os.environ.get("BLYAN_CHAOS", "4"))
# Both can be out while the node goes on answering.
PLACES = (ONE, "serving/expert_cache")
STATE = {"quarantine_node": "quarantined", "recover_node": "healthy"}


class Admin:
    """Gives one component orders until the node is gone, and remembers what it was told."""

    def __init__(self, node, path, number):
        self.node, self.path, self.number = node, path, number
        # What may hold now: the last acknowledged state, and those of orders since then that nobody answered.
        self.possible = {status(node, path)["state"]}
        self.acknowledged, self.unanswered = [], 0
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._loop)
        self.thread.start()

    def _loop(self):
        count = 0
        while not self.over.is_set():
            what = ("quarantine_node", "recover_node")[count % 2]
            count += 1
            reason = f"{self.number}-{self.path}-{count}"
            try:
                reply = order(self.node, what, self.path, reason=reason, force=True)
            except httpx.TransportError:
                reply = None
            if reply is not None and reply.status_code == 200:
                self.possible = {STATE[what]}
                self.acknowledged.append((reply.json()["record"], reason))
            # 500: the log could not be made durable.
            elif reply is None or reply.status_code in (500, 503):
                self.possible.add(STATE[what])
                self.unanswered += 1
            else:
                raise AssertionError(reply.text)

    def end(self):
        self.over.set()
        self.thread.join()


def disturbed_decisions(begin, store, rng, number, under=()):
    """Orders, a kill in the midst of them, and what a node on the same store says then. Returns the numbers of acknowledged and of
    other orders, and whether the node refused to start."""
    admins = []
    try:
        node = begin(store, under=under)
    except AssertionError as refused:
        # A sync failed before anything was served.
        assert under and "Input/output error" in str(refused), refused
    else:
        admins = [Admin(node, path, number) for path in PLACES]
        time.sleep(0.2 + rng.random())
        node.kill()
    for admin in admins:
        admin.end()
    run("audit", "verify", data_dir=store)
    again = begin(store)
    log = records(store)
    # No record at all where the first start was refused.
    reasons, last = {record["reason"] for record in log}, max((record["seq"] for record in log), default=-1)
    for admin in admins:
        for seq, reason in admin.acknowledged:
            assert seq <= last and reason in reasons, (seq, reason)
        again.wait_for(lambda admin=admin: status(again, admin.path)["state"] in admin.possible)
        held = status(again, admin.path)["state"]
        # What the orchestrator holds is how it is.
        out = again.tree()[admin.path]["state"] == "quarantined"
        assert out == (held == "quarantined"), (admin.path, held)
    for path in PLACES:
        assert order(again, "recover_node", path).status_code == 200
    assert "Paris" in again.chat().json()["text"]
    assert again.stop() == 0
    acknowledged, unanswered = (len(admin.acknowledged) for admin in admins), (admin.unanswered for admin in admins)
    return sum(acknowledged), sum(unanswered), not admins


def rng_of_the_run():
    seed = int(os.environ.get("BLYAN_SEED", random.randrange(1 << 32)))
    print(f"\nseed {seed}: BLYAN_SEED={seed} repeats it")
    return random.Random(seed)


def test_kills_lose_no_acknowledged_decision(start, store):
    rng, counts = rng_of_the_run(), []
    for number in range(KILLS):
        counts.append(disturbed_decisions(start, store, rng, number))
    acknowledged, open_orders, _ = map(sum, zip(*counts))
    assert acknowledged > KILLS
    print(f"{KILLS} kills -9: {acknowledged} acknowledged decisions, each there; {open_orders} that nobody answered")


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed; it makes syncs fail")
def test_failing_syncs_lose_no_acknowledged_decision(start, store):
    rng, counts = rng_of_the_run(), []
    for number in range(KILLS):
        # strace counts for each thread; a decision is one or two syncs of the log and one of its anchor.
        nth = rng.randrange(1, 60)
        under = ["strace", "-f", "-qq", "--seccomp-bpf", "-o", "/dev/null", "-e", "trace=fsync,fdatasync",
                 "-e", f"inject=fsync,fdatasync:error=EIO:when={nth}+"]
        counts.append(disturbed_decisions(start, store, rng, number, under))
    acknowledged, refused, not_started = map(sum, zip(*counts))
    assert acknowledged > 0
    print(f"{KILLS} runs with failing syncs: {acknowledged} acknowledged decisions, each there; {refused} refused or open; "
          f"{not_started} starts refused")


def test_after_a_segfault_a_restart_serves_again(start, store):
    """What a service manager does: it sees the process gone and starts it again."""
    times = []
    node = start(store)
    for _ in range(max(2, KILLS // 10)):
        # Rust's runtime takes the first one for a stack overflow that was none, and lets the next one through.
        while node.process.poll() is None:
            os.kill(node.pid, signal.SIGSEGV)
            time.sleep(0.001)
        assert node.process.returncode == -signal.SIGSEGV
        died = time.monotonic()
        node = start(store)
        assert node.http.get("/ready").status_code == 200
        times.append(time.monotonic() - died)
    assert "Paris" in node.chat().json()["text"]
    assert node.stop() == 0
    run("verify", data_dir=store)
    print(f"\nready after a segfault and a restart: median {statistics.median(times):.2f} s, max {max(times):.2f} s")
