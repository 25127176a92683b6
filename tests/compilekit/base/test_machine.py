"""The facts of a machine: what it computes with, and files that hold them."""

from __future__ import annotations

import json

import pytest

import compilekit as ck
from compilekit.base.machine import Gpu, Rates, keep, this_machine, usable

AVX2 = ["avx", "avx2", "fma", "f16c"]
ZEN4 = [*AVX2, "avx512f", "avx512_vnni", "avx512_bf16"]
SAPPHIRE = [*ZEN4, "avx_vnni", "avx512_fp16", "amx_tile", "amx_bf16", "amx_int8"]


def of(flags=(), **more):
    facts = {"system": "linux", "cpu": "a processor", "cores": 4, "memory": 1 << 34}
    return ck.Machine(**facts | {"cpu_flags": tuple(flags)} | more)


@pytest.mark.parametrize(
    ("flags", "bfloat16", "float16", "int8"),
    [
        (AVX2, False, False, False),
        ([*AVX2, "avx_vnni"], False, False, True),
        (ZEN4, True, False, True),
        (SAPPHIRE, True, True, True),
        (["asimd", "asimdhp", "bf16", "i8mm"], True, True, True),
        ([], None, None, None),
    ],
    ids=["avx2", "vnni", "zen4", "sapphire rapids", "arm", "unknown"],
)
def test_what_a_processor_has_instructions_for(flags, bfloat16, float16, int8):
    machine = of(flags)
    computes = [machine.computes(kind) for kind in ("bfloat16", "float16", "int8")]
    assert computes == [bfloat16, float16, int8]
    assert machine.computes("float32")


@pytest.mark.parametrize(
    ("limit", "has"),
    [
        ("", {"bfloat16", "float16", "int8"}),
        ("ALL", {"bfloat16", "float16", "int8"}),
        ("AVX2", set()),
        ("avx2_vnni", {"int8"}),
        ("AVX512_CORE", set()),
        ("AVX512_CORE_VNNI", {"int8"}),
        ("AVX512_CORE_BF16", {"bfloat16", "int8"}),
        ("AVX512_CORE_FP16", {"bfloat16", "float16", "int8"}),
    ],
)
def test_a_limit_that_torch_obeys_takes_instructions_away(limit, has):
    machine = of(usable(SAPPHIRE, limit))
    assert {kind for kind in ("bfloat16", "float16", "int8") if machine.computes(kind)} == has


def rates(**matmul):
    return {"cpu": Rates(matmul={"float32": 100.0, **matmul})}


@pytest.mark.parametrize(
    ("machine", "said"),
    [
        (of(AVX2), "bfloat16 may be slow here: this processor has no instructions for it"),
        (
            of(AVX2, rates=rates(bfloat16=12.5)),
            "bfloat16 is 8.0 times slower than float32 here: this processor has no instructions "
            "for it",
        ),
        (of(ZEN4, rates=rates(bfloat16=50.0)), "bfloat16 is 2.0 times slower than float32 here"),
        (of(AVX2, rates=rates(bfloat16=99.0)), ""),
        (of(ZEN4), ""),
        (of(), ""),
    ],
    ids=["no instructions", "measured", "slow all the same", "fast all the same", "has", "unknown"],
)
def test_a_sentence_says_what_is_slow_and_why(machine, said):
    assert machine.why_slow("bfloat16").startswith(said)
    assert bool(machine.why_slow("bfloat16")) == bool(said)


def test_rates_that_were_measured_beside_other_work_are_told():
    assert "100% of the cores" in str(of(rates={"cpu": Rates(others=1.0)}))
    assert "of the cores" not in str(of(rates={"cpu": Rates(others=0.02)}))


def test_a_gpu_is_older_than_a_generation():
    assert Gpu(name="T4", generation="7.5").before("8.0")
    assert not Gpu(name="B200", generation="10.0").before("9.0")
    assert not Gpu(name="who knows").before("8.0")


def test_what_was_measured_is_kept_for_this_machine_and_this_software(monkeypatch):
    assert this_machine().rates == {}
    measured = this_machine().model_copy(update={"rates": rates(int8=5.0)})
    path = keep(measured)
    assert this_machine() == measured
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert this_machine().rates == {}
    monkeypatch.undo()
    path.write_text("{", encoding="utf-8")
    assert this_machine().rates == {}


@pytest.mark.parametrize("rows", [False, True])
def test_facts_are_read_from_a_file_of_another_machine(tmp_path, rows):
    there = of(ZEN4, rates=rates(int8=400.0), gpus=(Gpu(name="H100", generation="9.0"),))
    facts = there.model_dump(mode="json")
    listed = [{"what": "torch"}, {"what": "machine", "facts": facts}]
    path = tmp_path / "there.json"
    path.write_text(json.dumps(listed if rows else facts), encoding="utf-8")
    assert ck.Machine.read(path) == there


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "is no JSON file"),
        ("[]", "holds no facts of a machine, as `compilekit doctor --json` writes them"),
        ("{}", "system: Field required"),
        ("3", "holds no facts"),
        ('[{"facts": 3}]', "holds no facts"),
        ('{"\\u001b": 1}', "holds no facts"),
    ],
)
def test_a_file_without_facts_is_refused(tmp_path, text, said):
    path = tmp_path / "there.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ck.UsageError, match=said) as raised:
        ck.Machine.read(path)
    assert str(raised.value).isprintable()
    with pytest.raises(ck.UsageError, match="cannot be read: No such file"):
        ck.Machine.read(tmp_path / "none.json")
