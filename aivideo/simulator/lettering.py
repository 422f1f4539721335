"""Which font can draw a prompt, and how the prompt is laid out in a box.

Pillow brings one font, with little more than ASCII. Other scripts need a font of the system; a
prompt that no font here can draw is stood for by its hash and length.
"""

from __future__ import annotations

import functools
import hashlib
import os
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
from PIL import Image, ImageDraw, ImageFont

_FOLDERS = (
    "/usr/share/fonts",
    "/usr/local/share/fonts",
    "~/.fonts",
    "~/.local/share/fonts",
    "/System/Library/Fonts",
    "/Library/Fonts",
    "~/Library/Fonts",
    "C:/Windows/Fonts",
)
_ENDINGS = (".ttf", ".ttc", ".otf")
# Looked at first: faces with many scripts. Then plain ones; slanted and heavy ones never.
_BROAD = (
    "cjk",
    "wqy",
    "droidsansfallback",
    "unifont",
    "arialuni",
    "pingfang",
    "msyh",
    "dejavusans",
)
_SLANTED = ("bold", "italic", "oblique", "condensed", "light", "black", "mono", "emoji")
_MOST_FONTS = 80
# A prompt is drawn if at most this share of its characters must be shown as a box.
_MOST_BOXES = 0.2
_BOX = "?"
# Not a character, and in no font: its picture is the font's “missing glyph”.
_NO_CHARACTER = "\U0010ffff"
# Letters and signs that NFKD does not take apart.
_PLAIN = str.maketrans(
    {"ß": "ss", "æ": "ae", "Æ": "AE", "œ": "oe", "Œ": "OE", "ø": "o", "Ø": "O", "ł": "l", "Ł": "L"}
    | {"đ": "d", "Đ": "D", "ð": "d", "þ": "th", "ı": "i", "–": "-", "—": "-", "•": "*", "×": "x"}
)


@attrs.frozen
class Lettering:
    """A text that can be drawn, and the font to draw it with (None: the one Pillow brings)."""

    text: str
    font: str | None


def lettering(prompt: str) -> Lettering:
    """How to draw a prompt so that it can be read, as well as the fonts of this machine allow."""
    text = " ".join(prompt.split())
    signs = frozenset(text) - {" "}
    if signs <= _drawn(None, signs):
        return Lettering(text, None)
    best, best_drawn = None, frozenset[str]()
    for font in _system_fonts():
        drawn = _drawn(font, signs)
        if len(drawn) > len(best_drawn):
            best, best_drawn = font, drawn
        if drawn == signs:
            return Lettering(text, font)
    spelled = _boxed(_plain(text), None)
    if spelled is not None:
        return Lettering(spelled, None)
    if best is not None and (boxed := _boxed(text, best)) is not None:
        return Lettering(boxed, best)
    digest = hashlib.sha256(prompt.encode()).hexdigest()[:12]
    return Lettering(f"prompt {digest} ({len(prompt)} characters)", None)


def _plain(text: str) -> str:
    taken_apart = unicodedata.normalize("NFKD", text.translate(_PLAIN))
    return "".join(sign for sign in taken_apart if not unicodedata.combining(sign))


def _boxed(text: str, font: str | None) -> str | None:
    """The text with a box for each sign the font lacks; None if there are too many."""
    drawn = _drawn(font, frozenset(text)) | {" "}
    boxes = sum(sign not in drawn for sign in text)
    if boxes > _MOST_BOXES * len(text):
        return None
    return "".join(sign if sign in drawn else _BOX for sign in text)


def _drawn(font: str | None, signs: frozenset[str]) -> frozenset[str]:
    return frozenset(sign for sign in signs if _has_glyph(font, sign))


@functools.lru_cache(maxsize=65536)
def _has_glyph(font: str | None, sign: str) -> bool:
    try:
        face = load_font(font, 16)
        # Two masks are sequences of bytes, which Pillow's own type does not say.
        masks: tuple[Any, Any] = face.getmask(sign), face.getmask(_NO_CHARACTER)
        return bytes(masks[0]) != bytes(masks[1])
    except OSError:
        return False  # a damaged font file, or one FreeType does not read


@functools.lru_cache(maxsize=64)
def load_font(font: str | None, size: int) -> ImageFont.FreeTypeFont:
    """A font at a size in pixels."""
    if font is not None:
        return ImageFont.truetype(font, size)
    bundled = ImageFont.load_default(size)
    if not isinstance(bundled, ImageFont.FreeTypeFont):
        raise TypeError("this Pillow was built without FreeType; install its wheel")
    return bundled


