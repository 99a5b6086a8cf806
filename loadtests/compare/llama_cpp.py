"""llama.cpp's own benches, built from the tree that a pinned source package of PyPI holds."""

import contextlib
import fcntl
import hashlib
import pathlib
import re
import shutil
import subprocess
import sys
import tarfile
import threading

from processes import Failed

REQUIREMENTS = pathlib.Path(__file__).parent / "requirements.txt"
SOURCE = "llama_cpp_python-0.3.36"
VERSION = f"llama.cpp of {SOURCE.replace('_', '-')}"
TARGETS = ["llama-bench", "llama-batched-bench"]
# A user's build for the machine at hand, without what these two programs have no use for.
OPTIONS = [
    "-DCMAKE_BUILD_TYPE=Release", "-DBUILD_SHARED_LIBS=OFF", "-DGGML_NATIVE=ON", "-DGGML_CCACHE=OFF",
    "-DLLAMA_OPENSSL=OFF", "-DLLAMA_BUILD_TESTS=OFF", "-DLLAMA_BUILD_EXAMPLES=OFF", "-DLLAMA_BUILD_SERVER=OFF",
    "-DLLAMA_BUILD_APP=OFF", "-DLLAMA_BUILD_UI=OFF", "-DLLAMA_USE_PREBUILT_UI=OFF",
]
POLITE = ["nice", "-n", "19"]
DOWNLOAD_LIMIT_S = 900
BUILD_LIMIT_S = 7200
PROGRESS = re.compile(r"^\[(\d+)/(\d+)\]")


def programs(cache: pathlib.Path) -> pathlib.Path:
    """The folder with `llama-bench` and `llama-batched-bench`; fetches and builds them the first time."""
    home = cache / "llama.cpp"
    home.mkdir(parents=True, exist_ok=True)
    ready = home / f"ready-{_recipe()}"
    folder = home / "build" / "bin"
    with _locked(home / "lock"):
        if not ready.exists():
            _build(home)
            ready.touch()
    return folder


def _recipe() -> str:
    """Changes with what is built and how."""
    text = REQUIREMENTS.read_text() + "\n".join(OPTIONS + TARGETS)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@contextlib.contextmanager
def _locked(path):
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _build(home):
    missing = [program for program in ("gcc", "g++") if shutil.which(program) is None]
    if missing:
        raise Failed(f"{' and '.join(missing)} missing: apt-get install build-essential")
    log = home / "build.log"
    _say(f"building {', '.join(TARGETS)}: ten minutes on two idle cores, once; log in {log}")
    with log.open("w") as out:
        tools = _tools(home, out)
        _fetch(home, tools, out)
        build = home / "build"
        shutil.rmtree(build, ignore_errors=True)
        ninja = tools / "ninja"
        source = home / SOURCE / "vendor" / "llama.cpp"
        _run([tools / "cmake", "-S", source, "-B", build, "-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}", *OPTIONS], out)
        _run([ninja, "-C", build, "-j2", *TARGETS], out, limit_s=BUILD_LIMIT_S)


def _tools(home, out) -> pathlib.Path:
    """cmake and ninja, in an environment of their own."""
    tools = home / "tools"
    shutil.rmtree(tools, ignore_errors=True)
    _run([sys.executable, "-m", "venv", tools], out)
    wheels = _pinned(home, without="llama-cpp-python")
    _run([tools / "bin" / "python", "-m", "pip", "install", "--require-hashes", "--only-binary=:all:", "-r", wheels], out)
    return tools / "bin"


def _fetch(home, tools, out):
    """The source package, unpacked. pip asks it for its metadata on the way, which builds nothing."""
    downloads = home / "downloads"
    sdist = _pinned(home, only="llama-cpp-python")
    _run([tools / "python", "-m", "pip", "download", "--require-hashes", "--no-deps", "--no-binary",
          "llama-cpp-python", "-d", downloads, "-r", sdist], out)
    shutil.rmtree(home / SOURCE, ignore_errors=True)
    with tarfile.open(downloads / f"{SOURCE}.tar.gz") as archive:
        archive.extractall(home, filter="data")
    shutil.rmtree(downloads)


def _pinned(home, only="", without=None) -> pathlib.Path:
    """Some lines of the requirements as a file for pip."""
    lines = [line for line in REQUIREMENTS.read_text().splitlines() if "==" in line]
    kept = [line for line in lines if line.startswith(only) and not (without and line.startswith(without))]
    path = home / f"requirements-{only or 'tools'}.txt"
    path.write_text("\n".join(kept) + "\n")
    return path


def _run(command, out, limit_s=DOWNLOAD_LIMIT_S):
    """Output goes to the log, ninja's counts also to the person who waits."""
    command = [*POLITE, *map(str, command)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        # Not killed: ninja and pip end their own children when they are asked to end.
        limit = threading.Timer(limit_s, process.terminate)
        limit.start()
        try:
            for line in process.stdout:
                out.write(line)
                if (step := PROGRESS.match(line)) and sys.stderr.isatty():
                    _say(f"built {step[1]} of {step[2]}", end="\r")
        finally:
            limit.cancel()
            process.terminate()
    if process.returncode != 0:
        raise Failed(f"{' '.join(command)} exited {process.returncode}; see {out.name}")


def _say(text, end="\n"):
    print(f"==> {text}", end=end, file=sys.stderr, flush=True)
