"""The page of `python -m tuner.demo`: what is on it, and who may ask for what."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from trainables.errors import UserError
from trainables.image_folder import SUFFIXES
from trainables.shots import read_shots
from tuner.champion_folder import CHAMPION, SAMPLES
from tuner.model import Bytes, Model
from tuner.tryout import (
    SHOTS,
    Drawn,
    adapt,
    drawn_shots,
    example,
    label,
    packed,
    pictures_html,
    shots_html,
    stops_of,
    told,
)

CANVAS, PEN = 320, 14  # pixels: of a canvas's side, of the pen's width
LARGEST_FILE = "20mb"
SECONDS_TOLD = 20.0
MOST_SEED = 2**31 - 1
# Nothing of the page may come from elsewhere, or be asked for there, whatever Gradio would like.
POLICY = "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; frame-ancestors 'none'"
FONTS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif")
DRAW, UPLOAD, EXAMPLE = "draw", "upload", "example"  # tabs
CSS = """
.gradio-container { max-width: 1120px !important; margin: 0 auto !important; }
.canvases { display: grid !important; grid-template-columns: repeat(4, 1fr); gap: 12px; }
.canvases .block { aspect-ratio: 1; height: auto !important; overflow: hidden !important;
  padding: 0; }
.canvases .image-container { position: absolute; inset: -32px; height: auto; max-height: none; }
.canvases .icon-button-wrapper { top: 32px; right: 32px; }
.canvases .toolbar-wrap, .canvases .zoom-number, .canvases .separator,
.canvases .icon-button:not([aria-label=Undo], [aria-label=Redo]) { display: none; }
.pictures { display: grid; gap: 10px; grid-template-columns: repeat(6, 1fr); }
.pictures.beside { grid-template-columns: repeat(4, 1fr); }
.pictures.shots { grid-template-columns: repeat(4, 96px); }
.pictures figure { margin: 0; }
.pictures figure > div { display: flex; gap: 2px; }
.pictures img { width: 100%; min-width: 0; image-rendering: pixelated; border-radius: 4px;
  margin: 0; flex: 1 1 0; border: 1px solid var(--border-color-primary); }
.pictures figcaption { font-size: 12px; color: var(--body-text-color-subdued); margin-top: 2px;
  font-variant-numeric: tabular-nums; }
.note progress { appearance: none; display: block; width: 100%; height: 6px; border: 0;
  margin-bottom: 6px; border-radius: 3px; overflow: hidden;
  background: var(--border-color-primary); }
