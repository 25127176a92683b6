"""The JSON Schema of recipes, with the options of every installed plugin, for editors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from compilekit.recipe.choices import KEY as CHOICES
from compilekit.recipe.parts import COMPONENT, RESERVED, StepEntry
from compilekit.recipe.recipe import Recipe

if TYPE_CHECKING:
    from pydantic import BaseModel


def recipe_schema(
    options: Mapping[str, type[BaseModel]],
    help: Mapping[str, str],  # noqa: A002
) -> dict[str, Any]:
    """The schema of a recipe whose steps are these plugins'; `help` has one line for each."""
    schema = Recipe.model_json_schema()
    definitions = schema.pop("$defs", {})
    definitions.pop("StepEntry", None)
    properties = schema["properties"]
    properties["extends"] = {
        "type": "string",
        "minLength": 1,
        "description": "A recipe file that this one builds on; what is written here wins.",
    }
    seed = {"type": "integer", "minimum": 0, "default": 0}
    properties["sample"]["properties"] = {"seed": seed}
    bare, steps = [], []
    for name, model in options.items():
        step, step_definitions = _step(name, model, help.get(name, ""))
        definitions |= step_definitions
        steps.append(step)
        if not definitions[f"step.{name}"].get("required"):
            bare.append(name)
    ways = [{"enum": bare}, *steps] if bare else steps
    definitions["step"] = {"oneOf": ways}
    one = {"anyOf": [{"$ref": "#/$defs/step"}, {"type": "null"}]}
    several = _choices(one, "One of these steps; null stands for none.")
    properties["steps"]["items"] = {"oneOf": [*ways, several]}
    required = schema.pop("required")
    del schema["title"]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "compilekit recipe",
        **schema,
        # What is required may stand in the base.
        "if": {"not": {"required": ["extends"]}},
        "then": {"required": required},
        "$defs": definitions,
    }


def _step(
    name: str, model: type[BaseModel], line: str
) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """A step as an object of one key; and the definitions that it needs, under names of its own."""
    body = model.model_json_schema()
    inner = {f"step.{name}.{key}": value for key, value in body.pop("$defs", {}).items()}
    if "$ref" in body:  # a model that holds itself is a reference to its own definition
        body = dict(inner[f"step.{name}.{body['$ref'].rsplit('/', 1)[-1]}"])
    options = {
        key: {"anyOf": [value, _choices(value, "One of these values.")]}
        for key, value in body.get("properties", {}).items()
    }
    body["properties"] = {**options, **_reserved()}
    body["title"] = name
    if line:
        body["description"] = line
    definitions = _renamed({f"step.{name}": body, **inner}, f"#/$defs/step.{name}.")
    value: dict[str, Any] = {"$ref": f"#/$defs/step.{name}"}
    if not body.get("required"):
        value = {"anyOf": [value, {"type": "null"}]}
    step = {
        "type": "object",
        "properties": {name: value},
        "required": [name],
        "additionalProperties": False,
    }
    return ({**step, "description": line} if line else step), definitions


def _choices(item: dict[str, Any], line: str) -> dict[str, Any]:
    """A list of which `compilekit tune` takes one."""
    return {
        "type": "object",
        "properties": {CHOICES: {"type": "array", "items": item, "minItems": 1}},
        "required": [CHOICES],
        "additionalProperties": False,
        "description": f"{line} For `compilekit tune`.",
    }


def _reserved() -> dict[str, Any]:
    properties = StepEntry.model_json_schema()["properties"]
    reserved = {key: properties[key] for key in RESERVED}
    component = {"type": "string", "pattern": COMPONENT}
    several = {"type": "array", "items": component, "minItems": 1, "uniqueItems": True}
    reserved["components"] = {
        "anyOf": [component, several],
        "description": "The components and entry points to work on.",
    }
    reserved["allow_no_match"]["description"] = "Whether the step may find nothing to do."
    reserved["budget"]["description"] = "How far the step may move outputs: relative L2 error."
    return reserved


def _renamed(value: Any, prefix: str) -> Any:
    """With references to `#/$defs/X` moved to a prefix; what the reserved keys hold has none."""
    if isinstance(value, dict):
        return {
            key: item.replace("#/$defs/", prefix, 1)
            if key == "$ref" and isinstance(item, str)
            else _renamed(item, prefix)
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [_renamed(item, prefix) for item in value]
    return value
