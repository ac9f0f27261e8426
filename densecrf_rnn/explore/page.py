"""The page, in NiceGUI: controls on the left, pictures on the right."""

import asyncio
import contextlib
import shutil
import socket
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, get_args

import numpy as np

from .._typing import Array
from .. import checks
from ..nn.sample_network import SampleNetwork
from ..params import Quality
from . import pictures, scribbles
from .photos import read_photo
from .scenes import Scene, Source, checked, saved
from .settings import SLIDERS, Settings, Slider, View, command_of, entropy, python_of, view


MOST_BYTES = 200_000_000  # of an upload
_STEPS = 200  # of a logarithmic slider
_REST = 0.4  # seconds without a change before the difference and the entropy are drawn
# Most pixels have no stroke, so messages have to reach far.
_OF_SCRIBBLES = Settings(theta_alpha=80, theta_beta=13, w_bilateral=10, iterations=10)
_OWN = "your own photograph"
_SCRIBBLES = "scribbles, without a network"
_STYLE = """
.swipe { position: relative; line-height: 0; max-width: 720px; }
.swipe img { width: 100%; height: auto; display: block; }
.swipe img.above { position: absolute; inset: 0;
  clip-path: inset(0 calc(100% - var(--at, 50%)) 0 0); }
.swipe .line { position: absolute; top: 0; bottom: 0; left: var(--at, 50%); width: 2px;
  background: white; box-shadow: 0 0 3px black; pointer-events: none; }
.swipe input { width: 100%; margin: 10px 0 4px 0; accent-color: #2f6fb3; }
.q-field__label { color: #595959; }
.body--dark .q-field__label { color: #bdbdbd; }
.plain { max-width: 720px; width: 100%; }
pre.code { white-space: pre-wrap; word-break: break-word; font-size: 0.8rem; padding: 0.6rem;
  border: 1px solid #8888; border-radius: 4px; margin: 0; }
"""


def position(slider: Slider, value: float) -> float:
    """Return where a value stands on its slider: itself, or a step of the logarithm."""
    if not slider.logarithmic:
        return value
    share = np.log(max(value, slider.low) / slider.low) / np.log(slider.high / slider.low)
    return float(np.clip(share, 0, 1) * _STEPS)


def value_at(slider: Slider, at: float) -> float:
    """Return the value at a position of a slider; the inverse of `position`."""
    if not slider.logarithmic:
        return at
    return float(slider.low * (slider.high / slider.low) ** (at / _STEPS))


def build(
    ui: Any, run: Any, sources: Mapping[str, Source], start: Settings, *, threads: int | None,
    folder: Path, uploads: Path,
) -> None:  # fmt: skip
    """Add the page to NiceGUI (its modules `ui` and `run`); photographs pass through `uploads`."""

    def page() -> None:
        _Page(ui, run, dict(sources), start, threads, folder, uploads)

    ui.page("/", title="densecrf_rnn: explore")(page)


