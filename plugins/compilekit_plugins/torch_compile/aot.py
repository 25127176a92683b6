"""AOTInductor: exporting, compiling and loading, with what the installed torch has for it."""

from __future__ import annotations

import contextlib
import inspect
import shutil
import traceback
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

import compilekit as ck
from compilekit_plugins import torch_internals
from compilekit_plugins.torch_compile.symbols import check_symbols

CODE = "code.so"
BLOB = "weights.blob"
WORK = "work"
FROM_BLOB = "update_constant_buffer_from_blob"
METHODS = ("get_constant_names_to_original_fqns", "run", "update_constant_buffer")
KERNELS = (".cubin", ".hsaco", ".spv")

OPTIONS: dict[str, Any] = {
    "aot_inductor.package": True,
    "aot_inductor.package_constants_in_so": False,
    # Tables of source lines triple the size of the code, and hold paths of the build machine.
    "aot_inductor.enable_line_tables": False,
    # The code would have the number of threads of the machine that builds it.
    "cpp.dynamic_threads": True,
}
REQUIRED = ("aot_inductor.package", "aot_inductor.package_constants_in_so")
PACKED: dict[str, Any] = {
    "freezing": True,
    "aot_inductor.package_constants_on_disk_format": "binary_blob",
}


def program_of(
    flat: torch.nn.Module,
    inputs: tuple[torch.Tensor, ...],
    symbols: Sequence[Mapping[int, ck.Range]],
) -> torch.export.ExportedProgram:
    """The exported program; one that fixes or ties what was to be symbolic raises."""
    auto = torch.export.Dim.AUTO
    dims = tuple(dict.fromkeys(sizes, auto) or None for sizes in symbols)
    program = torch.export.export(
        flat, inputs, dynamic_shapes=(dims,) if any(dims) else None, strict=False
    )
    check_symbols(program, symbols)
    return program


def weights_read(program: torch.export.ExportedProgram) -> frozenset[str]:
    """The names of the owner's weights that the program really reads."""
    signature = program.graph_signature
    names = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    read = (n for n in program.graph.nodes if n.op == "placeholder" and n.users)
    return frozenset(names[n.name].removeprefix("owner.") for n in read if n.name in names)


def compile_program(
    program: torch.export.ExportedProgram,
    inputs: tuple[torch.Tensor, ...],
    options: Mapping[str, Any],
    destination: Path,
    *,
    packed: bool,
) -> dict[str, torch.Tensor]:
    """Compile into a folder; gives the constants that the code reads, by its names for them."""
    if packed and not hasattr(_runner_class("cpu"), FROM_BLOB):
        raise ck.MachineError(
            f"`weights: packed` needs a newer torch than {torch.__version__}: say `weights: shared`"
        )
    work = destination / WORK
    settings = {**OPTIONS, **(PACKED if packed else {}), **options}
    inductor = torch_internals.inductor()
    known = inductor.config.get_config_copy()
    # Older torch lacks settings that only make code smaller; the others must be there.
    lacks = [name for name in (*REQUIRED, *(PACKED if packed else ())) if name not in known]
    if lacks:
        raise ck.MachineError(
            f"torch {torch.__version__} cannot compile {'packed' if packed else 'shared'} weights "
            f"ahead of time ({', '.join(lacks)} is not there): install a newer one"
        )
    settings = {name: value for name, value in settings.items() if name in known}
    graph = _module(program)
    # Without no_grad, freezing is ignored without a word.
    # torch leaves a note of the machine in its settings.
    leaves = inductor.config.patch({"aot_inductor.metadata": {}})
    with torch.no_grad(), leaves, warnings.catch_warnings():
        # Of torch's own code, on its own code.
        warnings.simplefilter("ignore", FutureWarning)
        warnings.filterwarnings("ignore", "TypedStorage is deprecated", UserWarning)
        files: Any = inductor.aot_compile(
            graph, inputs, {}, options={**settings, "aot_inductor.output_path": str(work)}
        )
    _move([Path(file) for file in files if isinstance(file, str)], destination)
    shutil.rmtree(work, ignore_errors=True)
    return {} if packed else _constants(graph, program, destination, inputs)


def _module(program: torch.export.ExportedProgram) -> torch.fx.GraphModule:
    # Newer torch puts a check of every guard in front, which cannot be compiled.
    takes = inspect.signature(program.module).parameters
    module: Any = program.module(**({"check_guards": False} if "check_guards" in takes else {}))
    return module  # type: ignore[no-any-return]


def _move(files: Sequence[Path], destination: Path) -> None:
    for file in files:
        if file.suffix == ".so":
            file.rename(destination / CODE)
        elif file.name.endswith("_weights.blob"):
            file.rename(destination / BLOB)
        elif file.suffix in KERNELS:
            file.rename(destination / file.name)
        elif file.suffix == ".json" and not file.name.endswith("_metadata.json"):
            # Operators that the code calls by name; it looks for them beside itself.
            file.rename(destination / Path(CODE).with_suffix(".json"))


def _constants(
    graph: torch.fx.GraphModule,
    program: torch.export.ExportedProgram,
    destination: Path,
    inputs: Sequence[torch.Tensor],
) -> dict[str, torch.Tensor]:
    """The constants by the code's names: those of the module, and tensors made while tracing."""
    runner = open_runner(destination, _device(inputs))
    constants: dict[str, torch.Tensor] = {}
    for name, path in runner.get_constant_names_to_original_fqns().items():
        value: Any = graph
        for part in path.split("."):
            value = getattr(value, part, None)
        if not isinstance(value, torch.Tensor):
            value = program.constants.get(path)
        if not isinstance(value, torch.Tensor):
            raise ck.StepError(f"the compiled code reads {path}, which the model does not have")
        constants[name] = value.detach()
    return constants


def _device(tensors: Sequence[torch.Tensor]) -> torch.device:
    return next((t.device for t in tensors if t.device.type != "cpu"), torch.device("cpu"))


def _runner_class(kind: str) -> Any:
    runner = torch_internals.runner_class(kind, *METHODS)
    if runner is None:
        raise ck.MachineError(
            f"torch {torch.__version__} cannot run code of AOTInductor on {kind} here"
        )
    return runner


def open_runner(folder: Path, device: torch.device) -> Any:
    """Load the code as it lies, which neither compiles nor unpacks anything."""
    kind = _runner_class(device.type)
    code = str(folder / CODE)
    try:
        if device.type in ("cpu", "mps"):
            return kind(code, 1)
        # The kernels lie beside the code.
        return kind(code, 1, str(device), str(folder))
    except RuntimeError as error:
        raise ck.MachineError(f"{code}: cannot be loaded: {error}") from error


class Runner:
    """Calls loaded code. Keeps the tensors alive that the code reads by their addresses."""

    def __init__(
        self,
        folder: Path,
        device: torch.device,
        constants: Mapping[str, torch.Tensor],
        *,
        packed: bool,
    ) -> None:
        self._runner = open_runner(folder, device)
        self._constants = dict(constants)
        if packed:
            self._runner.update_constant_buffer_from_blob(str(folder / BLOB))
        elif constants:
            self._runner.update_constant_buffer(self._constants, False, True, True)

    def __call__(self, inputs: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
        outputs: list[torch.Tensor] = self._runner.run(list(inputs))
        return outputs


@contextlib.contextmanager
def export_errors(entry: str, key: str) -> Iterator[None]:
    """Turn what export and its compiler raise into errors with the source line at fault."""
    try:
        yield
    except ck.CompilekitError:
        raise
    except Exception as error:
        first = str(error).strip().splitlines() or [""]
        line = _source_line(error)
        at = f" at {line}" if line else ""
        raise ck.StepError(
            f"{key}: {entry} cannot be compiled ahead of time: {type(error).__name__}{at}: "
            f"{first[0]}\nTry `regions: model` or `regions: auto`, which leave such a line out, "
            "or another entry point; `apply` compiles around it"
        ) from error


def _source_line(error: BaseException) -> str:
    """The innermost line that is neither torch's nor ours."""
    home = str(Path(torch.__file__).parent)
    line = ""
    for frame, number in traceback.walk_tb(error.__traceback__):
        code = frame.f_code
        ours = frame.f_globals.get("__name__", "").startswith("compilekit")
        if not code.co_filename.startswith((home, "<")) and not ours:
            line = f"{code.co_filename}:{number} in {code.co_name}"
    return line
