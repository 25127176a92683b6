"""Builds that are killed, and builds that run at once, in forks of a process that has torch ready.

Run as a script, with the name of a scenario and a folder; prints what happened, as JSON.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"
sys.path.insert(0, str(Path(__file__).parents[2]))

import pytest
import torch
from support import EXPORTER, Twice, take_few_times

import compilekit as ck
from compilekit.plugin.host import Host

take_few_times(pytest.MonkeyPatch())

HOST = ck.load_host([EXPORTER])
INPUTS = {"x": torch.linspace(-1, 1, 16).reshape(2, 8)}
PATIENCE = 60
CHANGES = ("os.rename", "os.mkdir", "os.remove", "os.rmdir")


def net() -> Twice:
    torch.manual_seed(0)
    return Twice().eval()


def build(target: Path, steps: str = "eager_export{components=model}") -> ck.Built:
    recipe = ck.Recipe.from_steps(steps)
    return ck.build(recipe, net(), target, inputs=INPUTS, host=HOST, progress=False)


def is_right(bundle: Path) -> bool:
    with torch.no_grad():
        wanted = net()(**INPUTS)["sum"]
        given = ck.load(bundle, host=HOST, progress=False)(**INPUTS)["sum"]
    return bool(torch.linalg.vector_norm(given - wanted) <= 1e-6 * torch.linalg.vector_norm(wanted))


def fork(function: Callable[[], object]) -> int:
    """Run it in a child, whose exit code is 0 if it gives something true."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        code = 0 if function() else 1
    except BaseException as error:  # noqa: BLE001 - the child must end here
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
    finally:
        sys.stderr.flush()
        os._exit(code)


def wait(child: int) -> int:
    """The exit code of a child, negative for a signal; a child that hangs is killed."""
    for _ in range(PATIENCE * 20):
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.05)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return 99


class WritePoints:
    """Counts what changes files below a folder, and kills this process at one of them."""

    def __init__(self, below: Path, kill_at: int) -> None:
        self.below, self.kill_at, self.count = str(below), kill_at, 0
        sys.addaudithook(self)

    def __call__(self, event: str, args: tuple[object, ...]) -> None:
        writes = (
            event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR)
        )
        if not (writes or event in CHANGES) or not str(args[0]).startswith(self.below):
            return
        self.count += 1
        if self.count == self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)


def place(folder: Path, name: str) -> Path:
    made = folder / name
    made.mkdir()
    os.environ["COMPILEKIT_CACHE"] = str(made / "cache")
    os.environ["EXPORT_LOG"] = str(made / "log")
    (made / "log").touch()
    return made


def exports(where: Path) -> int:
    return len((where / "log").read_text().split())