class _Page:
    """One open page."""

    def __init__(
        self, ui: Any, run: Any, sources: dict[str, Source], start: Settings,
        threads: int | None, folder: Path, uploads: Path,
    ) -> None:  # fmt: skip
        self.ui, self.run, self.sources = ui, run, sources
        self.start, self.threads, self.folder, self.uploads = start, threads, folder, uploads
        self.network: SampleNetwork | None = None
        self.strokes: list[scribbles.Stroke] = []
        self.points: list[tuple[float, float]] = []
        self.photo: Array | None = None
        first = next(iter(sources))
        self.scene, self.settings = sources[first](), start
        self.wanted = asyncio.Event()
        self.drawn: Scene | None = None  # whose labels before are shown
        self.sliders: dict[str, Any] = {}
        self.code: dict[str, str] = {}
        self.texts: dict[str, Any] = {}
        ui.dark_mode(None)
        ui.colors(primary="#2f6fb3")  # white text on it has a contrast of 5.2
        ui.add_css(_STYLE)
        ui.label("What each parameter of the dense CRF does").classes("text-xl")
        with ui.row().classes("w-full items-start").style("gap: 2rem"):
            with ui.column().classes("w-80"):
                self._controls(first)
            with ui.column().classes("grow").style("min-width: 300px; max-width: 760px"):
                self._views()
        ui.timer(0, self._worker, once=True)
        self.refresh()

    # --- controls --------------------------------------------------------------------------------

    def _controls(self, first: str) -> None:
        ui = self.ui
        names = [*self.sources, _OWN, _SCRIBBLES]
        self.choice = ui.select(names, value=first, label="image", on_change=self._chosen)
        self.choice.classes("w-full")
        self.upload = ui.upload(
            label="photograph (JPEG, PNG)", auto_upload=True, max_file_size=MOST_BYTES,
            max_files=20, on_upload=self._uploaded,
            on_rejected=lambda: ui.notify("not taken: too large, or no picture"),
        )  # fmt: skip
        self.upload.props('accept="image/*"').classes("w-full")
        self.upload.set_visibility(False)
        self._pens()
        for name, slider in SLIDERS.items():
            self._slider(name, slider)
        self.quality = ui.select(
            list(get_args(Quality)), value=self.settings.quality, label="quality",
            on_change=lambda e: self._set("quality", e.value),
        )  # fmt: skip
        self.quality.classes("w-full").tooltip("accuracy of the lattice: filled is slowest")
        ui.button("back to the start", color=None, on_click=self._reset).props("flat")

    def _slider(self, name: str, slider: Slider) -> None:
        ui = self.ui
        value = float(getattr(self.settings, name))
        with ui.column().classes("w-full").style("gap: 0"):
            with ui.row().classes("w-full justify-between"):
                ui.label(slider.label)
                shown = ui.label(f"{value:g}").props(f'data-value="{name}"')
            steps = (0, _STEPS, 1) if slider.logarithmic else (slider.low, slider.high, slider.step)
            low, high, step = steps

            def moved(event: Any) -> None:
                self._set(name, value_at(slider, float(event.value)))
                shown.set_text(f"{getattr(self.settings, name):g}")

            knob = ui.slider(
                min=low, max=high, step=step, value=position(slider, value), on_change=moved
            )
            knob.props(f'aria-label="{slider.label}: {slider.meaning}" data-slider="{name}"')
            knob.tooltip(slider.meaning)
        self.sliders[name] = (knob, shown)

    def _pens(self) -> None:
        ui = self.ui
        with ui.column().classes("w-full") as self.pens:
            ui.label("Draw on the image: a stroke in each region. Nothing else is known.")
            names = {k: f"region {k}" for k in range(6)}
            self.pen = ui.toggle(names, value=1).props("dense no-caps").classes("flex-wrap")
            self.pen.props('aria-label="region to draw"')
            ui.label("width of the stroke, in pixels")
            self.width = ui.slider(min=1, max=40, value=8).props('aria-label="width of the stroke"')
            with ui.row():
                ui.button("undo", color=None, on_click=self._undo).props("flat")
                ui.button("clear", color=None, on_click=self._clear).props("flat")
        self.pens.set_visibility(False)

    def _set(self, name: str, value: float | str) -> None:
        self.settings = self.settings.with_value(name, value)
        self.refresh()

    def _reset(self) -> None:
        self._set_sliders(self.start)

    def _set_sliders(self, to: Settings) -> None:
        for name, (knob, _) in self.sliders.items():
            knob.set_value(position(SLIDERS[name], float(getattr(to, name))))
        self.quality.set_value(to.quality)

    # --- scenes ----------------------------------------------------------------------------------

    async def _chosen(self, event: Any) -> None:
        name = event.value
        drawing = name == _SCRIBBLES
        self.upload.set_visibility(name in (_OWN, _SCRIBBLES))
        self.pens.set_visibility(drawing)
        self.canvas.set_visibility(drawing)
        if drawing:
            self.photo = self.scene.shown
            self._set_sliders(_OF_SCRIBBLES)
            self._clear()
        elif name in self.sources:
            await self._load(self.sources[name])

    async def _load(self, source: Callable[[], Scene]) -> None:
        try:
            scene = checked(await self.run.io_bound(source))
        except (OSError, ImportError, TypeError, ValueError, MemoryError) as error:
            self.ui.notify(str(error), type="negative", multi_line=True, timeout=15000)
            return
        self._show(scene)

    def _show(self, scene: Scene) -> None:
        self.scene = scene
        self.refresh()

    async def _uploaded(self, event: Any) -> None:
        name = Path(event.file.name).name
        place = Path(tempfile.mkdtemp(dir=self.uploads))
        place /= f"photograph{Path(name).suffix[:20]}"  # any name may come
        self.upload.reset()
        try:
            await event.file.save(place)
            image = await self.run.io_bound(read_photo, place, 1000)
        except (OSError, ImportError, ValueError) as error:
            said = str(error).replace(f"{place}", name)
            self.ui.notify(said, type="negative", multi_line=True, timeout=15000)
            return
        finally:
            shutil.rmtree(place.parent, ignore_errors=True)
        self.photo = image
        if self.choice.value == _SCRIBBLES:
            self._clear()
            return

        def scored() -> Scene:
            if self.network is None:
                self.network = SampleNetwork()
            logits = self.network.scores(image)
            return Scene(Path(name).stem, image, logits, None, image)

        await self._load(scored)

    # --- scribbles -------------------------------------------------------------------------------

    def _clear(self) -> None:
        self.strokes, self.points = [], []
        assert self.photo is not None
        self.canvas.set_source(pictures.uri(self.photo))
        self._drawn()

    def _undo(self) -> None:
        self.strokes = self.strokes[:-1]
        self._drawn()

    def _mouse(self, event: Any) -> None:
        at = (float(event.image_x), float(event.image_y))
        if event.type == "mousedown":
            self.points = [at]
        elif event.type == "mousemove" and event.buttons == 1 and self.points:
            self.points.append(at)
        elif event.type in ("mouseup", "mouseleave") and self.points:
            stroke = scribbles.Stroke(
                int(self.pen.value), int(self.width.value), tuple([*self.points, at])
            )
            self.points = []
            self.strokes.append(stroke)
            self._drawn()

    def _drawn(self) -> None:
        colours = ["#ffffff", "#e6194b", "#3cb44b", "#4363d8", "#f58231", "#911eb4"]
        self.canvas.set_content("".join(
            f'<polyline points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in s.points)}" fill="none" '
            f'stroke="{colours[s.label]}" stroke-width="{s.width}" stroke-linecap="round"/>'
            for s in self.strokes
        ))  # fmt: skip
        assert self.photo is not None
        count = max(2, 1 + max((s.label for s in self.strokes), default=1))
        self._show(scribbles.scene("scribbles", self.photo, self.strokes, count))

    # --- views -----------------------------------------------------------------------------------

    def _views(self) -> None:
        ui = self.ui
        self.canvas = ui.interactive_image(
            on_mouse=self._mouse, events=["mousedown", "mousemove", "mouseup", "mouseleave"],
            cross=False,
        )
        self.canvas.classes("plain").props('role="img" aria-label="the image to draw strokes on"')
        self.canvas.set_visibility(False)
        self.said = ui.label().props('role="status" data-said="scores"')
        with ui.tabs().props("no-caps dense outside-arrows mobile-arrows") as tabs:
            swipe = ui.tab("before, after")
            changed = ui.tab("difference")
            certain = ui.tab("entropy")
            code = ui.tab("code")
        with ui.tab_panels(tabs, value=swipe, keep_alive=True).classes("w-full"):
            with ui.tab_panel(swipe):
                self._swipe()
            with ui.tab_panel(changed):
                self.changed = _image(ui, "pixels whose label changed", "plain")
                ui.label(
                    "Amber: changed. Where the truth is known, green: right now; red: right before."
                )
            with ui.tab_panel(certain):
                self.entropy = _image(ui, "entropy of the marginals of each pixel", "plain")
                ui.label("Dark: certain of one label. Light: all labels equally probable.")
            with ui.tab_panel(code):
                self._code()

    def _swipe(self) -> None:
        ui = self.ui
        with ui.element("div").classes("swipe"):
            with ui.element("div").style("position: relative"):
                self.after = _image(ui, "labels after the CRF", "")
                self.before = _image(ui, "labels before the CRF", "above")
                ui.element("div").classes("line")
            knob = ui.element("input").props(
                'type=range min=0 max=100 value=50 aria-label="share of the picture that shows '
                'the labels before the CRF"'
            )
            knob.on("input", js_handler="""(e) => e.target.closest(".swipe").style
                .setProperty("--at", e.target.value + "%")""")
        ui.label("Left of the line: before. Right of it: after.")

    def _code(self) -> None:
        ui = self.ui
        self.needs = ui.label()
        self.save = ui.button("save these inputs", color=None, on_click=self._save)
        self.save.props("outline no-caps")
        for name in ("Python", "command"):
            with ui.column().classes("w-full") as shown:
                copy = ui.button(
                    f"copy as {name}", color=None,
                    on_click=lambda n=name: ui.clipboard.write(self.code[n]),
                )
                copy.props("flat dense no-caps icon=content_copy")
                text = ui.element("pre").classes("code w-full")
                text.props(f'data-code="{name.lower()}" tabindex=0')
                with text:
                    self.texts[name] = (shown, ui.label())

    async def _save(self) -> None:
        try:
            self.scene = await self.run.io_bound(saved, self.scene, self.folder)
        except OSError as error:
            self.ui.notify(f"{error.filename}: {error.strerror}", type="negative")
            return
        self._show_code()

    def _show_code(self) -> None:
        scene, settings = self.scene, self.settings
        missing = [
            name for name, lines in (("Python", scene.python), ("a command", scene.command))
            if not lines
        ]  # fmt: skip
        self.needs.set_text(
            f"For {' and '.join(missing)}: save the logits and the image into {self.folder}, "
            "for the code to read." if missing else ""
        )  # fmt: skip
        self.save.set_visibility(bool(missing))
        self.code = {
            "Python": python_of(scene, settings) if scene.python else "",
            "command": command_of(scene, settings, f"{self.folder}/refined")
            if scene.command else "",
        }  # fmt: skip
        for name, (shown, text) in self.texts.items():
            shown.set_visibility(bool(self.code[name]))
            text.set_text(self.code[name])

    # --- refining --------------------------------------------------------------------------------

    def refresh(self) -> None:
        """Refine what is set now, as soon as the last refinement has ended."""
        self.wanted.set()

    async def _worker(self) -> None:
        while not self.ui.context.client.is_deleted:
            await self.wanted.wait()
            self.wanted.clear()
            scene, settings = self.scene, self.settings
            try:
                drawn = await self.run.io_bound(_labels, scene, settings, self.threads)
                if drawn is None:  # the page was closed meanwhile
                    return
                found, after = drawn
                _set(self.after, after)
                if scene is not self.drawn:
                    self.drawn = scene
                    before = pictures.labels(scene.shown, scene.before)
                    _set(self.before, await self.run.io_bound(pictures.uri, before))
                self.said.set_text(
                    f"{found.scores}. {1000 * found.seconds:.0f} ms, {found.vertices:,} vertices."
                )
                self._show_code()
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(self.wanted.wait(), _REST)
                    continue  # a slider moves, which comes first
                rest = await self.run.io_bound(_rest, scene, settings, found, self.threads)
                if rest is None:
                    return
                _set(self.changed, rest[0])
                _set(self.entropy, rest[1])
            except (TypeError, ValueError, MemoryError) as error:
                self.said.set_text(str(error))


