"use strict";
// Draws the page from the JSON in #data. Chart.js is loaded before this script.

const content = JSON.parse(document.getElementById("data").textContent);
const main = document.getElementById("main");
const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

/* Words and numbers. */

function bytes(count) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let unit = 0;
  while (count >= 999.5 && unit + 1 < units.length) { count /= 1000; unit += 1; }
  const digits = unit === 0 || count >= 99.95 ? 0 : count >= 9.995 ? 1 : 2;
  return `${count.toFixed(digits)} ${units[unit]}`;
}
const percent = (part) => `${(100 * part).toFixed(1)} %`;
const both = (traffic) => traffic.server_to_client + traffic.client_to_server;
const PHASES = ["setup", "offline", "online"];

/* Elements. */

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "class") made.className = value;
    else if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

function section(id, title, about) {
  const made = element("section", { id }, element("h2", {}, title), element("p", {}, about));
  main.append(made);
  document.getElementById("contents").append(element("a", { href: `#${id}` }, title), " ");
  return made;
}

function choice(label, options, chosen, changed) {
  const list = element("select", { onchange: () => changed(Number(list.value)) });
  options.forEach((name, index) => list.append(element("option", { value: index }, name)));
  list.value = chosen;
  return element("label", {}, `${label} `, list);
}

/* A table that can be copied. Cells are text, or { text, value } where a machine wants the exact number. */

