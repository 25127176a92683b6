"""How often `bench` says the right thing: of equal recipes, and of one that is 10 % slower.

A step of this file makes each call of a module longer by a share of its own time.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import textwrap
from pathlib import Path

import compilekit as ck

WAITING = """
    import time

    import compilekit as ck


    class Dragging(ck.Options):
        share: float = 0.1


    @ck.hookimpl
    def describe():
        return ck.StepDescription(
            help="Let each call take longer by a share.",
            options=Dragging,
            effects=lambda options, device: ck.effects("runtime"),
        )


    @ck.hookimpl
    def optimize_model(model, options, context):
        for name in context.components:
            forward = model.module(name).forward

            def longer(*args, _forward=forward, **kwargs):
                start = time.perf_counter()
                result = _forward(*args, **kwargs)
                end = time.perf_counter()
                while time.perf_counter() - end < options.share * (end - start):
                    pass
                return result

            model.module(name).forward = longer
        return ck.StepResult(matched={n: [n] for n in context.components}, changed={})
    """

MODEL = """
    import torch


    def net():
        torch.manual_seed(0)
        layers = (torch.nn.Linear({width}, {width}), torch.nn.GELU())
        return torch.nn.Sequential(*layers * {depth}).eval()
    """

HEAD = "compilekit: 1\ntarget: {{device: cpu}}\nmodel: {{inputs: {{input: {{shape: [64, {}]}}}}}}\n"


def main() -> None:
    """Compare each pair of recipes some times, and count the verdicts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=10)
    parser.add_argument("--share", type=float, default=0.1, help="how much slower the other is")
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--depth", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--only", choices=("equal", "slower"), help="one of the two comparisons")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        sys.path.insert(0, folder)
        plugin = Path(folder) / "dragging.py"
        plugin.write_text(textwrap.dedent(WAITING), encoding="utf-8")
        text = textwrap.dedent(MODEL).format(width=given.width, depth=given.depth)
        (Path(folder) / "bench_net.py").write_text(text, encoding="utf-8")
        from bench_net import net  # type: ignore[import-not-found]

        head = HEAD.format(given.width)
        equal = ck.Recipe.parse(f"{head}name: equal\nsteps: [precision: {{dtype: float32}}]\n")
        slower = ck.Recipe.parse(
            f"{head}name: slower\n"
            f"steps: [dragging: {{components: [model], share: {given.share}}}]\n"
        )
        host = ck.load_host([plugin])
        for recipe, wanted in ((equal, "noise"), (slower, "slower")):
            if given.only not in (None, recipe.name):
                continue
            right = 0
            for _ in range(given.times):
                found = ck.bench(
                    recipe,
                    net,
                    against=equal,
                    seconds=given.seconds,
                    host=host,
                    progress=False,
                )
                right += found.comparisons[0].verdict == wanted
                print(f"{found.verdicts[0]}; {found.comparisons[0].pairs} pairs", flush=True)
            print(f"{recipe.name} beside equal: {right} of {given.times} verdicts are right")


if __name__ == "__main__":
    main()
