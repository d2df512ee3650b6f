"""A ServerApp for tests: it sends every node one message with the same body and writes down what came back.

Flower starts it in a process of its own; the test reads the file that it writes.
"""

from __future__ import annotations

import json
import random
import time
from pathlib import Path
from typing import Any

from flwr.app import Context, Message
from flwr.serverapp import Grid, ServerApp

from common.courier_records import from_envelope, to_envelope

LETTER = b"letter "
PATIENCE_S = 60.0

app = ServerApp()


@app.main()  # type: ignore[untyped-decorator]
def main(grid: Grid, context: Context) -> None:
    """Send, collect, write. A run without an output file waits to be stopped."""
    config = context.run_config
    while not config["out"]:
        # As the round loop does. One long sleep would not do: Flower tells a ServerApp that its parent has gone by a
        # signal raised in another thread, and that is seen only when the main thread's own call returns.
        grid.get_node_ids()
        time.sleep(0.2)
    nodes = _gathered(grid, int(config["sites"]))
    # Of one kind all through, Flower would find its 5 MB chunks equal and send them once.
    body = random.Random(1).randbytes(int(config["bytes"]))  # noqa: S311
    pushed = _counted(grid)
    rounds = [_round(grid, nodes, body, number) for number in range(1, int(config["rounds"]) + 1)]
    result = {"rounds": rounds, "pushed_bytes": sum(pushed) / len(rounds), "body_bytes": len(body)}
    part = Path(str(config["out"])).with_suffix(".part")
    part.write_text(json.dumps(result), encoding="utf-8")
    part.replace(str(config["out"]))


def _gathered(grid: Grid, sites: int) -> list[int]:
    patience = time.monotonic() + PATIENCE_S
    while len(nodes := sorted(grid.get_node_ids())) < sites and time.monotonic() < patience:
        time.sleep(0.2)
    return nodes


def _counted(grid: Any) -> list[int]:  # noqa: ANN401 (Flower's own client, within its grid)
    """Count the bytes of each object that is pushed from here on."""
    client, sizes = grid._runtime_client, []
    push = client.PushObject

    def counting(request: Any) -> Any:  # noqa: ANN401
        sizes.append(len(request.object_content))
        return push(request)

    client.PushObject = counting
    return sizes


def _round(grid: Grid, nodes: list[int], body: bytes, number: int) -> dict[str, Any]:
    began = time.monotonic()
    tasks = [Message(from_envelope(LETTER + str(n).encode(), body), n, "train", ttl=120.0) for n in nodes]
    waiting, answers = set(grid.push_messages(tasks)), {}
    while waiting and time.monotonic() - began < PATIENCE_S:
        for reply in grid.pull_messages(waiting):
            waiting.discard(reply.metadata.reply_to_message_id)
            answers[str(reply.metadata.src_node_id)] = _judged(reply, body)
        time.sleep(0.1)
    return {"round": number, "seconds": time.monotonic() - began, "answers": answers}


def _judged(reply: Message, body: bytes) -> str:
    """Return ``echoed`` where the agent's own change of letter and body came back, else what went wrong."""
    if reply.has_error():
        return str(reply.error.reason)
    letter, answer = to_envelope(reply.content)
    right = letter == (LETTER + str(reply.metadata.src_node_id).encode()).upper() and answer == body[::-1]
    return "echoed" if right else "other content"
