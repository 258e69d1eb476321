"""What the quorums of one instance give up, ask for in vain, or may not be. [Q-30], [Q-34], ADR 17."""

from __future__ import annotations

from collections.abc import Iterator

from synchro.config.settings import Settings


def is_no_majority(settings: Settings, members: int) -> bool:
    """Whether two quorums of so many instances may have nobody in common."""
    return 2 * min(settings.synchro_quorum.quorum(members), members) <= members


def too_few_for_reads(settings: Settings, members: int) -> str:
    """Why `linearizable_quorum` is too low for so many members and this `synchro_quorum`; "": it is not. The
    default never is [Q-34]."""
    asked, needed = settings.linearizable_asked(members), settings.read_quorum(members)
    if asked >= needed:
        return ""
    return (
        f"linearizable_quorum = {settings.linearizable_quorum.text} asks {asked} of {members} instances, so "
        f"a linearizable read could be old; the lowest legal value is {needed} (N - Q + 1)"
    )


def quorum_warnings(settings: Settings, configured: int) -> Iterator[str]:
    """Of an instance that is one of so many."""
    text = settings.synchro_quorum.text
    if is_no_majority(settings, configured):
        quorum = min(settings.synchro_quorum.quorum(configured), configured)
        yield (
            f"replication.synchro_quorum = {text} is {quorum} of {configured} instances, which is no "
            "majority: two owners may write at the same time (split brain), a change of owner may lose "
            f"acknowledged writes, and a linearizable read needs {configured - quorum + 1} instances"
        )
    if settings.linearizable_asked(configured) > configured:
        text = settings.linearizable_quorum.text
        yield (
            f"replication.linearizable_quorum = {text} is above the {configured} configured instances: "
            "all of them are asked instead"
        )
