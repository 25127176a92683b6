"""A whole `tune`: the model's facts, the space, the search, and the recipe that comes out."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from compilekit.base.environment import installed_version
from compilekit.base.locks import try_lock
from compilekit.base.machine import Machine
from compilekit.base.progress import Progress
from compilekit.base.staging import missing_parents, remove_empty
from compilekit.base.words import DEVICES, Purpose
from compilekit.errors import RecipeError, UsageError
from compilekit.plan.advice import kind_of
from compilekit.plan.digest import digest_of
from compilekit.plan.plan import Plan, plan
from compilekit.plugin.host import Host
from compilekit.recipe import Document, StepEntry, check
from compilekit.recipe.choices import alternatives
from compilekit.recipe.text import steps_to_text
from compilekit.studies.batch.limits import allowed
from compilekit.studies.tune.ask import Asker
from compilekit.studies.tune.data import Facts, Trial
from compilekit.studies.tune.order import Elsewhere, Order
from compilekit.studies.tune.result import Tuned
from compilekit.studies.tune.search import Search
from compilekit.studies.tune.space import LEAST_SHARE, Point, Space, given, offered
from compilekit.studies.tune.study import FILE, Study
from compilekit.studies.tune.text import outcome
from compilekit.subject.sample import picture_names

VERSIONS = ("compilekit", "torch", "diffusers", "torchao")
"""The libraries whose versions a tuned recipe tells."""

BUDGETS = {"max_relative_error", "min_psnr", "min_ssim"}
MAX_ERROR, MIN_PSNR = 0.05, 25.0
"""What a result may lose, where no recipe says it."""

LOCK = ".lock"


@dataclass
class Tune:
    """One run of `tune`.

    document: the recipe, with its choices; without steps, the plugins offer them.
    """

    document: Document
    elsewhere: Elsewhere
    host: Host
    machine: Machine
    purpose: Purpose
    progress: Progress
    folder: Path
    seconds: float
    memory: str | None
    model: str
    on_trial: Callable[[Trial], None] | None = None
    _title: str = "tune"

    def run(self) -> Tuned:
        """Search, and give the fastest recipe."""
        bare = self._bare()
        self._limits = allowed(bare.device, self.memory, self.progress.note)
        if (ways := alternatives(self.document)) and all(len(each) == 1 for each in ways):
            raise UsageError(
                "the recipe leaves nothing to choose: write `choices:` in it, or leave out its "
                "steps, so that the plugins offer some"
            )
        start = time.monotonic()
        with self._alone(), self._asker() as asker:
            study = Study.opened(self.folder, self._subject())
            facts = study.facts or self._facts(asker, study, bare)
            space = self._space(facts)
            if space.size == 1:
                raise UsageError("no plugin offers a step for this model on this machine")
            search = Search(
                space,
                facts,
                study,
                lambda *arguments: self._trial(asker, search, *arguments),
                self._told,
                self.seconds - (time.monotonic() - start),
            )
            point, best = search.run()
        return self._tuned(search, point, best)

    def _asker(self) -> Asker:
        # What a step prepares must be there before torch is imported.
        device = check(self.document)[0].device
        steps = self.host.descriptions.values()
        prepares = any(d.prepare for d in steps if device in (d.targets or DEVICES))
        return Asker(self._say, is_warm=not prepares)

    def _say(self, text: str) -> None:
        self.progress.say(self._title, text)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep others out of the study's folder: they would measure the same, and disturb."""
        made = [] if self.folder.exists() else [self.folder, *missing_parents(self.folder)]
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = try_lock(self.folder / LOCK)
        except OSError as error:
            why = error.strerror or str(error)
            raise UsageError(f"{self.folder}: the study cannot be kept there: {why}") from error
        if lock is None:
            raise UsageError(f"{self.folder}: another `tune` works on this study")
        try:
            yield
        finally:
            if not (self.folder / FILE).exists():  # nothing was tried
                (self.folder / LOCK).unlink(missing_ok=True)
            lock.release()
            remove_empty(made)

    def _facts(self, asker: Asker, study: Study, bare: Plan) -> Facts:
        """Load the model, and time the calls of its sample."""
        self._title = "the model as loaded"
        with self.progress.stage(self._title):
            order = Order(self.elsewhere, bare.recipe, self._limits, thorough=0)
            facts = asker.facts(order, self.seconds)
        study.keep_facts(facts)
        return facts

    def _bare(self) -> Plan:
        """The recipe without steps."""
        data = dict(self.document.data)
        if isinstance(data.get("steps"), list):
            data["steps"] = []
        draft, problems = check(replace(self.document, data=data))
        if draft.recipe is None:
            raise RecipeError(problems)
        return plan(draft.recipe, host=self.host)

    def _space(self, facts: Facts) -> Space:
        document = self._completed(facts)
        if any(alternatives(document)):
            return given(document, self.host, self.purpose)
        worth = [
            replace(component, sizes=1 + len(document.data.get("shapes") or ()))
            for component in facts.components
            if facts.share([component.name]) >= LEAST_SHARE
        ]
        return offered(document, worth, self.host, self.machine, self.purpose)

    def _completed(self, facts: Facts) -> Document:
        """The document with the sample and the budgets that it lacks."""
        data = dict(self.document.data)
        if facts.sample and not data.get("sample"):
            data["sample"] = {**facts.sample, "seed": 0}
        verify = dict(data.get("verify") or {})
        if not BUDGETS & verify.keys():
            verify["max_relative_error"] = MAX_ERROR
            if facts.is_pipeline:
                verify["min_psnr"] = MIN_PSNR
        # Speed is what the search compares: being slower is no error of a trial.
        data["verify"] = {**verify, "min_speedup": 0}
        return replace(self.document, data=data)

    def _trial(
        self, asker: Asker, search: Search, plan: Plan, thorough: int, limit: float
    ) -> Trial:
        text = steps_to_text(plan.recipe.steps)
        again = "again, with more calls: " if thorough > 1 else ""
        left = f"{max(0.0, search.left) / 60:.1f} min left"
        self._title = f"trial {len(search.trials) + 1}, {left}: {again}{text}"
        with self.progress.stage(self._title):
            return asker.trial(Order(self.elsewhere, plan.recipe, self._limits, thorough), limit)

    def _told(self, trial: Trial) -> None:
        self.progress.note(f"  {outcome(trial)}")
        if self.on_trial is not None:
            self.on_trial(trial)

    def _subject(self) -> dict[str, str]:
        """What trials depend on, beside their own steps."""
        data = {k: v for k, v in self.document.data.items() if k not in ("steps", "name")}
        return {
            "model": self.model,
            "recipe": digest_of(data)[:16],
            "for": self.purpose,
            "machine": f"{self.machine.cores} cores of {self.machine.cpu}",
            "gpus": ", ".join(gpu.name for gpu in self.machine.gpus),
            "plugins": self._plugins(),
            **{name: installed_version(name) or "none" for name in VERSIONS},
        }

    def _plugins(self) -> str:
        """The plugins that were added from files, as they are now."""
        files = sorted(Path(plugin.origin) for plugin in self.host.plugins.values())
        texts = {str(path): path.read_text(encoding="utf-8") for path in files if path.is_file()}
        return digest_of(texts)[:16] if texts else ""

    def _tuned(self, search: Search, point: Point, best: Trial | None) -> Tuned:
        found = search.space.plan(point)
        assert found is not None  # noqa: S101 - it was tried, or the search started there
        tuned = kind_of(self.machine).model_copy(
            update={
                "speedup": round(best.gain.speedup, 2) if best else 1.0,
                "versions": {n: v for n in VERSIONS if (v := installed_version(n))},
            }
        )
        least = (self.document.data.get("verify") or {}).get("min_speedup", 1.0)
        verify = found.recipe.verify.model_copy(update={"min_speedup": float(least)})
        # Pictures are looked for beside the recipe that names them.
        pictures = {n: str(path.absolute()) for n, path in picture_names(found.recipe).items()}
        sample = {**found.recipe.sample, **pictures}
        update = {"tuned": tuned, "verify": verify, "sample": sample}
        recipe = found.recipe.model_copy(update=update)
        if best is not None:  # caches make a second trial compile in less time
            compiling = max(t.compiling for t in search.trials if t.steps == best.steps)
            best = best.model_copy(update={"compiling": compiling})
        return Tuned(
            plan(recipe, host=self.host, for_=self.purpose),
            best,
            search.trials,
            search.facts,
            _comments(search, recipe.steps) if best else {},
            [*self._too_small(search.facts), *search.left_out, *_refused(search)],
        )

    def _too_small(self, facts: Facts) -> list[str]:
        if any(alternatives(self.document)):
            return []
        return [
            f"not tried: {component.name}: it takes {share:.1%} of the sample's time"
            for component in facts.components
            if (share := facts.share([component.name])) < LEAST_SHARE
        ]


def _comments(search: Search, steps: Sequence[StepEntry]) -> dict[int, str]:
    """What each step gained, by its place in the recipe."""
    texts = {steps_to_text([step]): index for index, step in enumerate(steps)}
    comments = {}
    for group in search.groups:
        for slot, way in zip(group.slots, group.best, strict=True):
            index = texts.get(search.space.label(slot, way))
            if index is not None and slot in group.reasons:
                gain, before = group.reasons[slot]
                comments[index] = f"{gain} as fast as {before}, on {', '.join(group.components)}"
    return comments


def _refused(search: Search) -> list[str]:
    space = search.space
    pairs = [*space.lacking.items(), *((t, _first(why)) for t, why in space.refused.items())]
    return [f"not tried: {text}: {why}" for text, why in pairs]


def _first(why: str) -> str:
    """The first line of an error, without where it is."""
    return re.sub(r"^[^ ]*:\d+:\d+: ", "", why.splitlines()[0]) if why else "it is refused"
