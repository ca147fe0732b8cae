"use strict";
// The page's data is in columns; a text column lists its entries once.
const unpack = (columns) => {
  const names = Object.keys(columns);
  const cell = (column, i) => (column.index ? column.entries[column.index[i]] : column[i]);
  const first = columns[names[0]] || [];
  const length = (first.index || first).length;
  return Array.from({ length }, (_, i) => Object.fromEntries(names.map((name) => [name, cell(columns[name], i)])));
};
const data = Object.fromEntries(Object.entries(packed).map(([name, columns]) => [name, unpack(columns)]));
const hidden = { hiddenTechniques: [], hiddenSeeds: [] };
const element = (tag, properties = {}, children = []) => {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
};

// Charts. Those of thousands of runs are painted on a canvas, the others drawn as SVG.
const dark = window.matchMedia("(prefers-color-scheme: dark)");
const drawn = {};
// One legend below the other: beside each other, two would leave a narrow page.
for (const theme of Object.values(themes)) theme.legend.layout = { top: { direction: "vertical" } };
// As many columns as fit beside the axis: about eight pixels a letter, and the symbol. Of what is longer than a line
// both ends are shown, as variants often differ in the last words, and the filter above has them whole.
const legend = (width, found) => {
  const longest = Math.max(...found.values.map((label) => label.length));
  const line = Math.max(20, Math.floor((width - 90) / 8)), end = Math.floor(line / 2) - 1;
  const labelExpr = `length(datum.label) <= ${line} ? datum.label : ` +
    `slice(datum.label, 0, ${end}) + '…' + slice(datum.label, -${end})`;
  const columns = Math.max(1, Math.floor((width - 60) / (8 * longest + 30)));
  return { ...found, columns, labelExpr, labelLimit: Math.max(width - 90, 160) };
};
// The seeds that runs count by and that are not hidden, as the names of the data sets have them.
const seeds = (runs) =>
  [...new Set(runs.map((r) => r.replicate))].filter((s) => !hidden.hiddenSeeds.includes(s)).sort((a, b) => a - b).join();
// A chart with its data, of what is ticked.
function filled(id, mode, width) {
  const recoloured = (value) => (mode === "dark" && darkColours[value]) || value;
  const fits = (key, value) =>
    key === "legend" && value?.values ? legend(width, value)
      : key === "range" && Array.isArray(value) ? value.map(recoloured) : value;
  const spec = JSON.parse(JSON.stringify(charts[id], fits));
  spec.params = (spec.params || []).map((p) => ({ ...p, value: hidden[p.name] ?? p.value }));
  const { task, metric } = spec.usermeta;
  if (task !== undefined) {
    const runs = data.runs.filter((r) => r.task === task && r.status === "finished" && !r.dense);
    const gone = (name) => hidden.hiddenTechniques.includes(name);
    const front = (data[`front ${task} ${seeds(runs)}`] || []).filter((p) => !gone(p.technique));
    // Copies: Vega writes its own marks into the values. A point is ringed unless one that is drawn beats it.
    const ringed = front.map((p) => ({ ...p, pareto: p.beaten.every(gone) }));
    const own = ({ technique, settings, seed, replicate, sparsity, [metric]: value }) =>
      ({ technique, settings, seed, replicate, sparsity, [metric]: value });
    spec.datasets = { ...spec.datasets, runs: runs.map(own), front: ringed };
  }
  return spec;
}
function show(id) {
  const mode = dark.matches ? "dark" : "light";
  const place = document.getElementById(id);
  place.style.minHeight = `${place.offsetHeight}px`; // the page does not jump while a chart is redrawn
  if (drawn[id]) drawn[id].then((previous) => previous.finalize());
  const spec = filled(id, mode, place.clientWidth);
  const values = Object.values(spec.datasets || {}).reduce((sum, rows) => sum + rows.length, 0);
  const renderer = values > 500 ? "canvas" : "svg";
  const options = { config: themes[mode], actions: false, renderer, tooltip: { theme: mode } };
  drawn[id] = vegaEmbed(place, spec, options).then((result) => {
    place.style.minHeight = "";
    return result;
  });
}
let width;
function draw() {
  width = document.body.clientWidth;
  Object.keys(charts).forEach(show);
}
// A chart adapts to the width of its place, but its legend does not. Scrolling on a phone changes only the height.
let waiting;
window.addEventListener("resize", () => {
  clearTimeout(waiting);
  if (document.body.clientWidth !== width) waiting = setTimeout(draw, 200);
});
dark.addEventListener("change", draw);

