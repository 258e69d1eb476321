"""From a history to a verdict. Each check returns what is wrong, in words; nothing means good."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise
from typing import Any

from tests.jepsen_like.history import Op, Operations
from tests.jepsen_like.linearizable import TooLong, is_linearizable, smallest_failing_prefix

OK_MIN = 500
STAYING_READS_MIN = 20
"""Linearizable reads for those that stay with one instance, most of them with a follower."""
OK_SHARE_MIN = 0.3


def _at_least(value: Any, bound: Any) -> bool:
    return bool(value >= bound)


def check_register(found: Operations) -> list[str]:
    """Linearizable for each key; reads of followers show only what somebody wrote, and never what failed."""
    problems = []
    by_key: dict[object, list[Op]] = defaultdict(list)
    stale: list[Op] = []
    for op in found.ops:
        if op.f == "read-follower":
            stale.append(op)
        elif op.type != "fail":
            by_key[op.key].append(op)
    for key, ops in by_key.items():
        try:
            good = is_linearizable(ops)
        except TooLong as error:
            problems.append(f"key {key}: the checker gave up: {error}")
            continue
        if not good:
            lines = "\n    ".join(str(op) for op in smallest_failing_prefix(ops)[-15:])
            problems.append(
                f"key {key} is not linearizable; the last operations up to the contradiction:\n    {lines}"
            )
    problems += check_follower_reads(found.ops, stale)
    return problems


def check_follower_reads(ops: Sequence[Op], reads: Sequence[Op]) -> list[str]:
    """S13, what can be seen of it from outside."""
    writers = {op.value: op for op in ops if op.f in ("write", "insert")}
    problems = []
    for read in reads:
        if not read.is_known or read.result is None:
            continue
        writer = writers.get(read.result)
        if writer is None or writer.began > read.end or writer.key != read.key:
            problems.append(f"{read.node} showed {read.result} of key {read.key}, which nobody had written")
        elif writer.type == "fail" or (writer.f == "insert" and writer.result is False):
            problems.append(f"{read.node} showed {read.result} of key {read.key}, which had failed: {writer}")
    return problems


def check_set(found: Operations, final: Mapping[str, set[int]]) -> list[str]:
    """Every acknowledged value is everywhere, no failed one anywhere; what a read showed once stays."""
    problems = []
    views = list(final.values())
    for node, view in final.items():
        if view != views[0]:
            problems.append(f"{node} differs in {sorted(view ^ views[0])[:20]}")
    there = views[0]
    added = [op for op in found.ops if op.f == "add"]
    acknowledged = {op.value for op in added if op.type == "ok"}
    failed = {op.value: op for op in added if op.type == "fail"}
    if lost := acknowledged - there:
        problems.append(f"{len(lost)} acknowledged values are lost: {sorted(lost, key=repr)[:20]}")
    if wrong := there & set(failed):
        problems.append(
            f"values that failed are there: {[str(failed[value]) for value in sorted(wrong)[:5]]}"
        )
    if invented := there - {op.value for op in added}:
        problems.append(f"values nobody added: {sorted(invented)[:20]}")
    ended = {op.value: op for op in added}
    for read in found.ops:
        if read.f != "read-all" or not read.is_known:
            continue
        shown = set(read.result)  # type: ignore[call-overload]
        if dirty := shown - there:
            problems.append(f"{read.node} showed {sorted(dirty)[:10]}, which are not there in the end")
        if early := {value for value in shown if ended[value].began > read.end}:
            problems.append(f"{read.node} showed {sorted(early)[:10]} before anybody added them")
        if read.key == "linearizable":
            due = {
                op.value
                for op in added
                if op.type == "ok" and op.end < read.began and _at_least(op.value, read.value)
            }
            if missing := due - shown:
                problems.append(f"a linearizable read missed {sorted(missing, key=repr)[:10]}")
    return problems


def set_summary(found: Operations, there: set[int]) -> str:
    added = [op for op in found.ops if op.f == "add"]
    unknown = [op for op in added if op.type == "info"]
    recovered = [op for op in unknown if op.value in there]
    return f"{len(there)} values, {len(recovered)} of {len(unknown)} unknown ones are there"


def why_invalid(
    found: Operations, *, planned: int, bites: int, owners: int, owner_must_change: bool
) -> list[str]:
    """A run that proves nothing. planned, bites: faults wanted and seen; owners: different owners seen."""
    reasons = []
    ok = len(found.of_type("ok"))
    if ok < OK_MIN:
        reasons.append(f"only {ok} operations were ok, {OK_MIN} are needed")
    if ok < OK_SHARE_MIN * len(found.ops):
        reasons.append(f"only {ok} of {len(found.ops)} operations were ok")
    if bites < planned:
        reasons.append(f"only {bites} of {planned} faults were seen to bite")
    if owner_must_change and owners < 2:
        reasons.append("the owner never changed")
    return reasons


def staying_reads(found: Operations, processes: Collection[int | str]) -> int:
    """Linearizable reads that were answered to these, which stay with one instance each."""
    return sum(op.f == "read" and op.is_known and op.process in processes for op in found.ops)


def longest_gap_s(found: Operations, times: Mapping[float, int]) -> float:
    """Longest time in which no write was acknowledged. times: index -> nanoseconds."""
    ends = sorted(times[op.end] for op in found.ops if op.type == "ok" and not op.f.startswith("read"))
    return max((b - a for a, b in pairwise(ends)), default=0) / 1e9
