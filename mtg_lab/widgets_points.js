// A scatter of points in which one is chosen, by a click or by the arrow keys; no library.
const SIZE = 460, MARGIN = 14, REACH = 4;
const circle = (c, r) => c.arc(0, 0, r, 0, 2 * Math.PI);
const polygon = (...corners) => (c, r) => {
  corners.forEach(([x, y], i) => (i ? c.lineTo(x * r, y * r) : c.moveTo(x * r, y * r)));
  c.closePath();
};
const star = Array.from({ length: 10 }, (_, i) => {
  const r = i % 2 ? 0.5 : 1.25, a = (Math.PI * i) / 5 - Math.PI / 2;
  return [r * Math.cos(a), r * Math.sin(a)];
});
const plus = [[-.4, -1.2], [.4, -1.2], [.4, -.4], [1.2, -.4], [1.2, .4], [.4, .4], [.4, 1.2], [-.4, 1.2], [-.4, .4],
  [-1.2, .4], [-1.2, -.4], [-.4, -.4]];
// The letters of matplotlib's markers.
const SHAPES = {
  o: circle,
  s: polygon([-1, -1], [1, -1], [1, 1], [-1, 1]),
  "^": polygon([0, -1.2], [1.1, .9], [-1.1, .9]),
  v: polygon([0, 1.2], [1.1, -.9], [-1.1, -.9]),
  D: polygon([0, -1.3], [1.3, 0], [0, 1.3], [-1.3, 0]),
  P: polygon(...plus),
  X: polygon(...plus.map(([x, y]) => [(x - y) * .7, (x + y) * .7])),
  "*": polygon(...star),
};

function render({ model, el, signal }) {
  const canvas = document.createElement("canvas");
  const scale = window.devicePixelRatio || 1;
  canvas.width = canvas.height = SIZE * scale;
  Object.assign(canvas.style, { width: `${SIZE}px`, maxWidth: "100%", aspectRatio: "1", border: "1px solid #ccc", cursor: "crosshair",
    outlineOffset: "-3px" });
  // To a screen reader a slider over the points, whose value is told in words.
  canvas.tabIndex = 0;
  canvas.setAttribute("role", "slider");
  canvas.setAttribute("aria-valuemin", "1");
  const focused = () => (canvas.style.outline = canvas.matches(":focus") ? "3px solid #0072B2" : "none");
  canvas.addEventListener("focus", focused);
  canvas.addEventListener("blur", focused);
  el.appendChild(canvas);

  let places = [], codes = [];
  const at = (i) => [MARGIN + places[2 * i] * (SIZE - 2 * MARGIN), SIZE - MARGIN - places[2 * i + 1] * (SIZE - 2 * MARGIN)];

  const buffer = (bytes) => bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength);

  function draw() {
    places = new Float32Array(buffer(model.get("places")));
    codes = new Uint8Array(buffer(model.get("codes")));
    const c = canvas.getContext("2d"), colours = model.get("colours"), markers = model.get("markers");
    const mark = (i, r, paint) => {
      c.setTransform(scale, 0, 0, scale, ...at(i).map((v) => v * scale));
      c.beginPath();
      SHAPES[markers[codes[i]]](c, r);
      paint();
    };
    c.setTransform(1, 0, 0, 1, 0, 0);
    c.fillStyle = "white";
    c.fillRect(0, 0, canvas.width, canvas.height);
    for (let i = 0; i < codes.length; i++) {
      c.fillStyle = colours[codes[i]] + "99";
      mark(i, 2.6, () => c.fill());
    }
    const chosen = model.get("selected");
    for (const i of [...model.get("ringed"), chosen]) {
      c.fillStyle = colours[codes[i]];
      c.strokeStyle = "black";
      mark(i, 5, () => c.fill());
      c.setTransform(scale, 0, 0, scale, ...at(i).map((v) => v * scale));
      for (const r of i === chosen ? [9, 12] : [9]) {
        c.beginPath();
        circle(c, r);
        c.stroke();
      }
    }
    canvas.setAttribute("aria-label", model.get("label"));
    canvas.setAttribute("aria-valuemax", String(codes.length));
    canvas.setAttribute("aria-valuenow", String(chosen + 1));
    canvas.setAttribute("aria-valuetext", model.get("words"));
  }

  function choose(i) {
    if (i < 0 || i === model.get("selected")) return;
    model.set("selected", i);
    model.save_changes();
  }

  function best(cost) {
    let found = -1, least = Infinity;
    for (let i = 0; i < codes.length; i++) {
      const value = cost(...at(i), i);
      if (value < least) [found, least] = [i, value];
    }
    return found;
  }

  canvas.addEventListener("click", (event) => {
    const box = canvas.getBoundingClientRect(), shrunk = SIZE / box.width;
    const [x, y] = [(event.clientX - box.left) * shrunk, (event.clientY - box.top) * shrunk];
    choose(best((a, b) => (a - x) ** 2 + (b - y) ** 2));
  });

  // An arrow goes to the nearest point on that side, one that is off the line counting as farther; page keys go on and back.
  const SIDES = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  canvas.addEventListener("keydown", (event) => {
    const chosen = model.get("selected"), last = codes.length - 1;
    const jumps = { Home: 0, End: last, PageDown: Math.min(chosen + 1, last), PageUp: Math.max(chosen - 1, 0) };
    if (event.key in SIDES) {
      const [x, y] = at(chosen), [dx, dy] = SIDES[event.key];
      choose(best((a, b, i) => {
        const along = (a - x) * dx + (b - y) * dy, off = Math.abs((a - x) * dy) + Math.abs((b - y) * dx);
        return i === chosen || along <= 0.5 ? Infinity : along + REACH * off;
      }));
    } else if (event.key in jumps) {
      choose(jumps[event.key]);
    } else {
      return;
    }
    event.preventDefault();
    event.stopPropagation(); // a notebook would move to the next cell
  });

  // Once all that came together is there: new colours do not fit the old codes.
  let pending = null;
  const soon = () => (pending ??= requestAnimationFrame(() => {
    pending = null;
    draw();
  }));
  const names = ["places", "codes", "colours", "markers", "selected", "ringed", "words"];
  for (const name of names) model.on(`change:${name}`, soon);
  signal?.addEventListener("abort", () => {
    for (const name of names) model.off(`change:${name}`, soon);
  });
  draw();
}

export default { render };
