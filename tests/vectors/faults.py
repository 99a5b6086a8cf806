"""Stores with one fault each: everything else is valid, hashed and signed over the fault."""

import struct
from dataclasses import dataclass
from typing import Any, Callable

from forge import MINER_KEY, N, OTHER_SECRET, public_key, reseal, sha256, signed, weights

OTHER_KEY = public_key(OTHER_SECRET).hex()
UNKNOWN = sha256(b"no block").hex()


@dataclass
class Fault:
    """`change` is applied to what Forge hands out at `stage` of the block `label`; `says` is what a checker must name."""

    name: str
    stage: str
    label: str
    change: Callable[[Any], Any]
    says: str

    def tweak(self, stage, label, thing):
        return self.change(thing) if (stage, label) == (self.stage, self.label) else thing


def put(**fields):
    return lambda thing: thing | fields


def drop(field):
    return lambda thing: {name: value for name, value in thing.items() if name != field}


def within(name, **fields):
    return lambda thing: thing | {name: thing[name] | fields}


def poke(at, form, value, sealed=True):
    """Writes one number into a TensorBlock; `sealed` makes its tree, and with it the payload hash, anew."""

    def change(data):
        changed = bytearray(data)
        struct.pack_into(form, changed, at, value)
        return reseal(changed, data) if sealed else bytes(changed)

    return change


def high_s(signature):
    return signature[:64] + f"{N - int(signature[64:], 16):064x}"


def foreign_signature(_):
    return signed(OTHER_SECRET, sha256(b"another block"))


def without_last(name):
    return lambda body: body | {name: dict(list(body[name].items())[:-1])}


GRANTED = "layer0.expert0 v2"
EXPERT, CHILD, NEWEST = "layer0.expert1", "layer0.expert1 v2", "layer0.expert1 v3"

HEADER_FAULTS = [
    Fault("version", "header", EXPERT, put(version=2), "version"),
    Fault("other network", "header", EXPERT, put(network_id=UNKNOWN), "network_id"),
    Fault("no network", "header", "manifest", put(network_id="00" * 32), "network_id"),
    Fault("chain of the type", "header", "manifest", put(chain="D"), "chain"),
    Fault("unknown chain", "header", EXPERT, put(chain="E"), "chain"),
    Fault("unknown type", "header", EXPERT, put(block_type="poem"), "block_type"),
    Fault("second genesis", "header", "manifest", put(block_type="genesis"), "block_type"),
    Fault("index skips one on A", "header", "manifest", put(index=3), "index: is 3, the next one is 2"),
    Fault("index too high on B", "header", CHILD, put(index=2), "index: is 2, its parents ask for 1"),
    Fault("index as text", "header", CHILD, put(index="1"), "index"),
    Fault("index without parents", "header", EXPERT, put(index=1), "index"),
    Fault("time", "header", EXPERT, put(timestamp_ms=253_402_300_800_000), "timestamp_ms"),
    Fault("negative nonce", "header", EXPERT, put(nonce=-1), "nonce"),
    Fault("nonce above 64 bits", "header", EXPERT, put(nonce=2**64), "64 bits"),
    Fault("other prev_hash", "header", "manifest", put(prev_hash=UNKNOWN), "prev_hash"),
    Fault("no prev_hash", "header", "manifest", drop("prev_hash"), "prev_hash"),
    Fault("prev_hash on B", "header", EXPERT, put(prev_hash=UNKNOWN), "prev_hash"),
    Fault("no depends_on", "header", EXPERT, drop("depends_on"), "depends_on"),
    Fault("depends_on on A", "header", "manifest", put(depends_on=[]), "depends_on"),
    Fault("unknown parent", "header", CHILD, put(depends_on=[UNKNOWN]), f"depends_on: {UNKNOWN}"),
    Fault("parent on chain A", "header", CHILD, lambda h: h | {"depends_on": [h["meta_ref"]]}, "no earlier block of chain B"),
    Fault("parents unsorted", "header", NEWEST, lambda h: h | {"depends_on": h["depends_on"][::-1]}, "not sorted"),
    Fault("parent twice", "header", CHILD, lambda h: h | {"depends_on": h["depends_on"] * 2}, "repeats"),
    Fault("meta_ref is no architecture", "header", EXPERT, lambda h: h | {"meta_ref": h["network_id"]}, "meta_ref"),
    Fault("meta_ref unknown", "header", EXPERT, put(meta_ref=UNKNOWN), "meta_ref"),
    Fault("no meta_ref", "header", EXPERT, drop("meta_ref"), "meta_ref"),
    Fault("supersedes on A", "header", "manifest", put(supersedes=[UNKNOWN]), "supersedes"),
    Fault("supersedes nothing", "header", NEWEST, put(supersedes=[]), "supersedes: has not 1"),
    Fault("supersedes unknown", "header", NEWEST, put(supersedes=[UNKNOWN]), f"supersedes: {UNKNOWN}"),
    Fault("supersedes another tensor", "header", NEWEST, lambda h: h | {"supersedes": h["depends_on"]}, "no earlier block of the same"),
    Fault("supersedes twice", "header", NEWEST, lambda h: h | {"supersedes": h["supersedes"] * 2}, "supersedes: is not sorted"),
    Fault("supersedes the architecture", "header", NEWEST, lambda h: h | {"supersedes": [h["meta_ref"]]}, "no earlier block of the same"),
    Fault("name of another type", "header", EXPERT, put(expert_name="layer0.router"), "expert_name"),
    Fault("no name", "header", EXPERT, put(expert_name="layer00.expert1"), "expert_name"),
    Fault("layer", "header", EXPERT, put(layer_id=1), "layer_id"),
    Fault("no layer", "header", EXPERT, drop("layer_id"), "layer_id"),
    Fault("null for absent", "header", "embedding", put(layer_id=None), "layer_id"),
    Fault("unknown field", "header", EXPERT, put(colour="red"), "colour: no such field"),
    Fault("payload type", "header", EXPERT, put(payload_type="json"), "payload_type"),
    Fault("payload length", "header", EXPERT, lambda h: h | {"payload_len": h["payload_len"] + 1}, "payload_len"),
    Fault("no payload length", "header", EXPERT, put(payload_len=0), "payload_len"),
    Fault("payload not there", "header", EXPERT, put(payload_hash=UNKNOWN), f"{UNKNOWN} is not there"),
    Fault("upper-case hash", "header", EXPERT, lambda h: h | {"payload_hash": h["payload_hash"].upper()}, "payload_hash"),
    Fault("expert of a key without grant", "header", GRANTED, put(miner_pub=OTHER_KEY), "miner_pub: this key is authorised neither"),
    Fault("grant of a granted key", "header", "key_grant v2", put(miner_pub=MINER_KEY), "miner_pub: this key was granted experts only"),
    Fault("manifest of a granted key", "header", "manifest v2", put(miner_pub=MINER_KEY), "miner_pub: this key was granted experts only"),
    Fault("router of a granted key", "header", "layer0.router v2", put(miner_pub=MINER_KEY), "miner_pub: this key was granted experts only"),
    Fault("a granted key deprecates", "header", GRANTED, lambda h: h | {"supersedes": h["depends_on"]}, "supersedes: a key that was granted"),
    Fault("expert of a key that is granted later", "header", EXPERT, put(miner_pub=MINER_KEY), "miner_pub: this key is authorised neither"),
    Fault("key is no point", "header", EXPERT, put(miner_pub="02" + "00" * 31 + "05"), "miner_pub"),
]

