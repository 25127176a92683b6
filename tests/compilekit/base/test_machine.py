"""The facts of a machine: what it computes with, and files that hold them."""

from __future__ import annotations

import json

import pytest

import compilekit as ck
from compilekit.base.machine import Gpu, Rates, keep, this_machine, usable

WITH = '{"system": "linux", "cpu": "a", "cpu_flags": [], "cores": 1, "memory": 1, %s}'
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


def rates(others=0.0, **matmul):
    return {"cpu": Rates(matmul={"float32": 100.0, **matmul}, others=others)}


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
        (of(AVX2, rates=rates(bfloat16=99.0, others=0.4)), "bfloat16 may be slow here"),
        (of(ZEN4), ""),
        (of(), ""),
    ],
    ids=["lacks", "measured", "slow all the same", "fast all the same", "busy", "has", "unknown"],
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


def test_rates_of_a_busy_machine_do_not_replace_those_of_an_idle_one():
    idle = this_machine().model_copy(update={"rates": rates(int8=5.0)})
    others = {"cpu": idle.rates["cpu"].model_copy(update={"others": 0.5})}
    busy = idle.model_copy(update={"rates": others})
    keep(busy)
    assert this_machine() == busy
    keep(idle)
    keep(busy)
    assert this_machine() == idle


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
        ("[" * 100_000, "is no JSON file"),
        ("[" + "9" * 5000 + "]", "is no JSON file"),
        ('"' + "a" * (1 << 20) + '"', "is no JSON file"),
        ('{"compilekit_machine": 2}', "a newer compilekit wrote these facts: update compilekit"),
        (WITH % '"cores": -1', "cores: Input should be greater than or equal to 1"),
        (WITH % '"cores": 0', "cores: Input should be"),
        (WITH % ('"cores": ' + "9" * 400), "cores: Input should be less than"),
        (WITH % '"threads": -1', "threads: Input should be"),
        (WITH % ('"memory": ' + "9" * 40), "memory: Input should be less than"),
        (WITH % '"memory": Infinity', "memory: Input should be a finite number"),
        (WITH % '"cpu_flags": "avx2"', "cpu_flags: Input should be a valid tuple"),
        (WITH % '"gpus": [{"name": "T4", "generation": "new"}]', "gpus.0.generation"),
        (WITH % '"rates": {"cpu": {"matmul": {"float32": NaN}}}', "rates.cpu.matmul.float32"),
        (WITH % '"rates": {"cpu": {"matmul": {"float32": 1e999}}}', "rates.cpu.matmul.float32"),
        (WITH % '"rates": {"cpu": {"matmul": {"float32": 0}}}', "rates.cpu.matmul.float32"),
        (WITH % '"rates": {"cpu": {"matmul": []}}', "rates.cpu.matmul: Input should be"),
        (WITH % '"rates": {"cpu": {"others": -0.5}}', "rates.cpu.others"),
    ],
)
def test_a_file_without_facts_is_refused(tmp_path, text, said):
    path = tmp_path / "there.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ck.UsageError, match=said) as raised:
        ck.Machine.read(path)
    assert str(raised.value).isprintable()


def test_what_is_no_file_is_refused(tmp_path):
    with pytest.raises(ck.UsageError, match="cannot be read: No such file"):
        ck.Machine.read(tmp_path / "none.json")
    with pytest.raises(ck.UsageError, match="cannot be read: Is a directory"):
        ck.Machine.read(tmp_path)
    with pytest.raises(ck.UsageError, match="are in a file, not a value of type int"):
        ck.Machine.read(3)
    with pytest.raises(ck.UsageError, match="is no path"):
        ck.Machine.read("a\0b")


def test_what_a_newer_version_adds_is_left_out(tmp_path):
    path = tmp_path / "there.json"
    rates = {"cpu": {"matmul": {"float32": 9.0, "float8": 5.0}, "disk": 7.0}}
    facts = {**of(ZEN4).model_dump(mode="json"), "rates": rates, "fans": 3}
    path.write_text(json.dumps([{"facts": facts, "more": 1}]), encoding="utf-8")
    assert ck.Machine.read(path) == of(ZEN4, rates={"cpu": Rates(matmul={"float32": 9.0})})


def test_what_a_file_says_moves_no_cursor():
    assert str(of(cpu="a\x1b[31m", gpus=(Gpu(name="b\x1b[2J"),))).splitlines()[:2] == [
        "a\\x1b[31m, 4 cores, 17.2 GB",
        "b\\x1b[2J (), 0 B",
    ]


def test_more_threads_than_cores_are_a_sentence(monkeypatch):
    said = "torch computes with 9 threads on 4 cores, so they wait for each other: set"
    assert str(of(threads=9)).splitlines()[1].startswith(said)
    assert of(threads=4).sentences() == of().sentences() == []
    for asked, threads in {"9": 9, " 3,2": 3, "many": 0, "": 0, "-1": 0, "9" * 99: 0}.items():
        monkeypatch.setenv("OMP_NUM_THREADS", asked)
        assert this_machine().threads == threads


def test_an_unknown_limit_takes_nothing_away(monkeypatch):
    monkeypatch.setattr("compilekit.base.environment.cpu_flags", lambda: " ".join(SAPPHIRE))
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX9000")
    assert this_machine().cpu_flags == tuple(SAPPHIRE)


def test_kept_rates_that_cannot_be_read_count_as_not_measured(monkeypatch):
    path = keep(this_machine().model_copy(update={"rates": rates(int8=5.0)}))
    for text in (b"\xff\xfe", b"3", b'{"compilekit_machine": 9}', b""):
        path.write_bytes(text)
        assert this_machine().rates == {}
    path.unlink()
    path.mkdir()
    assert this_machine().rates == {}


def test_rates_that_cannot_be_kept_say_where(tmp_path, monkeypatch):
    taken = tmp_path / "taken"
    taken.write_text("", encoding="utf-8")
    monkeypatch.setenv("COMPILEKIT_CACHE", str(taken))
    with pytest.raises(ck.UsageError, match="the rates cannot be kept there: Not a directory"):
        keep(this_machine())
    assert this_machine().rates == {}
    monkeypatch.setenv("COMPILEKIT_CACHE", str(tmp_path / "new"))
    keep(this_machine()).unlink()
    (tmp_path / "new" / "machines").rmdir()  # nothing else was left in it
