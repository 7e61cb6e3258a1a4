"use strict";
// Texts are written by textContent alone, so nothing in them is markup.
const data = JSON.parse(document.getElementById("data").textContent);
const control = Object.fromEntries(["search", "spec", "show", "label", "order"].map(id => [id, document.getElementById(id)]));
const list = document.getElementById("samples"), more = document.getElementById("more"), count = document.getElementById("count");
const STEP = 50;
let found = [], shown = 0;

// A sample's score: by the first metric that has one of it. Of two runs, the first is run A's and the second run B's.
for (const row of data.rows) {
  const pairs = Object.values(row.scores);
  const pair = pairs.find(([before, after]) => before !== null && after !== null) || pairs[0] || [null, null];
  row.before = pair[0];
  row.after = pair[1];
  row.moved = row.before === null || row.after === null ? null : row.after - row.before;
  row.text = [row.id, row.question, row.reference, ...row.answers.map(answer => answer[1])].join("\n").toLowerCase();
}

const holds = {
  "": () => true,
  right: row => row.after === 1,
  wrong: row => row.after === 0,
  flipped: row => row.moved !== null && row.moved !== 0,
  worse: row => row.moved < 0,
  better: row => row.moved > 0,
  unparsable: row => row.unparsable,
  unscored: row => row.after === null,
};
const first = (a, b) => (a ?? Infinity) - (b ?? Infinity) || 0;
const orders = {
  score: (a, b) => first(a.after, b.after),
  change: (a, b) => first(a.moved, b.moved),
  gain: (a, b) => first(a.moved === null ? null : -a.moved, b.moved === null ? null : -b.moved),
};

function option(select, value, text) {
  const made = document.createElement("option");
  made.value = value;
  made.textContent = text;
  select.append(made);
}

function element(name, text, kind) {
  const made = document.createElement(name);
  if (kind) made.className = kind;
  if (text !== undefined) made.textContent = text;
  return made;
}

// The text with what was searched for marked.
function marked(name, text, kind) {
  const made = element(name, undefined, kind), word = control.search.value.trim().toLowerCase(), lower = text.toLowerCase();
  if (!text.trim()) {
    made.append(element("em", "empty"));
    return made;
  }
  let from = 0;
  if (word && lower.length === text.length)
    for (let at = lower.indexOf(word); at >= 0; at = lower.indexOf(word, from)) {
      made.append(text.slice(from, at), element("mark", text.slice(at, at + word.length)));
      from = at + word.length;
    }
  made.append(text.slice(from));
  return made;
}

function digits(value) {
  return value === null ? "–" : Number.isInteger(value) ? String(value) : value.toFixed(3).replace(/^(-?)0\./, "$1.");
}

function article(row) {
  const made = element("article", undefined, "sample");
  const scores = Object.entries(row.scores).map(([name, pair]) => `${name} ${pair.map(digits).join(" → ")}`);
  const head = element("p", [data.specs[row.spec].id, row.id, ...scores].join(" · "), "id");
  if (row.moved < 0) head.append(element("span", "worse", "badge fails"));
  if (row.moved > 0) head.append(element("span", "better", "badge holds"));
  if (row.unparsable) head.append(element("span", "unparsable", "badge inconclusive"));
  made.append(head);
  for (const name of row.images)
    if (data.pictures[name]) {
      const picture = element("img", undefined, "picture");
      picture.src = data.pictures[name];
      picture.alt = "the picture that was asked about";
      made.append(picture);
    }
  made.append(marked("p", row.question, "question"));
  const answers = element("dl");
  [["reference", row.reference], ...row.answers].forEach(([name, text], place) => {
    const pair = element("div", undefined, place === 0 ? "reference" : place === row.answers.length ? "last" : "");
    pair.append(element("dt", name), marked("dd", text));
    answers.append(pair);
  });
  made.append(answers);
  for (const reason of row.judge) made.append(element("p", reason, "note"));
  return made;
}

function draw() {
  list.append(...found.slice(shown, shown + STEP).map(article));
  shown = Math.min(found.length, shown + STEP);
  more.hidden = shown === found.length;
  count.textContent = `${found.length.toLocaleString("en")} of ${data.rows.length.toLocaleString("en")} samples`;
}

function filter() {
  const word = control.search.value.trim().toLowerCase(), spec = control.spec.value, label = control.label.value;
  found = data.rows.filter(row =>
    (spec === "" || row.spec === Number(spec)) && (label === "" || row.reference === label)
    && holds[control.show.value](row) && row.text.includes(word));
  if (control.order.value) found.sort(orders[control.order.value]);
  list.replaceChildren();
  shown = 0;
  draw();
}

// The labels of the chosen spec; of all specs there is no common list.
function labels() {
  const spec = data.specs[control.spec.value === "" && data.specs.length === 1 ? 0 : control.spec.value];
  control.label.replaceChildren();
  option(control.label, "", "all");
  for (const label of spec ? spec.labels : []) option(control.label, label, label);
  control.label.disabled = control.label.options.length === 1;
}

if (data.specs.length !== 1) option(control.spec, "", "all");
data.specs.forEach((spec, place) => option(control.spec, place, `${spec.id} (${spec.n.toLocaleString("en")})`));
control.spec.addEventListener("change", labels);
for (const each of Object.values(control)) each.addEventListener("input", filter);
document.querySelector("form").addEventListener("submit", event => event.preventDefault());
more.addEventListener("click", draw);
labels();
filter();
