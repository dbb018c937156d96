from __future__ import annotations

import io
import warnings

import numpy as np
import pytest
from PIL import Image

from shards.images import ChannelSums, decode_rgb, encode_png, shrink
from shards.manifest import ShardsError
from tests.shards.made import image_bytes


def test_channel_sums_give_the_mean_and_std_of_numpy() -> None:
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (5 + i, 9, 3), dtype=np.uint8) for i in range(4)]
    sums = ChannelSums()
    for image in images:
        sums.add(image)
    pixels = np.concatenate([image.reshape(-1, 3) for image in images]) / 255
    mean, std = sums.mean_std()
    np.testing.assert_allclose(mean, pixels.mean(0), rtol=1e-12)
    np.testing.assert_allclose(std, pixels.std(0), rtol=1e-12)


@pytest.mark.parametrize(("extension", "file_format"), [("jpg", "JPEG"), ("png", "PNG"), ("webp", "WEBP")])
def test_shrink_keeps_format_and_shape(extension: str, file_format: str) -> None:
    small = Image.open(io.BytesIO(shrink(image_bytes(0, (100, 40), file_format), extension, 50)))
    assert (small.format, small.size) == (file_format, (50, 20))


def test_shrink_leaves_small_images_alone() -> None:
    content = image_bytes(0, (50, 40))
    assert shrink(content, "jpg", 50) is content


def test_shrink_applies_the_exif_orientation() -> None:
    image_HWC = np.zeros((40, 80, 3), np.uint8)
    image_HWC[:, :40] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying on its side: the viewer turns it by 90 degrees clockwise
    buffer = io.BytesIO()
    Image.fromarray(image_HWC).save(buffer, format="JPEG", exif=exif)
    upright = Image.open(io.BytesIO(shrink(buffer.getvalue(), "jpg", 40)))
    assert upright.size == (20, 40)
    assert upright.getexif().get(0x0112, 1) == 1
    pixels = np.asarray(upright)
    assert pixels[:15].mean() > 240
    assert pixels[-15:].mean() < 15


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "I;16"])
def test_every_mode_decodes_and_shrinks(mode: str) -> None:
    source = Image.fromarray(np.full((8, 30), 30_000, np.uint16)) if mode == "I;16" else Image.new(mode, (30, 8), 1)
    if mode == "P":
        source.info["transparency"] = b"\0\1"
    buffer = io.BytesIO()
    source.save(buffer, format="PNG")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert decode_rgb(buffer.getvalue()).shape == (8, 30, 3)
        assert decode_rgb(shrink(buffer.getvalue(), "png", 15)).shape == (4, 15, 3)
    if mode == "I;16":
        assert decode_rgb(buffer.getvalue()).max() == 30_000 >> 8


def test_encode_png_loses_nothing() -> None:
    pixels = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    assert (decode_rgb(encode_png(pixels)) == pixels).all()
    assert decode_rgb(encode_png(Image.new("CMYK", (3, 2)))).shape == (2, 3, 3)


@pytest.mark.parametrize("content", [b"", b"no image", image_bytes(0)[:-40], image_bytes(0, file_format="PNG")[:-40]])
def test_damaged_image_is_a_shards_error(content: bytes) -> None:
    with pytest.raises(ShardsError, match="cannot be decoded"):
        decode_rgb(content)
