"""Where Optuna keeps the trials of a study: a journal file, or a database.

What goes wrong with them where several workers share one is guarded here.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from ...errors import CheckpointError, DependencyError, InputError, reason
from ...formats.atomic import make_folder
from ...imports import import_optional
from .journal import JournalLock, check_last_line

_log = logging.getLogger(__name__)
T = TypeVar("T")

#: Seconds for which a worker tries again to reach a database that does not answer.
PATIENCE = 300.0
_PAUSE = 1.0
#: Times that a worker tries again where others make the tables of a database at the same moment.
_TRIES = 3
_INSTALL = "pip install 'citrus-lirpa[tune]'"
_DAMAGED = (AssertionError, AttributeError, KeyError, TypeError, ValueError)


def load_optuna() -> Any:
    """Return Optuna, which keeps quiet; raise DependencyError where it is missing."""
    optuna: Any = import_optional("optuna", _INSTALL)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


class Journal:
    """A journal file, which begins where it is not there.

    Args:
        path: The file.

    Attributes:
        storage: Optuna's storage of it.
        shown: Its name in messages.

    Raises:
        CheckpointError: The file is no journal, or damaged.
    """

    def __init__(self, path: str):
        self.shown, file = path, Path(path)
        make_folder(file.parent)
        storages = load_optuna().storages
        try:
            check_last_line(file)
            backend = storages.journal.JournalFileBackend(path, lock_obj=JournalLock(file))
            self.storage = storages.journal.JournalStorage(backend)
            self.storage.get_all_studies()  # reads the file, before anything is added to it
        except (*_DAMAGED, IsADirectoryError) as error:
            raise CheckpointError(
                f"{file} is not a journal of a study, or damaged ({reason(error)}); restore it, or "
                "give another storage"
            ) from error

    def persist(self, call: Callable[[], T], patience: float | None = None) -> T:
        """Call once: a file answers."""
        return call()

    def close(self) -> None:
        """Do nothing: the file is open only while it is read or written."""


class Database:
    """A database that SQLAlchemy knows.

    Args:
        url: Its URL.

    Attributes:
        storage: Optuna's storage of it.
        shown: The URL without its password.

    Raises:
        InputError: It is no URL.
        DependencyError: The driver of the database is missing.
        CheckpointError: It cannot be reached, or is of another version of Optuna.
    """

    def __init__(self, url: str):
        optuna, exc = load_optuna(), import_optional("sqlalchemy.exc", _INSTALL)
        # Without a pool, no connection stays open between two calls: not through a trial of an
        # hour, nor where what follows raises.
        unpooled = {"poolclass": import_optional("sqlalchemy.pool", _INSTALL).NullPool}
        self.shown = url
        #: What is raised where the database does not answer.
        self._lost = exc.DBAPIError, exc.TimeoutError, optuna.exceptions.StorageInternalError

        def connect() -> Any:
            make, tries = optuna.storages.RDBStorage, 0
            while True:
                try:
                    return make(url, engine_kwargs=unpooled)
                except exc.DBAPIError as error:  # another worker makes the tables at this moment
                    raced = any(text in str(error) for text in ("already exists", "duplicate key"))
                    if not raced or tries == _TRIES:
                        raise
                    tries += 1

        try:
            self.shown = import_optional("sqlalchemy", _INSTALL).make_url(url).render_as_string()
            self.storage = self.persist(connect, patience=0.0)
        except (exc.ArgumentError, ValueError) as error:
            raise InputError(
                f"storage is no URL of a known database ({reason(error)}); expected one as "
                "postgresql+psycopg://host/database, or the path of a journal file"
            ) from None
        except ImportError as error:
            raise DependencyError(
                f"the driver of {self.shown} is missing ({reason(error)}): install it, as pip "
                "install 'psycopg[binary]' for postgresql+psycopg://"
            ) from error
        except RuntimeError as error:
            raise CheckpointError(f"{self.shown} cannot be used: {reason(error)}") from error

    def persist(self, call: Callable[[], T], patience: float | None = None) -> T:
        """Call, again and again while the database does not answer: for PATIENCE, if None.

        Raises:
            CheckpointError: It has not answered for so many seconds.
        """
        begin, told = time.monotonic(), False
        while True:
            try:
                return call()
            except self._lost as error:
                cause = reason(getattr(error, "orig", None) or error.__cause__ or error)
                if time.monotonic() - begin >= (PATIENCE if patience is None else patience):
                    raise CheckpointError(
                        f"{self.shown} does not answer ({cause}); start the database, then repeat "
                        "the command: what was finished is kept"
                    ) from error
                if not told:
                    _log.warning("%s does not answer (%s); trying again", self.shown, cause)
                told = True
                time.sleep(_PAUSE)

    def close(self) -> None:
        """Close the session."""
        self.storage.remove_session()
