"""The two that are compared, each asked for the same work in a process of its own."""

import json
import pathlib
import statistics
from dataclasses import dataclass

from processes import run


@dataclass(frozen=True)
class Work:
    """`batch` prompts of `prompt` tokens and `generate` tokens after each. With none to generate the prompt's tokens
    are what is timed, else the generated ones."""

    threads: int
    prompt: int = 128
    generate: int = 128
    batch: int = 1
    top_k: int | None = None


@dataclass(frozen=True)
class Sample:
    """Tokens per second of all sequences together, and the bytes of weights that a token reads if it is alone."""

    rate: float
    weight_bytes: int | None = None
    resident_bytes: int | None = None
    unit: str = "tokens/s"


@dataclass(frozen=True)
class Limits:
    """What holds for each process."""

    repetitions: int
    seconds: float


@dataclass(frozen=True)
class Blyan:
    """This node's engine in process, as `blyan bench` runs it."""

    binary: pathlib.Path
    data_dir: pathlib.Path
    backend: str | None = None

    name = "blyan"

    def import_model(self, limit_s):
        """Puts the model into the data directory, unless it is there."""
        run([self.binary, "import", "--data-dir", self.data_dir], limit_s)

    def measure(self, work: Work, limits: Limits) -> Sample:
        """The median of the repetitions."""
        report = self._bench(*self.arguments(work, limits), limit_s=limits.seconds)
        speed = report["decode" if work.generate else "prefill"]
        return Sample(speed["median"], report["weight_bytes_per_token"], report["resident_bytes"])

    def arguments(self, work: Work, limits: Limits) -> list:
        """Of `blyan bench`."""
        what = ["prefill", "--tokens", work.prompt]
        if work.generate:
            what = ["decode", "--prompt", work.prompt, "--generate", work.generate, "--batch", work.batch]
        elif work.batch != 1:
            raise ValueError("prompts are read one at a time")
        how = ["--threads", work.threads, "--repetitions", limits.repetitions, "--data-dir", self.data_dir]
        if work.top_k is not None:
            how += ["--top-k-experts", work.top_k]
        if self.backend is not None:
            how += ["--backend", self.backend]
        return what + how

    def bandwidth(self, threads, size, limits: Limits) -> Sample:
        """How fast memory of so many bytes is read."""
        report = self._bench("bandwidth", "--threads", threads, "--bytes", size, limit_s=limits.seconds)
        return Sample(report["median"] / 1e9, unit="GB/s")

    def _bench(self, *arguments, limit_s) -> dict:
        return json.loads(run([self.binary, "bench", *arguments, "--json"], limit_s))


@dataclass(frozen=True)
class LlamaCpp:
    """llama.cpp's own benches, with their defaults."""

    programs: pathlib.Path
    model: pathlib.Path

    name = "llama.cpp"

    def measure(self, work: Work, limits: Limits) -> Sample:
        """The median of the repetitions."""
        if work.batch > 1:
            return self.parse_batched(run(self.batched(work, limits), limits.seconds))
        return self.parse_bench(run(self.bench(work, limits), limits.seconds))

    def bench(self, work: Work, limits: Limits) -> list:
        """The command for one sequence: tokens after a prompt, or a prompt from nothing."""
        prompt, depth = (0, work.prompt) if work.generate else (work.prompt, 0)
        return [self.programs / "llama-bench", "-m", self.model, "-o", "json", "-r", limits.repetitions,
                "-t", work.threads, "-p", prompt, "-n", work.generate, "-d", depth]

    def batched(self, work: Work, limits: Limits) -> list:
        """The command for several sequences at once."""
        context = work.batch * (work.prompt + work.generate)
        batches = ",".join([str(work.batch)] * limits.repetitions)
        return [self.programs / "llama-batched-bench", "-m", self.model, "--output-format", "jsonl", "-c", context,
                "-t", work.threads, "-tb", work.threads, "-npp", work.prompt, "-ntg", work.generate, "-npl", batches]

    @staticmethod
    def parse_bench(out) -> Sample:
        """What llama-bench says with `-o json`."""
        (test,) = json.loads(out)
        return Sample(statistics.median(test["samples_ts"]), test["model_size"])

    @staticmethod
    def parse_batched(out) -> Sample:
        """What llama-batched-bench says with `--output-format jsonl`, among other lines."""
        lines = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
        return Sample(statistics.median(line["speed_tg"] for line in lines))
