#!/usr/bin/env python3
"""Verifies a chain that `blyan export` wrote, from the bytes up; shares no code with the node.

    python3 -I check.py DIR [--anchor HASH]   a store: blocks.jsonl and payloads/
    python3 -I check.py --vectors DIR         the test vectors, and the store that lies among them

Exit 0 and a summary; 1 and the first fault: which block, which field, what; 2 for misuse. Without --anchor (the hash of
the genesis, or of any block that must be there) a store that someone signed anew as a whole is valid in itself.

One file, standard library only, so that it can be read in one sitting and copied to a machine that has nothing else.
README.md beside it says the formats in words.
"""

import argparse
import functools
import hashlib
import json
import mmap
import os
import re
import struct
import sys


class Fault(Exception):
    """What is wrong: `field` is the place within the object at hand, `where` the object."""

    def __init__(self, field, what, where=""):
        super().__init__(field, what, where)
        self.field, self.what, self.where = field, what, where

    def __str__(self):
        return ": ".join(part for part in (self.where, self.field, self.what) if part)


def require(holds, field, what):
    if not holds:
        raise Fault(field, what)


# Canonical JSON ------------------------------------------------------------------------------------------------------

DEPTH_MAX = 32
TEXT_LEN_MAX = 64 * 1024


def encode(value):
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode("ascii")


def refuse(what):
    def hook(_):
        raise Fault("", what)

    return hook


def unique(pairs):
    found = dict(pairs)
    require(len(found) == len(pairs), "", "a key stands twice in one object")
    return found


def check_text(text):
    require(len(encode(text)) - 2 <= TEXT_LEN_MAX, "", "a text is longer than 64 KiB")
    require(not any("\ud800" <= c <= "\udfff" for c in text), "", "half of a surrogate pair")


def check_value(value, depth):
    if isinstance(value, str):
        check_text(value)
    elif isinstance(value, int) and not isinstance(value, bool):
        require(-(2**63) <= value < 2**64, "", "an integer lies outside of 64 bits")
    elif isinstance(value, (list, dict)):
        require(depth < DEPTH_MAX, "", "nested deeper than 32")
        for text in value if isinstance(value, dict) else ():
            check_text(text)
        for inner in value.values() if isinstance(value, dict) else value:
            check_value(inner, depth + 1)


def decode(data):
    """Reads a value and refuses every spelling of it but the canonical one."""
    floats, constants = refuse("floats have no canonical form"), refuse("NaN and infinity have no canonical form")
    try:
        value = json.loads(data.decode("ascii"), object_pairs_hook=unique, parse_float=floats, parse_constant=constants)
    except (ValueError, RecursionError) as error:
        raise Fault("", f"not canonical JSON: {str(error)[:120]}") from None
    check_value(value, 0)
    require(encode(value) == data, "", "this is not the canonical form of the value that it holds")
    return value


# Hashes and Merkle trees ---------------------------------------------------------------------------------------------

BLOCK_DOMAIN = b"blyan/block/v1\0"
TENSOR_DOMAIN = b"blyan/tensorblock/v1\0"
LEAF_LEN = 64 * 1024


def sha256(*parts):
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.digest()


def leaf_hash(data):
    return sha256(b"\0", TENSOR_DOMAIN, data)


def node_hash(left, right):
    return sha256(b"\1", TENSOR_DOMAIN, left, right)


