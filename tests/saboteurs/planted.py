"""What a planted bug is: a patch of product code for the length of a `with`, which an invariant must notice.

A checker that lets one of them pass is blind. `bugs.py`, `client_bugs.py`,
`member_bugs.py` and `private_bugs.py` plant them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.sim.world import World

Patch = Callable[[], AbstractContextManager[Any]]


@dataclass(frozen=True)
class Saboteur:
    """breaks: the rule, invariant or ADR that it breaks. rules: invariants of which one must fire.

    seeds: how many worlds in which it can bite it may live. first: where they begin, a seed that is known to
    find it, or one that is near.
    """

    name: str
    breaks: str
    patch: Patch
    rules: frozenset[str]
    seeds: int
    first: int = 1
    masters: bool = False
    """In worlds of masters."""
    worlds: Callable[[World], bool] | None = None
    """Those in which it can bite, as they are before they run: others are passed over. None: all."""


ALL: list[Saboteur] = []
RARE: list[Saboteur] = []
"""They need hundreds of seeds or more: hunted by name, not in every test run.

`commit_at_a_quorum_that_is_no_majority` lives in worlds whose quorum is no majority, one seed of 65. From
seed 40,000,000 on the 164th of them shows it, seed 40,011,056.
`linearizable_read_with_the_own_quorum_alone` is shown by seed 43,002,471, and by 3,944, where fencing is on;
a search from 44,000,000 on took a minute and a half of a processor without finding it.
"""


def saboteur(
    breaks: str,
    rules: str,
    seeds: int,
    first: int = 1,
    *,
    is_rare: bool = False,
    masters: bool = False,
    worlds: Callable[[World], bool] | None = None,
) -> Callable[[Callable[[], Iterator[None]]], Patch]:
    def register(function: Callable[[], Iterator[None]]) -> Patch:
        made = contextmanager(function)
        name, fires = function.__name__, frozenset(rules.split())
        found = Saboteur(name, breaks, made, fires, seeds, first, masters, worlds)
        (RARE if is_rare else ALL).append(found)
        return made

    return register
