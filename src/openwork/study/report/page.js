"use strict";
// The page's data come in columns; a text column lists its entries once.
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
// As many columns as fit beside the axis: about eight pixels a letter, and the symbol.
const legend = (width, found) => {
  const longest = Math.max(...found.values.map((label) => label.length));
  return { ...found, columns: Math.max(1, Math.floor((width - 60) / (8 * longest + 30))) };
};
function show(id) {
  const mode = dark.matches ? "dark" : "light";
  const place = document.getElementById(id);
  place.style.minHeight = `${place.offsetHeight}px`; // the page does not jump while a chart is drawn anew
  if (drawn[id]) drawn[id].then((previous) => previous.finalize());
  const fits = (key, value) => (key === "legend" && value?.values ? legend(place.clientWidth, value) : value);
  const spec = JSON.parse(JSON.stringify(charts[id], fits));
  spec.params = (spec.params || []).map((p) => ({ ...p, value: hidden[p.name] ?? p.value }));
  const task = spec.usermeta?.task;
  if (task !== undefined) {
    const own = (r) => r.task === task && r.status === "finished" && r.technique !== "dense";
    // Copies: Vega writes its own marks into the values.
    spec.datasets = { ...spec.datasets, runs: data.runs.filter(own).map((r) => ({ ...r })) };
  }
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
// A chart follows the width of its place by itself; its legend does not. A phone that scrolls changes its height alone.
let waiting;
window.addEventListener("resize", () => {
  clearTimeout(waiting);
  if (document.body.clientWidth !== width) waiting = setTimeout(draw, 200);
});
dark.addEventListener("change", draw);

// Tables: 20 lines at a time, sorted by the heading that was pressed.
const LINES = 20;
const write = {
  text: (v) => v,
  number: (v) => (Number.isInteger(v) ? v.toLocaleString("en") : v.toPrecision(4)),
  percent: (v) => (100 * v).toFixed(2) + " %",
  hundred: (v) => (100 * v).toFixed(2),
  hours: (v) => (v / 3600 < 0.1 ? (v / 3600).toPrecision(2) : (v / 3600).toFixed(2)),
  MB: (v) => (v / 1e6).toFixed(0),
};
const visible = (r) => !hidden.hiddenTechniques.includes(r.technique) && !hidden.hiddenSeeds.includes(r.seed);
function order(a, b) {
  if (a === null || b === null) return (a === null) - (b === null); // what was not measured comes last, either way
  return a < b ? -1 : a > b ? 1 : 0;
}
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
      element("td", { className: how, textContent: row[field] === null ? "–" : write[how](row[field]) })))));
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

// Filters: what is not ticked leaves charts and tables.
let filtered = Promise.resolve(); // what waits for the last change
async function filter() {
  for (const fill of fillers) fill();
  for (const figure of document.querySelectorAll("figure[data-technique]")) {
    figure.hidden = hidden.hiddenTechniques.includes(figure.dataset.technique);
  }
  // Drawn anew: a new value of a parameter alone would update Vega's frontier to a wrong one.
  const concerned = Object.keys(charts).filter((id) => charts[id].params?.some(({ name }) => name in hidden));
  concerned.forEach(show);
  await Promise.all(concerned.map((id) => drawn[id]));
}
for (const [name, { title, choices }] of Object.entries(filters)) {
  const labels = choices.map((choice) => {
    const box = element("input", { type: "checkbox", checked: true });
    box.addEventListener("change", () => {
      hidden[name] = box.checked ? hidden[name].filter((other) => other !== choice) : [...hidden[name], choice];
      filtered = filter();
    });
    return element("label", {}, [box, ` ${choice}`]);
  });
  document.getElementById("filters").append(
    element("fieldset", {}, [element("legend", { textContent: title }), ...labels]));
}
draw();
