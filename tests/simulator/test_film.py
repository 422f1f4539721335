from __future__ import annotations

import io
import itertools
import time

import av
import pytest
from PIL import Image, ImageChops

from aivideo.simulator.film import picture, video
from aivideo.simulator.lettering import Lettering, lettering
from aivideo.simulator.media import Library
from aivideo.simulator.scenario import Scenario
from aivideo.simulator.service import Service
from tests.simulator.calls import create, order, taken


def made(prompt: str, seconds: int = 4, ratio: str = "16:9", seed: int = 0) -> bytes:
    return video(prompt, seconds, ratio, model="sora-2", seed=seed)


def frames(data: bytes) -> list[Image.Image]:
    with av.open(io.BytesIO(data), "r") as container:
        # av has no types for pillow's pictures
        return [frame.to_image() for frame in container.decode(video=0)]  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("seconds", [4, 8, 12])
@pytest.mark.parametrize(("ratio", "shape"), [("16:9", (480, 270)), ("9:16", (270, 480))])
def test_a_video_has_the_asked_seconds_shape_and_coding(
    seconds: int, ratio: str, shape: tuple[int, int]
) -> None:
    with av.open(io.BytesIO(made("a cat", seconds, ratio)), "r") as container:
        (stream,) = container.streams
        assert isinstance(stream, av.VideoStream)
        assert stream.codec_context.name == "h264"
        assert stream.codec_context.pix_fmt == "yuv420p"
        assert (stream.width, stream.height) == shape
        assert container.duration is not None
        assert abs(container.duration / av.time_base - seconds) <= 0.1
        assert abs(sum(1 for _ in container.decode(video=0)) / 5 - seconds) <= 0.1


def test_the_picture_moves() -> None:
    pictures = frames(made("a cat"))

    moves = [ImageChops.difference(a, b).getbbox() for a, b in itertools.pairwise(pictures)]

    assert all(moves)


def test_the_prompt_is_in_the_picture() -> None:
    box = (0, 40, 480, 220)  # where neither caption nor ball is
    cat, dog, blank = (frames(made(text))[9].convert("L").crop(box) for text in ("cat", "dog", ""))

    def brightest(grey: Image.Image) -> int:
        return max(grey.tobytes())

    assert brightest(cat) > 200 > 120 > brightest(blank)
    assert brightest(ImageChops.difference(cat, dog)) > 100


def test_the_same_prompt_gives_the_same_bytes() -> None:
    assert made("a cat") == made("a cat")
    assert made("a cat") != made("a dog")


@pytest.mark.parametrize(
    "prompt", ["", "word " * 1000, "x" * 5000, "é" * 5000, "映" * 5000, "\n\0"]
)
def test_no_prompt_is_too_long_or_too_odd(prompt: str) -> None:
    begun = time.process_time()

    assert len(frames(made(prompt, 4, "9:16"))) == 20

    assert time.process_time() - begun < 2


def test_latin_letters_can_always_be_read_whatever_fonts_there_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("aivideo.simulator.lettering._system_fonts", lambda: ())

    assert lettering("A cat,\n 1–2 m") == Lettering("A cat, 1-2 m", None)
    assert lettering("Žluťoučký kůň, Straße, Łódź").text == "Zlutoucky kun, Strasse, Lodz"
    assert lettering("a cat 🐈 asleep").text == "a cat ? asleep"


def test_a_prompt_no_font_can_draw_is_stood_for_by_its_hash_and_length(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("aivideo.simulator.lettering._system_fonts", lambda: ())

    words = lettering("映画" * 10)

    assert words.font is None
    assert words.text.startswith("prompt ")
    assert words.text.endswith(" (20 characters)")
    assert words != lettering("映像" * 10)


def test_an_image_is_a_png_of_the_asked_shape() -> None:
    image = Image.open(io.BytesIO(picture("a cat", "1:1", model="nano-banana-2", seed=0)))

    assert (image.format, image.size) == ("PNG", (480, 480))


def test_a_library_makes_once_and_can_make_again() -> None:
    service = Service(Scenario())
    library = Library("mp4", 0)
    tasks = [
        service.truth.tasks[taken(create(service, 0, order(prompt=f"{n}", duration=4)))]
        for n in range(34)
    ]

    first = library.get(tasks[0])
    assert library.held(tasks[0]) is first
    for task in tasks[1:]:
        library.get(task)

    assert library.held(tasks[0]) is None
    assert library.get(tasks[0]) == first
