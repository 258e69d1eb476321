"""Error taxonomy. Every error has a stable `reason`, kept for ever once released; see docs/errors.md.

A text says what happened, with which values, what did not happen, and the next command. A class says the rest
(`kinds`): a new error is a class in one of the modules here, and `tools/reference.py` makes its line in
docs/errors.md, where the first sentence of the docstring is the meaning. Numbers are Tarantool's.
"""

from __future__ import annotations

from collections.abc import Mapping

from synchro.errors import access, data, login, members, writes

# With stars, so that a new error is written down once.
from synchro.errors.access import *  # noqa: F403
from synchro.errors.data import *  # noqa: F403
from synchro.errors.kinds import BadInput as BadInput
from synchro.errors.kinds import Code as Code
from synchro.errors.kinds import Elsewhere as Elsewhere
from synchro.errors.kinds import Exit as Exit
from synchro.errors.kinds import Extra as Extra
from synchro.errors.kinds import NotNow as NotNow
from synchro.errors.kinds import Retry as Retry
from synchro.errors.kinds import SynchroError as SynchroError
from synchro.errors.kinds import meaning_of as meaning_of
from synchro.errors.login import *  # noqa: F403
from synchro.errors.members import *  # noqa: F403
from synchro.errors.writes import *  # noqa: F403

ALL_ERRORS: tuple[type[SynchroError], ...] = tuple(
    cls
    for module in (writes, data, access, members, login)
    for cls in vars(module).values()
    if isinstance(cls, type) and issubclass(cls, SynchroError) and cls.__module__ == module.__name__
)
"""In the order of the reference."""
BY_REASON: Mapping[str, type[SynchroError]] = {cls.reason: cls for cls in ALL_ERRORS}
