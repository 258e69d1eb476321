"""Calls of the client that define things and are done once, as plans; see `api.Api`."""

from __future__ import annotations

from collections.abc import Iterable

from synchro.client import replies
from synchro.client.plans import Plan, Plans
from synchro.rpc.schema_form import Operation, run_once


class Definitions:
    """A part of `Api`."""

    plans: Plans

    def once(
        self, key: str, operations: Iterable[Operation], *, timeout: float | None = None
    ) -> Plan[replies.RanOnce]:
        """Run operations once in the life of the replica set; nothing is done if `key` was done before.

        operations: maps with one key, as `{"create_space": {"name": "test"}}`, `{"insert": {"space": "test",
        "tuple": [1]}}`; changes of the schema come first. Either kind alone is one transaction, in which the
        key is remembered too; both are two, and a call after the first one goes on with the second.
        """
        reply = yield from self.plans.change("RunOnce", run_once(key, operations), timeout)
        return replies.RanOnce(reply.executed, reply.executed_by, replies.txn_of(reply))
