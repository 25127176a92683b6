"""Which calls a part serves, and what is said of those that it does not."""

from __future__ import annotations

import pytest

from compilekit.base.words import Range
from compilekit.bundle.signature import Constant, Seen, Signature, TensorArgument

PLAIN = Signature(
    tensors=(
        TensorArgument(
            path="sample", dtype="bfloat16", shape=(2, 4, 8, 8), order=(0, 1, 2, 3), device="cpu"
        ),
        TensorArgument(path="timestep", dtype="float32", shape=(), order=(), device="cpu"),
    ),
    constants=(
        Constant(path="class_labels", value=None),
        Constant(path="kwargs", empty="dict"),
        Constant(path="return_dict", value=False),
    ),
    ignored=("generator",),
)

FITS = {
    "sample": Seen("bfloat16", (2, 4, 8, 8), "cpu"),
    "timestep": Seen("float32", (), "cpu"),
    "class_labels": Constant(path="class_labels", value=None),
    "kwargs": Constant(path="kwargs", empty="dict"),
    "return_dict": Constant(path="return_dict", value=False),
    "generator": None,
}


def test_a_call_like_the_compiled_one_fits():
    assert PLAIN.misfit(FITS) == ""


@pytest.mark.parametrize(
    "leaf",
    [
        Seen("int64", (), "cpu"),
        Seen("float64", (), "cpu"),
        Seen("float16", (), "cpu"),
        Seen("uint8", (), "cpu"),
        Constant(path="timestep", value=7),
        Constant(path="timestep", value=7.5),
    ],
    ids=["int64", "float64", "float16", "uint8", "a number", "a fraction"],
)
def test_a_small_float32_may_be_any_number(leaf):
    assert PLAIN.misfit({**FITS, "timestep": leaf}) == ""


@pytest.mark.parametrize(
    ("path", "leaf", "reason"),
    [
        ("sample", Seen("bfloat16", (1, 4, 8, 8), "cpu"), "sample is bfloat16[1, 4, 8, 8]"),
        ("sample", Seen("bfloat16", (2, 4, 8), "cpu"), "sample is bfloat16[2, 4, 8]"),
        ("sample", Seen("float32", (2, 4, 8, 8), "cpu"), "sample is float32[2, 4, 8, 8]"),
        ("sample", Seen("bfloat16", (2, 4, 8, 8), "cuda"), "sample is on cuda, not on cpu"),
        ("sample", Constant(path="sample", value=3), "sample=3 is no tensor"),
        ("sample", None, "sample is no plain tensor"),
        ("timestep", Seen("complex64", (), "cpu"), "timestep is complex64[]"),
        ("timestep", Seen("float32", (), "cuda"), "timestep is on cuda, not on cpu"),
        ("timestep", Constant(path="timestep", value=True), "timestep=True is no tensor"),
        ("class_labels", Constant(path="class_labels", value=0), "class_labels=0"),
        ("class_labels", Seen("int64", (2,), "cpu"), "class_labels is int64[2]"),
        ("class_labels", None, "class_labels is no plain value"),
        ("kwargs", Constant(path="kwargs", empty="list"), "kwargs=[]"),
        ("mask", Constant(path="mask", value=None), "mask was not given when it was compiled"),
    ],
)
def test_what_does_not_fit_is_named(path, leaf, reason):
    assert PLAIN.misfit({**FITS, path: leaf}) == reason


@pytest.mark.parametrize(
    ("compiled", "given", "fits"),
    [
        ("int64", "int32", True),
        ("int64", "float32", False),
        ("int32", "int64", False),
        ("uint8", "int64", False),
        ("bool", "int64", False),
        ("bfloat16", "float32", False),
        ("bfloat16", "int64", False),
        ("float64", "float32", True),
    ],
)
def test_a_small_tensor_is_never_cast_to_what_cannot_hold_it(compiled, given, fits):
    tensor = TensorArgument(path="t", dtype=compiled, shape=(2,), order=(0,), device="cpu")
    reason = Signature(tensors=(tensor,)).misfit({"t": Seen(given, (2,), "cpu")})
    assert reason == ("" if fits else f"t is {given}[2]")


def test_a_fraction_is_no_integer():
    tensor = TensorArgument(path="t", dtype="int64", shape=(), order=(), device="cpu")
    signature = Signature(tensors=(tensor,))
    assert signature.misfit({"t": Constant(path="t", value=7)}) == ""
    assert signature.misfit({"t": Constant(path="t", value=7.5)}) == "t=7.5 is no tensor"


def test_a_missing_argument_is_named():
    assert PLAIN.misfit({k: v for k, v in FITS.items() if k != "kwargs"}) == "kwargs is missing"


def test_true_is_not_one():
    signature = Signature(tensors=(), constants=(Constant(path="flag", value=1),))
    assert signature.misfit({"flag": Constant(path="flag", value=1)}) == ""
    assert signature.misfit({"flag": Constant(path="flag", value=True)}) == "flag=True"


def test_return_dict_is_not_looked_at():
    for value in (True, None):
        leaf = Constant(path="return_dict", value=value)
        assert PLAIN.misfit({**FITS, "return_dict": leaf}) == ""
    assert PLAIN.misfit({k: v for k, v in FITS.items() if k != "return_dict"}) == ""


def test_a_small_tensor_may_be_copied_to_an_accelerator_and_none_back():
    signature = Signature(
        tensors=(TensorArgument(path="t", dtype="float32", shape=(2,), order=(0,), device="cuda"),)
    )
    assert signature.misfit({"t": Seen("float32", (2,), "cpu")}) == ""


BATCHED = Signature(
    tensors=(
        TensorArgument(
            path="x",
            dtype="float32",
            shape=(Range(least=2, most=8, symbol="s0", times=2), 4),
            order=(0, 1),
            device="cpu",
        ),
        TensorArgument(
            path="ids",
            dtype="float32",
            shape=(Range(least=1, most=4, symbol="s0"), 4),
            order=(0, 1),
            device="cpu",
        ),
    )
)


@pytest.mark.parametrize(
    ("x", "ids", "reason"),
    [
        (2, 1, ""),
        (6, 3, ""),
        (8, 4, ""),
        (10, 5, "x is float32[10, 4]"),
        (0, 0, "x is float32[0, 4]"),
        (3, 1, "x is float32[3, 4]"),
        (4, 3, "ids is float32[3, 4], which does not go with x"),
    ],
)
def test_symbolic_sizes_have_ends_and_go_together(x, ids, reason):
    leaves = {"x": Seen("float32", (x, 4), "cpu"), "ids": Seen("float32", (ids, 4), "cpu")}
    assert BATCHED.misfit(leaves) == reason


def test_a_signature_reads_as_its_tensors_and_telling_constants():
    assert str(PLAIN) == "sample: bfloat16[2, 4, 8, 8], timestep: float32[]"
    assert str(BATCHED) == "x: float32[2..8, 4], ids: float32[1..4, 4]"


def test_an_order_that_leaves_out_a_dimension_is_refused():
    with pytest.raises(ValueError, match="x: its order does not name each dimension once"):
        TensorArgument(path="x", dtype="float32", shape=(2, 3), order=(0, 0), device="cpu")
