"""The page, in NiceGUI: controls on the left, pictures on the right."""

import asyncio
import contextlib
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, get_args

from .._typing import Array
from ..nn.sample_network import SampleNetwork
from ..params import Quality
from . import drawing, pictures
from .controls import Control, ranged
from .photos import MOST_BYTES, read_upload
from .scenes import Scene, Source, load, saved
from .settings import SLIDERS, Settings, View, command_of, entropy, python_of, view

_REST = 0.4  # seconds without a change before the difference and the entropy are drawn
# Most pixels have no stroke, so labels have to spread far.
_OF_SCRIBBLES = Settings(theta_alpha=80, theta_beta=13, w_bilateral=10, iterations=10)
_OWN = "your own photograph"
_SCRIBBLES = "scribbles, without a network"
_DIFFERENCE, _ENTROPY = "difference", "entropy"
# What files, settings and the machine can cause; the page says it and goes on.
_FAILURES = (ImportError, MemoryError, OSError, RuntimeError, TypeError, ValueError)
_STYLE = """
.views { flex: 1 1 300px; min-width: 0; max-width: 1500px; }
.views > * { flex: 1 1 400px; max-width: 760px; min-width: 0; }
@media (max-width: 700px) {  /* the picture stays in sight while the sliders above it scroll */
  .views.results { position: sticky; bottom: 0; max-height: 60vh; overflow: auto; z-index: 1;
    flex-basis: 100%; background: white; box-shadow: 0 -2px 6px #0004; }
  .body--dark .views.results { background: #121212; }
}
.swipe { position: relative; line-height: 0; max-width: 720px; width: 100%; }
.swipe img { width: 100%; height: auto; display: block; }
.swipe img.above { position: absolute; inset: 0;
  clip-path: inset(0 calc(100% - var(--at, 50%)) 0 0); }
.swipe .line { position: absolute; top: 0; bottom: 0; left: var(--at, 50%); width: 2px;
  background: white; box-shadow: 0 0 3px black; pointer-events: none; }
.body--dark input { color-scheme: dark; }
input[type=range] { width: 100%; height: 24px; margin: 0; accent-color: #2f6fb3; }
.control { gap: 0; }
.control input[type=text] { width: 9rem; padding: 2px 6px; text-align: right; color: inherit;
  background: transparent; border: 1px solid #808080; border-radius: 4px; }
.control input[aria-invalid=true] { border-color: #c62828; }
.wrong { color: #b71c1c; font-size: 0.85rem; }
.doubts { color: #8a4500; white-space: pre-line; }
.body--dark .wrong { color: #ff8a80; }
.body--dark .doubts { color: #ffb74d; }
:focus-visible { outline: 3px solid #2f6fb3 !important; outline-offset: 2px; }
.body--dark :focus-visible { outline-color: #90caf9 !important; }
/* Quasar takes the outline from these. */
.q-btn:focus-visible, .q-tab:focus-visible { box-shadow: inset 0 0 0 3px #2f6fb3 !important; }
.body--dark :is(.q-btn, .q-tab):focus-visible { box-shadow: inset 0 0 0 3px #90caf9 !important; }
.q-field__label { color: #595959; }
.body--dark .q-field__label { color: #bdbdbd; }
.plain { max-width: 720px; width: 100%; }
pre.code { white-space: pre-wrap; word-break: break-word; font-size: 0.8rem; padding: 0.6rem;
  border: 1px solid #8888; border-radius: 4px; margin: 0; }
"""


def build(
    ui: Any, run: Any, sources: Mapping[str, Source], start: Settings, *, threads: int | None,
    folder: Path, uploads: Path,
) -> None:  # fmt: skip
    """Add the page to NiceGUI (its modules `ui` and `run`); photographs pass through `uploads`."""

    def page() -> None:
        _Page(ui, run, dict(sources), start, threads, folder, uploads)

    ui.page("/", title="densecrf_rnn: explore")(page)


