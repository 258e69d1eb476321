"""Tries wrong passwords, from many addresses of this host and on many connections: what a test starts as a
process of its own, `python -m tests.e2e.guesser HOST:PORT ROUND TRIES`. It prints how the tries ended."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections import Counter
from typing import Final

from synchro.rpc.generated.v1 import auth_pb2
from synchro.wire import frames
from synchro.wire.grpc_call import request_block
from tests.shell.stranger import Stranger, frame, message

PATH: Final = "/synchro.v1.AuthService/Login"
ADDRESSES: Final = 2
CONNECTIONS: Final = 24
"""Of each address."""
USERS: Final = ("app", "nobody")
RATE_S: Final = 250.0
"""Tries a second of all together; those that wait for the look at their password come later."""
ANSWER_S: Final = 60.0


class Guesser:
    """One connection; each try waits for its answer."""

    def __init__(self, where: str, source: str) -> None:
        self._stranger = Stranger(where, source=source).hello()
        self._stranger.answers = True
        self._next = 1

    def guess(self, user: str, password: str) -> tuple[str, str]:
        """Name of the status, and its text."""
        stranger, stream_id = self._stranger, self._next
        self._next += 2
        request = auth_pb2.LoginRequest(user=user, password=password).SerializeToString()
        block = request_block(PATH, "localhost")
        stranger.say(frame(frames.HEADERS, frames.END_HEADERS, stream_id, block), message(stream_id, request))
        assert stranger.hear(lambda: stream_id in stranger.statuses, ANSWER_S), "no answer"
        return stranger.statuses.pop(stream_id).name, stranger.texts.pop(stream_id)

    def close(self) -> None:
        self._stranger.sock.close()


def guess_many(where: str, source: str, tries: int, ends: Counter[str]) -> None:
    """`tries` from one connection, at its share of the rate. ends: name of a status -> how many."""
    guesser = Guesser(where, source)
    period_s = ADDRESSES * CONNECTIONS / RATE_S
    begun = time.monotonic()
    for number in range(tries):
        time.sleep(max(0.0, begun + number * period_s - time.monotonic()))
        ends[guesser.guess(USERS[number % len(USERS)], f"wrong{number}")[0]] += 1
    guesser.close()


def main() -> None:
    where, round_, tries = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    found: list[Counter[str]] = []
    threads = []
    for address in range(1, ADDRESSES + 1):
        for _ in range(CONNECTIONS):
            ends: Counter[str] = Counter()
            found.append(ends)
            share = tries // (ADDRESSES * CONNECTIONS)
            given = (where, f"127.0.{round_}.{address}", share, ends)
            threads.append(threading.Thread(target=guess_many, args=given))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(json.dumps(sum(found, Counter())))


if __name__ == "__main__":
    main()
