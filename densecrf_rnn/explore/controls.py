"""Controls of the page: a slider with a box next to it that takes any number."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np

from .settings import Slider, number, shown

_STEPS = 200  # of a logarithmic slider


def position(slider: Slider, value: float) -> float:
    """Return where a value stands on its slider: the value, or its step on a logarithmic scale."""
    if not slider.logarithmic:
        return float(np.clip(value, slider.low, slider.high))
    share = np.log(max(value, slider.low) / slider.low) / np.log(slider.high / slider.low)
    return float(np.clip(share, 0, 1) * _STEPS)


def ranged(
    ui: Any, low: float, high: float, step: float, at: float, label: str, text: str
) -> Any:
    """Return a slider of the browser, which arrows, Home, End, Page Up and Page Down move.

    `at` is where it stands, and `text` the value that a screen reader says there.
    """
    knob = ui.element("input").props(f"type=range min={low} max={high} step={step}")
    # As attributes, which say where a slider begins; an update of the page leaves it where it is.
    knob.props["^value"], knob.props["aria-label"] = at, label
    return knob.props(f'aria-valuetext="{text}"')


class Control:
    """The slider and the box of one setting; what they show follows what is set.

    Parameters
    ----------
    ui : module
        `nicegui.ui`.
    name : str
        Name of the setting.
    slider : Slider
    value : float
        What is set at first.
    changed : function of a value
        Sets the value, or raises a TypeError or ValueError, which is shown below the box.
    """

    def __init__(
        self, ui: Any, name: str, slider: Slider, value: float, changed: Callable[[float], None]
    ) -> None:
        self.name, self._slider, self._changed = name, slider, changed
        self._ui, self._value = ui, value
        low, high, step = (
            (0, _STEPS, 1) if slider.logarithmic else (slider.low, slider.high, slider.step)
        )
        with ui.column().classes("control w-full"):
            with ui.row().classes("w-full justify-between items-center no-wrap"):
                label = ui.element("label")
                with label:
                    ui.label(slider.label)
                self._box = ui.element("input").props(
                    f'type=text inputmode=decimal autocomplete=off data-value="{name}"'
                )
            self._box.props["^value"] = shown(value)
            self._knob = ranged(
                ui, low, high, step, position(slider, value),
                f"{slider.label}: {slider.meaning}", shown(value),
            ).props(f'data-slider="{name}"').tooltip(slider.meaning)  # fmt: skip
            self._said = ui.label().props("role=alert").classes("wrong")
        self._said.set_visibility(False)
        label.props(f"for={self._box.html_id}")
        self._box.props(f"aria-describedby={self._said.html_id}")
        self._box.on("change", self._typed, js_handler="(e) => emit(e.target.value)")
        at = "Number(slider.value)"
        if slider.logarithmic:
            at = f"{slider.low} * {slider.high / slider.low} ** ({at} / {_STEPS})"
        self._knob.on("input", self._moved, throttle=0.05, js_handler=f"""(e) => {{
            const slider = e.target, value = Number(({at}).toPrecision(3));
            slider.setAttribute("aria-valuetext", value);
            getHtmlElement({self._box.id}).value = value;
            emit(value);
        }}""")

    def show(self, value: float) -> None:
        """Show a value that was set elsewhere."""
        self._value = value
        self._wrong("")
        self._ui.context.client.run_javascript(f"""
            const slider = getHtmlElement({self._knob.id}), text = {json.dumps(shown(value))};
            slider.value = {position(self._slider, value)};
            slider.setAttribute("aria-valuetext", text);
            getHtmlElement({self._box.id}).value = text;
        """)

    def _moved(self, event: Any) -> None:
        self._value = float(event.args)
        self._wrong("")
        self._changed(self._value)

    def _typed(self, event: Any) -> None:
        try:
            value = number(self.name, str(event.args))
            self._changed(value)
        except (TypeError, ValueError) as error:
            self._wrong(f"{error}; it stays {shown(self._value)}")
            return
        self.show(value)

    def _wrong(self, said: str) -> None:
        """Show what is wrong with what was typed; nothing if `said` is empty."""
        if said == self._said.text:
            return
        self._said.set_text(said)
        self._said.set_visibility(bool(said))
        self._box.props["aria-invalid"] = "true" if said else "false"
        self._box.update()
