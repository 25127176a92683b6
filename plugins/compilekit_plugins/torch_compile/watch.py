"""Watching torch's compiler: how long, how many graphs, where they break, and recompiles."""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Iterator
from typing import Any

import compilekit as ck
from compilekit_plugins import torch_internals

utils = torch_internals.dynamo_metrics()

BREAK_LOGS = (
    "torch._dynamo.symbolic_convert.__graph_breaks",
    "torch._dynamo.convert_frame.__graph_breaks",
    "torch._dynamo.exc.__graph_breaks",
)
# Newer torch puts a line that says nothing before some reasons.
BREAK = re.compile(
    r"in user code at (?P<where>\S+:\d+)\nGraph Break Reason: "
    r"(?:Encountered graph break when[^\n]*\n\s*)?(?P<why>[^\n]*)"
)
EVENTS_KEPT = 4096
REASON_LENGTH = 160


class Watch(logging.Handler):
    """Collects what the compiler does while it is open, and afterwards what it does again."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.breaks: dict[str, str] = {}
        self._events: list[Any] = []
        self._graphs = 0
        self._marked: list[Any] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Note a graph break: the source line, and the first line of the reason."""
        match = BREAK.search(record.getMessage())
        if match:
            self.breaks.setdefault(match["where"], match["why"].strip())

    @contextlib.contextmanager
    def open(self) -> Iterator[None]:
        """Watch the compiler."""
        before, graphs = utils.get_compilation_metrics(), _graph_count()
        utils.set_compilation_metrics_limit(EVENTS_KEPT)
        with contextlib.ExitStack() as stack:
            default = getattr(utils, "DEFAULT_COMPILATION_METRICS_LIMIT", 64)
            stack.callback(utils.set_compilation_metrics_limit, default)
            for logger in map(logging.getLogger, BREAK_LOGS):
                stack.callback(setattr, logger, "propagate", logger.propagate)
                stack.callback(logger.setLevel, logger.level)
                stack.callback(logger.removeHandler, self)
                # A user who asked torch for these logs still sees them; nobody else gets them.
                is_asked_for = logger.isEnabledFor(logging.DEBUG) and logger.level == logging.DEBUG
                logger.propagate = logger.propagate and is_asked_for
                logger.addHandler(self)
                logger.setLevel(logging.DEBUG)
            yield
            self._events = _since(before)
            self._graphs = _graph_count() - graphs

    def summary(self) -> dict[str, object]:
        """Compile seconds, new graphs, and graph breaks with their source lines.

        There may be no new graph where an equal block was compiled before in this process.
        """
        seconds = sum(event.entire_frame_compile_time_s or 0.0 for event in self._events)
        return {
            "compile_seconds": round(seconds, 2),
            "graphs": self._graphs,
            "graph_breaks": [f"{where}: {why}" for where, why in sorted(self.breaks.items())],
        }

    def mark(self) -> None:
        """From here on, `compiled_since_mark` counts."""
        self._marked = utils.get_compilation_metrics()

    def compiled_since_mark(self) -> list[str]:
        """What was compiled again since `mark`, with the guard that failed."""
        return [_recompile(event) for event in _since(self._marked) if event.recompile_reason]


def _graph_count() -> int:
    return int(utils.counters["stats"]["unique_graphs"])


def _since(before: list[Any]) -> list[Any]:
    known = {id(event) for event in before}
    return [event for event in utils.get_compilation_metrics() if id(event) not in known]


def _recompile(event: Any) -> str:
    where = f"{event.co_name} at {event.co_filename}:{event.co_firstlineno}"
    reason = event.recompile_reason.splitlines()[0]
    return f"{where}: {reason[:REASON_LENGTH]}"


@contextlib.contextmanager
def compiler_errors(key: str) -> Iterator[None]:
    """Turn what the compiler raises into errors that name the step and say what to do."""
    errors = torch_internals.dynamo_errors()
    try:
        yield
    except (errors.TorchDynamoException, RuntimeError) as error:
        if _caused_by(error, torch_internals.no_compiler_error()):
            raise ck.MachineError(
                f"{key}: torch's inductor needs a C++ compiler, and finds none; install g++ "
                "(Debian: apt-get install g++), or set CXX"
            ) from error
        hint = ""
        if isinstance(error, errors.Unsupported):
            hint = "\nTry `fullgraph: false`, or `regions:` that leave this line out."
        raise ck.StepError(f"{key}: {type(error).__name__}: {error}{hint}") from error


def _caused_by(error: BaseException | None, kind: type[BaseException]) -> bool:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, kind) or isinstance(getattr(error, "inner_exception", None), kind):
            return True
        error = error.__cause__ or error.__context__
    return False
