"""The surface of the page on which strokes are drawn, and the pens."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from .._typing import Array
from . import pictures, scribbles
from .controls import Control
from .scenes import Scene
from .settings import Slider

_COLOURS = ("#ffffff", "#e6194b", "#3cb44b", "#4363d8", "#f58231", "#911eb4")
_WIDTH = Slider(1, 40, 1, False, "width (pixels)", "width of the stroke, in pixels")
_MOST_POINTS = 100_000  # of a stroke
_HELP = (
    "Draw with mouse, pen or finger; or by keys: arrows move the cross (with Shift by single "
    "pixels), Space lowers and lifts the pen, Escape drops a stroke."
)
_STYLE = """
.strokes { position: relative; line-height: 0; touch-action: none; cursor: crosshair; }
.strokes img { width: 100%; height: auto; -webkit-user-drag: none; user-select: none; }
.strokes svg { position: absolute; inset: 0; width: 100%; height: 100%; pointer-events: none; }
""" + "".join(
    f".pens button:nth-child({label + 1}) {{ box-shadow: inset 0 -4px {colour}; }}\n"
    for label, colour in enumerate(_COLOURS)
)


class Drawing:
    """Strokes on an image, as a scene; `changed` is called with each new one."""

    def __init__(self, ui: Any, changed: Callable[[Scene], None]) -> None:
        self._ui, self._changed = ui, changed
        self._strokes: list[scribbles.Stroke] = []
        self._image: Array | None = None
        self._label, self._width = 1, 8
        ui.add_body_html(f"<script>{Path(__file__).with_name('strokes.js').read_text()}</script>")
        ui.add_css(_STYLE)
        ui.on("stroke", self._stroke)

    def build(self) -> None:
        """Add the surface to draw on, and the controls of the pen, to the page."""
        ui = self._ui
        with ui.column().classes("plain").style("gap: 8px") as self._whole:
            ui.label("Draw on the image: a stroke in each region. Nothing else is known.")
            pens = {k: f"region {k}" for k in range(len(_COLOURS))}
            pen = ui.toggle(pens, value=self._label, on_change=self._chosen)
            pen.props('dense no-caps role=group aria-label="region to draw"')
            pen.classes("pens flex-wrap")
            with ui.element("div").classes("strokes plain") as self._surface:
                self._shown = ui.element("img").props('alt="the image to draw strokes on"')
                self._drawn = ui.html("", sanitize=False, tag="svg")
                ui.element("svg").classes("live")
            self._surface.props('tabindex=0 role=application aria-label="surface for strokes"')
            ui.label().props("role=status").classes("said")
            help_ = ui.label(_HELP)
            with ui.row():
                ui.button("undo", color=None, on_click=self._undo).props("flat")
                ui.button("clear", color=None, on_click=self._clear).props("flat")
            Control(ui, "width", _WIDTH, self._width, self._widen)
        self._surface.props(f"aria-describedby={help_.html_id}")
        self._set_pen()

    def show(self, visible: bool) -> None:
        """Show the surface and its controls, or hide them."""
        self._whole.set_visibility(visible)

    def begin(self, image: Array) -> None:
        """Begin anew, on an image [H, W, 3]."""
        self._image = image
        self._shown.props["src"] = pictures.uri(image)
        self._shown.update()
        self._drawn.props(f'viewBox="0 0 {image.shape[1]} {image.shape[0]}"')
        self._clear()

    def _clear(self) -> None:
        self._strokes = []
        self._draw()

    def _undo(self) -> None:
        self._strokes = self._strokes[:-1]
        self._draw()

    def _chosen(self, event: Any) -> None:
        self._label = int(event.value)
        self._set_pen()

    def _widen(self, width: float) -> None:
        if width not in range(1, 1001):
            raise ValueError(f"width is {width:g}; it must be an integer from 1 to 1000")
        self._width = int(width)
        self._set_pen()

    def _set_pen(self) -> None:
        """Tell the surface how to draw a stroke that has not ended."""
        self._surface.props(f"data-colour={_COLOURS[self._label]} data-width={self._width}")

    def _stroke(self, event: Any) -> None:
        points = tuple((float(x), float(y)) for x, y in event.args[:_MOST_POINTS])
        if points and self._image is not None:
            self._strokes.append(scribbles.Stroke(self._label, self._width, points))
            self._draw()

    def _draw(self) -> None:
        """Draw all strokes, and hand them on as a scene."""
        assert self._image is not None
        self._drawn.set_content("".join(map(_polyline, self._strokes)))
        count = max(2, 1 + max((s.label for s in self._strokes), default=1))
        self._changed(scribbles.scene("scribbles", self._image, self._strokes, count))


def _polyline(stroke: scribbles.Stroke) -> str:
    """Return a stroke as SVG; its last point is repeated, so that a single point is seen."""
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in (*stroke.points, stroke.points[-1]))
    return (
        f'<polyline points="{points}" fill="none" stroke="{_COLOURS[stroke.label]}" '
        f'stroke-width="{stroke.width}" stroke-linecap="round" stroke-linejoin="round"/>'
    )
