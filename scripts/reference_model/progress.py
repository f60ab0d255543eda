"""Progress on stderr, one line at a time."""

from __future__ import annotations

import sys
import time


def report(label: str, message: str) -> None:
    """Print one line about a stage."""
    print(f"{label:<18} {message}", file=sys.stderr, flush=True)


class Progress:
    """Lines such as `expert-prose 20/60 loss 3.120 240 tok/s 2m08s left`, one every `every` steps."""

    def __init__(self, label: str, steps: int, tokens_per_step: int, every: int = 5) -> None:
        self.label, self.steps, self.tokens, self.every = label, steps, tokens_per_step, every
        self.start = time.monotonic()

    def step(self, done: int, loss: float) -> None:
        """Note that `done` steps are finished, the last with `loss`."""
        if done % self.every and done != self.steps:
            return
        seconds = time.monotonic() - self.start
        left = seconds / done * (self.steps - done)
        rate = done * self.tokens / max(seconds, 1e-9)
        remaining = f"{int(left) // 60}m{int(left) % 60:02d}s left"
        report(self.label, f"{done}/{self.steps}  loss {loss:.3f}  {rate:.0f} tok/s  {remaining}")
