#!/usr/bin/env python3
"""Writes the test vectors into this folder, the same bytes each time; README.md says what they are.

test_check.py compares what lies here with what this writes, the crates recompute it (actors/formats/tests/vectors.rs,
actors/chain/tests/chain/vectors.rs), and check.py --vectors reads it without either.
"""

import json
import random
import struct
from pathlib import Path

from faults import HEADER_FAULTS, SIGNER_FAULTS
from forge import BLOCK_DOMAIN, LEAF_LEN, N, OTHER_SECRET, SECRET, Forge, canonical, fp32, int8_rows, leaves_of, proof_of
from forge import public_key, root_of, sha256, sign, tensorblock

HERE = Path(__file__).resolve().parent


def save(folder, name, value):
    (folder / name).write_text(json.dumps(value, indent=1) + "\n")


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


# Merkle tree and TensorBlock -------------------------------------------------------------------------------------------


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


def tensor_vectors(folder):
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
            (folder / f"{name}.tblk").write_bytes(file)
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


# Blocks --------------------------------------------------------------------------------------------------------------


def block_vectors():
    secret, key = SECRET, public_key(SECRET).hex()
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


# What must be refused ------------------------------------------------------------------------------------------------


def refused_json():
    cases = {
        "a space": '[1, 2]', "a line end": "1\n", "unsorted keys": '{"b":1,"a":1}', "a key twice": '{"a":1,"a":1}',
        "a float": "1.0", "an exponent": "1e3", "a leading zero": "01", "minus zero": "-0", "a plus": "+1",
        "not a number": "NaN", "infinity": "-Infinity", "above 64 bits": str(2**64), "below 64 bits": str(-(2**63) - 1),
        "not escaped": '"\u00e9"', "escaped for no reason": '"\\u0041"', "upper-case escape": '"\\u00E9"',
        "long escape": '"\\u000a"', "escaped slash": '"\\/"', "half of a pair": '"\\ud800"', "the other half": '"\\udc00"',
        "keys by UTF-16": '{"\\ud800\\udc00":2,"\\uffff":1}', "too deep": "[" * 33 + "]" * 33, "a trailing comma": "[1,]",
        "too long a text": '"' + "x" * (64 * 1024 + 1) + '"', "nothing": "", "two values": "1 2", "a key that is no text": "{1:2}",
    }  # fmt: skip
    return [{"why": why, "text": text} for why, text in cases.items()]


def refused_signatures(blocks):
    key, block = blocks["public_key"], blocks["blocks"][0]
    digest, good = block["hash"], block["signature"]
    r, s = good[:64], good[64:]
    cases = {
        "s in the upper half": (key, digest, r + f"{N - int(s, 16):064x}"),
        "r is zero": (key, digest, "0" * 64 + s),
        "s is zero": (key, digest, r + "0" * 64),
        "r is the order of the curve": (key, digest, f"{N:064x}" + s),
        "another hash": (key, sha256(b"another").hex(), good),
        "another key": (public_key(OTHER_SECRET).hex(), digest, good),
        "r and s exchanged": (key, digest, s + r),
    }
    return [{"why": why, "public_key": key, "hash": of, "signature": text} for why, (key, of, text) in cases.items()]


def refused_blocks(blocks):
    headers = {block["name"]: json.loads(block["header"]) for block in blocks["blocks"]}
    other = sha256(b"other").hex()
    changes = [
        ("another version", "expert", {"version": 2}), ("chain of another type", "expert", {"chain": "A"}),
        ("no such type", "expert", {"block_type": "poem"}), ("a genesis after the first block", "genesis", {"index": 1}),
        ("a genesis that names a network", "genesis", {"network_id": other}), ("no network", "expert", {"network_id": "0" * 64}),
        ("a time after the year 9999", "expert", {"timestamp_ms": 253402300800000}), ("prev_hash on B", "expert", {"prev_hash": other}),
        ("depends_on on A", "architecture", {"depends_on": []}), ("parents unsorted", "child", {"depends_on": ["b" * 64, "a" * 64]}),
        ("a parent twice", "child", {"depends_on": [other, other]}), ("65 parents", "child", {"depends_on": [f"{i:064x}" for i in range(65)]}),
        ("supersedes on A", "architecture", {"supersedes": [other]}), ("supersedes nothing", "expert", {"supersedes": []}),
        ("superseded twice", "expert", {"supersedes": [other, other]}), ("parents at index 0", "expert", {"depends_on": [other]}), ("no parents at index 1", "child", {"depends_on": []}),
        ("name of another type", "expert", {"expert_name": "layer4.router"}), ("a leading zero", "expert", {"expert_name": "layer04.expert7"}),
        ("another layer", "expert", {"layer_id": 5}), ("a name on A", "architecture", {"expert_name": "embedding"}),
        ("meta_ref on A", "architecture", {"meta_ref": other}), ("another payload type", "expert", {"payload_type": "json"}),
        ("an empty payload", "expert", {"payload_len": 0}), ("16 GiB and a byte", "expert", {"payload_len": (16 << 30) + 1}),
        ("upper-case hex", "expert", {"payload_hash": "A" * 64}), ("a key off the curve", "expert", {"miner_pub": "02" + "0" * 62 + "05"}),
        ("null for an absent field", "genesis", {"prev_hash": None}), ("an unknown field", "expert", {"colour": "red"}),
        ("a negative index", "child", {"index": -1}), ("a nonce above 64 bits", "expert", {"nonce": 2**64}),
    ]  # fmt: skip
    return [{"why": why, "header": canonical(headers[of] | change)} for why, of, change in changes]


