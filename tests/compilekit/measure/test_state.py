import os
import sys
import warnings
from collections.abc import Callable, Iterator

import pytest
import torch

from compilekit.measure.state import restore, snapshot

INDUCTOR = torch._inductor.config
DYNAMO = torch._dynamo.config


@pytest.fixture(autouse=True)
def leave_no_trace() -> Iterator[None]:
    state = snapshot()
    INDUCTOR.coordinate_descent_tuning = False
    INDUCTOR.max_autotune = False
    INDUCTOR.post_grad_custom_post_pass = None
    DYNAMO.recompile_limit = 8
    yield
    restore(state)
    assert state.diff(snapshot()) == {}


class Incomparable:
    def __eq__(self, other: object) -> bool:
        raise ValueError("ambiguous")

    __hash__ = None


class Uncopyable:
    def __deepcopy__(self, memo: object) -> object:
        raise TypeError("cannot be copied")


def test_nothing_changes_between_two_snapshots() -> None:
    before = snapshot()
    assert before.diff(snapshot()) == {}


def test_a_snapshot_is_cheap() -> None:
    # Calls are counted, since a clock would measure what else the machine does: 8,000 take 1 ms.
    calls = 0

    def count(frame: object, event: str, argument: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    snapshot()
    before = sys.getprofile()
    sys.setprofile(count)
    try:
        snapshot()
    finally:
        sys.setprofile(before)
    assert calls < 20_000


def test_a_diff_names_the_key_and_both_values() -> None:
    before = snapshot()
    INDUCTOR.coordinate_descent_tuning = True
    DYNAMO.recompile_limit = 99
    torch.fx.experimental._config.use_duck_shape = False
    assert before.diff(snapshot()) == {
        "torch._inductor.config.coordinate_descent_tuning": (False, True),
        "torch._dynamo.config.recompile_limit": (8, 99),
        "torch.fx.experimental._config.use_duck_shape": (True, False),
    }


def test_a_diff_the_other_way_round_swaps_the_values() -> None:
    before = snapshot()
    DYNAMO.recompile_limit = 99
    assert snapshot().diff(before) == {"torch._dynamo.config.recompile_limit": (99, 8)}


def test_restore_puts_config_back_and_returns_what_had_changed() -> None:
    before = snapshot()
    INDUCTOR.coordinate_descent_tuning = True
    assert restore(before) == {"torch._inductor.config.coordinate_descent_tuning": (False, True)}
    assert INDUCTOR.coordinate_descent_tuning is False
    assert restore(before) == {}


def test_a_setting_of_a_nested_config_is_put_back() -> None:
    before = snapshot()
    INDUCTOR.triton.cudagraphs = True
    assert restore(before) == {"torch._inductor.config.triton.cudagraphs": (False, True)}
    assert INDUCTOR.triton.cudagraphs is False


def test_a_config_list_changed_in_place_is_put_back() -> None:
    INDUCTOR.aot_inductor.custom_op_libs = ["one"]
    middle = snapshot()
    INDUCTOR.aot_inductor.custom_op_libs.append("two")
    assert restore(middle) == {
        "torch._inductor.config.aot_inductor.custom_op_libs": (["one"], ["one", "two"])
    }
    INDUCTOR.aot_inductor.custom_op_libs.append("three")
    assert restore(middle) == {
        "torch._inductor.config.aot_inductor.custom_op_libs": (["one"], ["one", "three"])
    }


def test_an_object_in_a_config_is_compared_by_identity() -> None:
    before = snapshot()

    def first(graph: object) -> None:
        del graph

    INDUCTOR.post_grad_custom_post_pass = first
    middle = snapshot()
    assert middle.diff(snapshot()) == {}
    assert before.diff(middle) == {
        "torch._inductor.config.post_grad_custom_post_pass": (None, first)
    }


def test_an_object_without_equality_does_not_seem_to_change() -> None:
    INDUCTOR.post_grad_custom_post_pass = object()
    INDUCTOR._fuse_ddp_communication_passes = [object()]
    assert snapshot().diff(snapshot()) == {}


def test_an_object_in_a_config_is_put_back_itself() -> None:
    own = object()
    INDUCTOR.post_grad_custom_post_pass = own
    middle = snapshot()
    INDUCTOR.post_grad_custom_post_pass = None
    restore(middle)
    assert INDUCTOR.post_grad_custom_post_pass is own


def test_an_object_that_cannot_be_compared_counts_as_changed() -> None:
    INDUCTOR.post_grad_custom_post_pass = Incomparable()
    middle = snapshot()
    INDUCTOR.post_grad_custom_post_pass = Incomparable()
    assert list(middle.diff(snapshot())) == ["torch._inductor.config.post_grad_custom_post_pass"]


def test_an_object_that_cannot_be_compared_is_equal_to_itself() -> None:
    INDUCTOR.post_grad_custom_post_pass = Incomparable()
    assert snapshot().diff(snapshot()) == {}


def test_a_config_list_of_objects_changed_in_place_is_put_back() -> None:
    own = object()
    INDUCTOR._fuse_ddp_communication_passes = [own]
    middle = snapshot()
    INDUCTOR._fuse_ddp_communication_passes.append(object())
    restore(middle)
    assert INDUCTOR._fuse_ddp_communication_passes == [own]


def test_an_object_that_cannot_be_copied_is_kept_as_it_is() -> None:
    before = snapshot()
    INDUCTOR.post_grad_custom_post_pass = Uncopyable()
    assert list(restore(before)) == ["torch._inductor.config.post_grad_custom_post_pass"]
    assert INDUCTOR.post_grad_custom_post_pass is None


def test_the_environment_is_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMPILEKIT_TEST_STAYS", "a")
    monkeypatch.setenv("COMPILEKIT_TEST_GOES", "a")
    middle = snapshot()
    os.environ["COMPILEKIT_TEST_STAYS"] = "b"
    os.environ["COMPILEKIT_TEST_COMES"] = "b"
    del os.environ["COMPILEKIT_TEST_GOES"]
    assert restore(middle) == {
        "os.environ.COMPILEKIT_TEST_STAYS": ("a", "b"),
        "os.environ.COMPILEKIT_TEST_GOES": ("a", "(not set)"),
        "os.environ.COMPILEKIT_TEST_COMES": ("(not set)", "b"),
    }
    assert os.environ["COMPILEKIT_TEST_STAYS"] == "a"
    assert os.environ["COMPILEKIT_TEST_GOES"] == "a"
    assert "COMPILEKIT_TEST_COMES" not in os.environ


@pytest.mark.parametrize("name", ["HF_TOKEN", "my_api_key", "A_SECRET_B", "DB_PASSWORD"])
def test_secrets_are_seen_to_change_and_never_shown(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "hunter1")
    middle = snapshot()
    monkeypatch.setenv(name, "hunter2")
    assert restore(middle) == {f"os.environ.{name}": ("(hidden)", "(hidden)")}
    assert os.environ[name] == "hunter1"
    assert "hunter" not in repr(middle)


def test_a_new_secret_shows_that_it_was_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    before = snapshot()
    monkeypatch.setenv("COMPILEKIT_TEST_TOKEN", "hunter2")
    assert before.diff(snapshot()) == {
        "os.environ.COMPILEKIT_TEST_TOKEN": ("(not set)", "(hidden)")
    }


def test_a_librarys_notes_to_itself_in_the_environment_are_left_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = snapshot()
    monkeypatch.setenv("_TORCHINDUCTOR_NOTE", "1")
    assert restore(before) == {}
    assert os.environ["_TORCHINDUCTOR_NOTE"] == "1"


@pytest.mark.parametrize(
    ("change", "key", "values"),
    [
        (
            lambda: torch.set_default_dtype(torch.bfloat16),
            "torch.default_dtype",
            (torch.float32, torch.bfloat16),
        ),
        (
            lambda: torch.set_default_device("meta"),
            "torch.default_device",
            (torch.device("cpu"), torch.device("meta")),
        ),
        (lambda: torch.set_grad_enabled(False), "torch.grad_enabled", (True, False)),
        (
            lambda: torch.use_deterministic_algorithms(True, warn_only=True),
            "torch.deterministic_debug_mode",
            (0, 1),
        ),
        (
            lambda: setattr(torch.backends.cudnn, "benchmark", True),
            "torch.backends.cudnn.benchmark",
            (False, True),
        ),
        (
            lambda: torch.backends.cuda.enable_flash_sdp(False),
            "torch.backends.cuda.flash_sdp_enabled",
            (True, False),
        ),
        (
            lambda: torch.backends.cuda.enable_math_sdp(False),
            "torch.backends.cuda.math_sdp_enabled",
            (True, False),
        ),
    ],
)
def test_a_switch_of_torch_is_seen_and_put_back(
    change: Callable[[], object], key: str, values: tuple[object, object]
) -> None:
    before = snapshot()
    change()
    assert restore(before)[key] == values
    assert before.diff(snapshot()) == {}


def test_the_number_of_threads_is_put_back() -> None:
    before = snapshot()
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    assert restore(before) == {"torch.num_threads": (threads, threads + 1)}
    assert torch.get_num_threads() == threads


def test_putting_the_device_back_leaves_no_mode_behind() -> None:
    before = snapshot()
    torch.set_default_device("meta")
    restore(before)
    assert torch.overrides._get_current_function_mode_stack() == []


def test_the_precision_of_matrix_products_is_put_back_under_all_its_names() -> None:
    before = snapshot()
    torch.set_float32_matmul_precision("high")
    found = restore(before)
    assert found["torch.float32_matmul_precision"] == ("highest", "high")
    assert found["torch.backends.cuda.matmul.allow_tf32"] == (False, True)
    assert before.diff(snapshot()) == {}


def mix_old_and_new_names() -> None:
    if not hasattr(torch.backends.cuda.matmul, "fp32_precision"):
        pytest.skip("this torch has one set of names only")
    torch.backends.cuda.matmul.fp32_precision = "tf32"


def test_mixing_the_old_and_the_new_names_for_precision_does_not_raise() -> None:
    before = snapshot()
    mix_old_and_new_names()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert before.diff(snapshot())["torch.float32_matmul_precision"] == (
            "highest",
            "(unreadable)",
        )


def test_mixed_names_for_precision_are_put_back() -> None:
    before = snapshot()
    mix_old_and_new_names()
    restore(before)
    assert torch.get_float32_matmul_precision() == "highest"
    assert before.diff(snapshot()) == {}


def test_what_could_not_be_read_before_comes_back_under_its_other_names() -> None:
    mix_old_and_new_names()
    middle = snapshot()
    torch.set_float32_matmul_precision("highest")
    restore(middle)
    assert torch.backends.cuda.matmul.fp32_precision == "tf32"
    assert middle.diff(snapshot()) == {}


def test_the_general_precision_is_put_back() -> None:
    before = snapshot()
    mix_old_and_new_names()
    restore(before)
    torch.backends.fp32_precision = "ieee"
    restore(before)
    assert before.diff(snapshot()) == {}


def test_what_is_kept_stays_and_is_still_returned() -> None:
    before = snapshot()
    INDUCTOR.coordinate_descent_tuning = True
    INDUCTOR.max_autotune = True
    found = restore(before, keep={"torch._inductor.config.max_autotune": "the step's mode"})
    assert set(found) == {
        "torch._inductor.config.coordinate_descent_tuning",
        "torch._inductor.config.max_autotune",
    }
    assert INDUCTOR.max_autotune is True
    assert INDUCTOR.coordinate_descent_tuning is False


def test_a_kept_precision_is_not_undone_through_its_other_names() -> None:
    before = snapshot()
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.allow_tf32 = False
    restore(before, keep=["torch.float32_matmul_precision"])
    assert torch.get_float32_matmul_precision() == "high"
    assert torch.backends.cuda.matmul.allow_tf32 is True
    assert torch.backends.cudnn.allow_tf32 is True


def test_a_kept_environment_variable_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    before = snapshot()
    monkeypatch.setenv("COMPILEKIT_TEST_COMES", "b")
    restore(before, keep=["os.environ.COMPILEKIT_TEST_COMES"])
    assert os.environ["COMPILEKIT_TEST_COMES"] == "b"


def test_compiling_a_model_changes_no_state_of_its_own() -> None:
    before = snapshot()
    torch.compile(lambda x: x + 1, backend="aot_eager")(torch.ones(2))
    changed = before.diff(snapshot())
    # Older versions of torch note the folder of their cache in the environment.
    assert changed.keys() <= {"os.environ.TORCHINDUCTOR_CACHE_DIR"}


def test_restoring_a_deprecated_setting_warns_of_nothing() -> None:
    before = snapshot()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        DYNAMO.inline_inbuilt_nn_modules = False
    DYNAMO._config["inline_inbuilt_nn_modules"]._deprecation_warned = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        restore(before)
