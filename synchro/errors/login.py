"""Errors of logins and sessions. See `kinds`."""

from __future__ import annotations

from synchro.errors.kinds import Code, Exit, Extra, Precondition, Retry, SynchroError


class SessionUnknown(SynchroError):
    """The session that the call names is none of this instance (any more).

    Sessions live in the memory of an instance: a restart ends them. Nothing was done; clients log in again by
    themselves.
    """

    reason = "SESSION_UNKNOWN"
    code = Code.UNAUTHENTICATED
    exit_code = Exit.ACCESS
    advice = "log in again; clients do so by themselves"


class SessionEnded(SynchroError):
    """The session of a stream ended while it went on: the user was dropped, or has another password.

    What had no answer may have been done.
    """

    reason = "SESSION_ENDED"
    code = Code.UNAUTHENTICATED
    exit_code = Exit.ACCESS
    retry = Retry.LOST
    advice = "log in again; **outcome unknown** for what had no answer"


class LoginLimited(SynchroError):
    """Too many failed logins from this address; nothing was done.

    details: retry_after_s.
    """

    reason = "LOGIN_LIMITED"
    code = Code.RESOURCE_EXHAUSTED
    extra = Extra.QUOTA
    exit_code = Exit.ACCESS
    advice = "wait as long as the text says"


class LoginQueueFull(SynchroError):
    """Too many logins wait for their turn; nothing was done.

    A check of a password takes 80 ms of a processor on purpose.
    """

    reason = "LOGIN_QUEUE_FULL"
    code = Code.RESOURCE_EXHAUSTED
    extra = Extra.RETRY
    exit_code = Exit.ACCESS
    retry = Retry.LATER
    advice = "retry"


class PlainConnection(Precondition):
    """A password would cross a connection that others can read; it is not sent, and not looked at."""

    reason = "PLAIN_CONNECTION"
    exit_code = Exit.ACCESS
    advice = "use TLS, or connect on the host of the instance"
