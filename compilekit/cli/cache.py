"""`compilekit cache`: what the build cache holds, and how to make it smaller."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from compilekit.base.bytesize import parse_size, size
from compilekit.cli import options
from compilekit.cli.shared import echo, print_json, print_result, print_table
from compilekit.errors import UsageError

if TYPE_CHECKING:
    from compilekit.cache.entry import Entry
    from compilekit.cache.store import Cache

NAME = "cache"
HELP = "Show and prune the build cache. It lies where COMPILEKIT_CACHE says, or in ~/.cache."
DAY = 86_400


def show(*, json: options.Json = False) -> None:
    """List what the build cache holds, the latest used first."""
    entries = _cache().entries()
    if json:
        print_json([_row(entry, used) for entry, used in entries])
    elif entries:
        rows = [
            (
                entry.key[:12],
                entry.kind,
                entry.title,
                size(entry.size),
                f"{entry.seconds:.0f} s",
                _ago(used),
            )
            for entry, used in entries
        ]
        print_table(["key", "kind", "what", "size", "took", "last used"], rows)
    else:
        echo("the build cache is empty")


def measure(*, json: options.Json = False) -> None:
    """Show where the build cache lies, how large it is, and how large it may become."""
    from compilekit.cache import settings

    total, limit = sum(entry.size for entry, _ in _cache().entries()), settings.limit()
    text = f"{settings.folder()}: {size(total)} of {size(limit)} (COMPILEKIT_CACHE_LIMIT)"
    value = {"folder": str(settings.folder()), "bytes": total, "limit": limit}
    print_result(text, value, json=json)


def prune(
    limit: Annotated[
        str | None, typer.Option("--limit", help='Keep at most this much, "20 GB" say.')
    ] = None,
    days: Annotated[
        float | None, typer.Option("--unused", help="Remove what was not used for so many days.")
    ] = None,
    *,
    everything: Annotated[bool, typer.Option("--all", help="Remove everything.")] = False,
) -> None:
    """Remove what was not used for longest. What a build is just using stays."""
    if not everything and limit is None and days is None:
        raise UsageError("say what to remove: --limit SIZE, --unused DAYS or --all")
    if days is not None and not 0 < days < math.inf:
        raise UsageError(f"--unused {days:g}: write a number of days above 0, or --all")
    room = 0 if everything else None if limit is None else parse_size(limit, "--limit")
    since = 0.0 if days is None else time.time() - days * DAY
    removed = _cache().prune(limit=room, unused_since=since)
    count, total = len(removed), sum(entry.size for entry in removed)
    echo(f"removed {count} {'entry' if count == 1 else 'entries'}, {size(total)}")


def why(
    first: Annotated[str, typer.Argument(help="The key of an entry, or its start.")],
    second: Annotated[str, typer.Argument(help="The key of another entry.")],
    *,
    json: options.Json = False,
) -> None:
    """Say which inputs differ between two entries, so that one was not used for the other."""
    cache = _cache()
    entries = [entry for entry, _ in cache.entries()]
    one, other = _entry(entries, first), _entry(entries, second)
    rows = cache.why(one, other)
    if json:
        print_json([{"input": name, "first": a, "second": b} for name, a, b in rows])
    elif rows:
        print_table(["input", one.key[:12], other.key[:12]], rows)
    else:
        echo("both have the same inputs")


def _entry(entries: Sequence[Entry], key: str) -> Entry:
    matches = [entry for entry in entries if key and entry.key.startswith(key)]
    if len(matches) != 1:
        what = "several entries have keys that start so" if matches else "no entry has this key"
        raise UsageError(f"{key!r}: {what}; `compilekit cache list` shows the keys")
    return matches[0]


COMMANDS: dict[str, Callable[..., None]] = {
    "list": show,
    "size": measure,
    "prune": prune,
    "why": why,
}


def _cache() -> Cache:
    from compilekit.cache import settings
    from compilekit.cache.store import Cache

    return Cache(settings.folder(), settings.limit(), lambda text: echo(text, err=True))


def _row(entry: Entry, used: float) -> dict[str, object]:
    return {
        "kind": entry.kind,
        "key": entry.key,
        "what": entry.title,
        "bytes": entry.size,
        "seconds": entry.seconds,
        "used": used,
    }


def _ago(moment: float) -> str:
    seconds = max(0.0, time.time() - moment)
    for unit, length in (("day", DAY), ("hour", 3600), ("minute", 60)):
        count = int(seconds // length)
        if count:
            return f"{count} {unit}{'s' * (count != 1)} ago"
    return "just now"
