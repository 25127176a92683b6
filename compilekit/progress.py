"""Progress of long work, on standard error: a live line on a terminal, else a line a step."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from rich.console import Console
from rich.progress import Progress as Bar
from rich.progress import SpinnerColumn, TextColumn, TimeElapsedColumn


class Progress:
    """Shows which stage runs and for how long; `say` adds what it is doing just now."""

    def __init__(self, *, enabled: bool = True, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)
        self._enabled = enabled
        self._bar: Bar | None = None

    @contextlib.contextmanager
    def stage(self, title: str) -> Iterator[None]:
        """Show a stage while it runs, and a line with its time when it is done."""
        start = time.perf_counter()
        if self._enabled and self._console.is_terminal:
            columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
            with Bar(*columns, console=self._console, transient=True) as bar:
                self._bar = bar
                bar.add_task(title, total=None)
                try:
                    yield
                finally:
                    self._bar = None
        else:
            yield
        if self._enabled:
            seconds = time.perf_counter() - start
            self._console.print(f"{title}  {seconds:.1f} s", highlight=False, markup=False)

    def say(self, title: str, message: str) -> None:
        """Say what the running stage is doing now; only a terminal shows it."""
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], description=f"{title}: {message}")
