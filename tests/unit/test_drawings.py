"""A site's folder: what is read, how it is split, what is counted out, and that none of it is ever told."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError
from typer.testing import CliRunner

from client.cli_data import data_app
from client.drawings import Drawing, Drawings, DrawingSettings, load_drawings
from client.pictures import PIXEL_CEILING, clean
from client.reasons import MEANINGS, Handling, Skip
from client.units import units_of
from common.errors import DrawingsError

OMNIGLOT = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "omniglot"
SMALL = DrawingSettings(size=8)
CAPTIONED = DrawingSettings(size=8, default_caption="a drawing")


def picture(seed: int, kind: str = "PNG", edge: int = 12) -> bytes:
    """A picture of noise: another seed, another picture."""
    pixels = np.random.default_rng(seed).integers(0, 256, (edge, edge, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def filled(folder: Path, count: int, first: int = 0) -> Path:
    folder.mkdir(exist_ok=True)
    for seed in range(first, first + count):
        (folder / f"{seed:03d}.png").write_bytes(picture(seed))
    return folder


def tell(folder: Path, rows: Sequence[object]) -> None:
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def everything(found: Drawings) -> tuple[Drawing, ...]:
    return (*found.train, *found.held_out)


def captions(found: Drawings) -> list[str]:
    return sorted(d.caption for d in everything(found))


def sides(found: Drawings) -> tuple[list[str], list[str]]:
    return [d.digest for d in found.train], [d.digest for d in found.held_out]


# What is read


def test_metadata_gives_caption_and_drawer(tmp_path: Path) -> None:
    filled(tmp_path, 2)
    tell(
        tmp_path,
        [
            {"file_name": "000.png", "text": "a boat", "drawer": "07", "year": 1501},
            {"file_name": "001.png", "text": "a cat", "drawer": 8},
        ],
    )
    found = load_drawings(tmp_path, SMALL)
    assert {(d.caption, d.drawer) for d in everything(found)} == {("a boat", "07"), ("a cat", "8")}
    assert found.skipped == {}
    assert found.handled == {}


def test_pixels_are_those_of_the_picture(tmp_path: Path) -> None:
    filled(tmp_path, 1)
    (drawing,) = everything(load_drawings(tmp_path, CAPTIONED))
    assert np.array_equal(drawing.pixels, clean(picture(0), 8, 1000).pixels)
    assert drawing.pixels.shape == (8, 8, 3)
    assert drawing.pixels.dtype == np.uint8


def test_csv_metadata_is_read_with_quotes_and_line_breaks(tmp_path: Path) -> None:
    filled(tmp_path, 2)
    text = 'file_name,text,drawer\r\n000.png,"a boat, with\r\na sail",me\r\n001.png,a cat,\r\n'
    (tmp_path / "metadata.csv").write_bytes(text.encode())
    assert captions(load_drawings(tmp_path, SMALL)) == ["a boat, with a sail", "a cat"]


def test_a_txt_beside_the_picture_is_its_caption(tmp_path: Path) -> None:
    filled(tmp_path, 2)
    (tmp_path / "000.txt").write_text("a boat\n", encoding="utf-8")
    (tmp_path / "001.txt").write_bytes("\ufeffa caf\u00e9".encode())
    assert captions(load_drawings(tmp_path, SMALL)) == ["a boat", "a caf\u00e9"]


def test_metadata_comes_before_txt_and_txt_before_the_default(tmp_path: Path) -> None:
    filled(tmp_path, 3)
    tell(tmp_path, [{"file_name": "000.png", "text": "metadata"}, {"file_name": "001.png", "text": "  "}])
    for name in ("000", "001"):
        (tmp_path / f"{name}.txt").write_text("txt", encoding="utf-8")
    found = load_drawings(tmp_path, CAPTIONED)
    assert captions(found) == ["a drawing", "metadata", "txt"]
    assert found.handled == {Handling.DEFAULT_CAPTION: 1}


def test_folders_below_are_read_with_metadata_above_or_beside(tmp_path: Path) -> None:
    filled(tmp_path / "boats", 1)
    filled(tmp_path / "cats", 1, first=1)
    tell(tmp_path, [{"file_name": "boats/000.png", "text": "a boat"}])
    tell(tmp_path / "cats", [{"file_name": "./001.png", "text": "a cat"}])
    assert captions(load_drawings(tmp_path, SMALL)) == ["a boat", "a cat"]


def test_hidden_files_are_passed_over(tmp_path: Path) -> None:
    filled(tmp_path, 1)
    filled(tmp_path / ".thumbnails", 1, first=1)
    (tmp_path / "._000.png").write_bytes(b"resource fork")
    found = load_drawings(tmp_path, CAPTIONED)
    assert len(everything(found)) == 1
    assert found.skipped == {}


def test_an_accent_written_as_two_characters_is_the_same_name(tmp_path: Path) -> None:
    (tmp_path / "e\u0301tude.png").write_bytes(picture(0))
    tell(tmp_path, [{"file_name": "\u00e9tude.png", "text": "a study"}])
    assert captions(load_drawings(tmp_path, SMALL)) == ["a study"]


def test_on_a_folder_without_fault_datasets_reads_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import datasets

    folder = filled(tmp_path / "drawings", 4)
    tell(folder, [{"file_name": f"{i:03d}.png", "text": f"drawing {i}", "drawer": str(i)} for i in range(4)])
    theirs = datasets.load_dataset(
        "imagefolder", data_dir=str(folder), cache_dir=str(tmp_path / "cache"), split="train"
    )
    ours = everything(load_drawings(folder, DrawingSettings(size=12)))
    read = {(row["text"], row["drawer"], np.asarray(row["image"].convert("RGB")).tobytes()) for row in theirs}
    assert {(d.caption, d.drawer, d.pixels.tobytes()) for d in ours} == read


# How it is split


def test_the_split_is_the_same_at_every_reading_and_disjoint(tmp_path: Path) -> None:
    filled(tmp_path, 40)
    first, second = (sides(load_drawings(tmp_path, CAPTIONED)) for _ in range(2))
    assert first == second
    assert set(first[0]).isdisjoint(first[1])
    assert len(first[0]) + len(first[1]) == 40


def test_about_the_fraction_is_held_out(tmp_path: Path) -> None:
    filled(tmp_path, 200)
    for fraction in (0.15, 0.5):
        held = len(
            load_drawings(tmp_path, DrawingSettings(size=8, default_caption="x", held_out_fraction=fraction)).held_out
        )
        assert held == pytest.approx(200 * fraction, abs=4 * (200 * fraction * (1 - fraction)) ** 0.5)


def test_renaming_moving_and_another_format_move_no_drawing_to_the_other_side(tmp_path: Path) -> None:
    old, new = filled(tmp_path / "old", 30), tmp_path / "new"
    (new / "deep").mkdir(parents=True)
    for seed in range(30):
        (new / "deep" / f"z{100 - seed}.bmp").write_bytes(picture(seed, "BMP"))
    assert sides(load_drawings(old, CAPTIONED)) == sides(load_drawings(new, CAPTIONED))


def test_another_size_moves_no_drawing_to_the_other_side(tmp_path: Path) -> None:
    filled(tmp_path, 30)
    larger = DrawingSettings(size=16, default_caption="a drawing")
    assert sides(load_drawings(tmp_path, CAPTIONED)) == sides(load_drawings(tmp_path, larger))


def test_a_new_drawing_moves_no_other_to_the_other_side(tmp_path: Path) -> None:
    filled(tmp_path, 30)
    train, held_out = sides(load_drawings(tmp_path, CAPTIONED))
    filled(tmp_path, 10, first=30)
    more_train, more_held_out = sides(load_drawings(tmp_path, CAPTIONED))
    assert set(train) <= set(more_train)
    assert set(held_out) <= set(more_held_out)


def test_removing_a_drawing_moves_no_other_whichever_it_is(tmp_path: Path) -> None:
    """Neighbours are one unit apart, also where the last held-out drawing goes."""
    filled(tmp_path, 12)
    lowest, second, *_ = sorted(int(clean(picture(seed), 8, 10**6).digest[:13], 16) for seed in range(12))
    told = DrawingSettings(size=8, default_caption="x", held_out_fraction=(lowest + second) / 2**53)
    train, held_out = (set(side) for side in sides(load_drawings(tmp_path, told)))
    assert len(held_out) == 1
    for seed in range(12):
        file = tmp_path / f"{seed:03d}.png"
        digest = clean(file.read_bytes(), 8, 10**6).digest
        file.unlink()
        fewer = load_drawings(tmp_path, told)
        assert [set(side) for side in sides(fewer)] == [train - {digest}, held_out - {digest}]
        file.write_bytes(picture(seed))


@pytest.mark.parametrize("seed", range(8))
def test_a_lone_drawing_is_on_the_side_that_its_content_says(tmp_path: Path, seed: int) -> None:
    filled(tmp_path, 1, first=seed)
    found = load_drawings(tmp_path, DrawingSettings(size=8, default_caption="x", held_out_fraction=0.5))
    trained_on = int(clean(picture(seed), 8, 10**6).digest[0], 16) >= 8
    assert (len(found.train), len(found.held_out)) == (int(trained_on), int(not trained_on))


def test_a_fraction_of_nothing_holds_nothing_out(tmp_path: Path) -> None:
    filled(tmp_path, 5)
    assert load_drawings(tmp_path, DrawingSettings(size=8, default_caption="x", held_out_fraction=0)).held_out == ()


def test_duplicates_are_kept_once_whatever_their_name_and_format(tmp_path: Path) -> None:
    filled(tmp_path, 3)
    (tmp_path / "again.bmp").write_bytes(picture(0, "BMP"))
    (tmp_path / "and again.tif").write_bytes(picture(0, "TIFF"))
    found = load_drawings(tmp_path, CAPTIONED)
    assert found.skipped == {Skip.DUPLICATE: 2}
    assert len({d.digest for d in everything(found)}) == len(everything(found)) == 3


def shared_by(folder: Path, *names: str) -> Path:
    """Give each drawer the same picture, under a caption of their own, and another that is theirs alone."""
    folder.mkdir()
    rows = []
    for name in names:
        for file, seed, text in ((f"{name}-same.png", 999, f"as {name} says"), (f"{name}-own.png", ord(name), "own")):
            (folder / file).write_bytes(picture(seed))
            rows.append({"file_name": file, "text": text, "drawer": name})
    tell(folder, rows)
    return folder


def test_what_an_artist_has_does_not_depend_on_the_other_artists(tmp_path: Path) -> None:
    told = DrawingSettings(size=8, held_out_fraction=0.0)

    def artists(folder: Path) -> dict[frozenset[str], list[str]]:
        train = load_drawings(folder, told).train
        return {unit.digests: sorted(train[row].caption for row in unit.rows) for unit in units_of(train, "artist")}

    three = artists(shared_by(tmp_path / "three", "a", "b", "c"))
    assert sorted(three.values()) == [["as a says", "own"], ["as b says", "own"], ["as c says", "own"]]
    for left, right in (("a", "b"), ("b", "c"), ("a", "c")):
        two = artists(shared_by(tmp_path / f"{left}{right}", left, right))
        assert two.items() <= three.items()


def test_a_drawing_of_several_drawers_is_one_drawing_and_is_counted(tmp_path: Path) -> None:
    found = load_drawings(shared_by(tmp_path / "three", "a", "b", "c"), SMALL)
    assert found.handled == {Handling.SEVERAL_DRAWERS: 2}
    assert found.skipped == {}
    units = [unit for side in (found.train, found.held_out) for unit in units_of(side, "drawing")]
    assert sorted(len(unit.rows) for unit in units) == [1, 1, 1, 3]


def test_a_drawing_that_becomes_equal_to_another_by_scaling_takes_nothing_from_it(tmp_path: Path) -> None:
    for edge in (12, 24):
        Image.new("RGB", (edge, edge), (10, 20, 30)).save(tmp_path / f"{edge}.png")
    both = everything(load_drawings(tmp_path, CAPTIONED))
    assert len({drawing.digest for drawing in both}) == 2
    (tmp_path / "12.png").unlink()
    assert set(everything(load_drawings(tmp_path, CAPTIONED))) < set(both)


def test_two_files_whose_names_are_one_to_the_metadata_both_have_its_row(tmp_path: Path) -> None:
    composed, apart = "caf\u00e9.png", "cafe\u0301.png"
    for seed, name in enumerate((composed, apart)):
        (tmp_path / name).write_bytes(picture(seed))
    tell(tmp_path, [{"file_name": composed, "text": "a cup"}])
    if len(list(tmp_path.glob("*.png"))) == 2:  # some file systems know one name alone
        assert captions(load_drawings(tmp_path, SMALL)) == ["a cup", "a cup"]


def test_which_caption_a_duplicate_keeps_does_not_depend_on_names(tmp_path: Path) -> None:
    kept = []
    for i, (first, second) in enumerate([("a boat", "a ship"), ("a ship", "a boat")]):
        folder = tmp_path / str(i)
        folder.mkdir()
        for name in ("1.png", "2.png"):
            (folder / name).write_bytes(picture(0))
        tell(folder, [{"file_name": "1.png", "text": first}, {"file_name": "2.png", "text": second}])
        kept.append(captions(load_drawings(folder, SMALL)))
    assert kept == [["a boat"], ["a boat"]]


@given(st.lists(st.integers(0, 12), min_size=1, max_size=14), st.randoms(use_true_random=False), st.floats(0.01, 0.9))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_split_is_a_function_of_the_set_of_contents(
    tmp_path_factory: pytest.TempPathFactory, seeds: list[int], chance: Random, fraction: float
) -> None:
    told = DrawingSettings(size=8, default_caption="x", held_out_fraction=fraction)
    found = []
    for contents in (seeds, sorted(set(seeds))):
        folder = tmp_path_factory.mktemp("site")
        names = [f"{i}.png" for i in range(len(contents))]
        chance.shuffle(names)
        for name, seed in zip(names, contents, strict=True):
            (folder / name).write_bytes(picture(seed))
        found.append(load_drawings(folder, told))
    assert sides(found[0]) == sides(found[1])
    train, held_out = sides(found[0])
    assert set(train).isdisjoint(held_out)
    assert len(train) + len(held_out) == len(set(seeds))
    assert found[0].skipped.get(Skip.DUPLICATE, 0) == len(seeds) - len(set(seeds))


# What is counted out or mended


def skipped_of(folder: Path, told: DrawingSettings = CAPTIONED) -> dict[str, int]:
    return {str(reason): count for reason, count in load_drawings(folder, told).skipped.items()}


def test_a_picture_without_caption_is_skipped_without_a_default(tmp_path: Path) -> None:
    filled(tmp_path, 3)
    tell(tmp_path, [{"file_name": "000.png", "text": "a boat"}, {"file_name": "001.png", "text": " \n"}])
    assert skipped_of(tmp_path, SMALL) == {"no-caption": 2}


@pytest.mark.parametrize(
    ("caption", "kept"),
    [
        ("one two three", "one two"),
        ("one two", "one two"),
        ("one tw three", "one tw"),
        ("one twos three", "one twos"),
        ("one twothree", "one"),
        ("onetwothree", "onetwoth"),
        ("  one \n two  ", "one two"),
    ],
)
def test_long_captions_are_cut_at_a_word(tmp_path: Path, caption: str, kept: str) -> None:
    filled(tmp_path, 1)
    tell(tmp_path, [{"file_name": "000.png", "text": caption}])
    found = load_drawings(tmp_path, DrawingSettings(size=8, max_caption_characters=8))
    assert captions(found) == [kept]
    assert found.handled == ({Handling.CAPTION_CUT: 1} if len(" ".join(caption.split())) > 8 else {})


def test_control_characters_and_half_characters_are_taken_out_of_captions(tmp_path: Path) -> None:
    filled(tmp_path, 1)
    (tmp_path / "metadata.jsonl").write_bytes(rb'{"file_name": "000.png", "text": "a\u0000 b\ud800oat\u001b[2J"}')
    found = load_drawings(tmp_path, SMALL)
    assert captions(found) == ["a b oat [2J"]
    assert found.handled == {Handling.CAPTION_MENDED: 1}


@pytest.mark.parametrize("text", [None, 3.5, True, ["a", "b"], {"a": 1}])
def test_a_caption_that_is_no_text_is_none(tmp_path: Path, text: object) -> None:
    filled(tmp_path, 2)
    tell(tmp_path, [{"file_name": "000.png", "text": "a boat"}, {"file_name": "001.png", "text": text}])
    assert skipped_of(tmp_path, SMALL) == {"no-caption": 1}


def test_lines_that_are_not_utf8_are_counted_and_the_others_read(tmp_path: Path) -> None:
    filled(tmp_path, 2)
    lines = [b'\xef\xbb\xbf{"file_name": "000.png", "text": "a boat"}', b'{"file_name": "001.png", "text": "caf\xe9"}']
    (tmp_path / "metadata.jsonl").write_bytes(b"\n".join(lines))
    found = load_drawings(tmp_path, CAPTIONED)
    assert captions(found) == ["a boat", "a drawing"]
    assert found.skipped == {Skip.METADATA_NOT_UTF8: 1}


def test_lines_that_are_no_row_are_counted_and_the_others_read(tmp_path: Path) -> None:
    filled(tmp_path, 1)
    bad = [
        b"{",
        b"3",
        b"null",
        b"[1]",
        b'"000.png"',
        b"{}",
        b'{"file_name": 3}',
        b'{"file_name": ""}',
        b"[" * 100_000,
        b"1" * 9000,
    ]
    (tmp_path / "metadata.jsonl").write_bytes(b"\n\n".join([*bad, b'{"file_name": "000.png", "text": "a boat"}']))
    found = load_drawings(tmp_path, SMALL)
    assert captions(found) == ["a boat"]
    assert found.skipped == {Skip.METADATA_LINE_UNREADABLE: 10}


def test_csv_rows_that_are_none_are_counted(tmp_path: Path) -> None:
    filled(tmp_path, 2)
    text = "file_name,text\n000.png,a boat\n,nothing\n001.png,caf\u00e9\n"
    (tmp_path / "metadata.csv").write_bytes(text.encode("latin-1") + b"x" * 200_000 + b"\n")
    assert skipped_of(tmp_path) == {"metadata-line-unreadable": 2, "metadata-not-utf8": 1}


def test_a_row_may_come_twice_and_the_last_counts(tmp_path: Path) -> None:
    filled(tmp_path, 1)
    tell(tmp_path, [{"file_name": "000.png", "text": "a boat"}, {"file_name": "./000.png", "text": "a ship"}])
    found = load_drawings(tmp_path, SMALL)
    assert captions(found) == ["a ship"]
    assert found.skipped == {Skip.METADATA_REPEATED: 1}


@pytest.mark.parametrize(
    "name", ["not-there.png", "a\x00b.png", "\ud800.png", "x" * 5000 + ".png", "000.png/x.png", "."]
)
def test_a_row_without_its_picture_is_counted(tmp_path: Path, name: str) -> None:
    filled(tmp_path, 1)
    tell(tmp_path, [{"file_name": name, "text": "nothing"}])
    assert skipped_of(tmp_path) == {"named-but-missing": 1}


@pytest.mark.parametrize("name", ["../outside/000.png", "/etc/hostname", "deep/../../outside/000.png", ".."])
def test_a_row_that_leads_out_of_the_folder_is_counted_and_not_followed(tmp_path: Path, name: str) -> None:
    folder = filled(tmp_path / "site", 1)
    filled(tmp_path / "outside", 1, first=9)
    tell(folder, [{"file_name": name, "text": "stolen"}])
    found = load_drawings(folder, CAPTIONED)
    assert captions(found) == ["a drawing"]
    assert found.skipped == {Skip.OUTSIDE_THE_FOLDER: 1}


def test_links_out_of_the_folder_are_counted_and_not_followed(tmp_path: Path) -> None:
    folder, outside = filled(tmp_path / "site", 1), filled(tmp_path / "outside", 2, first=9)
    (outside / "note.txt").write_text("stolen", encoding="utf-8")
    tell(outside, [{"file_name": "000.png", "text": "stolen"}])
    (folder / "link.png").symlink_to(outside / "009.png")
    (folder / "000.txt").symlink_to(outside / "note.txt")
    (folder / "metadata.jsonl").symlink_to(outside / "metadata.jsonl")
    (folder / "folder").symlink_to(outside)
    found = load_drawings(folder, CAPTIONED)
    assert captions(found) == ["a drawing"]
    assert found.skipped == {Skip.OUTSIDE_THE_FOLDER: 4}


def test_a_row_for_a_link_out_of_the_folder_is_counted_once(tmp_path: Path) -> None:
    folder, outside = filled(tmp_path / "site", 1), filled(tmp_path / "outside", 1, first=9)
    (folder / "link.png").symlink_to(outside / "009.png")
    tell(folder, [{"file_name": "link.png", "text": "stolen"}])
    assert skipped_of(folder) == {"outside-the-folder": 1}


def test_links_inside_the_folder_are_read_and_circles_end(tmp_path: Path) -> None:
    filled(tmp_path / "store", 1)
    (tmp_path / "here.png").symlink_to(tmp_path / "store" / "000.png")
    (tmp_path / "store" / "circle").symlink_to(tmp_path)
    (tmp_path / "self.png").symlink_to(tmp_path / "self.png")
    tell(tmp_path, [{"file_name": "here.png", "text": "a boat"}])
    found = load_drawings(tmp_path, SMALL)
    assert captions(found) == ["a boat"]
    assert found.skipped == {Skip.NO_CAPTION: 1, Skip.UNREADABLE: 1}


def test_the_folder_itself_may_be_a_link(tmp_path: Path) -> None:
    filled(tmp_path / "real", 2)
    (tmp_path / "site").symlink_to(tmp_path / "real")
    assert len(everything(load_drawings(tmp_path / "site", CAPTIONED))) == 2


def test_pipes_are_not_waited_for(tmp_path: Path) -> None:
    filled(tmp_path, 1)
    os.mkfifo(tmp_path / "pipe.png")
    os.mkfifo(tmp_path / "metadata.jsonl")
    os.mkfifo(tmp_path / "000.txt")
    assert skipped_of(tmp_path) == {"unreadable": 2}


def test_folders_nested_deeper_than_calls_can_be_are_read(tmp_path: Path) -> None:
    filled(tmp_path, 1)
    nested = [f"{tmp_path}{'/d' * depth}" for depth in range(1, 1201)]
    for folder in nested:
        os.mkdir(folder)  # noqa: PTH102 - pathlib makes parents by calling itself
    deepest = Path(nested[-1]) / "0.png"
    deepest.write_bytes(picture(1))
    assert len(everything(load_drawings(tmp_path, CAPTIONED))) == 2
    deepest.unlink()
    for folder in reversed(nested):  # what clears the temporary folders calls itself too
        os.rmdir(folder)  # noqa: PTH106


def test_names_that_are_not_utf8_are_read(tmp_path: Path) -> None:
    name = os.fsencode(tmp_path) + b"/caf\xe9.png"
    with contextlib.closing(io.FileIO(name, "w")) as file:
        file.write(picture(0))
    assert len(everything(load_drawings(tmp_path, CAPTIONED))) == 1


def test_formats_that_are_not_read_are_counted_once(tmp_path: Path) -> None:
    filled(tmp_path, 1)
    for name in ("a.heic", "b.psd", "c.xyz", "notes.md", "metadata.parquet"):
        (tmp_path / name).write_bytes(b"something")
    tell(tmp_path, [{"file_name": name, "text": "x"} for name in ("a.heic", "c.xyz")])
    assert skipped_of(tmp_path) == {"format-not-read": 3, "metadata-not-read": 1}


def test_a_txt_that_is_no_text_is_counted(tmp_path: Path) -> None:
    filled(tmp_path, 1)
    (tmp_path / "000.txt").write_bytes(b"\xff\xfea\x00")
    assert skipped_of(tmp_path) == {"caption-unreadable": 1}


def test_each_bad_picture_is_counted_by_its_reason_and_the_good_ones_stay(tmp_path: Path) -> None:
    filled(tmp_path, 2)
    Image.fromarray(np.zeros((12, 12), np.uint16)).save(tmp_path / "deep.png")
    Image.new("CMYK", (12, 12), (0, 9, 9, 9)).save(tmp_path / "inks.jpg")
    Image.new("RGBA", (12, 12), (9, 9, 9, 99)).save(tmp_path / "alpha.png")
    Image.new("1", (12, 12), 1).save(tmp_path / "bit.png")
    Image.new("L", (40, 40)).save(tmp_path / "bomb.png")
    Image.new("L", (2, 40)).save(tmp_path / "thin.png")
    Image.new("L", (9, 9)).save(tmp_path / "moving.gif", save_all=True, append_images=[Image.new("L", (9, 9), 99)])
    (tmp_path / "short.png").write_bytes(picture(3)[:200])
    (tmp_path / "none.png").write_bytes(b"not a picture")
    (tmp_path / "empty.png").touch()
    found = load_drawings(tmp_path, DrawingSettings(size=8, default_caption="x", max_pixels=1000))
    assert found.skipped == {
        Skip.TOO_MANY_PIXELS: 1, Skip.TOO_SMALL: 1, Skip.ANIMATED: 1, Skip.TRUNCATED: 1, Skip.NOT_A_PICTURE: 2,
    }  # fmt: skip
    counts = Counter(found.handled)
    assert counts.pop(Handling.DEFAULT_CAPTION) == 6
    assert counts == {Handling.SIXTEEN_BIT: 1, Handling.CMYK: 1, Handling.ALPHA: 1, Handling.ONE_BIT: 1}
    assert len(everything(found)) == 6


def test_every_slug_is_explained() -> None:
    assert set(MEANINGS) == {*Skip, *Handling}


# What cannot be used at all


def test_an_empty_folder_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(DrawingsError, match=r"no drawing that can be used; got no pictures\. Put pictures"):
        load_drawings(tmp_path, SMALL)


def test_a_missing_folder_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(DrawingsError, match="does not exist"):
        load_drawings(tmp_path / "nowhere", SMALL)


def test_a_file_is_a_clear_error_that_does_not_name_it(tmp_path: Path) -> None:
    filled(tmp_path, 1)
    with pytest.raises(DrawingsError, match="got a file") as why:
        load_drawings(tmp_path / "000.png", SMALL)
    assert "000" not in str(why.value)


def test_nothing_usable_says_how_many_for_which_reason(tmp_path: Path) -> None:
    filled(tmp_path, 3)
    (tmp_path / "bad.png").write_bytes(b"bad")
    (tmp_path / "bad.txt").write_text("x", encoding="utf-8")
    with pytest.raises(DrawingsError, match=r"got 3 no-caption, 1 not-a-picture; .*Add captions") as why:
        load_drawings(tmp_path, SMALL)
    assert ".png" not in str(why.value)


@contextlib.contextmanager
def without_rights() -> Iterator[None]:
    """Take root's right to read everything away for a while."""
    if os.geteuid():
        yield
        return
    os.seteuid(65_534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_folder_that_may_not_be_read_is_a_clear_error(tmp_path: Path) -> None:
    folder = filled(tmp_path / "site", 1)
    folder.chmod(0)
    try:
        with (
            without_rights(),
            pytest.raises(DrawingsError, match=r"cannot be read; got Permission denied.*right to read"),
        ):
            load_drawings(folder, CAPTIONED)
    finally:
        folder.chmod(0o700)


def test_a_name_too_long_for_the_system_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(DrawingsError, match="cannot be read"):
        load_drawings(tmp_path / ("x" * 5000), SMALL)


@pytest.mark.parametrize(
    "wrong",
    [{"size": 4}, {"held_out_fraction": 1.0}, {"held_out_fraction": -0.1}, {"max_pixels": PIXEL_CEILING + 1},
     {"max_pixels": 0}, {"default_caption": "  "}, {"max_caption_characters": 0}, {"sise": 64}],
)  # fmt: skip
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        DrawingSettings.model_validate(wrong)


@pytest.mark.timeout(120)
@given(st.binary(max_size=400), st.binary(max_size=200), st.booleans())
@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_metadata_and_pictures_hold_a_folder_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, metadata: bytes, image: bytes, is_csv: bool
) -> None:
    folder = tmp_path_factory.mktemp("site")
    (folder / ("metadata.csv" if is_csv else "metadata.jsonl")).write_bytes(metadata)
    (folder / "a.png").write_bytes(image)
    (folder / "a.txt").write_bytes(metadata)
    (folder / "b.png").write_bytes(picture(0))
    assert len(everything(load_drawings(folder, CAPTIONED))) in (1, 2)
    with contextlib.suppress(DrawingsError):
        load_drawings(folder, SMALL)


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=8), lambda x: st.lists(x, max_size=2)
)


