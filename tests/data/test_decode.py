from __future__ import annotations

import io
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import simplejpeg
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin
from sklearn.datasets import load_sample_image
from torchvision.io import decode_image as torchvision_decode

from launcher.data.decode import decode_image, open_image
from launcher.errors import DataError
from tests.data.made import encode

Array = npt.NDArray[Any]


def noise(*shape: int) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


COLOR = Image.fromarray(noise(13, 17, 3))


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "BMP"])
def test_color_images_equal_pillows(file_format: str) -> None:
    content = encode(COLOR, file_format)
    with Image.open(io.BytesIO(content)) as expected:
        np.testing.assert_array_equal(decode_image(content, "x"), np.asarray(expected))


@pytest.mark.filterwarnings("ignore:The image decoding and encoding:DeprecationWarning")  # torchvision 0.29
def test_png_and_jpeg_equal_torchvisions() -> None:
    png, jpeg = encode(COLOR, "PNG"), encode(COLOR.resize((64, 64)), "JPEG", quality=95, subsampling=0)
    for content, tolerance in ((png, 0), (jpeg, 3)):
        expected_CHW = torchvision_decode(torch.frombuffer(bytearray(content), dtype=torch.uint8))
        difference = decode_image(content, "x").astype(int) - expected_CHW.permute(1, 2, 0).numpy().astype(int)
        assert np.abs(difference).max() <= tolerance


def test_harmless_odd_bytes_are_accepted() -> None:
    """libjpeg warns of them."""
    content = encode(COLOR.resize((64, 64)), "JPEG")
    odd = content[:-2] + b"\x00\x11\x22" + content[-2:]
    with pytest.raises(ValueError, match="extraneous"):
        simplejpeg.decode_jpeg(odd)
    with Image.open(io.BytesIO(odd)) as expected:
        np.testing.assert_array_equal(decode_image(odd, "x"), np.asarray(expected))


@pytest.mark.parametrize("file_format", ["JPEG", "PNG"])
def test_grayscale_is_repeated(file_format: str) -> None:
    image_HWC = decode_image(encode(Image.fromarray(np.full((5, 7), 77, np.uint8)), file_format), "x")
    assert image_HWC.shape == (5, 7, 3)
    assert (image_HWC == 77).all()


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_alpha_is_dropped(mode: str) -> None:
    image = COLOR.convert(mode)
    image.putalpha(Image.fromarray(noise(13, 17)))
    colors = np.asarray(image)[:, :, :-1]
    np.testing.assert_array_equal(decode_image(encode(image, "PNG"), "x"), np.broadcast_to(colors, (13, 17, 3)))


@pytest.mark.parametrize("transparency", [None, 3, bytes([255, 128, 0, 7])])
def test_a_palette_gives_its_colors(transparency: int | bytes | None) -> None:
    palette = COLOR.quantize(16)
    options = {} if transparency is None else {"transparency": transparency}
    np.testing.assert_array_equal(
        decode_image(encode(palette, "PNG", **options), "x"), np.asarray(palette.convert("RGB"))
    )


def test_black_and_white_become_0_and_255() -> None:
    image = Image.fromarray(np.eye(9, dtype=bool))
    np.testing.assert_array_equal(decode_image(encode(image, "PNG"), "x")[:, :, 1], np.eye(9) * 255)


def test_cmyk_equals_pillows_conversion() -> None:
    content = encode(COLOR.convert("CMYK"), "JPEG")
    with Image.open(io.BytesIO(content)) as image:
        assert image.mode == "CMYK"
        np.testing.assert_array_equal(decode_image(content, "x"), np.asarray(image.convert("RGB")))


def test_16_bit_grayscale_is_scaled_not_clipped() -> None:
    wide = np.array([[0, 255, 256], [32768, 65280, 65535]], np.uint16)
    image_HWC = decode_image(encode(Image.fromarray(wide), "PNG"), "x")
    np.testing.assert_array_equal(image_HWC, np.repeat((wide >> 8)[:, :, None], 3, axis=2))


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_rotates_the_image(file_format: str, orientation: int) -> None:
    """Against the eight orientations of the EXIF standard, written out."""
    orientations = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, -1),
        7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
        8: lambda a: np.rot90(a, 1),
    }
    exif = Image.Exif()
    exif[0x0112] = orientation
    plain = decode_image(encode(COLOR, file_format), "x")
    rotated = decode_image(encode(COLOR, file_format, exif=exif), "x")
    np.testing.assert_array_equal(rotated, orientations[orientation](plain))


def test_an_orientation_in_xmp_rotates_a_jpeg() -> None:
    description = b'<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/>'
    packet = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF>' + description + b"</rdf:RDF></x:xmpmeta>"
    content = encode(COLOR, "JPEG", xmp=packet)
    assert decode_image(content, "x").shape == (17, 13, 3)


def test_a_16_bit_image_is_rotated_too() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    content = encode(Image.fromarray(np.array([[0, 65535]], np.uint16)), "PNG", exif=exif)
    assert decode_image(content, "x")[:, :, 0].tolist() == [[0], [255]]


