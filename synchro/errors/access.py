"""Errors of users, roles and what they may do. See `kinds`. Rules [S-2], [S-6]."""

from __future__ import annotations

from synchro.errors.kinds import AlreadyThere, BadInput, Code, Exit, NotNow, Precondition, SynchroError


class AccessDenied(SynchroError):
    """The user of this call may not do that; nothing was done [S-6].

    details: privilege, object_type, object, user.
    """

    reason = "ACCESS_DENIED"
    tnt_code = 42
    code = Code.PERMISSION_DENIED
    exit_code = Exit.ACCESS
    advice = "log in as a user with the privilege, or let one with the role `super` grant it"
    next_command = "synchro -u USER --password-file FILE ...   or   synchro grant USER PRIVILEGES KIND NAME"


class BadCredentials(SynchroError):
    """No such user, or another password; the same text for both [S-2]. Nothing was done."""

    reason = "BAD_CREDENTIALS"
    tnt_code = 47
    code = Code.UNAUTHENTICATED
    exit_code = Exit.ACCESS
    advice = "log in with the right name and password"
    next_command = "synchro -u USER --password-file FILE ...   or   SYNCHRO_PASSWORD"


class NoSuchUser(SynchroError):
    """No user of this name; nothing was done."""

    reason = "NO_SUCH_USER"
    tnt_code = 45
    code = Code.NOT_FOUND
    exit_code = Exit.NOT_FOUND
    advice = "`synchro user list`"
    next_command = "synchro user list"


class NoSuchRole(SynchroError):
    """No role of this name; nothing was done."""

    reason = "NO_SUCH_ROLE"
    tnt_code = 82
    code = Code.NOT_FOUND
    exit_code = Exit.NOT_FOUND
    advice = "`synchro user list`"
    next_command = "synchro user list"


class UserExists(AlreadyThere):
    """A user of this name exists."""

    reason = "USER_EXISTS"
    tnt_code = 46
    advice = "`--if-not-exists`"
    next_command = "--if-not-exists   or   synchro user passwd NAME"


class RoleExists(AlreadyThere):
    """A role of this name exists."""

    reason = "ROLE_EXISTS"
    tnt_code = 83
    advice = "`--if-not-exists`"
    next_command = "--if-not-exists   or   synchro user info NAME"


class UserMax(Precondition):
    """There are 32 users and roles [S-3]; nothing was done."""

    reason = "USER_MAX"
    tnt_code = 56
    advice = "drop one"


class RoleGranted(AlreadyThere):
    """The user or role has the role already."""

    reason = "ROLE_GRANTED"
    tnt_code = 90
    advice = "`--if-not-exists`"


class PrivGranted(AlreadyThere):
    """The user or role has the privilege already."""

    reason = "PRIV_GRANTED"
    tnt_code = 89
    advice = "`--if-not-exists`"


class RoleNotGranted(SynchroError):
    """The user or role does not have the role; nothing was done."""

    reason = "ROLE_NOT_GRANTED"
    tnt_code = 92
    code = Code.NOT_FOUND
    exit_code = Exit.NOT_FOUND
    next_command = "synchro user info NAME"


class PrivNotGranted(SynchroError):
    """The user or role does not have the privilege by itself; nothing was done. Perhaps a role of it has."""

    reason = "PRIV_NOT_GRANTED"
    tnt_code = 91
    code = Code.NOT_FOUND
    exit_code = Exit.NOT_FOUND
    next_command = "synchro user info NAME"


class RoleLoop(BadInput):
    """A role would be granted to itself, by itself or through others; nothing was done."""

    reason = "ROLE_LOOP"
    tnt_code = 87


class GuestUserPassword(BadInput):
    """The user `guest` has no password; nothing was done [S-2]."""

    reason = "GUEST_USER_PASSWORD"
    tnt_code = 96


class DropUser(Precondition):
    """The user or role cannot be dropped: it is built in, owns spaces, or asks itself; nothing was done."""

    reason = "DROP_USER"
    tnt_code = 44


class OlderMember(NotNow):
    """A member is of an older version, which could not take the rows; nothing was written (ADR 42)."""

    reason = "OLDER_MEMBER"
    advice = "run one version on all members"
