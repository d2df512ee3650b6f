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
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from playwright.sync_api import Browser, sync_playwright

CHROMIUM = next((found for name in ("chromium", "chromium-browser") if (found := shutil.which(name))), None)
"""The system's own: none is downloaded."""

NO_CHROMIUM = "no Chromium is installed (Debian: apt-get install chromium)"


@dataclass
class Dashboard:
    """`bottega audit serve` while it runs: the link that it printed, and where it is."""

    process: subprocess.Popen[str]
    link: str

    @property
    def address(self) -> str:
        parts = urlsplit(self.link)
        return f"{parts.scheme}://{parts.netloc}"

    def another_link(self) -> str:
        """Return the link that is told when one was used."""
        assert self.process.stderr
        for line in self.process.stderr:
            if "the next one may use" in line:
                return line.split()[-1]
        raise AssertionError("no other link was told")


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
