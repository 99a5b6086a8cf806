"""What the test vectors and the faulty stores are made with: Python's standard library alone.

An implementation of its own: it shares no code with the crates, so a vector that they recompute was computed twice, and
none with check.py, which would otherwise be blind to its own mistakes.
"""

import functools
import hashlib
import hmac
import json
import struct

LEAF_LEN = 64 * 1024
TENSOR_DOMAIN = b"blyan/tensorblock/v1\0"
BLOCK_DOMAIN = b"blyan/block/v1\0"


def sha256(*parts):
    return hashlib.sha256(b"".join(parts)).digest()


def canonical(value):
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


# Merkle tree and TensorBlock -----------------------------------------------------------------------------------------


def root_of(leaves):
    """By the definition: split at the largest power of two below the number of leaves."""
    if len(leaves) == 1:
        return leaves[0]
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    return sha256(b"\1", TENSOR_DOMAIN, root_of(leaves[:split]), root_of(leaves[split:]))


def proof_of(leaves, index):
    """Neighbours on the way up, lowest first, by the same definition."""
    if len(leaves) == 1:
        return []
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    if index < split:
        return proof_of(leaves[:split], index) + [root_of(leaves[split:])]
    return proof_of(leaves[split:], index - split) + [root_of(leaves[:split])]


def levels_of(leaves):
    levels = [leaves]
    while len(levels[-1]) > 1:
        below = levels[-1]
        pairs = [below[i : i + 2] for i in range(0, len(below), 2)]
        levels.append([sha256(b"\1", TENSOR_DOMAIN, *pair) if len(pair) == 2 else pair[0] for pair in pairs])
    return levels


def leaves_of(covered):
    pieces = [covered[i : i + LEAF_LEN] for i in range(0, len(covered), LEAF_LEN)]
    return [sha256(b"\0", TENSOR_DOMAIN, piece) for piece in pieces]


