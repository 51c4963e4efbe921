"use strict";
const PER_PAGE = 100, COLOURS = 7, LINES = 4, MOST_OVERLAPPING = 20;
const get = id => document.getElementById(id);
const data = JSON.parse(get("data").textContent);
const state = { page: 0, shown: [] };
const off = { labels: new Set(), kinds: new Set() };

function make(name, className, text) {
  const element = document.createElement(name);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
}

const look = label => `mark c${label % COLOURS} s${Math.floor(label / COLOURS) % LINES}`;
const count = (number, one, many) => `${number.toLocaleString("en")} ${number === 1 ? one : many}`;

// How a text is written: pieces of text, and where spans open and close. Elements nest, so of two spans that cross, the
// one that ends later is closed where the other ends, and opened again.
function steps(length, spans) {
  const list = [], open = [], starts = new Map(), begun = new Set();
  spans.forEach(([start], number) => starts.has(start) ? starts.get(start).push(number) : starts.set(start, [number]));
  const places = [...new Set(spans.flatMap(([start, end]) => [start, end]))].sort((a, b) => a - b);
  let done = 0;
  for (const place of places) {
    if (done < place) list.push({ from: done, to: place });
    done = place;
    const opening = (starts.get(place) ?? []).map(number => ({ open: number, first: true }));
    const lowest = open.findIndex(number => spans[number][1] === place);
    while (lowest >= 0 && open.length > lowest) {
      const number = open.pop(), last = spans[number][1] === place;
      list.push({ close: number, last, first: begun.has(number) });
      begun.delete(number);
      if (!last) opening.unshift({ open: number, first: false });
    }
    opening.sort((a, b) => spans[b.open][1] - spans[a.open][1]);
    for (const step of opening) {
      open.push(step.open);
      if (step.first) begun.add(step.open);
    }
    list.push(...opening);
  }
  if (done < length) list.push({ from: done, to: length });
  return list;
}

// The numbers of the spans, sorted by start, that are drawn in the text, and of those for which too many others overlap:
// elements that nest thousands deep stop a browser.
function divide(spans, most) {
  const drawn = [], listed = [];
  let open = [];
  spans.forEach(([start, end], number) => {
    open = open.filter(other => other > start);
    if (open.length === most) return listed.push(number);
    open.push(end);
    drawn.push(number);
  });
  return { drawn, listed };
}

// A pattern of the words that are searched for, in upper or lower case.
const pattern = (query, flags) => new RegExp(query.replace(/[\\^$.*+?()[\]{}|/]/g, "\\$&"), flags);

// Where these words stand in a text, as [start, end].
function hits(text, query) {
  if (!query) return [];
  return [...text.matchAll(pattern(query, "giu"))].map(match => [match.index, match.index + match[0].length]);
}

function appendText(parent, text, from, to, found) {
  for (const [start, end] of found) {
    if (end <= from || start >= to) continue;
    const first = Math.max(start, from), last = Math.min(end, to);
    if (from < first) parent.append(text.slice(from, first));
    parent.append(make("mark", "", text.slice(first, last)));
    from = last;
  }
  if (from < to) parent.append(text.slice(from, to));
}

const kept = (score, least) => score === null || score >= least;
const written = score => score === null ? "" : score.toFixed(3);

// The numbers of the spans and relations of a document that the filters leave.
function left(item, least) {
  const spans = item.spans.flatMap(([, , label, score], number) =>
    !off.labels.has(label) && kept(score, least) ? [number] : []);
  const there = new Set(spans);
  const relations = item.relations.flatMap(([head, tail, kind, score], number) =>
    !off.kinds.has(kind) && kept(score, least) && there.has(head) && there.has(tail) ? [number] : []);
  return { item, spans, relations };
}

function described(item, [start, end, label, score]) {
  const rated = score === null ? "no score" : `score ${written(score)}`;
  return `${data.labels[label]}, ${rated}: ${item.text.slice(start, Math.min(end, start + 200))}`;
}

