"""What is compared: for each case its lanes, which are measured in turn, and what is read from them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from engines import Blyan, Limits, LlamaCpp, Sample, Work
from figures import fair_share, pairwise
from processes import hogs as running_hogs

BEYOND_CACHES = 1 << 30
# Of one measurement with hogs: some engines are slow then.
HOGS_GENERATE = 64


@dataclass(frozen=True)
class Reading:
    """A number of each round, and what its median is meant to reach."""

    name: str
    values: list[float]
    goal: float | None = None


@dataclass(frozen=True)
class Case:
    """Lanes by name, each measured once a round, and what their samples say together."""

    title: str
    lanes: dict[str, Callable[[], Sample]]
    read: Callable[["Rounds"], Iterator[Reading]]


@dataclass
class Rounds:
    """The samples of each lane; None where a process was ended at its limit."""

    samples: dict[str, list[Sample | None]] = field(default_factory=dict)

    def rates(self, lane) -> list[float | None]:
        return [sample and sample.rate for sample in self.samples[lane]]

    def byte_rates(self, lane) -> list[float | None]:
        """GB of weights a second."""
        return [sample and sample.rate * sample.weight_bytes / 1e9 for sample in self.samples[lane]]

    def ratio(self, over, under, scale=1.0) -> list[float]:
        return pairwise(self.rates(over), self.rates(under), scale)


@dataclass(frozen=True)
class Bench:
    """Who is compared, on how many cores, and for how long."""

    ours: Blyan
    theirs: LlamaCpp
    limits: Limits
    cores: int

    def lane(self, engine, work: Work, limits=None) -> Callable[[], Sample]:
        return lambda: engine.measure(work, limits or self.limits)

    def decode(self, threads, prompt, generate) -> Case:
        """One sequence, beside the bandwidth that bounds it: of memory, and of caches if the weights stay in them."""
        work = Work(threads, prompt, generate)
        cached = self.theirs.model.stat().st_size
        lanes = {engine.name: self.lane(engine, work) for engine in (self.ours, self.theirs)}
        lanes["reading 1 GiB"] = lambda: self.ours.bandwidth(threads, BEYOND_CACHES, self.limits)
        lanes["reading the GGUF's size"] = lambda: self.ours.bandwidth(threads, cached, self.limits)

        def read(rounds):
            yield Reading("blyan / llama.cpp", rounds.ratio("blyan", "llama.cpp"), 1.0)
            for engine in ("blyan", "llama.cpp"):
                for bound in ("reading 1 GiB", "reading the GGUF's size"):
                    share = pairwise(rounds.byte_rates(engine), rounds.rates(bound))
                    yield Reading(f"{engine}'s weights / {bound}", share)

        return Case(f"decode: {generate} tokens after {prompt}, threads: {threads}", lanes, read)

    def prefill(self, threads, tokens) -> Case:
        """One prompt."""
        work = Work(threads, tokens, 0)
        lanes = {engine.name: self.lane(engine, work) for engine in (self.ours, self.theirs)}

        def read(rounds):
            yield Reading("blyan / llama.cpp", rounds.ratio("blyan", "llama.cpp"), 1.5)

        return Case(f"prefill: {tokens} tokens, threads: {threads}", lanes, read)

    def batch(self, threads, batch, prompt, generate) -> Case:
        """Several sequences at once, against one alone and against llama.cpp's batch."""
        together = Work(threads, prompt, generate, batch)
        alone = Work(threads, prompt, generate)
        lanes = {
            f"blyan, {batch} at once": self.lane(self.ours, together),
            f"llama.cpp, {batch} at once": self.lane(self.theirs, together),
            "blyan, alone": self.lane(self.ours, alone),
        }
        ours, theirs, one = lanes

        def read(rounds):
            yield Reading(f"{ours} / alone", rounds.ratio(ours, one), 2.0)
            yield Reading("blyan / llama.cpp", rounds.ratio(ours, theirs), 1.0)

        return Case(f"{batch} sequences at once: {generate} tokens after {prompt}, threads: {threads}", lanes, read)

    def experts(self, threads, counts, prompt, generate) -> Case:
        """Fewer experts: as much faster as there are fewer bytes to read, or nearly."""
        works = {f"top-k {count or 'all'}": Work(threads, prompt, generate, top_k=count) for count in (None, *counts)}
        lanes = {name: self.lane(self.ours, work) for name, work in works.items()}
        every, *fewer = lanes

        def read(rounds):
            for name in fewer:
                yield Reading(f"{name} / all", rounds.ratio(name, every))
                proportional = pairwise(rounds.byte_rates(name), rounds.byte_rates(every))
                yield Reading(f"{name} / all, of what the bytes allow", proportional, 0.95)

        return Case(f"fewer experts: {generate} tokens after {prompt}, threads: {threads}", lanes, read)

    def hogs(self, counts, threads, prompt) -> Case:
        """One sequence beside processes that want the same cores."""
        limits = Limits(1, self.limits.seconds)
        name = "{} -t {}, {} hogs".format
        lanes = {
            name(engine.name, number, count): self._beside(engine, count, Work(number, prompt, HOGS_GENERATE), limits)
            for count in (0, *counts)
            for number in threads
            for engine in (self.ours, self.theirs)
        }

        def read(rounds):
            for number in threads:
                for count in counts:
                    fair = fair_share(number, count, self.cores) / fair_share(number, 0, self.cores)
                    for engine, goal in ((self.ours, 0.8), (self.theirs, None)):
                        lane, idle = name(engine.name, number, count), name(engine.name, number, 0)
                        kept = rounds.ratio(lane, idle, 1 / fair)
                        yield Reading(f"{lane}, of the fair {fair:.3g}", kept, goal)
                    ours, theirs = (name(engine.name, number, count) for engine in (self.ours, self.theirs))
                    yield Reading(f"{ours} / llama.cpp", rounds.ratio(ours, theirs))

        return Case(f"beside hogs: {HOGS_GENERATE} tokens after {prompt}, cores: {self.cores}", lanes, read)

    @staticmethod
    def _beside(engine, count, work, limits) -> Callable[[], Sample]:
        def measure():
            with running_hogs(count):
                return engine.measure(work, limits)

        return measure
