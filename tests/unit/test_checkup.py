"""Checkups: every check is made, what cannot be checked has failed, and the exit code says so."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from common.checkup import Finding, Grade, doubtful, examine, fine, report, wrong
from common.errors import IdentityError
from common.machine_checks import versions


def breaks(error: Exception) -> Iterator[Finding]:
    yield fine("before", "seen")
    raise error


def test_a_check_that_raises_has_failed_and_the_others_are_made() -> None:
    refused = IdentityError("a key cannot be read", got="mode 0644", expected="mode 0600", advice="chmod 600 it.")
    found = examine(
        [
            ("keys", lambda: breaks(refused)),
            ("odd", lambda: breaks(ValueError("a caption"))),
            ("last", lambda: [fine("last", "well")]),
        ]
    )
    broken = Grade.FAIL
    assert [(f.name, f.grade) for f in found] == [
        ("before", Grade.OK), ("keys", broken), ("before", Grade.OK), ("odd", broken), ("last", Grade.OK),
    ]  # fmt: skip
    assert found[1].found == "a key cannot be read; got mode 0644; expected mode 0600"
    assert found[1].mend == "chmod 600 it."
    assert found[3].found == "could not be checked: ValueError"


@pytest.mark.parametrize(
    ("findings", "code"),
    [
        ([], 0),
        ([fine("a", "b")], 0),
        ([fine("a", "b"), doubtful("c", "d", "e")], 0),
        ([wrong("a", "b", "c"), fine("a", "b")], 1),
    ],
)
def test_only_a_failed_check_fails_the_command(
    findings: list[Finding], code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert report(findings, json_=True) == code
    told = json.loads(capsys.readouterr().out)
    assert told["ok"] is (code == 0)
    assert [one["grade"] for one in told["findings"]] == [str(one.grade) for one in findings]
    assert report(findings, json_=False) == code
    shown = capsys.readouterr().out
    for finding in findings:
        assert finding.found in shown
        assert not finding.mend or f"-> {finding.mend}" in shown


def test_words_in_brackets_are_shown_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    report([wrong("a", "[bold] and [/nothing]", "b")], json_=False)
    assert "[bold] and [/nothing]" in capsys.readouterr().out


def test_what_is_installed_fits_what_bottega_requires() -> None:
    (found,) = versions()
    assert found.grade is Grade.OK, found.found
    assert "flwr 1." in found.found


def test_a_package_of_another_version_or_none_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib import metadata

    real = metadata.requires
    monkeypatch.setattr(
        metadata, "requires", lambda name: [*(real(name) or ()), "flwr<1.0", "no-such-package>=2", "x; extra == 'dev'"]
    )
    (found,) = versions()
    assert found.grade is Grade.FAIL
    assert "flwr 1." in found.found
    assert "no-such-package is not installed, needed >=2" in found.found
    assert "x is not" not in found.found
