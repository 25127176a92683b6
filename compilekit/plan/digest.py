"""The digest of a recipe's canonical form. Light: no torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from pydantic_core import to_json

UNNAMED = ("name", "description")
"""What a recipe is called makes no difference."""


def digest_of(canonical: Mapping[str, Any]) -> str:
    """SHA-256 of the canonical form: equal for recipes that mean the same."""
    content = {key: value for key, value in canonical.items() if key not in UNNAMED}
    plain = json.loads(to_json(content, inf_nan_mode="null"))  # as a manifest holds it
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
