"""One picture out of bytes that nobody vouches for: RGB, of the wanted size, or a reason why not."""

from __future__ import annotations

import io
import warnings
from contextlib import suppress
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from PIL import Image

PixelArray: TypeAlias = npt.NDArray[np.uint8]

#: Left, top, right and bottom of a part of a picture, as shares of its width and height.
Box: TypeAlias = tuple[float, float, float, float]
WHOLE: Box = (0.0, 0.0, 1.0, 1.0)

#: The only decoders that are tried. Pillow knows forty more, among them one that starts Ghostscript.
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF")
#: Pictures of more pixels are refused before they are decoded: Pillow's own threshold for a decompression bomb.
MAX_PIXELS = 89_478_485


class PictureError(ValueError):
    """Bytes are no picture that can be used; the message says why, without the file's name."""


def decode(content: bytes, size: int, *, box: Box = WHOLE, flip: bool = False) -> PixelArray:
    """Return the picture in `content` as RGB pixels, squeezed into a square.

    Orientation follows the EXIF tag. Greyscale, palette and CMYK become RGB; 16 bits are scaled to 8; what is
    transparent lies on white; of an animation the first frame is taken. Colour profiles are ignored.

    Parameters
    ----------
    content : bytes
        A file's content; its name does not matter.
    size : int
        Height and width of the result, in pixels.
    box : four floats
        Part of the (upright) picture that is shown.
    flip : bool
        Whether left and right are swapped.

    Returns
    -------
    uint8 array, shape (size, size, 3)

    Raises
    ------
    PictureError
        If the bytes are empty, in none of `FORMATS`, damaged, cut off, of more than `MAX_PIXELS` pixels, or of 32 bits
        a channel, for which there is no agreed white. A JPEG whose inside is damaged may decode to a wrong picture:
        the format has no checksum.
    """
    from PIL import Image, UnidentifiedImageError

    if not content:
        raise PictureError("the file is empty")
    try:
        with warnings.catch_warnings():
            # Pillow warns of what is checked below, and of oddities that do no harm.
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(content), formats=FORMATS) as image:
                _check_pixels(image.size)
                smallest = min(box[2] - box[0], box[3] - box[1])
                # JPEG can be decoded at 1/2, 1/4 or 1/8: a large photograph then needs neither time nor memory.
                image.draft(None, (round(size / smallest), round(size / smallest)))
                _put_upright(image)
                return as_pixels(_in_8_bits(image), size, box=box, flip=flip)
    except PictureError:
        raise
    except UnidentifiedImageError:
        raise PictureError(f"no picture in a known format ({', '.join(FORMATS)})") from None
    except Image.DecompressionBombError:
        raise PictureError(f"more than {MAX_PIXELS:,} pixels") from None
    except Exception as error:  # decoders answer hostile bytes with whatever they stumble over
        raise PictureError(f"damaged or cut off ({error or type(error).__name__})") from error


def as_pixels(image: Image.Image, size: int, *, box: Box = WHOLE, flip: bool = False) -> PixelArray:
    """Return part of an RGB or RGBA image as an array of shape (size, size, 3); arguments as in `decode`."""
    from PIL import Image

    width, height = image.size
    part = (box[0] * width, box[1] * height, box[2] * width, box[3] * height)
    # Bilinear, averaging over all pixels that fall together: without that, fine patterns become coarse ones.
    small = image.resize((size, size), Image.Resampling.BILINEAR, box=part, reducing_gap=2.0)
    if flip:
        small = small.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if small.mode == "RGBA":
        small = Image.alpha_composite(Image.new("RGBA", small.size, "white"), small).convert("RGB")
    return np.asarray(small)


def _check_pixels(size: tuple[int, int]) -> None:
    width, height = size
    if width * height > MAX_PIXELS:
        raise PictureError(f"more than {MAX_PIXELS:,} pixels: {width} x {height}")


def _put_upright(image: Image.Image) -> None:
    from PIL import ImageOps

    image.load()
    # EXIF that cannot be read tells nothing about the orientation, and the picture is whole.
    with suppress(Exception):
        ImageOps.exif_transpose(image, in_place=True)


def _in_8_bits(image: Image.Image) -> Image.Image:
    """Return a picture of any kind as RGB, or as RGBA if it has transparent places."""
    from PIL import Image

    if image.mode.startswith("I;16"):
        # Pillow's own conversion would cut off everything above 255, and leave a white picture.
        wide = np.asarray(image).astype(np.uint32)
        return Image.fromarray(((wide + 128) // 257).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise PictureError("32 bits a channel: no agreed value for white")
    mode = "RGBA" if image.has_transparency_data else "RGB"
    return image if image.mode == mode else image.convert(mode)  # a conversion to the same mode makes a copy
