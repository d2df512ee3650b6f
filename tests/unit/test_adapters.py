"""The adapter contract: schema, flat vectors, and bytes from anywhere."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load

from common.adapters import (
    Adapter,
    AdapterSchema,
    LoraModule,
    NotFiniteError,
    Part,
    join,
    pack,
    split,
    unpack,
)
from common.errors import AdapterError
from common.quantise import BLOCK, Flat
from common.settings import Encoding

LINEAR = LoraModule("mid.attn1.to_q", out_features=3, in_features=5, rank=2)
CONV = LoraModule("up.0.conv", out_features=4, in_features=2, rank=2, kernel=(3, 3))
SCHEMA = AdapterSchema((LINEAR, CONV))
PARTS: tuple[Part, ...] = ("A", "B", "both")
ENCODINGS: tuple[Encoding, ...] = ("fp32", "fp16", "bf16", "int8")

names = st.text("abc._019", min_size=1, max_size=12)
sizes = st.integers(1, 9)
modules = st.builds(LoraModule, names, sizes, sizes, sizes, st.none() | st.tuples(sizes, sizes))
schemas = st.lists(modules, min_size=1, max_size=4, unique_by=lambda m: m.name).map(lambda m: AdapterSchema(tuple(m)))


def vector(schema: AdapterSchema, part: Part, seed: int = 0, spread: float = 0.01) -> Flat:
    return (np.random.default_rng(seed).standard_normal(schema.numel(part)) * spread).astype(np.float32)


def test_tensors_have_the_names_and_shapes_of_peft() -> None:
    assert [(s.name, s.shape) for s in SCHEMA.specs("both")] == [
        ("mid.attn1.to_q.lora_A.weight", (2, 5)),
        ("mid.attn1.to_q.lora_B.weight", (3, 2)),
        ("up.0.conv.lora_A.weight", (2, 2, 3, 3)),
        ("up.0.conv.lora_B.weight", (4, 2, 1, 1)),
    ]
    assert [s.name for s in SCHEMA.specs("B")] == ["mid.attn1.to_q.lora_B.weight", "up.0.conv.lora_B.weight"]
    assert [SCHEMA.numel(part) for part in PARTS] == [46, 14, 60]


def test_stable_diffusion_attention_at_rank_8_has_1_594_368_numbers() -> None:
    widths = [320] * 5 + [640] * 5 + [1280] * 6
    found: list[LoraModule] = []
    for block, width in enumerate(widths):
        for attention, context in (("attn1", width), ("attn2", 768)):
            for target, inputs in (("to_q", width), ("to_k", context), ("to_v", context), ("to_out.0", width)):
                found.append(LoraModule(f"{block}.{attention}.{target}", width, inputs, 8))
    schema = AdapterSchema(tuple(found))
    assert len(schema.modules) == 128
    assert schema.numel("both") == 1_594_368


@given(schemas)
def test_a_schema_survives_json_and_its_digest_tells_it_from_another(schema: AdapterSchema) -> None:
    again = AdapterSchema.from_json(schema.to_json())
    assert again == schema
    assert again.digest() == schema.digest()
    assert schema.with_rank(10).digest() != schema.digest()


def test_the_digest_of_a_schema_is_this_for_ever() -> None:
    assert SCHEMA.digest() == "1653290c51d35ea8d2af7d2ad519353027fe5c5109c9f0a6879a99d8ea24733a"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        "{}",
        '{"modules":[]}',
        "[" * 100_000,
        '{"modules":[{"name":"x","out_features":"3","in_features":5,"rank":2,"kernel":null}]}',
        '{"modules":[{"name":"x","out_features":3,"in_features":5,"rank":true,"kernel":null}]}',
        '{"modules":[{"name":"x","out_features":3,"in_features":5,"rank":0,"kernel":null}]}',
        '{"modules":[{"name":"x","out_features":3,"in_features":5,"rank":-2,"kernel":null}]}',
        '{"modules":[{"name":"x","out_features":3,"in_features":5,"rank":' + "9" * 5000 + ',"kernel":null}]}',
        '{"modules":[{"name":"x","out_features":3,"in_features":1073741825,"rank":1,"kernel":null}]}',
        '{"modules":[{"name":"x","out_features":3,"in_features":1073741824,"rank":8,"kernel":null}]}',
        '{"modules":[{"name":"","out_features":3,"in_features":5,"rank":2,"kernel":null}]}',
        '{"modules":[{"name":"x\\n","out_features":3,"in_features":5,"rank":2,"kernel":null}]}',
        '{"modules":[{"name":"x","out_features":3,"in_features":5,"rank":2,"kernel":[3]}]}',
        SCHEMA.to_json() + " ",
        SCHEMA.to_json().replace("}]", ',"extra":1}]'),
        SCHEMA.to_json().replace('"rank":2', '"rank":2.0'),
        SCHEMA.to_json().replace('"rank":2}', '"rank":9,"rank":2}'),
        SCHEMA.to_json().replace("up.0.conv", "mid.attn1.to_q"),
    ],
)
def test_what_is_no_schema_is_refused(text: str) -> None:
    with pytest.raises(AdapterError):
        AdapterSchema.from_json(text)


@given(st.text())
def test_no_text_makes_the_schema_reader_fail_otherwise(text: str) -> None:
    with pytest.raises(AdapterError):
        AdapterSchema.from_json(text)


def test_views_share_memory_with_the_flat_vector() -> None:
    flat = np.arange(60, dtype=np.float32)
    views = SCHEMA.views(flat, "both")
    assert views["mid.attn1.to_q.lora_B.weight"].tolist() == [[10, 11], [12, 13], [14, 15]]
    views["up.0.conv.lora_A.weight"][0, 0, 0, 0] = -1
    assert flat[16] == -1


@given(schemas, st.sampled_from(PARTS))
def test_flatten_undoes_views(schema: AdapterSchema, part: Part) -> None:
    flat = vector(schema, part)
    assert schema.flatten(schema.views(flat, part), part).tobytes() == flat.tobytes()


def test_flatten_refuses_missing_extra_and_misshapen_tensors_by_name_and_shape() -> None:
    tensors = SCHEMA.views(vector(SCHEMA, "B"), "B")
    name = "up.0.conv.lora_B.weight"
    with pytest.raises(AdapterError, match=r"1 tensors are missing.*no up\.0\.conv\.lora_B\.weight"):
        SCHEMA.flatten({k: v for k, v in tensors.items() if k != name}, "B")
    with pytest.raises(AdapterError, match=r"1 are not in the schema.*stray"):
        SCHEMA.flatten({**tensors, "stray": np.zeros(1, np.float32)}, "B")
    with pytest.raises(AdapterError, match=r"float32 \(4, 2\); expected float32 \(4, 2, 1, 1\)"):
        SCHEMA.flatten({**tensors, name: np.zeros((4, 2), np.float32)}, "B")
    with pytest.raises(AdapterError, match="float64"):
        SCHEMA.flatten({**tensors, name: np.zeros((4, 2, 1, 1))}, "B")  # type: ignore[dict-item]


@given(schemas)
def test_split_undoes_join(schema: AdapterSchema) -> None:
    adapter = Adapter(schema, vector(schema, "A", 1), vector(schema, "B", 2))
    both = join(adapter)
    again = split(schema, both)
    assert (
        both.tobytes()
        == schema.flatten({**schema.views(adapter.a, "A"), **schema.views(adapter.b, "B")}, "both").tobytes()
    )
    assert again.a.tobytes() == adapter.a.tobytes()
    assert again.b.tobytes() == adapter.b.tobytes()


@pytest.mark.parametrize(
    "bad", [np.zeros(45, np.float32), np.zeros(46), np.zeros(92, np.float32)[::2], np.zeros((46, 1), np.float32)]
)
def test_an_adapter_of_another_length_dtype_or_layout_is_refused(bad: Flat) -> None:
    with pytest.raises(AdapterError, match="part A"):
        Adapter(SCHEMA, bad, vector(SCHEMA, "B"))


# --- bytes ------------------------------------------------------------------------------------------------------------


@given(schemas, st.sampled_from(PARTS), st.integers(0, 2**32))
def test_fp32_comes_back_exactly(schema: AdapterSchema, part: Part, seed: int) -> None:
    bits = np.random.default_rng(seed).integers(0, 2**32, schema.numel(part), np.uint32)
    flat = bits.view(np.float32)
    flat[~np.isfinite(flat)] = -0.0
    assert unpack(pack(flat, schema, part, "fp32"), schema, part).tobytes() == flat.tobytes()


@given(st.integers(0, 2**32), st.sampled_from([("fp16", 11, -24, 65504.0), ("bf16", 8, -133, 3.38e38)]))
def test_fp16_and_bf16_are_off_by_half_a_unit_at_most(seed: int, kind: tuple[Encoding, int, int, float]) -> None:
    encoding, digits, least, largest = kind
    flat = np.random.default_rng(seed).integers(0, 2**32, SCHEMA.numel("both"), np.uint32).view(np.float32)
    flat[~(np.abs(flat) <= largest)] = 0.3
    again = unpack(pack(flat, SCHEMA, "both", encoding), SCHEMA, "both", encoding)
    unit = np.ldexp(1.0, np.maximum(np.frexp(flat.astype(np.float64))[1] - digits, least))
    assert (np.abs(again.astype(np.float64) - flat) <= unit / 2).all()


@pytest.mark.parametrize(
    ("encoding", "value", "expected"),
    [
        ("fp16", 1 + 2**-11, 1.0),  # a tie goes to the even neighbour
        ("fp16", 1 + 3 * 2**-11, 1 + 2**-9),
        ("fp16", 2.0**-24, 2.0**-24),  # subnormal
        ("bf16", 1 + 2**-8, 1.0),
        ("bf16", 1 + 3 * 2**-8, 1 + 2**-6),
        ("bf16", -3.0, -3.0),
    ],
)
def test_rounding_is_to_nearest_even(encoding: Encoding, value: float, expected: float) -> None:
    flat = np.full(60, value, np.float32)
    assert set(unpack(pack(flat, SCHEMA, "both", encoding), SCHEMA, "both").tolist()) == {expected}


@pytest.mark.parametrize(
    ("encoding", "value"), [("fp16", 65520.0), ("fp16", -1e30), ("bf16", 3.4e38), ("int8", 3.4e38)]
)
def test_a_value_too_large_for_the_encoding_is_refused(encoding: Encoding, value: float) -> None:
    flat = vector(SCHEMA, "B")
    flat[7] = value
    with pytest.raises(AdapterError, match=f"too large for {encoding}"):
        pack(flat, SCHEMA, "B", encoding)


LONG = AdapterSchema((LoraModule("long", out_features=700, in_features=3, rank=1),))


def test_int8_is_right_on_average_and_off_by_less_than_one_step() -> None:
    flat = vector(LONG, "B", seed=5, spread=1.0)
    steps = np.repeat([np.abs(flat[i : i + BLOCK]).max() / 127 for i in range(0, 700, BLOCK)], BLOCK)[:700]
    total, draws = np.zeros(700), 2000
    for seed in range(draws):
        again = unpack(pack(flat, LONG, "B", "int8", seed), LONG, "B")
        assert (np.abs(again - flat) <= steps * 1.0001).all()
        total += again
    # a draw's standard deviation is at most half a step: 5 of the mean's, over 700 numbers, is chance 4e-4
    assert (np.abs(total / draws - flat) <= 5 * steps / 2 / np.sqrt(draws)).all()
    assert abs((total / draws - flat).mean()) < 4 * float(steps.mean()) / 2 / np.sqrt(draws * 700)


def test_int8_rounds_the_same_way_for_the_same_seed_only() -> None:
    flat = vector(LONG, "B")
    assert pack(flat, LONG, "B", "int8", 1) == pack(flat, LONG, "B", "int8", 1)
    assert pack(flat, LONG, "B", "int8", 1) != pack(flat, LONG, "B", "int8", 2)


@pytest.mark.parametrize("value", [0.0, 1e-45, 3.3e38, -1.0])
def test_int8_holds_extreme_blocks(value: float) -> None:
    flat = np.full(700, value, np.float32)
    expected = 0.0 if abs(value) < 1e-37 else value
    assert unpack(pack(flat, LONG, "B", "int8"), LONG, "B").tolist() == pytest.approx([expected] * 700, rel=1e-6)


@pytest.mark.parametrize(("encoding", "size"), [("fp32", 240), ("fp16", 120), ("bf16", 120), ("int8", 64)])
def test_the_file_is_as_large_as_its_numbers_and_a_header(encoding: Encoding, size: int) -> None:
    data = pack(vector(SCHEMA, "both"), SCHEMA, "both", encoding)
    header = 8 + int.from_bytes(data[:8], "little")
    assert header % 8 == 0
    assert len(data) - header == size


@pytest.mark.parametrize("encoding", ["fp32", "fp16", "int8"])
def test_any_safetensors_reader_opens_the_file(encoding: Encoding) -> None:
    flat = vector(SCHEMA, "both")
    data = pack(flat, SCHEMA, "both", encoding)
    read = load(data)
    values = unpack(data, SCHEMA, "both")
    scale = read.pop("block_scales", np.ones(1))[0]
    assert {name: tensor.shape for name, tensor in read.items()} == {s.name: s.shape for s in SCHEMA.specs("both")}
    for name, tensor in SCHEMA.views(values, "both").items():
        np.testing.assert_allclose(read[name] * scale, tensor, rtol=1e-6)


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("shift", [0, 1, 3])
def test_reading_into_a_buffer_from_any_address_gives_the_same(encoding: Encoding, shift: int) -> None:
    data = pack(vector(SCHEMA, "both"), SCHEMA, "both", encoding)
    moved = memoryview(bytes(shift) + data)[shift:]
    out = np.full(60, np.nan, np.float32)
    assert unpack(moved, SCHEMA, "both", encoding, out) is out
    assert out.tobytes() == unpack(data, SCHEMA, "both").tobytes() == unpack(moved, SCHEMA, "both").tobytes()


def test_an_fp32_file_is_read_without_a_copy_and_cannot_be_written_through() -> None:
    data = bytearray(pack(vector(SCHEMA, "both"), SCHEMA, "both", "fp32"))
    seen = unpack(memoryview(data), SCHEMA, "both")
    assert np.shares_memory(seen, np.frombuffer(data, np.uint8))
    with pytest.raises(ValueError, match="read-only"):
        seen[0] = 1


def test_a_buffer_that_does_not_fit_is_refused() -> None:
    data = pack(vector(SCHEMA, "both"), SCHEMA, "both", "fp32")
    with pytest.raises(AdapterError, match=r"\(59,\)"):
        unpack(data, SCHEMA, "both", out=np.zeros(59, np.float32))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_number_that_is_not_finite_is_never_written(bad: float, encoding: Encoding) -> None:
    flat = vector(SCHEMA, "both")
    flat[12] = bad
    with pytest.raises(NotFiniteError, match=r"mid\.attn1\.to_q\.lora_B\.weight"):
        pack(flat, SCHEMA, "both", encoding)


@pytest.mark.parametrize("into", [False, True])
@pytest.mark.parametrize(
    ("encoding", "bad"),
    [
        ("fp32", np.array([np.nan], "<f4")),
        ("fp32", np.array([-np.inf], "<f4")),
        ("fp16", np.array([np.inf], "<f2")),
        ("bf16", np.array([0x7F81], "<u2")),
        ("bf16", np.array([0xFF80], "<u2")),
    ],
)
def test_a_number_that_is_not_finite_is_refused_with_its_tensors_name_and_no_value(
    encoding: Encoding, bad: Flat, into: bool
) -> None:
    data = bytearray(pack(vector(SCHEMA, "both"), SCHEMA, "both", encoding))
    data[-bad.nbytes :] = bad.tobytes()
    with pytest.raises(NotFiniteError) as caught:
        unpack(bytes(data), SCHEMA, "both", encoding, np.empty(60, np.float32) if into else None)
    assert str(caught.value).startswith(
        "a tensor holds a NaN or an infinity; got up.0.conv.lora_B.weight; expected finite numbers."
    )


@pytest.mark.parametrize("scale", [np.nan, np.inf, -1.0, 3e38])
def test_an_int8_scale_that_could_make_an_infinity_is_refused(scale: float) -> None:
    data = bytearray(pack(vector(SCHEMA, "both"), SCHEMA, "both", "int8"))
    start = 8 + int.from_bytes(data[:8], "little")
    data[start : start + 4] = np.array([scale], "<f4").tobytes()
    with pytest.raises(NotFiniteError):
        unpack(bytes(data), SCHEMA, "both", "int8")


def altered(**changes: object) -> bytes:
    """Return a packed adapter whose header has other entries (None: without)."""
    data = pack(vector(SCHEMA, "B"), SCHEMA, "B", "fp32")
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    header["__metadata__"] |= {k: v for k, v in changes.items() if k in ("encoding", "part", "schema")}
    for key, value in changes.items():
        if key.startswith("lora") or key == "stray":
            header["mid.attn1.to_q.lora_B.weight" if key == "lora_B" else key] = value
    text = json.dumps({k: v for k, v in header.items() if v is not None}, separators=(",", ":")).encode()
    return len(text).to_bytes(8, "little") + text + data[end:]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "these bytes are no adapter; got 0 bytes"),
        (b"\xff" * 8, "header is cut off"),
        (b"\x02\x00\x00\x00\x00\x00\x00\x00{}", "bottega.adapter does not match; got None; expected 1"),
        (b"\x02\x00\x00\x00\x00\x00\x00\x00[]", "not a JSON object"),
        (b"\x03\x00\x00\x00\x00\x00\x00\x00\xff{}", "not JSON"),
        (b"\x0d\x00\x00\x00\x00\x00\x00\x00" + b'{"a":1,"a":2}', "one key twice"),
        ((200_000).to_bytes(8, "little") + b"[" * 200_000, "not JSON"),
        ((5_000_000).to_bytes(8, "little") + b" " * 5_000_000, "header is too long"),
        (altered(schema="0" * 64), "schema does not match"),
        (altered(part="A"), "part does not match; got 'A'; expected B"),
        (altered(encoding="fp16"), "encoding does not match; got 'fp16'; expected fp32"),
        (altered(encoding=["fp32"]), "encoding does not match"),
        (altered(stray={}), "0 tensors are missing and 1 are not in the schema; got 'stray'"),
        (altered(lora_B=None), "1 tensors are missing and 0 are not in the schema"),
        (altered(lora_B={"dtype": "F32", "shape": [3, 2], "data_offsets": [8, 32]}), "lora_B.weight does not fit"),
        (altered(lora_B={"dtype": "F32", "shape": [2**62, 2], "data_offsets": [0, 24]}), "lora_B.weight does not fit"),
        (altered(), "canonical spelling"),  # without the padding
        (pack(vector(SCHEMA, "B"), SCHEMA, "B", "fp32")[:-1], "got 55 bytes; expected 56 bytes"),
        (pack(vector(SCHEMA, "B"), SCHEMA, "B", "fp32") + b"\0", "got 57 bytes; expected 56 bytes"),
        (pack(vector(SCHEMA, "A"), SCHEMA, "A", "fp32"), "part does not match"),
        (pack(vector(SCHEMA.with_rank(1), "B"), SCHEMA.with_rank(1), "B", "fp32"), "schema does not match"),
    ],
)
def test_every_failure_says_what_was_got_and_expected(data: bytes, said: str) -> None:
    with pytest.raises(AdapterError) as caught:
        unpack(data, SCHEMA, "B", "fp32")
    assert said in str(caught.value)


def test_the_encoding_is_read_from_the_header_only_when_none_is_demanded() -> None:
    data = pack(vector(SCHEMA, "B"), SCHEMA, "B", "fp16")
    assert unpack(data, SCHEMA, "B").tolist() == unpack(data, SCHEMA, "B", "fp16").tolist()
    with pytest.raises(AdapterError, match="encoding does not match; got 'fp16'; expected bf16"):
        unpack(data, SCHEMA, "B", "bf16")
    with pytest.raises(AdapterError, match="the adapter's encoding; got 'int4'; expected fp32, fp16, bf16, int8"):
        unpack(altered(encoding="int4"), SCHEMA, "B")


def test_what_a_stranger_writes_is_shown_short_and_in_ascii() -> None:
    with pytest.raises(AdapterError) as caught:
        unpack(altered(stray={}, part="B\x1b[2J\n" * 1000), SCHEMA, "B", "fp32")
    assert len(str(caught.value)) < 400
    assert str(caught.value).isprintable()


@given(st.binary(max_size=300), st.sampled_from([None, *ENCODINGS]))
def test_no_bytes_make_the_reader_fail_otherwise(data: bytes, encoding: Encoding | None) -> None:
    with pytest.raises(AdapterError):
        unpack(data, SCHEMA, "B", encoding)


@settings(max_examples=300)
@given(st.data(), st.sampled_from(ENCODINGS))
def test_a_mutated_file_is_read_as_finite_numbers_or_refused(draw: st.DataObject, encoding: Encoding) -> None:
    data = bytearray(pack(vector(SCHEMA, "B"), SCHEMA, "B", encoding))
    start = 8 + int.from_bytes(data[:8], "little")
    changed = False
    for _ in range(draw.draw(st.integers(1, 4))):
        place = draw.draw(st.integers(0, len(data) - 1))
        byte = draw.draw(st.integers(0, 255))
        changed |= place < start and data[place] != byte
        data[place] = byte
    try:
        read = unpack(bytes(data), SCHEMA, "B", draw.draw(st.sampled_from([None, encoding])))
    except AdapterError:
        return
    assert np.isfinite(read).all()
    assert not changed or data[:start] == pack(vector(SCHEMA, "B"), SCHEMA, "B", encoding)[:start]
