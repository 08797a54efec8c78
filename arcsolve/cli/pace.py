"""How long a run over many tasks still takes: they differ in size by a hundred times, so it is told by their work."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from arcsolve.inference.deadline import work

if TYPE_CHECKING:
    from arcsolve.inference.batch import Batch
    from arcsolve.inference.deadline import Deadline
    from arcsolve.inference.settings import Settings


class Pace:
    """Estimates from the tasks that are finished.

    Args:
        run: whose tasks are to be done from now on.
        settings: how they are solved.
        deadline: by which all will be over, if there is one.
    """

    def __init__(self, run: Batch, settings: Settings, deadline: Deadline | None = None) -> None:
        self.whole = sum(work(task, settings.adapt) for task in run.todo)
        self.done = 0.0
        self.began = time.monotonic()
        self.deadline = deadline

    def finished(self, size: float) -> str:
        """``about 3 min 05 s left``, after a task of this work."""
        self.done += size
        left = (time.monotonic() - self.began) * (self.whole / self.done - 1)
        if self.deadline is not None:
            left = min(left, max(self.deadline.left, 0.0))
        return f"about {_duration(left)} left"


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {seconds:02} s" if minutes else f"{seconds} s"
