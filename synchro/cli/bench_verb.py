"""`synchro bench`: writes of many callers through one connection."""

from __future__ import annotations

import time
from typing import Final

import click

from synchro.cli.connection import login, options, parse_duration
from synchro.cli.formatting import print_value, usage
from synchro.cli.program import DURATION, program
from synchro.errors import TimedOut

CALLERS_MAX: Final = 10_000
"""As many calls may wait in one instance (`limits.max_waiting_calls`)."""
PAYLOAD_BYTES_MAX: Final = 1_000_000
"""A tuple has at most 1 MiB."""


@program.command("bench")
@click.option("--space", default="bench", show_default=True, help="Made if it does not exist.")
@click.option(
    "--callers",
    metavar="N",
    type=click.IntRange(1, CALLERS_MAX),
    default=64,
    show_default=True,
    help="Writes in flight.",
)
@click.option("--duration", type=DURATION, metavar="TIME", default="5s", show_default=True, help="How long.")
@click.option("--async", "is_async", is_flag=True, help="Do not wait for a quorum.")
@click.option(
    "--payload",
    metavar="N",
    type=click.IntRange(0, PAYLOAD_BYTES_MAX),
    default=100,
    show_default=True,
    help="Bytes in a tuple.",
)
def bench(space: str, callers: int, duration: str, is_async: bool, payload: int) -> None:
    """Measure writes of one operation each; concurrent ones share frames of one stream."""
    import asyncio

    from synchro import aio
    from synchro.client import ops

    seconds = parse_duration(duration)
    if not seconds:
        raise usage("--duration is more than 0")
    text = "x" * payload
    delays: list[float] = []

    async def run() -> float:
        async with aio.connect(
            options.where,
            **login(options.where),
            cacert=options.cacert,
            cert=options.cert,
            key=options.key,
            timeout=max(options.timeout_s, 10.0),
        ) as db:
            await db.create_space(space, sync=not is_async, if_not_exists=True)
            await db.create_index(space, "primary", if_not_exists=True)
            started = time.perf_counter()
            end = started + seconds

            async def caller(number: int) -> None:
                key = number
                while (now := time.perf_counter()) < end:
                    await db.execute([ops.replace(space, (key, text))], omit_tuples=True)
                    delays.append(time.perf_counter() - now)
                    key += callers

            await asyncio.gather(*(caller(number) for number in range(callers)))
            return time.perf_counter() - started

    took_s = asyncio.run(run())
    if not delays:
        raise TimedOut(f"no write ended within {took_s:.3f} s; a longer --duration may help")
    delays.sort()

    def percentile(share: float) -> float:
        return delays[min(len(delays) - 1, int(len(delays) * share))] * 1000

    report = {
        "writes": len(delays),
        "seconds": round(took_s, 3),
        "per_second": round(len(delays) / took_s),
        "callers": callers,
        "p50_ms": round(percentile(0.5), 3),
        "p99_ms": round(percentile(0.99), 3),
        "max_ms": round(delays[-1] * 1000, 3),
    }
    if options.output != "table":
        print_value(report)
        return
    kind = "asynchronous" if is_async else "synchronous"
    print(
        f"{report['per_second']} {kind} writes per second, {callers} callers: "
        f"p50 {report['p50_ms']} ms, p99 {report['p99_ms']} ms, max {report['max_ms']} ms, "
        f"{report['writes']} writes in {report['seconds']} s"
    )