@pytest.mark.timeout(120)
@given(
    st.lists(
        st.fixed_dictionaries(
            {}, optional={"file_name": JSON | st.sampled_from(["b.png", "../b.png"]), "text": JSON, "drawer": JSON}
        )
    )
)
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_rows_say_a_good_picture_is_kept(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, object]]
) -> None:
    folder = tmp_path_factory.mktemp("site")
    tell(folder, rows)
    (folder / "b.png").write_bytes(picture(0))
    (drawing,) = everything(load_drawings(folder, CAPTIONED))
    assert drawing.caption.encode("utf-8").strip()


# That none of it is told


def test_no_log_error_or_repr_tells_anything_of_a_drawing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    (tmp_path / "secretname.png").write_bytes(picture(0))
    (tmp_path / "secretbad.png").write_bytes(picture(1)[:150])
    tell(
        tmp_path,
        [
            {"file_name": f"secret{n}.png", "text": "secretcaption", "drawer": "secretdrawer"}
            for n in ("name", "bad", "gone")
        ],
    )
    found = load_drawings(tmp_path, SMALL)
    told = [caplog.text, *capfd.readouterr(), repr(found), repr(found.train), str(found.skipped), str(found.handled)]
    (tmp_path / "secretname.png").unlink()
    with pytest.raises(DrawingsError) as why:
        load_drawings(tmp_path, SMALL)
    told += [str(why.value), repr(why.value)]
    assert everything(found)[0].digest not in "".join(told)
    assert "secret" not in "".join(told)


