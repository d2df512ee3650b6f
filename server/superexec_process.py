"""Flower's SuperExec at the server, with one thing changed: what the ServerApps that it starts say is heard.

Flower 1.41 sends the output of its ServerApps to nowhere. Here they inherit the SuperExec's, which the server reads and
puts into its own log (:class:`~common.logs.ChildLines`).
"""

from __future__ import annotations

from flwr.supercore.cli.flower_superexec import flower_superexec
from flwr.supercore.superexec.plugin.base_exec_plugin import AutoExecPlugin


def main() -> None:
    """Be ``flower-superexec``."""
    AutoExecPlugin.suppress_output = False
    flower_superexec()


if __name__ == "__main__":
    main()
