"use strict";
// Everything from the batch is inserted as text, never as HTML.

const STATUSES = ["ok", "failed", "timed_out", "over_budget", "quarantined", "unfinished", "waiting"];
const LEFT = new Set(["unfinished", "waiting"]);
const KINDS = { model: "Model", tool: "Tools", approval: "Approvals", wait: "Waits" };
const FIRST_ROWS = 500;
const SVG = "http://www.w3.org/2000/svg";

const $ = (id) => document.getElementById(id);
const batch = JSON.parse($("batch").textContent);
const tasks = batch.tasks.map((task, index) => ({ ...task, index, tokens: task.usage.total_tokens ?? null }));

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}
const el = (tag, attributes = {}, ...children) => fill(document.createElement(tag), attributes, children);
const svg = (tag, attributes = {}, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);

// -- numbers and times --------------------------------------------------------------------------------------------

const count = (number, noun) => `${number.toLocaleString("en-US")} ${noun}${number === 1 ? "" : "s"}`;
const label = (status) => status.replaceAll("_", " ");
const least = (values) => values.reduce((one, other) => Math.min(one, other), Infinity);
const most = (values) => values.reduce((one, other) => Math.max(one, other), -Infinity);
const sum = (values) => values.reduce((total, value) => total + value, 0);
const pretty = (value) => (typeof value === "string" ? value : JSON.stringify(value, null, 2));

function seconds(value) {
  if (value < 0.005) return "0 s";
  if (value < 10) return `${value.toFixed(value < 1 ? 2 : 1)} s`;
  if (value < 60) return `${Math.round(value)} s`;
  const minutes = Math.floor(value / 60);
  if (minutes < 60) return `${minutes} min ${Math.round(value % 60)} s`;
  const hours = Math.floor(minutes / 60);
  return hours < 48 ? `${hours} h ${minutes % 60} min` : `${Math.floor(hours / 24)} d ${hours % 24} h`;
}

function short(value) {
  if (value < 1000) return String(Math.round(value));
  if (value < 1e6) return `${(value / 1000).toFixed(value < 1e4 ? 1 : 0)}\u00a0k`;
  return `${(value / 1e6).toFixed(value < 1e7 ? 2 : 1)}\u00a0M`;
}

function quantile(sorted, share) {
  return sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))];
}

const clock = (ms) => new Date(ms).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" });

function period(from, to) {
  const isSameDay = new Date(from).toDateString() === new Date(to).toDateString();
  return `${clock(from)} to ${isSameDay ? new Date(to).toLocaleTimeString(undefined, { timeStyle: "short" }) : clock(to)}`;
}

// -- summary ------------------------------------------------------------------------------------------------------

function active(spans) {
  // The time during which at least one attempt ran: a batch may have been interrupted for days.
  let total = 0, until = -Infinity;
  for (const [from, to] of [...spans].sort((one, other) => one[0] - other[0])) {
    total += Math.max(0, to - Math.max(from, until));
    until = Math.max(until, to);
  }
  return total / 1000;
}

