"""Sessions over the stand-in for the driver package, in the environment that runs the test."""

from __future__ import annotations

import json
import os
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from forks import Forks

HERE = Path(__file__).parent
STANDIN = HERE.parent / "standin_gaudi"

ENVIRONMENT = {
    "PYTHONPATH": os.pathsep.join(
        filter(None, [str(STANDIN), str(HERE.parent), os.environ.get("PYTHONPATH")])
    ),
    # optimum-habana asks `pip` for the driver package's version, and hl-smi for the driver's.
    "PATH": os.pathsep.join(
        [str(STANDIN / "bin"), str(Path(sys.executable).parent), os.environ.get("PATH", "")]
    ),
    "COMPILEKIT_REPRO": "",
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
}


FORKS = Forks()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.gaudi)


def session(
    folder: Path, code: str, environment: dict[str, str] | None = None, **values: Any
) -> Any:
    """Run code in a process of its own: what `session.py` has is there, and the values given."""
    path = folder / "code.py"
    given = "".join(f"{name} = {value!r}\n" for name, value in values.items())
    path.write_text(given + textwrap.dedent(code), encoding="utf-8")
    clean = {name: text for name, text in os.environ.items() if not name.startswith("PT_HPU")}
    variables = {**clean, **ENVIRONMENT, **(environment or {})}
    out, errors = FORKS.run([str(HERE / "session.py"), str(path)], folder, variables)
    lines = [line for line in out.splitlines() if line.startswith("ANSWER ")]
    assert lines, errors[-4000:]
    return json.loads(lines[-1].removeprefix("ANSWER "))


@pytest.fixture(scope="session")
def there(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """Run code in a new process, over the stand-in."""
    return lambda code, environment=None, **values: session(
        tmp_path_factory.mktemp("session"), code, environment, **values
    )
