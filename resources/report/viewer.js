"use strict";
// Shows a sample by OpenSeadragon: panes are loaded as <img>, which works from a file share too.
const read = (id) => JSON.parse(document.getElementById(id).textContent);
const element = (id) => document.getElementById(id);
const shown = read("shown");
const folder = encodeURIComponent(read("folder"));
const [depth, height, width] = shown.shape;
const finest = shown.levels[0];
const factor = 2 ** finest.level; // px of the image per px of the finest level shown
const EMPTY = "data:image/gif;base64,R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7";
const STRENGTH = { image: 1, truth: 1, instances: 1 }; // of probabilities: half, and off at first
let current = 0; // place in shown.planes

// ------------------------------------------------------------------------------------- the layers

const layers = shown.layers.map((layer) => ({
  ...layer,
  on: layer.name in STRENGTH,
  opacity: STRENGTH[layer.name] ?? 0.6,
}));

function source(layer, plane) {
  const last = shown.levels.length - 1;
  return {
    width: finest.extent[1],
    height: finest.extent[0],
    tileSize: shown.side,
    minLevel: 0,
    maxLevel: last,
    hasTransparency: () => layer.colour !== null,
    getTileUrl(number, column, row) {
      const { level, extent } = shown.levels[last - number];
      const columns = Math.ceil(extent[1] / shown.side);
      if (layer.there[plane][last - number][row * columns + column] !== "1") return EMPTY;
      return `${folder}/${layer.name}/${shown.planes[plane]}/${level}-${row}-${column}.${layer.ending}`;
    },
  };
}

const viewer = OpenSeadragon({
  element: element("picture"),
  drawer: "canvas", // of pictures from files the others may not read a pixel
  showNavigationControl: false,
  showNavigator: Math.max(...finest.extent) > 2 * shown.side,
  navigatorPosition: "TOP_LEFT",
  navigatorSizeRatio: 0.16,
  navigatorDisplayRegionColor: "#5cc4c4",
  animationTime: 0.4,
  maxZoomPixelRatio: Math.max(16, 4000 / finest.extent[1]),
  visibilityRatio: 0.3,
  gestureSettingsMouse: { clickToZoom: false, dblClickToZoom: true },
  imageLoaderLimit: 8,
  background: "#0b0f11",
});

const strength = (layer) => (layer.on ? layer.opacity : 0);

// In OpenSeadragon's units the image is 1 wide; the last px of a coarse level may reach beyond it.
const picture = (layer) => ({
  tileSource: source(layer, current),
  x: 0,
  y: 0,
  width: (finest.extent[1] * factor) / width,
  opacity: strength(layer),
});

function restyle(index) {
  viewer.world.getItemAt(index)?.setOpacity(strength(layers[index]));
}

layers.forEach((layer, index) => {
  const row = element("layers").tBodies[0].insertRow();
  const kind = layer.colour === null ? "photo" : layer.name.startsWith("probability") ? "map" : "line";
  const box = Object.assign(document.createElement("input"), { type: "checkbox", checked: layer.on });
  box.id = `layer-${layer.name}`;
  box.addEventListener("change", () => {
    layer.on = box.checked;
    restyle(index);
  });
  const label = document.createElement("label");
  label.htmlFor = box.id;
  label.title = `Show or hide (${index + 1})`;
  const sign = document.createElement("i");
  sign.className = kind;
  sign.style.setProperty("--colour", layer.colour ?? "#fff");
  label.append(sign, layer.title);
  const range = Object.assign(document.createElement("input"), { type: "range", min: 0, max: 100 });
  range.value = 100 * layer.opacity;
  range.setAttribute("aria-label", `Opacity of ${layer.title}`);
  range.addEventListener("input", () => {
    layer.opacity = range.value / 100;
    restyle(index);
  });
  row.insertCell().append(box);
  row.insertCell().append(label);
  row.insertCell().append(range);
});

// ------------------------------------------------------------------------------------- the planes

const slider = element("z");
slider.max = shown.planes.length - 1;
element("plane").hidden = shown.planes.length === 1;

function turn(place) {
  const next = Math.min(Math.max(place, 0), shown.planes.length - 1);
  slider.value = next;
  element("plane").querySelector("output").textContent = `${shown.planes[next]} of 0 to ${depth - 1}`;
  if (next === current) return;
  current = next;
  layers.forEach((layer, index) => viewer.addTiledImage({ ...picture(layer), index, replace: true }));
  remember();
}
slider.addEventListener("input", () => turn(Number(slider.value)));

// ------------------------------------------------------------- where one is: the address says it

function asked() {
  const found = Object.fromEntries(new URLSearchParams(location.hash.slice(1)));
  const [z, x, y, w, h] = ["z", "x", "y", "w", "h"].map((key) => Number.parseFloat(found[key]));
  const box = [x, y, w, h].every(Number.isFinite) && w > 0 && h > 0 ? [x, y, w, h] : null;
  return { z: Number.isFinite(z) ? z : null, box };
}

function nearest(z) {
  const far = shown.planes.map((plane) => Math.abs(plane - z));
  return far.indexOf(Math.min(...far));
}