def refused_tensors(vectors):
    file_of = {vector["name"]: vector for vector in vectors}
    changes = [
        ("magic", "fp32_2x3", 7, "32"), ("version", "fp32_2x3", 8, "02"), ("an fp8 file", "fp32_2x3", 12, "03"),
        ("no rows", "fp32_2x3", 16, "00"), ("more rows", "fp32_2x3", 16, "03"), ("a shape that overflows", "fp32_2x3", 16, "ff" * 16),
        ("column-major", "fp32_2x3", 32, "01"), ("fp32 with scales", "fp32_2x3", 36, "01"), ("scales elsewhere", "fp32_2x3", 40, "84"),
        ("data elsewhere", "fp32_2x3", 48, "40"), ("tree elsewhere", "fp32_2x3", 56, "00"), ("a reserved byte", "fp32_2x3", 64, "01"),
        ("padding", "fp32_2x3", 4095, "01"), ("a flipped element", "fp32_2x3", 4096, "01"), ("a flipped scale", "int8_rows_3x5", 128, "01"),
        ("a flipped minimum", "uint4_blocks_2x64", 144, "01"), ("a flipped tree", "fp32_2x3", 4120, "0000"),
    ]  # fmt: skip
    refused = []
    for why, name, at, text in changes:
        vector = file_of[name]
        common = {"file": vector["file"], "payload_hash": vector["payload_hash"], "len": vector["file_len"]}
        refused.append({"why": why} | common | {"edits": [{"at": at, "hex": text}]})
    whole = file_of["fp32_2x3"]
    for why, length, expected in (
        ("cut short", whole["file_len"] - 1, whole["payload_hash"]),
        ("shorter than a header", 127, whole["payload_hash"]),
        ("another payload", whole["file_len"], sha256(b"other").hex()),
    ):
        refused.append({"why": why, "file": whole["file"], "payload_hash": expected, "len": length, "edits": []})
    return refused


def refused_proofs(proofs):
    good = next(proof for proof in proofs if proof["leaf_count"] == 5 and proof["leaf_index"] == 2)
    siblings, other = good["siblings"], sha256(b"other").hex()
    changes = {
        "another leaf": {"leaf": other}, "another root": {"root": other}, "the neighbour's place": {"leaf_index": 3},
        "a place outside of the tree": {"leaf_index": 5}, "a tree of another size": {"leaf_count": 2},
        "one neighbour too few": {"siblings": siblings[:-1]}, "one too many": {"siblings": [*siblings, other]},
        "neighbours in another order": {"siblings": siblings[::-1]}, "a flipped neighbour": {"siblings": [other, *siblings[1:]]},
    }  # fmt: skip
    return [{"why": why} | good | change for why, change in changes.items()]


def refused_lines():
    """Blocks that break a rule where the store is `after` lines long; payloads are those of the store."""
    refused = []
    for fault in HEADER_FAULTS + SIGNER_FAULTS:
        if fault.stage in ("header", "secret", "signature"):
            forge = Forge(fault.tweak)
            after = list(forge.hashes).index(fault.label)
            refused.append({"why": fault.name, "after": after, "line": forge.lines[after].decode()})
    return refused


def write(folder):
    """Writes every vector, and the store, into an empty folder or over the same ones."""
    tensors, proofs, blocks = tensor_vectors(folder), proof_vectors(), block_vectors()
    save(folder, "canonical_json.json", canonical_vectors())
    save(folder, "canonical_json_refused.json", refused_json())
    save(folder, "tensorblock.json", tensors)
    save(folder, "tensorblock_refused.json", refused_tensors(tensors))
    save(folder, "merkle_proof.json", proofs)
    save(folder, "merkle_proof_refused.json", refused_proofs(proofs))
    save(folder, "block.json", blocks)
    save(folder, "block_refused.json", refused_blocks(blocks))
    save(folder, "signature_refused.json", refused_signatures(blocks))
    save(folder, "store_refused.json", refused_lines())
    Forge().save(folder / "store")


if __name__ == "__main__":
    write(HERE)
