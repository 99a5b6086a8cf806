"""Experts that are uploaded: whole, in pieces, over kills of the node, wrong, too many, abandoned. BLYAN_CHAOS sets the
number of kills."""

import os
import random
import struct
import threading
import time

import httpx
import pytest
from conftest import run
from miner import KEY, SECRET, begin, expert_like, forge, grant, patch, said, send_rest, signed_block, signed_over, stored_expert, versions_of

KILLS = int(os.environ.get("BLYAN_CHAOS", "8"))
NAME = "layer4.expert7"
SETTINGS = {"BLYAN__UPLOADS__PER_KEY_PER_DAY": "1000000"}


@pytest.fixture
def seeded():
    seed = int(os.environ.get("BLYAN_SEED", random.randrange(1 << 32)))
    print(f"\nseed {seed}: BLYAN_SEED={seed} repeats it")
    return random.Random(seed)


@pytest.fixture
def granted(start, store):
    node = start(store, env=SETTINGS)
    assert grant(node).status_code == 200
    return node


def draft(node, salt, name=NAME, **changes):
    payload = expert_like(stored_expert(node, name)[1], salt)
    block, block_hash = signed_block(node, name, payload, **changes)
    return payload, block, block_hash


def parts_of(data_dir):
    return sorted(path.name for path in (data_dir / "uploads").iterdir() if path.suffix == ".part")


def test_an_expert_is_uploaded_stored_and_not_served(granted):
    node = granted
    served = node.chat().json()
    payload, block, block_hash = draft(node, 1)
    begun = begin(node, block)
    assert begun.status_code == 201, begun.text
    assert begun.json() | {"upload": ""} == {
        "upload": "", "block": block_hash, "received": 0, "length": len(payload), "chunk_bytes_max": 1 << 20, "state": "open",
    }
    upload = begun.json()["upload"]
    done = send_rest(node, upload, payload)
    assert (done.status_code, done.json()["state"]) == (200, "stored"), done.text
    assert versions_of(node, NAME)[block_hash] is False, "a candidate"
    again = begin(node, block)
    assert (again.status_code, again.json()) == (200, done.json())
    lineage = node.http.get(f"/chain/B/lineage/{block_hash}").json()["blocks"]
    assert [one["hash"] for one in lineage] == [block["header"]["depends_on"][0], block_hash]
    after = node.chat().json()
    assert (after["text"], after["model_id"]) == (served["text"], served["model_id"])
    assert parts_of(node.data_dir) == [] and node.stop() == 0
    run("verify", data_dir=node.data_dir)
    exported = node.data_dir.parent / "exported"
    run("export", exported, data_dir=node.data_dir)
    lines = (exported / "blocks.jsonl").read_text()
    assert lines.index('"key_grant"') < lines.index(block["signature"]), "who may sign stands before what was signed"


def test_who_may_not_upload_is_told_how_to_be_granted(start, store):
    node = start(store)
    payload, block, _ = draft(node, 2)
    refused = begin(node, block)
    code, words = said(refused)
    assert (refused.status_code, code) == (403, "forbidden") and f"blyan keys grant {KEY}" in words
    assert grant(node).json()["key"] == KEY
    assert grant(node).json()["block"] == node.http.get("/chain/keys", headers=node.admin).json()["granted"][0]["block"]
    assert begin(node, block).status_code == 201
    own = node.http.get("/chain/keys", headers=node.admin).json()["authorised"]
    assert grant(node, own[0]).json() == {"key": own[0], "block": None}
    assert node.stop() == 0


def refusals(node, payload):
    """What is wrong with a block, the status, and a word of what is said."""
    other = "ab" * 32
    architecture = stored_expert(node, NAME)[0]["meta_ref"]
    router = node.http.get("/experts/layer0.router/versions").json()["versions"][0]
    block = signed_block(node, NAME, payload)[0]
    header = lambda **changes: signed_block(node, NAME, payload, **changes)[0]
    return [
        ("signature", block | {"signature": "11" * 64}, 422, "signature"),
        ("another header", {"header": block["header"] | {"nonce": 1}, "signature": block["signature"]}, 422, "signature"),
        ("another network", header(network_id=other), 422, "/genesis/hash"),
        ("unknown parent", header(depends_on=[other]), 422, "depends on"),
        ("index", header(index=7), 422, "index"),
        ("no architecture", header(meta_ref=other), 422, "meta_ref"),
        ("length", header(payload_len=len(payload) - 1), 422, "int8 elements in blocks of 32"),
        ("layer without such an expert", header(expert_name="layer4.expert999"), 422, "expert"),
        ("deprecates", header(supersedes=block["header"]["depends_on"]), 403, "supersedes"),
        ("router", header(block_type="router", expert_name="layer0.router", layer_id=0, depends_on=[router["hash"]]), 422, "only experts"),
        ("manifest", header(chain="A", block_type="manifest", payload_type="json", prev_hash=other, depends_on=None,
                            expert_name=None, layer_id=None, meta_ref=None), 422, "only experts"),
        ("a key without grant", signed_block(node, NAME, payload, secret=SECRET - 1, meta_ref=architecture)[0], 403, "blyan keys grant"),
    ]  # fmt: skip


