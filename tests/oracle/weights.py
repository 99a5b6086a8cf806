"""Weights in fp32, read without any code of the node: from a GGUF file, or from TensorBlocks.

Names are the chain's (`embedding`, `layer0.attn_qkv`, ..). A layer's feed-forward part is `layer0.ffn`, `[3F, H]`: rows
of gate, of up, and of down transposed, whatever experts it was cut into; with all experts active it is their sum.
"""

import mmap
import pathlib
import struct
from dataclasses import dataclass

import numpy as np


@dataclass
class Model:
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    rms_epsilon: float
    rope_base: float
    weights: dict

    @property
    def head_dim(self) -> int:
        return self.hidden // self.heads


# GGUF ---------------------------------------------------------------------------------------------------------------

SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
TEXT, LIST = 8, 9
F32, F16, Q4_1, Q8_0 = 0, 1, 3, 8


class Cursor:
    def __init__(self, data):
        self.data, self.at = data, 0

    def unpack(self, form):
        values = struct.unpack_from("<" + form, self.data, self.at)
        self.at += struct.calcsize("<" + form)
        return values

    def number(self, form):
        return self.unpack(form)[0]

    def text(self):
        length = self.number("Q")
        self.at += length
        return bytes(self.data[self.at - length : self.at]).decode()

    def value(self, kind):
        if kind == TEXT:
            return self.text()
        if kind == LIST:
            kind, count = self.unpack("IQ")
            return [self.value(kind) for _ in range(count)]
        return self.number(SCALARS[kind])


def dequantised(kind, data, rows, columns):
    if kind == F32:
        return np.frombuffer(data, "<f4", rows * columns).reshape(rows, columns)
    if kind == F16:
        return np.frombuffer(data, "<f2", rows * columns).reshape(rows, columns).astype(np.float32)
    blocks = rows * columns // 32
    if kind == Q8_0:
        block = np.frombuffer(data, np.dtype([("scale", "<f2"), ("q", "i1", 32)]), blocks)
        return (block["scale"].astype(np.float32)[:, None] * block["q"]).reshape(rows, columns).astype(np.float32)
    if kind == Q4_1:
        block = np.frombuffer(data, np.dtype([("scale", "<f2"), ("least", "<f2"), ("q", "u1", 16)]), blocks)
        q = np.concatenate([block["q"] & 15, block["q"] >> 4], axis=1).astype(np.float32)
        scale, least = block["scale"].astype(np.float32), block["least"].astype(np.float32)
        return (q * scale[:, None] + least[:, None]).reshape(rows, columns)
    raise ValueError(f"tensor type {kind}")