function go(immediately) {
  const { z, box } = asked();
  if (z !== null) turn(nearest(z));
  if (box) viewer.viewport.fitBounds(new OpenSeadragon.Rect(...box.map((n) => n / width)), immediately);
}

function remember() {
  const { x, y, width: w, height: h } = viewer.viewport.getBounds();
  const box = { x, y, w, h };
  const place = Object.entries(box).map(([key, n]) => `${key}=${Math.round(n * width)}`);
  history.replaceState(null, "", `#z=${shown.planes[current]}&${place.join("&")}`);
}

// ------------------------------------------------------------------------- scale, pointer, buttons

// px of the screen per px of the image
const zoomOf = () => viewer.viewport.getContainerSize().x / (viewer.viewport.getBounds(true).width * width);
const round = (n) => Number(n.toPrecision(3)).toLocaleString("en");

let smoothed = true;
// A spacing of exactly 1 µm along all axes is that of files which do not say.
const known = !shown.spacing.every((n) => n === 1);

function measure() {
  const zoom = zoomOf();
  const unit = known ? shown.spacing[2] : 1;
  const most = (120 / zoom) * unit;
  const power = 10 ** Math.floor(Math.log10(most));
  const length = [5, 2, 1].find((n) => n * power <= most) * power;
  const bar = element("scale").firstElementChild;
  bar.style.width = `${(length / unit) * zoom}px`;
  bar.textContent = known ? (length < 1 ? `${round(length * 1000)} nm` : `${round(length)} µm`) : `${round(length)} px`;
  // Enlarged pixels stay squares.
  const smooth = zoom * factor < 2;
  if (smooth !== smoothed) viewer.drawer.setImageSmoothingEnabled((smoothed = smooth));
}

element("picture").addEventListener("pointermove", (event) => {
  const frame = element("picture").getBoundingClientRect();
  const place = new OpenSeadragon.Point(event.clientX - frame.left, event.clientY - frame.top);
  const { x, y } = viewer.viewport.pointFromPixel(place).times(width);
  const inside = x >= 0 && y >= 0 && x < width && y < height;
  element("pointer").value = inside ? `x ${Math.floor(x)}, y ${Math.floor(y)} px · ${round(100 * zoomOf())} %` : "";
});
element("picture").addEventListener("pointerleave", () => (element("pointer").value = ""));

const actions = {
  in: () => viewer.viewport.zoomBy(2),
  out: () => viewer.viewport.zoomBy(0.5),
  full: () => viewer.viewport.zoomBy(1 / zoomOf()),
  all: () => viewer.viewport.goHome(),
};
for (const button of document.querySelectorAll("[data-zoom]")) {
  button.addEventListener("click", () => {
    actions[button.dataset.zoom]();
    viewer.viewport.applyConstraints();
  });
}

const keys = { "+": actions.in, "-": actions.out, 0: actions.all }; // the picture knows them itself
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey || event.target.type === "range") return;
  const box = document.querySelectorAll("#layers input[type=checkbox]")[Number(event.key) - 1];
  if (box) box.click();
  else if (event.key === "PageUp") turn(current + 1);
  else if (event.key === "PageDown") turn(current - 1);
  else if (event.key in keys && !event.target.closest("#picture")) keys[event.key]();
  else return;
  event.preventDefault();
});
// Turning and flipping would make the scale, and what is left and right, a riddle.
viewer.addHandler("canvas-key", (event) => {
  if (["KeyR", "KeyF"].includes(event.originalEvent.code)) event.preventDefaultAction = true;
});

// -------------------------------------------------------------------------------------- the notes

function note(...parts) {
  const line = document.createElement("p");
  line.append(...parts);
  element("notes").append(line);
}
const key = (text) => Object.assign(document.createElement("kbd"), { textContent: text });

note(
  `${width.toLocaleString("en")} × ${height.toLocaleString("en")} px`,
  depth > 1 ? `, ${depth} planes` : "",
  known ? `, ${round(shown.spacing[2])} µm per px. ` : ". ",
  factor > 1 ? `The finest resolution here is one px for ${factor} × ${factor} (setting view.files). ` : "",
  shown.planes.length < depth ? `One of every ${shown.planes[1] - shown.planes[0]} planes is here (setting view.planes). ` : "",
);
note(
  "Outlines are those of the objects at the resolution shown: zoom in, and they become exact. " +
    "Predicted ones run inside their objects, true ones on both sides of the edge.",
);
note(key("1"), " to ", key(String(layers.length)), " layers · arrows move · ", key("+"), " ", key("−"), " zoom · ", key("0"), " all",
  ...(shown.planes.length > 1 ? [" · ", key("Page↑"), " ", key("Page↓"), " planes"] : []));

// ---------------------------------------------------------------------------------------- begin

current = nearest(asked().z ?? Math.floor(depth / 2));
turn(current);
viewer.addOnceHandler("open", () => {
  go(true);
  measure();
  viewer.addHandler("viewport-change", measure);
  viewer.addHandler("resize", measure);
  viewer.addHandler("animation-finish", remember);
  window.addEventListener("hashchange", () => go(false));
  viewer.canvas.focus();
});
viewer.open(layers.map(picture));
