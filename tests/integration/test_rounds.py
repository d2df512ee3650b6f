"""Rounds with hostile sites: who is refused by which check, what is averaged, when a round closes, how it resumes."""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from common.adapter_schema import Adapter
from common.courier_records import to_envelope
from common.errors import RunError
from common.settings import AggregationSettings, RunSettings, SitePrivacySettings
from security.entries import Update, read_entry
from server import pulling, rounds
from server.journal import Journal
from server.rows import shown_run
from tests.integration.federation import RUN, SCHEMA, SETTINGS, Federation, Post, Way, a_delta

HONEST = ("anna", "bruno", "carla")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounds here take fractions of a second, and so may the last sites."""
    monkeypatch.setattr(rounds, "GRACE_S", 0.4)
    monkeypatch.setattr(pulling, "POLL_S", 0.01)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The adapter after one round of the three honest sites alone."""
    federation = Federation(tmp_path_factory.mktemp("undisturbed"), HONEST)
    federation.play()
    assert federation.checks() == dict.fromkeys(HONEST, "admitted")
    return federation.digest()


EXPECTED = {
    Way.LATE: "in-time",
    Way.SILENT: "in-time",
    Way.ERROR: "delivered",
    Way.NO_ENVELOPE: "delivered",
    Way.BREAKS_FLOWER: "delivered",
    Way.STRANGE_LETTER: "delivered",
    Way.TASK_OF_ANOTHER: "delivered",
    Way.GARBLED_LETTER: "envelope",
    Way.FOREIGN: "envelope",
    Way.POSING: "envelope",
    Way.MISADDRESSED: "envelope",
    Way.STALE: "envelope",
    Way.OTHER_TASK: "envelope",
    Way.REFUSES: "willing",
    Way.TASK_GARBLED: "willing",
    Way.GARBLED_BODY: "body",
    Way.TRUNCATED_BODY: "body",
    Way.WRONG_RANK: "schema",
    Way.MISSING_TENSOR: "schema",
    Way.EXTRA_TENSOR: "schema",
    Way.OTHER_ENCODING: "schema",
    Way.GARBAGE: "schema",
    Way.NAN: "finite",
    Way.INFINITE: "finite",
    Way.NAN_METRIC: "finite",
    Way.NO_EXAMPLES: "claims",
    Way.HUGE: "norm",
}


@pytest.mark.parametrize(("way", "check"), EXPECTED.items(), ids=lambda v: str(v).replace(" ", "-"))
def test_a_hostile_site_is_refused_by_its_check_and_leaves_no_trace_in_the_mean(
    way: Way, check: str, tmp_path: Path, undisturbed: str
) -> None:
    federation = Federation(tmp_path, (*HONEST, "mallory"))
    federation.sites["mallory"].behave(way, delay_s=3.0 if way is Way.LATE else 0.0)
    federation.play()
    assert federation.checks() == {**dict.fromkeys(HONEST, "admitted"), "mallory": check}
    assert federation.outcome() == "aggregated"
    assert federation.digest() == undisturbed


def test_last_rounds_answer_is_refused_by_the_envelope(tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"rounds": 2})
    honest, replayed = Federation(tmp_path / "a", HONEST, settings), Federation(tmp_path / "b", HONEST, settings)
    replayed.sites["carla"].behave(Way.REPLAYED)
    honest.sites["carla"].behave(Way.HONEST)
    honest.play()
    replayed.play()
    assert replayed.checks(1) == dict.fromkeys(HONEST, "admitted")
    assert replayed.checks(2) == {"anna": "admitted", "bruno": "admitted", "carla": "envelope"}
    assert replayed.digest(1) == honest.digest(1)
    assert replayed.digest(2) != honest.digest(2)


def test_an_answer_that_comes_twice_counts_once(tmp_path: Path, undisturbed: str) -> None:
    federation = Federation(tmp_path, HONEST)
    federation.sites["bruno"].behave(Way.TWICE)
    federation.play()
    assert federation.checks() == dict.fromkeys(HONEST, "admitted")
    assert federation.digest() == undisturbed