function summarize() {
  const name = batch.out.split("/").filter(Boolean).slice(-2).join("/") || batch.out;
  document.title = `Batch report: ${name}`;
  $("title").textContent = name;
  $("origin").textContent = `${batch.out} · written ${clock(batch.written)} · trio-codex ${batch.version}`;
  const done = tasks.filter((task) => !LEFT.has(task.status));
  const counts = STATUSES.map((status) => [status, tasks.filter((task) => task.status === status).length]).filter(([, number]) => number);
  const shown = counts.map(([status, number]) => `${number.toLocaleString("en-US")} ${label(status)}`).join(", ");
  $("bar").setAttribute("aria-label", shown || "no tasks");
  for (const [status, number] of counts) {
    const part = el("i", { class: `s-${status}`, title: `${number} ${label(status)}` });
    part.style.flex = number;
    $("bar").append(part);
  }
  const fact = (term, value, note) => $("facts").append(el("div", {}, el("dt", {}, term), el("dd", {}, value), el("dd", {}, note ?? "")));
  const ok = done.filter((task) => task.status === "ok").length;
  fact("Tasks done", `${done.length.toLocaleString("en-US")} of ${tasks.length.toLocaleString("en-US")}`, shown);
  if (done.length) fact("Ok", `${(Math.floor((1000 * ok) / done.length) / 10).toLocaleString("en-US")} %`, ok === done.length ? "of the tasks done" : `${count(done.length - ok, "task")} not ok`);
  const times = done.map((task) => task.seconds).sort((one, other) => one - other);
  if (times.length) fact("Time of a task", seconds(quantile(times, 0.5)), `median; 90 % up to ${seconds(quantile(times, 0.9))}; ${seconds(sum(times))} in all`);
  const timed = done.filter((task) => task.spans.length), spans = timed.flatMap((task) => task.spans);
  if (spans.length) {
    const busy = active(spans);
    const began = least(spans.map(([from]) => from)), ended = most(spans.map(([, to]) => to));
    fact("From start to end", seconds((ended - began) / 1000), period(began, ended));
    if (busy > 0) {
      const rate = timed.length / busy;
      const average = sum(spans.map(([from, to]) => to - from)) / 1000 / busy;
      fact("Rate", rate < 1 ? `${(rate * 60).toFixed(1)} / min` : `${rate.toFixed(1)} / s`, `${average.toFixed(1)} at once on average`);
    }
  }
  const used = (name) => sum(done.map((task) => task.usage[name] ?? 0));
  fact("Tokens", short(used("total_tokens")), `${short(used("input_tokens"))} input, ${short(used("cached_input_tokens"))} of them cached; ${short(used("output_tokens"))} output`);
  const more = done.filter((task) => task.attempts > 1);
  fact("Repeated attempts", sum(more.map((task) => task.attempts - 1)).toLocaleString("en-US"), more.length ? `by ${count(more.length, "task")}` : "every task took one");
}

// -- plots --------------------------------------------------------------------------------------------------------

const WIDTH = 340, HEIGHT = 150, LEFT_EDGE = 34, BOTTOM = 128, TOP = 8;

function figure(title, note, drawing, description) {
  const image = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": `${title}. ${description ?? note}` }, ...drawing);
  $("plots").append(el("figure", { class: "plot" }, el("figcaption", {}, title), el("p", { class: "quiet" }, note), image));
}

function axes(ticks, at, top, format) {
  const parts = [
    svg("line", { class: "axis", x1: LEFT_EDGE, x2: WIDTH - 6, y1: BOTTOM, y2: BOTTOM }),
    svg("line", { class: "axis", x1: LEFT_EDGE, x2: WIDTH - 6, y1: TOP, y2: TOP }),
    svg("text", { x: LEFT_EDGE - 5, y: BOTTOM, "text-anchor": "end" }, "0"),
    svg("text", { x: LEFT_EDGE - 5, y: TOP + 8, "text-anchor": "end" }, short(top)),
  ];
  ticks.forEach((tick, number) => {
    const anchor = number === 0 ? "start" : number === ticks.length - 1 ? "end" : "middle";
    parts.push(svg("text", { x: at(tick), y: HEIGHT - 6, "text-anchor": anchor }, format(tick)));
  });
  return parts;
}

