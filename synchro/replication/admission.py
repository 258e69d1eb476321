"""Whom an instance lets subscribe to its rows. Rule [M-32], in its order. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from synchro.errors import (
    ConfigError,
    ConnectionToSelf,
    Expelled,
    IllegalParams,
    ReplicasetNameMismatch,
    ReplicasetUuidMismatch,
    UnknownReplica,
    Unsupported,
)
from synchro.ids import InstanceId, why_no_name

_UUID: Final = re.compile("[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


def check_stranger(instance_uuid: str, *, own_uuid: str) -> None:
    """Raises `IllegalParams` for what is no UUID of an instance, `ConnectionToSelf` for the own one."""
    if not instance_uuid.strip("0-"):
        raise IllegalParams("Nil UUID is reserved and can't be used in replication")
    if _UUID.fullmatch(instance_uuid) is None:
        raise IllegalParams(f"Invalid UUID: {instance_uuid[:40]!a}")
    if instance_uuid == own_uuid:
        raise ConnectionToSelf("Connection to self")


def check_twin(instance_uuid: str, members: Mapping[InstanceId, tuple[str, str | None]]) -> None:
    """Raises `IllegalParams` for the UUID of a member in other letters: it would be a second member."""
    uuids = [uuid for uuid, _ in members.values()]
    if instance_uuid in uuids:
        return
    if (twin := next((uuid for uuid in uuids if uuid.lower() == instance_uuid.lower()), None)) is not None:
        raise IllegalParams(
            f"UUID {instance_uuid} differs from that of the member {twin} in nothing but case; nothing was "
            "done"
        )


def check_name(name: str) -> None:
    """Raises `IllegalParams` for no name (ADR 26): the row of a joiner would be refused, after all data."""
    if (why := why_no_name(name)) is not None:
        raise IllegalParams(f"Invalid instance name: {why}")


def check_set(got: str, *, expected: str) -> None:
    """Raises `ReplicasetUuidMismatch`. got: the UUID that a peer names; expected: of the own replica set."""
    if got != expected:
        raise of_another_set(expected, got)


def of_another_set(
    expected: str, got: str, *, says: str = "", found: str = "", next: str = ""
) -> ReplicasetUuidMismatch:
    """says: who expects it, in brackets; found: where the other was met, in brackets or as `from ADDRESS`;
    next: what to do. All three may be left out."""
    what = f"expected {expected}{says and f' {says}'}, got {got}{found and f' {found}'}"
    text = f"Replica set UUID mismatch: {what}; nothing was changed{next and f'. Next: {next}'}"
    return ReplicasetUuidMismatch(text, expected=expected, got=got)


def check_set_name(got: str, expected: str, peer: str, uuid: str) -> None:
    """Raises `ReplicasetNameMismatch`. got: what the configuration of `peer` says, expected: what the own one
    says; "": a side that has none, or does not say it [M-5]. uuid: of the set of `peer`, "" if it has none.

    Only who has no data yet is asked: a set is known by its UUID, so its name may change.
    """
    if got and expected and got != expected:
        raise ReplicasetNameMismatch(
            f"Replicaset name mismatch: expected {expected}, got {got} of {peer} (replica set "
            f"{uuid or 'that is not made yet'}); nothing was joined. Next: check the addresses",
            expected=expected,
            got=got,
            uuid=uuid,
        )


def member_of(instance_uuid: str, members: Mapping[InstanceId, tuple[str, str | None]]) -> InstanceId:
    """The number under which a subscriber is registered. members: id -> (UUID, name).

    Raises `UnknownReplica` before its join is done.
    """
    for instance, (uuid, _) in members.items():
        if uuid == instance_uuid:
            return instance
    raise UnknownReplica(
        f"Can't subscribe non-anonymous replica {instance_uuid} until join is done", uuid=instance_uuid
    )


def check_serves_members(is_anonymous: bool) -> None:
    """is_anonymous: this instance has no id. Raises `Unsupported`: only others without one may follow it
    [M-6]."""
    if is_anonymous:
        raise Unsupported(
            "Anonymous replica does not support non-anonymous followers, nor the registration of members; "
            "nothing was done. Next: name a member of the set as source",
            is_anonymous="yes",
        )


def check_is_no_member(instance_uuid: str, members: Mapping[InstanceId, tuple[str, str | None]]) -> None:
    """members: as in `member_of`. Raises `ConfigError`: a member does not become anonymous [M-6]."""
    for number, (uuid, _) in members.items():
        if uuid == instance_uuid:
            raise stays_member(number)


def stays_member(number: InstanceId) -> ConfigError:
    """Why `replication.anon: true` is refused to an instance that is registered."""
    return ConfigError(
        "replication.anon cannot be turned on after bootstrap has finished: this instance is member "
        f"{number} of its set; nothing was changed. Next: replication.anon: false; or remove it by synchro "
        "member expel, move all its files away, instance.identity too, and start it",
        key="replication.anon",
        id=int(number),
    )


def check_not_removed(
    uuid: str,
    removed: Mapping[InstanceId, tuple[str, str | None]],
    members: Mapping[InstanceId, tuple[str, str | None]],
    queue_term: int,
) -> None:
    """Raises `Expelled`: a joiner whose data is gone, and which was removed under the identity that it kept.
    removed, members: as in `member_of`; queue_term: as in `expelled_error`."""
    if any(member == uuid for member, _ in members.values()):
        return
    for number, (gone, _) in removed.items():
        if gone == uuid:
            following = (
                "move all its files away, instance.identity too, take database.instance_uuid out of its "
                "configuration if it is there, and start it: it joins as a new member"
            )
            raise expelled_error(uuid, number, queue_term, next=following)


def expelled_error(uuid: str, number: InstanceId, queue_term: int, *, next: str = "") -> Expelled:
    """For streams with an instance that was removed from the set, and for itself [M-50] (ADR 41).
    queue_term: of the last decided PROMOTE or DEMOTE in the log of who says so."""
    return Expelled(
        f"Instance {uuid} was removed from the replica set, where its id was {number}; nothing was done"
        f"{next and f'. Next: {next}'}",
        uuid=uuid,
        id=int(number),
        queue_term=queue_term,
    )
