"""A study's folder: every trial as soon as it is done, so that nothing is measured twice."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from compilekit.base.texts import printable
from compilekit.errors import UsageError
from compilekit.studies.tune.data import Facts, Trial

FILE = "trials.jsonl"
VERSION = 1


@dataclass
class Study:
    """The trials of one model on one machine. A line is added for each; none is ever changed.

    subject: what the study is about; trials of something else cannot be compared with these.
    """

    folder: Path
    subject: Mapping[str, str]
    facts: Facts | None = None
    trials: dict[str, Trial] = field(default_factory=dict)

    @classmethod
    def opened(cls, folder: Path, subject: Mapping[str, str]) -> Study:
        """The study in a folder, or a new one there."""
        study = cls(folder, dict(subject))
        try:
            folder.mkdir(parents=True, exist_ok=True)
            file = folder / FILE
            text = file.read_text(encoding="utf-8") if file.exists() else ""
        except (OSError, UnicodeDecodeError) as error:
            why = getattr(error, "strerror", None) or "it is no text"
            raise UsageError(f"{folder}: the study cannot be kept there: {why}") from error
        whole, _, rest = text.rpartition("\n")
        if rest:  # a line that was being written when the process was killed
            with file.open("r+", encoding="utf-8") as opened:
                opened.truncate(len(whole.encode()) + bool(whole))
        if whole:
            study._read(whole)
        return study

    def keep_facts(self, facts: Facts) -> None:
        """Keep the facts of the model, and what the study is about."""
        self.facts = facts
        shown = facts.model_dump(mode="json")
        self._add({"study": VERSION, "subject": dict(self.subject), "facts": shown})

    def keep(self, key: str, trial: Trial) -> None:
        """Keep a trial."""
        self.trials[key] = trial
        self._add({"key": key, "trial": trial.model_dump(mode="json")})

    def _add(self, line: Mapping[str, Any]) -> None:
        with (self.folder / FILE).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def _read(self, text: str) -> None:
        try:
            lines = [json.loads(line) for line in text.splitlines()]
            head = lines[0]
            _check_version(head["study"])
            subject = dict(head["subject"])
            self.facts = Facts.model_validate(head["facts"])
            for line in lines[1:]:
                self.trials[line["key"]] = Trial.model_validate(line["trial"])
        except (ValueError, LookupError, TypeError, ValidationError) as error:
            why = printable(str(error).splitlines()[0])
            raise UsageError(
                f"{self.folder / FILE}: is no study that can be gone on with ({why}): name another "
                "folder, or remove it"
            ) from error
        if subject != self.subject:
            raise UsageError(
                f"{self.folder}: is the study of something else ({_difference(subject, self)}): "
                "name another folder, or remove it"
            )


def _check_version(version: object) -> None:
    if version != VERSION:
        raise ValueError(f"its version is {version}, and {VERSION} is known here")


def _difference(subject: Mapping[str, str], study: Study) -> str:
    names = sorted({*subject, *study.subject})
    changed = [name for name in names if subject.get(name) != study.subject.get(name)]
    pairs = ((n, printable(subject.get(n, "none")), study.subject.get(n, "none")) for n in changed)
    return ", ".join(f"{name}: {there} there, {here} here" for name, there, here in pairs)