function histogram(title, values, format) {
  if (!values.length) return;
  const sorted = values.map(([value]) => value).sort((one, other) => one - other);
  const [minimum, maximum] = [sorted[0], sorted[sorted.length - 1]];
  const median = quantile(sorted, 0.5), late = quantile(sorted, 0.9);
  const logarithmic = minimum > 0 && maximum / median > 12;
  const scale = logarithmic ? Math.log : (value) => value;
  const [low, high] = [scale(logarithmic ? minimum : 0), scale(maximum) || 1];
  const number = Math.max(6, Math.min(28, Math.ceil(2 * Math.sqrt(values.length))));
  const share = (value) => (high > low ? (scale(value) - low) / (high - low) : 0.5);
  const at = (value) => LEFT_EDGE + share(value) * (WIDTH - 6 - LEFT_EDGE);
  const bins = Array.from({ length: number }, () => [0, 0]);
  for (const [value, isOk] of values) bins[Math.min(number - 1, Math.floor(share(value) * number))][isOk ? 0 : 1]++;
  const top = most(bins.map(sum));
  const wide = (WIDTH - 6 - LEFT_EDGE) / number, tall = (BOTTOM - TOP) / top;
  const inverse = (part) => (logarithmic ? Math.exp(low + part * (high - low)) : low + part * (high - low));
  const bars = bins.flatMap(([ok, bad], bin) => {
    const x = LEFT_EDGE + bin * wide + 0.5, range = `${format(inverse(bin / number))} to ${format(inverse((bin + 1) / number))}`;
    const bar = (height, below, status) =>
      svg("rect", { class: `s-${status}`, fill: "currentColor", x, width: Math.max(1, wide - 1), y: BOTTOM - (below + height) * tall, height: height * tall },
        svg("title", {}, `${range}: ${ok} ok, ${bad} not ok`));
    return [ok ? bar(ok, 0, "ok") : null, bad ? bar(bad, ok, "failed") : null];
  });
  const mark = svg("line", { class: "mark", x1: at(median), x2: at(median), y1: TOP, y2: BOTTOM });
  const ticks = logarithmic ? [minimum, inverse(0.5), maximum] : [0, maximum / 2, maximum];
  const note = `median ${format(median)} · 90 % up to ${format(late)} · maximum ${format(maximum)}`;
  figure(logarithmic ? `${title} (logarithmic)` : title, note, [...axes(ticks, at, top, format), ...bars, mark], `${count(values.length, "task")}: ${note}`);
}

function curve() {
  const timed = tasks.filter((task) => !LEFT.has(task.status) && task.spans.length).map((task) => task.spans);
  if (timed.length < 2) return;
  const began = least(timed.flat().map(([from]) => from));
  const ends = timed.map((spans) => (most(spans.map(([, to]) => to)) - began) / 1000).sort((one, other) => one - other);
  const last = ends[ends.length - 1] || 1;
  const at = (value) => LEFT_EDGE + (value / last) * (WIDTH - 6 - LEFT_EDGE);
  const up = (number) => BOTTOM - (number / ends.length) * (BOTTOM - TOP);
  const path = ends.map((end, number) => `H${at(end).toFixed(1)}V${up(number + 1).toFixed(1)}`).join("");
  figure("Tasks done over time", `since ${clock(began)}`, [
    ...axes([0, last / 2, last], at, ends.length, seconds),
    svg("path", { class: "area", d: `M${LEFT_EDGE},${BOTTOM}${path}V${BOTTOM}Z` }),
    svg("path", { class: "curve", d: `M${LEFT_EDGE},${BOTTOM}${path}` }),
  ], `${count(ends.length, "task")} in ${seconds(last)}`);
}

function plot() {
  const done = tasks.filter((task) => !LEFT.has(task.status));
  const pairs = (name) => done.filter((task) => task[name] !== null).map((task) => [task[name], task.status === "ok"]);
  histogram("Time", pairs("seconds"), seconds);
  histogram("Tokens", pairs("tokens"), short);
  curve();
  if (!$("plots").childNodes.length) $("plots").closest("section").hidden = true;
}

// -- the table ----------------------------------------------------------------------------------------------------

const COLUMNS = [
  ["id", "Task"],
  ["status", "Status"],
  ["seconds", "Time"],
  ["tokens", "Tokens"],
  ["attempts", "Attempts"],
  ["result", "Prompt and result"],
];
const NUMBERS = new Set(["seconds", "tokens", "attempts"]);
const names = new Intl.Collator("en", { numeric: true });
const view = { status: null, text: "", column: null, up: true, all: false };
const opened = new Set();
const made = new Map();

function order(one, other) {
  const [a, b] = [one[view.column], other[view.column]];
  if (a === b) return one.index - other.index;
  // What has no value comes last, in both directions.
  if (a === null || b === null) return a === null ? 1 : -1;
  const compared = NUMBERS.has(view.column) ? a - b : view.column === "status" ? STATUSES.indexOf(a) - STATUSES.indexOf(b) : names.compare(a, b);
  return view.up ? compared : -compared;
}

function chosen() {
  const words = view.text.toLowerCase().split(/\s+/).filter(Boolean);
  const found = tasks.filter((task) => {
    if (view.status !== null && task.status !== view.status) return false;
    const text = `${task.id} ${task.prompt} ${task.result}`.toLowerCase();
    return words.every((word) => text.includes(word));
  });
  return view.column === null ? found : found.sort(order);
}