@functools.cache
def _system_fonts() -> tuple[str, ...]:
    found = sorted(_font_files(), key=_how_broad)
    return tuple(str(path) for path in found[:_MOST_FONTS])


def _font_files() -> Iterator[Path]:
    for folder in _FOLDERS:
        for parent, _, names in os.walk(Path(folder).expanduser()):
            for name in names:
                lowered = name.lower()
                if lowered.endswith(_ENDINGS) and not any(word in lowered for word in _SLANTED):
                    yield Path(parent, name)


def _how_broad(path: Path) -> tuple[int, str]:
    name = path.name.lower().translate(dict.fromkeys(map(ord, "-_ ")))
    rank = next((n for n, word in enumerate(_BROAD) if word in name), len(_BROAD))
    return rank, str(path)


def draw_text(
    picture: Image.Image,
    box: tuple[int, int, int, int],
    words: Lettering,
    *,
    sizes: range,
    ink: int,
) -> None:
    """Draw a text into a box, in the largest of the sizes that fits; cut with `…` if none does.

    Args:
        picture: an 8-bit grey image.
        box: left, top, right, bottom in pixels.
        words: what to draw.
        sizes: font sizes in pixels, largest first.
        ink: the grey of the text.
    """
    left, top, right, bottom = box
    width, height = right - left, bottom - top
    pen = ImageDraw.Draw(picture)
    # What could not fit in the smallest size is not even measured: a prompt may have 5000
    # characters, and measuring them all costs more than the whole video.
    text = words.text[: _most_characters(sizes[-1], width, height)]
    size, lines = _largest_fit(text, words.font, sizes, width, height)
    font = load_font(words.font, size)
    lines, hidden = lines[: _rows(size, height)], lines[_rows(size, height) :]
    if hidden or len(text) < len(words.text):
        lines[-1] = lines[-1][:-1].rstrip() + "…"
    line_height = _line_height(size)
    y = top + (height - len(lines) * line_height) // 2
    for line in lines:
        pen.text((left, y), line, font=font, fill=ink)
        y += line_height


def _largest_fit(
    text: str, font: str | None, sizes: range, width: int, height: int
) -> tuple[int, list[str]]:
    """The largest size whose lines fit, with the lines; the smallest if none does."""
    for size in sizes:
        if len(text) <= _most_characters(size, width, height):
            lines = _wrapped(text, load_font(font, size), width)
            if len(lines) <= _rows(size, height):
                return size, lines
    return sizes[-1], _wrapped(text, load_font(font, sizes[-1]), width)


def _line_height(size: int) -> int:
    return size + size // 4


def _rows(size: int, height: int) -> int:
    return max(1, height // _line_height(size))


def _most_characters(size: int, width: int, height: int) -> int:
    """More than this cannot fit in a box: text is not narrower than a third of its size."""
    return max(1, 3 * width // size * _rows(size, height))


def _wrapped(text: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    """Lines no wider than `width` pixels: broken at spaces where there are some, else anywhere."""
    lines: list[str] = []
    line, line_width = "", 0.0
    space = font.getlength(" ")
    for word in _short_words(text, font, width):
        word_width = font.getlength(word)
        if line and line_width + space + word_width <= width:
            line, line_width = f"{line} {word}", line_width + space + word_width
        else:
            if line:
                lines.append(line)
            line, line_width = word, word_width
    return [*lines, line]


def _short_words(text: str, font: ImageFont.FreeTypeFont, width: int) -> Iterator[str]:
    """The words, those too wide for a line cut in pieces that fill one."""
    longest = max(1, round(4 * width / font.size))
    for word in text.split(" "):
        rest = word
        while len(rest) > longest or font.getlength(rest) > width:
            cut = _fitting(rest[:longest], font, width)
            if cut == len(rest):
                break
            yield rest[:cut]
            rest = rest[cut:]
        yield rest


def _fitting(word: str, font: ImageFont.FreeTypeFont, width: int) -> int:
    """How many leading characters fit; at least one."""
    low, high = 1, len(word)
    while low < high:
        middle = (low + high + 1) // 2
        if font.getlength(word[:middle]) <= width:
            low = middle
        else:
            high = middle - 1
    return low
