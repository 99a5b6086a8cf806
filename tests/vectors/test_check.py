"""check.py on sound stores, on stores with one fault each, and on a store of the real node."""

import importlib.util
import json
import os
import pathlib
import random
import re
import subprocess
import sys
import time

import pytest

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from faults import FAULTS, Fault  # noqa: E402
from forge import OTHER_SECRET, Forge  # noqa: E402


def load(name):
    spec = importlib.util.spec_from_file_location(name, HERE / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


checker = load("check")


def check(*arguments):
    command = [sys.executable, "-I", str(HERE / "check.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


@pytest.fixture
def sound(tmp_path):
    forge = Forge()
    forge.save(tmp_path / "store")
    return forge, tmp_path / "store"


def test_a_store_with_every_type_of_block_passes(sound):
    forge, folder = sound
    kinds = {json.loads(line)["header"]["block_type"] for line in forge.lines}
    assert kinds == set(checker.CHAIN_OF)
    done = check(folder, "--anchor", forge.hashes["genesis"])
    assert done.returncode == 0, done.stdout + done.stderr
    assert forge.hashes["genesis"] in done.stdout


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_one_fault_is_named(fault, tmp_path):
    forge = Forge(fault.tweak)
    forge.save(tmp_path / "store")
    with pytest.raises(checker.Fault) as raised:
        checker.check_store(str(tmp_path / "store"))
    said = str(raised.value)
    assert fault.says in said, said
    number = list(forge.hashes).index(fault.label)
    assert re.match(rf"block {number}\b", said) or "stands twice" in said, said


def remove_payload(folder):
    next(path for path in sorted((folder / "payloads").iterdir())).unlink()


def add_payload(folder):
    (folder / "payloads" / ("ab" * 32)).write_bytes(b"x")


def link_payload(folder):
    path = sorted((folder / "payloads").iterdir())[0]
    path.rename(folder.parent / "elsewhere")
    path.symlink_to(folder.parent / "elsewhere")


def cut_last_line(folder):
    lines = folder / "blocks.jsonl"
    lines.write_bytes(lines.read_bytes()[:-1])


def swap_lines(folder):
    lines = (folder / "blocks.jsonl").read_bytes().splitlines(keepends=True)
    lines[1], lines[2] = lines[2], lines[1]
    (folder / "blocks.jsonl").write_bytes(b"".join(lines))


def drop_genesis(folder):
    lines = (folder / "blocks.jsonl").read_bytes().splitlines(keepends=True)
    (folder / "blocks.jsonl").write_bytes(b"".join(lines[1:]))


def empty(folder):
    (folder / "blocks.jsonl").write_bytes(b"")


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (remove_payload, "is not there"),
        (add_payload, "no block names it"),
        (link_payload, "is not there"),
        (cut_last_line, "the last line does not end"),
        (swap_lines, "meta_ref"),
        (drop_genesis, "no genesis yet"),
        (empty, "there is no genesis"),
    ],
)
def test_damage_to_the_files_is_named(sound, damage, says):
    damage(sound[1])
    done = check(sound[1])
    assert (done.returncode, says in done.stdout) == (1, True), done.stdout + done.stderr


def test_a_store_signed_anew_by_another_key_needs_the_anchor(sound, tmp_path):
    ours, _ = sound
    forged = tmp_path / "forged"
    Forge(secret=OTHER_SECRET).save(forged)
    assert check(forged).returncode == 0, "it is valid in itself"
    for label in ("genesis", "manifest"):
        done = check(forged, "--anchor", ours.hashes[label])
        assert done.returncode == 1
        assert "anchor" in done.stdout


def test_an_older_state_is_refused_by_a_newer_anchor(sound):
    forge, folder = sound
    lines = (folder / "blocks.jsonl").read_bytes().splitlines(keepends=True)
    (folder / "blocks.jsonl").write_bytes(b"".join(lines[:-1]))
    assert "anchor" in check(folder, "--anchor", forge.hashes["manifest v2"]).stdout


def test_misuse_exits_2(tmp_path):
    (tmp_path / "empty").mkdir()
    for arguments in ([], [tmp_path / "empty"], [HERE / "store", "--anchor", "abc"], ["--vectors"], ["a", "b"]):
        assert check(*arguments).returncode == 2, arguments


def test_the_vectors_pass_and_are_what_the_generator_writes(tmp_path):
    done = check("--vectors", HERE)
    assert done.returncode == 0, done.stdout + done.stderr
    load("generate").write(tmp_path)
    made = {path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file()}
    kept = {path.relative_to(HERE) for path in HERE.rglob("*") if path.suffix in (".json", ".tblk")}
    kept |= {path.relative_to(HERE) for path in (HERE / "store").rglob("*") if path.is_file()}
    assert made == kept
    for name in made:
        assert (tmp_path / name).read_bytes() == (HERE / name).read_bytes(), name


def test_a_wrong_vector_is_named(tmp_path):
    load("generate").write(tmp_path)
    vectors = json.loads((tmp_path / "merkle_proof.json").read_text())
    vectors[3]["root"] = "00" * 32
    (tmp_path / "merkle_proof.json").write_text(json.dumps(vectors))
    done = check("--vectors", tmp_path)
    assert (done.returncode, "vectors of proofs" in done.stdout) == (1, True), done.stdout


def test_the_nodes_own_export_passes(imported, tmp_path):
    from conftest import run

    said = json.loads(run("export", tmp_path / "out", "--json", data_dir=imported).stdout)
    done = check(tmp_path / "out", "--anchor", said["genesis"])
    assert done.returncode == 0, done.stdout + done.stderr
    again = run("export", tmp_path / "out", data_dir=imported, check=False)
    assert (again.returncode, "not empty" in again.stderr) == (1, True)


JUNK = [None, True, -1, 2**32, "", "x", [], ["x"], [None], {}, {"x": 1}]
# Junk that is lawful in a field of this name, as JSON: true is not 1 there.
LAWFUL = {(field, str(2**32)) for field in ("nonce", "timestamp_ms", "payload_len", "index", "count")}
LAWFUL |= {(field, '"x"') for field in ("name", "license", "network_name")}
LAWFUL |= {("add_bos", "true"), ("add_space_prefix", "true"), ("merges", "[]")}


def junk_for(field, value):
    texts = ((junk, json.dumps(junk)) for junk in JUNK)
    return [junk for junk, text in texts if text != json.dumps(value) and (field, text) not in LAWFUL]


@pytest.mark.parametrize("label", ["genesis", "manifest", "layer0.expert1 v3"])
def test_a_field_of_another_kind_is_a_fault_and_no_crash(sound, label):
    forge, _ = sound
    header = json.loads(forge.lines[list(forge.hashes).index(label)])["header"]
    for field in checker.HEADER:
        for junk in junk_for(field, header.get(field, 0)):
            with pytest.raises(checker.Fault):
                checker.check_header(header | {field: junk})


def body_with(body, path, junk):
    """The body with the value at `path` replaced."""
    return junk if not path else body | {path[0]: body_with(body[path[0]], path[1:], junk)}


def paths_of(body, path=()):
    yield path
    for name in body if isinstance(body, dict) else ():
        yield from paths_of(body[name], (*path, name))


@pytest.mark.parametrize("label", ["genesis", "architecture", "manifest", "audit_anchor", "key_grant"])
def test_a_body_of_another_shape_is_a_fault_and_no_crash(sound, label):
    forge, folder = sound
    header = json.loads(forge.lines[list(forge.hashes).index(label)])["header"]
    body = json.loads((folder / "payloads" / header["payload_hash"]).read_text())
    check_body, _ = checker.BODIES[header["block_type"]]
    check_body(body)
    for path in paths_of(body):
        for junk in junk_for(path[-1] if path else "", 0):
            with pytest.raises(checker.Fault):
                check_body(body_with(body, path, junk))


def test_a_flipped_bit_anywhere_is_found(sound):
    """Only the commit record stands outside of the hash: a flip in it may give another lawful record."""
    forge, folder = sound
    seed = int(os.environ.get("BLYAN_SEED", time.time_ns() % 2**32))
    print(f"BLYAN_SEED={seed}")
    rng = random.Random(seed)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    signed_part = [{k: v for k, v in json.loads(line).items() if k != "commit"} for line in forge.lines]
    for _ in range(200):
        path = rng.choice([folder / "blocks.jsonl", rng.choice(files)])
        sound_bytes = path.read_bytes()
        damaged = bytearray(sound_bytes)
        at = rng.randrange(len(damaged))
        damaged[at] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        try:
            checker.check_store(str(folder))
            lines = (folder / "blocks.jsonl").read_bytes().splitlines()
            told = [{k: v for k, v in json.loads(line).items() if k != "commit"} for line in lines]
            assert path.name == "blocks.jsonl" and told == signed_part, (path.name, at)
        except checker.Fault as fault:
            assert fault.what
        path.write_bytes(sound_bytes)
    checker.check_store(str(folder))


def test_a_running_node_is_exported_and_says_the_same(node, session_store, tmp_path):
    from conftest import run

    run("export", tmp_path / "out", data_dir=session_store)
    genesis = node.http.get("/genesis/hash").json()["genesis_hash"]
    assert check(tmp_path / "out", "--anchor", genesis).returncode == 0
    lines = (tmp_path / "out" / "blocks.jsonl").read_bytes().splitlines()
    headers = {checker.sha256(checker.BLOCK_DOMAIN, checker.encode(h)).hex(): h for h in (json.loads(b)["header"] for b in lines)}
    expert = {block for block, header in headers.items() if header.get("expert_name") == "layer3.expert5"}
    versions = node.http.get("/experts/layer3.expert5/versions").json()["versions"]
    assert {version["hash"] for version in versions} == expert
    assert [version["current"] for version in versions] == [True]
    lineage = node.http.get(f"/chain/B/lineage/{versions[-1]['hash']}").json()
    assert lineage == {"blocks": versions, "truncated": False}
    for chain in "ABCD":
        on_it = [block for block, header in headers.items() if header["chain"] == chain]
        head = node.http.get(f"/chain/{chain}/head").json()
        assert (head["blocks"], head["hash"] in on_it, head["hash"] is None) == (len(on_it), bool(on_it), not on_it)


def test_every_fault_is_one_of_a_kind():
    assert len(FAULTS) >= 30
    assert len({fault.name for fault in FAULTS}) == len(FAULTS)
    assert all(isinstance(fault, Fault) for fault in FAULTS)
