"""The storage of a study: its trials, which Optuna draws and keeps (:mod:`.backends`)."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import CheckpointError, ConfigError, differences
from .backends import Database, Journal, load_optuna
from .space import Choice, Parameter, text_of, value_of
from .study import Study

#: Share of the trials, the best ones, whose values tell what is important.
_BEST = 0.25
#: Differences that a message names.
_NAMED = 3
#: Trials that are drawn at random before the search learns from them.
_AT_RANDOM = 6
_DEFINITION = "citrus-lirpa"


@dataclass(frozen=True)
class Trial:
    """A trial as it is in the storage now, which knows it by ``id``.

    Its state is ``running``, ``complete``, ``pruned``, ``fail`` or ``waiting``.
    """

    id: int
    number: int  # its place in the study, from 0
    state: str
    values: Mapping[str, Any]  # by TABLE.KEY
    scores: tuple[float, float] | None  # standard accuracy and UCert, once it is complete
    notes: Mapping[str, Any]

    @property
    def finished(self) -> bool:
        """Whether nothing more is done about it."""
        return self.state in ("complete", "pruned", "fail")


class Storage:
    """The trials of a study, which any number of workers read and write.

    Args:
        study: What is tuned.
        create: Whether to begin the study where the storage does not have it.

    Raises:
        DependencyError: Optuna or the driver of the database is missing.
        InputError: The storage's name is no URL.
        ConfigError: The storage has another study by this name.
        CheckpointError: The storage cannot be reached, is damaged, or does not have the study.
    """

    def __init__(self, study: Study, *, create: bool) -> None:
        self.optuna, self.study, self.shown = load_optuna(), study, study.storage
        backend = Database if "://" in study.storage else Journal
        if backend is Journal and not create and not Path(study.storage).is_file():
            raise CheckpointError(self._no_study())
        self._backend = backend(study.storage)
        self.shown, self._persist = self._backend.shown, self._backend.persist
        try:
            self._study = self._persist(lambda: self._open(create=create), patience=0)
            self.check()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the session of a database."""
        self._backend.close()

    # -- reading --

    def trials(self) -> list[Trial]:
        """Return all trials, in their order."""
        found = self._persist(lambda: self._study.get_trials(deepcopy=False))
        return [self._trial(trial) for trial in found]

    def notes(self) -> dict[str, Any]:
        """Return what was noted of the study."""
        return dict(self._persist(lambda: self._study.user_attrs))

    def importance(self, objective: int) -> dict[str, float]:
        """Return how much each value of the space decides about an objective; shares of 1.

        PED-ANOVA: Watanabe et al. 2023. It looks at the lowest values, hence the sign.
        """
        if sum(trial.state == "complete" for trial in self.trials()) < _AT_RANDOM:
            return {}
        evaluator = self.optuna.importance.PedAnovaImportanceEvaluator(target_quantile=_BEST)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*to achieve low `target`")
            find = self.optuna.importance.get_param_importances
            given: dict[str, Any] = {"target": lambda trial: -trial.values[objective]}
            return dict(find(self._study, evaluator=evaluator, **given))

    def check(self) -> None:
        """Raise ConfigError where the storage's study is another one than this."""
        # a later version may have more options, which are off
        there, here = self.notes().get(_DEFINITION, {}), self.study.definition()
        if difference := differences(there, here, most=_NAMED, lenient=True):
            raise ConfigError(
                f"study '{self.study.name}' in {self.shown} is another one than here "
                f"({difference}); give this one another name"
            )

    # -- writing --

    def begin(self) -> Trial:
        """Add a trial that runs."""
        made = self._persist(lambda: self._study.ask())
        return Trial(made._trial_id, made.number, "running", {}, None, {})

    def values(self, trial: Trial) -> dict[str, Any]:
        """Return the values of a running trial, drawn now where it has none yet.

        The draw depends on the study's seed and on the number of the trial, so that no two
        workers draw the same.
        """

        def draw() -> dict[str, Any]:
            handle = self._handle(trial)
            return {key: _suggest(handle, key, of) for key, of in self.study.space.items()}

        return self._persist(draw)

    def note(self, trial: Trial, key: str, value: Any) -> None:
        """Note something of a running trial."""
        self._persist(lambda: self._handle(trial).set_user_attr(key, value))

    def note_of_study(self, key: str, value: Any) -> None:
        """Note something of the study."""
        self._persist(lambda: self._study.set_user_attr(key, value))

    def complete(self, trial: Trial, standard: float, ucert: float) -> None:
        """Finish a trial with its figures, as shares of the images."""
        least = self.study.least
        missing = {"standard": least.standard - standard, "ucert": least.ucert - ucert}
        self._finish(trial, missing, "COMPLETE", [float(standard), float(ucert)])

    def prune(self, trial: Trial) -> None:
        """Finish a trial that was ended early."""
        # Without a number, a trial would count as one that reaches what is asked.
        self._finish(trial, {"standard": 1.0, "ucert": 1.0}, "PRUNED", None)

    def fail(self, trial: Trial, why: str) -> None:
        """Finish a trial that has no figures."""
        self.note(trial, "failed", why)
        self._finish(trial, {}, "FAIL", None)

    def _finish(
        self, trial: Trial, missing: Mapping[str, float], state: str, scores: list[float] | None
    ) -> None:
        def finish() -> None:
            handle = self._handle(trial)
            for key, value in missing.items():
                if key not in handle.constraints:  # a second call is ignored with a warning
                    handle.set_constraint(key, value)
            state_of = getattr(self.optuna.trial.TrialState, state)
            self._study.tell(trial.number, scores, state=state_of, skip_if_finished=True)

        self._persist(finish)

    # -- Optuna --

    def _open(self, *, create: bool) -> Any:
        """Open the study; who creates it also enqueues the preset's recipe as its first trial."""
        name, directions = self.study.name, ["maximize", "maximize"]
        storage = self._backend.storage
        if create:
            with contextlib.suppress(self.optuna.exceptions.DuplicatedStudyError):
                given: dict[str, Any] = {"study_name": name, "storage": storage}
                made = self.optuna.create_study(**given, directions=directions)
                made.set_user_attr(_DEFINITION, self.study.definition())
                recipe = self.study.recipe()
                made.enqueue_trial(
                    {key: _stored(self.study.space[key], recipe[key]) for key in recipe}
                )
        try:
            study = self.optuna.load_study(study_name=name, storage=storage)
        except KeyError:
            raise CheckpointError(self._no_study()) from None
        found = [direction.name.lower() for direction in study.directions]
        if found != directions:
            raise ConfigError(
                f"study '{name}' in {self.shown} has other objectives ({', '.join(found)}; "
                "expected two to maximize, standard accuracy and UCert); give this one another name"
            )
        if create and _DEFINITION not in study.user_attrs and not study.get_trials(deepcopy=False):
            study.set_user_attr(_DEFINITION, self.study.definition())  # its creator was killed
        return study

    def _no_study(self) -> str:
        begin = "begin it with: citrus-lirpa tune FILE"
        return f"there is no study '{self.study.name}' in {self.shown}; {begin}"

    def _handle(self, trial: Trial) -> Any:
        """Return Optuna's object of a trial that this or another worker began."""
        seed = np.random.SeedSequence((self.study.seed, trial.number)).generate_state(1)[0]
        tpe = self.optuna.samplers.TPESampler
        self._study.sampler = tpe(seed=int(seed), n_startup_trials=_AT_RANDOM)
        return self.optuna.trial.Trial(self._study, trial.id)

    def _trial(self, trial: Any) -> Trial:
        known = {key: of for key, of in self.study.space.items() if key in trial.params}
        return Trial(
            id=trial._trial_id,
            number=trial.number,
            state=trial.state.name.lower(),
            values={key: _read(of, trial.params[key]) for key, of in known.items()},
            scores=tuple(trial.values) if trial.state.name == "COMPLETE" else None,
            notes=dict(trial.user_attrs),
        )


def _suggest(handle: Any, key: str, parameter: Parameter) -> Any:
    """Draw a value, or return the one that the trial has already."""
    if isinstance(parameter, Choice):
        return value_of(handle.suggest_categorical(key, parameter.texts()))
    low, high = parameter.ends()
    suggest = handle.suggest_int if parameter.whole else handle.suggest_float
    return suggest(key, low, high, log=parameter.log)


def _stored(parameter: Parameter, value: Any) -> Any:
    return text_of(value) if isinstance(parameter, Choice) else value


def _read(parameter: Parameter, stored: Any) -> Any:
    return value_of(stored) if isinstance(parameter, Choice) else stored
