"""Images: files that are none, are damaged, are too large or are no files at all."""

from __future__ import annotations

import gzip
import io
import os
import socket
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
from kinds import Kind
from PIL import Image

Maker = Callable[[Path], object]
_WHY = (
    "not an image in one of|truncated|broken|bomb|cannot|could not|Error|not a file|"
    "would be resized|symbolic links|No such file|Input/output error"
)
_VERBS = {
    "validation": ("validate", "--data", "validation"),
    "calibration": ("quantize", "--int8", "--calib", "calibration", "--calib-images", 33),
}


def _encode(form: str, side: int = 64, **options: object) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, form, **options)
    return stream.getvalue()


def _content(content: bytes) -> Maker:
    return lambda path: path.write_bytes(content)


def _chunk(name: bytes, content: bytes) -> bytes:
    checked = name + content
    return struct.pack(">I", len(content)) + checked + struct.pack(">I", zlib.crc32(checked))


def _png(width: int, height: int, *chunks: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    end = (_chunk(b"IDAT", zlib.compress(b"\0" * 64)), _chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + b"".join(chunks or end)


def _zip(content: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("a.png", content)
    return stream.getvalue()


def _tiff_in_circles() -> bytes:
    """A TIFF whose only directory, without entries, is followed by itself."""
    return b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", 0) + struct.pack("<I", 8)


def _bmp(width: int, height: int) -> bytes:
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54 + 12, 0, 0, 54) + header + b"\0" * 12


def _flip(content: bytes, place: int) -> bytes:
    return content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :]


def _bind_socket(path: Path) -> None:
    here = Path.cwd()
    os.chdir(path.parent)  # a socket's address has at most 108 bytes
    try:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path.name)
    finally:
        os.chdir(here)


_PNG, _JPEG, _WEBP = _encode("PNG"), _encode("JPEG"), _encode("WEBP")
_TIFF, _BMP = _encode("TIFF"), _encode("BMP")
_TEXT_BOMB = _chunk(b"zTXt", b"a\0\0" + zlib.compress(b"a" * (16 << 20)))
CONTENTS: dict[str, bytes] = {
    "empty": b"",
    "text": b"no image at all",
    "UTF-16 text": "no image".encode("utf-16"),
    "random bytes": np.random.default_rng(1).bytes(5000),
    "zeros": b"\0" * 5000,
    "a web page": b"<!DOCTYPE html><title>403 Forbidden</title>",
    "a pointer of git-lfs": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
    "compressed by gzip": gzip.compress(_PNG),
    "in a zip archive": _zip(_PNG),
    "a GIF": _encode("GIF"),
    "an icon": _encode("ICO"),
    "a PDF": _encode("PDF"),
    "an EPS": _encode("EPS"),
    "a PCX": _encode("PCX"),
    "a JPEG 2000": _encode("JPEG2000"),
    "an SVG": b'<svg xmlns="http://www.w3.org/2000/svg"/>',
    "a PSD": b"8BPS\0\1" + b"\0" * 100,
    "a HEIC": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic",
    "PNG header only": _PNG[:33],
    "PNG cut off": _PNG[: len(_PNG) // 2],
    "PNG with a wrong CRC in its header": _flip(_PNG, 30),
    "PNG with damaged pixels": _flip(_PNG, len(_PNG) // 2),
    "PNG of no width": _png(0, 64),
    "PNG of 400 gigapixels": _png(2_000_000, 200_000),
    "PNG with fewer rows than it claims": _png(64, 64),
    "PNG with a text that unpacks to 16 MB": _png(8, 8, _TEXT_BOMB),
    "PNG without pixels": _png(8, 8, _chunk(b"IEND", b"")),
    "JPEG header only": _JPEG[:20],
    "JPEG cut off": _JPEG[: len(_JPEG) // 2],
    "JPEG of no height": _JPEG.replace(struct.pack(">HH", 64, 64), struct.pack(">HH", 0, 64), 1),
    "JPEG without tables": b"\xff\xd8\xff\xe0\0\x10JFIF\0\1\1\0\0\1\0\1\0\0\xff\xd9",
    "WebP cut off": _WEBP[: len(_WEBP) // 2],
    "WebP header only": _WEBP[:16],
    "TIFF cut off": _TIFF[: len(_TIFF) // 2],
    "TIFF that leads in circles": _tiff_in_circles(),
    "TIFF header only": _TIFF[:8],
    "BMP cut off": _BMP[:200],
    "BMP of 4 gigapixels": _bmp(65_000, 65_000),
    "BMP of a negative width": _bmp(-5, 5),
    "PPM with an endless header": b"P6\n" + b"#" * 100_000,
    "PPM of 10^12 pixels": b"P6\n1000000 1000000\n255\n\0\0\0",
    "PPM cut off": b"P6\n64 64\n255\n\0\0\0",
    "a thin line of 20 million pixels": _png(20_000_000, 1),
}
NO_FILES: dict[str, Maker] = {
    "a pipe": os.mkfifo,
    "a socket": _bind_socket,
    "a link to itself": lambda path: path.symlink_to(path.name),
    "a link that leads nowhere": lambda path: path.symlink_to("nowhere"),
    "a link to an endless device": lambda path: path.symlink_to("/dev/zero"),
    "a link to a file of the system": lambda path: path.symlink_to("/proc/self/mem"),
}
# Of these a validation and a calibration have one each of every sort.
_IN_FOLDERS = (
    *("empty", "a web page", "an EPS", "PNG cut off", "PNG of 400 gigapixels", "JPEG cut off"),
    *("TIFF that leads in circles", "a pipe", "a link to itself", "a link to an endless device"),
)


def _put_one(make: Maker, place: Path) -> None:
    make(place / "bad.png")


def _list_kinds() -> Iterator[Kind]:
    makers: dict[str, Maker] = {f: _content(c) for f, c in CONTENTS.items()} | NO_FILES
    for fault, make in makers.items():
        prepare = partial(_put_one, make)
        yield Kind("image", fault, ("predict", "bad.png"), rf"bad\.png.*({_WHY})", prepare)
    for fault in _IN_FOLDERS:
        for folder, verb in _VERBS.items():
            prepare = partial(_put_several, makers[fault], folder)
            yield Kind(f"image of the {folder}", fault, verb, r"bad\d\.png", prepare)


def _put_several(make: Maker, folder: str, place: Path) -> None:
    """More than one percent may not be unreadable, and one of a small folder is left out."""
    for number in range(3):
        make(place / folder / "3" / f"bad{number}.png")


KINDS = tuple(_list_kinds())
