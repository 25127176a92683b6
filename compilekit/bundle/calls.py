"""Calls, flattened to leaves and put together again; results, to tensors and back."""

from __future__ import annotations

import importlib
import inspect
import operator
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, get_args

import torch

from compilekit.base import nested
from compilekit.bundle.manifest import Output, Parameter
from compilekit.bundle.signature import (
    RETURN_DICT,
    Constant,
    DType,
    Seen,
    Signature,
    TensorArgument,
)
from compilekit.errors import BundleError, StepError, SymbolicShapeError

SCALARS = (bool, int, float, str, type(None))
CONTAINERS: dict[type, str] = {
    dict: "dict",
    OrderedDict: "dict",
    list: "list",
    tuple: "tuple",
    torch.Size: "tuple",
}
"""What is looked into, and what it counts as."""
TRUSTED = ("diffusers", "transformers")
"""Packages whose classes a bundle may name: what it names is imported."""


def leaves(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The leaves of a call by path, as `with_leaves` has them."""
    return nested.leaves(arguments, _is_opened)


def with_leaves(value: Any, replace: Callable[[str, Any], Any]) -> Any:
    """A copy of a call's arguments in which each leaf is what `replace` gives for it.

    Empty containers are leaves, and so are those of other classes: they may hold more.
    """
    return nested.mapped(value, replace, _is_opened)


def _is_opened(value: Any) -> bool:
    return type(value) in CONTAINERS and bool(value)


def is_plain(leaf: Any) -> bool:
    """Whether it is a tensor that compiled code can read by its address."""
    return type(leaf) in (torch.Tensor, torch.nn.Parameter) and leaf.layout is torch.strided


def key_of(call_leaves: Mapping[str, Any]) -> tuple[Any, ...]:
    """What decides which part serves a call, quick to make and to compare."""
    key: list[Any] = []
    for path, leaf in call_leaves.items():
        if is_plain(leaf):
            key.append((path, leaf.shape, leaf.dtype, leaf.device))
        elif isinstance(leaf, SCALARS):
            key.append((path, type(leaf), leaf))
        else:
            key.append((path, type(leaf)))
    return tuple(key)


def named(call_leaves: Mapping[str, Any]) -> dict[str, Seen | Constant | None]:
    """All leaves as signatures compare them; None for what they cannot."""
    return {path: _described(path, leaf) for path, leaf in call_leaves.items()}


def _described(path: str, leaf: Any) -> Seen | Constant | None:
    if is_plain(leaf):
        return Seen(name_of(leaf.dtype), tuple(leaf.shape), leaf.device.type)
    if isinstance(leaf, SCALARS):
        return Constant(path=path, value=leaf)
    if type(leaf) in CONTAINERS:
        return Constant(path=path, empty=CONTAINERS[type(leaf)])  # type: ignore[arg-type]
    return None


def signature_of(call_leaves: Mapping[str, Any]) -> Signature:
    """The signature of one call, as it is."""
    tensors, constants, ignored = [], [], []
    for path, leaf in named(call_leaves).items():
        if isinstance(leaf, Seen):
            if leaf.dtype not in get_args(DType):
                raise StepError(
                    f"the argument {path} is {leaf.dtype}, which a bundle cannot hold: compile "
                    "another module"
                )
            order = order_of(call_leaves[path])
            tensors.append(TensorArgument(path=path, order=order, **vars(leaf)))
        elif isinstance(leaf, Constant):
            constants.append(leaf)
        else:
            ignored.append(path)
    return Signature(tensors=tuple(tensors), constants=tuple(constants), ignored=tuple(ignored))


def name_of(dtype: torch.dtype) -> str:
    """`float32`, for torch.float32."""
    return str(dtype).removeprefix("torch.")


def order_of(tensor: torch.Tensor) -> tuple[int, ...]:
    """The dimensions from the outermost to the innermost; expanded ones keep their place."""
    strides, written = tensor.stride(), tuple(range(tensor.dim()))
    # A contiguous tensor's dimensions of size 1 may have any stride, and stay where they are.
    if 0 in strides or tensor.is_contiguous():
        return written
    return tuple(sorted(written, key=lambda dimension: -strides[dimension]))


def dense(shape: Sequence[int], order: Sequence[int]) -> tuple[int, ...]:
    """The strides of a tensor without gaps whose dimensions lie in this order."""
    strides = [0] * len(shape)
    step = 1
    for dimension in reversed(order):
        strides[dimension] = step
        step *= max(1, shape[dimension])
    return tuple(strides)


def laid_out(tensor: torch.Tensor, order: Sequence[int]) -> torch.Tensor:
    """The tensor itself, or a copy whose dimensions lie in this order without gaps."""
    if tensor.is_contiguous() and list(order) == sorted(order):
        return tensor
    strides = dense(tensor.shape, order)
    if all(
        actual == stride or size == 1
        for actual, stride, size in zip(tensor.stride(), strides, tensor.shape, strict=True)
    ):
        # What strides say of dimensions of size 1 differs, and compiled code may look at it.
        return tensor if tensor.stride() == strides else tensor.as_strided(tensor.shape, strides)
    copy = torch.empty_strided(tensor.shape, strides, dtype=tensor.dtype, device=tensor.device)
    return copy.copy_(tensor)


def parameters_of(function: Callable[..., Any]) -> tuple[tuple[Parameter, ...], bool]:
    """The parameters of an entry point, and whether it takes others too."""
    rows: dict[str, Parameter] = {}
    takes_any = False
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            takes_any = takes_any or parameter.kind is parameter.VAR_KEYWORD
            continue
        required = parameter.default is parameter.empty
        # A default that is no plain value is left to the function: the argument stays out.
        plain = isinstance(parameter.default, SCALARS)
        default = parameter.default if plain else None
        rows[name] = Parameter(name=name, required=required, default=default, plain=plain)
    if not takes_any and RETURN_DICT not in rows and _taken_off(function):
        rows[RETURN_DICT] = Parameter(name=RETURN_DICT, required=False, plain=True)
    return tuple(rows.values()), takes_any


def _taken_off(function: Any) -> bool:
    """Whether a decorator takes `return_dict` off, as those of transformers 4 do."""
    function = getattr(function, "__func__", function)
    while hasattr(function, "__wrapped__"):
        if RETURN_DICT in getattr(getattr(function, "__code__", None), "co_varnames", ()):
            return True
        function = function.__wrapped__
    return False


class Binder:
    """Gives the arguments of a call their names, and fills in what is left out."""

    def __init__(self, name: str, parameters: Sequence[Parameter], *, takes_any: bool) -> None:
        self._name = name
        self._names = [parameter.name for parameter in parameters]
        self._known = frozenset(self._names)
        self._defaults = {p.name: p.default for p in parameters if p.plain}
        self._required = [p.name for p in parameters if p.required]
        self._takes_any = takes_any

    def bind(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments by name; raises TypeError as Python does."""
        if len(args) > len(self._names):
            raise TypeError(
                f"{self._name} takes {len(self._names)} arguments, not {len(args)}: "
                "a bundle keeps none beyond the named ones"
            )
        arguments = dict(zip(self._names, args, strict=False))
        for key, value in kwargs.items():
            if key in arguments:
                raise TypeError(f"{self._name} got two values for {key}")
            if key not in self._known and not self._takes_any:
                raise TypeError(f"{self._name} takes no argument {key}")
            arguments[key] = value
        for key in self._required:
            if key not in arguments:
                raise TypeError(f"{self._name} needs the argument {key}")
        # In one order, whatever the caller's: the key of a call depends on it.
        filled = {**self._defaults, **arguments}
        known = {key: filled[key] for key in self._names if key in filled}
        return known | {key: arguments[key] for key in sorted(arguments.keys() - self._known)}


def tensors_in(output: Any) -> list[torch.Tensor]:
    """The tensors of a result, in the order that `template` counts them."""
    tensors: list[torch.Tensor] = []
    template(output, tensors)
    return tensors


def template(output: Any, tensors: list[torch.Tensor]) -> Output:
    """How to put a result together again; its tensors are added to `tensors`."""
    if isinstance(output, torch.Tensor):
        tensors.append(output)
        return Output(kind="tensor", index=len(tensors) - 1)
    if isinstance(output, SCALARS):
        return Output(kind="value", value=output)
    if isinstance(output, torch.SymInt | torch.SymFloat | torch.SymBool):
        raise SymbolicShapeError("its result holds a size")
    if type(output) in (tuple, list):
        items = tuple(template(item, tensors) for item in output)
        return Output(kind="tuple" if type(output) is tuple else "list", items=items)
    if type(output) is dict:
        items = tuple(template(item, tensors) for item in output.values())
        return Output(kind="dict", keys=tuple(map(str, output)), items=items)
    # A ModelOutput is a mapping too, in which what is None is left out.
    children = dict(output.items()) if nested.is_model_output(output) else _parts(output)
    items = tuple(template(item, tensors) for item in children.values())
    name = f"{type(output).__module__}:{type(output).__qualname__}"
    return Output(kind="object", keys=tuple(children), items=items, class_name=name)


def _parts(output: Any) -> dict[str, Any]:
    """What an object was made from: the arguments of its class that it keeps under their names."""
    names = [
        name
        for name, parameter in inspect.signature(type(output)).parameters.items()
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    ]
    if not names or not all(hasattr(output, name) for name in names):
        raise StepError(
            f"a result of class {type(output).__name__} cannot be put together again from tensors"
        )
    return {name: getattr(output, name) for name in names}


class Rebuilder:
    """Puts results together from tensors. Classes come from trusted packages alone."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._classes: dict[str, Any] = {}
        self._look_up(output)

    def _look_up(self, output: Output) -> None:
        if output.class_name and output.class_name not in self._classes:
            self._classes[output.class_name] = _class(output.class_name)
        for item in output.items:
            self._look_up(item)

    def __call__(self, tensors: Sequence[torch.Tensor]) -> Any:
        """The result."""
        return self._built(self._output, tensors)

    def _built(self, output: Output, tensors: Sequence[torch.Tensor]) -> Any:
        if output.kind == "tensor":
            return tensors[output.index]
        if output.kind == "value":
            return output.value
        items = [self._built(item, tensors) for item in output.items]
        if output.kind == "tuple":
            return tuple(items)
        if output.kind == "list":
            return items
        fields = dict(zip(output.keys, items, strict=True))
        return fields if output.kind == "dict" else self._classes[output.class_name](**fields)


def _class(name: str) -> Any:
    module, _, qualified = name.partition(":")
    if module.split(".")[0] not in TRUSTED:
        raise BundleError(
            f"a result is of class {name}, and only classes of {' and '.join(TRUSTED)}, tuples, "
            "lists and dicts can be put together again"
        )
    try:
        kind: Any = operator.attrgetter(qualified)(importlib.import_module(module))
    except (ImportError, AttributeError) as error:
        raise BundleError(f"a result is of class {name}, which is not here: {error}") from error
    if not isinstance(kind, type):
        raise BundleError(f"a result is of class {name}, which is no class here")
    return kind
