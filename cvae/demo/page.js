"use strict";
const $ = (id) => document.getElementById(id);
const page = JSON.parse($("page").textContent);
const [height, width] = page.shape;
const numPixels = height * width, pixels = Array.from({ length: numPixels }, (_, pixel) => pixel);
const COUNT = 12, LEVELS = 15; // completions, and of a pixel's ink in a drawing

// ---- The networks -------------------------------------------------------------------------------

function bytesOf(base64) {
  if (Uint8Array.fromBase64) return Uint8Array.fromBase64(base64); // much faster, where it exists
  const text = atob(base64), bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  return bytes;
}

/** Let the browser answer its user now and then; timers alone would be slow in a hidden tab. */
async function breathe() {
  if (performance.now() < breathe.due) return;
  await (globalThis.scheduler?.yield?.() ?? new Promise((done) => setTimeout(done)));
  breathe.due = performance.now() + 15;
}

/** The linear layers of a setting by name: what encode in weights.py wrote. */
async function unpack({ weights, layers: shapes, lowBits }) {
  let start = 0;
  const pieces = new ReadableStream({
    async pull(controller) {
      await breathe();
      if (start >= weights.length) return controller.close();
      controller.enqueue(bytesOf(weights.slice(start, start += 1 << 17))); // whole groups of four
    },
  });
  const bytes = pieces.pipeThrough(new DecompressionStream("gzip"));
  const buffer = await new Response(bytes).arrayBuffer();
  const numFloats = 2 * shapes.reduce((sum, [, rows]) => sum + rows, 0);
  const numWeights = (buffer.byteLength - 4 * numFloats) / 2;
  const floats = new Float32Array(buffer, 0, numFloats);
  const low = new Uint8Array(buffer, 4 * numFloats, numWeights);
  const high = new Int8Array(buffer, 4 * numFloats + numWeights);
  const layers = {};
  let float = 0, at = 0;
  for (const [name, rows, columns] of shapes) {
    const weight = new Float32Array(rows * columns);
    for (let row = 0, i = 0; row < rows; row++) {
      const step = floats[float + row];
      for (const end = i + columns; i < end; i++, at++) {
        weight[i] = step * ((high[at] << lowBits) | low[at]);
      }
      await breathe();
    }
    layers[name] = { weight, bias: floats.subarray(float + rows, float + 2 * rows), columns };
    float += 2 * rows;
  }
  return layers;
}

/** Weight times inputs plus bias, for a batch of inputs one after the other: so are the outputs. */
function linear({ weight, bias, columns }, inputs) {
  const rows = bias.length, batch = inputs.length / columns;
  const outputs = new Float32Array(batch * rows);
  for (let row = 0; row < rows; row++) { // whose weights stay in the cache for the whole batch
    for (let k = 0; k < batch; k++) {
      let w = row * columns, x = k * columns;
      let a = bias[row], b = 0, c = 0, d = 0; // four sums do not wait for each other
      for (const end = w + columns - 3; w < end; w += 4, x += 4) {
        a += weight[w] * inputs[x];
        b += weight[w + 1] * inputs[x + 1];
        c += weight[w + 2] * inputs[x + 2];
        d += weight[w + 3] * inputs[x + 3];
      }
      for (const end = (row + 1) * columns; w < end; w++, x++) a += weight[w] * inputs[x];
      outputs[k * rows + row] = a + b + c + d;
    }
  }
  return outputs;
}

const sigmoid = (x) => 1 / (1 + Math.exp(-x));
const activations = { relu: (x) => Math.max(x, 0), silu: (x) => x * sigmoid(x) };

/** Baseline, prior and generation network of a setting: cvae/baseline.py and cvae/model.py. */
class Model {
  constructor({ mask, activation }, layers) {
    this.layers = layers;
    this.activation = activations[activation];
    this.known = pixels.filter((pixel) => mask[pixel] === "1");
    this.missing = pixels.filter((pixel) => mask[pixel] === "0");
    this.numLatents = layers["prior.fc31"].bias.length;
  }

