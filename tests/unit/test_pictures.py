"""One picture: whatever its bytes are, it becomes clean RGB or is counted out; and its ink survives the scaling."""

from __future__ import annotations

import io
import logging
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from client.pictures import Cleaned, clean, fit, to_rgb
from client.reasons import Handling, Skip, SkippedError

MODES = [
    *["1", "L", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV", "I", "F", "LA", "PA", "RGBX", "RGBa", "La"],
    *["I;16", "I;16L", "I;16B"],
]
LIMIT = 1_000_000


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def noise(width: int = 40, height: int = 30, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def refused(data: bytes, limit: int = LIMIT) -> Skip:
    with pytest.raises(SkippedError) as why:
        clean(data, 16, limit)
    return why.value.reason


def plain(value: int, mode: str = "L") -> bytes:
    return encoded(Image.new(mode, (32, 32), value))


def middle(cleaned: Cleaned) -> list[int]:
    return [int(v) for v in cleaned.pixels[8, 8]]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", [16, 64])
def test_every_mode_of_pillow_becomes_rgb_of_the_wanted_size(mode: str, size: int) -> None:
    pixels = fit(to_rgb(Image.new(mode, (40, 30))), size)
    assert pixels.shape == (size, size, 3)
    assert pixels.dtype == np.uint8


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "CMYK", "LAB", "YCbCr", "I;16", "F"])
def test_every_mode_that_a_tiff_can_hold_is_read_from_a_file(mode: str) -> None:
    assert clean(encoded(Image.new(mode, (40, 30)), "TIFF"), 16, LIMIT).pixels.shape == (16, 16, 3)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "PPM"])
def test_every_format_is_read(kind: str) -> None:
    cleaned = clean(encoded(Image.new("RGB", (40, 30), (200, 100, 50)), kind), 16, LIMIT)
    assert np.abs(cleaned.pixels.astype(int) - [200, 100, 50]).max() <= 3


@pytest.mark.parametrize(("value", "expected"), [(0, 0), (257, 1), (32896, 128), (65535, 255), (255, 1)])
def test_sixteen_bits_are_scaled_and_not_cut_off(value: int, expected: int) -> None:
    cleaned = clean(plain(value, "I;16"), 16, LIMIT)
    assert middle(cleaned) == [expected] * 3
    assert cleaned.handled == (Handling.SIXTEEN_BIT,)


def test_sixteen_bits_in_the_other_byte_order_are_the_same() -> None:
    values = np.linspace(0, 65535, 32 * 32).reshape(32, 32)
    little = to_rgb(Image.fromarray(values.astype("<u2")))
    big = to_rgb(Image.frombytes("I;16B", (32, 32), values.astype(">u2").tobytes()))
    assert little.tobytes() == big.tobytes()


def test_a_sixteen_bit_tiff_in_which_zero_is_white_is_turned_round() -> None:
    data = encoded(Image.new("I;16", (32, 32), 0), "TIFF", tiffinfo={262: 0})
    assert middle(clean(data, 16, LIMIT)) == [255, 255, 255]


@pytest.mark.parametrize(("value", "expected"), [(0.5, 128), (1.0, 255), (128.0, 128), (65535.0, 255)])
def test_floats_are_scaled_by_the_white_that_fits(value: float, expected: int) -> None:
    assert middle(clean(encoded(Image.new("F", (32, 32), value), "TIFF"), 16, LIMIT)) == [expected] * 3


def test_floats_that_are_not_finite_are_skipped() -> None:
    assert refused(encoded(Image.new("F", (32, 32), float("nan")), "TIFF")) is Skip.TRUNCATED


def test_what_is_transparent_becomes_white_paper() -> None:
    cleaned = clean(encoded(Image.new("RGBA", (32, 32), (255, 0, 0, 0))), 16, LIMIT)
    assert middle(cleaned) == [255, 255, 255]
    assert cleaned.handled == (Handling.ALPHA,)


def test_what_is_half_transparent_is_mixed_with_white() -> None:
    assert middle(clean(encoded(Image.new("LA", (32, 32), (0, 128))), 16, LIMIT)) == [127, 127, 127]