def test_the_aggregate_is_the_weighted_mean_of_the_honest_updates(tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"aggregation": AggregationSettings(norm_bound=10.0, refresh_every=0)})
    federation = Federation(tmp_path, (*HONEST, "mallory"), settings)
    federation.sites["mallory"].behave(Way.HUGE)
    federation.play()
    adapter: Adapter = federation.state().adapter
    start = np.zeros(SCHEMA.numel("B"), np.float32)
    weights = [14, 15, 15]  # ten, and one for each letter of the name
    mean = np.average([a_delta(n, 1, start).astype(np.float64) for n in HONEST], axis=0, weights=weights)
    assert np.abs(adapter.b - mean).max() < 1e-8
    assert {n: v.examples for n, v in federation.verdicts().items()} == {
        "anna": 14, "bruno": 15, "carla": 15, "mallory": 0,
    }  # fmt: skip


def test_the_order_of_arrival_changes_nothing(tmp_path: Path, undisturbed: str) -> None:
    for order in (("carla", "bruno", "anna"), ("bruno", "carla", "anna"), ("anna", "carla", "bruno")):
        federation = Federation(tmp_path / "-".join(order), HONEST)
        federation.play(federation.post(order))
        assert federation.digest() == undisturbed


def test_below_quorum_the_adapter_stays(tmp_path: Path) -> None:
    federation = Federation(tmp_path, HONEST, SETTINGS.model_copy(update={"rounds": 2}))
    federation.play(_turning(federation, {"bruno": Way.NAN, "carla": Way.HUGE}, at=2))
    assert (federation.outcome(1), federation.outcome(2)) == ("aggregated", "kept")
    assert federation.digest(2) == federation.digest(1)
    assert sorted(federation.checks(2).values()) == ["admitted", "finite", "norm"]


def _turning(federation: Federation, ways: dict[str, Way], at: int) -> Post:
    post = federation.post()

    def turn() -> None:
        if post.pushes == at - 1:
            for site, way in ways.items():
                federation.sites[site].behave(way)

    post.on_pull = turn
    return post


def test_a_round_closes_at_quorum_and_patience_without_the_silent_site(tmp_path: Path, undisturbed: str) -> None:
    federation = Federation(tmp_path, (*HONEST, "zoe"))
    federation.sites["zoe"].behave(Way.SILENT)
    began = time.monotonic()
    federation.play()
    assert time.monotonic() - began < 10  # two rounds; the deadline of each is 20 s
    assert federation.verdicts()["zoe"].reason == "no answer came before the round closed"
    assert federation.digest() == undisturbed


def test_patience_is_a_multiple_of_the_time_that_the_quorum_took(tmp_path: Path, undisturbed: str) -> None:
    settings = SETTINGS.model_copy(update={"patience": 20.0})
    federation = Federation(tmp_path, HONEST, settings)
    federation.sites["bruno"].behave(Way.HONEST, delay_s=0.2)  # the quorum of two is whole after 0.2 s
    federation.sites["carla"].behave(Way.HONEST, delay_s=1.5)  # long after the 0.4 s that everybody gets
    federation.play()
    assert federation.checks() == dict.fromkeys(HONEST, "admitted")
    assert federation.digest() == undisturbed


def test_without_a_quorum_a_round_ends_at_its_deadline(tmp_path: Path) -> None:
    federation = Federation(tmp_path, HONEST, SETTINGS.model_copy(update={"deadline_s": 1.0}))
    for name in ("bruno", "carla"):
        federation.sites[name].behave(Way.SILENT)
    began = time.monotonic()
    federation.play()
    assert 2.0 <= time.monotonic() - began < 10
    assert federation.checks() == {"anna": "admitted", "bruno": "in-time", "carla": "in-time"}
    assert federation.outcome() == "kept"


def test_too_few_sites_online_is_a_clear_error(tmp_path: Path) -> None:
    federation = Federation(tmp_path, HONEST, SETTINGS.model_copy(update={"gather_s": 0.1}))
    with pytest.raises(RunError, match="too few sites are online; got 1; expected a quorum of 2"):
        federation.play(_post_of(federation, "anna"))


def _post_of(federation: Federation, *names: str) -> Post:
    everybody = dict(federation.sites)
    federation.sites = {name: everybody[name] for name in names}
    try:
        return federation.post()
    finally:
        federation.sites = everybody


def four_rounds() -> RunSettings:
    return SETTINGS.model_copy(
        update={"rounds": 4, "aggregation": AggregationSettings(norm_bound=10.0, momentum=0.9, refresh_every=2)}
    )


