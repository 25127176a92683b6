"""`compilekit inspect`: what a bundle holds and covers, and the machine that it was built for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from compilekit.base.bytesize import size
from compilekit.bundle.files import WEIGHTS, total
from compilekit.bundle.manifest import NAME, Manifest
from compilekit.cli import options, saved
from compilekit.cli.shared import echo, host_of, print_json


def run(bundle: options.Bundle, *, json: options.Json = False) -> None:
    """Show what a bundle holds, without loading it, torch, or anything else of it.

    Only the manifest is read, and checked; `compilekit verify` checks the files. Of a pipeline's
    folder, its components are shown, and the schedulers that can stand in for its own.
    """
    if (bundle / saved.INDEX).is_file() and not (bundle / NAME).exists():
        compiled = _compiled(bundle)
        if json:
            print_json({"compiled": compiled} if compiled else saved.summary(bundle))
        else:
            echo("\n".join(compiled or saved.lines(bundle)))
        return
    manifest = Manifest.read(bundle)
    if json:
        print_json(summary(manifest))
    else:
        echo("\n".join(_lines(manifest, _compiled(bundle) if manifest.whole else [])))


def summary(manifest: Manifest) -> dict[str, Any]:
    """What a bundle holds, as plain data."""
    return {
        "name": manifest.name,
        "device": manifest.device,
        "class": manifest.class_name,
        "digest": manifest.digest,
        "bytes": total(manifest.files),
        "weight_bytes": total(manifest.files, lambda file: file.path.endswith(WEIGHTS)),
        "steps": [step.name for step in manifest.steps],
        "entries": {
            entry.name: [str(manifest.part(folder).signature) for folder in entry.parts]
            for entry in manifest.entries
        },
        "parts": [part.folder for part in manifest.parts],
        "whole": manifest.whole.model_dump(mode="json") if manifest.whole else None,
        "plugins": manifest.plugins,
        "fingerprint": manifest.fingerprint,
    }


def _compiled(folder: Path) -> list[str]:
    """What the steps that compile whole pipelines say of a folder."""
    from compilekit.plan.whole import lines_about

    return lines_about(host_of(None), folder)


def _lines(manifest: Manifest, compiled: list[str]) -> list[str]:
    weights = total(manifest.files, lambda file: file.path.endswith(WEIGHTS))
    lines = [
        f"{manifest.name}: a {manifest.class_name} for {manifest.device}",
        f"  {len(manifest.files)} files, {size(total(manifest.files))}, {size(weights)} of weights",
        f"  recipe {manifest.digest[:12]}: {', '.join(step.name for step in manifest.steps)}",
        "compiled" if manifest.entries or manifest.whole else "compiled: nothing",
        *(f"  {line}" for line in compiled),
    ]
    # Blocks that share their parts stand in one line.
    shared: dict[tuple[str, ...], list[str]] = {}
    for entry in manifest.entries:
        shared.setdefault(entry.parts, []).append(entry.name)
    for folders, names in shared.items():
        more = f" and {len(names) - 1} like it" if len(names) > 1 else ""
        lines.append(f"  {names[0]}{more}")
        lines += [f"    {manifest.part(folder).signature}" for folder in folders]
    again = [step.name for step in manifest.steps if step.again == "runtime"]
    if again:
        lines.append(f"run again when it is loaded: {', '.join(again)}")
    lines.append("built with")
    known = {**manifest.plugins, **manifest.fingerprint}
    lines += [f"  {name}: {value}" for name, value in known.items() if value]
    return lines
