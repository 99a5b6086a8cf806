"""What is paid for answers: the price of every receipt, once, whatever ends the node. BLYAN_CHAOS sets the number of kills."""

import json
import os
import random
import shutil
import threading
import time

import httpx
import pytest
from conftest import run
from test_admin import ONE, order
from test_decisions import rng_of_the_run

KILLS = int(os.environ.get("BLYAN_CHAOS", "3"))
CLIENTS = 4
# Default prices in 10^-6 BLY.
READ, GENERATED = 10, 20
BOARD = "/economy/leaderboard"


def receipts(store):
    return json.loads(run("receipts", "--json", data_dir=store).stdout)


def due(receipts):
    """What receipts are worth: of an answer of which nothing was delivered, nothing."""
    paid = [one for one in receipts if one["tokens_out"] > 0]
    return sum(READ * one["tokens_in"] + GENERATED * one["tokens_out"] for one in paid), len(paid)


def supply(node):
    reply = node.http.get("/economy/supply")
    assert reply.status_code == 200, reply.text
    return {name: int(value) for name, value in reply.json().items()}


def settled(node, store):
    """The supply once every receipt is credited, and compared with the receipts."""
    # The last receipts may become durable and be credited meanwhile.
    node.wait_for(lambda: supply(node)["receipts"] == due(receipts(store))[1])

    def even():
        found, (amount, count) = supply(node), due(receipts(store))
        earners = node.http.get(BOARD, params={"limit": 1000}).json()["earners"]
        earned, paid = (sum(int(one[what]) for one in earners) for what in ("earned", "paid"))
        assert (found["receipts"], found["issued"]) == (count, amount)
        assert (earned + found["burned"], earned - paid) == (amount, found["accrued"])
        return found

    return node.wait_for(even)


def test_a_chat_is_paid_for(start, store):
    node = start(store)
    assert supply(node) == {"issued": 0, "burned": 0, "accrued": 0, "receipts": 0, "tokens": 0, "cap": 10**15}
    distributed = node.http.post("/economy/rewards/distribute", headers=node.admin)
    assert distributed.json() == {"credited": 0, "payouts": 0, "paid": "0", "carried_over": "0"}

    assert "Paris" in node.chat().json()["text"]
    node.wait_for(lambda: receipts(store))
    found = settled(node, store)
    (receipt,) = receipts(store)
    assert found["receipts"] == 1
    assert found["tokens"] == receipt["tokens_in"] + receipt["tokens_out"]
    assert found["burned"] == found["issued"] // 100

    # Node and experts have one key here.
    (earner,) = node.http.get(BOARD).json()["earners"]
    assert int(earner["earned"]) == found["accrued"] == found["issued"] - found["burned"]
    assert node.http.get(f"/economy/rewards/user/{earner['address']}").json() == earner
    assert node.http.get(f"/wallet/balance/{earner['address']}").json()["balance"] == "0"
    experts = node.http.get("/experts/top", params={"limit": 1000}).json()["experts"]
    earned = sum(int(expert["earned"]) for expert in experts)
    assert earned == found["issued"] * 69 // 100
    used = [expert for expert in experts if expert["name"] in receipt["experts"]]
    assert earned == sum(int(expert["earned"]) for expert in used)

    # Less than 10 BLY stays where it is.
    distributed = node.http.post("/economy/rewards/distribute", headers=node.admin).json()
    assert distributed["payouts"] == 0 and distributed["carried_over"] == str(found["accrued"])
    assert node.http.post("/economy/rewards/distribute").status_code == 401
    assert node.stop() == 0
    again = start(store)
    assert settled(again, store) == found


def test_ten_bly_and_more_reach_the_wallet(start, store):
    dear = {"BLYAN__PRICING__OUTPUT_PER_1K": "10000000000"}
    node = start(store, env=dear)
    node.chat()
    node.wait_for(lambda: supply(node)["receipts"] == 1)
    (earner,) = node.http.get(BOARD).json()["earners"]
    distributed = node.http.post("/economy/rewards/distribute", headers=node.admin).json()
    assert distributed == {"credited": 0, "payouts": 1, "paid": earner["earned"], "carried_over": "0"}
    assert node.http.get(f"/wallet/balance/{earner['address']}").json()["balance"] == earner["earned"]
    assert node.http.get(BOARD).json()["earners"] == [{**earner, "paid": earner["earned"], "accrued": "0"}]
    node.kill()
    node = start(store, env=dear)
    assert node.http.get(f"/wallet/balance/{earner['address']}").json()["balance"] == earner["earned"]


class Chatter:
    """Chats until it is told to stop, whatever becomes of the answers."""

    def __init__(self, node, seed):
        self.node, self.rng, self.over = node, random.Random(seed), threading.Event()
        self.thread = threading.Thread(target=self._loop)
        self.thread.start()

    def _loop(self):
        while not self.over.is_set():
            try:
                self.node.chat(max_tokens=self.rng.randrange(1, 24))
            except httpx.HTTPError:
                time.sleep(0.01)

    def end(self):
        self.over.set()
        self.thread.join()


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed; it makes syncs fail")
def test_failing_syncs_pay_no_receipt_twice_and_none_never(start, store):
    rng, refused = rng_of_the_run(), 0
    for number in range(KILLS):
        # Of each thread: the ledger's has one at a credit.
        nth = rng.randrange(4, 80)
        under = ["strace", "-f", "-qq", "--seccomp-bpf", "-o", "/dev/null", "-e", "trace=fsync,fdatasync",
                 "-e", f"inject=fsync,fdatasync:error=EIO:when={nth}+"]
        try:
            node = start(store, under=under)
        except AssertionError as error:
            assert "Input/output error" in str(error), error
            refused += 1
            continue
        chatters = [Chatter(node, rng.random()) for _ in range(CLIENTS)]
        time.sleep(rng.uniform(1.0, 3.0))
        node.kill()
        for chatter in chatters:
            chatter.end()
    node = start(store)
    # What failed too often was put out of service, and stays so until somebody has looked at the disk.
    for path in ("storage/chain", "storage/reward"):
        assert order(node, "recover_node", path, reason="another disk").status_code == 200
    node.wait_for(lambda: "Paris" in node.chat().json().get("text", ""))
    node.wait_for(lambda: supply(node)["receipts"] > 0)
    found = settled(node, store)
    assert node.stop() == 0
    print(f"{KILLS} runs with failing syncs, {refused} starts refused: {found['receipts']} receipts, each paid once")


def test_kills_pay_no_receipt_twice_and_none_never(faultnode, store):
    """Kills of the node, and panics of ledger, chain and replica, while clients chat."""
    rng = rng_of_the_run()
    for number in range(KILLS):
        node = faultnode(store)
        chatters = [Chatter(node, rng.random()) for _ in range(CLIENTS)]
        for point in rng.sample(["reward", "chain", ONE.rsplit("/", 1)[1]], 2):
            time.sleep(rng.uniform(0.1, 0.8))
            node.command(f"arm {point} panic")
        time.sleep(rng.uniform(0.1, 0.8))
        node.kill()
        for chatter in chatters:
            chatter.end()
    node = faultnode(store)
    found = settled(node, store)
    assert found["receipts"] > 0
    assert "Paris" in node.chat().json()["text"]
    settled(node, store)
    assert node.stop() == 0
    print(f"{KILLS} kills, {2 * KILLS} panics: {found['receipts']} receipts, {found['issued']} units, each paid once")
