#!/usr/bin/env python3
"""This node against llama.cpp on the same model and machine: interleaved rounds, medians with quartiles."""

import argparse
import datetime
import json
import os
import pathlib
import platform
import subprocess
import sys
from dataclasses import asdict

import llama_cpp
from cases import Bench, Rounds
from engines import Blyan, Limits, LlamaCpp
from figures import Figure, alternate, table
from processes import Failed, TooSlow, choose_cores, end_children_on_sigterm, parse_cores

CACHE = pathlib.Path(os.environ.get("BLYAN_CACHE_DIR") or pathlib.Path.home() / ".cache" / "blyan")
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR") or pathlib.Path.home() / ".cache" / "blyan-target")
CASES = ("decode", "prefill", "batch", "experts", "hogs")
IMPORT_LIMIT_S = 600


def numbers(text) -> list[int]:
    return [int(part) for part in text.split(",")]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    add = parser.add_argument
    add("case", choices=(*CASES, "all", "build"), help="what is compared; build only gets llama.cpp")
    add("--pairs", type=int, default=10, help="rounds; every other one runs backwards")
    add("--repetitions", type=int, default=3, help="measurements of each process, their median counts")
    add("--threads", type=numbers, default=[1, 2], help="of each engine, a case for each number")
    add("--prompt", type=int, default=128, help="tokens before the generated ones")
    add("--generate", type=int, default=128, help="generated tokens")
    add("--tokens", type=numbers, default=[128, 512], help="of prefill, a case for each number")
    add("--batch", type=int, default=8, help="sequences at once")
    add("--top-k", type=numbers, default=[14, 12, 8], help="experts, against all of them")
    add("--hogs", type=numbers, default=[2, 8], help="processes that want the same cores, against none")
    add("--backend", help="of this node; its own default if not given")
    add("--cores", type=parse_cores, help="such as 0,2: all runs there; two if not given")
    add("--limit-s", type=float, default=180, help="after which a process is ended")
    add("--binary", type=pathlib.Path, default=TARGET / "debug" / "blyan", help="this node")
    add("--data-dir", type=pathlib.Path, default=CACHE / "compare", help="a store; the model is imported into it")
    add("--model", type=pathlib.Path, default=CACHE / "model" / "SmolLM2-135M-Instruct.Q4_1.gguf", help="for llama.cpp")
    add("--json", type=pathlib.Path, help="a file for every sample")
    return parser.parse_args()


def main():
    end_children_on_sigterm()
    given = arguments()
    programs = llama_cpp.programs(CACHE)
    if given.case == "build":
        return
    os.sched_setaffinity(0, given.cores or choose_cores(2))
    bench = Bench(
        Blyan(given.binary.resolve(), given.data_dir, given.backend),
        LlamaCpp(programs, given.model),
        Limits(given.repetitions, given.limit_s),
        len(os.sched_getaffinity(0)),
    )
    bench.ours.import_model(IMPORT_LIMIT_S)
    results = {"machine": machine(), "command": sys.argv[1:], "cases": []}
    for case in chosen(bench, given):
        results["cases"].append(measured(case, given.pairs))
        if given.json:
            given.json.write_text(json.dumps(results, indent=1) + "\n")


def chosen(bench: Bench, given):
    """The cases that the command line asks for."""
    length = (given.prompt, given.generate)
    made = {
        "decode": lambda: (bench.decode(threads, *length) for threads in given.threads),
        "prefill": lambda: (bench.prefill(threads, tokens) for tokens in given.tokens for threads in given.threads),
        "batch": lambda: (bench.batch(threads, given.batch, *length) for threads in given.threads),
        "experts": lambda: (bench.experts(threads, given.top_k, *length) for threads in given.threads),
        "hogs": lambda: [bench.hogs(given.hogs, given.threads, given.prompt)],
    }
    for name in CASES if given.case == "all" else (given.case,):
        yield from made[name]()


def measured(case, pairs) -> dict:
    """Runs all rounds, prints the tables, and gives every number."""
    say(case.title)
    rounds, loads = Rounds({lane: [None] * pairs for lane in case.lanes}), []
    for turn in range(pairs):
        loads.append(os.getloadavg()[0])
        for lane in alternate(case.lanes, turn):
            rounds.samples[lane][turn] = sample = sampled(case.lanes[lane])
            said = f"{sample.rate:.2f} {sample.unit}" if sample else "ended at its limit"
            say(f"  {turn + 1} of {pairs}: {lane}: {said}")
    readings = list(case.read(rounds))
    show(case, rounds, readings, loads)
    return {
        "title": case.title,
        "load_before_rounds": loads,
        "lanes": {lane: [sample and asdict(sample) for sample in samples] for lane, samples in rounds.samples.items()},
        "readings": [asdict(reading) for reading in readings],
    }


def sampled(lane):
    try:
        return lane()
    except TooSlow:
        return None


def show(case, rounds, readings, loads):
    """Two tables, for people and for documents."""
    lanes = []
    for lane, samples in rounds.samples.items():
        kept = [sample for sample in samples if sample]
        figure = Figure.of(sample.rate for sample in kept)
        lanes.append((lane, figure or "-", kept[0].unit if kept else "", f"{len(kept)} of {len(samples)}"))
    print(f"\n{case.title}; load {min(loads):.1f} to {max(loads):.1f}\n")
    print(table(("measured", "median (quartiles)", "unit", "rounds"), lanes))
    rows = [reading_row(reading) for reading in readings]
    print("\n" + table(("compared within each round", "median (quartiles)", "goal", "reached"), rows), flush=True)


def reading_row(reading):
    figure = Figure.of(reading.values)
    if reading.goal is None or figure is None:
        return reading.name, figure or "-", "", ""
    return reading.name, figure, f"{reading.goal:g}", "yes" if figure.median >= reading.goal else "no"


def machine() -> dict:
    """What the figures depend on beside the command."""
    text = pathlib.Path("/proc/cpuinfo").read_text()
    models = {line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("model name")}
    here = pathlib.Path(__file__).parent
    commit = subprocess.run(["git", "-C", here, "describe", "--always", "--dirty"], capture_output=True, text=True)
    return {
        "processor": sorted(models),
        "cores": sorted(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "sources": commit.stdout.strip() or None,
        "llama_cpp": llama_cpp.VERSION,
        "began": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def say(text):
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    try:
        main()
    except Failed as failure:
        sys.exit(f"error: {failure}")
    except FileNotFoundError as missing:
        sys.exit(f"error: {missing.filename} is missing; `make build` brings the binary and the model")
    except KeyboardInterrupt:
        sys.exit(130)
