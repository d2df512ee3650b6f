"""Promises 3 and 4 of the design, each in its own words, against sites and a network that do their worst."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.courier_records import to_envelope
from server import pulling, rounds
from tests.integration.federation import FEDERATION, RUN, SETTINGS, Federation, Way

HONEST = ("anna", "bruno", "carla")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounds here take fractions of a second."""
    monkeypatch.setattr(rounds, "GRACE_S", 0.2)
    monkeypatch.setattr(pulling, "POLL_S", 0.01)


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What the honest sites make without a hostile one beside them."""
    federation = Federation(tmp_path_factory.mktemp("honest"), HONEST)
    federation.play()
    return federation.digest()


def attacked(root: Path, way: Way, number: int = 1) -> Federation:
    federation = Federation(root, (*HONEST, "mallory"), SETTINGS.model_copy(update={"rounds": number}))
    federation.sites["mallory"].behave(way)
    federation.play()
    return federation


def test_the_superlink_its_disk_and_the_network_see_only_ciphertext(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pulling, "PULL_MOST", 1)
    federation = Federation(tmp_path, HONEST)
    on_disk: list[bytes] = []

    def look() -> None:
        on_disk.extend(file.read_bytes() for file in federation.home.spool(RUN, 1).glob("*"))

    post = federation.post(order=HONEST, on_pull=look)
    federation.play(post)
    carried = [part for content in post.carried for part in to_envelope(content)]
    assert len(carried) == 2 * (3 + 3) * 2  # letter and body of a task and an answer, for three sites, in two rounds
    assert len(on_disk) >= 2
    everything = b"\x00".join([*carried, *on_disk])
    plain = [text for site in federation.sites.values() for text in site.easel.plain]
    assert len(plain) == 3 * 3  # each site: the adapter it trained, its update, the adapter it measured
    for text in plain:
        quiet = (text[at : at + 12] for at in range(0, len(text) - 12, 4))
        assert not any(window in everything for window in quiet if len(set(window)) > 6)
    for word in (b"lora_", b"mid.attn", b"held_out_loss", b"learning_rate"):
        assert word not in everything
    assert FEDERATION.encode() in everything  # the header stands in the clear, so the search itself works


CHANGED = (Way.GARBLED_LETTER, Way.GARBLED_BODY, Way.TRUNCATED_BODY)
ELSEWHERE = (Way.MISADDRESSED, Way.OTHER_TASK, Way.FOREIGN, Way.POSING, Way.STALE)


@pytest.mark.parametrize("way", [*CHANGED, *ELSEWHERE], ids=str)
def test_a_changed_misaddressed_or_foreign_envelope_is_refused_and_recorded(
    way: Way, tmp_path: Path, honest: str
) -> None:
    federation = attacked(tmp_path, way)
    verdict = federation.verdicts()["mallory"]
    assert not verdict.admitted
    assert (verdict.number, verdict.check) in {(3, "envelope"), (6, "body")}
    assert verdict.reason
    assert federation.digest() == honest


def test_a_replayed_envelope_is_refused_and_recorded(tmp_path: Path) -> None:
    federation = attacked(tmp_path, Way.REPLAYED, number=2)
    verdict = federation.verdicts(2)["mallory"]
    assert (verdict.admitted, verdict.number, verdict.check) == (False, 3, "envelope")
    assert verdict.reason == "the letter's round does not match; got 1; expected 2"


@pytest.mark.parametrize("way", [Way.TASK_GARBLED, Way.TASK_OF_ANOTHER], ids=str)
def test_a_task_that_was_changed_or_misaddressed_is_refused_by_the_site_and_recorded(
    way: Way, tmp_path: Path, honest: str
) -> None:
    federation = attacked(tmp_path, way)
    assert not federation.verdicts()["mallory"].admitted
    assert not federation.sites["mallory"].easel.plain  # nothing was opened, so nothing was done
    assert federation.digest() == honest


LEDGER = {
    Way.ERROR: (1, "delivered", "the courier broke here", "an envelope"),
    Way.SILENT: (2, "in-time", "no answer came", ""),
    Way.FOREIGN: (3, "envelope", "", ""),
    Way.REFUSES: (5, "willing", "got rule", "expected an update"),
    Way.GARBLED_BODY: (6, "body", "", ""),
    Way.WRONG_RANK: (7, "schema", "got ", "expected "),
    Way.MISSING_TENSOR: (7, "schema", "got ", "expected "),
    Way.EXTRA_TENSOR: (7, "schema", "got ", "expected "),
    Way.OTHER_ENCODING: (7, "schema", "got 'bf16'", "expected fp32"),
    Way.GARBAGE: (7, "schema", "", ""),
    Way.NAN: (8, "finite", "got mid.attn.to_k.lora_B.weight", ""),
    Way.INFINITE: (8, "finite", "got mid.attn.to_k.lora_B.weight", ""),
    Way.NAN_METRIC: (8, "finite", "", "expected at most 32 finite numbers"),
    Way.NO_EXAMPLES: (9, "claims", "got 0", "expected "),
    Way.HUGE: (10, "norm", "got L2 norm", "expected at most 10"),
}


@pytest.mark.parametrize(("way", "said"), LEDGER.items(), ids=lambda v: str(v) if isinstance(v, Way) else "")
def test_an_update_that_fails_a_check_is_never_averaged_and_the_ledger_says_which_check_got_and_expected(
    way: Way, said: tuple[int, str, str, str], tmp_path: Path, honest: str
) -> None:
    federation = attacked(tmp_path, way)
    verdict = federation.verdicts()["mallory"]
    number, check, got, expected = said
    assert (verdict.admitted, verdict.number, verdict.check) == (False, number, check)
    assert got in verdict.reason
    assert expected in verdict.reason
    assert federation.digest() == honest


def test_a_refusal_in_the_ledger_repeats_no_line_break_of_a_strangers(tmp_path: Path) -> None:
    reason = attacked(tmp_path, Way.ERROR).verdicts()["mallory"].reason
    assert reason == "the courier brought an error; got the courier broke here; expected an envelope"


def test_three_hostile_sites_of_five_cannot_move_the_mean(tmp_path: Path) -> None:
    names = ("anna", "bruno", "mallory", "trudy", "zoe")
    federation, alone = Federation(tmp_path / "a", names), Federation(tmp_path / "b", names[:2])
    for name, way in zip(names[2:], (Way.HUGE, Way.POSING, Way.NAN), strict=True):
        federation.sites[name].behave(way)
    federation.play()
    alone.play()
    assert federation.digest() == alone.digest()
    assert [v.admitted for v in federation.verdicts().values()] == [True, True, False, False, False]


def test_a_node_that_belongs_to_nobody_is_asked_nothing(tmp_path: Path) -> None:
    federation = Federation(tmp_path, HONEST)
    post = federation.post()
    assert len([*post.get_nodes()]) == 4
    federation.play(post)
    assert federation.store.rounds(RUN)[0].asked == 3
