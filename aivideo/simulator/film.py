"""Renders a prompt as a PNG image or as an MP4 video (H.264, yuv420p).

The same arguments give the same bytes. Frames are drawn in grey (the luma plane, values 16 to 235);
the two chroma planes, at half the size, hold one constant colour.
"""

from __future__ import annotations

import functools
import hashlib
import io
from collections.abc import Iterator

import attrs
import av
from PIL import Image, ImageDraw

from aivideo.simulator.lettering import Lettering, draw_text, lettering, load_font

FRAMES_PER_SECOND = 5
# Sizes in pixels. `_INK` and `_PAPER` values are greys from 16 to 235.
_LONG, _SHORT = 480, 270
_MARGIN = 14
_CAPTION = 30
_LANE = 44
_BALL = 28
_PROMPT_SIZES = range(28, 9, -2)
_CAPTION_SIZES = range(15, 7, -1)
_CLOCK, _CLOCK_TOP = (58, 18), 8
_PAPER_TOP, _PAPER_BOTTOM = 74, 34
_INK, _CAPTION_INK, _BALL_INK, _BAR_INK = 235, 190, 220, 160
_MAX_SECONDS = 60

# U and V of the background: muted colours on which white text is readable.
_TINTS = ((138, 112), (122, 120), (112, 124), (134, 136), (120, 140), (146, 124))

_ENCODER = {"preset": "ultrafast", "crf": "26", "threads": "1", "g": "600"}


@attrs.frozen
class _Shape:
    width: int
    height: int


def _shape(ratio: str) -> _Shape:
    """The size in pixels, even as yuv420p requires. An invalid or extreme ratio counts as 16:9."""
    wide, _, high = ratio.partition(":")
    across, down = (int(part) if part.isdecimal() else 0 for part in (wide, high))
    if not (0 < across <= 5 * down and 0 < down <= 5 * across):
        across, down = 16, 9
    if across >= down:
        return _Shape(_LONG, max(2, round(_LONG * down / across / 2) * 2))
    return _Shape(max(2, round(_LONG * across / down / 2) * 2), _LONG)


def _draw(words: Lettering, caption: str, shape: _Shape) -> Image.Image:
    """Draw the part of the picture that does not change between frames, in grey."""
    picture = _paper(shape).copy()
    box = (_MARGIN, 5, shape.width - _MARGIN - _CLOCK[0], _CAPTION)
    draw_text(picture, box, Lettering(caption, None), sizes=_CAPTION_SIZES, ink=_CAPTION_INK)
    box = (_MARGIN, _CAPTION, shape.width - _MARGIN, shape.height - _LANE)
    draw_text(picture, box, words, sizes=_PROMPT_SIZES, ink=_INK)
    return picture


@functools.lru_cache(maxsize=8)
def _paper(shape: _Shape) -> Image.Image:
    tones = [_PAPER_TOP + (_PAPER_BOTTOM - _PAPER_TOP) * value // 255 for value in range(256)]
    gradient = Image.linear_gradient("L").point(tones)
    return gradient.resize((shape.width, shape.height))


@functools.cache
def _ball() -> Image.Image:
    """The ball, as a mask."""
    large = Image.new("L", (_BALL * 4, _BALL * 4))
    ImageDraw.Draw(large).ellipse((0, 0, _BALL * 4 - 1, _BALL * 4 - 1), fill=255)
    return large.resize((_BALL, _BALL), Image.Resampling.BOX)


@functools.lru_cache(maxsize=1024)
def _clock(tenths: int) -> Image.Image:
    """The time code, as a mask."""
    text = f"{tenths / 10:.1f} s"
    mask = Image.new("L", _CLOCK)
    font = load_font(None, _CAPTION_SIZES.start)
    left = _CLOCK[0] - font.getlength(text)
    ImageDraw.Draw(mask).text((left, 0), text, font=font, fill=255)
    return mask


def _caption(prompt: str, ratio: str, model: str, seconds: int | None) -> str:
    digest = hashlib.sha256(prompt.encode()).hexdigest()[:6]
    length = "" if seconds is None else f"{seconds} s  "
    return f"{model}  {length}{ratio}  #{digest}"


def _tint(prompt: str, seed: int) -> tuple[int, int]:
    digest = hashlib.sha256(f"{seed} {prompt}".encode()).digest()
    return _TINTS[digest[0] % len(_TINTS)]


def picture(prompt: str, ratio: str, *, model: str, seed: int) -> bytes:
    """Return a PNG that shows the prompt."""
    shape = _shape(ratio)
    grey = _draw(lettering(prompt), _caption(prompt, ratio, model, None), shape)
    tinted = Image.merge(
        "YCbCr", [grey, *(Image.new("L", grey.size, part) for part in _tint(prompt, seed))]
    )
    file = io.BytesIO()
    tinted.convert("RGB").save(file, "PNG")
    return file.getvalue()


def video(prompt: str, seconds: int, ratio: str, *, model: str, seed: int) -> bytes:
    """Return an MP4 that shows the prompt.

    Args:
        prompt: any text.
        seconds: length of the video; limited to 1 to 60.
        ratio: `16:9`, `9:16` or another `W:H`.
        model: shown in the caption.
        seed: selects the background colour, together with the prompt.
    """
    seconds = min(_MAX_SECONDS, max(1, seconds))
    shape = _shape(ratio)
    still = _draw(lettering(prompt), _caption(prompt, ratio, model, seconds), shape)
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=FRAMES_PER_SECOND, options=_ENCODER)
        stream.width, stream.height, stream.pix_fmt = shape.width, shape.height, "yuv420p"
        for number, frame in enumerate(_frames(still, _tint(prompt, seed), seconds)):
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return file.getvalue()


def _frames(still: Image.Image, tint: tuple[int, int], seconds: int) -> Iterator[av.VideoFrame]:
    """Yield the frames: the still picture with the ball, the bar and the clock at each time."""
    width, height = still.size
    count = seconds * FRAMES_PER_SECOND
    floor = height - _LANE + (_LANE - _BALL) // 2
    clock_box = (width - _MARGIN - _CLOCK[0], _CLOCK_TOP, width - _MARGIN, _CLOCK_TOP + _CLOCK[1])
    grey = still.copy()
    ball = _ball()
    colours = [bytes([part]) for part in tint]
    for number in range(count):
        done = number / (count - 1)
        # The ball moves right and back in four seconds.
        swing = number / FRAMES_PER_SECOND % 4 / 2
        x = round((swing if swing <= 1 else 2 - swing) * (width - 2 * _MARGIN - _BALL)) + _MARGIN
        moved = (x, floor, x + _BALL, floor + _BALL)
        clock = _clock(number * 10 // FRAMES_PER_SECOND)
        grey.paste(_BALL_INK, moved, ball)
        grey.paste(_CAPTION_INK, clock_box, clock)
        grey.paste(_BAR_INK, (0, height - 4, round(done * width), height))
        frame = av.VideoFrame(width, height, "yuv420p")
        luma, *chroma = frame.planes
        luma.update(_rows(grey, luma.line_size))
        for plane, colour in zip(chroma, colours, strict=True):
            plane.update(colour * plane.buffer_size)
        yield frame
        for box in (moved, clock_box):
            grey.paste(still.crop(box), box)


def _rows(grey: Image.Image, line_size: int) -> bytes:
    """The bytes of the picture, each row padded to the line size of PyAV's frame."""
    if grey.width == line_size:
        return grey.tobytes()
    padded = Image.new("L", (line_size, grey.height))
    padded.paste(grey)
    return padded.tobytes()