class _Drawn(NamedTuple):
    """What is on the screen."""

    scene: Scene
    settings: Settings
    found: View


class _Page:
    """One open page."""

    def __init__(
        self, ui: Any, run: Any, sources: dict[str, Source], start: Settings,
        threads: int | None, folder: Path, uploads: Path,
    ) -> None:  # fmt: skip
        self.ui, self.run, self.sources = ui, run, sources
        self.start, self.threads, self.folder, self.uploads = start, threads, folder, uploads
        self.network: SampleNetwork | None = None
        first = next(iter(sources))
        self.scene, self.settings = sources[first](), start
        self.before_strokes: Settings | None = None  # set while strokes are drawn
        self.wanted, self.closed = asyncio.Event(), False
        self.drawn: _Drawn | None = None
        self.pictures: dict[str, Any] = {}
        self.rest: dict[str, _Drawn] = {}  # what `pictures` were drawn of
        self.controls: dict[str, Control] = {}
        self.code: dict[str, str] = {}
        self.texts: dict[str, Any] = {}
        ui.dark_mode(None)
        ui.colors(primary="#2f6fb3")  # white text on it has a contrast of 5.2
        ui.add_css(_STYLE)
        self.drawing = drawing.Drawing(ui, self._show)
        title = ui.label("What each parameter of the dense CRF does").classes("text-xl")
        title.props("role=heading aria-level=1")
        with ui.row().classes("w-full items-start").style("gap: 2rem"):
            with ui.column().classes("w-80 max-w-full"):
                self._controls(first)
            with ui.row().classes("views items-start").style("gap: 1rem") as self.views:
                self.drawing.build()
                with ui.column():
                    self._views()
        self._show_drawing(False)
        ui.context.client.on_delete(self._close)
        ui.timer(0, self._worker, once=True)
        self.refresh()

    # --- controls --------------------------------------------------------------------------------

    def _controls(self, first: str) -> None:
        ui = self.ui
        names = [*self.sources, _OWN, _SCRIBBLES]
        self.choice = ui.select(names, value=first, label="image", on_change=self._chosen)
        self.choice.classes("w-full")
        self.upload = ui.upload(
            label="photograph (JPEG, PNG, WebP, BMP)", auto_upload=True, max_file_size=MOST_BYTES,
            max_files=20, on_upload=self._uploaded,
            on_rejected=lambda: ui.notify(
                f"not taken: no picture, or larger than {MOST_BYTES // 10**6} MB"
            ),
        )  # fmt: skip
        self.upload.props('accept="image/*"').classes("w-full")
        self.upload.set_visibility(False)
        for name, slider in SLIDERS.items():
            self.controls[name] = Control(
                ui, name, slider, getattr(self.settings, name), partial(self._set, name)
            )
        self.quality = ui.select(
            list(get_args(Quality)), value=self.settings.quality, label="quality",
            on_change=lambda e: self._set("quality", e.value),
        )  # fmt: skip
        self.quality.classes("w-full").tooltip("accuracy of the lattice: filled is slowest")
        ui.button("back to the start", color=None, on_click=self._reset).props("flat")

    def _set(self, name: str, value: float | str) -> None:
        self.settings = self.settings.with_value(name, value)
        self.refresh()

    def _reset(self) -> None:
        self._set_all(self.start if self.before_strokes is None else self._of_strokes())

    def _of_strokes(self) -> Settings:
        return replace(_OF_SCRIBBLES, quality=self.start.quality, others=self.start.others)

    def _set_all(self, to: Settings) -> None:
        self.settings = to
        for name, control in self.controls.items():
            control.show(getattr(to, name))
        self.quality.set_value(to.quality)
        self.refresh()

    # --- scenes ----------------------------------------------------------------------------------

    async def _chosen(self, event: Any) -> None:
        name = event.value
        drawing = name == _SCRIBBLES
        self.upload.set_visibility(name in (_OWN, _SCRIBBLES))
        self._show_drawing(drawing)
        if drawing:
            self.before_strokes = self.settings
            self._set_all(self._of_strokes())
            self.drawing.begin(self.scene.shown)
            return
        if self.before_strokes is not None:
            self._set_all(self.before_strokes)
            self.before_strokes = None
        if name in self.sources:
            await self._load(self.sources[name])

    def _show_drawing(self, visible: bool) -> None:
        self.drawing.show(visible)
        self.views.classes(remove="results") if visible else self.views.classes("results")

    async def _load(self, source: Source, chosen: str | None = None) -> None:
        """Show a scene, unless something else than `chosen` is chosen by then."""
        chosen = chosen or self.choice.value
        try:
            scene = await self.run.io_bound(load, source)
        except _FAILURES as error:
            self._complain(str(error))
            return
        if scene is not None and self.choice.value == chosen:  # nothing else was chosen meanwhile
            self._show(scene)

    def _complain(self, said: str) -> None:
        self.ui.notify(said, type="negative", multi_line=True, timeout=15000)

    def _show(self, scene: Scene) -> None:
        self.scene = scene
        self.refresh()

    async def _uploaded(self, event: Any) -> None:
        name, chosen = Path(event.file.name).name, self.choice.value
        place = Path(tempfile.mkdtemp(dir=self.uploads))
        place /= f"photograph{Path(name).suffix[:20]}"  # any name may come
        self.upload.reset()
        try:
            await event.file.save(place)
            image = await self.run.io_bound(read_upload, place)
        except _FAILURES as error:
            self._complain(str(error).replace(f"{place}", name))
            return
        finally:
            shutil.rmtree(place.parent, ignore_errors=True)
        if self.choice.value != chosen:
            return
        if chosen == _SCRIBBLES:
            self.drawing.begin(image)
            return

        def scored() -> Scene:
            if self.network is None:
                self.network = SampleNetwork()
            logits = self.network.scores(image)
            return Scene(Path(name).stem, image, logits, None, image)

        await self._load(scored, chosen)

    # --- views -----------------------------------------------------------------------------------

    def _views(self) -> None:
        ui = self.ui
        self.said = ui.label().props('role="status" data-said="scores"')
        self.doubts = ui.label().props('role="status"').classes("doubts")
        names = ("before, after", _DIFFERENCE, _ENTROPY, "code")
        with ui.tabs(on_change=self.refresh) as self.tabs:
            for name in names:
                ui.tab(name)
        self.tabs.props("no-caps dense outside-arrows mobile-arrows").classes("max-w-full")
        with ui.tab_panels(self.tabs, value=names[0], keep_alive=True).classes("w-full"):
            with ui.tab_panel(names[0]):
                self._swipe()
            with ui.tab_panel(_DIFFERENCE):
                self.pictures[_DIFFERENCE] = _image(ui, "pixels whose label changed", "plain")
                ui.label(
                    "Amber: changed. Where the truth is known, green: right now; red: right before."
                )
            with ui.tab_panel(_ENTROPY):
                self.pictures[_ENTROPY] = _image(
                    ui, "entropy of the marginals of each pixel", "plain"
                )
                ui.label("Dark: certain of one label. Light: all labels equally probable.")
            with ui.tab_panel(names[-1]):
                self._code()

    def _swipe(self) -> None:
        ui = self.ui
        with ui.element("div").classes("swipe"):
            with ui.element("div").style("position: relative"):
                self.after = _image(ui, "labels after the CRF", "")
                self.before = _image(ui, "labels before the CRF", "above")
                ui.element("div").classes("line")
            knob = ranged(
                ui, 0, 100, 1, 50,
                "share of the picture that shows the labels before the CRF", "50%",
            )  # fmt: skip
            knob.on("input", js_handler="""(e) => {
                const share = e.target.value + "%";
                e.target.closest(".swipe").style.setProperty("--at", share);
                e.target.setAttribute("aria-valuetext", share);
            }""")
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
        if self.drawn is None:
            return
        scene = self.drawn.scene
        try:
            kept = await self.run.io_bound(saved, scene, self.folder)
        except OSError as error:
            self._complain(f"{error.filename or self.folder}: {error.strerror}")
            return
        if kept is None or self.drawn.scene is not scene:  # another was chosen meanwhile
            return
        self.scene = kept if self.scene is scene else self.scene
        self.drawn = self.drawn._replace(scene=kept)
        self._show_code()

    def _show_code(self) -> None:
        """Show the code that gives the labels on the screen."""
        assert self.drawn is not None
        scene, settings, _ = self.drawn
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
        """Draw what is set and looked at now, as soon as the last refinement has ended."""
        self.wanted.set()

    def _close(self) -> None:
        """Let the worker of a page that is gone end."""
        self.closed = True
        self.refresh()

    async def _worker(self) -> None:
        while True:
            await self.wanted.wait()
            self.wanted.clear()
            if self.closed:
                return
            scene, settings = self.scene, self.settings
            try:
                if self.drawn is None or self.drawn[:2] != (scene, settings):
                    await self._draw(scene, settings)
                    with contextlib.suppress(asyncio.TimeoutError):
                        await asyncio.wait_for(self.wanted.wait(), _REST)
                        continue  # a slider moves, which comes first
                await self._draw_rest(self.tabs.value)
            except _FAILURES as error:
                self.said.set_text(str(error))

    async def _draw(self, scene: Scene, settings: Settings) -> None:
        """Refine a scene, and draw its labels and what is said of them."""
        found = await self.run.io_bound(_labels, scene, settings, self.threads)
        if found is None:  # the page was closed meanwhile
            return
        after, picture = found
        _set(self.after, picture)
        if self.drawn is None or self.drawn.scene is not scene:
            _set(self.before, await self.run.io_bound(_picture, scene, scene.before))
        self.drawn = _Drawn(scene, settings, after)
        self.said.set_text(
            f"{after.scores}. {1000 * after.seconds:.0f} ms, {after.vertices:,} vertices."
        )
        self.doubts.set_text("\n".join((*scene.doubts, *after.doubts)))
        self._show_code()

    async def _draw_rest(self, tab: str) -> None:
        """Draw the difference or the entropy, if that is looked at and not drawn yet."""
        drawn = self.drawn
        if drawn is None or tab not in self.pictures or self.rest.get(tab) is drawn:
            return
        picture = await self.run.io_bound(_PICTURES[tab], drawn, self.threads)
        if picture is not None:
            _set(self.pictures[tab], picture)
            self.rest[tab] = drawn


def _labels(scene: Scene, settings: Settings, threads: int | None) -> tuple[View, str]:
    """Refine a scene and draw its labels."""
    found = view(scene, settings, threads)
    return found, _picture(scene, found.after)


def _picture(scene: Scene, labels: Array) -> str:
    """Draw labels of a scene over its image."""
    return pictures.uri(pictures.labels(scene.shown, labels))


def _difference(drawn: _Drawn, threads: int | None) -> str:
    scene, _, found = drawn
    return pictures.uri(
        pictures.difference(scene.shown, scene.before, found.after, scene.truth)
    )


def _entropy(drawn: _Drawn, threads: int | None) -> str:
    return pictures.uri(pictures.entropy(entropy(drawn.scene, drawn.settings, threads)))


_PICTURES = {_DIFFERENCE: _difference, _ENTROPY: _entropy}


def _set(image: Any, source: str) -> None:
    image.props["src"] = source
    image.update()


def _image(ui: Any, alt: str, classes: str) -> Any:
    return ui.element("img").props(f'alt="{alt}"').classes(classes)