  /** The hidden layers of a network after its first one, with any residual blocks. */
  hidden(net, first) {
    const { layers, activation } = this;
    let hidden = linear(layers[`${net}.fc2`], first.map(activation)).map(activation);
    for (let k = 0; layers[`${net}.blocks.${k}.fc1`]; k++) {
      const inner = linear(layers[`${net}.blocks.${k}.fc1`], hidden).map(activation);
      const change = linear(layers[`${net}.blocks.${k}.fc2`], inner);
      hidden = hidden.map((value, at) => value + change[at]);
    }
    return hidden;
  }

  /** What follows from an image: the baseline's answer, mean and standard deviation of z. */
  look(image) {
    const { layers } = this, x = Float32Array.from(this.known, (pixel) => image[pixel]);
    const whole = image.slice();
    let hidden = linear(layers["baseline.fc1"], x).map(activations.relu);
    hidden = linear(layers["baseline.fc2"], hidden).map(activations.relu);
    const baseline = linear(layers["baseline.fc3"], hidden).map(sigmoid);
    this.missing.forEach((pixel, at) => { whole[pixel] = baseline[at]; });
    hidden = this.hidden("prior", linear(layers["prior.fc1"], whole));
    const scale = linear(layers["prior.fc32"], hidden)
      .map((log) => Math.exp(Math.min(Math.max(log, -20), 20)));
    return { x, baseline, loc: linear(layers["prior.fc31"], hidden), scale };
  }

  /** Latent variables of standard normal numbers, of a whole batch. */
  latents({ loc, scale }, eps) {
    return eps.map((e, at) => loc[at % loc.length] + scale[at % loc.length] * e);
  }

  /** Probabilities of the missing pixels, for each z of a batch. */
  complete({ x }, z) {
    const first = linear(this.layers["generation.fc1"], z);
    if (this.layers["generation.fc0"]) {
      const ofImage = linear(this.layers["generation.fc0"], x);
      for (let i = 0; i < first.length; i++) first[i] += ofImage[i % ofImage.length];
    }
    return linear(this.layers["generation.fc3"], this.hidden("generation", first)).map(sigmoid);
  }
}

/** Standard normal numbers of a seed: mulberry32, and the transform of Box and Muller. */
function normals(seed, count) {
  const uniform = () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return (((t ^ (t >>> 14)) >>> 0) + 0.5) / 2 ** 32;
  };
  return Float32Array.from({ length: count }, () =>
    Math.sqrt(-2 * Math.log(uniform())) * Math.cos(2 * Math.PI * uniform()));
}

/** Between two vectors along an arc, where vectors are as long, so as likely, as those two. */
function slerp(from, to, t) {
  const dot = (a, b) => a.reduce((sum, value, i) => sum + value * b[i], 0);
  const cosine = dot(from, to) / Math.sqrt(dot(from, from) * dot(to, to));
  const angle = Math.acos(cosine), straight = !(Math.abs(cosine) < 0.999);
  const [a, b] = [1 - t, t].map((part) =>
    (straight ? part : Math.sin(part * angle) / Math.sin(angle)));
  return from.map((value, i) => a * value + b * to[i]);
}

// ---- What is shown ------------------------------------------------------------------------------

const image = new Float32Array(numPixels); // as the networks see it; only known pixels count
let setting = 0, example = null, seed = 0; // what is chosen; no example is a drawing of one's own
let ends = [0, 1], shown = null; // completions to walk between, and one that is pointed at
let model = null, view, eps, completions = null;
const models = [], palette = {};
const past = []; // image and example before each change, to be undone
let mostOutside, turn = ""; // ink of the examples; what is said once the page has drawn by itself

const examples = Float32Array.from(bytesOf(page.examples), (byte) => byte / 255);
const numExamples = examples.length / numPixels;
const isKnown = (pixel) => page.settings[setting].mask[pixel] === "1";
const ink = (value) => (page.photo ? 1 - value : value); // and back
const exampleOf = (k) => examples.subarray(k * numPixels, (k + 1) * numPixels);
const inkOfExample = (k) => (pixel) => ink(exampleOf(k)[pixel]);
const cssValue = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

const knownNow = () => pixels.filter(isKnown);
const placeOf = (pixel) => [pixel % width, Math.floor(pixel / width)];
const hasBox = Object.values(page.margins).some((size) => size > 1);

/** Known ink outside of the box that images fill. */
function inkOutside(amount) {
  const { left, right, top, bottom } = page.margins;
  const outside = knownNow().filter((pixel) => {
    const [x, y] = placeOf(pixel);
    return x < left || x >= width - right || y < top || y >= height - bottom;
  });
  return outside.reduce((sum, pixel) => sum + amount(pixel), 0);
}