# The command


def test_data_check_prints_a_table_with_reasons_and_the_next_step(tmp_path: Path) -> None:
    filled(tmp_path, 10)
    (tmp_path / "secret.png").write_bytes(b"bad")
    done = CliRunner().invoke(data_app, ["check", str(tmp_path), "--caption", "a quiet harbour"])
    assert done.exit_code == 0
    lines = [line.split() for line in done.stdout.splitlines()]
    found = load_drawings(tmp_path, CAPTIONED)
    assert any(line[:4] == ["to", "train", "on", str(len(found.train))] for line in lines)
    assert any(line[:3] == ["held", "out", str(len(found.held_out))] for line in lines)
    assert any(line[:3] == ["not-a-picture", "1", "skipped:"] for line in lines)
    assert any(line[:3] == ["default-caption", "10", "converted:"] for line in lines)
    assert "Next: add drawings" in done.stdout
    assert "secret" not in done.stdout
    assert "harbour" not in done.stdout


def test_data_check_names_the_step_that_helps(tmp_path: Path) -> None:
    filled(tmp_path, 50)
    (tmp_path / "000.txt").write_text("a boat", encoding="utf-8")
    missing = CliRunner().invoke(data_app, ["check", str(tmp_path), "--size", "8"])
    assert "Next: give the drawings without a caption one" in missing.stdout
    ready = CliRunner().invoke(data_app, ["check", str(tmp_path), "--size", "8", "--caption", "a drawing"])
    assert "Next: name this folder as `data`" in ready.stdout


