"""Progress of long work, on standard error: a live line on a terminal, else a line a step."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from compilekit.base.bytesize import size
from compilekit.base.streams import ERR, own
from compilekit.base.texts import printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as Bar


class Progress:
    """Shows which stage runs and for how long; `say` adds what it is doing just now."""

    def __init__(self, *, enabled: bool = True, console: Console | None = None) -> None:
        self._console = (console or _console()) if enabled else None
        self._bar: Bar | None = None
        self._bytes_done = 0
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def stage(self, title: str, *, brief: bool = False) -> Iterator[None]:
        """Show a stage while it runs, and a line with its time when it is done.

        brief: leave no line; only a terminal shows it.
        """
        if self._console is None:
            yield
            return
        start = time.perf_counter()
        self._bytes_done = 0
        is_live = self._console.is_terminal
        title = printable(title)
        with self._live(self._console, title) if is_live else contextlib.nullcontext():
            yield
        if not brief:
            self.note(f"{title}  {time.perf_counter() - start:.1f} s")

    @contextlib.contextmanager
    def _live(self, console: Console, title: str) -> Iterator[None]:
        from rich.progress import Progress as Bar
        from rich.progress import SpinnerColumn, TextColumn, TimeElapsedColumn

        spinner = SpinnerColumn("line" if console.options.ascii_only else "dots")
        text = TextColumn("{task.description}", markup=False)
        columns = (spinner, text, TimeElapsedColumn())
        # What libraries write goes above the bar, unless it is kept.
        above = own(ERR) is None
        with Bar(
            *columns,
            console=console,
            transient=True,
            redirect_stdout=above,
            redirect_stderr=above,
        ) as bar:
            self._bar = bar
            bar.add_task(title, total=None)
            try:
                yield
            finally:
                self._bar = None

    def say(self, title: str, message: str) -> None:
        """Say what the running stage is doing now; only a terminal shows it."""
        if self._bar is not None:
            text = printable(f"{title}: {message}")
            self._bar.update(self._bar.task_ids[0], description=text)

    def read(self, title: str, count: int, total: int) -> None:
        """Say that so many bytes more were read, and how long the rest takes."""
        if self._bar is None:
            return
        with self._lock:  # files are read in several threads
            self._bytes_done += count
            task = self._bar.tasks[0]
            rate = self._bytes_done / (task.elapsed or 1e-9)
            left = (total - self._bytes_done) / rate
        self.say(title, f"{size(self._bytes_done)} of {size(total)}, about {left:.0f} s left")

    def note(self, message: str) -> None:
        """Show a line that stays."""
        if self._console is not None:
            message = printable(message, "\n\t")
            self._console.print(message, highlight=False, markup=False, soft_wrap=True)


class Told(Progress):
    """Progress that is told to whoever asked this process."""

    def __init__(self, say: Callable[[str], None]) -> None:
        super().__init__(enabled=False)
        self._tell = say

    @contextlib.contextmanager
    def stage(self, title: str, *, brief: bool = False) -> Iterator[None]:
        """Tell which stage begins."""
        if not brief:
            self._tell(title)
        yield

    def say(self, title: str, message: str) -> None:
        """Tell what the running stage is doing now."""
        self._tell(f"{title}: {message}")


def _console() -> Console:
    # Not at the top: who shows nothing does not wait for it.
    from rich.console import Console

    return Console(file=own(ERR), stderr=True)