/** Take the colours anew; on paper they are light. */
function repaint(light = page.photo) {
  document.documentElement.classList.toggle("light", light);
  for (const name of ["sheet", "print", "given"]) {
    const hex = parseInt(cssValue(`--${name}`).slice(1), 16);
    palette[name] = [hex >> 16, (hex >> 8) & 255, hex & 255];
  }
  if (!model) return;
  paintThumbnails();
  refresh();
}

/** Paint known and missing pixels, each with so much ink as a function of the pixel tells. */
function paint(canvas, ofKnown, ofMissing) {
  const context = canvas.getContext("2d"), picture = context.createImageData(width, height);
  const { sheet } = palette;
  for (let i = 0; i < numPixels; i++) {
    const known = isKnown(i), amount = known ? ofKnown(i) : ofMissing?.(i);
    if (amount === undefined) continue; // transparent
    const full = known ? palette.given : palette.print;
    for (let c = 0; c < 3; c++) picture.data[4 * i + c] = sheet[c] + (full[c] - sheet[c]) * amount;
    picture.data[4 * i + 3] = 255;
  }
  context.putImageData(picture, 0, 0);
}

const given = (pixel) => ink(image[pixel]);

/** Paint what is given, and values of the missing pixels. */
function paintAnswer(canvas, values, toInk = ink, ofKnown = given) {
  const whole = new Float32Array(numPixels);
  model.missing.forEach((pixel, at) => { whole[pixel] = toInk(values[at]); });
  paint(canvas, ofKnown, (pixel) => whole[pixel]);
}

/** What belongs to one completion. */
function part(values, k) {
  const size = values.length / COUNT;
  return values.subarray(k * size, (k + 1) * size);
}

function refresh() {
  view = model.look(image);
  completions = model.complete(view, model.latents(view, eps));
  const each = Array.from({ length: COUNT }, (_, k) => part(completions, k));
  const mean = each[0].map((_, i) => each.reduce((sum, one) => sum + one[i], 0) / COUNT);
  const deviation = mean.map((center, i) =>
    Math.sqrt(each.reduce((sum, one) => sum + (one[i] - center) ** 2, 0) / COUNT));
  paint($("drawing"), given);
  tiles.forEach(({ canvas }, k) => paintAnswer(canvas, each[k]));
  paintAnswer($("baseline"), view.baseline);
  paintAnswer($("mean"), mean);
  paintAnswer($("deviation"), deviation, (value) => 2 * value, (i) => given(i) / 4);
  paint($("truth"), given, example === null ? undefined : inkOfExample(example));
  explain(each, mean, deviation);
  showLarge();
  clearTimeout(refresh.spoken); // a screen reader is told once nothing has changed for a while
  refresh.spoken = setTimeout(() => {
    const apart = deviation.reduce((sum, value) => sum + value, 0) / deviation.length;
    $("status").textContent = `Twelve answers, seed ${seed}; mean standard deviation of a pixel ` +
      apart.toFixed(2);
  }, 1000);
}

/** Say below the pictures what is to be seen in them. */
function explain(each, mean, deviation) {
  const say = (id, text) => { $(id).textContent = text; };
  const average = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
  const fixed = (values) => average(values).toFixed(2);
  const undecided = (values) => values.filter((value) => value > 0.25 && value < 0.75).length;
  const apart = (values) => average(values.map((value, i) => Math.abs(value - view.baseline[i])));
  const wide = deviation.filter((value) => value > 0.25).length;
  say("baseline-caption", `The baseline leaves ${undecided(view.baseline)} of ${mean.length} ` +
    "pixels undecided, between 25 and 75 %.");
  say("answers-caption", `One of the twelve leaves ${Math.round(average(each.map(undecided)))} ` +
    "pixels undecided, on average.");
  say("mean-caption", "Mean of the twelve: differs from the baseline by " +
    `${fixed([apart(mean)])} a pixel, one alone by ${fixed(each.map(apart))}.`);
  say("deviation-caption",
    `Standard deviation: over 0.25 in ${wide} pixels. Full ink is 0.5, the most there is.`);
  say("truth-caption", example === null ? "No truth: you drew it." : "The truth.");
  say("hint", !hasBox ? `${turn}Draw outside the hatching.` : inkOutside(given) <= mostOutside
    ? `${turn}Draw outside the hatching; the whole would fill the dashed box.`
    : "No image below has so much ink outside the dashed box: the answers mean little.");
  $("invitation").hidden = model.known.some((pixel) => given(pixel) > 0);
}

