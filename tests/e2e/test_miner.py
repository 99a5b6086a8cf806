"""`blyan miner`: an expert that was changed with other tools comes to the chain of a running node, whatever breaks on the way.
BLYAN_CHAOS sets the number of kills."""

import array
import contextlib
import json
import os
import pathlib
import random
import socket
import ssl
import struct
import subprocess
import threading
import time

import conftest
import pytest
from conftest import BINARY, clean_environment, run
from test_alerts import certificate

KILLS = int(os.environ.get("BLYAN_CHAOS", "4"))
EXPERT = "layer4.expert1"
# As small as pieces may be, and more experts than fit in a second: there is time to break something.
SMALL_PIECES = {"BLYAN__UPLOADS__CHUNK_BYTES_MAX": "4096"}
MANY = [f"layer{layer}.expert{expert}" for layer in (2, 3) for expert in range(8)]


class Miner:
    """A person with a key, files and the address of a node."""

    def __init__(self, folder: pathlib.Path, data_dir):
        self.folder, self.data_dir = folder, data_dir
        folder.mkdir()
        self.passphrase = folder / "passphrase"
        self.passphrase.write_text("correct horse battery\n")
        self.passphrase.chmod(0o600)
        self.key = folder / "miner.key"
        made = run("miner", "key", "new", self.key, "--passphrase-file", self.passphrase, "--json")
        self.public_key = json.loads(made.stdout)["public_key"]
        self.out = folder / "out"

    def changed(self, factor, name=EXPERT) -> dict:
        """Makes the payload of a served expert with all that it adds to the stream times `factor`."""
        file = self.folder / f"{name}-{factor}.safetensors"
        if not file.exists():
            run("model", "extract", name, "--out", file, data_dir=self.data_dir)
            scale(file, "down", factor)
        return self.extract(file, name)

    def extract(self, file, name=EXPERT, **options) -> dict:
        done = run("miner", "extract", "--from", file, "--expert", name, "--out", self.out, "--json",
                   data_dir=self.data_dir, **options)
        return json.loads(done.stdout)

    def command(self, url) -> list:
        return ["miner", "upload", self.out, "--node", url, "--key", self.key,
                "--passphrase-file", self.passphrase, "--json"]

    def upload(self, url, *more, **options):
        return run(*self.command(url), *more, **options)

    def start(self, url) -> subprocess.Popen:
        command = [BINARY, *map(str, self.command(url))]
        return subprocess.Popen(command, env=clean_environment(), text=True,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def blocks(self) -> dict:
        """The signed blocks beside the payloads, by expert."""
        return {file.name.removesuffix(".block.json"): json.loads(file.read_text())
                for file in self.out.glob("*.block.json")}


def scale(file: pathlib.Path, matrix, factor):
    """What a person does with PyTorch: changes one matrix of a safetensors file."""
    data = bytearray(file.read_bytes())
    (length,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8:8 + length])
    begin, end = (8 + length + offset for offset in header[matrix]["data_offsets"])
    values = array.array("f", bytes(data[begin:end]))
    data[begin:end] = array.array("f", (value * factor for value in values)).tobytes()
    file.write_bytes(data)


def grant(node, public_key):
    return node.http.post("/chain/keys", json={"key": public_key}, headers=node.admin).raise_for_status().json()


def versions(node, name=EXPERT) -> list:
    return node.http.get(f"/experts/{name}/versions").raise_for_status().json()["versions"]


@pytest.fixture
def miner(tmp_path, store):
    return Miner(tmp_path / "miner", store)


def test_an_expert_goes_out_and_comes_back_as_it_was(miner):
    file = miner.folder / "e.safetensors"
    run("model", "extract", EXPERT, "--out", file, data_dir=miner.data_dir)
    assert miner.extract(file)["unchanged"]
    (gguf,) = pathlib.Path(os.environ["BLYAN_CACHE_DIR"], "model").glob("*.gguf")
    for name in ("layer0.expert0", "layer29.expert15"):
        assert miner.extract(gguf, name)["unchanged"], "the file that was imported, by the recipe that imported it"
    assert not miner.changed(1.25)["unchanged"]


def test_a_key_is_refused_until_it_is_granted_and_then_its_expert_is_a_candidate(start, store, miner):
    node = start(store)
    before = versions(node)
    made = miner.changed(1.25)
    refused = miner.upload(node.url, check=False)
    assert refused.returncode == 1
    assert "403" in refused.stderr and f"blyan keys grant {miner.public_key}" in refused.stderr, refused.stderr
    assert versions(node) == before

    grant(node, miner.public_key)
    uploaded = json.loads(miner.upload(node.url).stdout)
    assert uploaded["uploaded"] and uploaded["payload_hash"] == made["payload_hash"]
    old, new = versions(node)
    assert [old] == before and old["current"] and not new["current"]
    assert (new["hash"], new["depends_on"], new["supersedes"]) == (uploaded["block"], [old["hash"]], [])
    assert "Paris" in node.chat().json()["text"], "a candidate is not served"

    again = json.loads(miner.upload(node.url).stdout)
    assert again == {**uploaded, "uploaded": False}, "the same weights again are the same block"
    assert len(versions(node)) == 2
    assert node.stop() == 0
    run("verify", data_dir=store)