def test_a_transparent_palette_colour_becomes_white_paper() -> None:
    image = Image.new("P", (32, 32), 0)
    image.putpalette([255, 0, 0, 0, 0, 255])
    cleaned = clean(encoded(image, transparency=0), 16, LIMIT)
    assert middle(cleaned) == [255, 255, 255]
    assert set(cleaned.handled) == {Handling.PALETTE, Handling.ALPHA}


def test_cmyk_becomes_rgb() -> None:
    cleaned = clean(encoded(Image.new("CMYK", (32, 32), (0, 255, 255, 0)), "TIFF"), 16, LIMIT)
    assert middle(cleaned) == [255, 0, 0]
    assert cleaned.handled == (Handling.CMYK,)


def test_one_bit_and_grey_are_told_apart() -> None:
    assert clean(plain(1, "1"), 16, LIMIT).handled == (Handling.ONE_BIT,)
    assert clean(plain(9, "L"), 16, LIMIT).handled == (Handling.GREY,)
    assert clean(encoded(noise()), 16, LIMIT).handled == ()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_is_set_upright(orientation: int) -> None:
    upright = noise(32, 24)
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }  # fmt: skip
    lying = upright.transpose(undo[orientation]) if orientation > 1 else upright
    exif = Image.Exif()
    exif[274] = orientation
    cleaned, expected = (clean(d, 16, LIMIT) for d in (encoded(lying, exif=exif), encoded(upright)))
    assert np.array_equal(cleaned.pixels, expected.pixels)
    assert cleaned.digest == expected.digest
    assert cleaned.handled == ((Handling.TURNED,) if orientation > 1 else ())


def test_a_picture_with_broken_exif_is_kept() -> None:
    data = encoded(noise(), exif=b"Exif\x00\x00MM\x00\x2a\xff\xff\xff\xff")
    assert clean(data, 16, LIMIT).digest == clean(encoded(noise()), 16, LIMIT).digest


def test_the_digest_tells_content_and_nothing_else() -> None:
    png, bmp, tiff = (encoded(noise(), kind) for kind in ("PNG", "BMP", "TIFF"))
    digests = {clean(data, size, LIMIT).digest for data in (png, bmp, tiff) for size in (16, 64)}
    assert len(digests) == 1
    assert clean(encoded(noise(seed=1)), 16, LIMIT).digest not in digests


def test_the_digest_tells_the_shape_too() -> None:
    wide, high = (clean(encoded(Image.new("RGB", shape)), 16, LIMIT) for shape in ((40, 30), (30, 40)))
    assert wide.digest != high.digest


def test_the_middle_is_cut_out() -> None:
    pixels = np.zeros((20, 60, 3), dtype=np.uint8)
    pixels[:, 20:40] = 255
    assert np.array_equal(fit(Image.fromarray(pixels), 20), np.full((20, 20, 3), 255))


def drawn_line(width: int) -> NDArray[np.uint8]:
    """Black lines of one width on white, 105 x 105, all at another place in the grid."""
    sheet = np.full((105, 105), 255, dtype=np.uint8)
    for at in (10, 31, 53, 76, 98):
        sheet[:, at : at + width] = 0
    return sheet


@pytest.mark.parametrize("width", [2, 3])
def test_thin_lines_of_one_bit_stay_dark_and_paper_stays_white(width: int) -> None:
    sheet = drawn_line(width)
    row = fit(to_rgb(Image.fromarray(sheet).convert("1")), 64)[32, :, 0]
    lines = [row[int(at * 64 / 105) - 1 : int((at + width) * 64 / 105) + 2].min() for at in (10, 31, 53, 76, 98)]
    assert max(lines) < 100, "a line has faded"
    assert (row == 255).mean() > 0.6, "paper beside the lines has greyed"


def test_scaling_down_keeps_the_mean_ink() -> None:
    sheet = drawn_line(3)
    small = fit(to_rgb(Image.fromarray(sheet)), 64)
    assert (255 - small.astype(float)).mean() == pytest.approx((255 - sheet.astype(float)).mean(), rel=0.01)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_more_than_one_frame_is_skipped(kind: str) -> None:
    data = encoded(noise(), kind, save_all=True, append_images=[noise(seed=1), noise(seed=2)])
    assert refused(data) is Skip.ANIMATED


def test_a_camera_jpeg_with_a_preview_is_read() -> None:
    data = encoded(noise(), "MPO", save_all=True, append_images=[noise(20, 15)])
    assert clean(data, 16, LIMIT).pixels.shape == (16, 16, 3)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "PPM"])
