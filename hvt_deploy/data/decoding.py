"""From image files to decoded images: six formats, bounded memory, a reason for every failure."""

from __future__ import annotations

import base64
import io
import stat
import warnings
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Condition
from typing import IO

from PIL import Image, UnidentifiedImageError

from hvt_deploy.core.errors import BadInput

# Pillow opens whatever one of its 40 decoders knows, by content, and starts Ghostscript for EPS.
FORMATS = ("JPEG", "PNG", "BMP", "PPM", "TIFF", "WEBP")

# Pillow's own limit for the pixels of one image. Here it also holds for an image after its resize,
# which grows with the square of the length of a thin one, and for all that are decoded at once.
MAX_PIXELS = 178_956_970
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # from half of that on
# glibc gives blocks above 32 MiB back when they are freed; Pillow's usual 16 MiB can stay with each
# thread that once decoded a large image.
Image.core.set_block_size(64 << 20)


class UnreadableImage(BadInput):
    """A file that is not a complete image, or too large; the message is the reason alone."""


class PixelsInFlight:
    """Lets threads decode side by side as long as their images together have few enough pixels."""

    def __init__(self, limit: int) -> None:
        self._free = limit
        self._changed = Condition()

    @contextmanager
    def hold(self, pixels: int) -> Generator[None]:
        """Wait until `pixels`, at most the limit, are free; they are taken for the block."""
        with self._changed:
            self._changed.wait_for(lambda: pixels <= self._free)
            self._free -= pixels
        try:
            yield
        finally:
            with self._changed:
                self._free += pixels
                self._changed.notify_all()


def decode(source: Path | IO[bytes]) -> Image.Image:
    """An image file, or its open content, as RGB; EXIF orientation is ignored as in torchvision.

    Raises UnreadableImage if the file cannot be opened, is not a file or not an image in one of
    `FORMATS`, is damaged, truncated or a decompression bomb.
    """
    with open_image(source) as image:
        return to_rgb(image)


def make_thumbnail(path: Path, edge: int = 96) -> str:
    """A readable image file as a JPEG of at most `edge` pixels a side, in base64."""
    image = decode(path)
    image.thumbnail((edge, edge))
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=80)
    return base64.b64encode(stream.getvalue()).decode("ascii")


@contextmanager
def open_image(source: Path | IO[bytes]) -> Generator[Image.Image]:
    """An image of which no more than the header was read. Raises UnreadableImage."""
    with ExitStack() as opened:
        with _as_unreadable():
            if isinstance(source, Path):
                if not stat.S_ISREG(source.stat().st_mode):
                    raise UnreadableImage("not a file")  # a pipe would be waited for without end
                # Pillow maps what it opens itself into memory: a file cut off meanwhile would kill.
                source = opened.enter_context(source.open("rb"))
            image = Image.open(source, formats=FORMATS)
        yield image


def to_rgb(image: Image.Image) -> Image.Image:
    """An opened image, decoded. Raises UnreadableImage."""
    with _as_unreadable():
        image.load()
        return image if image.mode == "RGB" else image.convert("RGB")  # which would be a copy


@contextmanager
def _as_unreadable() -> Generator[None]:
    """Raise UnreadableImage, with a phrase as its message, for any error of Pillow."""
    try:
        yield
    except UnreadableImage:
        raise
    except UnidentifiedImageError:
        raise UnreadableImage(f"not an image in one of {', '.join(FORMATS)}") from None
    except OSError as error:
        raise UnreadableImage(error.strerror or str(error)) from error
    # On damaged files Pillow's decoders raise ValueError, SyntaxError, struct.error, EOFError and
    # more.
    except Exception as error:
        raise UnreadableImage(f"{type(error).__name__}: {error}") from error
