"""The process that Flower's SuperExec starts for a message at a site: always the installed courier, never the bundle's.

Flower 1.41 unpacks a run's bundle, puts it first on the module path and loads the ClientApp that it names. A bundle
with a ``client/app.py`` of its own would so be executed at the site, whoever sent it. A site therefore puts programs of
its own first on the SuperNode's PATH: ``flwr-clientapp`` is this module, and the other kinds of tasks that the
SuperExec knows are refused.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from pathlib import Path

from flwr.clientapp import ClientApp
from flwr.supercore.constant import TASK_TYPE_TO_COMMAND, TaskType
from flwr.supernode.cli.flwr_clientapp import flwr_clientapp
from flwr.supernode.runtime import run_clientapp

from client.app import app
from common.errors import AgentError
from security.files import replace

_COURIER = TASK_TYPE_TO_COMMAND[TaskType.CLIENT_APP]
_REFUSED = sorted({*TASK_TYPE_TO_COMMAND.values()} - {_COURIER})


def install(folder: Path) -> Path:
    """Write the site's programs into ``folder`` and return it.

    Raises:
        AgentError: They cannot be written.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    courier = f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -P -m client.courier_process "$@"\n'
    refusal = "#!/bin/sh\necho 'this site runs nothing but its courier' >&2\nexit 1\n"
    for name, script in ((_COURIER, courier), *((other, refusal) for other in _REFUSED)):
        replace(folder / name, [script.encode()], error=AgentError, mode=0o700)
    return folder


def main() -> None:
    """Be ``flwr-clientapp``, with the one thing changed: which app is loaded."""
    run_clientapp.get_load_client_app_fn = _installed_app
    flwr_clientapp()


def _installed_app(*_: object, **__: object) -> Callable[..., ClientApp]:
    return lambda *_, **__: app


if __name__ == "__main__":
    main()
