"""Private names of other libraries are used in one adapter file per library, in every form."""

from __future__ import annotations

import ast
from pathlib import Path

import compilekit

CORE = Path(compilekit.__file__).parent
ADAPTERS = ("base/torch_internals.py", "base/diffusers_internals.py", "bundle/signing.py")
"""ruff's SLF001 sees `x._name`; here are names as strings, and private modules."""


NAMEDTUPLE = ("_fields", "_replace", "_asdict")
"""Python documents these names for everyone."""


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name not in NAMEDTUPLE


def private_names(source: str) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module:
            found += [node.module for part in node.module.split(".") if is_private(part)]
            found += [alias.name for alias in node.names if is_private(alias.name)]
        if isinstance(node, ast.Import):
            found += [
                alias.name for alias in node.names if any(map(is_private, alias.name.split(".")))
            ]
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id in ("getattr", "hasattr", "setattr", "delattr")
            and isinstance(node.args[1], ast.Constant)
            and is_private(str(node.args[1].value))
        ):
            found.append(str(node.args[1].value))
    return found


def test_the_core_uses_private_names_in_adapter_files_alone():
    found = {
        path.relative_to(CORE).as_posix(): names
        for path in CORE.rglob("*.py")
        if path.relative_to(CORE).as_posix() not in ADAPTERS
        and (names := private_names(path.read_text(encoding="utf-8")))
    }
    assert found == {}


def test_each_form_of_a_private_name_is_seen():
    source = """
from torch._inductor import config
from torch import _C
import torch._dynamo.config as config
getattr(x, "_hf_hook", None)
hasattr(x, "_name") and setattr(x, "_other", 1)
getattr(x, "__dict__")
"""
    assert private_names(source) == [
        "torch._inductor",
        "_C",
        "torch._dynamo.config",
        "_hf_hook",
        "_name",
        "_other",
    ]
