"""Processes that end: each has a limit, none outlives the one that started it."""

import contextlib
import os
import pathlib
import signal
import subprocess
import sys
import time

HOG = """
import os, sys
while os.getppid() == int(sys.argv[1]):
    for _ in range(100_000):
        pass
"""
# Until a hog has its interpreter behind it.
HOG_START_S = 0.5


class TooSlow(Exception):
    """A process was ended at its limit."""


class Failed(Exception):
    """A process said no; the text is its last words."""


def run(command, limit_s, env=None) -> str:
    """Standard output of a command. It is killed at its limit, and when this process is told to end."""
    command = [str(part) for part in command]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env) as process:
        try:
            out, errors = process.communicate(timeout=limit_s)
        except subprocess.TimeoutExpired:
            raise TooSlow(f"{command[0]} was ended after {limit_s} s") from None
        finally:
            process.kill()
    if process.returncode != 0:
        raise Failed(f"{' '.join(command)} exited {process.returncode}:\n{errors[-2000:]}")
    return out


@contextlib.contextmanager
def hogs(count):
    """So many processes that do nothing but compute. They are in this session: the scheduler may share the processor
    among sessions first."""
    command = [sys.executable, "-c", HOG, str(os.getpid())]
    running = []
    try:
        running += (subprocess.Popen(command) for _ in range(count))
        if running:
            time.sleep(HOG_START_S)
        yield running
    finally:
        for process in running:
            process.kill()
        for process in running:
            process.wait()


def end_children_on_sigterm():
    """SIGTERM unwinds like Ctrl-C, through every `finally`."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


def choose_cores(count) -> set[int]:
    """The first cores that this process may use, no two of which are threads of one core; all of them if they are
    fewer."""
    allowed = sorted(os.sched_getaffinity(0))
    chosen, taken = [], set()
    for core in allowed:
        if core not in taken:
            chosen.append(core)
            taken |= _siblings(core)
    return set(chosen[:count])


def _siblings(core) -> set[int]:
    path = pathlib.Path(f"/sys/devices/system/cpu/cpu{core}/topology/thread_siblings_list")
    try:
        return parse_cores(path.read_text())
    except OSError:
        return {core}


def parse_cores(text) -> set[int]:
    """`0,2-3` as the system and taskset write it."""
    cores = set()
    for part in text.strip().split(","):
        first, _, last = part.partition("-")
        cores |= set(range(int(first), int(last or first) + 1))
    return cores
