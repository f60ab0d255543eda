"""Training progress on stderr."""

from __future__ import annotations

import sys
import time

from tiny_model.settings import Settings


class Progress:
    """One line of step, loss, rate and remaining time: rewritten on a terminal, every 30 s elsewhere."""

    def __init__(self, settings: Settings, first: int, quiet: bool) -> None:
        self.settings, self.first, self.quiet = settings, first, quiet
        self.terminal = sys.stderr.isatty()
        self.started = self.last = time.monotonic()

    def show(self, losses: list[float]) -> None:
        """Report the state after `len(losses)` steps, if it is time for a line."""
        now, done = time.monotonic(), len(losses)
        finished = done == self.settings.steps
        if self.quiet or not (finished or now - self.last >= (1 if self.terminal else 30)):
            return
        self.last = now
        per_step = (now - self.started) / (done - self.first)
        recent = losses[-50:]
        line = (
            f"step {done}/{self.settings.steps}  loss {sum(recent) / len(recent):.3f}  "
            f"{self.settings.tokens_per_step / per_step:.0f} tokens/s  "
            f"{(self.settings.steps - done) * per_step / 60:.1f} min left"
        )
        end = "" if self.terminal and not finished else "\n"
        print(("\r\x1b[2K" if self.terminal else "") + line, end=end, file=sys.stderr, flush=True)
