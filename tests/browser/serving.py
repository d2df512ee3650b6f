"""The dashboard as a process of its own, and the browser that looks at it."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from playwright.sync_api import Browser, sync_playwright

CHROMIUM = next((found for name in ("chromium", "chromium-browser") if (found := shutil.which(name))), None)
"""The system's own: none is downloaded."""

NO_CHROMIUM = "no Chromium is installed (Debian: apt-get install chromium)"


class Dashboard:
    """`bottega audit serve` while it runs: the link that it printed, and where it is."""

    def __init__(self, process: subprocess.Popen[str], link: str) -> None:
        parts = urlsplit(link)
        self.process, self.link = process, link
        self.address = f"{parts.scheme}://{parts.netloc}"
        self._fresh: str | None = link

    def fresh_link(self) -> str:
        """Return a link that nobody has used yet: the first, or the one that is told when one was used."""
        assert self.process.stderr
        link, self._fresh = self._fresh, None
        while link is None:
            line = self.process.stderr.readline()
            assert line, "no other link was told"
            link = line.split()[-1] if "the next one may use" in line else None
        return link


@contextmanager
def dashboard(*options: str) -> Iterator[Dashboard]:
    """Run `bottega audit serve` with some options until the block ends."""
    command = [sys.executable, "-P", "-m", "deploy.cli", "audit", "serve", "--port", "0", *options]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])},
    )  # fmt: skip
    try:
        assert process.stdout
        link = process.stdout.readline().strip()
        if not link:
            _, told = process.communicate(timeout=20)
            raise AssertionError(told)
        yield Dashboard(process, link)
    finally:
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=20)
        process.kill()


@contextmanager
def browser() -> Iterator[Browser]:
    """Run the system's Chromium."""
    with sync_playwright() as playwright:
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        try:
            yield running
        finally:
            running.close()