def read_gguf(path):
    """Metadata, and a function that gives a tensor by name."""
    with open(path, "rb") as file:
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    cursor = Cursor(data)
    assert cursor.unpack("4sI") == (b"GGUF", 3)
    tensors, keys = cursor.unpack("QQ")
    metadata = {}
    for _ in range(keys):
        name = cursor.text()
        metadata[name] = cursor.value(cursor.number("I"))
    table = {}
    for _ in range(tensors):
        name = cursor.text()
        dims = cursor.unpack(f"{cursor.number('I')}Q")
        table[name] = (dims, *cursor.unpack("IQ"))
    alignment = metadata.get("general.alignment", 32)
    start = -(-cursor.at // alignment) * alignment

    def tensor(name):
        dims, kind, offset = table[name]
        rows = dims[1] if len(dims) > 1 else 1
        return dequantised(kind, memoryview(data)[start + offset :], rows, dims[0])

    return metadata, tensor


def model_of_gguf(path) -> Model:
    metadata, tensor = read_gguf(path)
    weights = {"embedding": tensor("token_embd.weight"), "output_norm": tensor("output_norm.weight")}
    layers = metadata["llama.block_count"]
    for layer in range(layers):
        part = lambda name: tensor(f"blk.{layer}.{name}.weight")
        weights[f"layer{layer}.attn_norm"] = part("attn_norm")
        weights[f"layer{layer}.attn_qkv"] = np.concatenate([part("attn_q"), part("attn_k"), part("attn_v")])
        weights[f"layer{layer}.attn_output"] = part("attn_output")
        weights[f"layer{layer}.ffn_norm"] = part("ffn_norm")
        weights[f"layer{layer}.ffn"] = np.concatenate([part("ffn_gate"), part("ffn_up"), part("ffn_down").T])
    return Model(
        layers=layers,
        hidden=metadata["llama.embedding_length"],
        heads=metadata["llama.attention.head_count"],
        kv_heads=metadata["llama.attention.head_count_kv"],
        rms_epsilon=metadata["llama.attention.layer_norm_rms_epsilon"],
        rope_base=metadata["llama.rope.freq_base"],
        weights=weights,
    )


# TensorBlocks -------------------------------------------------------------------------------------------------------

FP16, INT8, FP32, UINT4 = 1, 2, 4, 5
NONE, ROWS, BLOCKS = 0, 1, 2


def read_tensorblock(path):
    data = pathlib.Path(path).read_bytes()
    magic, version, dtype, rows, columns, layout, method, scales_at, data_at, tree_at = struct.unpack_from(
        "<8sIIQQIIQQQ", data
    )
    assert (magic, version, layout) == (b"TBLOCK01", 1, 0), path
    count = rows * columns
    floats = lambda at, number: np.frombuffer(data, "<f4", number, at)
    if (dtype, method) == (FP32, NONE):
        return floats(data_at, count).reshape(rows, columns)
    if (dtype, method) == (FP16, NONE):
        return np.frombuffer(data, "<f2", count, data_at).reshape(rows, columns).astype(np.float32)
    if (dtype, method) == (INT8, ROWS):
        q = np.frombuffer(data, "i1", count, data_at).reshape(rows, columns)
        return floats(scales_at, rows)[:, None] * q.astype(np.float32)
    blocks = count // 32
    scales = floats(scales_at, blocks)[:, None]
    if (dtype, method) == (INT8, BLOCKS):
        q = np.frombuffer(data, "i1", count, data_at).reshape(blocks, 32)
        return (scales * q.astype(np.float32)).reshape(rows, columns)
    if (dtype, method) == (UINT4, BLOCKS):
        packed = np.frombuffer(data, "u1", count // 2, data_at).reshape(blocks, 16)
        q = np.concatenate([packed & 15, packed >> 4], axis=1).astype(np.float32)
        return (scales * q + floats(scales_at + 4 * blocks, blocks)[:, None]).reshape(rows, columns)
    raise ValueError(f"{path}: dtype {dtype}, quantisation {method}")


def model_of_store(data_dir, info: dict, like: Model) -> Model:
    """The model in a node's store: names and shapes from `blyan model info --json`, bytes from the payload files. The
    two numbers of the architecture that are no shapes are those of `like`."""
    payload = lambda entry: pathlib.Path(data_dir) / "payloads" / entry["payload_hash"]
    read = {name: read_tensorblock(payload(entry)) for name, entry in info["entries"].items()}
    weights = {name: tensor for name, tensor in read.items() if ".expert" not in name and ".router" not in name}
    neurons = info["experts"]["neurons"]
    for layer in range(info["layers"]):
        experts = [read[f"layer{layer}.expert{number}"] for number in range(info["experts"]["per_layer"])]
        parts = [expert[part * neurons : (part + 1) * neurons] for part in range(3) for expert in experts]
        weights[f"layer{layer}.ffn"] = np.concatenate(parts)
    return Model(
        layers=info["layers"],
        hidden=info["hidden"],
        heads=info["heads"],
        kv_heads=info["kv_heads"],
        rms_epsilon=like.rms_epsilon,
        rope_base=like.rope_base,
        weights=weights,
    )