/** Refresh before the next frame, however many strokes there are until then. */
function soon() {
  soon.frame ??= requestAnimationFrame(() => { soon.frame = null; if (model) refresh(); });
}

/** Show the completion that is pointed at, or else a point on the way between two. */
function showLarge() {
  if (!completions) return;
  const [from, to] = ends, t = $("slider").value / 100;
  const way = `${Math.round(100 * t)} % of the way from answer ${from + 1} to ${to + 1}`;
  const z = model.latents(view, slerp(part(eps, from), part(eps, to), t));
  paintAnswer($("large"), shown === null ? model.complete(view, z) : part(completions, shown));
  $("caption").textContent = shown === null ? way : `Answer ${shown + 1}`;
  $("slider").ariaValueText = way;
  $("from").textContent = `A: answer ${from + 1}`;
  $("to").textContent = `B: answer ${to + 1}`;
  tiles.forEach(({ button, mark }, k) => {
    button.className = ends.includes(k) ? "end" : "";
    mark.textContent = k === from ? "A" : k === to ? "B" : "";
    button.ariaLabel = `Answer ${k + 1}${mark.textContent && `, ${mark.textContent}`}: walk to it`;
  });
}

const still = () => matchMedia("(prefers-reduced-motion: reduce)").matches;

function show(k) {
  shown = k;
  showLarge();
}

/** Move the slider from the completion chosen last to another one. */
function walkTo(k) {
  if (k !== ends[1]) ends = [ends[1], k];
  $("large").scrollIntoView({ block: "nearest" });
  shown = null;
  const start = performance.now();
  const step = (now) => {
    $("slider").value = still() ? 100 : (now - start) / 12;
    showLarge();
    if ($("slider").value < 100) walkTo.frame = requestAnimationFrame(step);
  };
  cancelAnimationFrame(walkTo.frame);
  step(start);
}

// ---- What can be chosen -------------------------------------------------------------------------

function element(name, properties = {}, ...children) {
  const node = Object.assign(document.createElement(name), properties);
  node.append(...children);
  return node;
}

const tiles = Array.from({ length: COUNT }, (_, k) => {
  const canvas = element("canvas"), mark = element("b");
  const button = element("button", {}, canvas, element("span", {}, `${k + 1}`, mark));
  for (const name of ["pointerenter", "focus"]) button.addEventListener(name, () => show(k));
  for (const name of ["pointerleave", "blur"]) button.addEventListener(name, () => show(null));
  button.addEventListener("click", () => walkTo(k));
  $("grid").append(button);
  return { button, canvas, mark };
});

const thumbnails = Array.from({ length: numExamples }, (_, k) => {
  const canvas = element("canvas"), ariaLabel = `Image ${k + 1}`;
  const input = element("input",
    { type: "radio", name: "example", autocomplete: "off", ariaLabel });
  input.addEventListener("change", () => {
    past.push({ image: image.slice(), example });
    chooseExample(k);
  });
  $("examples").append(element("label", {}, input, canvas));
  return canvas;
});

function paintThumbnails() {
  thumbnails.forEach((canvas, k) =>
    paint(canvas, inkOfExample(k), (i) => 0.3 * inkOfExample(k)(i)));
}

/** Take an example; null leaves what is drawn. */
function chooseExample(k) {
  example = k;
  document.getElementsByName("example").forEach((input, at) => { input.checked = at === k; });
  if (k !== null) image.set(exampleOf(k));
  remember();
}

