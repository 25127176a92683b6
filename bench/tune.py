"""How good `tune` is beside trying everything: the UNet of 94 M parameters, the plugins' own space.

    python bench/tune.py            # half an hour or more

Both start with an empty cache of the compiler. Prints the speed of both recipes as the run over
everything measured them, and both times.
"""

from __future__ import annotations

import itertools
import os
import tempfile
import time
from pathlib import Path

import models

import compilekit as ck
from compilekit.api.tune import TrialsElsewhere
from compilekit.plugin.host import load_host
from compilekit.recipe.source import read_text
from compilekit.recipe.text import steps_to_text
from compilekit.studies.tune.ask import Asker
from compilekit.studies.tune.data import gains_of
from compilekit.studies.tune.order import Order
from compilekit.studies.tune.space import offered
from compilekit.studies.tune.text import outcome

RECIPE = "compilekit: 1\nname: unet\ntarget: {device: cpu}\nverify: {max_relative_error: 0.01}\n"


def search(folder: Path) -> tuple[ck.Tuned, float]:
    """Tune; gives the result and the seconds."""
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder / "tune")
    start = time.perf_counter()
    tuned = ck.tune(
        ck.Recipe.parse(RECIPE),
        models.unet,
        inputs=models.unet_inputs(),
        minutes=60,
        study=folder / "study",
    )
    return tuned, time.perf_counter() - start


def everything(folder: Path, tuned: ck.Tuned) -> tuple[dict[str, float], float]:
    """Try every recipe that the planner allows; gives their speed-ups and the seconds."""
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder / "everything")
    start = time.perf_counter()
    found: dict[str, float] = {}
    host, document = load_host(), read_text(RECIPE)
    space = offered(document, tuned.facts.components, host, ck.machine(), "apply")
    elsewhere = TrialsElsewhere(models.unet, models.unet_inputs(), (), "apply")
    with Asker(lambda _: None) as asker:
        for point in itertools.product(*(range(len(slot.ways)) for slot in space.slots)):
            plan = space.plan(point)
            if plan is None or not plan.steps:
                continue
            trial = asker.trial(Order(elsewhere, plan.recipe, (None, None)), 3600)
            gain = tuned.facts.gain(gains_of(trial.speeds), tuned.facts.calls)
            text = steps_to_text(plan.recipe.steps)
            if trial.state == "measured":
                found[text] = gain.speedup
            said = f"{gain}" if trial.state == "measured" else outcome(trial)
            print(f"{trial.seconds:7.1f} s  {text}: {said}", flush=True)
    return found, time.perf_counter() - start


def main() -> None:
    """Run both, and compare."""
    with tempfile.TemporaryDirectory() as name:
        tuned, seconds = search(Path(name))
        print(f"{tuned}\ntune took {seconds:.0f} s\n", flush=True)
        found, whole = everything(Path(name), tuned)
    best = max(found, key=lambda text: found[text])
    chosen = steps_to_text(tuned.recipe.steps)
    share = found.get(chosen, 1.0) / found[best]
    print(f"best of {len(found)}: {best}: {found[best]:.2f}x")
    print(f"tuned: {chosen}: {found.get(chosen, 1.0):.2f}x, {share:.3f} of the best")
    print(f"time: {seconds:.0f} s of {whole:.0f} s, {seconds / whole:.2f}")


if __name__ == "__main__":
    main()