function drawText(item, numbers, found) {
  const box = make("div", "text"), fragments = new Map(numbers.map(number => [number, []]));
  const { drawn, listed } = divide(numbers.map(number => item.spans[number]), MOST_OVERLAPPING);
  const places = drawn.map(at => item.spans[numbers[at]]);
  box.dir = "auto";
  let parent = box;
  for (const step of steps(item.text.length, places)) {
    if ("from" in step) {
      appendText(parent, item.text, step.from, step.to, found);
    } else if ("open" in step) {
      const element = make("span", look(places[step.open][2]) + (step.first ? "" : " continued"));
      element.title = described(item, places[step.open]);
      fragments.get(numbers[drawn[step.open]]).push(element);
      parent.append(element);
      parent = element;
    } else {
      const [, , label, score] = places[step.close];
      const name = make("span", "label", (step.first ? "" : "… ") + data.labels[label] + (step.last ? "" : " …"));
      if (score !== null && step.last) name.append(make("span", "score", ` ${written(score)}`));
      if (!step.last) parent.classList.add("continues");
      parent.append(name);
      parent = parent.parentElement;
    }
  }
  const rest = make("ul", "listed");
  for (const number of listed.map(at => numbers[at])) {
    const row = make("li", look(item.spans[number][2]), described(item, item.spans[number]));
    fragments.get(number).push(row);
    rest.append(row);
  }
  return { box, rest, fragments };
}

function drawRelation(item, number, fragments) {
  const [head, tail, kind, score] = item.relations[number];
  const row = make("li"), button = make("button");
  const words = span => make("bdi", "", `${item.text.slice(...item.spans[span])}`);
  const label = span => make("span", "label", data.labels[item.spans[span][2]]);
  button.type = "button";
  button.ariaPressed = "false";
  button.append(words(head), label(head), " — ", make("bdi", "kind", data.kinds[kind]), " → ", words(tail), label(tail));
  if (score !== null) {
    button.append(make("span", "score", ` ${written(score)}`));
    button.title = `score ${written(score)}`;
  }
  const ends = [...fragments.get(head), ...fragments.get(tail)];
  const light = on => ends.forEach(element => element.classList.toggle("on", on || button.ariaPressed === "true"));
  button.onmouseenter = button.onfocus = () => light(true);
  button.onmouseleave = button.onblur = () => light(false);
  button.onclick = () => {
    button.ariaPressed = String(button.ariaPressed !== "true");
    light(true);
  };
  row.append(button);
  return row;
}

// Marks by which a text is shown in another order than it is stored in, as a problem of the text.
function directionMarks(text) {
  const found = new Set(text.match(/[\u202a-\u202e\u2066-\u2069]/g));
  const names = [...found].map(mark => `U+${mark.charCodeAt(0).toString(16).toUpperCase()}`).sort();
  return names.length ? [["direction_marks", `the text has ${names.join(", ")}, which change the order it is shown in`]] : [];
}

function drawDocument({ item, spans, relations }, query) {
  const article = make("article"), head = make("h2");
  head.append(make("bdi", "", item.id));
  for (const [key, value] of item.metadata) head.append(" · ", make("bdi", "", `${key}: ${value}`));
  const { box, rest, fragments } = drawText(item, spans, hits(item.text, query));
  article.append(head, box);
  if (rest.hasChildNodes()) {
    article.append(make("p", "", `More than ${MOST_OVERLAPPING} spans overlap; these are not drawn in the text:`), rest);
  }
  if (relations.length) {
    const list = make("ul", "relations");
    list.ariaLabel = "Relations";
    list.append(...relations.map(number => drawRelation(item, number, fragments)));
    article.append(list);
  }
  const problems = [...item.problems, ...directionMarks(item.text)];
  if (problems.length) {
    const list = make("ul", "problems");
    list.ariaLabel = "Problems";
    for (const [kind, message] of problems) {
      const row = make("li", "", "⚠ ");
      row.append(make("bdi", "", `${kind}: ${message}`));
      list.append(row);
    }
    article.append(list);
  }
  if (item.generated) {
    const details = make("details");
    details.append(make("summary", "", "Text that the model wrote"), make("pre", "", item.generated));
    details.lastChild.dir = "auto";
    article.append(details);
  }
  return article;
}

function drawPage(scroll) {
  const pages = Math.max(1, Math.ceil(state.shown.length / PER_PAGE));
  state.page = Math.min(Math.max(0, state.page), pages - 1);
  const rows = state.shown.slice(state.page * PER_PAGE, (state.page + 1) * PER_PAGE);
  const query = get("query").value;
  get("documents").replaceChildren(...rows.map(row => drawDocument(row, query)));
  for (const nav of document.querySelectorAll("nav")) {
    const [previous, next] = nav.querySelectorAll("button"), number = nav.querySelector("input");
    nav.hidden = pages === 1;
    previous.disabled = state.page === 0;
    next.disabled = state.page === pages - 1;
    number.max = pages;
    number.value = state.page + 1;
    nav.querySelector("span").textContent = `of ${pages.toLocaleString("en")}`;
  }
  if (scroll) document.querySelector("main").scrollIntoView();
}

