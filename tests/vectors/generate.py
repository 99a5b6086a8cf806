#!/usr/bin/env python3
"""Writes the test vectors of blyan-formats, from the standard library alone.

An implementation of its own: it shares no code with the crate, so a vector that the crate recomputes was computed
twice. Run it in this folder; it writes the same bytes each time (tests/vectors.rs reads them).
"""

import hashlib
import hmac
import json
import random
import struct
from pathlib import Path

HERE = Path(__file__).resolve().parent
LEAF_LEN = 64 * 1024
TENSOR_DOMAIN = b"blyan/tensorblock/v1\0"
BLOCK_DOMAIN = b"blyan/block/v1\0"


def sha256(*parts):
    return hashlib.sha256(b"".join(parts)).digest()


def canonical(value):
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def save(name, value):
    (HERE / name).write_text(json.dumps(value, indent=1) + "\n")


# Canonical JSON ------------------------------------------------------------------------------------------------------

CHARACTERS = (
    [chr(c) for c in range(0x21)]
    + list('abcXYZ09_"\\/~')
    + list("\x7f\x80\xff\u07ff\u0800\u20ac\ud7ff\ue000\uffff\U00010000\U0001f600\U0010ffff")
)


def random_text(rng):
    return "".join(rng.choice(CHARACTERS) for _ in range(rng.randrange(8)))


def random_value(rng, depth):
    kind = rng.randrange(8 if depth else 6)
    if kind == 0:
        return rng.choice([None, True, False])
    if kind in (1, 2):
        return rng.choice([0, -1, 1, 2**63 - 1, -(2**63), 2**64 - 1, rng.randrange(-(10**6), 10**6)])
    if kind in (3, 4, 5):
        return random_text(rng)
    if kind == 6:
        return [random_value(rng, depth - 1) for _ in range(rng.randrange(5))]
    return {random_text(rng): random_value(rng, depth - 1) for _ in range(rng.randrange(6))}


def canonical_vectors():
    rng = random.Random(20240229)
    values = [{"b": 1, "a": [1, 2], "é": "ü", "Z": {"": None}}, {"\uffff": 1, "\U00010000": 2, "\ud7ff": 3}]
    values += [random_value(rng, 4) for _ in range(100)]
    values += [{random_text(rng): random_value(rng, 4) for _ in range(6)} for _ in range(200)]
    # `input` is any JSON of the value: unsorted, spaced, not escaped.
    return [{"input": json.dumps(v, ensure_ascii=False, indent=1), "canonical": canonical(v)} for v in values]


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


