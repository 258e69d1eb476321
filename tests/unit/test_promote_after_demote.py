"""A queue that was given away can be taken back by the same instance. Found by the simulator."""

from __future__ import annotations

import pytest

from synchro.instance import events as ev
from tests.mesh import Mesh


@pytest.mark.parametrize("members", [1, 3])
def test_promote_on_the_instance_that_demoted_itself_takes_a_new_term(members: int) -> None:
    """No PROMOTE of the term of a DEMOTE can follow [P-31]: promote() said nothing and ran into its time-out,
    for ever."""
    mesh = Mesh(members)
    mesh.promote(1)
    given_away = mesh.outcome(mesh.demote(1))
    assert isinstance(given_away, ev.Demoted)

    call = mesh.promote(1)

    promoted = mesh.outcome(call)
    assert isinstance(promoted, ev.Promoted)
    assert promoted.term > given_away.term
    assert mesh[1].is_writable