def test_a_version_may_improve_one_that_is_not_served(start, store, miner):
    node = start(store)
    grant(node, miner.public_key)
    miner.changed(1.25)
    first = json.loads(miner.upload(node.url).stdout)["block"]
    miner.changed(1.5)
    second = json.loads(miner.upload(node.url, "--parent", first).stdout)["block"]
    served, *mined = versions(node)
    assert [version["hash"] for version in mined] == [first, second]
    assert [version["depends_on"] for version in mined] == [[served["hash"]], [first]]
    lineage = node.http.get(f"/chain/B/lineage/{second}").raise_for_status().json()["blocks"]
    assert [block["hash"] for block in lineage] == [served["hash"], first, second]
    miner.changed(1.75)
    unknown = miner.upload(node.url, "--parent", "0" * 64, check=False)
    assert unknown.returncode == 1 and "no version 000" in unknown.stderr


def test_what_is_wrong_is_said_in_words(start, store, miner):
    node = start(store)
    nothing = miner.upload(node.url, check=False)
    assert nothing.returncode == 1 and "No such file" in nothing.stderr
    miner.changed(1.25)
    payload = miner.out / f"{EXPERT}.tblk"
    sound = payload.read_bytes()
    payload.write_bytes(sound[:5000] + bytes([sound[5000] ^ 1]) + sound[5001:])
    damaged = miner.upload(node.url, check=False)
    assert damaged.returncode == 1 and "not a sound payload" in damaged.stderr
    payload.write_bytes(sound)
    miner.passphrase.write_text("wrong horse battery\n")
    wrong = miner.upload(node.url, check=False)
    assert wrong.returncode == 1 and "passphrase is wrong" in wrong.stderr
    miner.passphrase.chmod(0o644)
    readable = miner.upload(node.url, check=False)
    assert readable.returncode == 1 and "may be read by others" in readable.stderr
    taken = run("miner", "key", "new", miner.key, "--passphrase-file", miner.passphrase, check=False)
    assert taken.returncode == 1


class TlsProxy:
    """What stands in front of a node that is reached from afar."""

    def __init__(self, context):
        self.to = None
        self.listener = context.wrap_socket(socket.create_server(("127.0.0.1", 0)), server_side=True)
        self.url = f"https://127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except ssl.SSLError:
                continue
            except OSError:
                return
            node = socket.create_connection(("127.0.0.1", self.to))
            for source, sink in ((client, node), (node, client)):
                threading.Thread(target=self._copy, args=(source, sink), daemon=True).start()

    @staticmethod
    def _copy(source, sink):
        with contextlib.suppress(OSError, ValueError):
            while data := source.recv(65536):
                sink.sendall(data)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_RDWR)

    def close(self):
        self.listener.close()


def test_a_node_behind_tls_is_reached_by_those_who_trust_its_certificate(start, store, miner, tmp_path):
    cert, context = certificate(tmp_path)
    proxy = TlsProxy(context)
    node = start(store, env={"BLYAN__EDGE__ALLOWED_HOSTS": json.dumps([proxy.url.removeprefix("https://")])})
    proxy.to = node.port
    grant(node, miner.public_key)
    miner.changed(1.25)
    stranger = miner.upload(proxy.url, check=False)
    assert stranger.returncode == 1 and "certificate" in stranger.stderr, stranger.stderr
    assert len(versions(node)) == 1
    told = json.loads(miner.upload(proxy.url, env={"SSL_CERT_FILE": str(cert)}).stdout)
    assert told["uploaded"] and len(versions(node)) == 2
    proxy.close()


def received(node, blocks) -> dict:
    """Bytes at the node of each upload that was begun."""
    asked = {name: node.http.post("/upload_moe_experts", json={"block": block}) for name, block in blocks.items()}
    return {name: reply.raise_for_status().json()["received"] for name, reply in asked.items()}


def check_all_stored(node, store, said):
    told = [json.loads(line) for line in said.splitlines()]
    assert [one["expert"] for one in told] == MANY
    for one in told:
        old, new = versions(node, one["expert"])
        assert new["hash"] == one["block"] and new["depends_on"] == [old["hash"]]
    assert node.stop() == 0
    run("verify", data_dir=store)


def test_uploads_whose_miner_is_killed_go_on_where_they_stopped(start, store, miner):
    seed = int(os.environ.get("BLYAN_SEED", random.randrange(1 << 32)))
    print(f"\nseed {seed}: BLYAN_SEED={seed} repeats it")
    rng = random.Random(seed)
    node = start(store, env=SMALL_PIECES)
    grant(node, miner.public_key)
    for name in MANY:
        miner.changed(1.25, name)
    had, cut, inside = {}, 0, 0
    for _ in range(KILLS):
        client = miner.start(node.url)
        try:
            client.communicate(timeout=rng.uniform(0.25, 0.5))
        except subprocess.TimeoutExpired:
            client.kill()
            client.communicate()
            cut += 1
        now = received(node, miner.blocks())
        assert all(now[name] >= had[name] for name in had), "what was acknowledged is there"
        whole = max(now.values(), default=0)
        inside += any(0 < bytes < whole for bytes in now.values())
        had = now
    check_all_stored(node, store, miner.upload(node.url).stdout)
    print(f"{KILLS} runs, {cut} of them killed, {inside} within a payload")


def test_uploads_outlive_the_node(start, store, miner, monkeypatch):
    node = start(store, env=SMALL_PIECES)
    monkeypatch.setattr(conftest, "free_port", lambda: node.port)
    grant(node, miner.public_key)
    for name in MANY:
        miner.changed(1.25, name)
    client = miner.start(node.url)
    node.wait_for(lambda: len(miner.blocks()) > 4)
    node.kill()
    time.sleep(1)
    node = start(store, env=SMALL_PIECES)
    out, errors = client.communicate(timeout=60)
    assert client.returncode == 0, errors
    assert "trying again" in errors
    check_all_stored(node, store, out)
