"""A store that is damaged on disk: what a flipped bit, another signer or a cut file does. BLYAN_CHAOS sets the flips."""

import json
import os
import random
import shutil
import struct

import pytest

from conftest import run

FLIPS = int(os.environ.get("BLYAN_CHAOS", "10"))
SECTIONS = ["header", "scales", "padding", "data", "tree"]


def entries(data_dir) -> dict:
    return json.loads(run("model", "info", "--json", data_dir=data_dir).stdout)["entries"]


def sections(payload: bytes) -> dict:
    """Byte ranges of a TensorBlock, read from its header."""
    scales, data, tree = struct.unpack_from("<QQQ", payload, 40)
    rows, columns = struct.unpack_from("<QQ", payload, 16)
    dtype, quantisation = struct.unpack_from("<I", payload, 12)[0], struct.unpack_from("<I", payload, 36)[0]
    per_row = {0: 0, 1: 4, 2: columns // 32 * (8 if dtype == 5 else 4)}[quantisation]
    end_of_scales = scales + rows * per_row
    return {"header": (0, 128), "scales": (scales, end_of_scales), "padding": (end_of_scales, data),
            "data": (data, tree), "tree": (tree, len(payload))}


def flip(path, position, bit):
    """Replaces the file by a copy with one bit flipped."""
    damaged = bytearray(path.read_bytes())
    damaged[position] ^= 1 << bit
    fresh = path.with_name(path.name + ".new")
    fresh.write_bytes(damaged)
    os.chmod(path, 0o644)
    os.replace(fresh, path)


def test_flipped_bits_are_found_before_use_and_named(imported, store, start):
    seed = int(os.environ.get("BLYAN_SEED", random.randrange(1 << 32)))
    print(f"\nseed {seed}: BLYAN_SEED={seed} repeats it")
    rng = random.Random(seed)
    named = entries(store)
    experts = sorted(name for name in named if ".expert" in name)
    found = dict.fromkeys(SECTIONS, 0)
    for number in range(FLIPS):
        name = rng.choice(experts)
        payload = named[name]["payload_hash"]
        path = store / "payloads" / payload
        section = SECTIONS[number % len(SECTIONS)]
        low, high = sections(path.read_bytes())[section]
        flip(path, rng.randrange(low, high), rng.randrange(8))
        said = run("verify", data_dir=store, check=False)
        assert said.returncode == 1, f"{section} of {name}: verify passed"
        assert name in said.stdout + said.stderr and payload in said.stdout + said.stderr
        if number < 10:
            serve_with_one_corrupt(start, store, name, payload)
        found[section] += 1
        shutil.copy2(imported / "payloads" / payload, path)
    assert run("verify", data_dir=store).returncode == 0
    print(f"found before use, by section: {found}")


def serve_with_one_corrupt(start, store, name, payload):
    node = start(store)
    assert node.http.get("/ready").status_code == 200
    refused = node.chat()
    assert refused.status_code == 503, refused.text
    error = refused.json()["error"]
    assert error["code"] == "expert_corrupt"
    assert error["expert"]["name"] == name and error["expert"]["hash"] == payload
    listed = node.http.get("/security/integrity_status").json()["corrupt"]
    assert [(c["name"], c["payload_hash"]) for c in listed] == [(name, payload)]
    assert node.http.get("/ready").status_code == 200
    assert node.http.get("/monitoring/health").json()["status"] == "degraded"
    always_on = int(name.split(".expert")[1]) < 4
    without = node.chat(top_k_experts=15)
    if always_on:
        assert without.status_code == 503 and without.json()["error"]["code"] == "expert_corrupt"
    else:
        assert without.status_code == 200, without.text
        assert without.json()["text"]
    assert node.stop() == 0


REFERENCE = {"BLYAN__INFERENCE__BACKEND": "reference"}


def test_a_damaged_fp32_derivation_is_made_again(store, start):
    node = start(store, env=REFERENCE)
    text = node.chat().json()["text"]
    assert node.stop() == 0
    derived = sorted((store / "cache").glob("*.f32"))
    assert derived
    for path in derived[:20]:
        flip(path, path.stat().st_size // 2, 6)
    again = start(store, env=REFERENCE)
    assert again.chat().json()["text"] == text
    assert again.http.get("/security/integrity_status").json()["corrupt"] == []


@pytest.mark.parametrize("backend", ["fast", "reference"])
def test_a_file_cut_under_a_live_map_fails_the_step_not_the_process(store, start, backend):
    node = start(store, env={"BLYAN__INFERENCE__BACKEND": backend})
    assert node.chat().status_code == 200
    mapped = list((store / {"fast": "payloads", "reference": "cache"}[backend]).iterdir())
    assert len(mapped) > 480
    for path in mapped:
        os.chmod(path, 0o644)
        os.truncate(path, 0)
    answer = node.chat()
    assert answer.status_code == 503, answer.text
    assert answer.json()["error"]["code"] in ("expert_corrupt", "expert_unavailable", "unavailable")
    assert node.process.poll() is None
    assert node.http.get("/health").status_code == 200


def test_an_anchor_pins_the_history(imported):
    info = json.loads(run("model", "info", "--json", data_dir=imported).stdout)
    assert run("verify", "--anchor", info["model_id"], data_dir=imported).returncode == 0
    refused = run("verify", "--anchor", "00" * 32, data_dir=imported, check=False)
    assert refused.returncode == 1


def test_a_moved_store_is_whole(store, tmp_path):
    moved = tmp_path / "elsewhere" / "deep"
    moved.parent.mkdir()
    shutil.move(store, moved)
    assert run("verify", data_dir=moved).returncode == 0
