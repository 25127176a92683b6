"""Whether a bundle fits this machine: each field is compared, judged and explained.

Light: no torch. These are the rules for compiled code in general; a plugin may judge the
differences for its own parts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from compilekit.base.texts import printable
from compilekit.base.words import SEVERITIES, Severity
from compilekit.bundle.manifest import Manifest
from compilekit.errors import CompilekitError
from compilekit.plugin.host import Host

PLUGIN = "plugin "
SAME_NUMBERS = {"torch": 2, "cuda": 1}
"""How many leading numbers of a version must be the same."""
NOT_OLDER: dict[str, Severity] = {"glibc": "fatal", "libstdcxx": "fatal", "driver": "warning"}
"""How bad it is if a version is older here than where the bundle was built."""


@dataclass(frozen=True)
class Difference:
    """A field of the fingerprint that differs between this machine and the build's."""

    field: str
    built: str
    here: str
    severity: Severity
    advice: str

    def __str__(self) -> str:
        return printable(
            f"{self.severity}: {self.field}: built with {self.built or 'none'}, "
            f"here {self.here or 'none'}; {self.advice}"
        )


def differences(manifest: Manifest, here: Mapping[str, str], host: Host) -> list[Difference]:
    """All differences, the worst first."""
    used = {step.name for step in manifest.steps if step.again != "never"}
    compiled = manifest.compiled_by()
    fields: list[tuple[str, str, str, Sequence[str]]] = []
    for name in sorted(used | compiled):
        plugin = host.plugins.get(name)
        now = "" if plugin is None else plugin.version
        if plugin is not None and plugin.error:
            now = f"{now} (broken: {plugin.error})"
        fields.append((f"{PLUGIN}{name}", manifest.plugins[name], now, [name]))
    for field in sorted(manifest.fingerprint.keys() | here.keys()):
        built, now = manifest.fingerprint.get(field, ""), here.get(field, "")
        fields.append((field, built, now, sorted(compiled)))
    unequal = [
        Difference(
            field, built, now, _judged(field, built, now, judges, host), _advice(field, built, now)
        )
        for field, built, now, judges in fields
        if built != now
    ]
    return sorted(unequal, key=lambda difference: SEVERITIES.index(difference.severity))


def _judged(field: str, built: str, here: str, plugins: Sequence[str], host: Host) -> Severity:
    """The worst judgement of the plugins with compiled code."""
    if not plugins:
        return "warning" if field in ("diffusers", "transformers") else "note"
    verdicts: list[Severity] = []
    for name in plugins:
        try:
            verdict = host.judge(name, field, built, here)
        except CompilekitError:
            verdict = "fatal"  # the plugin is not here, or is broken
        verdicts.append(verdict or default(field, built, here))
    return min(verdicts, key=SEVERITIES.index)


def default(field: str, built: str, here: str) -> Severity:
    """How bad a difference is for compiled code in general."""
    if field.startswith(PLUGIN) or field in ("platform", "sm"):
        return "fatal"
    if field in ("gpu", "diffusers", "transformers"):
        return "warning"
    if field in SAME_NUMBERS:
        count = SAME_NUMBERS[field]
        return "warning" if numbers(built)[:count] == numbers(here)[:count] else "fatal"
    if field in NOT_OLDER:
        return NOT_OLDER[field] if numbers(here) < numbers(built) else "note"
    return "fatal" if field == "cpu_flags" and missing_flags(built, here) else "note"


def missing_flags(built: str, here: str) -> list[str]:
    """The instructions that the code may use and this processor lacks."""
    return sorted(set(built.split()) - set(here.split()))


def numbers(version: str) -> tuple[tuple[int, str], ...]:
    """The numbers of a version, to compare: by their lengths first, since they may be huge."""
    digits = (part.lstrip("0") for part in re.findall("[0-9]+", version.partition("+")[0]))
    return tuple((len(part), part) for part in digits)


def _advice(field: str, built: str, here: str) -> str:
    if field.startswith(PLUGIN) and built:
        return f"install {built}"
    if field == "cpu_flags":
        lacks = missing_flags(built, here)
        if lacks:
            return f"this processor lacks {', '.join(lacks)}: build on a machine like this one"
        return "this processor has all that the code uses"
    if field in ("torch", "diffusers", "transformers") and built:
        return f"install {field}=={built}, or build the bundle again here"
    if field in ("cpu", "python"):
        return "it makes no difference to compiled code"
    return "load it on a machine like that, or build the bundle again here"
