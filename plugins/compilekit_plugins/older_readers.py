"""A saved pipeline, made readable for older libraries: vendors' stacks pin transformers 4.

Not a step: backends whose worker runs other versions use it on the folder that they hand over.
"""

from __future__ import annotations

import json
from pathlib import Path

PREFIXES = {"CLIPTextModel": "text_model.", "CLIPVisionModel": "vision_model."}
"""What transformers 4 has before the names of these models' weights, and transformers 5 has not."""


def rewrite(folder: Path) -> None:
    """Change a saved pipeline's folder so that transformers 4 and 5 both read it."""
    for path in sorted(folder.glob("*/tokenizer.json")):
        _words(path)
    for path in sorted(folder.glob("*/config.json")):
        kinds = json.loads(path.read_text(encoding="utf-8")).get("architectures") or [""]
        if kinds[0] in PREFIXES:
            _names(path.parent, PREFIXES[kinds[0]])


def _words(path: Path) -> None:
    """Write a tokenizer's words beside its newer file, which is not read alone."""
    if (path.parent / "vocab.json").exists():
        return
    model = json.loads(path.read_text(encoding="utf-8"))["model"]
    if model.get("type") != "BPE":
        return
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    text = "\n".join(["#version: 0.2", *merges, ""])
    (path.parent / "merges.txt").write_text(text, encoding="utf-8")
    vocabulary = json.dumps(model["vocab"], ensure_ascii=False)
    (path.parent / "vocab.json").write_text(vocabulary, encoding="utf-8")


def _names(folder: Path, prefix: str) -> None:
    """Give the weights the names that they had; transformers 5 knows those too."""
    from safetensors.torch import load_file, save_file

    for path in sorted(folder.glob("*.safetensors")):
        tensors = load_file(path)
        if any(name.startswith(prefix) for name in tensors):
            continue
        renamed = {f"{prefix}{name}": tensor for name, tensor in tensors.items()}
        save_file(renamed, path, metadata={"format": "pt"})
