"""`compilekit plugins`: which steps there are, who brings them, and which are broken."""

from __future__ import annotations

from compilekit.cli import options
from compilekit.cli.shared import host_of, print_rows


def run(plugin: options.Plugins = None, *, json: options.Json = False) -> None:
    """List the plugins: steps, observers, and broken ones with the reason."""
    host = host_of(plugin)
    rows = []
    for handle in host.plugins.values():
        step = host.descriptions.get(handle.name)
        note = handle.error or (step.help if step else "sees every step")
        if handle.imports_torch:
            note += " (imports torch when it is loaded, which slows every command)"
        targets = ", ".join(sorted(step.targets)) or "all" if step else ""
        rows.append((handle.name, handle.kind, targets, handle.origin, note))
    print_rows(["name", "kind", "targets", "from", "note"], rows, json=json)
