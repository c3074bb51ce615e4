"use strict";
// Everything that comes from texts and labels is shown with textContent, so
// that nothing in it runs.

const PAUSE = 250; // Milliseconds without typing until the text is sent.
const MOST_CLASSES = 10, MOST_ROWS = 500; // Shown at once.
const LEAST_SHARE = 0.1; // Of what the strongest word says; less is not marked.
const byId = (id) => document.getElementById(id);
const box = byId("text"), status = byId("status"), shown = byId("answers");
let about, timer, pending, fromFile = null, results = [];

function element(name, text = "", ...children) {
  const node = document.createElement(name);
  node.textContent = text;
  node.append(...children);
  return node;
}

// Several labels of one text are a list.
const named = (label) =>
  Array.isArray(label) ? label.join(", ") || "no class" : label;
const percent = (rate) => `${(100 * rate).toFixed(1)} %`;

async function ask(endpoint, texts, signal) {
  const response = await fetch(endpoint, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ texts }),
    signal,
  });
  const found = await response.json();
  if (!response.ok) throw new Error(found.error);
  return found.answers;
}

// The answers to texts of both kinds, in order: those with a mask are completed.
async function answer(texts, signal) {
  const found = new Array(texts.length);
  for (const endpoint of ["classify", "fill_mask"]) {
    const chosen = [...texts.keys()].filter(
      (n) => texts[n].includes(about.mask) === (endpoint === "fill_mask"),
    );
    for (let i = 0; i < chosen.length; i += about.max_texts) {
      const part = chosen.slice(i, i + about.max_texts);
      const answers = about.endpoints.includes(endpoint)
        ? await ask(endpoint, part.map((n) => texts[n]), signal)
        : part.map(() => ({ error: `this model has no ${endpoint}` }));
      part.forEach((n, place) => (found[n] = answers[place]));
      if (chosen.length > about.max_texts)
        status.textContent = `${i + part.length} of ${chosen.length} texts`;
    }
  }
  return found;
}

function classes(found) {
  const table = element("table");
  const likeliest = Object.entries(found.probabilities)
    .sort((one, other) => other[1] - one[1])
    .slice(0, MOST_CLASSES);
  for (const [label, rate] of likeliest) {
    const meter = element("meter");
    meter.value = rate;
    meter.setAttribute("aria-label", label);
    const name = element("th", label);
    name.scope = "row";
    table.append(
      element("tr", "", name, element("td", percent(rate)),
        element("td", "", meter)),
    );
  }
  return table;
}

function oneClass(found) {
  const head = element("p", "", element("strong", named(found.decision ?? found.label)));
  if (found.confidence !== undefined)
    head.append(` with a confidence of ${percent(found.confidence)}`);
  if (found.decision === "unsure" && found.label !== "unsure")
    head.append(`: too little to decide for ${found.label}`);
  const parts = [head, classes(found)];
  if (found.unread_tokens)
    parts.push(element("p", `The last ${found.unread_tokens} tokens of this`
      + " text are more than the model reads."));
  return parts;
}

function fillIns(text, found) {
  const sentence = element("article");
  text.split(about.mask).forEach((part, n) => {
    if (n) sentence.append(element("mark", found.masks[n - 1][0].token));
    sentence.append(part);
  });
  const tables = found.masks.map((words) => classes({
    probabilities: Object.fromEntries(
      words.map(({ token, probability }) => [token, probability])),
  }));
  return [sentence, ...tables];
}

// The text with the words marked that speak for the answer, and against it.
function explained({ label, against, words, contributions }) {
  const parts = Object.entries(contributions);
  const totals = words.map((_, n) =>
    parts.reduce((sum, [, values]) => sum + (values[n] ?? 0), 0));
  const most = Math.max(...totals.map(Math.abs)) || 1;
  const text = element("article");
  words.forEach((word, n) => {
    const share = Math.abs(totals[n]) / most;
    if (share < LEAST_SHARE) return text.append(word);
    const mark = element("mark", word.trimEnd());
    mark.className = totals[n] > 0 ? "for" : "against";
    mark.style.setProperty("--share", share);
    mark.title = parts.map(([name, values]) =>
      `${name} ${(values[n] ?? 0).toFixed(2)}`).join(", ");
    text.append(mark, word.slice(word.trimEnd().length));
  });
  const legend = element("p", "Words ", element("mark", `for ${label}`),
    " are underlined, words ",
    element("mark", against ? `for ${against}` : "against it"), " with dots.");
  const [first, second] = legend.querySelectorAll("mark");
  first.className = "for";
  second.className = "against";
  return [legend, text];
}

