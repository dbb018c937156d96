"""Images that declare far more pixels than they have bytes: refused by their header, before memory is allocated."""

from __future__ import annotations

import io
import json
import resource
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
from PIL import Image

from tests.data.made import encode

LIMIT_BYTES = 256 << 20
"""Memory that decoding a bomb may allocate, beyond that of the program with its imports."""

PROGRAM = """
import json, resource, sys
from pathlib import Path
from launcher.data.decode import decode_image, open_image
from launcher.errors import DataError
from shards.images import decode_rgb
from shards.manifest import ShardsError

used = int(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmData"))) * 1024
resource.setrlimit(resource.RLIMIT_DATA, (used + int(sys.argv[1]), -1))
outcomes = {}
for path in map(Path, sys.argv[2:]):
    for read in (decode_image, open_image, lambda content, place: decode_rgb(content)):
        try:
            read(path.read_bytes(), f"shard.tar: {path.name}")
            outcomes.setdefault(path.name, []).append("opened")
        except (DataError, ShardsError) as error:
            outcomes.setdefault(path.name, []).append(str(error))
print(json.dumps(outcomes))
"""


def png(width: int, height: int, *chunks: tuple[bytes, bytes]) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IDAT", zlib.compress(b"\0" * 1_000_000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + b"".join(chunk(*each) for each in chunks) + body


def jpeg(width: int, height: int) -> bytes:
    content = encode(Image.new("RGB", (8, 8)), "JPEG")
    at = content.index(b"\xff\xc0") + 5
    return content[:at] + struct.pack(">HH", height, width) + content[at + 4 :]


def gif(width: int, height: int) -> bytes:
    content = encode(Image.new("P", (8, 8)), "GIF")
    at = content.index(b"\x2c", 13 + 3) + 5
    return (
        content[:6]
        + struct.pack("<HH", width, height)
        + content[10:at]
        + struct.pack("<HH", width, height)
        + content[at + 4 :]
    )


def bmp(width: int, height: int) -> bytes:
    content = encode(Image.new("RGB", (8, 8)), "BMP")
    return content[:18] + struct.pack("<ii", width, height) + content[26:]


TEXT_BOMB = (b"zTXt", b"Comment\0\0" + zlib.compress(b"x" * (512 << 20), 1))
PROFILE_BOMB = (b"iCCP", b"name\0\0" + zlib.compress(b"x" * (512 << 20), 1))
BOMBS = {
    "square.png": png(100_000, 100_000),
    "wide.png": png(2**31 - 1, 1),
    "square.jpg": jpeg(65_535, 65_535),
    "square.gif": gif(65_535, 65_535),
    "square.bmp": bmp(100_000, 100_000),
    "text.png": png(8, 8, TEXT_BOMB),
}
HARMLESS = {"profile.png": png(8, 8, PROFILE_BOMB)}


def test_bomb_is_one_line_and_takes_little_memory(tmp_path: Path) -> None:
    for name, content in (BOMBS | HARMLESS).items():
        (tmp_path / name).write_bytes(content)
    files = [str(tmp_path / name) for name in BOMBS | HARMLESS]
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PROGRAM, str(LIMIT_BYTES), *files], capture_output=True, text=True
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    outcomes = json.loads(ended.stdout)
    for name in BOMBS:
        for line in outcomes[name]:
            assert "\n" not in line
            assert "cannot be decoded (" in line, (name, line)
    assert outcomes["square.png"][0].startswith("shard.tar: square.png: cannot be decoded (")
    for line in (outcomes[name][0] for name in BOMBS if name.startswith("square")):
        assert "decompression bomb" in line


def test_memory_limit_is_effective() -> None:
    """An allocation as large as a decoded bomb fails."""
    program = f"import resource; resource.setrlimit(resource.RLIMIT_DATA, ({LIMIT_BYTES}, -1)); bytearray(1 << 29)"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "MemoryError" in ended.stderr
    assert resource.getrlimit(resource.RLIMIT_DATA)[0] != LIMIT_BYTES, "the limit is the child's alone"


def test_header_up_to_the_limit_is_accepted() -> None:
    with Image.open(io.BytesIO(jpeg(9_000, 9_000))) as image:
        assert image.size == (9_000, 9_000)
    with pytest.raises(Image.DecompressionBombError):
        Image.open(io.BytesIO(jpeg(20_000, 20_000)))