@pytest.fixture(scope="module")
def four_undisturbed(tmp_path_factory: pytest.TempPathFactory) -> str:
    federation = Federation(tmp_path_factory.mktemp("four"), HONEST, four_rounds())
    federation.play()
    return federation.digest(4)


def test_a_run_that_stopped_between_rounds_ends_where_an_undisturbed_one_does(
    tmp_path: Path, four_undisturbed: str
) -> None:
    federation = Federation(tmp_path, HONEST, four_rounds())
    post = federation.post()
    post.fails_at = 3
    with pytest.raises(ConnectionError):
        federation.play(post)
    assert federation.store.last_closed(RUN) == 2
    again = federation.post()
    federation.play(again)
    assert again.pushes == 3  # rounds 3 and 4 and the measuring one
    assert federation.digest(4) == four_undisturbed


def test_a_run_that_stopped_inside_a_round_loses_that_round_at_most(
    tmp_path: Path, four_undisturbed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pulling, "PULL_MOST", 1)
    federation = Federation(tmp_path, HONEST, four_rounds())
    post = federation.post(order=HONEST)
    spool = federation.home.spool(RUN, 3)

    def stop() -> None:
        if len([*spool.glob("*.sealed")]) == 2:
            raise KeyboardInterrupt

    post.on_pull = stop
    with pytest.raises(KeyboardInterrupt):
        federation.play(post)
    assert federation.outcome(3) == "open"
    for site in federation.sites.values():
        site.restart()
    federation.play()
    assert [row.outcome for row in federation.store.rounds(RUN)] == ["aggregated"] * 4 + ["measured"]
    assert federation.digest(4) == four_undisturbed
    assert not spool.exists()


def test_the_spool_holds_what_came_and_never_an_updates_plaintext(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pulling, "PULL_MOST", 1)
    federation = Federation(tmp_path, HONEST)
    spool, seen = federation.home.spool(RUN, 1), dict[str, bytes]()

    def look() -> None:
        seen.update({file.stem: file.read_bytes() for file in spool.glob("*.sealed")})

    post = federation.post(order=HONEST, on_pull=look)
    federation.play(post)
    # The last answer is spooled after the last look, so two are seen.
    assert sorted(seen) == ["anna", "bruno"]
    sent = [to_envelope(content) for content in post.carried]
    for name, kept in seen.items():
        update = federation.sites[name].easel.plain[1]
        assert b"lora_B" in update
        assert b"lora_B" not in kept
        assert not any(update[at : at + 16] in kept for at in range(0, len(update) - 16, 8))
        assert any(kept == len(letter).to_bytes(4, "big") + letter + body for letter, body in sent)


def test_the_spool_is_cleared_after_the_round(tmp_path: Path) -> None:
    federation = Federation(tmp_path, (*HONEST, "mallory"))
    federation.sites["mallory"].behave(Way.HUGE)
    federation.play()
    assert [*federation.home.runs.rglob("spool*")] == []


def test_an_answer_that_the_disk_has_no_room_for_is_refused_as_not_spooled(tmp_path: Path, undisturbed: str) -> None:
    federation = Federation(tmp_path, (*HONEST, "mallory"))
    federation.sites["mallory"].behave(Way.SPRAWLING)
    with _files_of_at_most(1 << 20):
        federation.play()
    assert federation.checks() == {**dict.fromkeys(HONEST, "admitted"), "mallory": "spooled"}
    assert "room and leave to write" in federation.verdicts()["mallory"].reason
    assert federation.digest() == undisturbed
    assert [*federation.home.runs.rglob("*.tmp")] == []


def test_the_same_answer_is_admitted_where_there_is_room(tmp_path: Path) -> None:
    federation = Federation(tmp_path, (*HONEST, "mallory"))
    federation.sites["mallory"].behave(Way.SPRAWLING)
    federation.play()
    assert federation.checks()["mallory"] == "admitted"
    assert max(len(name) for name in federation.store.metrics(RUN, 1)["mallory"]) == 40


