"""Real nodes for whole-node tests: one import for the run, a copy of its data directory for each node."""

import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import threading
import time

import httpx
import pytest

BINARY = os.environ.get("BLYAN_BINARY", "")
FAULTNODE = os.environ.get("BLYAN_FAULTNODE", "")
LISTENING = re.compile(r"listening on (http://\S+)")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def clean_environment(extra=None) -> dict:
    """What a user's shell holds: no variable of the node's own leaks in from the test run."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("BLYAN_") and k != "ORT_DYLIB_PATH"}
    if "BLYAN_CACHE_DIR" in os.environ:
        kept["BLYAN_CACHE_DIR"] = os.environ["BLYAN_CACHE_DIR"]
    kept.update(extra or {})
    return kept


def run(*arguments, data_dir=None, env=None, timeout=900, check=True, binary=None) -> subprocess.CompletedProcess:
    """Runs one command of the node's binary to its end."""
    command = [binary or BINARY, *map(str, arguments)]
    if data_dir is not None:
        command += ["--data-dir", str(data_dir)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, env=clean_environment(env))
    if check and done.returncode != 0:
        raise AssertionError(f"{command} exited {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return done


class Node:
    """A node in a process of its own, ended by its id."""

    def __init__(self, data_dir, binary=None, env=None, start_timeout=300, under=()):
        """`under` is a command that runs the node as its child, such as strace."""
        self.data_dir = pathlib.Path(data_dir)
        self.port = free_port()
        self.lines: list[str] = []
        self.errors: list[str] = []
        self.process = subprocess.Popen(
            [*under, binary or BINARY, "node", "--data-dir", str(data_dir), "--listen", f"127.0.0.1:{self.port}"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1,
            env=clean_environment(env),
        )
        self._listening = threading.Event()
        collectors = [threading.Thread(target=self._collect, args=each, daemon=True)
                      for each in ((self.process.stdout, self.lines), (self.process.stderr, self.errors))]
        for collector in collectors:
            collector.start()
        deadline = time.monotonic() + start_timeout
        while not self._listening.wait(0.05):
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                # Its last words may still lie in the pipe.
                for collector in collectors:
                    collector.join(10)
                raise AssertionError("the node did not start:\n" + "".join(self.lines + self.errors)[-6000:])
        self.url = f"http://127.0.0.1:{self.port}"
        # A connection for each request: an idle one may be closed by the server under a request on its way.
        self.http = httpx.Client(base_url=self.url, timeout=120, limits=httpx.Limits(max_keepalive_connections=0))

    def _collect(self, stream, kept):
        for line in stream:
            kept.append(line)
            if LISTENING.search(line):
                self._listening.set()

    @property
    def pid(self) -> int:
        """The node's own process id."""
        children = pathlib.Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return int(children[0]) if children else self.process.pid

    @property
    def admin_key(self) -> str:
        return (self.data_dir / "admin.key").read_text().strip()

    @property
    def admin(self) -> dict:
        return {"X-API-Key": self.admin_key}

    def command(self, line: str, timeout=10.0):
        """A line to the fault node's standard input; returns once it is acknowledged on standard output."""
        seen = len(self.lines)
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        word = line.split()[0]
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            if any(answer.startswith(word) for answer in self.lines[seen:]):
                return
            time.sleep(0.002)
        raise AssertionError(f"no answer to {line!r}: {self.lines[-5:]} {self.errors[-5:]}")

    def chat(self, prompt="What is the capital of France?", **fields) -> httpx.Response:
        body = {"prompt": prompt, "max_tokens": 16, "temperature": 0, **fields}
        return self.http.post("/chat", json=body)

    def tree(self) -> dict:
        """The nodes of the supervision tree by path."""
        flat = {}

        def walk(node):
            flat[node["id"]] = node
            for child in node.get("children") or []:
                walk(child)

        walk(self.http.get("/supervision/tree", headers=self.admin).raise_for_status().json())
        return flat

    def wait_for(self, what, timeout=30.0):
        """Waits until `what()` is true; its last value is returned."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            try:
                value = what()
                if value:
                    return value
            except (httpx.TransportError, AssertionError):
                pass
            time.sleep(0.02)
        raise AssertionError(f"waited {timeout} s in vain\n" + "".join(self.errors)[-3000:])

    def stop(self, timeout=10.0) -> int:
        """SIGTERM; returns the exit status."""
        self.http.close()
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout)

    def kill(self):
        if self.process.poll() is None:
            os.kill(self.pid, signal.SIGKILL)
        self.process.wait()


@pytest.fixture(scope="session")
def imported(tmp_path_factory):
    """A data directory with genesis and model, made once; never served from: copy it."""
    assert BINARY and pathlib.Path(BINARY).exists(), "set BLYAN_BINARY (make test does)"
    data_dir = tmp_path_factory.mktemp("imported") / "data"
    run("import", data_dir=data_dir)
    return data_dir


@pytest.fixture
def store(imported, tmp_path):
    """A fresh copy of the imported store."""
    copy = tmp_path / "data"
    shutil.copytree(imported, copy)
    return copy


@pytest.fixture(scope="session")
def session_store(imported, tmp_path_factory):
    copy = tmp_path_factory.mktemp("shared") / "data"
    shutil.copytree(imported, copy)
    return copy


@pytest.fixture(scope="session")
def node(session_store):
    """A healthy node for tests that leave it healthy."""
    running = Node(session_store)
    yield running
    assert running.stop() == 0, "".join(running.errors)[-3000:]


@pytest.fixture
def start(tmp_path):
    """Starts nodes that are ended with the test, before its directory goes."""
    started = []

    def begin(data_dir, **options):
        one = Node(data_dir, **options)
        started.append(one)
        return one

    yield begin
    for one in started:
        one.kill()


@pytest.fixture
def faultnode(start):
    def begin(data_dir, **options):
        return start(data_dir, binary=FAULTNODE, **options)

    return begin