SIGNER_FAULTS = [
    Fault("signed by another key", "secret", EXPERT, lambda _: OTHER_SECRET, "signature: does not match"),
    Fault("signature of another block", "signature", EXPERT, foreign_signature, "signature: does not match"),
    Fault("high s", "signature", EXPERT, high_s, "signature: s is in the upper half"),
    Fault("r out of range", "signature", EXPERT, lambda s: f"{N:064x}" + s[64:], "signature: r or s"),
    Fault("short signature", "signature", EXPERT, lambda s: s[:-2], "signature"),
    Fault("genesis of another key", "body", "genesis", put(authorised_keys=[OTHER_KEY]), "miner_pub"),
]

COMMIT_FAULTS = [
    Fault("unknown rule", "commit", EXPERT, put(rule="because"), "commit.rule"),
    Fault("no acceptor", "commit", EXPERT, drop("accepted_by"), "commit.accepted_by"),
    Fault("acceptor is no key", "commit", EXPERT, put(accepted_by="02" + "ff" * 32), "commit.accepted_by"),
    Fault("time of acceptance", "commit", EXPERT, put(accepted_ms=-5), "commit.accepted_ms"),
    Fault("more in the record", "commit", EXPERT, put(vote=1), "commit.vote"),
]

LINE_FAULTS = [
    Fault("a space", "line", EXPERT, lambda line: line.replace(b'":', b'": ', 1), "not the canonical form"),
    Fault("a key twice", "line", EXPERT, lambda line: b'{"commit":1,' + line[1:], "twice"),
    Fault("a block twice", "line", EXPERT, lambda line: line + b"\n" + line, "stands twice"),
    Fault("a lost block", "line", "architecture", lambda line: b"{}", "header"),
    Fault("text after the block", "line", EXPERT, lambda line: line + b" 1", "not canonical JSON"),
]