function row(task) {
  if (made.has(task.index)) return made.get(task.index);
  const cell = (name, text, ...children) =>
    el("td", { role: "cell", class: `c-${name}${NUMBERS.has(name) ? " number" : ""}`, "data-label": COLUMNS.find(([key]) => key === name)[1] }, text, ...children);
  const toggle = el("button", { type: "button", "aria-expanded": "false", "aria-controls": `details-${task.index}`, onclick: () => show(task, !opened.has(task.index)) }, task.id);
  const node = el("tr", { class: "row", role: "row", id: `row-${task.index}` },
    cell("id", null, toggle),
    cell("status", null, el("span", { class: `status s-${task.status}` }, label(task.status))),
    cell("seconds", task.seconds === null ? "–" : seconds(task.seconds)),
    cell("tokens", task.tokens === null ? "–" : task.tokens.toLocaleString("en-US")),
    cell("attempts", task.attempts === null ? "–" : String(task.attempts)),
    cell("result", null, el("span", { class: "clip" }, task.prompt), el("span", { class: `clip${task.status === "ok" ? "" : " bad-text"}` }, task.result)));
  const made_row = { node, toggle, details: null };
  made.set(task.index, made_row);
  return made_row;
}

function show(task, isOpen) {
  const { node, toggle } = row(task);
  toggle.setAttribute("aria-expanded", String(isOpen));
  const parts = made.get(task.index);
  if (isOpen) {
    opened.add(task.index);
    parts.details ??= el("tr", { class: "detail", role: "row", id: `details-${task.index}` }, el("td", { role: "cell", colspan: COLUMNS.length }, details(task)));
    if (node.isConnected) node.after(parts.details);
    history.replaceState(null, "", `#task=${encodeURIComponent(task.id)}`);
  } else {
    opened.delete(task.index);
    parts.details.remove();
  }
}

function render() {
  const found = chosen(), visible = view.all ? found : found.slice(0, FIRST_ROWS);
  $("rows").replaceChildren(...visible.flatMap((task) => {
    const { node, details: below } = row(task);
    return opened.has(task.index) ? [node, below] : [node];
  }));
  const of = found.length === tasks.length ? "" : ` of ${tasks.length.toLocaleString("en-US")}`;
  $("count").textContent = found.length ? `Showing ${visible.length.toLocaleString("en-US")}${visible.length < found.length ? ` of ${found.length.toLocaleString("en-US")}` : of} ${tasks.length === 1 ? "task" : "tasks"}` : "No task matches";
  $("more").hidden = visible.length === found.length;
  $("more").textContent = `Show all ${found.length.toLocaleString("en-US")}`;
  for (const head of $("heads").children) {
    if (head.dataset.column === view.column) head.setAttribute("aria-sort", view.up ? "ascending" : "descending");
    else head.removeAttribute("aria-sort");
  }
}

function build() {
  for (const [name, title] of COLUMNS) {
    const sort = () => {
      // Large numbers are what one looks for first.
      view.up = view.column === name ? !view.up : !NUMBERS.has(name);
      view.column = name;
      render();
    };
    const head = el("th", { role: "columnheader", scope: "col", class: `c-${name}${NUMBERS.has(name) ? " number" : ""}`, "data-column": name });
    head.append(el("button", { type: "button", onclick: sort }, title));
    $("heads").append(head);
  }
  const choose = (status) => {
    view.status = status;
    for (const chip of $("statuses").children) chip.setAttribute("aria-pressed", String((chip.dataset.status || null) === status));
    render();
  };
  for (const status of [null, ...STATUSES]) {
    const number = status === null ? tasks.length : tasks.filter((task) => task.status === status).length;
    if (number || status === null)
      $("statuses").append(el("button", { type: "button", "data-status": status ?? "", "aria-pressed": String(status === null), onclick: () => choose(status) }, `${status === null ? "all" : label(status)} ${number.toLocaleString("en-US")}`));
  }
  $("search").addEventListener("input", () => { view.text = $("search").value; render(); });
  $("more").addEventListener("click", () => { view.all = true; render(); });
}

// -- details of a task --------------------------------------------------------------------------------------------

