"""One picture out of bytes that nobody vouches for. The colours expected here are written down, not decoded."""

from __future__ import annotations

import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from bncourse.data import picture_files
from bncourse.data.picture_files import FORMATS, MAX_PIXELS, PictureError, decode

RED, WHITE = [255, 0, 0], [255, 255, 255]


def encode(image: Image.Image, form: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def two_halves(width: int = 64, height: int = 48) -> Image.Image:
    """Red on the left, blue on the right."""
    image = Image.new("RGB", (width, height), "blue")
    image.paste((255, 0, 0), (0, 0, width // 2, height))
    return image


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png_of(width: int, height: int) -> bytes:
    """Return a PNG that claims a size and holds next to nothing."""
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("form", FORMATS)
def test_every_format_gives_the_colours_that_were_painted(form):
    options = {"lossless": True} if form == "WEBP" else {}
    pixels = decode(encode(two_halves(), form, **options), 32)
    assert pixels.shape == (32, 32, 3)
    assert pixels.dtype == np.uint8
    tolerance = 4 if form == "JPEG" else 0
    np.testing.assert_allclose(pixels[:, 2].astype(int), [RED] * 32, atol=tolerance)
    np.testing.assert_allclose(pixels[:, -3].astype(int), [[0, 0, 255]] * 32, atol=tolerance)


def test_a_picture_is_squeezed_by_averaging():
    columns = np.zeros((8, 1000, 3), np.uint8)
    columns[:, ::2] = 255  # stripes finer than a pixel of the result must become grey
    assert np.abs(decode(encode(Image.fromarray(columns), "PNG"), 8).astype(int) - 127.5).max() < 3


@pytest.mark.parametrize(
    ("image", "form", "expected"),
    [
        (Image.new("CMYK", (20, 20), (0, 255, 255, 0)), "JPEG", RED),
        (Image.new("CMYK", (20, 20), (0, 255, 255, 0)), "TIFF", RED),
        (Image.new("L", (20, 20), 100), "PNG", [100] * 3),
        (Image.new("1", (20, 20), 1), "PNG", WHITE),
        (Image.new("LA", (20, 20), (0, 255)), "PNG", [0] * 3),
        (Image.new("RGBA", (20, 20), (255, 0, 0, 255)), "PNG", RED),
        # The colour of what is transparent does not show.
        (Image.new("RGBA", (20, 20), (255, 0, 0, 0)), "PNG", WHITE),
        (Image.new("RGBA", (20, 20), (255, 0, 0, 128)), "PNG", [255, 127, 127]),
    ],
)
def test_every_kind_of_pixel_becomes_rgb(image, form, expected):
    np.testing.assert_allclose(decode(encode(image, form), 8)[4, 4].astype(int), expected, atol=1)


def test_a_palette_is_looked_up_and_its_transparent_colour_is_white():
    image = Image.new("P", (20, 20), 1)
    image.putpalette([0, 0, 0, 10, 200, 30])
    assert decode(encode(image, "GIF"), 8)[0, 0].tolist() == [10, 200, 30]
    assert decode(encode(image, "PNG", transparency=1), 8)[0, 0].tolist() == WHITE


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled_not_cut_off(form):
    ramp = np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)
    pixels = decode(encode(Image.fromarray(ramp), form), 64)[..., 0]
    assert np.abs(pixels - ramp / 257).max() <= 0.51


def test_an_animation_shows_its_first_frame():
    frames = [Image.new("RGB", (20, 20), colour) for colour in ("red", "blue", "lime")]
    for form in ("GIF", "PNG", "WEBP"):
        options = {"lossless": True} if form == "WEBP" else {}
        content = encode(frames[0], form, save_all=True, append_images=frames[1:], **options)
        assert decode(content, 8)[0, 0].tolist() == RED


@pytest.mark.parametrize(
    # Where the red, left half of the stored picture must show: EXIF 2.32, tag 274.
    ("orientation", "red"),
    [(1, "left"), (2, "right"), (3, "right"), (4, "left"), (5, "top"), (6, "top"), (7, "bottom"), (8, "bottom")],
)
def test_a_turned_photograph_is_put_upright(orientation, red):
    exif = Image.Exif()
    exif[274] = orientation
    pixels = decode(encode(two_halves(), "JPEG", exif=exif, quality=95), 32).astype(int)
    edges = {"left": pixels[16, 1], "right": pixels[16, -2], "top": pixels[1, 16], "bottom": pixels[-2, 16]}
    found = [edge for edge, colour in edges.items() if np.allclose(colour, RED, atol=8)]
    assert found == [red]


def test_exif_that_cannot_be_read_turns_nothing(monkeypatch):
    def fail(image, *, in_place):
        raise SyntaxError("not a TIFF file")

    monkeypatch.setattr("PIL.ImageOps.exif_transpose", fail)
    assert decode(encode(two_halves(), "PNG"), 8)[4, 0].tolist() == RED


def test_a_box_is_a_part_of_the_upright_picture():
    content = encode(two_halves(), "PNG")
    left, right = decode(content, 8, box=(0.0, 0.0, 0.5, 1.0)), decode(content, 8, box=(0.5, 0.2, 1.0, 0.7))
    # At the box's edge the average reaches half a pixel beyond it.
    assert left[:, :-1].reshape(-1, 3).tolist() == [RED] * 56
    assert right[:, 1:].reshape(-1, 3).tolist() == [[0, 0, 255]] * 56


def test_a_flip_swaps_left_and_right():
    content = encode(two_halves(), "PNG")
    np.testing.assert_array_equal(decode(content, 8, flip=True), decode(content, 8)[:, ::-1])


def test_a_large_jpeg_is_decoded_small(monkeypatch):
    sizes = []
    convert = picture_files._in_8_bits
    monkeypatch.setattr(picture_files, "_in_8_bits", lambda image: sizes.append(image.size) or convert(image))
    content = encode(two_halves(1600, 1200), "JPEG")
    decode(content, 100)
    decode(content, 100, box=(0.0, 0.0, 0.25, 0.25))
    assert sizes == [(200, 150), (800, 600)]  # an eighth; a half, of which the box is a quarter


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the file is empty"),
        (b"no picture at all", "no picture in a known format (JPEG, PNG, GIF, BMP, WEBP, TIFF)"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "no picture in a known format"),
        (b"P6 1 1 255\n\0\0\0", "no picture in a known format"),
        (encode(two_halves(), "JPEG")[:-200], "damaged or cut off"),
        (encode(two_halves(), "PNG")[:-30], "damaged or cut off"),
        (encode(two_halves(), "GIF")[:-30], "damaged or cut off"),
        (encode(Image.new("F", (9, 9)), "TIFF"), "32 bits a channel: no agreed value for white"),
        (encode(Image.new("I", (9, 9)), "TIFF"), "32 bits a channel: no agreed value for white"),
        (png_of(20_000, 20_000), "more than 89,478,485 pixels"),
        (png_of(9_460, 9_460), "more than 89,478,485 pixels: 9460 x 9460"),
    ],
)
def test_what_is_no_picture_is_refused_with_a_reason(content, reason):
    with pytest.raises(PictureError) as caught:
        decode(content, 8)
    assert str(caught.value).startswith(reason)


