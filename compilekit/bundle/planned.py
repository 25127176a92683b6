"""The steps of a manifest, as the installed plugins describe them. Light: no torch."""

from __future__ import annotations

from pydantic import ValidationError

from compilekit.bundle.manifest import Manifest, first_fault
from compilekit.errors import BundleError, CompilekitError
from compilekit.plugin.host import Host
from compilekit.plugin.steps import PlannedStep


def planned(host: Host, manifest: Manifest, index: int) -> PlannedStep:
    """A step of a manifest, as the installed plugin describes it."""
    step = manifest.steps[index]
    try:
        description = host.describe(step.name)
        options = description.options.model_validate(step.options)
    except CompilekitError as error:
        raise BundleError(f"steps[{index}].{step.name}: {error}") from error
    except ValidationError as error:
        raise BundleError(f"steps[{index}].{step.name}: {first_fault(error)}") from error
    return PlannedStep(
        index=index,
        name=step.name,
        components=step.components,
        options=options,
        effects=host.effects(step.name, options, manifest.device),
        description=description,
        budget=description.budget,
    )
