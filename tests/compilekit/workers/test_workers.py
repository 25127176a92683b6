"""Workers: what comes back from another process, and that nothing of it stays."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest
from support import LISTENING, is_alive, until

import compilekit as ck
from compilekit.workers import Worker


@pytest.fixture
def worker(tmp_path, write):
    """Run a worker whose package is this text."""
    (tmp_path / "package").mkdir()
    (tmp_path / "scratch").mkdir()

    def _worker(text: str, request=None, **arguments):
        write("package/__init__.py", text)
        given = {"python": sys.executable, "folder": tmp_path / "scratch", **arguments}
        return ck.run_worker(tmp_path / "package", request or {}, **given)

    return _worker


def test_a_worker_answers_a_request_and_says_how_it_goes(worker, write):
    said, noted = [], []
    write("package/helper.py", "def twice(number): return 2 * number")
    text = """
        from . import helper
        def run(request, say):
            say("half way")
            say("worth a line", note=True)
            return {"twice": helper.twice(request["number"])}
        """
    result = worker(text, {"number": 4}, say=said.append, note=noted.append)
    assert (result, said, noted) == ({"twice": 8}, ["half way"], ["worth a line"])


def test_what_a_worker_raises_is_shown_with_its_traceback_and_what_it_printed(worker):
    text = """
        def run(request, say):
            print("loading the compiler")
            inner()
        def inner():
            raise RuntimeError("neuronx-cc was killed")
        """
    with pytest.raises(ck.WorkerError) as caught:
        worker(text, key="steps[0].neuron")
    message = str(caught.value)
    first = f"steps[0].neuron: the worker ({sys.executable}) failed: RuntimeError: neuronx-cc was"
    assert message.startswith(first)
    assert "in inner\n    raise RuntimeError" in message
    assert message.endswith("It printed last:\n  loading the compiler")


def test_a_fault_that_the_worker_knows_is_told_in_one_sentence(worker):
    text = """
        class Fault(Exception):
            worker_kind = "machine"
        def run(request, say):
            raise Fault("there is too little memory")
        """
    with pytest.raises(ck.MachineError) as caught:
        worker(text)
    assert str(caught.value) == "worker: there is too little memory"


@pytest.fixture
def bare(write, monkeypatch):
    """An interpreter without compilekit, and without any other package."""
    monkeypatch.delenv("PYTHONPATH", raising=False)
    path = write("python", f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')
    path.chmod(0o755)
    return path


@pytest.mark.parametrize("has_another", [False, True])
def test_faults_are_there_for_an_interpreter_without_this_compilekit(
    worker, bare, write, tmp_path, has_another
):
    if has_another:
        (tmp_path / "compilekit" / "workers").mkdir(parents=True)
        for name in ("__init__", "workers/__init__", "workers/faults"):
            write(f"compilekit/{name}.py", "")
    text = """
        import importlib.util
        from compilekit.workers.faults import MachineFault
        def run(request, say):
            found = [importlib.util.find_spec(name) for name in ("compilekit", "pydantic")]
            raise MachineFault(str([each is not None for each in found]))
        """
    with pytest.raises(ck.MachineError) as caught:
        worker(text, python=bare, environment={"PYTHONPATH": str(tmp_path)})
    assert str(caught.value) == f"worker: [{has_another}, False]"


@pytest.mark.parametrize("force", [False, True])
def test_what_is_grave_ends_a_worker_unless_it_is_forced(worker, bare, force):
    text = """
        from compilekit.workers.faults import check_machine
        def run(request, say):
            found = [(False, "the driver is older"), (True, "no device"), (True, "no memory")]
            check_machine(found, lambda text: say(text, note=True), force=request["force"])
            return {"done": True}
        """
    noted = []
    ask = {"request": {"force": force}, "python": bare, "note": noted.append}
    if force:
        assert worker(text, **ask) == {"done": True}
        assert noted == ["the driver is older", "no device", "no memory"]
        return
    with pytest.raises(ck.MachineError) as caught:
        worker(text, **ask)
    assert noted == ["the driver is older"]
    assert str(caught.value) == (
        "worker: this machine will not do:\n  no device\n  no memory\n"
        "`--force` goes on all the same"
    )


def test_a_worker_that_ends_without_a_result_is_an_error(worker):
    with pytest.raises(ck.WorkerError, match="ended with exit code 7 and no result"):
        worker("import os\ndef run(request, say): os._exit(7)")


def test_a_worker_that_is_killed_is_an_error_that_says_by_what(worker):
    text = "import os\ndef run(request, say): os.kill(os.getpid(), 9)"
    with pytest.raises(ck.WorkerError, match="was ended by SIGKILL: perhaps memory ran out"):
        worker(text)


def test_a_worker_that_hangs_is_ended_with_all_that_it_started(worker, tmp_path):
    text = f"""
        import subprocess, time
        def run(request, say):
            child = subprocess.Popen(["sleep", "600"])
            open({str(tmp_path / "pid")!r}, "w").write(str(child.pid))
            time.sleep(600)
        """
    with pytest.raises(ck.WorkerError, match="no result within its time limit of 3 s, and was"):
        worker(text, time_limit=3)
    assert until(lambda: not is_alive(int((tmp_path / "pid").read_text())))


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ("hello", "answered 'hello', which is no answer of a worker"),
        ('{"event": "dance"}', "answered with an event 'dance', which is not known here"),
        ('["event"]', "which is no answer of a worker"),
    ],
)
def test_garbage_in_place_of_answers_is_an_error(worker, write, line, wrong):
    fake = write("python", f"#!/bin/sh\necho '{line}'\n")
    fake.chmod(0o755)
    with pytest.raises(ck.WorkerError) as caught:
        worker("", python=fake)
    assert wrong in str(caught.value)


def test_what_libraries_print_is_no_answer(worker):
    text = """
        import os
        def run(request, say):
            print("hello")
            os.write(1, b"from C\\n")
            return {"fine": True}
        """
    assert worker(text) == {"fine": True}


def test_an_interpreter_that_is_not_there_is_named(worker):
    with pytest.raises(ck.MachineError, match="no-such-python: cannot be run: No such file"):
        worker("", python="no-such-python")


def test_a_worker_sees_nothing_of_compilekit_on_its_path(worker):
    text = """
        import sys
        def run(request, say):
            return {"first": sys.path[0], "loaded": "compilekit" in sys.modules}
        """
    found = worker(text)
    assert "workers" not in found["first"]
    assert found["loaded"] is False


@pytest.fixture
def staying(tmp_path, write):
    """A worker that stays: it counts how often it was asked, and does what it is asked to."""
    (tmp_path / "package").mkdir()
    (tmp_path / "scratch").mkdir()
    write(
        "package/__init__.py",
        """
        import os, time
        asked = []
        def run(request, say):
            asked.append(request)
            say(f"number {len(asked)}")
            if "wait" in request:
                time.sleep(request["wait"])
            if "raise" in request:
                raise ValueError(request["raise"])
            if "exit" in request:
                os._exit(request["exit"])
            return {"asked": len(asked), "pid": os.getpid()}
        """,
    )

    def _staying(**arguments):
        folder = tmp_path / "scratch"
        return Worker(tmp_path / "package", python=sys.executable, folder=folder, **arguments)

    return _staying


def test_a_worker_that_stays_answers_again_and_again(staying):
    said = []
    with staying(say=said.append) as there:
        answers = [there.ask({}) for _ in range(3)]
    assert [answer["asked"] for answer in answers] == [1, 2, 3]
    assert said == ["number 1", "number 2", "number 3"]
    (pid,) = {answer["pid"] for answer in answers}
    assert not is_alive(pid)


def test_a_worker_can_be_asked_again_after_an_error_of_its_own(staying):
    with staying() as there:
        with pytest.raises(ck.WorkerError, match="failed: ValueError: not today"):
            there.ask({"raise": "not today"})
        assert there.ask({})["asked"] == 2


def test_a_worker_that_ends_between_two_answers_stays_an_error(staying):
    with staying() as there:
        pid = there.ask({})["pid"]
        os.kill(pid, signal.SIGKILL)
        for _ in range(2):
            with pytest.raises(ck.WorkerError, match="was ended by SIGKILL"):
                there.ask({})
    with staying() as there:
        for _ in range(2):
            with pytest.raises(ck.WorkerError, match="ended with exit code 7 and no result"):
                there.ask({"exit": 7})


def test_an_answer_that_comes_too_late_is_not_taken_for_the_next(staying):
    with staying() as there:
        there.ask({})
        with pytest.raises(ck.WorkerError, match=r"time limit of 0\.2 s, and was ended"):
            there.ask({"wait": 60}, time_limit=0.2)
        with pytest.raises(ck.WorkerError, match="was ended by SIGTERM"):
            there.ask({})


def test_workers_that_stay_end_with_whoever_asked(staying, write, tmp_path):
    with staying():  # writes the package
        pass
    code = """
        import sys
        from compilekit.workers import Worker
        package, folder = sys.argv[1:]
        asked = {"python": sys.executable, "folder": folder}
        with Worker(package, **asked) as one, Worker(package, **asked) as other:
            print(one.ask({})["pid"], other.ask({})["pid"], flush=True)
            sys.stdin.read()
        """
    asking = subprocess.Popen(
        [sys.executable, write("asking.py", code), tmp_path / "package", tmp_path / "scratch"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=dict(os.environ),
    )
    try:
        pids = [int(pid) for pid in asking.stdout.readline().split()]
        assert len(pids) == 2
        asking.kill()
        assert until(lambda: not any(map(is_alive, pids)))
    finally:
        asking.kill()
        asking.communicate()


ASKING = """
import compilekit as ck, sys
ck.run_worker(sys.argv[1], {}, python=sys.executable, folder=sys.argv[2])
"""


@pytest.mark.parametrize("wanted", [signal.SIGINT, signal.SIGKILL])
def test_a_worker_does_not_outlive_whoever_asked(worker, write, tmp_path, wanted):
    pid = tmp_path / "pid"
    write(
        "package/__init__.py",
        f"""
        import os, time
        def run(request, say):
            open({str(pid)!r}, "w").write(str(os.getpid()))
            time.sleep(600)
        """,
    )
    package, scratch = str(tmp_path / "package"), str(tmp_path / "scratch")
    asking = subprocess.Popen(
        [*LISTENING, sys.executable, "-c", ASKING, package, scratch],
        stderr=subprocess.DEVNULL,
        env=dict(os.environ),
    )
    try:
        assert until(lambda: pid.exists() and pid.read_text())
        asking.send_signal(wanted)
        asking.wait(30)
        assert until(lambda: not is_alive(int(pid.read_text())))
    finally:
        asking.kill()


def test_the_worker_s_side_imports_python_s_own_library_alone():
    import ast

    from compilekit.workers.client import SERVE

    tree = ast.parse(SERVE.read_text(encoding="utf-8"), feature_version=(3, 10))
    names = {
        alias.name.split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
    }
    names |= {n.module.split(".")[0] for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    assert names <= sys.stdlib_module_names
