"""What Prometheus would read of an endpoint."""

from __future__ import annotations

from collections.abc import Iterable
from urllib.request import urlopen

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from common.metrics_port import MetricsPort

Scraped = dict[tuple[str, ...], float]
"""Values by name and by the values of labels, in the order of the labels' names."""


def families_at(url: str) -> list[Metric]:
    """Scrape over HTTP."""
    with urlopen(url, timeout=30) as answer:  # noqa: S310 (always one of ours)
        return list(text_string_to_metric_families(answer.read().decode()))


def families_of(registry: CollectorRegistry) -> list[Metric]:
    """Tell a registry on a port of its own, and scrape it there."""
    with MetricsPort(registry, "127.0.0.1", 0, "server.toml") as port:
        return families_at(f"http://127.0.0.1:{port.port}/metrics")


def values(families: Iterable[Metric]) -> Scraped:
    return {
        (sample.name, *(sample.labels[key] for key in sorted(sample.labels))): sample.value
        for family in families
        for sample in family.samples
    }
