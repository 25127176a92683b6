"""Process-global state: what a step may leave changed for everything that runs after it.

A `State` holds the config modules of torch's compiler, the environment, and the switches of
torch that have no owner. Several of torch's names are views on one setting (the precision of
float32 matrix products has four), so changing one may show up as a change of others.

torch keeps its config values per thread: take and restore snapshots in the thread that runs
the steps.
"""

from __future__ import annotations

import copy
import importlib
import operator
import os
import warnings
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from compilekit.base.torch_internals import config_entries

NOT_SET = "(not set)"
UNREADABLE = "(unreadable)"
HIDDEN = "(hidden)"

_CONFIGS = (
    "torch._inductor.config",
    "torch._dynamo.config",
    "torch._functorch.config",
    "torch.fx.experimental._config",
    "torch.compiler.config",
)
_ENVIRONMENT = "os.environ."
_SECRETS = ("TOKEN", "KEY", "SECRET", "PASSWORD", "PASSWD", "CREDENTIAL")
_SCALARS = (bool, int, float, str, bytes, type(None))

# Old names come before new ones and general ones before special ones: writing one of them sets
# those behind it too, and the last word has to be the most special name's.
_ATTRIBUTES = (
    "torch.backends.cuda.matmul.allow_tf32",
    "torch.backends.cudnn.allow_tf32",
    "torch.backends.mkldnn.fp32_precision",
    "torch.backends.fp32_precision",
    "torch.backends.cudnn.fp32_precision",
    "torch.backends.cuda.matmul.fp32_precision",
    "torch.backends.cudnn.conv.fp32_precision",
    "torch.backends.cudnn.rnn.fp32_precision",
    "torch.backends.mkldnn.matmul.fp32_precision",
    "torch.backends.mkldnn.conv.fp32_precision",
    "torch.backends.mkldnn.rnn.fp32_precision",
    "torch.backends.cuda.matmul.allow_fp16_accumulation",
    "torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction",
    "torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction",
    "torch.backends.cudnn.enabled",
    "torch.backends.cudnn.benchmark",
    "torch.backends.cudnn.benchmark_limit",
    "torch.backends.cudnn.deterministic",
    "torch.backends.mkldnn.enabled",
)


@dataclass(frozen=True)
class _Setting:
    read: Callable[[], object]
    write: Callable[[Any], object]


def _attribute(path: str) -> _Setting:
    owner, _, name = path.removeprefix("torch.").rpartition(".")
    parent = operator.attrgetter(owner)
    return _Setting(
        read=lambda: getattr(parent(torch), name),
        write=lambda value: setattr(parent(torch), name, value),
    )


def _get_default_device() -> torch.device:
    try:
        return torch.get_default_device()
    except AttributeError:  # torch 2.8, when a device was set and then unset
        return torch.device("cpu")


def _set_default_device(device: torch.device) -> None:
    # Without a default device torch adds no function mode to every call; so try that first.
    torch.set_default_device(None)
    if _get_default_device() != device:
        torch.set_default_device(device)


_CUDA = torch.backends.cuda
_SETTINGS = {
    "torch.default_dtype": _Setting(torch.get_default_dtype, torch.set_default_dtype),
    "torch.default_device": _Setting(_get_default_device, _set_default_device),
    "torch.grad_enabled": _Setting(torch.is_grad_enabled, torch.set_grad_enabled),
    "torch.num_threads": _Setting(torch.get_num_threads, torch.set_num_threads),
    "torch.deterministic_debug_mode": _Setting(
        torch.get_deterministic_debug_mode, torch.set_deterministic_debug_mode
    ),
    "torch.float32_matmul_precision": _Setting(
        torch.get_float32_matmul_precision, torch.set_float32_matmul_precision
    ),
    **{path: _attribute(path) for path in _ATTRIBUTES},
    **{
        f"torch.backends.cuda.{kind}_enabled": _Setting(
            getattr(_CUDA, f"{kind}_enabled"), getattr(_CUDA, f"enable_{kind}")
        )
        for kind in ("flash_sdp", "mem_efficient_sdp", "math_sdp", "cudnn_sdp")
    },
    "torch.backends.cuda.fp16_bf16_reduction_math_sdp_allowed": _Setting(
        _CUDA.fp16_bf16_reduction_math_sdp_allowed, _CUDA.allow_fp16_bf16_reduction_math_sdp
    ),
}


