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


def make_video(prompt: str, seconds: int = 4, ratio: str = "16:9", seed: int = 0) -> bytes:
    return video(prompt, seconds, ratio, model="sora-2", seed=seed)


def frames(data: bytes) -> list[Image.Image]:
    with av.open(io.BytesIO(data), "r") as container:
        # av has no type hints for Pillow images
        return [frame.to_image() for frame in container.decode(video=0)]  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("seconds", [4, 8, 12])
@pytest.mark.parametrize(("ratio", "shape"), [("16:9", (480, 270)), ("9:16", (270, 480))])
def test_video_has_the_requested_duration_size_and_codec(
    seconds: int, ratio: str, shape: tuple[int, int]
) -> None:
    with av.open(io.BytesIO(make_video("a cat", seconds, ratio)), "r") as container:
        (stream,) = container.streams
        assert isinstance(stream, av.VideoStream)
        assert stream.codec_context.name == "h264"
        assert stream.codec_context.pix_fmt == "yuv420p"
        assert (stream.width, stream.height) == shape
        assert container.duration is not None
        assert abs(container.duration / av.time_base - seconds) <= 0.1
        assert abs(sum(1 for _ in container.decode(video=0)) / 5 - seconds) <= 0.1


def test_every_frame_differs_from_the_previous_one() -> None:
    pictures = frames(make_video("a cat"))

    moves = [ImageChops.difference(a, b).getbbox() for a, b in itertools.pairwise(pictures)]

    assert all(moves)


def test_video_shows_the_prompt() -> None:
    box = (0, 40, 480, 220)  # contains neither the caption nor the ball
    cat, dog, blank = (
        frames(make_video(text))[9].convert("L").crop(box) for text in ("cat", "dog", "")
    )

    def brightest(grey: Image.Image) -> int:
        return max(grey.tobytes())

    assert brightest(cat) > 200 > 120 > brightest(blank)
    assert brightest(ImageChops.difference(cat, dog)) > 100


def test_same_prompt_gives_the_same_bytes() -> None:
    assert make_video("a cat") == make_video("a cat")
    assert make_video("a cat") != make_video("a dog")


@pytest.mark.parametrize(
    "prompt", ["", "word " * 1000, "x" * 5000, "é" * 5000, "映" * 5000, "\n\0"]
)
def test_long_and_unusual_prompts_are_rendered_quickly(prompt: str) -> None:
    start = time.process_time()

    assert len(frames(make_video(prompt, 4, "9:16"))) == 20

    assert time.process_time() - start < 2


def test_latin_letters_are_readable_without_system_fonts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("aivideo.simulator.lettering._system_fonts", lambda: ())

    assert lettering("A cat,\n 1–2 m") == Lettering("A cat, 1-2 m", None)
    assert lettering("Žluťoučký kůň, Straße, Łódź").text == "Zlutoucky kun, Strasse, Lodz"
    assert lettering("a cat 🐈 asleep").text == "a cat ? asleep"


def test_prompt_that_no_font_can_draw_is_replaced_by_its_hash_and_length(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("aivideo.simulator.lettering._system_fonts", lambda: ())

    words = lettering("映画" * 10)

    assert words.font is None
    assert words.text.startswith("prompt ")
    assert words.text.endswith(" (20 characters)")
    assert words != lettering("映像" * 10)


def test_image_is_a_png_of_the_requested_shape() -> None:
    image = Image.open(io.BytesIO(picture("a cat", "1:1", model="nano-banana-2", seed=0)))

    assert (image.format, image.size) == ("PNG", (480, 480))


def test_library_caches_results_and_makes_them_again_after_eviction() -> None:
    service = Service(Scenario())
    library = Library("mp4", 0)
    tasks = [
        service.truth.tasks[taken(create(service, 0, order(prompt=f"{n}", duration=4)))]
        for n in range(34)
    ]

    first = library.get(tasks[0])
    assert library.get_if_ready(tasks[0]) is first
    for task in tasks[1:]:
        library.get(task)

    assert library.get_if_ready(tasks[0]) is None
    assert library.get(tasks[0]) == first
