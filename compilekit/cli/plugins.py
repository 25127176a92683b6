"""`compilekit plugins`: which steps there are, who brings them, and which are broken."""

from __future__ import annotations

from compilekit.cli.shared import JsonOption, PluginOption, print_rows


def run(plugin: PluginOption = None, *, json: JsonOption = False) -> None:
    """List the plugins: steps, observers, and broken ones with the reason."""
    from compilekit.plugin.host import load_host

    host = load_host(plugin or [])
    rows = []
    for found in host.plugins.values():
        step = host.descriptions.get(found.name)
        note = found.error or (step.help if step else "sees every step")
        if found.imports_torch:
            note += " (imports torch when it is loaded, which slows every command)"
        targets = ", ".join(sorted(step.targets)) or "all" if step else ""
        rows.append((found.name, found.kind, targets, found.origin, note))
    print_rows(["name", "kind", "targets", "from", "note"], rows, json=json)
