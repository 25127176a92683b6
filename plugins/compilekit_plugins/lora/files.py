"""Where an adapter's file is: named itself, in a folder, or on the hub."""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import TYPE_CHECKING

import compilekit as ck

if TYPE_CHECKING:
    from compilekit_plugins.lora import Adapter

SUFFIX = ".safetensors"
USUAL = f"pytorch_lora_weights{SUFFIX}"
"""The name that diffusers gives to an adapter's file."""

HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


def file_of(adapter: Adapter, key: str) -> Path:
    """The file of an adapter; one on the hub is fetched."""
    place = Path(adapter.source).expanduser()
    where = f"{key}: {adapter.source}"
    if place.is_dir():
        file = place / (adapter.weight_name or _only(place, where))
        if not file.is_file():
            raise ck.StepError(
                f'{where}: has no file "{adapter.weight_name}"; it has {_listed(place)}'
            )
    elif place.is_file():
        file = place
        if adapter.weight_name:
            raise ck.StepError(f"{where}: is a file itself: leave `weight_name` out")
    else:
        file = _from_hub(adapter, where)
    if file.suffix != SUFFIX:
        raise ck.StepError(
            f"{where}: {file.name} is no {SUFFIX} file; others can hold code, and are not read"
        )
    return file


def _only(folder: Path, where: str) -> str:
    names = _names(folder)
    if USUAL in names:
        return USUAL
    if len(names) != 1:
        raise ck.StepError(
            f"{where}: say which file as `weight_name`; it has {_listed(folder)}"
            if names
            else f"{where}: has no {SUFFIX} file"
        )
    return names[0]


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob(f"*{SUFFIX}") if path.is_file())


def _listed(folder: Path) -> str:
    return ", ".join(_names(folder)) or f"no {SUFFIX} file"


def _from_hub(adapter: Adapter, where: str) -> Path:
    if not HUB_ID.fullmatch(adapter.source):
        raise ck.StepError(f"{where}: there is no such file or folder.{_near(adapter.source)}")
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    name = adapter.weight_name or USUAL
    try:
        return Path(hf_hub_download(adapter.source, name, revision=adapter.revision or None))
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        reason = str(error).strip().partition("\n")[0]
        hint = "" if adapter.weight_name else " Is its name another one? Say it as `weight_name`."
        raise ck.StepError(
            f"{where}: is no file or folder here, and the hub does not give its {name}: "
            f"{reason}{hint}{_near(adapter.source)}"
        ) from error


def _near(source: str) -> str:
    """A file or folder beside it that is called much the same."""
    place = Path(source).expanduser()
    if not place.parent.is_dir():
        return ""
    near = difflib.get_close_matches(place.name, (p.name for p in place.parent.iterdir()), n=1)
    return f' Did you mean "{place.parent / near[0]}"?' if near else ""