def tensorblock(dtype, quantisation, rows, cols, scales, data):
    data_at = -(-(128 + len(scales)) // 4096) * 4096
    header = struct.pack(
        "<8sIIQQIIQQQ", b"TBLOCK01", 1, dtype, rows, cols, 0, quantisation, 128, data_at, data_at + len(data)
    )
    covered = (header.ljust(128, b"\0") + scales).ljust(data_at, b"\0") + data
    leaves = leaves_of(covered)
    levels = levels_of(leaves)
    assert levels[-1][0] == root_of(leaves)
    return covered + b"".join(sum(levels, [])), leaves


def fp32(*values):
    return struct.pack(f"<{len(values)}f", *values)


def int8_rows(rows, cols):
    """Element (31 r + 7 c) mod 255 - 127, scale of row r (r + 1) / 1024."""
    scales = fp32(*((r + 1) / 1024 for r in range(rows)))
    data = bytes(((31 * r + 7 * c) % 255 - 127) & 0xFF for r in range(rows) for c in range(cols))
    return 2, 1, rows, cols, scales, data


# secp256k1 -----------------------------------------------------------------------------------------------------------

P = 2**256 - 2**32 - 977
N = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
G = (
    0x79BE667EF9DCBBAC55A06295CE870B07029BFCDB2DCE28D959F2815B16F81798,
    0x483ADA7726A3C4655DA4FBFC0E1108A8FD17B448A68554199C47D08FFB10D4B8,
)


def add(a, b):
    if a is None or b is None:
        return a or b
    if a[0] == b[0] and (a[1] + b[1]) % P == 0:
        return None
    slope = 3 * a[0] ** 2 * pow(2 * a[1], -1, P) if a == b else (b[1] - a[1]) * pow(b[0] - a[0], -1, P)
    x = (slope * slope - a[0] - b[0]) % P
    return x, (slope * (a[0] - x) - a[1]) % P


def multiply(k, point):
    total = None
    while k:
        if k & 1:
            total = add(total, point)
        point, k = add(point, point), k >> 1
    return total


def public_key(secret):
    x, y = multiply(secret, G)
    return bytes([2 + y % 2]) + x.to_bytes(32, "big")


def rfc6979_nonce(secret, digest):
    seed = secret.to_bytes(32, "big") + (int.from_bytes(digest, "big") % N).to_bytes(32, "big")
    v, k = b"\1" * 32, b"\0" * 32
    for tag in (b"\0", b"\1"):
        k = hmac.digest(k, v + tag + seed, "sha256")
        v = hmac.digest(k, v, "sha256")
    while True:
        v = hmac.digest(k, v, "sha256")
        nonce = int.from_bytes(v, "big")
        if 0 < nonce < N:
            return nonce
        k = hmac.digest(k, v + b"\0", "sha256")
        v = hmac.digest(k, v, "sha256")


def sign(secret, digest):
    nonce = rfc6979_nonce(secret, digest)
    r = multiply(nonce, G)[0] % N
    s = pow(nonce, -1, N) * (int.from_bytes(digest, "big") + r * secret) % N
    return r.to_bytes(32, "big") + min(s, N - s).to_bytes(32, "big")


SECRET = int.from_bytes(sha256(b"blyan test vector key"), "big") % N
OTHER_SECRET = int.from_bytes(sha256(b"another key"), "big") % N
MINER_SECRET = int.from_bytes(sha256(b"a miner's key"), "big") % N


SECRETS = {public_key(secret).hex(): secret for secret in (SECRET, OTHER_SECRET, MINER_SECRET)}
MINER_KEY = public_key(MINER_SECRET).hex()


@functools.cache
def signed(secret, digest):
    """Stores with one fault each share most of their blocks."""
    return sign(secret, digest).hex()


# A whole store -------------------------------------------------------------------------------------------------------

# The embedding is just above one tile, so its tree has two leaves and a root.
HIDDEN, VOCAB = 32, 520
ARCHITECTURE = {
    "family": "llama", "name": "vector", "license": "CC0-1.0", "layers": 1, "hidden": HIDDEN, "heads": 2, "kv_heads": 1,
    "head_dim": 16, "ffn": 16, "vocab": VOCAB, "context": 64, "rms_epsilon": "0.00001",
    "rope": {"base": "10000", "style": "interleaved"},
    "experts": {"per_layer": 2, "always_on": 1, "neurons": 8, "routing": "top_scores_unit_weight"},
    "tokenizer": {
        "kind": "gpt2_smollm", "vocab": [f"t{i}" for i in range(VOCAB)], "merges": ["t 1", "t \u00e9"],
        "token_types": [1] * VOCAB, "bos": 0, "eos": 1, "unknown": 2, "padding": 3, "add_bos": False,
        "add_space_prefix": False,
    },
    "chat_template": "chatml",
}  # fmt: skip
SHAPES = {
    "embedding": (VOCAB, HIDDEN), "layer0.attn_norm": (1, HIDDEN), "layer0.attn_qkv": (64, HIDDEN),
    "layer0.attn_output": (HIDDEN, HIDDEN), "layer0.ffn_norm": (1, HIDDEN), "layer0.router": (1, HIDDEN + 1),
    "layer0.expert0": (24, HIDDEN), "layer0.expert1": (24, HIDDEN), "output_norm": (1, HIDDEN),
}  # fmt: skip


def weights(name, version):
    """Experts as int8 with a scale a row, the rest as fp32; values follow from name and version."""
    rows, cols = SHAPES[name]
    salt = sha256(f"{name} {version}".encode())
    if "expert" not in name:
        return tensorblock(4, 0, rows, cols, b"", fp32(*(salt[i % 32] / 128 - 1 for i in range(rows * cols))))[0]
    scales = fp32(*((row + 1) / 1024 for row in range(rows)))
    return tensorblock(2, 1, rows, cols, scales, bytes(salt[i % 32] for i in range(rows * cols)))[0]


def tree_at(data):
    return struct.unpack_from("<Q", data, 56)[0]


def reseal(data, shape_of=None):
    """A TensorBlock with its tree made anew over bytes that were changed."""
    covered = bytes(data[: tree_at(shape_of or data)])
    return covered + b"".join(sum(levels_of(leaves_of(covered)), []))


def payload_hash(data, kind):
    """Of a TensorBlock the root, which its last 32 bytes are."""
    return (data[-32:] if kind == "tensorblock" else sha256(data)).hex()


class Forge:
    """Makes a store with every type of block. `tweak(stage, label, thing)` may change each thing on its way (stages
    body, bytes, header, secret, signature, commit, line); all that follows is built, hashed and signed over the change.
    """

    def __init__(self, tweak=lambda stage, label, thing: thing, secret=SECRET):
        self.tweak, self.secret = tweak, secret
        self.lines, self.payloads, self.hashes = [], {}, {}
        self.time, self.on_a, self.heights = 1_700_000_000_000, [], {}
        self.key = public_key(secret).hex()
        self.build()

    def build(self):
        self.meta("genesis", "genesis", {"network_name": "vectors", "authorised_keys": [self.key]})
        architecture = self.meta("architecture", "architecture", ARCHITECTURE)
        entries = {name: self.tensor(name, name, architecture, []) for name in SHAPES}
        self.meta("manifest", "manifest", {"architecture": architecture, "entries": entries})
        self.meta("audit_anchor", "audit_anchor", {"count": 3, "head": sha256(b"log").hex()})
        self.meta("key_grant", "key_grant", {"keys": [MINER_KEY]})
        self.meta("key_grant v2", "key_grant", {"keys": sorted([MINER_KEY, self.key])})
        self.tensor("layer0.router v2", "layer0.router", architecture, [entries["layer0.router"]])
        newer = [
            self.tensor("layer0.expert0 v2", "layer0.expert0", architecture, [entries["layer0.expert0"]], signer=MINER_KEY),
            self.tensor("layer0.expert1 v2", "layer0.expert1", architecture, [entries["layer0.expert1"]]),
        ]
        joined = self.tensor("layer0.expert1 v3", "layer0.expert1", architecture, sorted(newer), [entries["layer0.expert1"]])
        self.meta("manifest v2", "manifest", {"architecture": architecture, "entries": entries | {"layer0.expert1": joined}})

    def meta(self, label, kind, body):
        data = self.tweak("bytes", label, canonical(self.tweak("body", label, body)).encode())
        header = self.header("A", kind, len(self.on_a), data, "json")
        if self.on_a:
            header |= {"prev_hash": self.on_a[-1]}
        self.on_a.append(self.append(label, header, data))
        return self.on_a[-1]

    def tensor(self, label, name, architecture, parents, superseded=(), signer=None):
        data = self.tweak("bytes", label, weights(name, label))
        part = name.split(".")[-1]
        kind = "router" if part == "router" else "expert" if part.startswith("expert") else "shared_weights"
        index = max((self.heights[parent] + 1 for parent in parents), default=0)
        header = self.header("B", kind, index, data, "tensorblock")
        header |= {"depends_on": parents, "expert_name": name, "meta_ref": architecture, "miner_pub": signer or self.key}
        if superseded:
            header |= {"supersedes": list(superseded)}
        if name.startswith("layer"):
            header |= {"layer_id": int(name[5 : name.index(".")])}
        block = self.append(label, header, data)
        self.heights[block] = index
        return block

    def header(self, chain, kind, index, data, payload_type):
        self.time += 1
        return {
            "version": 1, "network_id": self.on_a[0] if self.on_a else "00" * 32, "chain": chain, "index": index,
            "timestamp_ms": self.time, "block_type": kind, "payload_type": payload_type,
            "payload_hash": payload_hash(data, payload_type), "payload_len": len(data), "nonce": 0, "miner_pub": self.key,
        }  # fmt: skip

    def append(self, label, header, data):
        self.payloads[header["payload_hash"]] = data
        header = self.tweak("header", label, header)
        digest = sha256(BLOCK_DOMAIN, canonical(header).encode())
        secret = self.tweak("secret", label, SECRETS.get(header["miner_pub"], self.secret))
        signature = self.tweak("signature", label, signed(secret, digest))
        commit = {"accepted_by": self.key, "accepted_ms": self.time + 5, "rule": "authorised_key"}
        block = {"header": header, "signature": signature, "commit": self.tweak("commit", label, commit)}
        self.lines.append(self.tweak("line", label, canonical(block).encode()))
        self.hashes[label] = digest.hex()
        return digest.hex()

    def save(self, folder):
        """Writes the store as `blyan export` does, over the same one where there is one."""
        (folder / "payloads").mkdir(parents=True, exist_ok=True)
        (folder / "blocks.jsonl").write_bytes(b"".join(line + b"\n" for line in self.lines))
        for name, data in self.payloads.items():
            (folder / "payloads" / name).write_bytes(data)