def _labels(scene: Scene, settings: Settings, threads: int | None) -> tuple[View, str]:
    """Refine a scene and draw its labels."""
    found = view(scene, settings, threads)
    return found, pictures.uri(pictures.labels(scene.shown, found.after))


def _rest(
    scene: Scene, settings: Settings, found: View, threads: int | None
) -> tuple[str, str]:
    """Draw what changed, and the entropy."""
    changed = pictures.difference(scene.shown, scene.before, found.after, scene.truth)
    certain = pictures.entropy(entropy(scene, settings, threads))
    return pictures.uri(changed), pictures.uri(certain)


def _set(image: Any, source: str) -> None:
    image.props["src"] = source
    image.update()


def _image(ui: Any, alt: str, classes: str) -> Any:
    return ui.element("img").props(f'alt="{alt}"').classes(classes)


def _check_port(port: int) -> None:
    """Raise ValueError if the page cannot be served at this port."""
    if port > 65535:
        raise ValueError(f"--port is {port}; give one of 1024 to 65535")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise ValueError(f"--port {port}: {error.strerror}; give another port") from error


def serve(
    sources: Mapping[str, Source], start: Settings, *, port: int, browser: bool,
    threads: int | None, folder: Path,
) -> None:  # fmt: skip
    """Show the page on this machine alone until Ctrl-C; uploads are deleted then.

    Raises
    ------
    ImportError
        NiceGUI is not installed.
    ValueError
        The port cannot be used.
    """
    _check_port(port)
    nicegui = checks.package("nicegui", "explore", "'densecrf-rnn[explore]'")
    with tempfile.TemporaryDirectory(prefix="densecrf-explore-") as uploads:
        print(f"http://127.0.0.1:{port} (Ctrl-C ends it)", flush=True)
        build(
            nicegui.ui, nicegui.run, sources, start, threads=threads, folder=folder,
            uploads=Path(uploads),
        )  # fmt: skip
        nicegui.ui.run(
            host="127.0.0.1", port=port, show=browser, reload=False, title="densecrf_rnn: explore",
            show_welcome_message=False, favicon="🪄",
        )  # fmt: skip