def test_data_check_as_json(tmp_path: Path) -> None:
    filled(tmp_path, 12)
    (tmp_path / "bad.png").write_bytes(b"bad")
    done = CliRunner().invoke(data_app, ["check", str(tmp_path), "--caption", "x", "--size", "8", "--json"])
    facts = json.loads(done.stdout)
    assert facts["train"] + facts["held_out"] == 12
    assert facts["skipped"] == {"not-a-picture": 1}
    assert facts["handled"] == {"default-caption": 12}
    assert (facts["captions"], facts["drawers"]) == (1, 0)


def test_data_check_of_nothing_is_our_error(tmp_path: Path) -> None:
    done = CliRunner().invoke(data_app, ["check", str(tmp_path)])
    assert isinstance(done.exception, DrawingsError)


# Real pen drawings


@pytest.mark.skipif(not OMNIGLOT.is_dir(), reason="the Omniglot drawings are not beside the project (../shared/data)")
def test_real_pen_drawings_load_fast_legible_and_small() -> None:
    began = time.process_time()
    sites = [load_drawings(folder, DrawingSettings()) for folder in sorted(OMNIGLOT.iterdir()) if folder.is_dir()]
    seconds = time.process_time() - began
    drawings = [d for site in sites for d in everything(site)]
    assert len(drawings) == 2720
    assert seconds < 20, "2,720 drawings take about 1.5 s of one core"
    assert all(site.skipped == {} for site in sites)
    assert all(0.10 < len(site.held_out) / len(everything(site)) < 0.20 for site in sites)
    darkest = np.array([int(d.pixels.min()) for d in drawings])
    assert float((darkest < 64).mean()) > 0.99, "strokes have faded"
    assert sum(len(d.packed) for d in drawings) < 2720 * 64 * 64 * 3 / 8