def test_a_picture_that_is_cut_short_is_skipped(kind: str) -> None:
    data = encoded(noise(), kind)
    assert refused(data[: len(data) // 2]) in {Skip.TRUNCATED, Skip.NOT_A_PICTURE}


def test_a_png_cut_after_its_header_is_called_truncated() -> None:
    assert refused(encoded(noise())[:200]) is Skip.TRUNCATED


def test_too_small_and_too_thin_pictures_are_skipped() -> None:
    assert refused(encoded(Image.new("L", (7, 100)))) is Skip.TOO_SMALL
    assert refused(encoded(Image.new("L", (161, 8)))) is Skip.TOO_THIN
    assert clean(encoded(Image.new("L", (160, 8))), 16, LIMIT).pixels.shape == (16, 16, 3)


def claimed_png(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds no pixels: once decoding began, it would be called truncated."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"none") + chunk(b"IEND", b"")


@pytest.mark.parametrize(("width", "height"), [(1001, 1000), (9600, 9600), (40_000, 40_000), (2**31 - 1, 2**31 - 1)])
def test_a_decompression_bomb_is_skipped_by_its_header(width: int, height: int) -> None:
    assert refused(claimed_png(width, height)) is Skip.TOO_MANY_PIXELS
    assert refused(claimed_png(1000, 1000)) is Skip.TRUNCATED


def test_the_limit_on_pixels_is_the_largest_that_passes() -> None:
    data = encoded(Image.new("L", (50, 40)))
    assert clean(data, 16, 2000).pixels.shape == (16, 16, 3)
    assert refused(data, 1999) is Skip.TOO_MANY_PIXELS


def test_postscript_is_never_run() -> None:
    assert refused(encoded(noise(), "EPS")) is Skip.NOT_A_PICTURE


@pytest.mark.parametrize("data", [b"", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"%!PS-Adobe-3.0 EPSF-3.0\n"])
def test_what_is_no_picture_is_skipped(data: bytes) -> None:
    assert refused(data) is Skip.NOT_A_PICTURE


def test_nothing_of_a_picture_reaches_a_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    tiff = encoded(noise(), "TIFF", tiffinfo={315: "A. Secret", 270: "the hidden title"})
    clean(tiff, 16, LIMIT)
    refused(tiff[:-50])
    clean(encoded(noise()), 16, LIMIT)
    assert caplog.text == ""


SEEDS = [encoded(noise(12, 10), kind) for kind in ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "PPM")]
SEEDS += [encoded(Image.new("I;16", (9, 9)), "TIFF"), encoded(Image.new("P", (9, 9)), transparency=0)]


@pytest.mark.timeout(120)
@given(st.binary(max_size=300))
@settings(max_examples=150, deadline=None)
def test_arbitrary_bytes_raise_nothing_but_a_reason(data: bytes) -> None:
    for head in (b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"II*\x00\x08\x00\x00\x00", b"GIF89a", b"BM", b"P5 "):
        try:
            cleaned = clean(head + data, 8, 10_000)
        except SkippedError:
            continue
        assert cleaned.pixels.shape == (8, 8, 3)


@pytest.mark.timeout(120)
@given(
    st.sampled_from(SEEDS),
    st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 255)), max_size=6),
    st.integers(0, 99),
)
@settings(max_examples=400, deadline=None)
def test_a_damaged_picture_raises_nothing_but_a_reason(seed: bytes, damage: list[tuple[int, int]], cut: int) -> None:
    data = bytearray(seed)
    for at, value in damage:
        data[at % len(data)] = value
    try:
        cleaned = clean(bytes(data[: len(data) - cut * (cut > 50)]), 8, 10_000)
    except SkippedError:
        return
    assert cleaned.pixels.shape == (8, 8, 3)


@given(st.integers(8, 60), st.integers(8, 60), st.sampled_from([8, 16, 33]), st.sampled_from(["L", "RGB", "RGBA", "1"]))
@settings(max_examples=60, deadline=None)
def test_every_shape_comes_out_square(width: int, height: int, size: int, mode: str) -> None:
    cleaned = clean(encoded(Image.new(mode, (width, height))), size, LIMIT)
    assert cleaned.pixels.shape == (size, size, 3)