// The training documents that are most like the text, with their classes.
function nearest({ neighbours }) {
  const table = element("table");
  table.append(element("caption", "Training documents most like this text"));
  for (const { text, label, similarity } of neighbours)
    table.append(element("tr", "", element("td", named(label)), element("td", text),
      element("td", similarity.toFixed(2))));
  return table;
}

const summary = (found) =>
  found.error ?? named(found.decision ?? found.label)
  ?? found.masks.map((words) => words[0].token).join(" · ");

function show() {
  shown.replaceChildren();
  byId("download").disabled = !results.length;
  if (results.length === 1) {
    const [{ text, found }] = results;
    shown.append(...(found.error
      ? [element("p", found.error)]
      : found.masks ? fillIns(text, found) : oneClass(found)));
    shown.firstChild.classList.toggle("wrong", Boolean(found.error));
    return;
  }
  const table = element("table");
  for (const { text, found } of results.slice(0, MOST_ROWS)) {
    const cell = element("td", summary(found));
    if (found.error) cell.className = "wrong";
    table.append(element("tr", "", element("td", text.slice(0, 300)), cell,
      element("td", found.confidence ? percent(found.confidence) : "")));
  }
  const scroll = element("div", "", table);
  scroll.className = "scroll";
  if (results.length) shown.append(scroll);
}

async function update() {
  pending?.abort();
  const mine = (pending = new AbortController());
  const text = fromFile ?? box.value;
  const texts = (fromFile !== null || byId("lines").checked
    ? text.split(/\r?\n/) : [text]).filter((line) => line.trim());
  try {
    const found = await answer(texts, mine.signal);
    if (mine !== pending) return;
    results = texts.map((text, n) => ({ text, found: found[n] }));
    const more = results.length > MOST_ROWS
      ? `; the first ${MOST_ROWS} are shown, all are in the csv` : "";
    status.textContent = results.length > 1
      ? `${results.length} texts${more}` : "";
    show();
    if (texts.length !== 1 || found[0].label === undefined) return;
    if (about.endpoints.includes("explain")) {
      const [why] = await ask("explain", texts, mine.signal);
      if (mine !== pending) return;
      if (why.words.length) shown.append(...explained(why));
    }
    if (about.endpoints.includes("neighbours")) {
      const [like] = await ask("neighbours", texts, mine.signal);
      if (mine === pending) shown.append(nearest(like));
    }
  } catch (error) {
    if (error.name === "AbortError") return;
    status.textContent = `Not answered: ${error.message}`;
  }
}

function later() {
  fromFile = null;
  clearTimeout(timer);
  timer = setTimeout(update, PAUSE);
}

async function read(file) {
  if (!file) return;
  fromFile = await file.text();
  update();
}

// A cell that begins like a formula would be one in a spreadsheet.
const cell = (value) =>
  `"${String(value).replace(/^[=+\-@\t\r]/, "'$&").replaceAll('"', '""')}"`;

function download() {
  const rows = [["text", "answer", "confidence", ...about.labels]];
  for (const { text, found } of results)
    rows.push([text, summary(found), found.confidence ?? "",
      ...about.labels.map((label) => found.probabilities?.[label] ?? "")]);
  const csv = rows.map((row) => row.map(cell).join(",") + "\r\n").join("");
  const link = element("a");
  link.href = URL.createObjectURL(new Blob([csv], { type: "text/csv" }));
  link.download = "answers.csv";
  link.click();
  URL.revokeObjectURL(link.href);
}

async function start() {
  about = await (await fetch("health")).json();
  const can = [];
  if (about.endpoints.includes("fill_mask"))
    can.push(`completes a text with ${about.mask} in it`);
  if (about.endpoints.includes("classify"))
    can.push(`classifies any other text: ${about.labels.slice(0, 20).join(", ")}`
      + (about.labels.length > 20 ? ", …" : ""));
  byId("about").textContent = `This model ${can.join(", and ")}.`;
  box.addEventListener("input", later);
  byId("lines").addEventListener("change", later);
  byId("file").addEventListener("change", (event) => read(event.target.files[0]));
  byId("download").addEventListener("click", download);
  box.addEventListener("dragover", (event) => {
    event.preventDefault();
    box.classList.add("dropping");
  });
  box.addEventListener("dragleave", () => box.classList.remove("dropping"));
  box.addEventListener("drop", (event) => {
    event.preventDefault();
    box.classList.remove("dropping");
    read(event.dataTransfer.files[0]);
  });
  update();
}

start();
