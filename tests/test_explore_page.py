"""The page of `densecrf-rnn explore` in a browser: sliders, boxes, strokes, photographs."""

import io
import shlex
import shutil
import zlib

import numpy as np
import pytest
from explore_server import ended, labels_of, started

from densecrf_rnn import files, samples
from densecrf_rnn.cli import main

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
AFTER = 'img[alt="labels after the CRF"]'


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A browser, the port of a server with the samples, and the folder of its files."""
    playwright = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed")
    folder = tmp_path_factory.mktemp("explore")
    server, port = started(folder)
    try:
        with playwright.sync_playwright() as tool:
            browser = tool.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
            yield browser, port, folder
            browser.close()
    finally:
        ended(server)
    assert not list(folder.glob("densecrf-explore-*"))  # uploads are deleted at the end


def shown(browser, port, **how):
    """A page of a new context, once it shows labels; it lists its requests and its errors."""
    opened = browser.new_context(**how).new_page()
    opened.set_default_timeout(60_000)
    opened.outside, opened.wrong = [], []
    opened.on("request", lambda r: opened.outside.append(r.url))
    opened.on("pageerror", lambda error: opened.wrong.append(str(error)))
    opened.on("console", lambda m: m.type == "error" and opened.wrong.append(m.text))
    opened.goto(f"http://127.0.0.1:{port}")
    opened.wait_for_selector(AFTER + '[src^="data:"]')
    return opened


@pytest.fixture
def opened(served):
    """A page on a desktop, which no errors may occur on."""
    browser, port, _ = served
    opened = shown(browser, port, viewport={"width": 1280, "height": 900})
    yield opened
    opened.context.close()
    assert opened.wrong == []


def after(opened):
    return opened.get_attribute(AFTER, "src")


def changed(opened, before):
    """Wait until the picture differs from `before`."""
    opened.wait_for_function(
        f"before => document.querySelector('{AFTER}').src !== before", arg=before
    )


def choose(opened, name):
    opened.get_by_label("image", exact=True).click()
    opened.get_by_role("option", name=name).click()


def knob(opened, name):
    return opened.locator(f'[data-slider="{name}"]')


def box(opened, name):
    return opened.locator(f'[data-value="{name}"]')


def code(opened, part="", which="python"):
    """The code that the page shows, once it contains `part`."""
    opened.get_by_role("tab", name="code").click()
    opened.wait_for_function(
        "([w, p]) => document.querySelector(`[data-code=${w}]`)?.textContent.includes(p)",
        arg=[which, part],
    )
    found = opened.locator(f'[data-code="{which}"]').text_content()
    opened.get_by_role("tab", name="before, after").click()
    opened.wait_for_selector(AFTER)
    return found


# --- sliders and boxes ---------------------------------------------------------------------------


def test_a_slider_moves_the_picture_and_the_command_gives_its_labels(opened, tmp_path):
    before = after(opened)
    at = knob(opened, "theta_beta").bounding_box()
    opened.mouse.click(at["x"] + 0.8 * at["width"], at["y"] + at["height"] / 2)
    changed(opened, before)
    value = float(box(opened, "theta_beta").input_value())
    assert 20 < value < 60
    python = code(opened, f"theta_beta={value}")
    opened.get_by_role("tab", name="code").click()
    opened.get_by_role("button", name="save these inputs").click()
    words = shlex.split(code(opened, "refine", "command"))
    words[words.index("-o") + 1] = str(tmp_path / "out")
    assert words[words.index("--theta-beta") + 1] == str(value)
    assert main(words[1:]) == 0
    (written,) = (tmp_path / "out").glob("*.png")
    np.testing.assert_array_equal(files.read_labels(written), labels_of(python))


@pytest.mark.parametrize("name", ["theta_alpha", "w_spatial", "iterations", "temperature"])
def test_keys_move_a_slider_by_steps_and_to_its_ends_and_it_says_its_value(opened, name):
    slider = knob(opened, name)
    slider.focus()

    def pressed(key):
        opened.keyboard.press(key)
        value = box(opened, name).input_value()
        assert slider.get_attribute("aria-valuetext") == value
        return float(value)

    low = pressed("Home")
    step = pressed("ArrowRight")
    leap = pressed("PageUp")
    high = pressed("End")
    assert low < step < leap < high and leap - step > step - low
    assert pressed("PageDown") < high


def test_a_number_beyond_the_slider_is_taken_to_the_digit_and_a_wrong_one_gets_a_sentence(opened):
    for name, text in (("theta_alpha", "1234.56789012345"), ("w_bilateral", "-1e-05"),
                       ("iterations", "23")):  # fmt: skip
        box(opened, name).fill(text)
        box(opened, name).press("Enter")
        code(opened, f"{name}={text}")
        assert knob(opened, name).get_attribute("aria-valuetext") in (text, str(float(text)))
    assert knob(opened, "theta_alpha").input_value() == "200"  # its end
    for name, text, said in (
        ("theta_alpha", "-3", "theta_alpha is -3; a bandwidth must be positive"),
        ("theta_gamma", "3,5", "theta_gamma is '3,5'; give a number"),
        ("iterations", "2.5", "iterations is 2.5; it must be an integer; it stays 23"),
        ("iterations", "100000", "the page runs at most 1000"),
        ("temperature", "0", "temperature is 0; it must be positive"),
    ):
        before = code(opened)
        box(opened, name).fill(text)
        box(opened, name).blur()
        alert = opened.get_by_role("alert").filter(has_text=said)
        alert.wait_for()
        assert box(opened, name).get_attribute("aria-invalid") == "true"
        assert box(opened, name).get_attribute("aria-describedby") == alert.get_attribute("id")
        assert code(opened) == before
    opened.get_by_role("button", name="back to the start").click()
    opened.wait_for_function("() => !document.querySelector('[aria-invalid=true]')")
    assert box(opened, "theta_alpha").input_value() == "30"


def test_the_swipe_stays_where_it_was_put_when_the_picture_changes(opened):
    swipe = opened.locator(".swipe input")
    swipe.fill("80")
    before = after(opened)
    box(opened, "theta_gamma").fill("9")
    box(opened, "theta_gamma").press("Enter")
    changed(opened, before)
    at = opened.evaluate("document.querySelector('.swipe').style.getPropertyValue('--at')")
    assert (swipe.input_value(), at) == ("80", "80%")


def test_difference_and_entropy_are_drawn_when_they_are_looked_at(opened):
    for tab, alt in (("difference", "pixels whose label"), ("entropy", "entropy of the")):
        image = f'img[alt^="{alt}"]'
        opened.get_by_role("tab", name=tab).click()
        opened.wait_for_selector(image + '[src^="data:"]')
        before = opened.get_attribute(image, "src")
        box(opened, "w_spatial").fill("0" if tab == "entropy" else "12")
        box(opened, "w_spatial").press("Enter")
        opened.wait_for_function(
            "([i, b]) => document.querySelector(i).src !== b", arg=[image, before]
        )


# --- strokes and photographs ---------------------------------------------------------------------


def drawing(opened):
    """Choose scribbles; return the surface to draw on."""
    before = after(opened)
    choose(opened, "scribbles")
    changed(opened, before)
    surface = opened.get_by_label("surface for strokes")
    surface.scroll_into_view_if_needed()
    return surface


def strokes(opened, count):
    """The points of the strokes that the server drew, once there are `count`."""
    lines = ".strokes svg:not(.live) polyline"
    opened.wait_for_function(
        "([lines, n]) => document.querySelectorAll(lines).length === n", arg=[lines, count]
    )
    found = opened.locator(lines).evaluate_all("all => all.map(l => l.getAttribute('points'))")
    return [[[float(x) for x in point.split(",")] for point in one.split()] for one in found]


def test_strokes_are_drawn_by_mouse_and_end_outside_the_image_too(opened):
    surface = drawing(opened)
    at = surface.bounding_box()
    for number, (x, y) in enumerate(((120, 60), (-40, 150)), start=1):
        before = after(opened)
        opened.mouse.move(at["x"] + 40, at["y"] + 40 * number)
        opened.mouse.down()
        opened.mouse.move(at["x"] + x, at["y"] + y, steps=5)
        assert opened.locator(".strokes .live polyline").count() == 1
        opened.mouse.up()
        changed(opened, before)
        assert len(strokes(opened, number)[-1]) > 3
        opened.get_by_role("button", name="region 2").click()
    opened.get_by_role("button", name="clear").click()
    strokes(opened, 0)


def test_keys_draw_strokes_and_say_where_the_pen_is(opened):
    surface = drawing(opened)
    help_ = opened.locator("#" + surface.get_attribute("aria-describedby"))
    assert "arrows move" in help_.inner_text() and "Space" in help_.inner_text()
    before = after(opened)
    surface.focus()
    for key in (" ", *["ArrowRight"] * 6, "Shift+ArrowUp", "Enter"):
        opened.keyboard.press(key)
    changed(opened, before)
    assert "pen up" in opened.locator(".said").inner_text()
    (points,) = strokes(opened, 1)
    assert (np.ptp(points, axis=0) == (60, 1)).all()
    for key in (" ", "ArrowLeft", "Escape", "ArrowLeft", " "):
        opened.keyboard.press(key)
    opened.keyboard.press("Tab")  # lifts the pen
    assert len(strokes(opened, 2)[1]) == 2  # a dot
    opened.get_by_role("button", name="undo").click()
    strokes(opened, 1)


def test_a_finger_draws_and_does_not_scroll(served):
    browser, port, _ = served
    size = {"width": 390, "height": 844}
    opened = shown(browser, port, viewport=size, has_touch=True, is_mobile=True)
    surface = drawing(opened)
    at, scrolled = surface.bounding_box(), opened.evaluate("window.scrollY")
    fingers = opened.context.new_cdp_session(opened)

    def touch(kind, *points):
        points = [{"x": at["x"] + x, "y": at["y"] + y} for x, y in points]
        fingers.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    before = after(opened)
    touch("touchStart", (100, 150))
    for step in range(1, 8):
        touch("touchMove", (100, 150 - 15 * step))
    touch("touchEnd")
    changed(opened, before)
    (points,) = strokes(opened, 1)
    assert np.ptp(points, axis=0)[1] > 100 and opened.evaluate("window.scrollY") == scrolled
    assert opened.wrong == []
    opened.context.close()


def test_scribbles_have_settings_of_their_own_and_give_back_those_before(opened):
    box(opened, "theta_alpha").fill("33.25")
    box(opened, "theta_alpha").press("Enter")
    code(opened, "theta_alpha=33.25")
    drawing(opened)
    assert box(opened, "theta_alpha").input_value() == "80"
    choose(opened, "2007_000033")
    code(opened, "theta_alpha=33.25")
    assert box(opened, "theta_alpha").input_value() == "33.25"


def test_a_photograph_of_ones_own_is_scored_and_deleted(opened, tmp_path, served):
    image_module = pytest.importorskip("PIL.Image")
    image = samples.load("chelsea").image[::2, ::2]
    image_module.fromarray(image).save(tmp_path / "cat.png")
    before = after(opened)
    choose(opened, "your own photograph")
    opened.set_input_files('input[type="file"]', str(tmp_path / "cat.png"))
    changed(opened, before)
    assert "of the pixels changed" in opened.locator("[data-said]").inner_text()
    (uploads,) = served[-1].glob("densecrf-explore-*")
    assert list(uploads.iterdir()) == []  # read, and deleted


def blank_png(width, height):
    """A PNG file of one grey value; it takes a few kilobytes, whatever its size."""
    def chunk(kind, content):
        sealed = kind + content
        return len(content).to_bytes(4, "big") + sealed + zlib.crc32(sealed).to_bytes(4, "big")

    head = width.to_bytes(4, "big") + height.to_bytes(4, "big") + b"\x08\0\0\0\0"
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0")) + (
        chunk(b"IEND", b"")
    )


def test_an_upload_that_is_no_photograph_or_out_of_bounds_gets_a_sentence(opened, served):
    choose(opened, "your own photograph")
    arrays = io.BytesIO()
    np.savez_compressed(arrays, a=np.zeros((3000, 3000, 3), np.uint8))
    for name, content, said in (
        ("none.png", b"no picture", "none.png: damaged"),
        ("..", b"no picture", "..: is no photograph; give JPEG"),
        ("a" * 250 + ".png", b"no picture", "aaa.png: damaged"),
        ("a.npz", arrays.getvalue(), "a.npz: is no photograph; give JPEG"),
        ("a.pt", b"PK", "a.pt: is no photograph; give JPEG"),
        ("vast.png", blank_png(60_000, 60_000), "has 60000 x 60000 pixels; the page takes"),
    ):
        odd = {"name": name, "mimeType": "image/png", "buffer": content}
        opened.set_input_files('input[type="file"]', odd)
        opened.locator(".q-notification").filter(has_text=said).last.wait_for()
    (uploads,) = served[-1].glob("densecrf-explore-*")
    opened.wait_for_timeout(500)
    assert list(uploads.iterdir()) == []


def test_strokes_are_drawn_on_the_image_that_is_shown(opened):

    def canvas_of(name):
        before = after(opened)
        choose(opened, name)
        changed(opened, before)
        return drawing(opened).locator("img").get_attribute("src")

    assert canvas_of("2007_000129") != canvas_of("chelsea")


# --- what it loads and looks like -----------------------------------------------------------------


def test_the_page_asks_nothing_of_other_hosts_and_complains_of_nothing(opened, served):
    port = served[1]
    assert opened.outside
    mine = (f"http://127.0.0.1:{port}/", f"ws://127.0.0.1:{port}/", "data:", "blob:")
    assert [url for url in opened.outside if not url.startswith(mine)] == []
    assert opened.wrong == []


def test_the_browser_loads_nothing_from_other_hosts_even_if_it_is_told_to(opened):
    complaints = len(opened.wrong)
    refused = opened.evaluate("""() => new Promise(resolve => {
        document.addEventListener("securitypolicyviolation", e => resolve(e.violatedDirective));
        const image = new Image();
        image.src = "http://127.0.0.2:9/a.png";
        setTimeout(() => resolve("nothing"), 3000);
    })""")
    del opened.wrong[complaints:], opened.outside[-1:]
    assert refused == "img-src"


def test_nothing_is_wider_than_the_window(opened):
    def beyond():
        return opened.evaluate(
            "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        )

    for drawn in (False, True):
        if drawn:
            drawing(opened)
        for width in (320, 390, 768, 1024, 1920):
            opened.set_viewport_size({"width": width, "height": 800})
            for tab in ("code", "entropy", "before, after"):
                opened.get_by_role("tab", name=tab).click()
                assert beyond() <= 0, (width, tab, drawn)


@pytest.mark.parametrize("key", ["Tab", "Shift+Tab"])
def test_what_has_the_focus_by_keys_can_be_seen(opened, key):
    seen = set()
    for _ in range(25):
        opened.keyboard.press(key)
        at, found = opened.evaluate("""() => {
            const at = document.activeElement, style = getComputedStyle(at);
            const ring = style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2;
            const shadow = style.boxShadow.includes("inset");
            const field = at.closest(".q-field--focused") !== null;  // has a line of its own
            return [at.tagName, ring || shadow || field]; }""")
        seen.add(at)
        assert found or at == "BODY", at
    assert {"INPUT", "BUTTON", "DIV"} <= seen  # sliders and boxes, the way back, tabs


@pytest.mark.parametrize("scheme, body", [("light", (255, 255, 255)), ("dark", (18, 18, 18))])
def test_buttons_can_be_read_in_light_and_dark(opened, scheme, body):
    opened.emulate_media(color_scheme=scheme)
    opened.wait_for_timeout(1000)
    found = opened.evaluate("""() => [...document.querySelectorAll(
        "button, .q-tab, .q-field__label, .q-uploader__header")].map(e => {
            const style = getComputedStyle(e), numbers = c => c.match(/[\\d.]+/g).map(Number);
            return [e.innerText, numbers(style.color), numbers(style.backgroundColor)]; })""")
    opened.emulate_media(color_scheme="light")

    def luminance(colour):
        c = np.array(colour[:3]) / 255
        linear = np.where(c <= 0.03928, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)
        return linear @ (0.2126, 0.7152, 0.0722) + 0.05

    assert len(found) > 10
    for text, colour, behind in found:
        of_text = luminance(colour)
        of_ground = luminance(behind if len(behind) == 3 else body)
        contrast = max(of_text, of_ground) / min(of_text, of_ground)
        assert contrast >= 4.5, (text, colour, behind)


def test_every_control_has_a_name_and_every_picture_an_alternative(opened):
    unnamed = opened.evaluate("""() =>
        [...document.querySelectorAll('img')].filter(i => !i.alt && !i.closest('[aria-label]'))
            .map(i => i.outerHTML.slice(0, 80)).concat(
        [...document.querySelectorAll('input[type=range], [role=slider]')].filter(i =>
            !i.getAttribute('aria-label') && !i.closest('[aria-label]'))
            .map(i => i.outerHTML.slice(0, 120)))""")
    assert unnamed == []
    unsaid = opened.evaluate("""() => [...document.querySelectorAll('input[type=range]')]
        .filter(i => !i.getAttribute('aria-valuetext')).map(i => i.outerHTML.slice(0, 120))""")
    assert unsaid == []