const box = (text, isBad = false) => el("pre", { class: `box${isBad ? " bad" : ""}`, tabindex: "0" }, text);
const folded = (title, ...content) => el("details", {}, el("summary", {}, title), ...content);

function details(task) {
  const all = JSON.parse($(`task-${task.index}`).textContent);
  const parts = [el("h3", {}, "Prompt"), box(all.prompt)];
  if (Object.keys(all.options).length) parts.push(folded("Options", box(pretty(all.options))));
  if (all.data !== null) parts.push(folded("Data", box(pretty(all.data))));
  if (all.error) parts.push(el("h3", {}, "Error"), box(all.error, true));
  if (all.status === "ok") parts.push(el("h3", {}, "Value"), box(pretty(all.value)));
  if (all.usage) {
    const names = [["input_tokens", "input"], ["cached_input_tokens", "cached"], ["output_tokens", "output"], ["reasoning_output_tokens", "reasoning"]];
    const shown = names.filter(([name]) => all.usage[name]).map(([name, title]) => `${all.usage[name].toLocaleString("en-US")} ${title}`);
    parts.push(el("p", { class: "quiet" }, `Tokens: ${shown.join(" · ")}`));
  }
  for (const thread of all.threads) parts.push(...attempt(thread));
  return el("div", { class: "details" }, ...parts);
}

function attempt(thread) {
  const parts = [el("h3", {}, `Attempt ${thread.attempt}`), el("p", { class: "quiet mono" }, `thread ${thread.id}`)];
  if (thread.missing) return [...parts, el("p", { class: "quiet" }, `No transcript: ${thread.missing}`)];
  if (!thread.turns.length) return [...parts, el("p", { class: "quiet" }, "The thread has no turns.")];
  const lines = thread.turns.map((turn) => entries(thread, turn));
  const drawn = timeline(thread, lines);
  parts.push(...drawn.nodes);
  thread.turns.forEach((turn, number) => {
    const [from, to] = drawn.spans[number] ?? [null, null];
    const took = from === null ? "" : ` · ${seconds((to - from) / 1000)}`;
    parts.push(el("h4", {}, `Turn ${number + 1} · ${label(turn.status)}${took}`));
    parts.push(el("ol", { class: "items" }, ...lines[number].map((entry) => shown(entry, drawn.begin))));
    if (turn.error) parts.push(box(turn.error.message, true));
  });
  return parts;
}

const TOOLS = new Set(["commandExecution", "fileChange", "mcpToolCall", "dynamicToolCall", "webSearch", "imageView", "imageGeneration", "collabAgentToolCall", "functionCallOutput", "call"]);

function entries(thread, turn) {
  // The items of a turn, and what the model called without an item, in order.
  const found = turn.items.map((item) => {
    const times = thread.times[item.id] ?? [null, null], call = thread.calls[item.id];
    return { item, call, asked: call?.span[0] ?? null, from: item.startedAtMs ?? times[0], to: item.completedAtMs ?? times[1] };
  });
  const known = new Set(turn.items.map((item) => item.id));
  for (const [id, call] of Object.entries(thread.calls)) {
    if (call.turn !== turn.id || known.has(id)) continue;
    const entry = { item: { type: "call", id, ...call }, call, asked: call.span[0], from: call.span[0], to: call.span[1] };
    const next = found.findIndex((other) => (other.asked ?? other.from ?? -Infinity) > call.span[0]);
    found.splice(next < 0 ? found.length : next, 0, entry);
  }
  for (const entry of found) {
    entry.kind = entry.item.type === "sleep" ? "wait" : !TOOLS.has(entry.item.type) ? null : entry.item.type === "call" && entry.call.asks ? "approval" : "tool";
    // The time between a call and its start is an approval if it asked for one. Short ones are that of starting it.
    entry.before = entry.asked !== null && entry.from !== null && entry.from > entry.asked ? (entry.call.asks ? "approval" : entry.from - entry.asked > 250 ? "wait" : null) : null;
    if (entry.kind && entry.asked !== null && !entry.before) entry.from = entry.asked;
  }
  return found;
}