@dataclass(frozen=True, eq=False)
class State:
    """Process-global state at one moment."""

    values: dict[str, object] = field(repr=False)  # holds the environment: never shown

    def diff(self, other: State) -> dict[str, tuple[object, object]]:
        """What differs in `other`, as (value here, value there).

        Values of environment variables whose names look like those of secrets are hidden.
        """
        keys = dict.fromkeys((*self.values, *other.values))
        return {
            key: (_shown(key, self.values), _shown(key, other.values))
            for key in keys
            if not _same(self.values.get(key, NOT_SET), other.values.get(key, NOT_SET))
        }


def snapshot() -> State:
    """The state of this process, and of this thread where torch keeps it per thread."""
    values: dict[str, object] = {}
    with _quiet():
        for path in _CONFIGS:
            values |= {f"{path}.{name}": value for name, value in _config_values(path)}
        values |= {key: _read(key) for key in _SETTINGS}
    # Names with a leading underscore are some library's notes to itself.
    values |= {
        _ENVIRONMENT + name: value for name, value in os.environ.items() if not name.startswith("_")
    }
    return State({key: value for key, value in values.items() if value is not NOT_SET})


def restore(before: State, *, keep: Collection[str] = ()) -> dict[str, tuple[object, object]]:
    """Put everything back as it was, except `keep`; return all that had changed, kept or not."""
    now = snapshot()
    changed = before.diff(now)
    with _quiet():
        # Every setting is looked at again: putting one back may move another.
        for key in dict.fromkeys((*changed, *_SETTINGS)):
            _write(key, before.values.get(key, NOT_SET))
        # What must stay comes last, since it may have other names among what was put back.
        for key in changed:
            if key in keep:
                _write(key, now.values.get(key, NOT_SET))
    return changed


@contextmanager
def _quiet() -> Iterator[None]:
    # Once the old and the new names for precision were mixed, the old ones warn or raise.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _read(key: str) -> object:
    try:
        return _SETTINGS[key].read()
    except AttributeError:
        return NOT_SET
    except RuntimeError:
        return UNREADABLE


def _write(key: str, value: object) -> None:
    if key.startswith(_ENVIRONMENT):
        name = key.removeprefix(_ENVIRONMENT)
        if value is NOT_SET:
            os.environ.pop(name, None)
        else:
            os.environ[name] = str(value)
    elif value is NOT_SET or value is UNREADABLE:
        return
    elif key in _SETTINGS:
        # A write of an equal value would pin what is now only inherited.
        if not _same(_read(key), value):
            _SETTINGS[key].write(value)
    else:
        path = next(config_path for config_path in _CONFIGS if key.startswith(f"{config_path}."))
        config: Any = importlib.import_module(path)
        config.load_config({key.removeprefix(f"{path}."): _own_copy(value)})


def _config_values(path: str) -> Iterator[tuple[str, object]]:
    config: Any = importlib.import_module(path)
    try:
        copies: dict[str, object] = config.get_config_copy()
    except Exception:  # noqa: BLE001 - someone put an object there that cannot be copied
        entries = config_entries(config)
        copies = {
            name: config for name, entry in entries.items() if getattr(entry, "alias", None) is None
        }
    for name, value in copies.items():
        # A copy of an object that someone put there would never be equal to the next copy.
        yield name, value if _is_data(value) else _own_copy(operator.attrgetter(name)(config))


def _is_data(value: object) -> bool:
    if isinstance(value, dict):
        return all(_is_data(item) for item in (*value.keys(), *value.values()))
    if isinstance(value, (list, tuple, set, frozenset)):
        return all(_is_data(item) for item in value)
    return isinstance(value, _SCALARS)


def _own_copy(value: object) -> object:
    """A copy of the containers in `value`, but not of the objects in them."""
    if _is_data(value):
        return copy.deepcopy(value)
    return copy.copy(value) if type(value) in (list, dict, set, tuple) else value


def _shown(key: str, values: dict[str, object]) -> object:
    if key not in values:
        return NOT_SET
    name = key.removeprefix(_ENVIRONMENT)
    if name != key and is_secret(name):
        return HIDDEN
    return values[key]


def is_secret(name: str) -> bool:
    """Whether an environment variable looks like one that holds a secret."""
    return any(word in name.upper() for word in _SECRETS)


def _same(one: object, other: object) -> bool:
    if one is other:
        return True
    try:
        return bool(one == other)
    except Exception:  # noqa: BLE001 - an array, say: an object of another library decides
        return False