@contextmanager
def _files_of_at_most(size: int) -> Iterator[None]:
    """Let the system refuse to write beyond ``size`` bytes a file, as a full disk or a quota does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_after_the_last_round_sites_measure_and_the_adapter_stays(tmp_path: Path) -> None:
    federation = Federation(tmp_path, HONEST)
    federation.play()
    assert [(r.round, r.work, r.outcome) for r in federation.store.rounds(RUN)] == [
        (1, "train", "aggregated"), (2, "evaluate", "measured"),
    ]  # fmt: skip
    assert federation.store.rounds(RUN)[1].adapter_digest is None
    assert {n: m["held_out_loss"] for n, m in federation.store.metrics(RUN, 2).items()} == dict.fromkeys(HONEST, 0.25)


def revoked(federation: Federation, site: str) -> None:
    federation.house.publish(
        lambda roster: roster.with_revocation(federation.sites[site].identity.id, "left", roster.created_at_ms + 1)
    )


def test_an_update_in_flight_when_its_site_is_revoked_is_not_admitted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pulling, "PULL_MOST", 1)
    federation = Federation(tmp_path, HONEST, SETTINGS.model_copy(update={"rounds": 1, "quorum": 2}))
    post = federation.post(order=HONEST)
    gone: list[str] = []

    def revoke_the_last() -> None:
        if not gone:
            gone.append(HONEST[-1])
            revoked(federation, HONEST[-1])

    post.on_pull = revoke_the_last
    federation.play(post)
    verdicts = {v.site: (v.admitted, v.check) for v in federation.store.verdicts(RUN, 1)}
    assert verdicts.pop(HONEST[-1]) == (False, "member")
    assert set(verdicts.values()) == {(True, "admitted")}
    assert HONEST[-1] not in {v.site for v in federation.store.verdicts(RUN, 2)}, "a revoked site was asked again"


def test_an_update_that_was_admitted_before_its_site_was_revoked_is_not_averaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pulling, "PULL_MOST", 1)
    few = HONEST[:-1]
    settings = SETTINGS.model_copy(update={"rounds": 1, "quorum": 2})
    without = Federation(tmp_path / "without", few, settings)
    without.play()
    federation = Federation(tmp_path / "with", HONEST, settings)
    post = federation.post(order=[HONEST[-1], *few])  # the one that will be revoked answers first
    spool = federation.home.spool(RUN, 1)
    gone: list[str] = []

    def revoke_who_was_spooled() -> None:
        if not gone and [*spool.glob(f"{HONEST[-1]}.sealed")]:
            gone.append(HONEST[-1])
            revoked(federation, HONEST[-1])

    post.on_pull = revoke_who_was_spooled
    federation.play(post)
    assert gone, "the site was never spooled: this test would show nothing"
    verdict = next(v for v in federation.store.verdicts(RUN, 1) if v.site == HONEST[-1])
    assert (verdict.admitted, verdict.check) == (False, "member")
    assert federation.store.metrics(RUN, 1).keys() == set(few)
    assert federation.digest(1) == without.digest(1)


def test_a_run_that_protects_sites_bounds_each_and_records_what_each_spent(tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(
        update={"rounds": 2, "site_privacy": SitePrivacySettings(epsilon=2.0, delta=1e-3, clip=0.01)}
    )
    federation = Federation(tmp_path, HONEST, settings)
    federation.play(_turning(federation, {"carla": Way.SILENT}, at=2))
    spent = [federation.store.metrics(RUN, number) for number in (1, 2)]
    once, twice = spent[0]["anna"]["site_epsilon"], spent[1]["anna"]["site_epsilon"]
    assert once == spent[0]["carla"]["site_epsilon"]
    assert once < twice <= 2.0
    assert "carla" not in spent[1]
    # The ledger is read by many: beside the noised result it holds nothing exact of one site's work.
    told = [read_entry(data) for data in Journal(federation.home.database).reader.entries()]
    updates = [entry for entry in told if isinstance(entry, Update)]
    assert len(updates) >= 5
    assert all((one.norm, one.examples, one.metrics) == (None, None, None) for one in updates)
    for row in (row for one in shown_run(federation.store, RUN).rounds for row in one.verdicts):
        assert (row.norm, row.examples) == (0.0, 0)
        assert set(row.metrics) <= {"site_epsilon", "site_multiplier"}
    admitted = {v.site: v for v in federation.store.verdicts(RUN, 1) if v.admitted}
    assert all(v.norm and v.examples for v in admitted.values()), "the operator's own store has them"
    # Three sites, noise on their sum: far more than any of them may add, and of the deviation that is recorded.
    deviation = spent[0]["anna"]["site_multiplier"] * 0.01 / 3
    assert 0.7 < float(np.std(federation.state(1).adapter.b)) / deviation < 1.4