function pieces(turn, lines) {
  const known = lines.flatMap((entry) => [entry.asked, entry.from, entry.to]).filter((time) => time !== null && time !== undefined);
  const begin = turn.span[0] ?? least(known), end = turn.span[1] ?? most([begin, ...known]);
  if (!Number.isFinite(begin)) return null;
  const found = [];
  for (const entry of lines) {
    if (!entry.kind || entry.from === null) continue;
    if (entry.before) found.push({ kind: entry.before, from: entry.asked, to: entry.from, entry });
    found.push({ kind: entry.kind, from: entry.from, to: entry.to ?? end, entry });
  }
  found.sort((one, other) => one.from - other.from);
  // The rest of a turn is the model's.
  let at = begin;
  for (const piece of [...found, { from: end, to: end }]) {
    if (piece.from > at) found.push({ kind: "model", from: at, to: Math.min(piece.from, end) });
    at = Math.max(at, piece.to);
  }
  return { begin, end, found };
}

function timeline(thread, lines) {
  const turns = thread.turns.map((turn, number) => pieces(turn, lines[number]));
  const spans = turns.map((turn) => turn && [turn.begin, turn.end]);
  const drawn = turns.filter(Boolean);
  if (!drawn.length) return { nodes: [], spans, begin: null };
  const busy = sum(drawn.map((turn) => turn.end - turn.begin)) || 1;
  const widest = 0.08 * busy; // of a gap between turns
  const all = [], totals = { model: 0, tool: 0, approval: 0, wait: 0 };
  let length = 0, before = null;
  for (const turn of drawn) {
    if (before !== null && turn.begin > before) {
      const gap = turn.begin - before;
      all.push({ kind: "wait", at: length, wide: Math.min(gap, widest), long: gap > widest, took: gap });
      totals.wait += gap;
      length += Math.min(gap, widest);
    }
    for (const piece of turn.found) {
      const took = Math.max(0, piece.to - piece.from);
      all.push({ kind: piece.kind, at: length + piece.from - turn.begin, wide: took, took, entry: piece.entry });
      totals[piece.kind] += took;
    }
    length += turn.end - turn.begin;
    before = turn.end;
  }
  const percent = (value) => `${((100 * value) / (length || 1)).toFixed(3)}%`;
  const shares = Object.entries(totals).filter(([, took]) => took > 0).map(([kind, took]) => [kind, `${KINDS[kind]} ${seconds(took / 1000)}`]);
  const bar = el("div", { class: "timeline", role: "img", "aria-label": `Timeline: ${shares.map(([, text]) => text).join(", ")}` });
  for (const piece of all.sort((one, other) => (other.kind === "model") - (one.kind === "model"))) {
    const text = `${KINDS[piece.kind]}, ${seconds(piece.took / 1000)}${piece.entry ? `: ${brief(piece.entry.item)}` : ""}`;
    const part = el("i", { class: `k-${piece.kind}${piece.long ? " gap" : ""}`, title: text });
    part.style.left = percent(piece.at);
    part.style.width = percent(piece.wide);
    if (piece.entry) part.addEventListener("click", () => piece.entry.node.focus());
    bar.append(part);
  }
  const begin = drawn[0].begin;
  const nodes = [
    bar,
    el("div", { class: "ends quiet" }, el("span", {}, clock(begin)), el("span", {}, `${seconds((before - begin) / 1000)}`)),
    el("ul", { class: "legend" }, ...shares.map(([kind, text]) => el("li", { class: `k-${kind}` }, text))),
  ];
  return { nodes, spans, begin };
}

// -- items --------------------------------------------------------------------------------------------------------

const lines = (text) => count(text.replace(/\n$/, "").split("\n").length, "line");

function brief(item) {
  const text = item.command ?? item.tool ?? item.name ?? item.query ?? item.changes?.map((change) => inWorkspace(change.path)).join(", ") ?? item.type;
  return text.length > 120 ? `${text.slice(0, 119)}…` : text;
}

function shell(command) {
  // The server runs scripts as bash -c 'script'.
  const found = /^\S*\/(?:ba|z|da)?sh -l?c '([^']*)'$/s.exec(command);
  return found ? found[1] : command;
}