function table(header, rows, caption) {
  const text = (cell) => (typeof cell === "object" ? cell.text : String(cell));
  const value = (cell) => (typeof cell === "object" ? cell.value : String(cell));
  const isNumber = header.map((_, column) => rows.some((row) => typeof row[column] === "object"));
  const cell = (tag, content, column) =>
    element(tag, isNumber[column] ? { class: "number" } : {}, content);
  const head = element("tr", {}, ...header.map((name, column) => cell("th", name, column)));
  const body = rows.map((row) => {
    const attributes = row[0] === "total" ? { class: "total" } : {};
    return element("tr", attributes, ...row.map((content, column) => cell("td", text(content), column)));
  });
  const quote = (text) => (/[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
  const csv = () =>
    [header, ...rows.map((row) => row.map(value))].map((row) => row.map((x) => quote(String(x))).join(",")).join("\n") + "\n";
  const tex = (text) =>
    text.replace(/[\\&%$#_{}~^]/g, (c) => ({ "\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}" })[c] ?? `\\${c}`);
  const latex = () => [
    `% ${caption}`,
    `\\begin{tabular}{${isNumber.map((right) => (right ? "r" : "l")).join("")}}`,
    "\\toprule",
    ...[header, ...rows].flatMap((row, index) => {
      const line = `${row.map((cell) => tex(text(cell))).join(" & ")} \\\\`;
      return index === 0 ? [line, "\\midrule"] : [line];
    }),
    "\\bottomrule",
    "\\end{tabular}",
    "",
  ].join("\n");
  return element("div", {},
    element("div", { class: "controls" }, copyButton("Copy CSV", csv), copyButton("Copy LaTeX", latex)),
    element("div", { class: "scroll tall" },
      element("table", { "aria-label": caption }, element("thead", {}, head), element("tbody", {}, ...body))));
}

function copyButton(label, text) {
  const button = element("button", { type: "button", onclick: async () => {
    let done = true;
    try { await navigator.clipboard.writeText(text()); } catch { done = copyBySelection(text()); }
    button.textContent = done ? "Copied" : "Could not copy";
    setTimeout(() => { button.textContent = label; }, 1500);
  } }, label);
  return button;
}

// Pages opened from a file have no clipboard in some browsers.
function copyBySelection(text) {
  const area = element("textarea", {});
  area.value = text;
  document.body.append(area);
  area.select();
  const done = document.execCommand("copy");
  area.remove();
  return done;
}

/* Charts: made again when the colours of the page change. */

const charts = [];
function chart(parent, height, label, configuration) {
  const canvas = element("canvas", { role: "img", "aria-label": label });
  parent.append(element("div", { class: "chart", style: `height:${height}px` }, canvas));
  const entry = { canvas, configuration, drawn: null };
  charts.push(entry);
  draw(entry);
  return entry;
}

function draw(entry) {
  entry.drawn?.destroy();
  Chart.defaults.color = color("--soft");
  Chart.defaults.borderColor = color("--line");
  Chart.defaults.font.family = "system-ui, sans-serif";
  Chart.defaults.animation = false;
  Chart.defaults.maintainAspectRatio = false;
  entry.drawn = new Chart(entry.canvas, entry.configuration());
}
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => charts.forEach(draw));

const bytesAxis = (title, type = "linear") => ({
  type, title: { display: true, text: title },
  ticks: { callback(value) { return isNamed(value, this) ? bytes(value) : null; }, maxRotation: 0, autoSkipPadding: 12 },
});
// Over decades there is no room for more numbers than 1, 2 and 5 times a power of ten.
const isNamed = (value, { type }) => type !== "logarithmic" || /^[125]e/.test(value.toExponential());

/* Sections. */

function plansSection(plans) {
  const place = section("plans", "Plans", "One private inference with each plan: exact bytes of both directions, and dependent one-way messages (rounds).");
  const number = (count) => ({ text: bytes(count), value: count });
  const rows = plans.map(({ name, plan, accuracy }) => [
    name, plan.network, plan.preset, accuracy ? { text: percent(accuracy.top1), value: accuracy.top1 } : "",
    ...PHASES.map((phase) => number(both(plan.total[phase]))),
    { text: `${plan.total.offline.rounds} + ${plan.total.online.rounds}`, value: plan.total.offline.rounds + plan.total.online.rounds },
  ]);
  place.append(table(["plan", "network", "preset", "top-1", "setup", "offline", "online", "rounds"], rows, "Plans"));
}

// A run without a search has no method.
const METHOD_COLORS = {
  unpruned: "--plain", copriv: "--two", dp: "--fused", deepreduce: "--three", uniform: "--four", snl: "--five", senet: "--six",
};
const methodOf = (epoch) => (epoch.stage === "pretrain" ? null : epoch.method) ?? "unpruned";
const methods = (runs) => [...new Set(runs.map((run) => run.method))];
const methodColor = (method) => color(METHOD_COLORS[method] ?? "--plain");

function frontSection(plans, trainings) {
  const measured = plans.filter((entry) => entry.accuracy).map(({ name, plan, accuracy }) => ({
    name, y: 100 * accuracy.top1, offline: both(plan.total.offline), online: both(plan.total.online), count: accuracy.count,
  }));
  const estimated = trainings.filter((run) => run.epochs.length).map(({ name, epochs }) => {
    const last = epochs.at(-1);
    return { name, method: methodOf(last), y: 100 * last.top1, offline: last.bytes.offline, online: last.bytes.online };
  });
  if (!measured.length && !estimated.length) return;
  const place = section("front", "Accuracy against communication",
    "Plans stand at their exact bytes and the accuracy that copriv eval measured on them; training runs at the literature's estimate for their mask (41 bits, CrypTFlow2 and CoPriv) and the test accuracy of their last epoch, those of one method joined. The dashed line joins the plans that no other plan beats in both.");
  const kinds = ["offline + online", "offline", "online"];
  let kind = 0;
  const x = (point) => [point.offline + point.online, point.offline, point.online][kind];
  const at = (points) => points.map((point) => ({ ...point, x: x(point) })).filter((point) => point.x > 0);
  const isWide = (points) => Math.max(...points.map((point) => point.x)) > 10 * Math.min(...points.map((point) => point.x));
  const front = () => {
    let best = -Infinity;
    return at(measured).sort((a, b) => a.x - b.x || b.y - a.y).filter((point) => point.y > best && ((best = point.y), true));
  };
  const entry = { redraw: null };
  place.append(element("div", { class: "controls" }, choice("Bytes:", kinds, 0, (chosen) => { kind = chosen; draw(entry.redraw); })));
  entry.redraw = chart(place, 340, "Accuracy against bytes", () => ({
    type: "scatter",
    data: { datasets: [
      { label: "plans", data: at(measured), backgroundColor: color("--one"), pointRadius: 5 },
      ...methods(estimated).map((method) => ({
        label: `${method} (training, estimate)`, data: at(estimated.filter((run) => run.method === method)).sort((a, b) => a.x - b.x),
        showLine: true, backgroundColor: methodColor(method), borderColor: methodColor(method), borderWidth: 1.5, pointStyle: "rectRot", pointRadius: 6,
      })),
      { label: "front", data: front(), showLine: true, borderColor: color("--one"), borderWidth: 1.5, pointRadius: 0, borderDash: [4, 4] },
    ].filter((set) => set.data.length) },
    options: {
      scales: { x: bytesAxis(kinds[kind], isWide(at([...measured, ...estimated])) ? "logarithmic" : "linear"), y: { title: { display: true, text: "top-1 (%)" }, grace: "10%" } },
      plugins: { tooltip: { callbacks: { label: ({ raw }) => `${raw.name}: ${raw.y.toFixed(1)} %, ${bytes(raw.x)}${raw.count ? ` (${raw.count} images)` : ""}` } } },
    },
  }));
}

// Bytes of a phase by block, in the order of the plan.
function byBlock({ plan, blocks }, phase) {
  const sums = new Map();
  plan.steps.forEach((step, index) => sums.set(blocks[index], (sums.get(blocks[index]) ?? 0) + both(step.comm[phase])));
  return sums;
}

// The names of both plans' blocks in network order.
function allBlocks(before, after) {
  const names = [...byBlock(before, "online").keys()];
  let position = 0;
  for (const name of byBlock(after, "online").keys()) {
    const found = names.indexOf(name);
    if (found < 0) names.splice(position, 0, name); else position = found;
    position += 1;
  }
  return names;
}

function layersSection(plans) {
  const place = section("layers", "Communication by block", "Two plans block by block. Choose the network before fusing and after, or two presets.");
  const total = ({ plan }) => both(plan.total.offline) + both(plan.total.online);
  const order = plans.map((_, index) => index).sort((a, b) => total(plans[b]) - total(plans[a]));
  let [before, after] = [order[0], order.at(-1)];
  const names = plans.map((entry) => entry.name);
  const pair = element("div", { class: "pair" });
  const steps = element("div");
  const show = () => {
    for (const entry of charts.filter(({ canvas }) => pair.contains(canvas))) {
      entry.drawn.destroy();
      charts.splice(charts.indexOf(entry), 1);
    }
    pair.replaceChildren();
    const blocks = allBlocks(plans[before], plans[after]);
    for (const phase of ["offline", "online"]) {
      const used = blocks.filter((name) => [before, after].some((index) => byBlock(plans[index], phase).get(name)));
      const bars = (index, name) => ({
        label: names[index], backgroundColor: color(name), data: used.map((block) => byBlock(plans[index], phase).get(block) ?? 0),
      });
      chart(pair, 70 + 26 * used.length, `${phase} bytes by block`, () => ({
        type: "bar",
        data: { labels: used, datasets: before === after ? [bars(after, "--one")] : [bars(before, "--two"), bars(after, "--one")] },
        options: {
          indexAxis: "y", scales: { x: bytesAxis(phase), y: { ticks: { autoSkip: false } } },
          plugins: { tooltip: { callbacks: { label: ({ dataset, raw }) => `${dataset.label}: ${bytes(raw)}` } } },
        },
      }));
    }
    steps.replaceChildren(stepsTable(plans[after]));
  };
  const chooser = (label, chosen, set) => choice(label, names, chosen, (index) => { set(index); show(); });
  place.append(element("div", { class: "controls" },
    ...(plans.length > 1 ? [chooser("Before:", before, (index) => { before = index; }), chooser("After:", after, (index) => { after = index; })] : [])));
  place.append(pair, steps);
  show();
}

function stepsTable({ name, plan }) {
  const number = (count) => ({ text: bytes(count), value: count });
  const total = PHASES.reduce((sum, phase) => sum + both(plan.total[phase]), 0);
  const share = (comm) => {
    const part = PHASES.reduce((sum, phase) => sum + both(comm[phase]), 0) / Math.max(1, total);
    return { text: percent(part), value: part };
  };
  const row = (first, comm) => [...first, number(both(comm.offline)), number(both(comm.online)), { text: String(comm.online.rounds), value: comm.online.rounds }, share(comm)];
  const rows = plan.steps.map((step) => row([step.name, step.op, Object.values(step.shape).join("x"), `${step.bits}.${step.scale}`,
    step.lowering ?? "", step.correlation ?? "", step.chooser ?? ""], step.comm));
  rows.push(row(["total", "", "", "", "", "", ""], plan.total));
  const header = ["step", "op", "output", "bits.scale", "lowering", "correlation", "chooser", "offline", "online", "rounds", "share"];
  return element("details", {}, element("summary", {}, `Every step of ${name}`), table(header, rows, `Steps of ${name}`));
}

function networksSection(networks) {
  const place = section("networks", "Networks", "Blocks in order. Fused blocks are one convolution; kept blocks have their activations and their own layers.");
  for (const network of networks) {
    place.append(element("h3", {}, network.name), element("p", {}, `${network.network}, gates ${network.mask}${network.accuracy ? `, top-1 ${percent(network.accuracy.top1)}` : ""}`));
    place.append(element("div", { class: "network" }, ...network.blocks.map(block)));
    const rows = network.blocks.map((each) => [each.name, state(each), each.layers.map((layer) => layer.text).join(", "), each.shape,
      { text: each.mega_multiplications.toFixed(2), value: each.mega_multiplications }]);
    place.append(element("details", {}, element("summary", {}, "As a table"), table(["block", "state", "layers", "output", "MMAC"], rows, network.name)));
  }
}

const state = ({ kept, layers }) =>
  kept === null ? "" : kept ? "kept" : layers.filter((layer) => layer.kind === "conv").length === 1 ? "fused" : "linear";

function block(each) {
  const name = state(each);
  return element("div", { class: `block ${name}` }, element("span", { class: "state" }, name || "layer"), element("b", {}, each.name),
    ...each.layers.map((layer) => element("span", { class: `layer ${layer.kind}` }, layer.text)), element("span", { class: "size" }, each.shape));
}

function trainingsSection(trainings) {
  const place = section("training", "Training", "Accuracy, loss and the alphas of all gates, epoch by epoch over the stages of each run. Where the method measures importance, what each gate was worth before it, and whether the gate is kept in the end.");
  place.append(runsTable(trainings));
  for (const { name, epochs, search } of trainings) {
    place.append(element("h3", {}, name));
    if (!epochs.length) { place.append(element("p", {}, "No epoch is complete yet.")); continue; }
    const labels = epochs.map((epoch) => `${epoch.stage} ${epoch.epoch}`);
    const line = (label, of, name, extra = {}) => ({ label, data: epochs.map(of), borderColor: color(name), backgroundColor: color(name), borderWidth: 2, pointRadius: epochs.length > 40 ? 0 : 2, ...extra });
    const lines = (title, datasets, height = 260) => (parent) => chart(parent, height, title, () => ({
      type: "line", data: { labels, datasets: datasets() },
      options: { interaction: { mode: "index", intersect: false }, scales: { y: { title: { display: true, text: title } }, x: { ticks: { maxRotation: 0, autoSkipPadding: 16 } } } },
    }));
    const pair = element("div", { class: "pair" });
    place.append(pair);
    lines("top-1 (%)", () => [line("test", (e) => 100 * e.top1, "--one"), line("train", (e) => 100 * e.train_top1, "--two", { borderDash: [4, 3] })])(pair);
    lines("loss", () => [line("test", (e) => e.test_loss, "--one"), line("train", (e) => e.loss, "--two", { borderDash: [4, 3] })])(pair);
    if (search) importanceChart(pair, search.importances, epochs.at(-1).mask);
    if (!search || !DECIDE_AT_ONCE.includes(search.method)) alphaChart(pair, epochs, labels);
    lines("bytes (estimate, GB)", () => [line("offline", (e) => e.bytes.offline / 1e9, "--one"), line("online", (e) => e.bytes.online / 1e9, "--two")])(pair);
  }
}

function runsTable(trainings) {
  const rows = trainings.filter((run) => run.epochs.length).map(({ name, epochs }) => {
    const last = epochs.at(-1);
    const total = last.bytes.offline + last.bytes.online;
    const best = Math.max(...epochs.filter((epoch) => epoch.stage === last.stage).map((epoch) => epoch.top1));
    const share = (part) => ({ text: percent(part), value: part });
    return [name, methodOf(last), `${last.stage} ${last.epoch}/${last.epochs}`, last.mask, share(last.top1), share(best),
      { text: bytes(total), value: total }, { text: (last.relus / 1e3).toFixed(0), value: last.relus }];
  });
  return table(["run", "method", "stage", "gates", "top-1", "best", "bytes (estimate)", "k ReLU"], rows, "Training runs");
}

// Methods whose alphas are what they measured.
const DECIDE_AT_ONCE = ["dp", "deepreduce"];

// Bars in the order of the gates, by what became of them.
function importanceChart(parent, importances, mask) {
  const labels = importances.gates.map(({ gate }) => `gate ${gate}`);
  const state = (digit) => importances.gates.map(({ gate, loss_rise }) => (mask[gate] === digit ? loss_rise : null));
  const bars = (label, digit, name) => ({ label, data: state(digit), backgroundColor: color(name), stack: "gate" });
  chart(parent, 260, "importance", () => ({
    type: "bar",
    data: { labels, datasets: [bars("kept", "1", "--kept"), bars("removed", "0", "--fused")] },
    options: {
      plugins: { tooltip: { callbacks: { label: ({ raw }) => `loss rises by ${raw.toFixed(4)} without it` } } },
      scales: { y: { stacked: true, title: { display: true, text: "rise in loss without the gate" } }, x: { stacked: true, ticks: { maxRotation: 0, autoSkipPadding: 16 } } },
    },
  }));
}

function alphaChart(parent, epochs, labels) {
  const gates = epochs[0].alphas.length;
  const hue = (gate) => `hsl(${Math.round((300 * gate) / Math.max(1, gates - 1))} 60% 50%)`;
  chart(parent, 260, "alphas", () => ({
    type: "line",
    data: { labels, datasets: Array.from({ length: gates }, (_, gate) => ({
      label: `gate ${gate}`, data: epochs.map((epoch) => epoch.alphas[gate]), borderColor: hue(gate), backgroundColor: hue(gate), borderWidth: 1.5, pointRadius: epochs.length > 1 ? 0 : 3,
    })) },
    options: {
      plugins: { legend: { display: false }, tooltip: { itemSort: (a, b) => b.raw - a.raw } },
      interaction: { mode: "nearest", intersect: false },
      scales: { y: { suggestedMin: 0, suggestedMax: 1, title: { display: true, text: "alpha, one line a gate" } }, x: { ticks: { maxRotation: 0, autoSkipPadding: 16 } } },
    },
  }));
}

const { plans, trainings, networks } = content;
if (plans.length) plansSection(plans);
frontSection(plans, trainings);
if (plans.length) layersSection(plans);
if (networks.length) networksSection(networks);
if (trainings.length) trainingsSection(trainings);