async function chooseSetting(index) {
  setting = index;
  model = completions = null;
  $("main").ariaBusy = "true";
  document.getElementsByName("setting")[index].checked = true;
  mostOutside = Math.max(...thumbnails.map((_, k) => inkOutside(inkOfExample(k))));
  const chosen = page.settings[index], { rows, images } = chosen;
  $("unit").textContent = "Negative conditional log-likelihood of the missing pixels, in nats " +
    "per image, lower is better: with one nat less, the model finds the true pixels 2.7 times " +
    `as probable. Mean over ${images}, ± its standard error. Trained by ${page.recipe}, ` +
    `training seed ${page.seed}.`;
  $("rows").replaceChildren(...rows.map(([name, value]) => element("tr", {},
    element("th", { scope: "row", textContent: name }), element("td", { textContent: value }))));
  models[index] ??= load(chosen);
  const loaded = await models[index];
  $("main").hidden = $("footer").hidden = false;
  $("problem").textContent = "";
  await new Promise(requestAnimationFrame); // lay out in one frame, and compute in the next
  if (setting !== index) return; // another one was chosen meanwhile
  model = loaded;
  paintThumbnails();
  $("main").ariaBusy = "false";
  chooseSeed(seed);
  chooseExample(example === null ? null : Math.min(example, numExamples - 1));
}

/** The model of a setting, if it completes an image as PyTorch did, off the mean of z. */
async function load(chosen) {
  const layers = await unpack(chosen).catch(() => { throw new Error(DAMAGED); });
  const loaded = new Model(chosen, layers), check = bytesOf(chosen.check);
  const seen = loaded.look(exampleOf(0));
  const z = loaded.latents(seen, new Float32Array(loaded.numLatents).fill(1));
  const isRight = (value, i) => Math.abs(value - check[i] / 255) < 0.05;
  if (loaded.complete(seen, z).every(isRight)) return loaded;
  throw new Error("the model was changed, and PyTorch completes an image otherwise.");
}

function chooseSeed(number) {
  seed = number;
  if (model) eps = normals(seed, COUNT * model.numLatents); // else once it is loaded
  $("seed").textContent = seed;
  remember();
}

/** Keep in the address what a reload is to show again. */
function remember() {
  soon();
  clearTimeout(remember.later); // as browsers restrict how often an address changes
  remember.later = setTimeout(() => {
    const words = { seed, given: page.settings[setting].known };
    const start = example === null ? { drawing: encode() } : { image: example + 1 };
    remember.hash = `#${new URLSearchParams({ ...words, ...start })}`;
    if (location.hash !== remember.hash) location.replace(remember.hash);
  }, example === null ? 300 : 0);
}

/** Show what the address says. */
function recall() {
  if (location.hash === remember.hash) return;
  const words = new URLSearchParams(location.hash.slice(1));
  const number = (name) => (/^\d{1,9}$/.test(words.get(name)) ? +words.get(name) : 0);
  seed = number("seed");
  setting = Math.max(page.settings.findIndex(({ known }) => known === number("given")), 0);
  example = decode(words.get("drawing") ?? "") ? null : Math.max(number("image") - 1, 0);
  chooseSetting(setting);
}

/** What is drawn, two pixels a byte, as base 64 that an address can hold. */
function encode() {
  const levels = knownNow().map((pixel) => Math.round(LEVELS * image[pixel]));
  const bytes = levels.map((level, at) =>
    (at % 2 ? "" : String.fromCharCode(level + 16 * (levels[at + 1] ?? 0))));
  return btoa(bytes.join("")).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
}

/** Draw what was encoded, and tell whether it was. */
function decode(text) {
  const known = knownNow(), numBytes = Math.ceil(known.length / 2);
  if (!/^[\w-]+$/.test(text) || text.length !== Math.ceil(numBytes * 4 / 3)) return false;
  const bytes = bytesOf(text.replaceAll("-", "+").replaceAll("_", "/"));
  image.fill(ink(0));
  known.forEach((pixel, at) => { image[pixel] = (bytes[at >> 1] >> 4 * (at % 2) & 15) / LEVELS; });
  return true;
}

// ---- Drawing ------------------------------------------------------------------------------------

const drawing = $("drawing");
const radius = Math.max(height, width) / 28; // a stroke of MNIST is some two pixels wide
let pointer = null, pointerId; // of the mouse, or the first of several fingers
let pen = [width / 4, 0.75 * height], penDown = false; // of the keys

