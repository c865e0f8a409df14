"""How far a training stage is, what its learning rate is, and how it survives being stopped.

A stage ends after a number of steps, or after a number of minutes where one is given; the learning
rate follows whichever of the two is further, so that it always reaches its end.
"""

import math
import os
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch

CHECKPOINT_EVERY_S = 90.0
REPORT_EVERY_S = 20.0


@dataclass
class Stage:
    """The clock of one stage; `seconds` and `step` continue from a checkpoint."""

    name: str
    work: Path
    steps: int
    minutes: float | None = None
    step: int = 0
    seconds: float = 0.0
    _since: float = field(default_factory=time.monotonic)
    _saved: float = field(default_factory=time.monotonic)
    _reported: float = 0.0

    @property
    def path(self) -> Path:
        return self.work / f"{self.name}.checkpoint.pt"

    @property
    def elapsed_s(self) -> float:
        return self.seconds + time.monotonic() - self._since

    @property
    def fraction(self) -> float:
        by_time = self.elapsed_s / (60 * self.minutes) if self.minutes else 0.0
        return min(1.0, max(self.step / self.steps, by_time))

    def rate(self, peak: float, warm_up_steps: int) -> float:
        """Linear warm-up, then a cosine from `peak` to zero at the end."""
        return peak * min(1.0, (self.step + 1) / warm_up_steps) * 0.5 * (1 + math.cos(math.pi * self.fraction))

    def resume(self) -> dict | None:
        if not self.path.exists():
            return None
        state = torch.load(self.path, weights_only=True)
        self.step, self.seconds = state.pop("step"), state.pop("seconds")
        self._since = time.monotonic()
        print(f"{self.name}: resumed at step {self.step}", flush=True)
        return state

    def save_if_due(self, state) -> None:
        """`state` is called for the tensors to keep, only when a checkpoint is due."""
        if time.monotonic() - self._saved < CHECKPOINT_EVERY_S:
            return
        partial = self.path.with_suffix(".partial")
        torch.save(state() | {"step": self.step, "seconds": self.elapsed_s}, partial)
        os.replace(partial, self.path)
        self._saved = time.monotonic()

    def report(self, message) -> None:
        if time.monotonic() - self._reported < REPORT_EVERY_S and self.fraction < 1.0:
            return
        self._reported = time.monotonic()
        print(f"{self.name}: step {self.step}  {self.fraction:6.1%}  {self.elapsed_s:6.0f} s  {message()}", flush=True)


def apply_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate
