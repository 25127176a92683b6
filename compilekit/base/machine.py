"""What a machine can do: instruction sets, cores, memory, GPUs, measured rates. Light: no torch."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import re
import sys
from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from compilekit.base import environment
from compilekit.base.arguments import path_of
from compilekit.base.bytesize import size
from compilekit.base.cache_folder import FOLDER, folder
from compilekit.base.columns import aligned
from compilekit.base.control_groups import cores, total_bytes
from compilekit.base.texts import printable
from compilekit.errors import UsageError

Number = Literal["float32", "bfloat16", "float16", "int8"]
NUMBERS: tuple[Number, ...] = get_args(Number)
"""The kinds of numbers that models compute with."""

Operation = Literal["matmul", "convolution"]
OPERATIONS: tuple[Operation, ...] = get_args(Operation)

INSTRUCTIONS: dict[Number, re.Pattern[str]] = {
    "bfloat16": re.compile(r"avx512_bf16|amx_bf16|avx10|bf16|svebf16"),
    "float16": re.compile(r"avx512_fp16|amx_fp16|avx10|asimdhp|fphp"),
    "int8": re.compile(r"avx512_?vnni|avx_vnni|avx_vnni_int8|amx_int8|avx10|i8mm|svei8mm|asimddp"),
}
"""The processor's extensions that compute with these numbers; every processor has float32."""

LIMIT = "ONEDNN_MAX_CPU_ISA"
"""The variable by which users keep torch's matrix products and convolutions from extensions."""

_LEVELS = {
    "SSE41": r"avx.*|amx.*|fma|f16c",
    "AVX": r"avx[^ ].*|amx.*|fma",
    "AVX2": r"avx512.*|avx10.*|avx_.*|amx.*",
    "AVX2_VNNI": r"avx512.*|avx10.*|avx_ne_convert|avx_vnni_int8|amx.*",
    "AVX2_VNNI_2": r"avx512.*|avx10.*|amx.*",
    "AVX512_CORE": r"avx512_(vnni|bf16|fp16)|avx10.*|avx_.*|amx.*",
    "AVX512_CORE_VNNI": r"avx512_(bf16|fp16)|avx10.*|amx.*",
    "AVX512_CORE_BF16": r"avx512_fp16|avx10.*|amx.*",
    "AVX512_CORE_FP16": r"amx.*",
    "AVX10_1_512": r"amx.*",
    "AVX512_CORE_AMX": r"amx_fp16",
    "AVX10_1_512_AMX": r"amx_fp16",
}
"""For each value of the variable, the extensions that it forbids."""

VARIABLES = (
    LIMIT,
    "ATEN_CPU_CAPABILITY",
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "CUDA_VISIBLE_DEVICES",
)
"""Variables that change how fast torch computes, and on which GPUs."""

VERSION = "compilekit_machine"

MACHINE, FACTS = "machine", "facts"
"""How the row of `compilekit doctor --json` is called that holds a machine, and its key."""

LARGEST = 1 << 20
"""No file with facts has more bytes."""

MOST = 1 << 20
"""No machine has more cores or threads."""

BUSY = 0.1
"""Rates that were measured while other programs took this share of the cores say nothing."""

MEASURED = ("gpus", "rates", "threads")
"""What is not known before torch is loaded."""

NOTABLE = 1.25
"""A kind of number that is slower by this factor is worth a sentence."""


Rate = Annotated[float, Field(ge=1, le=1e30)]
Bytes = Annotated[int, Field(ge=0, lt=1 << 63)]


class Data(BaseModel):
    """Base class of a machine's facts. A newer compilekit may know more: that is left out."""

    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)


class Gpu(Data):
    """One GPU: its name, its generation ("9.0", for example), and its memory in bytes."""

    name: str
    generation: Annotated[str, Field(pattern=r"^([0-9]+\.[0-9]+)?$")] = ""
    memory: Bytes = 0

    def before(self, generation: str) -> bool:
        """Whether it is of an older generation than this one; false if that is not known."""
        return bool(self.generation) and _numbers(self.generation) < _numbers(generation)


class Rates(Data):
    """How fast a device is, as measured once.

    matmul, convolution: operations per second, by the kind of number; a kind that the device
        cannot compute with is missing.
    memory: bytes per second that are read and written.
    others: the share of the cores that other programs took meanwhile; if it is large, the rates are
        too low.
    """

    matmul: dict[Number, Rate] = Field(default_factory=dict)
    convolution: dict[Number, Rate] = Field(default_factory=dict)
    memory: Annotated[float, Field(ge=0, le=1e30)] = 0.0
    others: Annotated[float, Field(ge=0, le=1)] = 0.0

    @field_validator("matmul", "convolution", mode="before")
    @classmethod
    def _known(cls, rates: object) -> object:
        return {k: rates[k] for k in NUMBERS if k in rates} if isinstance(rates, dict) else rates


class Machine(Data):
    """What a machine can do. `print` shows it; `compilekit doctor --json` writes it.

    cpu_flags: the extensions of the processor that torch may use here.
    cores: those that this process may use.
    memory: the bytes that this process may use.
    threads: those with which torch computes on the processor; 0 if that is not known.
    rates: measured rates by device, "cpu" and "cuda"; empty until `compilekit doctor` measures.

    >>> import compilekit as ck
    >>> old = ck.Machine(system="linux", cpu="an old one", cpu_flags=("avx2",), cores=2, memory=8)
    >>> old.computes("bfloat16"), old.computes("float32")
    (False, True)
    """

    compilekit_machine: Literal[1] = 1
    system: str
    architecture: str = "x86_64"
    cpu: str
    cpu_flags: tuple[str, ...]
    cores: Annotated[int, Field(ge=1, lt=MOST)]
    memory: Bytes
    threads: Annotated[int, Field(ge=0, lt=MOST)] = 0
    gpus: tuple[Gpu, ...] = ()
    rates: dict[str, Rates] = Field(default_factory=dict)

    def computes(self, number: Number) -> bool | None:
        """Whether the processor has instructions for these numbers; None if that is not known."""
        if number == "float32":
            return True
        if not self.cpu_flags:
            return None
        return any(INSTRUCTIONS[number].fullmatch(flag) for flag in self.cpu_flags)

    def slowdown(self, number: Number, operation: Operation = "matmul") -> float | None:
        """How many times slower than float32 the processor is with these numbers, as measured.

        None if that was not measured, or while other programs ran.
        """
        found = self.rates.get("cpu")
        rates: dict[Number, float] = getattr(found, operation, {})
        if found is None or found.others >= BUSY or not {number, "float32"} <= rates.keys():
            return None
        return rates["float32"] / rates[number]

    @property
    def is_busy(self) -> bool:
        """Whether other programs ran while the rates were measured, so that they say nothing."""
        return self._others >= BUSY

    @property
    def _others(self) -> float:
        return max((rates.others for rates in self.rates.values()), default=0.0)

    def sentences(self) -> list[str]:
        """What is slow here and why, in words."""
        texts = (*map(self.why_slow, NUMBERS[1:]), self.too_many_threads())
        slow = [text for text in texts if text]
        if self.is_busy:
            slow.append(
                f"other programs took {self._others:.0%} of the cores, so the rates are too low: "
                "run `compilekit doctor` again when the machine is idle"
            )
        return slow

    def why_slow(self, number: Number) -> str:
        """Why these numbers are slow on the processor, as a sentence; empty if they are not."""
        times = self.slowdown(number)
        if self.computes(number) is False:
            why = "this processor has no instructions for it"
            if times is None:
                return f"{number} may be slow here: {why}"
        else:
            why = "measured"
        if times is None or times < NOTABLE:
            return ""
        return f"{number} is {times:.1f} times slower than float32 here: {why}"

    def too_many_threads(self) -> str:
        """That torch computes with more threads than there are cores, as a sentence; else empty."""
        if self.threads <= self.cores:
            return ""
        return (
            f"torch computes with {self.threads} threads on {_cores(self.cores)}, so they wait for "
            f"each other: set OMP_NUM_THREADS={self.cores}"
        )

    def __str__(self) -> str:
        title = f"{self.cpu}, {_cores(self.cores)}, {size(self.memory)}"
        lines = [
            title,
            *(f"{gpu.name} ({gpu.generation}), {size(gpu.memory)}" for gpu in self.gpus),
        ]
        for device, rates in self.rates.items():
            rows = [("1e9 a second", *NUMBERS)]
            for operation in OPERATIONS:
                found = getattr(rates, operation)
                rows.append((operation, *(_billions(found.get(number)) for number in NUMBERS)))
            lines += [f"{device}: memory {size(int(rates.memory))} a second"]
            lines += aligned(rows, indent=2)
        return "\n".join(map(printable, [*lines, *self.sentences()]))

    @classmethod
    def read(cls, path: str | Path) -> Machine:
        """Read what `compilekit doctor --json` wrote on a machine."""
        file = path_of(path, "facts of a machine are in a file")
        try:
            with file.open("rb") as opened:
                rows = json.loads(opened.read(LARGEST))
        except OSError as error:
            raise UsageError(f"{path}: cannot be read: {error.strerror}") from error
        except (ValueError, RecursionError) as error:
            raise UsageError(f"{path}: is no JSON file: {printable(str(error))}") from error
        listed = [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
        facts = next((row[FACTS] for row in listed if FACTS in row), rows)
        version = facts.get(VERSION, 1) if isinstance(facts, dict) else 1
        if isinstance(version, int) and version > 1:
            raise UsageError(
                f"{path}: a newer compilekit wrote these facts: update compilekit here, or write "
                "them with this version"
            )
        try:
            return cls.model_validate(facts)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(map(str, first["loc"]))
            why = printable(f"{where}: {first['msg']}" if where else first["msg"])
            raise UsageError(
                f"{path}: holds no facts of a machine, as `compilekit doctor --json` writes them "
                f"({why})"
            ) from error


def _cores(count: int) -> str:
    return f"{count} core{'s' * (count != 1)}"


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


def _billions(rate: float | None) -> str:
    return "-" if rate is None else f"{rate / 1e9:.3g}"


def this_machine() -> Machine:
    """What this machine can do, and its rates and GPUs if they were measured before."""
    facts = Machine(
        system=sys.platform,
        architecture=platform.machine(),
        cpu=environment.cpu_name(),
        cpu_flags=tuple(usable(environment.cpu_flags().split(), os.environ.get(LIMIT, ""))),
        cores=cores(),
        memory=total_bytes(),
        threads=_asked_threads(),
    )
    with contextlib.suppress(OSError, ValidationError):
        kept = Machine.model_validate_json(_kept(facts).read_bytes())
        return facts.model_copy(update={name: getattr(kept, name) for name in MEASURED})
    return facts


def _asked_threads() -> int:
    """The threads that the environment asks for; 0 if torch decides."""
    first = re.match(r"\s*([0-9]{1,5})\s*(,|$)", os.environ.get("OMP_NUM_THREADS", ""))
    return int(first[1]) if first else 0


def keep(machine: Machine) -> Path:
    """Keep what was measured on this machine."""
    path, before = _kept(machine), this_machine()
    if machine.is_busy and before.rates and not before.is_busy:
        return path  # those that were measured on the idle machine stay
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(machine.model_dump_json(indent=2), encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise UsageError(
            f"{path.parent}: the rates cannot be kept there: {error.strerror}; name another folder "
            f"in {FOLDER}"
        ) from error
    return path


def _kept(machine: Machine) -> Path:
    """The file for a machine with these facts, and for what the rates depend on besides."""
    known = machine.model_dump(mode="json", exclude=set(MEASURED))
    software = [environment.installed_version("torch"), [os.environ.get(n, "") for n in VARIABLES]]
    text = json.dumps([known, software], sort_keys=True)
    return folder() / "machines" / f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.json"


def usable(flags: list[str], limit: str) -> list[str]:
    """The extensions that are left where the variable has this value."""
    forbidden = _LEVELS.get(limit.upper())
    return flags if forbidden is None else [f for f in flags if not re.fullmatch(forbidden, f)]