def widths(leaves):
    """Entries on each level, from the leaves to the root."""
    found = [leaves]
    while found[-1] > 1:
        found.append((found[-1] + 1) // 2)
    return found


def next_level(level):
    pairs = [node_hash(level[i], level[i + 1]) for i in range(0, len(level) - 1, 2)]
    return pairs + (level[-1:] if len(level) % 2 else [])


def root_by_proof(index, leaves, node, siblings):
    """The root that a leaf and its neighbours lead to; None if the proof does not fit the tree's form."""
    siblings = list(siblings)
    if not 0 <= index < leaves:
        return None
    for width in widths(leaves)[:-1]:
        if index ^ 1 < width:
            if not siblings:
                return None
            sibling = siblings.pop(0)
            node = node_hash(sibling, node) if index % 2 else node_hash(node, sibling)
        index //= 2
    return None if siblings else node


# secp256k1 -----------------------------------------------------------------------------------------------------------
# Points are (x, y) or, on the way, Jacobian (X, Y, Z) with x = X/Z^2, y = Y/Z^3; None is the point at infinity.

P = 2**256 - 2**32 - 977
N = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
G = (
    0x79BE667EF9DCBBAC55A06295CE870B07029BFCDB2DCE28D959F2815B16F81798,
    0x483ADA7726A3C4655DA4FBFC0E1108A8FD17B448A68554199C47D08FFB10D4B8,
)


def double(point):
    x, y, z = point
    y2 = y * y % P
    s = 4 * x * y2 % P
    m = 3 * x * x % P
    x3 = (m * m - 2 * s) % P
    return x3, (m * (s - x3) - 8 * y2 * y2) % P, 2 * y * z % P


def add_affine(point, other):
    """A Jacobian point plus an affine one."""
    if point is None:
        return (*other, 1)
    x, y, z = point
    z2 = z * z % P
    h, r = (other[0] * z2 - x) % P, (other[1] * z2 * z - y) % P
    if h == 0:
        return double(point) if r == 0 else None
    h2 = h * h % P
    h3, v = h2 * h % P, x * h2 % P
    x3 = (r * r - h3 - 2 * v) % P
    return x3, (r * (v - x3) - y * h3) % P, z * h % P


def to_affine(point):
    inverse = pow(point[2], -1, P)
    squared = inverse * inverse % P
    return point[0] * squared % P, point[1] * squared * inverse % P


@functools.lru_cache(maxsize=128)
def multiples(point):
    """d x 16^i x point for d in 1..15 at [i][d - 1]: a product is then at most 64 additions and no doubling."""
    table = []
    for _ in range(64):
        row = [point]
        while len(row) < 15:
            row.append(to_affine(add_affine((*row[-1], 1), point)))
        table.append(row)
        point = to_affine(add_affine((*row[-1], 1), point))
    return table


def add_product(total, factor, point):
    for row in multiples(point):
        if factor & 15:
            total = add_affine(total, row[(factor & 15) - 1])
        factor >>= 4
    return total


@functools.lru_cache(maxsize=4096)
def public_point(key):
    """The point of a compressed public key in hex, None if it is none."""
    if not re.fullmatch("0[23][0-9a-f]{64}", key):
        return None
    x = int(key[2:], 16)
    y = pow(x**3 + 7, (P + 1) // 4, P)
    if x >= P or y * y % P != (x**3 + 7) % P:
        return None
    return x, (y if y % 2 == int(key[1]) % 2 else P - y)


def check_signature(key, digest, signature):
    """ECDSA over a digest; only the low form of s, so that a third party cannot make a second signature of one."""
    r, s = int(signature[:64], 16), int(signature[64:], 16)
    require(0 < r < N and 0 < s < N, "signature", "r or s is out of range")
    require(s <= N // 2, "signature", "s is in the upper half; only the low form is accepted")
    inverse = pow(s, -1, N)
    total = add_product(None, int.from_bytes(digest, "big") * inverse % N, G)
    total = add_product(total, r * inverse % N, public_point(key))
    matches = total is not None and to_affine(total)[0] % N == r
    require(matches, "signature", "does not match key and hash")


# Fields --------------------------------------------------------------------------------------------------------------


def integer(bits):
    return lambda value: type(value) is int and 0 <= value < 2**bits


def is_hash(value):
    return type(value) is str and re.fullmatch("[0-9a-f]{64}", value) is not None


def is_text(value):
    return type(value) is str


def is_key(value):
    return is_text(value) and public_point(value) is not None


def is_name(value):
    return is_text(value) and parse_name(value) is not None


def one_of(*values):
    return lambda value: type(value) is str and value in values


def list_of(check):
    return lambda value: type(value) is list and all(check(item) for item in value)


def is_decimal(value):
    shape = r"(?!-0$)-?(0|[1-9][0-9]*)(\.[0-9]*[1-9])?"
    return is_text(value) and len(value) <= 32 and re.fullmatch(shape, value) is not None


def check_fields(value, fields, optional=(), of=""):
    """Exactly these fields, each of its kind. An absent optional field is absent, never null."""
    require(type(value) is dict, of, "must be an object")
    for name in value:
        require(name in fields, of + name, "no such field")
    for name, check in fields.items():
        if name not in value:
            require(name in optional, of + name, "is missing")
        else:
            require(check(value[name]), of + name, f"has the wrong form: {json.dumps(value[name])[:100]}")


def parse_name(name):
    """(layer or None, part or None) of a tensor's name."""
    if name in ("embedding", "output_norm"):
        return None, name
    number = "(0|[1-9][0-9]{0,4})"
    parts = f"attn_norm|attn_qkv|attn_output|ffn_norm|router|expert{number}"
    found = re.fullmatch(rf"layer{number}\.({parts})", name)
    if not found or any(int(n) > 0xFFFF for n in (found[1], found[3]) if n):
        return None
    return int(found[1]), found[2]


def type_of_name(name):
    part = parse_name(name)[1]
    return "expert" if part.startswith("expert") else "router" if part == "router" else "shared_weights"


# The header's shape --------------------------------------------------------------------------------------------------

CHAIN_OF = {"genesis": "A", "architecture": "A", "manifest": "A", "audit_anchor": "A", "key_grant": "A"}
CHAIN_OF |= {"expert": "B", "router": "B", "shared_weights": "B"}
HEADER = {
    "version": integer(32), "network_id": is_hash, "chain": one_of("A", "B", "C", "D"), "index": integer(64),
    "timestamp_ms": integer(64), "block_type": one_of(*CHAIN_OF), "prev_hash": is_hash,
    "depends_on": list_of(is_hash), "supersedes": list_of(is_hash), "expert_name": is_name, "layer_id": integer(16), "meta_ref": is_hash,
    "payload_type": one_of("json", "tensorblock"), "payload_hash": is_hash, "payload_len": integer(64),
    "nonce": integer(64), "miner_pub": is_key,
}  # fmt: skip
OPTIONAL = ("prev_hash", "depends_on", "supersedes", "expert_name", "layer_id", "meta_ref")
PAYLOAD_LEN_MAX = {"json": 16 << 20, "tensorblock": 16 << 30}
SIGNED_LEN_MAX = 16 * 1024


def check_header(header):
    check_fields(header, HEADER, OPTIONAL)
    chain, kind, index = header["chain"], header["block_type"], header["index"]
    require(header["version"] == 1, "version", f"is {header['version']}, not 1")
    require(CHAIN_OF[kind] == chain, "chain", f"block type {kind} does not belong on chain {chain}")
    starts = chain == "A" and index == 0
    require((kind == "genesis") == starts, "block_type", "chain A starts with a genesis, and no other block is one")
    require((header["network_id"] == "0" * 64) == starts, "network_id", "is all zero in a genesis and nowhere else")
    require(header["timestamp_ms"] <= 253_402_300_799_999, "timestamp_ms", "lies after the year 9999")
    on_b = chain == "B"
    require(("prev_hash" in header) == (not on_b and index > 0), "prev_hash", "belongs in linear chains from index 1 on")
    for name in ("depends_on", "expert_name", "meta_ref"):
        require((name in header) == on_b, name, "belongs in every block of chain B, and only there")
    check_superseded(header.get("supersedes"), on_b)
    layer = None
    if on_b:
        check_parents(header["depends_on"], index)
        name = header["expert_name"]
        require(type_of_name(name) == kind, "expert_name", f"{name} does not fit block type {kind}")
        layer = parse_name(name)[0]
    require(header.get("layer_id") == layer, "layer_id", "is not the layer in expert_name")
    check_payload_fields(header, "tensorblock" if on_b else "json")


def check_parents(parents, index):
    require(len(parents) <= 64, "depends_on", "has more than 64 entries")
    ordered = all(a < b for a, b in zip(parents, parents[1:]))
    require(ordered, "depends_on", "is not sorted or repeats an entry")
    require((not parents) == (index == 0), "index", "is 0 exactly when depends_on is empty")


def check_superseded(superseded, on_b):
    if superseded is None:
        return
    require(on_b, "supersedes", "belongs on chain B only")
    require(1 <= len(superseded) <= 64, "supersedes", "has not 1 to 64 entries")
    ordered = all(a < b for a, b in zip(superseded, superseded[1:]))
    require(ordered, "supersedes", "is not sorted or repeats an entry")


def check_payload_fields(header, kind):
    require(header["payload_type"] == kind, "payload_type", f"must be {kind}")
    fits = 0 < header["payload_len"] <= PAYLOAD_LEN_MAX[kind]
    require(fits, "payload_len", "is zero or too large")


# Payloads of chain A -------------------------------------------------------------------------------------------------


def check_genesis(body):
    check_fields(body, {"network_name": is_text, "authorised_keys": list_of(is_key)})
    name = body["network_name"]
    require(re.fullmatch("[ -~]{1,64}", name), "network_name", "must be 1 to 64 printable ASCII characters")
    check_keys(body["authorised_keys"], "authorised_keys")


def check_key_grant(body):
    check_fields(body, {"keys": list_of(is_key)})
    check_keys(body["keys"], "keys")


def check_keys(keys, field):
    require(1 <= len(keys) <= 64, field, "must have 1 to 64 entries")
    require(all(a < b for a, b in zip(keys, keys[1:])), field, "must be sorted and without repetition")


ROPE = {"base": is_decimal, "style": one_of("interleaved", "halves")}
EXPERTS = {"per_layer": integer(16), "always_on": integer(16), "neurons": integer(32)}
EXPERTS |= {"routing": one_of("top_scores_unit_weight")}
TOKENIZER = {"kind": one_of("gpt2_smollm"), "vocab": list_of(is_text), "merges": list_of(is_text)}
TOKENIZER |= {"token_types": list_of(integer(8)), "bos": integer(32), "eos": integer(32), "unknown": integer(32)}
TOKENIZER |= {"padding": integer(32), "add_bos": lambda v: type(v) is bool, "add_space_prefix": lambda v: type(v) is bool}


def has(fields, of):
    def check(value):
        check_fields(value, fields, of=of)
        return True

    return check


ARCHITECTURE = {
    "family": one_of("llama"), "name": is_text, "license": is_text, "layers": integer(16), "hidden": integer(32),
    "heads": integer(32), "kv_heads": integer(32), "head_dim": integer(32), "ffn": integer(32), "vocab": integer(32),
    "context": integer(32), "rms_epsilon": is_decimal, "rope": has(ROPE, "rope."), "experts": has(EXPERTS, "experts."),
    "tokenizer": has(TOKENIZER, "tokenizer."), "chat_template": one_of("chatml"), "system_prompt": is_text,
}  # fmt: skip


def as_fp32(decimal):
    try:
        return struct.unpack("<f", struct.pack("<f", float(decimal)))[0]
    except OverflowError:
        return float("inf")


def check_architecture(body):
    check_fields(body, ARCHITECTURE, ("system_prompt",))
    for name in ("name", "license", "system_prompt"):
        if name in body:
            require(1 <= len(body[name].encode()) <= 4096, name, "must have 1 to 4096 bytes")
    bounds = {"layers": 1024, "hidden": 65_536, "ffn": 65_536, "vocab": 1 << 20, "context": 1 << 20}
    for name, most in bounds.items():
        require(1 <= body[name] <= most, name, f"must be 1 to {most}")
    require(body["hidden"] % 32 == 0, "hidden", "must be a multiple of 32")
    require(body["head_dim"] > 0 and body["head_dim"] % 2 == 0, "head_dim", "must be even")
    require(body["heads"] * body["head_dim"] == body["hidden"], "heads", "times head_dim must be hidden")
    divides = body["kv_heads"] > 0 and body["heads"] % body["kv_heads"] == 0
    require(divides, "kv_heads", "must divide heads")
    require(0 < as_fp32(body["rms_epsilon"]) < 1, "rms_epsilon", "must lie between 0 and 1")
    require(1 < as_fp32(body["rope"]["base"]) < float("inf"), "rope.base", "must be above 1")
    experts = body["experts"]
    require(experts["per_layer"] > 0, "experts.per_layer", "must be at least 1")
    fewer = experts["always_on"] < experts["per_layer"]
    require(fewer, "experts.always_on", "must leave at least one routed expert")
    whole = experts["per_layer"] * experts["neurons"] == body["ffn"]
    require(whole, "experts.neurons", "times per_layer must be ffn")
    check_tokenizer(body["tokenizer"], body["vocab"])


def check_tokenizer(tokenizer, vocab):
    for name in ("vocab", "token_types"):
        require(len(tokenizer[name]) == vocab, f"tokenizer.{name}", "must have an entry for each token")
    for name in ("vocab", "merges"):
        held = sum(len(text.encode()) for text in tokenizer[name])
        require(held <= 16 << 20, f"tokenizer.{name}", "holds more than 16 MiB of text")
    require(all(1 <= kind <= 6 for kind in tokenizer["token_types"]), "tokenizer.token_types", "must be 1 to 6")
    require(len(tokenizer["merges"]) <= 1 << 20, "tokenizer.merges", "must be at most 1048576")
    pairs = all(sum(side != "" for side in merge.split(" ")) == 2 for merge in tokenizer["merges"])
    require(pairs, "tokenizer.merges", "must be two texts with a space between")
    for name in ("bos", "eos", "unknown", "padding"):
        require(tokenizer[name] < vocab, f"tokenizer.{name}", "must be in the vocabulary")


def tensor_shape(body, name):
    """Rows and columns that an architecture gives a tensor, None if it has no such tensor."""
    layer, part = parse_name(name)
    hidden, experts = body["hidden"], body["experts"]
    if layer is None:
        return (body["vocab"] if part == "embedding" else 1), hidden
    if layer >= body["layers"]:
        return None
    if part.startswith("expert"):
        return (3 * experts["neurons"], hidden) if int(part[6:]) < experts["per_layer"] else None
    qkv = (body["heads"] + 2 * body["kv_heads"]) * body["head_dim"]
    routed = experts["per_layer"] - experts["always_on"]
    rows = {"attn_norm": 1, "ffn_norm": 1, "attn_output": hidden, "attn_qkv": qkv, "router": routed}[part]
    return rows, hidden + (part == "router")


def tensor_count(body):
    return 2 + body["layers"] * (5 + body["experts"]["per_layer"])


def check_manifest(body):
    entries = lambda v: type(v) is dict and all(is_name(name) and is_hash(block) for name, block in v.items())
    check_fields(body, {"architecture": is_hash, "entries": entries})
    require(1 <= len(body["entries"]) <= 65_536, "entries", "must have 1 to 65536 names")


def check_audit_anchor(body):
    check_fields(body, {"count": integer(64), "head": is_hash})
    require(body["count"] > 0, "count", "must be at least 1")


BODIES = {
    "genesis": (check_genesis, 16 * 1024),
    "architecture": (check_architecture, 16 << 20),
    "manifest": (check_manifest, 8 << 20),
    "audit_anchor": (check_audit_anchor, 256),
    "key_grant": (check_key_grant, 8 * 1024),
}


# TensorBlocks --------------------------------------------------------------------------------------------------------

# dtype: bits of an element. (dtype, quantisation): fp32 scales a row, a block of 32.
BITS = {1: 16, 2: 8, 4: 32, 5: 4}
SCALES = {(1, 0): (0, 0), (4, 0): (0, 0), (2, 1): (1, 0), (2, 2): (0, 1), (5, 2): (0, 2)}


def check_tensorblock(data, expected):
    """Checks every byte of a TensorBlock against its root and returns rows and columns."""
    require(len(data) >= 128, "header", "the file is shorter than 128 bytes")
    magic, version, dtype, rows, cols, layout, method, scales_at, data_at, tree_at = struct.unpack_from("<8sIIQQIIQQQ", data)
    require(magic == b"TBLOCK01", "header", "it does not start with TBLOCK01")
    require(version == 1, "header", f"version is {version}, not 1")
    require(layout == 0, "header", f"layout is {layout}; only row-major tensors are held")
    require((dtype, method) in SCALES, "header", f"dtype {dtype} and quantisation {method} do not go together")
    require(rows > 0 and cols > 0 and (method != 2 or cols % 32 == 0), "header", f"shape {rows} x {cols} is impossible")
    require(data[64:128] == bytes(64), "header", "reserved bytes are not zero")
    per_row, per_block = SCALES[dtype, method]
    scales_end = 128 + 4 * (rows * per_row + rows * cols // 32 * per_block)
    data_start = -(-scales_end // 4096) * 4096
    data_end = data_start + rows * cols * BITS[dtype] // 8
    placed = (scales_at, data_at, tree_at) == (128, data_start, data_end)
    require(placed, "header", "an offset is not where the section must start")
    levels = widths(-(-data_end // LEAF_LEN))
    file_len = data_end + 32 * sum(levels)
    require(len(data) == file_len, "header", f"the file has {len(data)} bytes, its header says {file_len}")
    require(not any(data[scales_end:data_start]), "padding", "a byte is not zero")
    check_tree(data, data_end, levels, expected)
    return rows, cols


def check_tree(data, covered, levels, expected):
    at, stored = covered, []
    for width in levels:
        stored.append([bytes(data[at + 32 * i : at + 32 * i + 32]) for i in range(width)])
        at += 32 * width
    for level, above in zip(stored, stored[1:]):
        require(next_level(level) == above, "tree", "the stored Merkle tree does not belong to itself")
    for index, leaf in enumerate(stored[0]):
        tile = data[LEAF_LEN * index : min(LEAF_LEN * (index + 1), covered)]
        require(leaf_hash(tile) == leaf, f"tile {index}", "does not match its hash in the tree")
    require(stored[-1][0] == expected, "tree", f"the root is {stored[-1][0].hex()}, the block says {expected.hex()}")


# The chain -----------------------------------------------------------------------------------------------------------

COMMIT = {"accepted_by": is_key, "accepted_ms": integer(64), "rule": one_of("authorised_key")}


class Chain:
    """What was found so far: each block must follow from the lines before it."""

    def __init__(self, folder):
        self.folder = folder
        self.blocks = {}
        self.bodies = {}
        self.shapes = {}
        self.on_a = []
        self.keys = []
        self.granted = set()

    def add(self, line):
        block = decode(line)
        check_fields(block, {"header": lambda v: True, "signature": lambda v: True, "commit": lambda v: True})
        header, signature = block["header"], block["signature"]
        check_header(header)
        right = is_text(signature) and re.fullmatch("[0-9a-f]{128}", signature)
        require(right, "signature", "is not 128 lower-case hex digits")
        signed_len = len(encode({"header": header, "signature": signature}))
        require(signed_len <= SIGNED_LEN_MAX, "", "header and signature are longer than 16 KiB")
        digest = sha256(BLOCK_DOMAIN, encode(header))
        require(digest.hex() not in self.blocks, "", "the block stands twice")
        check_signature(header["miner_pub"], digest, signature)
        check_fields(block["commit"], COMMIT, of="commit.")
        self.check_rules(header, digest.hex())
        self.check_payload(header, digest.hex())
        self.blocks[digest.hex()] = header
        if header["chain"] != "B":
            self.on_a.append(digest.hex())

    def check_rules(self, header, block):
        if header["block_type"] == "genesis":
            require(not self.on_a, "block_type", "the chain has a genesis already")
            body = self.read_body(header)
            self.keys = body["authorised_keys"]
        require(self.on_a or header["block_type"] == "genesis", "block_type", "the chain has no genesis yet")
        self.check_signer(header)
        if self.on_a:
            require(header["network_id"] == self.on_a[0], "network_id", "the block belongs to another network")
        if header["chain"] == "B":
            self.check_dag(header)
        else:
            expected = len(self.on_a)
            require(header["index"] == expected, "index", f"is {header['index']}, the next one is {expected}")
            follows = not self.on_a or header["prev_hash"] == self.on_a[-1]
            require(follows, "prev_hash", "is not the hash of the block before")

    def check_signer(self, header):
        key = header["miner_pub"]
        if key in self.keys:
            return
        require(key in self.granted, "miner_pub", "this key is authorised neither by the genesis nor by a key_grant")
        require(header["block_type"] == "expert", "miner_pub", "this key was granted experts only")
        require("supersedes" not in header, "supersedes", "a key that was granted experts deprecates nothing")

    def check_dag(self, header):
        expected = 0
        for parent in header["depends_on"]:
            found = self.blocks.get(parent)
            require(found and found["chain"] == "B", "depends_on", f"{parent} is no earlier block of chain B")
            expected = max(expected, found["index"] + 1)
        require(header["index"] == expected, "index", f"is {header['index']}, its parents ask for {expected}")
        self.check_architecture_of(header["meta_ref"], "meta_ref")
        for older in header.get("supersedes", ()):
            same = self.blocks.get(older, {}).get("expert_name") == header["expert_name"]
            require(same, "supersedes", f"{older} is no earlier block of the same tensor")

    def check_architecture_of(self, block, field):
        found = self.blocks.get(block)
        right = found and found["block_type"] == "architecture"
        require(right, field, f"{block} is no earlier architecture block")

    def path(self, payload):
        return os.path.join(self.folder, "payloads", payload)

    def check_payload(self, header, block):
        if header["chain"] == "B":
            found = self.check_weights(header)
            expected = tensor_shape(self.bodies[header["meta_ref"]], header["expert_name"])
            require(found == expected, "payload", f"has shape {found}, the architecture asks for {expected}")
            return
        body = self.read_body(header)
        if header["block_type"] == "architecture":
            self.bodies[block] = body
        if header["block_type"] == "manifest":
            self.check_entries(body)
        if header["block_type"] == "key_grant":
            self.granted.update(body["keys"])

    def open_payload(self, header):
        path = self.path(header["payload_hash"])
        plain = os.path.isfile(path) and not os.path.islink(path)
        require(plain, "payload", f"{header['payload_hash']} is not there")
        found = os.path.getsize(path)
        require(found == header["payload_len"], "payload_len", f"the payload has {found} bytes, not {header['payload_len']}")
        return open(path, "rb")

    def read_body(self, header):
        with self.open_payload(header) as file:
            data = file.read()
        found = sha256(data).hex()
        require(found == header["payload_hash"], "payload_hash", f"the payload hashes to {found}")
        check, len_max = BODIES[header["block_type"]]
        try:
            require(len(data) <= len_max, "", f"is longer than {len_max} bytes")
            body = decode(data)
            check(body)
        except Fault as fault:
            raise Fault(f"payload: {fault.field}" if fault.field else "payload", fault.what) from None
        return body

    def check_weights(self, header):
        payload = header["payload_hash"]
        with self.open_payload(header) as file:
            if payload not in self.shapes:
                with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                    try:
                        self.shapes[payload] = check_tensorblock(data, bytes.fromhex(payload))
                    except Fault as fault:
                        raise Fault(f"payload: {fault.field}", fault.what) from None
        return self.shapes[payload]

    def check_entries(self, body):
        self.check_architecture_of(body["architecture"], "payload: architecture")
        architecture = self.bodies[body["architecture"]]
        for name, block in body["entries"].items():
            found = self.blocks.get(block)
            field = f"payload: entries.{name}"
            require(found and found["chain"] == "B", field, f"{block} is no earlier block of chain B")
            require(found["expert_name"] == name, field, f"{block} carries {found['expert_name']}")
            require(tensor_shape(architecture, name), field, "the architecture has no such tensor")
        right = len(body["entries"]) == tensor_count(architecture)
        require(right, "payload: entries", f"names {len(body['entries'])} of {tensor_count(architecture)} tensors")

    def check_strays(self):
        named = {header["payload_hash"] for header in self.blocks.values()}
        for name in sorted(os.listdir(os.path.join(self.folder, "payloads"))):
            require(name in named, f"payloads/{name}", "no block names it")
        for name in sorted(os.listdir(self.folder)):
            require(name in ("blocks.jsonl", "payloads"), name, "does not belong in a store")


def name_of(number, line):
    """What a line says of itself, for the message: it may be all wrong."""
    try:
        header = json.loads(line)["header"]
        block = sha256(BLOCK_DOMAIN, encode(header)).hex()
        kind = header.get("expert_name") or header.get("block_type")
        return f"block {number} ({kind}, {block[:16]})"
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return f"block {number}"


def check_store(folder, anchor=None):
    """The chain in a folder; raises the first fault."""
    chain = Chain(folder)
    with open(os.path.join(folder, "blocks.jsonl"), "rb") as file:
        for number, line in enumerate(file):
            try:
                require(line.endswith(b"\n"), "", "the last line does not end")
                chain.add(line[:-1])
            except Fault as fault:
                raise Fault(fault.field, fault.what, name_of(number, line)) from None
    require(chain.on_a, "blocks.jsonl", "there is no genesis")
    pinned = anchor is None or anchor in chain.blocks
    require(pinned, "anchor", f"{anchor} is not on this chain: it is another chain, or an older state of this one")
    chain.check_strays()
    return chain


# Test vectors --------------------------------------------------------------------------------------------------------


def refuses(check, *arguments):
    try:
        return check(*arguments) is False
    except Fault:
        return True


def read_vectors(folder, name):
    with open(os.path.join(folder, name), encoding="utf-8") as file:
        return json.load(file)


def vectors_of_json(folder):
    for vector in read_vectors(folder, "canonical_json.json"):
        text = vector["canonical"].encode("ascii")
        require(decode(text) == json.loads(vector["input"]), vector["input"], "is another value")
        require(encode(json.loads(vector["input"])) == text, vector["input"], "is written differently")
    for vector in read_vectors(folder, "canonical_json_refused.json"):
        require(refuses(decode, vector["text"].encode()), vector["text"][:80], f"was accepted: {vector['why']}")


def vectors_of_blocks(folder):
    vectors = read_vectors(folder, "block.json")
    for vector in vectors["blocks"]:
        header = decode(vector["header"].encode())
        check_header(header)
        digest = sha256(BLOCK_DOMAIN, vector["header"].encode())
        require(digest.hex() == vector["hash"], vector["name"], f"hashes to {digest.hex()}")
        check_signature(vectors["public_key"], digest, vector["signature"])
    for vector in read_vectors(folder, "signature_refused.json"):
        refused = refuses(check_signature, vector["public_key"], bytes.fromhex(vector["hash"]), vector["signature"])
        require(refused, vector["why"], "was accepted")
    for vector in read_vectors(folder, "block_refused.json"):
        require(refuses(lambda: check_header(decode(vector["header"].encode()))), vector["why"], "was accepted")


def vectors_of_tensors(folder):
    for vector in read_vectors(folder, "tensorblock.json"):
        if "file" in vector:
            with open(os.path.join(folder, vector["file"]), "rb") as file:
                data = file.read()
            shape = check_tensorblock(data, bytes.fromhex(vector["payload_hash"]))
            require(shape == (vector["rows"], vector["cols"]), vector["name"], f"has shape {shape}")
    for vector in read_vectors(folder, "tensorblock_refused.json"):
        with open(os.path.join(folder, vector["file"]), "rb") as file:
            data = bytearray(file.read())
        for edit in vector["edits"]:
            data[edit["at"] : edit["at"] + len(edit["hex"]) // 2] = bytes.fromhex(edit["hex"])
        data = bytes(data[: vector["len"]])
        refused = refuses(check_tensorblock, data, bytes.fromhex(vector["payload_hash"]))
        require(refused, vector["why"], "was accepted")


def vectors_of_proofs(folder):
    def holds(vector):
        siblings = [bytes.fromhex(node) for node in vector["siblings"]]
        found = root_by_proof(vector["leaf_index"], vector["leaf_count"], bytes.fromhex(vector["leaf"]), siblings)
        return found is not None and found.hex() == vector["root"]

    for vector in read_vectors(folder, "merkle_proof.json"):
        require(holds(vector), f"proof {vector['leaf_index']} of {vector['leaf_count']}", "does not lead to the root")
    for vector in read_vectors(folder, "merkle_proof_refused.json"):
        require(not holds(vector), vector["why"], "was accepted")


def vectors_of_rules(folder):
    vectors = read_vectors(folder, "store_refused.json")
    chain = Chain(os.path.join(folder, "store"))
    with open(os.path.join(folder, "store", "blocks.jsonl"), "rb") as file:
        for number, line in enumerate(file):
            for vector in (vector for vector in vectors if vector["after"] == number):
                refused = refuses(chain.add, vector["line"].encode())
                require(refused, f"vectors of rules: {vector['why']}", "was accepted")
            chain.add(line[:-1])


def check_vectors(folder):
    for check in (vectors_of_json, vectors_of_blocks, vectors_of_tensors, vectors_of_proofs):
        try:
            check(folder)
        except Fault as fault:
            raise Fault(fault.field, fault.what, check.__name__.replace("_", " ")) from None
    vectors_of_rules(folder)
    return check_store(os.path.join(folder, "store"))


def main():
    parser = argparse.ArgumentParser(description="Verifies an exported Blyan store, or the test vectors.")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("store", nargs="?", metavar="DIR", help="what `blyan export` wrote")
    what.add_argument("--vectors", metavar="DIR", help="the folder of the test vectors")
    parser.add_argument("--anchor", metavar="HASH", help="a block that must be on the chain, such as the genesis")
    asked = parser.parse_args()
    if asked.anchor is not None and (asked.vectors or not is_hash(asked.anchor)):
        parser.error("--anchor is the hash of a block, 64 lower-case hex digits, and goes with a store")
    needed = [asked.vectors] if asked.vectors else [os.path.join(asked.store, n) for n in ("blocks.jsonl", "payloads")]
    for path in needed:
        if not os.path.exists(path):
            parser.error(f"{path} is not there")
    try:
        chain = check_vectors(asked.vectors) if asked.vectors else check_store(asked.store, asked.anchor)
    except Fault as fault:
        print(f"fault: {fault}")
        return 1
    on_b = len(chain.blocks) - len(chain.on_a)
    print(f"no fault: {len(chain.on_a)} blocks on chain A, {on_b} on chain B, genesis {chain.on_a[0]}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