def killed(folder: Path, points: str) -> list[dict[str, object]]:
    """A build killed at so many write points, one of each stretch of it, and the next one."""

    def counted() -> bool:
        counts = WritePoints(where, 0)
        build(where / "bundle")
        return bool((where / "count").write_text(str(counts.count)))

    where = place(folder, "count")
    assert wait(fork(counted)) == 0
    total = int((where / "count").read_text()) - 1
    found: list[dict[str, object]] = []
    ends = [1 + total * part // int(points) for part in range(int(points) + 1)]
    for point in map(random.Random(0).randrange, ends[:-1], ends[1:]):
        where = place(folder, f"point-{point}")
        target = where / "bundle"
        code = wait(fork(lambda: (WritePoints(where, point), build(target))))  # noqa: B023
        finished = any((where / "cache" / "parts").glob("[!.]*"))
        left = target.exists()
        right = wait(fork(lambda: is_right(target))) == 0 if left else None  # noqa: B023
        before = exports(where)
        again = where / "again" if left else target
        ready = wait(fork(lambda: build(again)))  # noqa: B023
        found.append(
            {
                "point": point,
                "killed": code == -signal.SIGKILL,
                "bundle_right": right,
                "part_was_finished": finished,
                "exported_again": exports(where) - before,
                "next_good": ready == 0 and wait(fork(lambda: is_right(again))) == 0,  # noqa: B023
                "leftovers": sorted(path.name for path in where.glob(".*")),
            }
        )
    return found


def real(folder: Path) -> list[dict[str, object]]:
    """Builds with torch's own compiler, killed at a random moment, and the next one."""
    steps = "torch_compile{components=model}"
    where = place(folder, "whole")
    start = time.monotonic()
    assert wait(fork(lambda: build(where / "bundle", steps))) == 0
    whole = time.monotonic() - start
    found: list[dict[str, object]] = []
    for number, share in enumerate(random.Random(1).uniform(0.1, 0.9) for _ in range(2)):
        where = place(folder, f"real-{number}")
        target = where / "bundle"
        child = fork(lambda: os.setpgid(0, 0) or build(target, steps))  # noqa: B023
        time.sleep(share * whole)
        os.kill(child, signal.SIGKILL)
        code = wait(child)
        left = target.exists()
        right = wait(fork(lambda: is_right(target))) == 0 if left else None  # noqa: B023
        again = where / "again" if left else target
        ready = wait(fork(lambda: build(again, steps)))  # noqa: B023
        found.append(
            {
                "killed": code == -signal.SIGKILL,
                "bundle_right": right,
                "next_good": ready == 0 and wait(fork(lambda: is_right(again))) == 0,  # noqa: B023
                "leftovers": sorted(path.name for path in where.glob(".*")),
            }
        )
    return found


def at_once(folder: Path) -> dict[str, object]:
    """Four builds of one thing at once."""
    where = place(folder, "same")
    children = [fork(lambda i=i: build(where / f"bundle-{i}")) for i in range(4)]
    codes = [wait(child) for child in children]
    good = [wait(fork(lambda i=i: is_right(where / f"bundle-{i}"))) == 0 for i in range(4)]
    return {"codes": codes, "good": good, "exports": exports(where)}


def different(folder: Path) -> dict[str, object]:
    """Two different builds at once."""
    where = place(folder, "different")
    steps = ["eager_export{components=model}", "eager_export{components=model, sizes=fixed}"]
    children = [fork(lambda i=i: build(where / f"bundle-{i}", steps[i])) for i in range(2)]
    codes = [wait(child) for child in children]
    good = [wait(fork(lambda i=i: is_right(where / f"bundle-{i}"))) == 0 for i in range(2)]
    return {"codes": codes, "good": good, "exports": exports(where)}


def holder_killed(folder: Path) -> dict[str, object]:
    """A build that holds the locks is killed while another waits for them."""
    where = place(folder, "holder")

    def hang() -> None:
        def export(*_: object) -> None:
            (where / "holding").touch()
            time.sleep(1000)

        Host.export = export  # type: ignore[method-assign, assignment]
        build(where / "first")

    holder = fork(hang)
    while not (where / "holding").exists():
        time.sleep(0.02)
    others = [fork(lambda i=i: build(where / f"bundle-{i}")) for i in range(2)]
    time.sleep(1)
    waited = not any((where / f"bundle-{i}").exists() for i in range(2))
    os.kill(holder, signal.SIGKILL)
    return {
        "waited": waited,
        "holder": wait(holder),
        "codes": [wait(child) for child in others],
        "good": [wait(fork(lambda i=i: is_right(where / f"bundle-{i}"))) == 0 for i in range(2)],
        "exports": exports(where),
    }


SCENARIOS = {each.__name__: each for each in (killed, real, at_once, different, holder_killed)}

if __name__ == "__main__":
    # What is imported and set up on the way is there in every fork then.
    build(place(Path(sys.argv[2]), "warm") / "bundle")
    sys.stdout.write(json.dumps(SCENARIOS[sys.argv[1]](Path(sys.argv[2]), *sys.argv[3:])))