PHOTOGRAPH = Image.fromarray(load_sample_image("china.jpg"))


def shrink(image_HWC: Array, size: int) -> Array:
    return np.asarray(Image.fromarray(image_HWC).resize((size, size), Image.Resampling.BILINEAR)).astype(int)


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("reduction", [2, 4, 8])
@pytest.mark.parametrize("file_format", ["JPEG", "PNG"])
def test_a_large_jpeg_is_decoded_at_a_reduced_size(file_format: str, reduction: int, orientation: int) -> None:
    """Upright by libjpeg-turbo, rotated by Pillow; nearly equal to the full size once both are shrunk."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encode(PHOTOGRAPH.resize((1536, 1024)), file_format, exif=exif, quality=90)
    whole, reduced = decode_image(content, "x"), decode_image(content, "x", 1024 // reduction)
    if file_format == "PNG":
        np.testing.assert_array_equal(reduced, whole)
        return
    assert reduced.shape[:2] == tuple(side // reduction for side in whole.shape[:2])
    difference = np.abs(shrink(whole, 512 // reduction) - shrink(reduced, 512 // reduction))
    assert difference.mean() < 0.7
    assert difference.max() <= 9


@pytest.mark.parametrize(
    ("size", "min_side", "expected"),
    [
        ((1024, 768), 385, (1024, 768)),  # half of it is too small
        ((1024, 768), 384, (512, 384)),
        ((1022, 768), 100, (511, 384)),  # a quarter is no whole number of pixels
        ((1023, 768), 100, (1023, 768)),
        ((1024, 768), 1, (128, 96)),
        ((2, 1), 1, (2, 1)),
        ((8, 8), 1, (8, 8)),
        ((16, 24), 1, (8, 12)),
    ],
)
def test_the_reduced_size_is_whole_pixels(size: tuple[int, int], min_side: int, expected: tuple[int, int]) -> None:
    content = encode(PHOTOGRAPH.resize(size), "JPEG")
    encoded = open_image(content, "x", min_side)
    assert encoded.size == expected[::-1]
    assert decode_image(content, "x", min_side).shape == (*expected[::-1], 3)


def test_a_truncated_large_jpeg_raises_data_error() -> None:
    content = encode(PHOTOGRAPH.resize((1024, 768)), "JPEG")
    with pytest.raises(DataError, match="cannot be decoded"):
        decode_image(content[: len(content) // 2], "x", 96)


@pytest.mark.parametrize("file_format", ["GIF", "WEBP", "PNG"])
def test_an_animation_gives_its_first_frame(file_format: str) -> None:
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "lime", "blue")]
    options = {"lossless": True} if file_format == "WEBP" else {}
    content = encode(frames[0], file_format, save_all=True, append_images=frames[1:], **options)
    assert (decode_image(content, "x") == (255, 0, 0)).all()


def test_a_wrong_extension_is_accepted_and_a_foreign_format_refused() -> None:
    assert decode_image(encode(COLOR, "BMP"), "photo.jpg").shape == (13, 17, 3)
    for file_format in ("EPS", "PDF", "TIFF", "PPM"):  # EPS would start ghostscript
        with pytest.raises(DataError, match="cannot identify"):
            decode_image(encode(COLOR, file_format), "photo.jpg")


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.6, 0.9])
def test_a_truncated_image_raises_data_error_with_its_place(file_format: str, share: float) -> None:
    content = encode(COLOR.resize((200, 200)), file_format)
    with pytest.raises(DataError, match=r"^a/train-0\.tar: image 3: cannot be decoded .*shards check"):
        decode_image(content[: int(len(content) * share)], "a/train-0.tar: image 3")


def test_the_error_about_other_files_is_one_line() -> None:
    with pytest.raises(DataError, match=r"^x: cannot be decoded") as error:
        decode_image(b"<html>404</html>", "x")
    assert "\n" not in str(error.value)


def test_a_decompression_bomb_is_refused_before_decoding() -> None:
    header = io.BytesIO()
    PngImagePlugin.putchunk(header, b"IHDR", (30_000).to_bytes(4, "big") * 2, bytes([8, 2, 0, 0, 0]))
    PngImagePlugin.putchunk(header, b"IDAT", b"")
    with pytest.raises(DataError, match="decompression bomb"):
        decode_image(b"\x89PNG\r\n\x1a\n" + header.getvalue(), "x")


DAMAGED = {name: encode(COLOR, name) for name in ("JPEG", "PNG", "WEBP", "GIF")}


@given(file_format=st.sampled_from(sorted(DAMAGED)), data=st.data())
def test_damaged_bytes_give_an_image_or_a_data_error(file_format: str, data: st.DataObject) -> None:
    content = bytearray(DAMAGED[file_format])
    for place in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=4)):
        content[place] = data.draw(st.integers(0, 255))
    try:
        image_HWC = decode_image(bytes(content), "x")
    except DataError:
        return
    assert image_HWC.dtype == np.uint8
    assert image_HWC.ndim == 3
    assert image_HWC.shape[2] == 3