def test_a_wrong_block_is_refused_in_words_before_its_bytes(granted):
    node = granted
    payload = expert_like(stored_expert(node, NAME)[1], 3)
    for what, block, status, word in refusals(node, payload):
        refused = begin(node, block)
        code, words = said(refused)
        assert refused.status_code == status, (what, refused.text)
        assert code == ("forbidden" if status == 403 else "upload_refused") and word in words, (what, words)
    assert list((node.data_dir / "uploads").iterdir()) == []
    assert node.stop() == 0


def with_scale(payload, bits):
    """The payload with another first scale and a tree made anew."""
    changed = bytearray(payload)
    struct.pack_into("<I", changed, 128, bits)
    return forge.reseal(changed, payload)


def other_shape(payload):
    """A sound TensorBlock of as many bytes with rows and columns exchanged."""
    rows, cols = struct.unpack_from("<QQ", payload, 16)
    data_at, tree_at = struct.unpack_from("<QQ", payload, 48)
    scales = payload[128 : 128 + 4 * rows * cols // 32]
    return forge.tensorblock(2, 2, cols, rows, scales, payload[data_at:tree_at])[0]


def flipped(payload):
    return payload[:5000] + bytes([payload[5000] ^ 1]) + payload[5001:]


@pytest.mark.parametrize(
    ("signed", "sent", "says"),
    [
        (lambda p: p, flipped, "tile 0"),
        (lambda p: with_scale(p, 0x7FC00000), None, "not finite"),
        (lambda p: with_scale(p, 0xFF800000), None, "not finite"),
        (other_shape, None, "288"),
        (lambda p: p, lambda p: b"X" + p[1:], "TBLOCK01"),
    ],
)
def test_wrong_bytes_are_named_and_gone(granted, signed, sent, says):
    node = granted
    payload = signed(expert_like(stored_expert(node, NAME)[1], 4))
    block, block_hash = signed_block(node, NAME, payload)
    upload = begin(node, block).json()["upload"]
    refused = send_rest(node, upload, (sent or (lambda p: p))(payload))
    code, words = said(refused)
    assert (refused.status_code, code) == (422, "upload_refused") and says in words, words
    assert node.http.get(f"/upload_moe_experts/{upload}").status_code == 404
    assert list((node.data_dir / "uploads").iterdir()) == []
    assert block_hash not in versions_of(node, NAME)
    events = node.http.get("/security/dashboard", headers=node.admin).json()
    assert "unusual_upload_patterns" in str(events)
    assert node.stop() == 0
    run("verify", data_dir=node.data_dir)


def test_quotas_and_bounds(start, store):
    node = start(store, env={
        "BLYAN__UPLOADS__OPEN_PER_KEY_MAX": "2", "BLYAN__UPLOADS__PER_KEY_PER_DAY": "3", "BLYAN__UPLOADS__OPEN_MAX": "3",
    })  # fmt: skip
    assert grant(node).status_code == 200
    drafts = [draft(node, salt) for salt in range(10, 15)]
    uploads = [begin(node, block).json()["upload"] for _, block, _ in drafts[:2]]
    refused = begin(node, drafts[2][1])
    code, words = said(refused)
    assert (refused.status_code, code) == (429, "quota_exceeded") and "open uploads" in words
    assert int(refused.headers["retry-after"]) > 0
    assert node.http.delete(f"/upload_moe_experts/{uploads[1]}").status_code == 204
    assert send_rest(node, uploads[0], drafts[0][0]).json()["state"] == "stored"
    for payload, block, _ in drafts[1:3]:
        assert send_rest(node, begin(node, block).json()["upload"], payload).json()["state"] == "stored"
    refused = begin(node, drafts[3][1])
    assert refused.status_code == 429 and "24 hours" in said(refused)[1]
    assert 80_000 < int(refused.headers["retry-after"]) <= 86_400
    assert node.stop() == 0
    node = start(store, env={"BLYAN__UPLOADS__PER_KEY_PER_DAY": "3", "BLYAN__UPLOADS__BYTES_MAX": str(len(drafts[3][0]) - 1)})
    assert begin(node, drafts[2][1]).json()["state"] == "stored"
    assert begin(node, drafts[3][1]).status_code == 413
    assert node.stop() == 0
    node = start(store, env={"BLYAN__UPLOADS__PER_KEY_PER_DAY": "3"})
    assert begin(node, drafts[3][1]).status_code == 429, "the day outlives the process"
    assert node.stop() == 0


def test_two_clients_on_one_upload_make_one_block(granted, seeded):
    node = granted
    payload, block, block_hash = draft(node, 5)
    upload = begin(node, block).json()["upload"]
    conflicts = []

    def client(rng):
        while True:
            answer = node.http.get(f"/upload_moe_experts/{upload}").json()
            if answer["state"] == "stored":
                return
            at = answer["received"]
            written = patch(node, upload, at, payload[at : at + rng.randrange(1, 60_000)])
            if written.status_code == 409:
                conflicts.append(int(written.headers["upload-offset"]))
            else:
                assert written.status_code == 200, written.text

    clients = [threading.Thread(target=client, args=(random.Random(seeded.random()),)) for _ in range(2)]
    for one in clients:
        one.start()
    for one in clients:
        one.join(60)
    assert block_hash in versions_of(node, NAME)
    assert (node.data_dir / "payloads" / payload[-32:].hex()).read_bytes() == payload
    print(f"{len(conflicts)} pieces came second")
    assert node.stop() == 0


def test_an_abandoned_upload_is_removed_at_the_next_start(start, store):
    node = start(store)
    grant(node)
    payload, block, _ = draft(node, 6)
    upload = begin(node, block).json()["upload"]
    patch(node, upload, 0, payload[:1000])
    assert parts_of(store) == [f"{upload}.part"] and node.stop() == 0
    # Half a record and bytes without one, as a crash may leave them.
    (store / "uploads" / ("ab" * 16 + ".new")).write_bytes(b"{")
    (store / "uploads" / ("cd" * 16 + ".part")).write_bytes(b"x")
    node = start(store)
    assert parts_of(store) == [f"{upload}.part"]
    assert node.http.get(f"/upload_moe_experts/{upload}").json()["received"] == 1000
    assert node.stop() == 0
    os.utime(store / "uploads" / f"{upload}.part", (time.time() - 100_000,) * 2)
    node = start(store)
    assert node.http.get(f"/upload_moe_experts/{upload}").status_code == 404
    assert list((store / "uploads").iterdir()) == []
    assert node.stop() == 0


class Miner:
    """Uploads experts one after the other in pieces of random length, and remembers what it was told."""

    def __init__(self, node, rng):
        self.rng = rng
        self.parent, self.original = stored_expert(node, NAME)
        self.network = node.http.get("/genesis/hash").json()["genesis_hash"]
        self.stored = {}
        self.next()

    def next(self):
        self.payload = expert_like(self.original, f"{len(self.stored)} {self.rng.random()}")
        self.block, self.hash = signed_over(self.payload, self.parent, self.network)
        self.acknowledged = 0

    def go_on(self, node):
        """Until the node goes away."""
        while True:
            begun = begin(node, self.block)
            assert begun.status_code in (200, 201), begun.text
            told = begun.json()
            assert told["received"] >= self.acknowledged, "an acknowledged byte is lost"
            while told["state"] == "open":
                at = told["received"]
                answer = patch(node, told["upload"], at, self.payload[at : at + self.rng.randrange(1, 20_000)])
                assert answer.status_code == 200, answer.text
                told = answer.json()
                self.acknowledged = told["received"]
            self.stored[self.hash] = self.payload[-32:].hex()
            self.next()


def test_uploads_outlive_kills(start, store, seeded):
    """A miner uploads all the time while the node is killed again and again: no acknowledged byte is lost, and every
    upload that was told to be stored is."""
    node = start(store, env=SETTINGS)
    grant(node)
    miner, resumed = Miner(node, seeded), 0
    for _ in range(KILLS):
        killer = threading.Timer(seeded.uniform(0.0, 0.5), node.kill)
        killer.start()
        with pytest.raises(httpx.TransportError):
            miner.go_on(node)
        killer.join()
        resumed += miner.acknowledged > 0
        node = start(store, env=SETTINGS)
        for block in miner.stored:
            assert node.http.get(f"/chain/B/blocks/{block}").status_code == 200, "a stored block is lost"
    answer = send_rest(node, begin(node, miner.block).json()["upload"], miner.payload)
    assert answer.json()["state"] == "stored"
    assert node.stop() == 0
    run("verify", data_dir=store)
    assert all((store / "payloads" / payload).exists() for payload in miner.stored.values())
    assert parts_of(store) == []
    print(f"{KILLS} kills, {resumed} uploads went on after one; {len(miner.stored)} stored")