def test_a_damaged_checksum_is_noticed():
    content = bytearray(encode(two_halves(), "PNG"))
    content[content.index(b"IDAT") + 8] ^= 1
    with pytest.raises(PictureError, match="damaged or cut off"):
        decode(bytes(content), 8)


def test_the_limit_is_pillows_own_and_holds_where_somebody_lifted_it(monkeypatch):
    assert MAX_PIXELS == 89_478_485 == 1024 * 1024 * 1024 // 4 // 3
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    with pytest.raises(PictureError, match="pixels: 20000 x 20000"):
        decode(png_of(20_000, 20_000), 8)


def test_a_bomb_is_not_decoded(monkeypatch):
    monkeypatch.setattr(picture_files, "_put_upright", lambda _: pytest.fail("decoded"))
    with pytest.raises(PictureError):
        decode(png_of(9_460, 9_460), 8)


def test_pillows_warnings_stay_inside():
    image = Image.new("P", (9, 9))
    image.putpalette([0, 0, 0] * 256)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        decode(encode(image, "PNG", transparency=b"\0" * 256), 8)


@settings(max_examples=300)
@given(
    st.sampled_from(FORMATS), st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=30), st.data()
)
def test_whatever_the_bytes_there_is_a_picture_or_a_reason(form, changes, data):
    content = bytearray(encode(two_halves(24, 16), form))
    for place, value in changes:
        content[place % len(content)] = value
    cut = data.draw(st.integers(0, len(content)))
    try:
        pixels = decode(bytes(content[:cut]), 8)
    except PictureError:
        return
    assert pixels.shape == (8, 8, 3)
    assert pixels.dtype == np.uint8


@given(
    st.binary(max_size=200), st.sampled_from([b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"BM", b"II*\0", b""])
)
def test_garbage_behind_a_picture_s_first_bytes_is_refused(content, start):
    with pytest.raises(PictureError):
        decode(start + content, 8)
