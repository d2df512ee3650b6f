"""Measurements; each is `python -m benchmarks.NAME`."""

import common  # noqa: F401 (before gRPC, which reads at import what leaves TLS 1.3 alone)