/** Draw or erase along a line, in pixels: with a soft edge, and without darkening what is there. */
function stroke([x0, y0], [x1, y1]) {
  const dx = x1 - x0, dy = y1 - y0, erase = $("eraser").checked;
  change((value, i) => {
    const x = (i % width) + 0.5 - x0, y = Math.floor(i / width) + 0.5 - y0;
    const t = Math.min(Math.max((x * dx + y * dy) / (dx * dx + dy * dy || 1), 0), 1);
    const distance = Math.hypot(x - t * dx, y - t * dy) / radius;
    const cover = Math.min(Math.max((erase ? 2.2 : 1.5) - distance, 0), 1);
    return erase ? Math.min(value, 1 - cover) : Math.max(value, cover);
  });
}

/** Change known ink; what has changed is a drawing, in the levels that the address can hold. */
function change(toInk) {
  const changed = image.map((_, i) => (isKnown(i) ? ink(toInk(given(i), i)) : image[i]));
  if (changed.every((value, i) => value === image[i])) return;
  if (!change.goesOn) past.push({ image: image.slice(), example });
  change.goesOn = true; // until another stroke begins
  image.set(changed.map((value, i) =>
    (example === null || isKnown(i) ? Math.round(LEVELS * value) / LEVELS : ink(0))));
  chooseExample(null);
}

function undo() {
  const before = past.pop();
  if (before) image.set(before.image);
  if (before) chooseExample(before.example);
}

function position({ clientX, clientY }) {
  const box = drawing.getBoundingClientRect();
  return [(clientX - box.left) / box.width * width, (clientY - box.top) / box.height * height];
}

function isOnKnown(event) {
  const [x, y] = position(event).map(Math.floor);
  return isKnown(y * width + x);
}

// A finger on the hatching scrolls the page.
drawing.addEventListener("touchstart", (event) => {
  if (isOnKnown(event.changedTouches[0])) event.preventDefault();
}, { passive: false });
drawing.addEventListener("pointerdown", (event) => {
  if (event.button || pointer || (event.pointerType === "touch" && !isOnKnown(event))) return;
  change.goesOn = false;
  pointerId = event.pointerId;
  drawing.setPointerCapture(pointerId);
  pointer = position(event);
  stroke(pointer, pointer);
});
drawing.addEventListener("pointermove", (event) => {
  drawing.style.cursor = isOnKnown(event) ? "crosshair" : "not-allowed";
  if (!pointer || event.pointerId !== pointerId) return;
  for (const each of [...(event.getCoalescedEvents?.() ?? []), event]) {
    const to = position(each);
    stroke(pointer, to);
    pointer = to;
  }
});
drawing.addEventListener("lostpointercapture", (event) => {
  if (event.pointerId === pointerId) pointer = null;
});

const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
moves[" "] = [0, 0];

function showPen() {
  $("pen").hidden = $("drawing-help").hidden = !drawing.matches(":focus-visible");
  $("pen").style.left = `${100 * pen[0] / width}%`;
  $("pen").style.top = `${100 * pen[1] / height}%`;
}
drawing.addEventListener("keydown", (event) => {
  if (!(event.key in moves) || event.altKey || event.ctrlKey || event.metaKey) return;
  event.preventDefault();
  if (event.key === " " && !event.repeat) [penDown, change.goesOn] = [true, false];
  const to = moves[event.key].map((move, axis) =>
    Math.min(Math.max(pen[axis] + move, 0.5), page.shape[1 - axis] - 0.5));
  if (penDown) stroke(pen, to);
  pen = to;
  showPen();
  const place = `Column ${Math.ceil(pen[0])}, row ${Math.ceil(pen[1])}`;
  $("status").textContent = place + (penDown ? ", drawing" : "");
});
drawing.addEventListener("keyup", (event) => { penDown &&= event.key !== " "; });
drawing.addEventListener("focus", showPen);
drawing.addEventListener("blur", () => { penDown = false; showPen(); });

/** Draw the first image by itself as a pen might, until that is done or there is any input. */
function drawByItself() {
  const path = model.known.filter((pixel) => inkOfExample(0)(pixel) > 0), [first] = path;
  const far = (pixel) => Math.hypot(...placeOf(pixel).map((x, axis) => x - placeOf(first)[axis]));
  path.sort((one, other) => far(one) - far(other));
  const names = ["pointerdown", "keydown", "click"], start = performance.now();
  const stop = () => {
    cancelAnimationFrame(drawByItself.frame);
    names.forEach((name) => removeEventListener(name, stop, true));
    image.set(exampleOf(0));
    turn = "Your turn. ";
    soon();
  };
  const step = (now) => {
    const length = 1 + path.length * (now - start) / 1800;
    image.fill(ink(0));
    for (const pixel of path.slice(0, length)) image[pixel] = exampleOf(0)[pixel];
    soon();
    if (length < path.length) drawByItself.frame = requestAnimationFrame(step);
    else stop();
  };
  names.forEach((name) => addEventListener(name, stop, true));
  step(start);
}

