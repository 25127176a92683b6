"""HPU graphs: operations are recorded during capture, and done again at replay."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from habana_frameworks.torch import standin

_open = []


class HPUGraph:
    """One captured graph. An error between begin and end leaves the capture open."""

    def __init__(self):
        self._steps = []

    def capture_begin(self, dry_run=False):
        if _open:
            raise RuntimeError("a capture is open already in this process")
        standin.flush()
        standin.gathering = False
        self._recorder = _Recorder(self._steps)
        _open.append(self)
        self._recorder.__enter__()

    def capture_end(self):
        if _open != [self]:
            raise RuntimeError("this capture is not open")
        _open.clear()
        standin.gathering = True
        self._recorder.__exit__(None, None, None)
        standin.counts["captures"] += 1
        standin.compile_graph([step.line() for step in self._steps])

    def replay(self, asynchronous=False):
        if _open:
            raise RuntimeError("a capture is open in this process")
        standin.counts["replays"] += 1
        standin.flush()
        if standin.FAULT == "no-replay":
            return
        before, standin.gathering = standin.gathering, False
        with torch.no_grad():
            for step in self._steps:
                step.again()
        standin.gathering = before

    def reset(self):
        self._steps.clear()


class _Step:
    """One operation, with the very tensors that it read and wrote."""

    def __init__(self, func, args, kwargs, made):
        self.func, self.args, self.kwargs = func, args, kwargs
        self.made = [t for t in tree_leaves(made) if isinstance(t, torch.Tensor)]
        read = {_storage(t) for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)}
        self.writes = func._schema.is_mutable
        # A view of what it read is up to date by itself.
        self.is_view = not self.writes and all(_storage(t) in read for t in self.made)

    def again(self):
        if self.is_view:
            return
        fresh = self.func(*self.args, **self.kwargs)
        if not self.writes:
            found = [t for t in tree_leaves(fresh) if isinstance(t, torch.Tensor)]
            for old, new in zip(self.made, found, strict=True):
                old.copy_(new)

    def line(self):
        leaves, _ = tree_flatten((self.args, self.kwargs))
        return f"{self.func} " + " ".join(
            f"{leaf.dtype}{tuple(leaf.shape)}" if isinstance(leaf, torch.Tensor) else str(leaf)
            for leaf in leaves
        )


def _storage(tensor):
    return tensor.untyped_storage()._cdata


class _Recorder(TorchDispatchMode):
    def __init__(self, steps):
        super().__init__()
        self._steps = steps

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        refused = {
            torch.Tag.data_dependent_output: "reads a value",
            torch.Tag.dynamic_output_shape: "gives a size that depends on data",
            torch.Tag.nondeterministic_seeded: "draws random numbers",
        }
        for tag, why in refused.items():
            if tag in func.tags and not _harmless(func, args):
                raise RuntimeError(f"{func} {why}, which cannot be captured")
        made = func(*args, **(kwargs or {}))
        self._steps.append(_Step(func, args, kwargs or {}, made))
        return made


def _harmless(func, args):
    """Tags say what an operation may do: attention without dropout and plain indices do not."""
    if func is torch.ops.aten.index.Tensor:
        return all(index is None or index.dtype != torch.bool for index in args[1])
    return "scaled_dot_product" in str(func)


class CachedParams:
    def __init__(self, graph_inputs, graph_outputs, graph):
        self.graph_inputs = graph_inputs
        self.graph_outputs = graph_outputs
        self.graph = graph


def input_hash(obj):
    """Equal for inputs of the same shapes; it does not look at dtypes."""
    leaves, spec = tree_flatten(obj)
    return hash((str(spec), *map(_kind, leaves)))


def _kind(leaf):
    if not isinstance(leaf, torch.Tensor):
        return str(leaf)
    return "tensor" if standin.FAULT == "no-shape" else tuple(leaf.shape)


def copy_to(destination, source):
    """Copy tensors over others, wherever they are nested."""
    if standin.FAULT == "no-copy":
        return
    for old, new in zip(tree_leaves(destination), tree_leaves(source), strict=True):
        if isinstance(old, torch.Tensor):
            old.copy_(new)


def wrap_in_hpu_graph(module, asynchronous=False, disable_tensor_cache=False, **_ignored):
    """Let a module's forward be captured for each kind of input, and replayed."""
    cache, plain = {}, module.forward

    def forward(*args, **kwargs):
        key = input_hash((args, kwargs))
        if key not in cache:
            leaves, spec = tree_flatten((args, kwargs))
            held = [t.clone() if isinstance(t, torch.Tensor) else t for t in leaves]
            own_args, own_kwargs = tree_unflatten(held, spec)
            graph = HPUGraph()
            graph.capture_begin()
            made = plain(*own_args, **own_kwargs)
            graph.capture_end()
            cache[key] = CachedParams((own_args, own_kwargs), made, graph)
        else:
            copy_to(cache[key].graph_inputs, (args, kwargs))
            cache[key].graph.replay()
        return cache[key].graph_outputs

    module.forward = forward
    module.clear_cache = cache.clear
    return module
