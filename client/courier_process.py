"""One message at a site: what the process does that is forked for it. Always the installed courier, never the bundle's.

Flower 1.41 unpacks a run's bundle, puts it first on the module path and loads the ClientApp that it names. A bundle
with a ``client/app.py`` of its own would so be executed at the site, whoever sent it.
"""

from __future__ import annotations

from collections.abc import Callable

from flwr.clientapp import ClientApp
from flwr.supercore.superexec.executor import ExecutionSpec
from flwr.supercore.tls import validate_and_resolve_root_certificates
from flwr.supernode.runtime import run_clientapp

from client.app import app
from common.flower_pace import quicken_pulls


def carry_one(spec: ExecutionSpec) -> None:
    """Be ``flwr-clientapp`` for one message, with the one thing changed: which app is loaded. Ends the process."""
    quicken_pulls()
    run_clientapp.get_load_client_app_fn = _installed_app
    run_clientapp.run_clientapp(
        runtime_api_address=spec.runtime_api_address,
        token=spec.token,
        insecure=spec.insecure,
        certificates=validate_and_resolve_root_certificates(spec.root_certificates_path, spec.insecure),
        parent_pid=spec.parent_pid,
        runtime_dependency_install=False,
    )


def _installed_app(*_: object, **__: object) -> Callable[..., ClientApp]:
    return lambda *_, **__: app