// ---- Saving -------------------------------------------------------------------------------------

/** Put question, baseline, mean and completions into one picture, with a caption. */
function picture() {
  const scale = Math.max(1, Math.round(168 / Math.max(height, width))), gap = 14;
  const [h, w] = [scale * height, scale * width];
  const canvas = element("canvas", { width: 5 * w + 8 * gap, height: 3 * h + 4 * gap + 52 });
  const context = canvas.getContext("2d");
  context.imageSmoothingEnabled = false;
  context.fillStyle = cssValue("--paper");
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.strokeStyle = cssValue("--hatch");
  for (let x = gap - h; x < w; x += 8) { // what is drawn next covers it where it is not missing
    context.moveTo(Math.max(x, gap), gap + h + Math.min(x - gap, 0));
    context.lineTo(Math.min(x + h, gap + w), gap + Math.max(x + h - gap - w, 0));
  }
  context.stroke();
  const put = (source, column, row, left = gap) => {
    const place = [left + column * (w + gap), gap + row * (h + gap), w, h];
    context.drawImage(source, ...place);
    context.strokeRect(...place);
  };
  [drawing, $("baseline"), $("mean")].forEach((source, row) => put(source, 0, row));
  tiles.forEach((tile, k) => put(tile.canvas, 1 + k % 4, Math.floor(k / 4), 3 * gap));
  context.fillStyle = cssValue("--ink");
  context.font = `15px ${cssValue("--sans")}`;
  [
    "Left: what is given, the baseline’s answer, the mean of the twelve. Right: twelve answers.",
    `${page.settings[setting].name}; sampling seed ${seed}; trained by ${page.recipe}`,
  ].forEach((line, k) =>
    context.fillText(line, gap, canvas.height - 40 + 22 * k, canvas.width - 2 * gap));
  return canvas;
}

$("save").addEventListener("click", () => completions && picture().toBlob((blob) => {
  const href = URL.createObjectURL(blob);
  const download = `answers_q${page.settings[setting].known}_seed${seed}.png`;
  element("a", { href, download }).click();
  setTimeout(() => URL.revokeObjectURL(href), 10_000);
}));

// ---- The start ----------------------------------------------------------------------------------

document.querySelectorAll("canvas").forEach((canvas) => Object.assign(canvas, { width, height }));
repaint();
for (const [side, size] of Object.entries(page.margins)) {
  $("box").style[side] = `${100 * size / (side.endsWith("t") ? width : height)}%`; // left or right
}
$("box").hidden = !hasBox;
page.settings.forEach(({ name, known }, index) => {
  const input = element("input",
    { type: "radio", name: "setting", autocomplete: "off", ariaLabel: name });
  input.addEventListener("change", () => chooseSetting(index));
  $("settings").append(element("label", {}, input, element("span", {}, `${known}`)));
});
$("again").addEventListener("click", () => chooseSeed((seed + 1) % 1e9));
$("undo").addEventListener("click", undo);
$("clear").addEventListener("click", () => { change.goesOn = false; change(() => 0); });
addEventListener("keydown", (event) => {
  if (event.key !== "z" || !(event.ctrlKey || event.metaKey)) return;
  event.preventDefault();
  undo();
});
$("slider").addEventListener("input", () => { cancelAnimationFrame(walkTo.frame); show(null); });
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => repaint());
addEventListener("beforeprint", () => repaint(true));
addEventListener("afterprint", () => repaint());
addEventListener("hashchange", recall);
const watch = new IntersectionObserver(([{ isIntersecting }]) => { // once the model is there
  if (isIntersecting) watch.disconnect();
  if (isIntersecting && example === 0 && !past.length) drawByItself();
}, { threshold: 0.9 });
if (!location.hash && !still()) watch.observe(drawing);
recall();