const lowest = row => Math.min(...row.spans.map(number => row.item.spans[number][3] ?? 1), 1.1);

function filter() {
  const least = Number(get("least").value), query = get("query").value, which = get("which").value;
  const words = pattern(query, "iu");
  get("least-value").textContent = least.toFixed(2);
  state.shown = data.documents.flatMap(item => {
    const row = left(item, least);
    const fits = {
      all: true, some: row.spans.length > 0, none: row.spans.length === 0, problems: item.problems.length > 0,
    }[which];
    return fits && (words.test(item.text) || words.test(item.id)) ? [row] : [];
  });
  if (get("order").value === "score") {
    const keys = new Map(state.shown.map(row => [row, lowest(row)]));
    state.shown.sort((a, b) => keys.get(a) - keys.get(b));
  }
  const tally = { labels: data.labels.map(() => 0), kinds: data.kinds.map(() => 0) };
  for (const { item, spans, relations } of state.shown) {
    for (const number of spans) tally.labels[item.spans[number][2]]++;
    for (const number of relations) tally.kinds[item.relations[number][2]]++;
  }
  for (const [name, numbers] of Object.entries(tally)) {
    get(name).querySelectorAll("output").forEach((output, label) => {
      output.textContent = `${numbers[label].toLocaleString("en")} of ${output.dataset.total}`;
    });
  }
  const spans = tally.labels.reduce((a, b) => a + b, 0);
  get("found").textContent = `${state.shown.length.toLocaleString("en")} of ` +
    `${count(data.documents.length, "document", "documents")}, ${count(spans, "span", "spans")}`;
  state.page = 0;
  drawPage(false);
}

function addLabels(name, totals, className) {
  const box = get(name), names = data[name], all = make("button", "", "all"), none = make("button", "", "none");
  box.hidden = names.length === 0;
  box.append(all, " ", none);
  const boxes = names.map((label, number) => {
    const row = make("label"), check = make("input"), output = make("output");
    check.type = "checkbox";
    check.defaultChecked = true;
    check.onchange = () => {
      off[name][check.checked ? "delete" : "add"](number);
      filter();
    };
    output.dataset.total = totals[number].toLocaleString("en");
    const text = make("bdi", className(number), label);
    row.append(check, text, output);
    box.append(row);
    return check;
  });
  for (const button of [all, none]) {
    button.type = "button";
    button.onclick = () => {
      off[name] = new Set(button === all ? [] : names.keys());
      for (const check of boxes) check.checked = button === all;
      filter();
    };
  }
}

function begin() {
  const totals = { labels: data.labels.map(() => 0), kinds: data.kinds.map(() => 0) }, problems = new Map();
  let scored = false;
  for (const item of data.documents) {
    for (const [, , label, score] of item.spans) totals.labels[label]++, scored ||= score !== null;
    for (const [, , kind, score] of item.relations) totals.kinds[kind]++, scored ||= score !== null;
    for (const [kind] of item.problems) problems.set(kind, (problems.get(kind) ?? 0) + 1);
  }
  addLabels("labels", totals.labels, look);
  addLabels("kinds", totals.kinds, () => "");
  get("scored").hidden = !scored;
  get("summary").hidden = problems.size === 0;
  for (const [kind, number] of problems) {
    const row = make("li", "", kind);
    row.append(make("b", "", number.toLocaleString("en")));
    get("summary").querySelector("ul").append(row);
  }
  for (const id of ["query", "least"]) get(id).oninput = filter;
  for (const id of ["which", "order"]) get(id).onchange = filter;
  get("scores").onchange = () => document.body.classList.toggle("scores", get("scores").checked);
  get("filters").onsubmit = event => event.preventDefault();
  for (const nav of document.querySelectorAll("nav")) {
    nav.onclick = event => {
      if (!event.target.dataset.by) return;
      state.page += Number(event.target.dataset.by);
      drawPage(true);
    };
    nav.onchange = event => {
      state.page = Math.trunc(Number(event.target.value)) - 1 || 0;
      drawPage(true);
    };
  }
  get("filters").reset();
  filter();
}

begin();
