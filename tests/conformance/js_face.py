"""gRPC as Node.js speaks it: a process that is told what to call."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import threading
from base64 import b64decode, b64encode
from collections import Counter
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Final

from synchro.wire.grpc_call import StatusCode
from tests.conformance.exchange import Exchange, FaceOptions, Outcome, multi

HERE: Final = Path(__file__).parent / "js"
ANSWER_S: Final = 90.0


class JsFace:
    """`Face` by `@grpc/grpc-js`."""

    def __init__(self, address: str, options: FaceOptions) -> None:
        node = shutil.which("node")
        assert node is not None, "there is no `node` here; `make setup-tests` says what to install"
        assert (HERE / "node_modules").is_dir(), f"run `make setup-tests`, or `npm ci` in {HERE}"
        arguments = json.dumps({"keepalive_s": options.keepalive_s, "gzip": options.gzip})
        environ = {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")}
        self._process = subprocess.Popen(
            [node, str(HERE / "client.js"), address, arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environ,
        )
        self._ids = itertools.count(1)
        self._waiting: dict[int, SimpleQueue[dict[str, Any]]] = {}
        self._lock = threading.Lock()
        self._reader = threading.Thread(target=self._read, name="node", daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            answer = json.loads(line)
            self._waiting.pop(answer["id"]).put(answer)

    def _ask(self, exchange: Exchange, **more: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        number = next(self._ids)
        queue = self._waiting[number] = SimpleQueue()
        job = {
            "id": number,
            "path": exchange.path,
            "kind": exchange.kind.value,
            "requests": [b64encode(request).decode() for request in exchange.requests],
            "timeout_s": exchange.timeout_s,
            "metadata": [
                (key, b64encode(value).decode(), True) if isinstance(value, bytes) else (key, value, False)
                for key, value in exchange.metadata
            ],
            "cancel_after": exchange.cancel_after,
            "cancel_after_s": exchange.cancel_after_s,
            "pause_s": exchange.pause_s,
            "wait_for_ready": exchange.wait_for_ready,
            **more,
        }
        with self._lock:
            self._process.stdin.write(json.dumps(job).encode() + b"\n")
            self._process.stdin.flush()
        return queue.get(timeout=ANSWER_S)

    def run(self, exchange: Exchange) -> Outcome:
        answer = self._ask(exchange)
        trailing = [
            (key, b64decode(value) if is_bytes else value) for key, value, is_bytes in answer["trailing"]
        ]
        return Outcome(
            [b64decode(reply) for reply in answer["replies"]],
            StatusCode(answer["code"]),
            answer["message"],
            multi(trailing),
        )

    def many(self, exchange: Exchange, *, count: int, at_once: int) -> Counter[StatusCode]:
        codes = self._ask(exchange, count=count, at_once=at_once)["codes"]
        return Counter({StatusCode(int(code)): number for code, number in codes.items()})

    def close(self) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(10)
        self._reader.join(10)
        self._process.stdout.close()
