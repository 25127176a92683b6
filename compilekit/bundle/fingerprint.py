"""Whether a bundle fits this machine: each field is compared, judged and explained.

Light: no torch. These are the rules for compiled code in general; a plugin may judge the
differences for its own parts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from compilekit.base.words import SEVERITIES, Severity
from compilekit.bundle.manifest import Manifest
from compilekit.errors import CompilekitError
from compilekit.plugin.host import Host

PLUGIN = "plugin "


@dataclass(frozen=True)
class Difference:
    """A field of the fingerprint that differs between this machine and the build's."""

    field: str
    built: str
    here: str
    severity: Severity
    advice: str

    def __str__(self) -> str:
        return (
            f"{self.severity}: {self.field}: built with {self.built or 'none'}, "
            f"here {self.here or 'none'}; {self.advice}"
        )


def differences(manifest: Manifest, here: Mapping[str, str], host: Host) -> list[Difference]:
    """All differences, the worst first."""
    used = {step.name for step in manifest.steps if step.again != "never"}
    compiled = manifest.compiled_by()
    found = []
    for name in sorted(used | compiled):
        plugin = host.plugins.get(name)
        built, now = manifest.plugins[name], "" if plugin is None else plugin.version
        if plugin is not None and plugin.error:
            now = f"{now} (broken: {plugin.error})"
        if built != now:
            severity = _judged(f"{PLUGIN}{name}", built, now, [name], host)
            found.append(Difference(f"{PLUGIN}{name}", built, now, severity, f"install {built}"))
    for field in sorted(manifest.fingerprint.keys() | here.keys()):
        built, now = manifest.fingerprint.get(field, ""), here.get(field, "")
        if built == now:
            continue
        severity = _judged(field, built, now, sorted(compiled), host)
        found.append(Difference(field, built, now, severity, _advice(field, built, now)))
    return sorted(found, key=lambda each: SEVERITIES.index(each.severity))


def _judged(field: str, built: str, here: str, plugins: Sequence[str], host: Host) -> Severity:
    """The worst judgement of the plugins with compiled code."""
    if not plugins:
        return "warning" if field in ("diffusers", "transformers") else "note"
    verdicts: list[Severity] = []
    for name in plugins:
        try:
            own = host.judge(name, field, built, here)
        except CompilekitError:
            own = "fatal"  # the plugin is not here, or is broken
        verdicts.append(own or default(field, built, here))
    return min(verdicts, key=SEVERITIES.index)


def default(field: str, built: str, here: str) -> Severity:
    """How bad a difference is for compiled code in general."""
    return _RULES.get(field, _same_plugin if field.startswith(PLUGIN) else _note)(built, here)


def _fatal(built: str, here: str) -> Severity:
    del built, here
    return "fatal"


def _warning(built: str, here: str) -> Severity:
    del built, here
    return "warning"


def _note(built: str, here: str) -> Severity:
    del built, here
    return "note"


_same_plugin = _fatal


def _older_is_fatal(built: str, here: str) -> Severity:
    return "fatal" if numbers(here) < numbers(built) else "note"


def _older_is_bad(built: str, here: str) -> Severity:
    return "warning" if numbers(here) < numbers(built) else "note"


def _same_minor(built: str, here: str) -> Severity:
    return "warning" if numbers(built)[:2] == numbers(here)[:2] else "fatal"


def _same_major(built: str, here: str) -> Severity:
    return "warning" if numbers(built)[:1] == numbers(here)[:1] else "fatal"


def _has_all(built: str, here: str) -> Severity:
    return "fatal" if missing_flags(built, here) else "note"


_RULES: dict[str, Callable[[str, str], Severity]] = {
    "platform": _fatal,
    "torch": _same_minor,
    "cpu_flags": _has_all,
    "glibc": _older_is_fatal,
    "libstdcxx": _older_is_fatal,
    "sm": _fatal,
    "gpu": _warning,
    "cuda": _same_major,
    "driver": _older_is_bad,
    "diffusers": _warning,
    "transformers": _warning,
}


def missing_flags(built: str, here: str) -> list[str]:
    """The instructions that the code may use and this processor lacks."""
    return sorted(set(built.split()) - set(here.split()))


def numbers(version: str) -> tuple[int, ...]:
    """The numbers of a version, to compare."""
    return tuple(int(part) for part in re.findall(r"\d+", version.partition("+")[0]))


def _advice(field: str, built: str, here: str) -> str:
    if field == "cpu_flags":
        lacks = missing_flags(built, here)
        if lacks:
            return f"this processor lacks {', '.join(lacks)}: build on a machine like this one"
        return "this processor has all that the code uses"
    if field in ("torch", "diffusers", "transformers"):
        return f"install {field}=={built}, or build the bundle again here"
    if field in ("cpu", "python"):
        return "it makes no difference to compiled code"
    return "load it on a machine like that, or build the bundle again here"