// Without the directory of the attempt's workspace.
const inWorkspace = (path) => (path.startsWith(`${batch.out}/workspaces/`) ? path.slice(batch.out.length + 12).replace(/^[^/]*\//, "") : path);

function diff(text) {
  return el("pre", { class: "box", tabindex: "0" }, ...text.split(/(?<=\n)/).map((line) =>
    el("span", { class: /^\+(?!\+\+)/.test(line) ? "plus" : /^-(?!--)/.test(line) ? "minus" : null }, line)));
}

const output = (title, text) => (text ? folded(`${title}, ${lines(text)}`, box(text)) : null);

const SHOW = {
  userMessage: (item) => ["Prompt", el("div", { class: "text" }, item.content.map((part) => part.text ?? pretty(part)).join("\n"))],
  agentMessage: (item) => [item.phase === "final_answer" ? "Final response" : "Message", el("div", { class: "text" }, item.text)],
  plan: (item) => ["Plan", el("div", { class: "text" }, item.text)],
  reasoning: (item) => {
    const text = [...(item.summary ?? []), ...(item.content ?? [])].join("\n\n");
    return ["Reasoning", text ? el("div", { class: "text quiet" }, text) : null];
  },
  commandExecution: (item) => {
    const failed = item.exitCode !== 0 && item.exitCode !== undefined && item.exitCode !== null;
    const how = failed ? `exit status ${item.exitCode}` : item.status === "completed" ? null : label(item.status);
    return ["Command", el("pre", {}, `$ ${shell(item.command)}`), how ? el("div", { class: "bad-text" }, how) : null, output("Output", item.aggregatedOutput ?? "")];
  },
  fileChange: (item) => ["File change", item.status === "completed" ? null : el("div", { class: "bad-text" }, label(item.status)),
    ...item.changes.map((change) => folded(`${change.kind?.type ?? "change"} ${inWorkspace(change.path)}`, diff(change.diff)))],
  mcpToolCall: (item) => [`Tool of ${item.server}`, ...tool(item, item.result ?? item.error)],
  dynamicToolCall: (item) => ["Tool", ...tool(item, item.contentItems)],
  webSearch: (item) => ["Web search", el("div", { class: "text" }, item.query)],
  contextCompaction: () => ["The context was compacted"],
  call: (item) => [item.asks ? "Request" : "Call", ...tool({ tool: item.name, arguments: item.input }, item.output)],
};

function tool(item, result) {
  const given = item.arguments === undefined || item.arguments === null || item.arguments === "" ? null : pretty(item.arguments);
  return [el("pre", {}, item.tool), given ? folded("Arguments", box(given)) : null, result ? folded("Result", box(pretty(result))) : null];
}

function shown(entry, begin) {
  const { item, call } = entry;
  const [title, ...content] = (SHOW[item.type] ?? ((other) => [other.type, folded("Content", box(pretty(other)))]))(item);
  const at = entry.asked ?? entry.from;
  const parts = [];
  if (at !== null && at !== undefined && begin !== null) parts.push(`+${seconds(Math.max(0, at - begin) / 1000)}`);
  const took = entry.kind && entry.from !== null && entry.to ? entry.to - entry.from : (item.durationMs ?? null);
  const waited = entry.before ? seconds((entry.from - entry.asked) / 1000) : null;
  const note = call?.asks ? `Asked for approval${call.why ? `: ${call.why}` : ""}${waited ? ` (${waited})` : ""}` : waited ? `Started after ${waited}` : null;
  const heading = took === null || !entry.kind ? title : `${title} · ${seconds(took / 1000)}`;
  const kind = call?.asks ? "approval" : entry.kind ?? (item.type === "userMessage" ? null : "model");
  entry.node = el("li", { class: kind ? `k-${kind}` : null, tabindex: "-1" },
    el("div", { class: "when" }, ...parts), el("div", {}, el("div", { class: "what" }, heading), ...content, note ? el("div", { class: "quiet" }, note) : null));
  return entry.node;
}

// -- links to a task ----------------------------------------------------------------------------------------------

function follow() {
  const found = /^#task=(.*)$/.exec(location.hash);
  const task = found && tasks.find((each) => each.id === decodeURIComponent(found[1]));
  if (!task) return;
  show(task, true);
  if (!row(task).node.isConnected) {
    Object.assign(view, { all: true, status: null, text: "" });
    render();
  }
  row(task).node.scrollIntoView();
}

summarize();
plot();
build();
render();
follow();
addEventListener("hashchange", follow);
