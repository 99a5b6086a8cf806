"""From samples to medians, ratios and tables."""

import statistics
from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """The median of some samples, with the quartiles as its spread."""

    median: float
    lower: float
    upper: float
    count: int

    @classmethod
    def of(cls, samples):
        """None if there is no sample."""
        samples = list(samples)
        if not samples:
            return None
        if len(samples) == 1:
            return cls(samples[0], samples[0], samples[0], 1)
        lower, median, upper = statistics.quantiles(samples, n=4, method="inclusive")
        return cls(median, lower, upper, len(samples))

    def __str__(self):
        return f"{_short(self.median)} ({_short(self.lower)} to {_short(self.upper)})"


def pairwise(over, under, scale=1.0):
    """scale * over / under of each round in which both were measured."""
    return [scale * a / b for a, b in zip(over, under, strict=True) if a is not None and b is not None]


def alternate(lanes, turn):
    """The order of the lanes in a round: what came first comes last in the next one."""
    return list(lanes) if turn % 2 == 0 else list(reversed(list(lanes)))


def fair_share(threads, hogs, cores) -> float:
    """What each of `threads` gets of a core when all that compute are served alike."""
    return min(1.0, cores / (threads + hogs))


def table(heads, rows) -> str:
    """Markdown with columns of one width."""
    lines = [list(map(str, row)) for row in (heads, *rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(heads))]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    )


def _short(value) -> str:
    """Three digits that count, more for whole numbers."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:#.3g}"