// Figures as files, of what is ticked: pictures for documents, so on white and with their title, and the numbers.
const WIDTH = 760;
// Where things are drawn, and words for what is there as a number.
const PLACED = ["x", "y", "top", "bottom", "total", "shown", "label", "piece", "beaten", "interval"];
async function picture(id) {
  const spec = { ...filled(id, "light", WIDTH), width: WIDTH, title: charts[id].usermeta.title };
  const config = { ...themes.light, background: "#ffffff", padding: 16 };
  return vegaEmbed(document.createElement("div"), spec, { config, actions: false, renderer: "svg" });
}
function csv(id) {
  const { datasets, usermeta: { metric } } = filled(id, "light", WIDTH);
  const rows = Object.entries(datasets).flatMap(([name, values]) => values.filter(visible).map(({ score, ...value }) =>
    (metric ? { part: parts[name], ...value, [metric]: value[metric] ?? score } : { ...value, score })));
  const named = (field) => !PLACED.includes(field) && rows.some((row) => row[field] !== undefined);
  const fields = [...new Set(rows.flatMap(Object.keys))].filter(named);
  const cell = (value) => (/[",\n]/.test(value) ? `"${value.replaceAll('"', '""')}"` : value);
  const lines = rows.map((row) => fields.map((field) => cell(String(row[field] ?? "")))).filter((line) => line.some(Boolean));
  return [fields, ...lines].map((line) => line.join(",") + "\n").join("");
}
const parts = { runs: "run", front: "frontier" };
const saving = {
  SVG: async (id) => [await (await picture(id)).view.toSVG(), "image/svg+xml"],
  PNG: async (id) => {
    const canvas = await (await picture(id)).view.toCanvas(2);
    return [await new Promise((done) => canvas.toBlob(done)), "image/png"];
  },
  CSV: async (id) => [csv(id), "text/csv"],
};
async function save(id, kind) {
  const [content, type] = await saving[kind](id);
  const href = URL.createObjectURL(new Blob([content], { type }));
  element("a", { href, download: `${id}.${kind.toLowerCase()}` }).click();
  setTimeout(() => URL.revokeObjectURL(href), 60000);
}
for (const id of Object.keys(charts)) {
  const buttons = Object.keys(saving).map((kind) => {
    const ariaLabel = `save as ${kind}: ${charts[id].usermeta.title.text}`;
    const button = element("button", { type: "button", textContent: kind, ariaLabel });
    button.addEventListener("click", () => save(id, kind));
    return button;
  });
  document.getElementById(id).after(element("p", { className: "save" }, ["save as ", ...buttons]));
}

// Tables: 20 lines at a time, sorted by the heading that was pressed.
const LINES = 20;
const write = {
  text: (v) => v,
  number: (v) => (Number.isInteger(v) && Math.abs(v) < 1e10 ? v.toLocaleString("en") : v.toPrecision(4)),
  percent: (v) => (100 * v).toFixed(2) + " %",
  hundred: (v) => (100 * v).toFixed(2),
  // As `duration` of style.py.
  time: (v) => {
    if (v < 59.5) return `${v.toFixed(v >= 9.95 ? 0 : 1)} s`;
    const minutes = Math.round(v / 60), hours = Math.floor(minutes / 60);
    return hours ? `${hours.toLocaleString("en")} h ${minutes % 60} min` : `${minutes} min`;
  },
  MB: (v) => (v / 1e6).toFixed(0),
};
const visible = (r) => !hidden.hiddenTechniques.includes(r.technique) && !hidden.hiddenSeeds.includes(r.replicate);
function order(a, b) {
  if (a === null || b === null) return (a === null) - (b === null); // what was not measured comes last, either way
  return a < b ? -1 : a > b ? 1 : 0;
}
// Text wraps: names of variants may be sentences, and would push the numbers out of view. Settings have a rule of theirs.
const cell = (field, className, text) => element("td", { className },
  [className === "text" && field !== "settings" ? element("span", { className: "name", textContent: text }) : text]);
const fillers = [];
for (const [id, { data: source, columns: fields, where }] of Object.entries(tables)) {
  const all = data[source].filter((r) => Object.entries(where).every(([key, value]) => r[key] === value));
  let by = null, descending = false, page = 0;
  const headings = fields.map(([field, title]) => {
    const button = element("button", { type: "button", textContent: title });
    button.addEventListener("click", () => {
      descending = by === field ? !descending : false;
      by = field;
      page = 0;
      fill();
    });
    return element("th", { scope: "col" }, [button]);
  });
  const body = element("tbody");
  const said = element("span", { role: "status" });
  const turn = (text, label, by) => {
    const button = element("button", { type: "button", textContent: text, ariaLabel: label });
    button.addEventListener("click", () => { page += by; fill(); });
    return button;
  };
  const [back, on] = [turn("‹", "previous lines", -1), turn("›", "next lines", 1)];
  function fill() {
    const rows = all.filter(visible);
    const sign = descending ? -1 : 1;
    if (by) rows.sort((a, b) => (a[by] === null || b[by] === null ? 1 : sign) * order(a[by], b[by]));
    const first = page * LINES;
    const shown = rows.slice(first, first + LINES);
    fields.forEach(([field], i) => {
      headings[i].ariaSort = by === field ? (descending ? "descending" : "ascending") : "none";
    });
    body.replaceChildren(...shown.map((row) => element("tr", {}, fields.map(([field, , how]) =>
      cell(field, how, row[field] === null ? "–" : write[how](row[field]))))));
    said.textContent = rows.length ? `${first + 1}–${first + shown.length} of ${rows.length}` : "none";
    back.disabled = page === 0;
    on.disabled = first + LINES >= rows.length;
  }
  const table = element("table", {}, [element("thead", {}, [element("tr", {}, headings)]), body]);
  const scroll = element("div", { className: "scroll", role: "region", ariaLabel: "table", tabIndex: 0 }, [table]);
  document.getElementById(id).append(scroll, element("p", { className: "turn" }, [back, said, on]));
  fillers.push(() => { page = 0; fill(); });
  fill();
}

// Filters: charts and tables leave out what is not ticked.
let filtered = Promise.resolve(); // resolves when the last change is drawn
async function filter() {
  for (const fill of fillers) fill();
  for (const figure of document.querySelectorAll("figure[data-technique]")) {
    figure.hidden = hidden.hiddenTechniques.includes(figure.dataset.technique);
  }
  // Redrawn: the frontier is another data set.
  const concerned = Object.keys(charts).filter((id) => charts[id].params?.some(({ name }) => name in hidden));
  concerned.forEach(show);
  await Promise.all(concerned.map((id) => drawn[id]));
}
for (const [name, { title, choices, one }] of Object.entries(filters)) {
  const option = (text, input, hide) => {
    input.addEventListener("change", () => {
      hidden[name] = hide();
      filtered = filter();
    });
    return element("label", {}, [input, ` ${text}`]);
  };
  const radio = (text, checked, hide) => option(text, element("input", { type: "radio", name, checked }), hide);
  const box = (choice) => {
    const input = element("input", { type: "checkbox", checked: true });
    const others = () => hidden[name].filter((other) => other !== choice);
    return option(choice, input, () => (input.checked ? others() : [...others(), choice]));
  };
  // Of many seeds, one or all: the page does not have a frontier for every choice among them.
  const labels = one
    ? [radio("all", true, () => []), ...choices.map((c) => radio(c, false, () => choices.filter((o) => o !== c)))]
    : choices.map(box);
  document.getElementById("filters").append(
    element("fieldset", {}, [element("legend", { textContent: title }), ...labels]));
}
draw();