.note progress::-webkit-progress-bar { background: var(--border-color-primary); }
.note progress::-webkit-progress-value { background: var(--primary-500); }
.note progress::-moz-progress-bar { background: var(--primary-500); }
.steps .tab-like-container, .steps .min_value, .steps .max_value { display: none; }
@media (max-width: 720px) {
  .canvases, .pictures.beside { grid-template-columns: repeat(2, 1fr); }
  .pictures { grid-template-columns: repeat(3, 1fr); }
  .pictures.shots { grid-template-columns: repeat(4, 1fr); }
}
"""


class Studio:
    """The models that the page offers, and who is adapting one.

    Args:
        names: of the models, the first one to begin with.
        opened: opens a model by name.
        storage: folder of all studies.
        folder: for what is made for the page.
    """

    def __init__(
        self, names: Sequence[str], opened: Callable[[str], Model], *, storage: Path, folder: Path
    ) -> None:
        self.names, self._opened, self._storage, self.folder = names, opened, storage, folder
        self._models: dict[str, Model] = {}
        self._ends: dict[str, threading.Event] = {}  # by session of a browser

    def pass_over(self, say: Callable[[str], None]) -> None:
        """Begin with the first model that can be opened, and forget those before it.

        Args:
            say: told of each of them in one line.
        Raises:
            UserError: none can be opened; what is wrong with the last one.
        """
        while True:
            try:
                self.model(self.names[0])
                return
            except UserError as error:
                if len(self.names) == 1:
                    raise
                say(f"{self.names[0]} is passed over: {error}")
                self.names = self.names[1:]

    def model(self, name: str) -> Model:
        """The model of that name, which is opened once.

        Raises:
            UserError: there is no such model.
        """
        if name not in self._models:
            self._models[name] = self._opened(name)
        return self._models[name]

    def adapt(self, session: str, name: str, shots: Bytes, seed: int) -> Iterator[Drawn]:
        """As `tryout.adapt`, until `stop` is called for the same session, or if it was already."""
        self.expect(session)
        end = self._ends[session]
        try:
            if end.is_set():
                return
            yield from adapt(self.model(name), shots, seed=seed, is_wanted=lambda: not end.is_set())
        finally:
            self._ends.pop(session, None)

    def expect(self, session: str) -> None:
        """From now on there is something of the session to stop, though it waits for its turn."""
        self._ends.setdefault(session, threading.Event())

    def stop(self, session: str) -> None:
        """End what the session adapts, or is to, if anything."""
        if end := self._ends.get(session):
            end.set()

    def stop_all(self) -> None:
        """End whatever is adapted."""
        for end in list(self._ends.values()):
            end.set()

    def example(self, name: str, number: int) -> tuple[Bytes, str]:
        """Shots, and where they are from."""
        places = (Path(name), Path(name) / CHAMPION, self._storage / name / CHAMPION)
        champion = next((place for place in places if (place / SAMPLES).is_file()), places[-1])
        found = example(self.model(name), champion, number)
        return found.shots, found.told


def on_page(error: UserError) -> gr.Error:
    """A request that cannot be met, as the page shows it."""
    return gr.Error(escape(str(error), quote=False), duration=SECONDS_TOLD, print_exception=False)


class Handlers:
    """What the page does when something on it is pressed, drawn or moved."""

    def __init__(self, studio: Studio) -> None:
        self._studio = studio

    def open(self, name: str) -> tuple[Any, ...]:
        """Open another model; what was made with the last one goes."""
        try:
            self._studio.model(name)
        except UserError as error:
            raise on_page(error) from error
        return None, None, None, "", None, gr.update(visible=False)

    def upload(self, name: str, files: Sequence[str] | None) -> tuple[Bytes | None, str]:
        """Shots of the files that were chosen, and a look at them, or what is wrong with them."""
        if not files:
            return None, ""
        try:
            if len(files) != SHOTS:
                raise UserError(f"{SHOTS} pictures are needed, got {len(files)}.")
            shots = read_shots([Path(file) for file in files], self._studio.model(name).card)
        except UserError as error:
            text = str(error)
            for file in files:  # as the user knows them
                text = text.replace(file, Path(file).name)
            return None, f"<p><b>{escape(text)}</b></p>"
        return shots, shots_html(shots)

    def example(self, name: str, number: int) -> tuple[Bytes, str, int]:
        """Shots, a look at them, and the number of the next ones."""
        try:
            shots, where = self._studio.example(name, number)
        except UserError as error:
            raise on_page(error) from error
        return shots, f"{shots_html(shots)}<p>{escape(where)}</p>", number + 1

    def begin(
        self,
        request: gr.Request,
        tab: str,
        name: str,
        uploaded: Bytes | None,
        exemplary: Bytes | None,
        *canvases: dict[str, Any] | None,
    ) -> tuple[Any, ...]:
        """Shots of the tab that is open; from now on there is something to stop."""
        try:
            if tab == DRAW:
                sheets = [None if c is None else c["composite"] for c in canvases]
                shots = drawn_shots(sheets, self._studio.model(name).card)
            else:
                chosen = uploaded if tab == UPLOAD else exemplary
                if chosen is None:
                    raise UserError(f"Choose {SHOTS} pictures of one character, or draw them.")
                shots = chosen
        except UserError as error:
            raise on_page(error) from error
        self._studio.expect(str(request.session_hash))
        waiting = "Waits for its turn."
        return shots, shots_html(shots), waiting, "", gr.update(visible=True), *_buttons(busy=True)

    def run(
        self, request: gr.Request, name: str, shots: Bytes, seed: float | None, beside: bool
    ) -> Iterator[tuple[Any, ...]]:
        """Adapt, and show every stop as it comes, at the end the one that the study chose."""
        stops = stops_of(self._studio.model(name))
        whole, drawn = len(stops), None
        slider = gr.update(minimum=1, maximum=whole, value=1, label="Adaptation steps")
        begun = f'<progress max="{stops[-1]}" value="0"></progress>Adapts.'
        yield None, begun, slider, gr.skip(), gr.update(visible=False)
        for drawn in self._studio.adapt(str(request.session_hash), name, shots, int(seed or 0)):
            done = len(drawn.stops)
            bar = f'<progress max="{stops[-1]}" value="{stops[done - 1]}"></progress>'
            slider = gr.update(value=done, label=label(drawn, done))
            pictures = pictures_html(drawn, drawn.stops[-1], beside=beside)
            yield drawn, bar + told(drawn, done), slider, pictures, gr.skip()
        if drawn is None:
            yield None, "Stopped before the first pictures.", gr.skip(), "", gr.skip()
            return
        index = drawn.stops.index(drawn.nearest_to(drawn.chosen)) + 1
        slider = gr.update(maximum=max(2, len(drawn.stops)), value=index, label=label(drawn, index))
        folder = Path(tempfile.mkdtemp(dir=self._studio.folder))
        pictures = pictures_html(drawn, drawn.stops[index - 1], beside=beside)
        button = gr.update(visible=True, value=str(packed(drawn, folder)))
        yield drawn, told(drawn, index), slider, pictures, button

    def show(self, drawn: Drawn | None, index: float, beside: bool) -> tuple[Any, ...]:
        """The pictures of a stop that was drawn already."""
        if drawn is None:
            return gr.skip(), gr.skip(), gr.skip()
        at = min(int(index), len(drawn.stops))
        pictures = pictures_html(drawn, drawn.stops[at - 1], beside=beside)
        return told(drawn, at), gr.update(label=label(drawn, at)), pictures

    def stop(self, request: gr.Request) -> None:
        """End what this page adapts; also when it is closed."""
        self._studio.stop(str(request.session_hash))


def _buttons(*, busy: bool) -> tuple[Any, Any]:
    return gr.update(visible=not busy), gr.update(visible=busy)


def build(studio: Studio) -> gr.Blocks:
    """The page."""
    do = Handlers(studio)
    page = gr.Blocks(title="Try a champion", analytics_enabled=False)
    with page:
        gr.Markdown(
            "# Try a champion\nDraw one character four times, each time a little differently. "
            "The model adapts to your four drawings, and draws it anew."
        )
        name = gr.Dropdown(
            list(studio.names), value=studio.names[0], label="Champion", filterable=False
        )
        tab, drawn, shots, number = gr.State(DRAW), gr.State(None), gr.State(None), gr.State(0)
        uploaded, exemplary = gr.State(None), gr.State(None)
        with gr.Tabs():
            with gr.Tab("Draw") as draw_tab, gr.Row(elem_classes="canvases"):
                canvases = [_canvas(n) for n in range(1, SHOTS + 1)]
            with gr.Tab("Upload") as upload_tab:
                files = gr.File(
                    file_count="multiple",
                    file_types=sorted(SUFFIXES),
                    label="Four pictures of one character",
                )
                preview = gr.HTML()
            with gr.Tab("Example") as example_tab:
                sight = gr.HTML()
                another = gr.Button("Another one", size="sm")
        with gr.Row(equal_height=True):
            seed = gr.Number(
                0, label="Seed", precision=0, minimum=0, maximum=MOST_SEED, scale=1, min_width=90
            )
            run = gr.Button("See what it makes of them", variant="primary", scale=5)
            stop = gr.Button("Stop", variant="stop", scale=5, visible=False)
        with gr.Column(visible=False) as results:
            gr.Markdown("### The shots, as the model sees them")
            strip = gr.HTML()
            slider = gr.Slider(
                1, 2, step=1, label="Adaptation steps", buttons=[], elem_classes="steps"
            )
            note = gr.HTML(elem_classes="note")
            pictures = gr.HTML(elem_id="new")
            with gr.Row():
                beside = gr.Checkbox(label="Show the nearest shot beside each", scale=3)
                download = gr.DownloadButton("Download all (zip)", size="sm", visible=False)

        quick: dict[str, Any] = {"queue": False, "show_progress": "hidden"}
        for each, chosen in ((draw_tab, DRAW), (upload_tab, UPLOAD), (example_tab, EXAMPLE)):
            each.select(lambda chosen=chosen: chosen, None, tab, **quick)
        files.change(do.upload, [name, files], [uploaded, preview])
        next_example: dict[str, Any] = {
            "fn": do.example,
            "inputs": [name, number],
            "outputs": [exemplary, sight, number],
        }
        another.click(**next_example)
        example_tab.select(**next_example)
        name.change(do.open, name, [files, uploaded, exemplary, sight, drawn, results])
        asked = run.click(
            do.begin,
            [tab, name, uploaded, exemplary, *canvases],
            [shots, strip, note, pictures, results, run, stop],
            show_progress="hidden",
            concurrency_limit=None,
        )
        adapted = asked.success(
            do.run,
            [name, shots, seed, beside],
            [drawn, note, slider, pictures, download],
            show_progress="hidden",
            concurrency_limit=1,
        )
        adapted.then(lambda: _buttons(busy=False), None, [run, stop], **quick)
        stop.click(do.stop, None, None, **quick)
        page.unload(do.stop)
        for moved in (slider.input, beside.input):
            moved(
                do.show,
                [drawn, slider, beside],
                [note, slider, pictures],
                trigger_mode="always_last",
                **quick,
            )
    return page


def _sheet() -> Image.Image:
    return Image.new("RGB", (CANVAS, CANVAS), "white")


def _canvas(number: int) -> gr.ImageEditor:
    """A sheet to draw on, and a button for a fresh one."""
    with gr.Column(min_width=150):
        canvas = gr.Sketchpad(
            _sheet(),  # a canvas without one asks for a tool to be chosen first
            type="pil",
            canvas_size=(CANVAS, CANVAS),
            fixed_canvas=True,
            brush=gr.Brush(default_size=PEN, colors=["#000000"], color_mode="fixed"),
            layers=False,
            transforms=(),
            buttons=[],
            show_label=False,
            elem_id=f"canvas-{number}",
        )
        clear = gr.Button(f"Clear {number}", size="sm")
        clear.click(_sheet, None, canvas, queue=False, show_progress="hidden")
    return canvas


class _Policy:
    """Tells the browser what the page may load: from here, and nothing else."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"].append((b"content-security-policy", POLICY.encode()))
            await send(message)

        await self._app(scope, receive, sent)


@contextmanager
def open_page(studio: Studio, host: str, port: int) -> Iterator[str]:
    """Serve the page -> its address.

    Requests under other names are refused where it is for this machine alone, so that no page of
    another site reaches it by a name of its own.
    """
    names = ["127.0.0.1", "localhost"]
    if host not in names:
        names = ["*"]
    page = build(studio).queue(default_concurrency_limit=1, max_size=16)
    theme = gr.themes.Base(
        primary_hue="indigo", neutral_hue="slate", font=FONTS, font_mono=("ui-monospace",)
    )
    _, address, _ = page.launch(
        server_name=f"[{host}]" if ":" in host else host,
        server_port=port,
        share=False,
        inbrowser=False,
        quiet=True,
        prevent_thread_lock=True,
        footer_links=[],
        run_history=False,
        enable_monitoring=False,
        mcp_server=False,
        ssr_mode=False,
        pwa=False,
        num_workers=0,
        max_file_size=LARGEST_FILE,
        theme=theme,
        css=CSS,
        app_kwargs={
            "middleware": [
                Middleware(TrustedHostMiddleware, allowed_hosts=names),
                Middleware(_Policy),
            ]
        },
    )
    try:
        yield address
    finally:
        page.close(verbose=False)