BODY_FAULTS = [
    Fault("keys unsorted", "body", "genesis", lambda b: b | {"authorised_keys": sorted([*b["authorised_keys"], OTHER_KEY])[::-1]}, "authorised_keys"),
    Fault("no name of the network", "body", "genesis", put(network_name=""), "network_name"),
    Fault("body with a float", "body", "architecture", put(rms_epsilon=1e-5), "floats"),
    Fault("decimal with an exponent", "body", "architecture", put(rms_epsilon="1e-5"), "rms_epsilon"),
    Fault("heads", "body", "architecture", put(heads=3), "heads"),
    Fault("neurons", "body", "architecture", within("experts", neurons=9), "experts.neurons"),
    Fault("token types", "body", "architecture", within("tokenizer", token_types=[1]), "tokenizer.token_types"),
    Fault("special token", "body", "architecture", within("tokenizer", eos=520), "tokenizer.eos"),
    Fault("unknown field of a body", "body", "architecture", put(mood="calm"), "mood"),
    Fault("body with spaces", "bytes", "architecture", lambda data: data.replace(b":", b": ", 1), "not the canonical form"),
    Fault("shape of the architecture", "body", "architecture", put(context=0), "context"),
    Fault("manifest lacks a name", "body", "manifest", without_last("entries"), "names 8 of 9 tensors"),
    Fault("manifest names too much", "body", "manifest", within("entries", **{"layer1.router": UNKNOWN}), "layer1.router"),
    Fault("manifest names no block", "body", "manifest", within("entries", embedding=UNKNOWN), "entries.embedding"),
    Fault("manifest swaps a block", "body", "manifest", lambda b: b | {"entries": b["entries"] | {"layer0.expert0": b["entries"][EXPERT]}}, "entries.layer0.expert0"),
    Fault("manifest of no architecture", "body", "manifest", put(architecture=UNKNOWN), "architecture"),
    Fault("granted keys unsorted", "body", "key_grant v2", lambda b: b | {"keys": b["keys"][::-1]}, "keys: must be sorted"),
    Fault("a key granted twice", "body", "key_grant", lambda b: b | {"keys": b["keys"] * 2}, "keys: must be sorted"),
    Fault("grant to nobody", "body", "key_grant", put(keys=[]), "keys: must have 1"),
    Fault("grant to no point", "body", "key_grant", put(keys=["02" + "00" * 31 + "05"]), "keys"),
    Fault("grant with an end", "body", "key_grant", put(until=5), "until"),
    Fault("empty audit log", "body", "audit_anchor", put(count=0), "count"),
    Fault("anchor is no hash", "body", "audit_anchor", put(head="00"), "head"),
]

# Where the tree of the embedding starts: 520 rows of 32 fp32 after 4096 bytes.
EMBEDDING_TREE = 4096 + 520 * 32 * 4
TENSOR_FAULTS = [
    Fault("magic", "bytes", EXPERT, poke(7, "<B", 0x32), "TBLOCK01"),
    Fault("version of the TensorBlock", "bytes", EXPERT, poke(8, "<I", 2), "header: version"),
    Fault("dtype", "bytes", EXPERT, poke(12, "<I", 3), "header: dtype 3"),
    Fault("layout", "bytes", EXPERT, poke(32, "<I", 1), "header: layout"),
    Fault("reserved byte", "bytes", EXPERT, poke(127, "<B", 1), "header: reserved"),
    Fault("offset", "bytes", EXPERT, poke(40, "<Q", 132), "header: an offset"),
    Fault("rows", "bytes", EXPERT, poke(16, "<Q", 2**63), "header"),
    Fault("padding", "bytes", EXPERT, poke(4095, "<B", 1), "padding"),
    Fault("expert not in the architecture", "header", EXPERT, put(expert_name="layer0.expert2"), "architecture asks for None"),
    Fault("shape of another tensor", "bytes", EXPERT, lambda _: weights("output_norm", "x"), "payload: has shape (1, 32)"),
    Fault("flipped weight", "bytes", EXPERT, poke(4200, "<B", 99, sealed=False), "tile 0"),
    Fault("flipped scale", "bytes", EXPERT, poke(130, "<B", 99, sealed=False), "tile 0"),
    Fault("byte after the tree", "bytes", EXPERT, lambda data: data + data[-32:], "header: the file has"),
    Fault("flipped leaf of the tree", "bytes", "embedding", poke(EMBEDDING_TREE + 3, "<I", 7, sealed=False), "tree: the stored"),
    Fault("root of the tree", "bytes", "embedding", poke(EMBEDDING_TREE + 70, "<I", 7, sealed=False), "tree: the stored"),
    Fault("flipped weight of the last tile", "bytes", "embedding", poke(EMBEDDING_TREE - 1, "<B", 9, sealed=False), "tile 1"),
]

FAULTS = HEADER_FAULTS + SIGNER_FAULTS + COMMIT_FAULTS + LINE_FAULTS + BODY_FAULTS + TENSOR_FAULTS
