"""What counts as equal logits, and what was seen."""

from dataclasses import dataclass, field

import numpy as np

TOLERANCE = 1e-3


@dataclass
class Comparison:
    steps: int = 0
    worst: float = 0.0
    near_ties: list = field(default_factory=list)
    faults: list = field(default_factory=list)

    def add(self, where, ours, theirs):
        """One step: ours against the oracle's."""
        self.steps += 1
        largest = np.abs(theirs).max()
        difference = np.abs(ours - theirs).max() / largest
        self.worst = max(self.worst, float(difference))
        if not difference <= TOLERANCE:
            self.faults.append(f"{where}: logits differ by {difference:.2e} of the largest")
        if ours.argmax() != theirs.argmax():
            second, first = np.sort(theirs)[-2:]
            gap = (first - second) / largest
            note = f"{where}: best token {ours.argmax()}, the oracle's {theirs.argmax()}, {gap:.2e} apart"
            (self.near_ties if gap <= TOLERANCE else self.faults).append(note)

    def report(self, name):
        print(f"\n{name}: {self.steps} steps, largest difference {self.worst:.2e} of the largest logit")
        for note in self.near_ties:
            print(f"  exception, a near tie: {note}")
        for fault in self.faults:
            print(f"  FAULT: {fault}")
