"""The page to try a champion: its command, what its buttons do, and itself in a browser."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from blends import blends, crosses, sheet
from browser import chromium, keep
from PIL import Image

from trainables.errors import UserError
from trainables.strokes import draw_alphabets, invent_characters
from tuner import demo
from tuner.model import FILES
from tuner.tryout import COUNT, SHOTS

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from tuner.demo_page import Studio

ROOT = Path(__file__).parents[1]
WAIT = 120_000  # ms: a browser without a GPU on a busy machine
MINE: Any = SimpleNamespace(session_hash="s")  # a request of a session


# The command


def champion(storage: Path, study: str, when: int) -> None:
    folder = storage / study / "champion"
    folder.mkdir(parents=True)
    for name in FILES:
        (folder / name).write_bytes(b"{}")
        os.utime(folder / name, (when, when))


def test_without_a_name_the_newest_champion_comes_first(tmp_path: Path) -> None:
    for when, study in enumerate(("oldest", "newest", "newer")):
        champion(tmp_path, study, 1000 + 10 * (study != "oldest") + 10 * (study == "newest") + when)
    (tmp_path / "half/champion").mkdir(parents=True)
    (tmp_path / "half/champion/weights.safetensors").touch()
    assert demo.sources(None, str(tmp_path)) == ["newest", "newer", "oldest"]
    assert demo.sources("newer", str(tmp_path)) == ["newer", "newest", "oldest"]
    assert demo.sources("models:/a@champion", "s3://bucket/runs") == ["models:/a@champion"]


def test_a_newcomer_is_told_what_makes_a_champion(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert demo.main(["--storage", str(tmp_path)]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "`python -m tuner.launch reptile_omniglot` makes one" in told


def test_a_port_that_is_taken_is_one_line_or_the_next_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    champion(tmp_path, "study", 1)
    with socket.create_server((demo.LOOPBACK, 0)) as taken:
        port = taken.getsockname()[1]
        assert demo.main(["--storage", str(tmp_path), "--port", str(port)]) == 2
    assert f"127.0.0.1, {port} (it is taken)" in capsys.readouterr().err
    with contextlib.ExitStack() as first:
        with contextlib.suppress(OSError):  # it may be taken anyhow
            first.enter_context(socket.create_server((demo.LOOPBACK, demo.PORTS[0])))
        assert demo.free_port(demo.LOOPBACK, None) in demo.PORTS[1:]


@pytest.mark.parametrize(
    ("host", "port"), [("203.0.113.1", 7860), ("127.0.0.1", 0), ("127.0.0.1", 70_000)]
)
def test_a_place_to_listen_that_is_none_is_one_line(host: str, port: int) -> None:
    with pytest.raises(UserError, match=rf"^--.*got .*\b{port}\b"):
        demo.free_port(host, port)


def test_help_comes_before_anything_heavy() -> None:
    code = "import sys, tuner.demo; print({'gradio', 'torch', 'mlflow'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "set()\n"


# The page


@pytest.fixture
def studio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Studio:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "own"))
    monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "False")

    from tuner.demo_page import Studio

    (tmp_path / "own").mkdir()
    names = ("one", "two")
    return Studio(names, lambda title: blends(title=title), storage=tmp_path, folder=tmp_path)


def test_champions_that_cannot_be_opened_are_passed_over(studio: Studio) -> None:
    lines: list[str] = []

    def opened(name: str) -> Any:
        if name != "whole":
            raise UserError(f"the files of {name} are damaged")
        return blends(title=name)

    studio._opened, studio.names = opened, ["new", "whole", "old"]
    studio.pass_over(lines.append)
    assert studio.names == ["whole", "old"]
    assert lines == ["new is passed over: the files of new are damaged"]
    studio.names = ["new", "old"]
    with pytest.raises(UserError, match="files of old are damaged"):
        studio.pass_over(lines.append)


def test_a_press_shows_every_stop_and_ends_at_the_studys_own(studio: Studio) -> None:
    from tuner.demo_page import EXAMPLE, Handlers

    do = Handlers(studio)
    shots, _, following = do.example("one", 0)
    assert following == 1
    begun, strip, *_ = do.begin(MINE, EXAMPLE, "one", None, shots)
    assert begun is shots
    assert strip.count("<img") == SHOTS
    steps = list(do.run(MINE, "one", shots, 3, False))
    assert sum("<progress" in note for _, note, *_ in steps) == 1 + 19
    drawn, note, slider, pictures, button = steps[-1]
    assert slider["label"] == "After 30 adaptation steps, where its study stops"
    assert drawn.stops[slider["value"] - 1].steps == 30
    assert zipfile.is_zipfile(button["value"])
    assert do.show(drawn, slider["value"], False)[::2] == (note, pictures)
    assert do.show(drawn, 1, False)[2] != pictures


def test_what_cannot_be_drawn_is_said_on_the_page(studio: Studio, tmp_path: Path) -> None:
    import gradio as gr

    from tuner.demo_page import DRAW, UPLOAD, Handlers

    do, blank = Handlers(studio), {"composite": sheet(ink=False)}
    with pytest.raises(gr.Error, match="1, 2, 3 and 4 are blank"):
        do.begin(MINE, DRAW, "one", None, None, None, blank, blank, blank)
    with pytest.raises(gr.Error, match="Choose 4 pictures"):
        do.begin(MINE, UPLOAD, "one", None, None)
    files = [str(tmp_path / f"{n}.png") for n in range(SHOTS)]
    for file in files:
        Image.new("L", (40, 40), 255).save(file)
    assert do.upload("one", files[:3]) == (None, "<p><b>4 pictures are needed, got 3.</b></p>")
    assert "0.png&#x27; is blank" in do.upload("one", files)[1]
    Path(files[0]).write_bytes(b"no picture")
    told = do.upload("one", files)[1]
    assert "0.png" in told
    assert str(tmp_path) not in told
    assert do.upload("one", None) == (None, "")


def test_who_stops_ends_the_own_adaptation_alone(studio: Studio) -> None:
    mine, theirs = (studio.adapt(session, "one", crosses(), 1) for session in ("my", "their"))
    next(mine)
    next(theirs)
    studio.stop("my")
    assert list(mine) == []
    assert len(list(theirs)) == 18
    studio.stop("my")  # nothing is left to stop


def test_who_stops_while_waiting_has_nothing_adapted(studio: Studio) -> None:
    from tuner.demo_page import EXAMPLE, Handlers

    do = Handlers(studio)
    shots, *_ = do.example("one", 0)
    do.begin(MINE, EXAMPLE, "one", None, shots)
    do.stop(MINE)
    *_, last = do.run(MINE, "one", shots, 3, False)
    assert last[1] == "Stopped before the first pictures."
    do.begin(MINE, EXAMPLE, "one", None, shots)  # which is another press
    assert len(list(do.run(MINE, "one", shots, 3, False))) == 1 + 19 + 1


# All of it


def small_champion(folder: Path) -> None:
    """A champion that has learnt nothing, in the folder of its study."""
    import torch
    from safetensors.torch import save_file

    from trainables.configs import ReptileConfig
    from trainables.reptile import build_gan, initial_weights

    config = ReptileConfig(architecture="plane", width=2, latent=8)
    pair = initial_weights(build_gan(config), torch.Generator().manual_seed(0))
    folder.mkdir(parents=True)
    save_file({"generator": pair.generator, "critic": pair.critic}, folder / "weights.safetensors")
    facts = {"pipeline": "reptile", "config": asdict(config), "adapt_steps": 12}
    (folder / "config.json").write_text(json.dumps(facts))
    drawings = draw_alphabets(invent_characters(0, alphabets=1), size=config.size, seed=0)
    shots = np.stack([drawing[:SHOTS, None] for drawing in drawings])
    np.savez(folder / "samples.npz", shots=shots, samples=shots)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """The real command on a small champion: its address, and its process."""
    small_champion(tmp_path / "runs/small/champion")
    (tmp_path / "tmp").mkdir()
    process = subprocess.Popen(
        [sys.executable, "-m", "tuner.demo", "--storage", str(tmp_path / "runs")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"TMPDIR": str(tmp_path / "tmp"), "PYTHONPATH": str(ROOT)},
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert "small" in line, process.communicate()
        yield line.split()[-4], process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.slow
def test_the_page_keeps_to_itself(
    served: tuple[str, subprocess.Popen[str]], tmp_path: Path
) -> None:
    address, process = served
    (tmp_path / "secret.txt").write_text("not of the page")
    with urllib.request.urlopen(address) as answer:
        text, policy = answer.read().decode(), answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'self'")
    assert "fonts.googleapis" not in text
    for file in (tmp_path / "secret.txt", "/etc/passwd", "runs/small/champion/config.json"):
        assert status(f"{address}gradio_api/file={file}") == 403
    assert status(address, host="elsewhere.example") == 400
    assert interrupted(process) == (0, "", "")


def status(url: str, **headers: str) -> int:
    """What a request is answered with."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers)) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def interrupted(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """How it ends by Ctrl-C, and what it says then."""
    process.send_signal(signal.SIGINT)
    out, errors = process.communicate(timeout=60)
    return process.returncode, out, errors


@pytest.mark.slow
def test_four_drawings_by_mouse_become_pictures(
    served: tuple[str, subprocess.Popen[str]], tmp_path: Path
) -> None:
    from playwright.sync_api import expect

    address, process = served
    asked: list[str] = []
    with chromium("--enable-unsafe-swiftshader") as browser:
        page = browser.new_page(viewport={"width": 1200, "height": 1000})
        page.set_default_timeout(WAIT)
        expect.set_options(timeout=WAIT)
        page.on("request", lambda request: asked.append(request.url))
        page.goto(address)
        for number in (1, 3):
            scribble(page, number)
        press = page.get_by_role("button", name="See what it makes of them")
        press.click()
        expect(page.get_by_text("2 and 4 are blank: draw on them, too.")).to_be_visible()
        for number in (2, 4):
            scribble(page, number)
        press.click()
        with page.expect_download() as download:
            page.get_by_role("button", name="Download all").click()
        assert zipfile.is_zipfile(download.value.path())
        pictures, slider = page.locator("#new img"), page.locator("input[type=range]")
        expect(page.get_by_text("After 12 adaptation steps, where its study stops")).to_be_visible()
        expect(pictures).to_have_count(COUNT)
        adapted = pictures.first.get_attribute("src")
        slider.press("Home")
        expect(page.get_by_text("After 0 adaptation steps")).to_be_visible()
        expect(pictures.first).not_to_have_attribute("src", str(adapted))
        page.get_by_label("Show the nearest shot beside each").check()
        expect(pictures).to_have_count(2 * COUNT)
        slider.press("End")
        expect(page.get_by_text("After 36 adaptation steps")).to_be_visible()
        shoot(page)
        page.get_by_role("tab", name="Example").click()
        expect(page.get_by_text("From the classes that the model was tested on.")).to_be_visible()
        press.click()  # and Ctrl-C in the midst of it
        assert interrupted(process) == (0, "", "")
        browser.close()
    assert {urlsplit(url).hostname for url in asked} <= {demo.LOOPBACK, None}
    assert not list((tmp_path / "tmp").glob("few-shot-tuner-demo-*"))


def scribble(page: Page, number: int) -> None:
    """A cross, by mouse."""
    canvas = page.locator(f"#canvas-{number} .pixi-target canvas")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    assert box is not None
    for stroke in (((0.3, 0.25), (0.4, 0.8)), ((0.25, 0.5), (0.65 + 0.02 * number, 0.4))):
        for turn, (x, y) in enumerate(stroke):
            page.mouse.move(
                box["x"] + x * box["width"], box["y"] + y * box["height"], steps=1 + 4 * turn
            )
            (page.mouse.up if turn else page.mouse.down)()


def shoot(page: Page) -> None:
    """The page, light and dark, and as a phone shows it."""
    for scheme, width in (("light", 1200), ("dark", 1200), ("light", 390)):
        page.emulate_media(color_scheme=scheme)
        page.set_viewport_size({"width": width, "height": 1000})
        page.evaluate("scheme => document.body.classList.toggle('dark', scheme == 'dark')", scheme)
        keep(page, f"demo-{scheme}-{width}", whole=True)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