def tensor_cases():
    uint4 = bytes((i * 7 + 3) % 256 for i in range(2 * 64 // 2))
    int8 = bytes((i * 5 + 11) % 256 for i in range(2 * 64))
    return {
        "fp32_2x3": (4, 0, 2, 3, b"", fp32(0.0, 1.0, -2.5, 0.1, 3e-8, -1e30)),
        "fp16_1x4": (1, 0, 1, 4, b"", struct.pack("<4e", 1.0, -0.5, 65504.0, 6e-8)),
        "int8_rows_3x5": int8_rows(3, 5),
        "int8_blocks_2x64": (2, 2, 2, 64, fp32(0.5, 0.25, -1.5, 0.0), int8),
        "uint4_blocks_2x64": (5, 2, 2, 64, fp32(0.5, 0.25, 2.0, 0.125) + fp32(-1.0, 0.0, 3.5, -0.75), uint4),
        "int8_rows_288x576": int8_rows(288, 576),
        "int8_rows_1000x576": int8_rows(1000, 576),
    }


def values_of(case):
    """What the elements stand for, as Python floats rounded to fp32."""
    dtype, quantisation, rows, cols, scales, data = case
    scales = struct.unpack(f"<{len(scales) // 4}f", scales)
    if dtype == 4:
        return list(struct.unpack(f"<{rows * cols}f", data))
    if dtype == 1:
        return list(struct.unpack(f"<{rows * cols}e", data))
    if dtype == 2:
        run = cols if quantisation == 1 else 32
        return [scales[i // run] * q for i, q in enumerate(struct.unpack(f"<{rows * cols}b", data))]
    blocks, out = len(scales) // 2, []
    for block in range(blocks):
        packed = data[16 * block : 16 * block + 16]
        nibbles = [b & 15 for b in packed] + [b >> 4 for b in packed]
        out += [scales[block] * q + scales[blocks + block] for q in nibbles]
    return out


def tensor_vectors():
    vectors = []
    for name, case in tensor_cases().items():
        file, leaves = tensorblock(*case)
        dtype, quantisation, rows, cols, _, _ = case
        vector = {
            "name": name,
            "dtype": dtype,
            "quantisation": quantisation,
            "rows": rows,
            "cols": cols,
            "file_len": len(file),
            "file_sha256": sha256(file).hex(),
            "payload_hash": root_of(leaves).hex(),
            "leaf_count": len(leaves),
        }
        if len(file) < 10_000:
            (HERE / f"{name}.tblk").write_bytes(file)
            vector["file"] = f"{name}.tblk"
            vector["values"] = [struct.unpack("<f", struct.pack("<f", v))[0] for v in values_of(case)]
        vectors.append(vector)
    return vectors


def proof_vectors():
    """Tile i of a proof vector holds 65536 bytes of value i mod 251, the last one only 1000 of them."""
    vectors = []
    for count in (1, 2, 3, 5, 8, 13):
        covered = b"".join(bytes([i % 251]) * (LEAF_LEN if i < count - 1 else 1000) for i in range(count))
        leaves = leaves_of(covered)
        for index in sorted({0, count // 2, count - 1}):
            siblings = [node.hex() for node in proof_of(leaves, index)]
            entry = {"leaf_count": count, "leaf_index": index, "leaf": leaves[index].hex()}
            vectors.append(entry | {"root": root_of(leaves).hex(), "siblings": siblings})
    return vectors


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


# Blocks --------------------------------------------------------------------------------------------------------------


def block_vectors():
    secret = int.from_bytes(sha256(b"blyan test vector key"), "big") % N
    key = public_key(secret).hex()
    genesis_payload = canonical({"network_name": "vectors", "authorised_keys": [key]}).encode()
    common = {"version": 1, "nonce": 0, "miner_pub": key}
    genesis = common | {
        "network_id": "00" * 32,
        "chain": "A",
        "index": 0,
        "timestamp_ms": 1700000000000,
        "block_type": "genesis",
        "payload_type": "json",
        "payload_hash": sha256(genesis_payload).hex(),
        "payload_len": len(genesis_payload),
    }
    genesis_hash = sha256(BLOCK_DOMAIN, canonical(genesis).encode()).hex()
    architecture = genesis | {
        "network_id": genesis_hash,
        "index": 1,
        "timestamp_ms": 1700000000001,
        "block_type": "architecture",
        "prev_hash": genesis_hash,
        "payload_hash": sha256(b"{}").hex(),
        "payload_len": 2,
    }
    architecture_hash = sha256(BLOCK_DOMAIN, canonical(architecture).encode()).hex()
    file, leaves = tensorblock(*int8_rows(288, 576))
    expert = common | {
        "network_id": genesis_hash,
        "chain": "B",
        "index": 0,
        "timestamp_ms": 1700000000002,
        "block_type": "expert",
        "depends_on": [],
        "expert_name": "layer4.expert7",
        "layer_id": 4,
        "meta_ref": architecture_hash,
        "payload_type": "tensorblock",
        "payload_hash": root_of(leaves).hex(),
        "payload_len": len(file),
        "nonce": 18446744073709551615,
    }
    expert_hash = sha256(BLOCK_DOMAIN, canonical(expert).encode()).hex()
    child = expert | {"index": 1, "timestamp_ms": 1700000000003, "depends_on": [expert_hash], "nonce": 7}
    vectors = []
    for name, header in [("genesis", genesis), ("architecture", architecture), ("expert", expert), ("child", child)]:
        text = canonical(header)
        digest = sha256(BLOCK_DOMAIN, text.encode())
        signature = sign(secret, digest).hex()
        block = canonical({"header": header, "signature": signature})
        vectors.append({"name": name, "header": text, "hash": digest.hex(), "signature": signature, "block": block})
    return {"secret_key": f"{secret:064x}", "public_key": key, "genesis_payload": genesis_payload.decode(), "blocks": vectors}


if __name__ == "__main__":
    save("canonical_json.json", canonical_vectors())
    save("tensorblock.json", tensor_vectors())
    save("merkle_proof.json", proof_vectors())
    save("block.json", block_vectors())
