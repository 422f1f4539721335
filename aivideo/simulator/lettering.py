"""Selects a font that can draw a prompt, and lays the prompt out in a box.

Pillow includes one font, which covers little more than ASCII. Other scripts need a system font. If
no font can draw a prompt, its hash and length are drawn instead.
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
_SUFFIXES = (".ttf", ".ttc", ".otf")
# Fonts with many scripts are tried first, then other upright fonts of normal weight.
_MANY_SCRIPTS = (
    "cjk",
    "wqy",
    "droidsansfallback",
    "unifont",
    "arialuni",
    "pingfang",
    "msyh",
    "dejavusans",
)
_EXCLUDED_STYLES = ("bold", "italic", "oblique", "condensed", "light", "black", "mono", "emoji")
_MAX_FONTS = 80
# A prompt is drawn if at most this share of its characters must be replaced.
_MAX_REPLACED = 0.2
_REPLACEMENT = "?"
# Not a character, so no font has it: it is drawn as the font's “missing glyph”.
_NO_CHARACTER = "\U0010ffff"
# Replacements for characters that NFKD does not decompose.
_ASCII = str.maketrans(
    {"ß": "ss", "æ": "ae", "Æ": "AE", "œ": "oe", "Œ": "OE", "ø": "o", "Ø": "O", "ł": "l", "Ł": "L"}
    | {"đ": "d", "Đ": "D", "ð": "d", "þ": "th", "ı": "i", "–": "-", "—": "-", "•": "*", "×": "x"}
)


@attrs.frozen
class Lettering:
    """A text that can be drawn, and the font to draw it with (None: Pillow's own)."""

    text: str
    font: str | None


def lettering(prompt: str) -> Lettering:
    """Return the most readable form of a prompt that the fonts of this machine can draw."""
    text = " ".join(prompt.split())
    characters = frozenset(text) - {" "}
    if characters <= _drawable(None, characters):
        return Lettering(text, None)
    best, best_drawable = None, frozenset[str]()
    for font in _system_fonts():
        drawable = _drawable(font, characters)
        if len(drawable) > len(best_drawable):
            best, best_drawable = font, drawable
        if drawable == characters:
            return Lettering(text, font)
    plain = _with_replacements(_without_accents(text), None)
    if plain is not None:
        return Lettering(plain, None)
    if best is not None and (replaced := _with_replacements(text, best)) is not None:
        return Lettering(replaced, best)
    digest = hashlib.sha256(prompt.encode()).hexdigest()[:12]
    return Lettering(f"prompt {digest} ({len(prompt)} characters)", None)


def _without_accents(text: str) -> str:
    decomposed = unicodedata.normalize("NFKD", text.translate(_ASCII))
    return "".join(each for each in decomposed if not unicodedata.combining(each))


def _with_replacements(text: str, font: str | None) -> str | None:
    """Replace each character that the font lacks. None if there are too many."""
    drawable = _drawable(font, frozenset(text)) | {" "}
    missing = sum(each not in drawable for each in text)
    if missing > _MAX_REPLACED * len(text):
        return None
    return "".join(each if each in drawable else _REPLACEMENT for each in text)


def _drawable(font: str | None, characters: frozenset[str]) -> frozenset[str]:
    return frozenset(each for each in characters if _has_glyph(font, each))


@functools.lru_cache(maxsize=65536)
def _has_glyph(font: str | None, character: str) -> bool:
    try:
        face = load_font(font, 16)
        # Masks are sequences of bytes at run time; Pillow's type hints do not state that.
        masks: tuple[Any, Any] = face.getmask(character), face.getmask(_NO_CHARACTER)
        return bytes(masks[0]) != bytes(masks[1])
    except OSError:
        return False  # a damaged font file, or a format that FreeType does not support


@functools.lru_cache(maxsize=64)
def load_font(font: str | None, size: int) -> ImageFont.FreeTypeFont:
    """Load a font at a size in pixels. None: Pillow's own font."""
    if font is not None:
        return ImageFont.truetype(font, size)
    bundled = ImageFont.load_default(size)
    if not isinstance(bundled, ImageFont.FreeTypeFont):
        raise TypeError("Pillow was built without FreeType: install the Pillow wheel from PyPI")
    return bundled


@functools.cache
def _system_fonts() -> tuple[str, ...]:
    found = sorted(_font_files(), key=_preference)
    return tuple(str(path) for path in found[:_MAX_FONTS])


def _font_files() -> Iterator[Path]:
    for folder in _FOLDERS:
        for parent, _, names in os.walk(Path(folder).expanduser()):
            for name in names:
                lowered = name.lower()
                if lowered.endswith(_SUFFIXES) and not any(
                    word in lowered for word in _EXCLUDED_STYLES
                ):
                    yield Path(parent, name)


def _preference(path: Path) -> tuple[int, str]:
    name = path.name.lower().translate(dict.fromkeys(map(ord, "-_ ")))
    rank = next((n for n, word in enumerate(_MANY_SCRIPTS) if word in name), len(_MANY_SCRIPTS))
    return rank, str(path)


def draw_text(
    picture: Image.Image,
    box: tuple[int, int, int, int],
    words: Lettering,
    *,
    sizes: range,
    ink: int,
) -> None:
    """Draw a text into a box in the largest size that fits. If none fits, truncate with `…`.

    Args:
        picture: an 8-bit grey image.
        box: left, top, right, bottom in pixels.
        words: what to draw.
        sizes: font sizes in pixels, largest first.
        ink: grey value of the text.
    """
    left, top, right, bottom = box
    width, height = right - left, bottom - top
    pen = ImageDraw.Draw(picture)
    # Text that cannot fit in the smallest size is not measured: a prompt may have 5000 characters,
    # and measuring all of them would cost more than making the video.
    text = words.text[: _max_characters(sizes[-1], width, height)]
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
    """The largest size that fits, with the wrapped lines; the smallest size if none fits."""
    for size in sizes:
        if len(text) <= _max_characters(size, width, height):
            lines = _wrapped(text, load_font(font, size), width)
            if len(lines) <= _rows(size, height):
                return size, lines
    return sizes[-1], _wrapped(text, load_font(font, sizes[-1]), width)


def _line_height(size: int) -> int:
    return size + size // 4


def _rows(size: int, height: int) -> int:
    return max(1, height // _line_height(size))


def _max_characters(size: int, width: int, height: int) -> int:
    """Upper bound of the characters that fit: a character is at least size / 3 wide."""
    return max(1, 3 * width // size * _rows(size, height))


def _wrapped(text: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    """Wrap into lines of at most `width` pixels: at spaces if possible, else anywhere."""
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
    """Yield the words. A word too wide for a line is split into pieces that fill one."""
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
    """How many leading characters fit in `width` pixels; at least one."""
    low, high = 1, len(word)
    while low < high:
        middle = (low + high + 1) // 2
        if font.getlength(word[:middle]) <= width:
            low = middle
        else:
            high = middle - 1
    return low
