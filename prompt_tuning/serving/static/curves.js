/** Curves, as SVG. */

import { fill, make, rounded } from "./elements.js";

const HEIGHT = 220;
const LEFT = 48;
const RIGHT = 12;
const TOP = 12;
const BOTTOM = 28;

/** A growing curve: a figure with a caption, a drawing and a table. */
export class Curve {
  /**
   * @param {string} title The name of the values.
   * @param {boolean} hasBest Whether to mark the largest value.
   */
  constructor(title, hasBest = false) {
    this.title = title;
    this.hasBest = hasBest;
    this.points = [];
    this.drawing = make("div");
    this.numbers = fill(make("table"), ["Step", title], []);
    this.element = make(
      "figure",
      {},
      make("figcaption", { textContent: title }),
      this.drawing,
      make(
        "details",
        {},
        make("summary", { textContent: `${title}: the numbers` }),
        this.numbers,
      ),
    );
    new ResizeObserver(() => this.draw()).observe(this.drawing);
  }

  /** Adds a point; ignores a second one at the same step. */
  add(step, value) {
    if (!Number.isFinite(value)) return;
    if (this.points.some(([x]) => x === step)) return;
    this.points.push([step, value]);
    this.points.sort(([a], [b]) => a - b);
    const rows = this.points.map(([x, y]) => [rounded(x), rounded(y, 4)]);
    fill(this.numbers, ["Step", this.title], rows);
    this.draw();
  }

  /** The first point with the largest value. */
  get best() {
    return this.points.reduce((a, b) => (b[1] > a[1] ? b : a));
  }

  draw() {
    const width = this.drawing.clientWidth;
    if (!width) return; // The curve is hidden.
    const svg = node("svg", {
      viewBox: `0 0 ${width} ${HEIGHT}`,
      role: "img",
      "aria-label": this.summary(),
    });
    if (this.points.length) this.drawPoints(svg, width);
    this.drawing.replaceChildren(svg);
  }

  /** Describes the curve for screen readers. */
  summary() {
    if (!this.points.length) return `${this.title}: nothing yet`;
    const [step, value] = this.points.at(-1);
    const text = `${this.title}: ${rounded(value, 3)} at step ${step}`;
    if (!this.hasBest) return text;
    return `${text}; best ${rounded(this.best[1], 3)} at step ${this.best[0]}`;
  }

  drawPoints(svg, width) {
    const xs = this.points.map(([x]) => x);
    const ys = this.points.map(([, y]) => y);
    const x = scale(xs, LEFT, width - RIGHT);
    const y = scale(ys, HEIGHT - BOTTOM, TOP);
    for (const tick of y.ticks) {
      const at = y.at(tick);
      svg.append(
        node("line", {
          class: "grid",
          x1: LEFT,
          x2: width - RIGHT,
          y1: at,
          y2: at,
        }),
        text(rounded(tick, 4), LEFT - 6, at + 4, "end"),
      );
    }
    for (const tick of x.ticks) {
      svg.append(text(rounded(tick), x.at(tick), HEIGHT - 8, "middle"));
    }
    const places = this.points.map(([a, b]) => `${x.at(a)},${y.at(b)}`);
    svg.append(node("polyline", { class: "curve", points: places.join(" ") }));
    if (this.points.length > 30) return;
    for (const [a, b] of this.points) {
      svg.append(node("circle", circle("point", x.at(a), y.at(b), 3)));
    }
    if (this.hasBest) {
      const [a, b] = this.best;
      svg.append(node("circle", circle("best", x.at(a), y.at(b), 7)));
    }
  }
}

function node(name, attributes) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) {
    made.setAttribute(key, value);
  }
  return made;
}

function text(content, x, y, anchor) {
  const made = node("text", { x, y, "text-anchor": anchor });
  made.textContent = content;
  return made;
}

const circle = (name, cx, cy, r) => ({ class: name, cx, cy, r });

/** Maps values to positions between two ends, with round ticks. */
function scale(values, from, to) {
  const low = Math.min(...values);
  const high = Math.max(...values);
  const step = roundStep((high - low || Math.abs(high) || 1) / 4);
  const first = Math.floor(low / step) * step;
  const last = Math.max(Math.ceil(high / step) * step, first + step);
  const count = Math.round((last - first) / step);
  return {
    ticks: Array.from({ length: count + 1 }, (_, i) => first + i * step),
    at: (value) => from + ((value - first) / (last - first)) * (to - from),
  };
}

/** Returns 1, 2 or 5 times a power of ten, at least as large as a size. */
function roundStep(size) {
  const power = 10 ** Math.floor(Math.log10(size));
  return power * [1, 2, 5, 10].find((factor) => factor * power >= size);
}
