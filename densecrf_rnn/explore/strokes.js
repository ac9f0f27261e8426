// Strokes on the image (.strokes), by mouse, pen, finger or keys. The server gets a stroke when it
// ends, as the event "stroke" with its points in pixels of the image.
(() => {
  const MOVES = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  const STEP = 10; // pixels of the image; with Shift 1
  let stroke = null; // that is being drawn: its surface, points and pointer (null: keys)
  let cursor = null; // of the keys

  function surfaceOf(event) {
    return event.target instanceof Element ? event.target.closest(".strokes") : null;
  }

  function sizeOf(surface) {
    const image = surface.querySelector("img");
    return [image.naturalWidth, image.naturalHeight];
  }

  function placeOf(surface, event) {
    const box = surface.querySelector("img").getBoundingClientRect();
    const [width, height] = sizeOf(surface);
    const x = ((event.clientX - box.left) * width) / box.width;
    return [x, ((event.clientY - box.top) * height) / box.height];
  }

  function draw(surface) {
    const live = surface.querySelector(".live");
    const { colour, width } = surface.dataset;
    let content = "";
    if (stroke !== null) {
      content += `<polyline points="${[...stroke.points, stroke.points.at(-1)].join(" ")}"
        fill="none" stroke="${colour}" stroke-width="${width}"
        stroke-linecap="round" stroke-linejoin="round"/>`;
    }
    if (cursor !== null && document.activeElement === surface) {
      const [x, y] = cursor;
      const cross = `M${x - 12} ${y}h24M${x} ${y - 12}v24`;
      content += `<path d="${cross}" stroke="black" stroke-width="4"/>
        <path d="${cross}" stroke="white" stroke-width="2"/>`;
    }
    live.setAttribute("viewBox", `0 0 ${sizeOf(surface).join(" ")}`);
    live.innerHTML = content;
  }

  function say(surface, text) {
    surface.parentElement.querySelector(".said").textContent = text;
  }

  function end() {
    const { surface, points } = stroke;
    stroke = null;
    draw(surface);
    emitEvent("stroke", points);
  }

  function drop() {
    const surface = stroke.surface;
    stroke = null;
    draw(surface);
  }

  document.addEventListener("pointerdown", (event) => {
    const surface = surfaceOf(event);
    if (surface === null || event.button !== 0 || !event.isPrimary) return;
    if (stroke !== null) end();
    event.preventDefault(); // no dragging of the image, no selection
    surface.focus({ preventScroll: true });
    surface.setPointerCapture(event.pointerId); // so that the end is noticed outside, too
    cursor = null;
    stroke = { surface, points: [placeOf(surface, event)], pointer: event.pointerId };
    draw(surface);
  });

  document.addEventListener("pointermove", (event) => {
    if (stroke === null || stroke.pointer !== event.pointerId) return;
    const events = event.getCoalescedEvents();
    for (const one of events.length > 0 ? events : [event]) {
      stroke.points.push(placeOf(stroke.surface, one));
    }
    draw(stroke.surface);
  });

  document.addEventListener("pointerup", (event) => {
    if (stroke !== null && stroke.pointer === event.pointerId) end();
  });

  document.addEventListener("pointercancel", (event) => {
    if (stroke !== null && stroke.pointer === event.pointerId) drop();
  });

  document.addEventListener("keydown", (event) => {
    const surface = surfaceOf(event);
    if (surface === null || event.ctrlKey || event.altKey || event.metaKey) return;
    const [width, height] = sizeOf(surface);
    const move = MOVES[event.key];
    const pen = event.key === " " || event.key === "Enter";
    if (move === undefined && !pen && event.key !== "Escape") return;
    event.preventDefault();
    if (stroke !== null && stroke.pointer !== null) return; // a pointer draws
    cursor ??= [Math.round(width / 2), Math.round(height / 2)];
    if (move !== undefined) {
      const step = event.shiftKey ? 1 : STEP;
      cursor = [
        Math.min(Math.max(cursor[0] + step * move[0], 0), width - 1),
        Math.min(Math.max(cursor[1] + step * move[1], 0), height - 1),
      ];
      stroke?.points.push(cursor);
    } else if (event.key === "Escape") {
      if (stroke !== null) drop();
    } else if (event.repeat) {
      return;
    } else if (stroke === null) {
      stroke = { surface, points: [cursor], pointer: null };
    } else {
      end();
    }
    draw(surface);
    say(surface, `column ${cursor[0]} of ${width}, row ${cursor[1]} of ${height}; `
      + `pen ${stroke === null ? "up" : "down"}`);
  });

  document.addEventListener("focusout", (event) => {
    const surface = surfaceOf(event);
    if (surface === null) return;
    if (stroke !== null && stroke.pointer === null) end();
    draw(surface);
  });
})();
