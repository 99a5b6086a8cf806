"""A miner of its own: experts as TensorBlocks, signed and uploaded with the standard library and httpx alone."""

import hashlib
import struct
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "vectors"))
import forge  # noqa: E402

SECRET = int.from_bytes(hashlib.sha256(b"a miner of the e2e tests").digest(), "big") % forge.N
KEY = forge.public_key(SECRET).hex()


def stored_expert(node, name):
    """The newest version of an expert, as the node tells it, and its payload file."""
    version = node.http.get(f"/experts/{name}/versions").json()["versions"][-1]
    return version, (node.data_dir / "payloads" / version["payload_hash"]).read_bytes()


def expert_like(payload, salt):
    """A TensorBlock of the same kind and shape with other weights: scales are turned by the salt, so all is finite."""
    magic, version, dtype, rows, cols, layout, method, _, data_at, tree_at = struct.unpack_from("<8sIIQQIIQQQ", payload)
    assert (magic, version, dtype, layout, method) == (b"TBLOCK01", 1, 2, 0, 2)
    scales = payload[128 : 128 + 4 * rows * cols // 32]
    turn = hashlib.sha256(str(salt).encode()).digest()[0] % 64 * 4 + 4
    data, _ = forge.tensorblock(dtype, method, rows, cols, scales[turn:] + scales[:turn], payload[data_at:tree_at])
    return data


def signed_block(node, name, payload, secret=SECRET, **changes):
    """A block over `payload` that improves the newest version of `name`, with `changes` to its header."""
    parent, _ = stored_expert(node, name)
    network = node.http.get("/genesis/hash").json()["genesis_hash"]
    return signed_over(payload, parent, network, secret, **changes)


def signed_over(payload, parent, network, secret=SECRET, **changes):
    """The same over a version that is known; the block and its hash."""
    name = parent["name"]
    header = {
        "version": 1, "network_id": network, "chain": "B", "index": parent["index"] + 1,
        "timestamp_ms": 1_800_000_000_000, "block_type": "expert", "depends_on": [parent["hash"]], "expert_name": name,
        "layer_id": int(name[5 : name.index(".")]), "meta_ref": parent["meta_ref"], "payload_type": "tensorblock",
        "payload_hash": payload[-32:].hex(), "payload_len": len(payload), "nonce": 0,
        "miner_pub": forge.public_key(secret).hex(),
    } | changes  # fmt: skip
    header = {field: value for field, value in header.items() if value is not None}
    digest = forge.sha256(forge.BLOCK_DOMAIN, forge.canonical(header).encode())
    return {"header": header, "signature": forge.sign(secret, digest).hex()}, digest.hex()


def grant(node, key=KEY):
    return node.http.post("/chain/keys", headers=node.admin, json={"key": key})


def begin(node, block):
    return node.http.post("/upload_moe_experts", json={"block": block})


def patch(node, upload, offset, piece):
    return node.http.patch(f"/upload_moe_experts/{upload}", content=piece, headers={"Upload-Offset": str(offset)})


def send_rest(node, upload, payload, piece_len=200_000):
    """Goes on from where the node says; returns the last answer."""
    answer = node.http.get(f"/upload_moe_experts/{upload}")
    at = answer.json()["received"]
    while at < len(payload):
        answer = patch(node, upload, at, payload[at : at + piece_len])
        if answer.status_code != 200:
            return answer
        at = answer.json()["received"]
    return answer


def versions_of(node, name):
    return {version["hash"]: version["current"] for version in node.http.get(f"/experts/{name}/versions").json()["versions"]}


def said(answer):
    error = answer.json()["error"]
    assert error["message"] and error["hint"], error
    return error["code"], error["message"] + " " + error["hint"]


