"""The comparison's own parts: figures, what engines are asked and understood to say, and that no process is left."""

import os
import pathlib
import random
import signal
import statistics
import subprocess
import sys
import time

import pytest

SCRIPTS = pathlib.Path(__file__).parents[2] / "loadtests" / "compare"
sys.path.insert(0, str(SCRIPTS))

import engines  # noqa: E402
import figures  # noqa: E402
import processes  # noqa: E402
from cases import Bench, Rounds  # noqa: E402
from engines import Blyan, Limits, LlamaCpp, Sample, Work  # noqa: E402


@pytest.fixture
def bench(tmp_path) -> Bench:
    model = tmp_path / "model.gguf"
    model.write_bytes(b"x" * 1000)
    return Bench(Blyan(tmp_path / "blyan", tmp_path), LlamaCpp(tmp_path, model), Limits(3, 10), cores=2)


def readings(case, rates, weight_bytes=None):
    """What a case reads from one round in which its lanes have these rates."""
    samples = {lane: [Sample(rates[lane], (weight_bytes or {}).get(lane, 10**9))] for lane in case.lanes}
    return {reading.name: (reading.values, reading.goal) for reading in case.read(Rounds(samples))}


def test_a_figure_is_the_median_with_its_quartiles():
    seed = random.randrange(2**32)
    samples = [random.Random(seed).uniform(1, 100) for _ in range(9)]
    figure = figures.Figure.of(samples)
    ranked = sorted(samples)
    assert (figure.lower, figure.median, figure.upper) == pytest.approx((ranked[2], ranked[4], ranked[6])), seed
    assert figures.Figure.of([5.0]) == figures.Figure(5.0, 5.0, 5.0, 1)
    assert figures.Figure.of([]) is None


def test_ratios_are_taken_within_a_round_and_only_where_both_were_measured():
    assert figures.pairwise([10.0, None, 30.0], [5.0, 4.0, 10.0]) == [2.0, 3.0]
    with pytest.raises(ValueError):
        figures.pairwise([1.0], [1.0, 2.0])


def test_every_other_round_runs_backwards():
    assert [figures.alternate("abc", turn) for turn in range(3)] == [list("abc"), list("cba"), list("abc")]


def test_the_fair_share_counts_all_that_compute():
    assert figures.fair_share(threads=1, hogs=0, cores=2) == 1
    assert figures.fair_share(threads=2, hogs=2, cores=2) == 0.5
    assert figures.fair_share(threads=2, hogs=8, cores=2) == 0.2


def test_a_table_has_columns_of_one_width():
    lines = figures.table(("a", "long head"), [("longer cell", 1)]).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert set(lines[1]) == {"|", " ", "-"}


def test_llama_bench_is_asked_for_generation_after_a_prompt_or_for_a_prompt(bench):
    def option(command, name):
        return command[command.index(name) + 1]

    decode = bench.theirs.bench(Work(2, 100, 50), bench.limits)
    assert [option(decode, name) for name in ("-t", "-p", "-n", "-d", "-r")] == [2, 0, 50, 100, 3]
    prefill = bench.theirs.bench(Work(1, 512, 0), bench.limits)
    assert [option(prefill, name) for name in ("-p", "-n", "-d")] == [512, 0, 0]
    batched = bench.theirs.batched(Work(1, 100, 50, 8), bench.limits)
    assert [option(batched, name) for name in ("-c", "-npl")] == [1200, "8,8,8"]


def test_what_the_programs_print_is_understood():
    sample = LlamaCpp.parse_bench('[{"samples_ts": [3.0, 1.0, 2.5], "model_size": 7}]')
    assert (sample.rate, sample.weight_bytes) == (2.5, 7)
    assert LlamaCpp.parse_batched('noise\n{"speed_tg": 4.0}\n\n{"speed_tg": 6.0}\n').rate == statistics.mean([4, 6])


def test_prefill_and_decode_are_read_from_what_was_asked_for(bench, monkeypatch):
    said = '{"prefill": {"median": 9.0}, "decode": {"median": 3.0}, "weight_bytes_per_token": 5, "resident_bytes": 6}'
    monkeypatch.setattr(engines, "run", lambda command, limit: said)
    assert bench.ours.measure(Work(1), bench.limits).rate == 3.0
    assert bench.ours.measure(Work(1, generate=0), bench.limits).rate == 9.0


def test_decode_is_read_against_llama_cpp_and_the_bandwidth(bench):
    rates = {"blyan": 20.0, "llama.cpp": 10.0, "reading 1 GiB": 40.0, "reading the GGUF's size": 80.0}
    read = readings(bench.decode(1, 128, 128), rates)
    assert read["blyan / llama.cpp"] == ([2.0], 1.0)
    assert read["blyan's weights / reading the GGUF's size"][0] == [0.25]


def test_fewer_experts_are_held_against_their_bytes(bench):
    case = bench.experts(1, [8], 128, 128)
    read = readings(case, {"top-k all": 10.0, "top-k 8": 15.0}, {"top-k all": 4 * 10**9, "top-k 8": 2 * 10**9})
    assert read["top-k 8 / all"][0] == [1.5]
    assert read["top-k 8 / all, of what the bytes allow"] == ([0.75], 0.95)


def test_hogs_are_held_against_the_fair_share(bench):
    case = bench.hogs([8], [2], 128)
    rates = {lane: 20.0 if " 0 hogs" in lane else 3.0 for lane in case.lanes}
    read = readings(case, rates)
    values, goal = read["blyan -t 2, 8 hogs, of the fair 0.2"]
    assert (values, goal) == (pytest.approx([0.75]), 0.8)


def test_a_process_is_ended_at_its_limit():
    with pytest.raises(processes.TooSlow):
        processes.run([sys.executable, "-c", "import time; time.sleep(60)"], 0.2)


def test_a_process_that_says_no_is_quoted():
    with pytest.raises(processes.Failed, match="why not"):
        processes.run([sys.executable, "-c", "raise SystemExit('why not')"], 30)


def test_hogs_end_with_the_block_also_when_it_fails():
    with pytest.raises(RuntimeError), processes.hogs(2) as running:
        assert [hog.poll() for hog in running] == [None, None]
        raise RuntimeError
    assert all(hog.returncode == -signal.SIGKILL for hog in running)


def test_hogs_end_with_a_process_that_was_killed():
    script = "import processes, time\nwith processes.hogs(1) as (hog,):\n    print(hog.pid, flush=True)\n    time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", script], cwd=SCRIPTS, stdout=subprocess.PIPE, text=True) as owner:
        hog = int(owner.stdout.readline())
        owner.kill()
    deadline = time.monotonic() + 30
    while is_running(hog):
        assert time.monotonic() < deadline, "the hog outlived its owner"
        time.sleep(0.05)


def is_running(pid) -> bool:
    """Dead but not yet collected is not running."""
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def test_cores_are_written_as_the_system_writes_them():
    assert processes.parse_cores("0,2-4\n") == {0, 2, 3, 4}
    assert processes.choose_cores(2) <= os.sched_getaffinity(0)
