"use strict";
// The page: what the address says is shown. #<suite or task> chooses a table, #<suite or task>/<estimator> opens a row of it.
const page = (() => {
  const $ = (id) => document.getElementById(id);
  let suites = []; // unpacked below
  const loaded = new Map(); // what a file has brought, by kind and name
  const waiting = new Map();
  const order = { key: null, up: false };
  let place = null; // { suite, task }: the table that is shown
  let turn = 0; // counts what was shown, so that late files and charts are dropped
  let drawn = [];

  const TERMS = {
    "group": "rows of one letter are a tie: none is told from the best of them",
    "behind": "the paired difference from the best row, with its 95 % interval",
    "tau": "Kendall's tau-b against the true effects at the last horizon; in brackets its 95 % interval",
    "LDS": "linear datamodeling score: Spearman's correlation over subsets",
    "cos": "cosine between estimates and effects, the mean over all lengths of further training",
    "cos first": "the same at the shortest length", "cos last": "the same at the longest length",
    "of ceiling": "the score over the ceiling of the same truth: what an exact shift of the parameters, read off to first order, would score",
    "rho": "Spearman's correlation with the true effects", "RMSE/sd": "root mean squared error over the standard deviation of the true effects, the median over seeds and tasks",
    "J10": "overlap of the 5 % most harmful and 5 % most helpful samples",
    "cost": "wall time over that of exact retraining on the same machine and thread", "grad": "per-sample gradients over those of exact retraining",
    "hvp": "Hessian products over the gradients of exact retraining", "MB": "most memory at once beyond what was there before, where measured",
    "AUROC": "wrong labels found by the lowest effects", "AP": "average precision of the same", "self AUROC": "wrong labels found by the effect on a sample's own loss",
    "cleansed loss": "change of the test loss without the most harmful samples; lower is better", "cleansed error": "the same of the test error",
    "fresh loss": "as cleansed, from other starts in other orders; lower is better", "fresh error": "the same of the test error",
    "coreset loss": "test loss with the most helpful samples alone; lower is better",
    "del random": "agreement with deleting random groups", "del clustered": "agreement with deleting clustered groups",
    "Pareto": "on the front: told from chance, and no other row is as accurate and as cheap, and better in one", "tasks": "tasks with all seeds scored, of all there are",
    "seeds": "independent repetitions: own split, initial parameters, order and queries",
    "by": "who computed the row; of one that was sent, its submitter, and who verified it",
    "marks": "interpretation: our reading of a method known only second-hand; unsupported: the method declares that it does not answer such a task, or asks for states that a task of the final model does not show; diverged: RMSE/sd above 100; not converged: a solver fell short; other words are failures; verified: sent by its submitter and computed again; unverified: not, so that it stands below and is compared with nothing",
  };
  const PLAIN = new Set(["exact", "interpretation", "unsupported", "not converged"]); // marks that are no failures
  const plainly = (mark) => PLAIN.has(mark) || mark.startsWith("verified");

  function el(tag, props = {}, ...children) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(props)) {
      if (name in made && name !== "list") made[name] = value;
      else if (value !== null && value !== undefined) made.setAttribute(name, value);
    }
    made.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== ""));
    return made;
  }

  // ---- addresses
  const address = (name, row) => `#${encodeURIComponent(name)}${row === undefined ? "" : `/${encodeURIComponent(row).replaceAll("%2F", "/")}`}`;
  const here = () => (place.task ?? place.suite).name;

  function wanted() {
    const raw = location.hash.slice(1), cut = raw.indexOf("/");
    const plain = (part) => { try { return decodeURIComponent(part); } catch { return part; } };
    return { name: plain(cut < 0 ? raw : raw.slice(0, cut)), row: cut < 0 ? null : plain(raw.slice(cut + 1)) };
  }

  function placeOf(name) {
    for (const suite of suites) if (suite.name === name) return { suite, task: null };
    for (const suite of suites) for (const task of suite.chosen ? [] : suite.tasks) if (task.name === name) return { suite, task };
    return null;
  }

  // ---- files
  function take(kind, name, packed) {
    loaded.set(`${kind}/${name}`, unpack(packed).then(parsed));
  }

  function library(packed) {
    loaded.set("library", unpack(packed));
  }

  async function unpack(packed) { // base64 of deflated text
    if (typeof DecompressionStream === "undefined") throw new Error("This browser is too old to unpack the tables of this page.");
    const bytes = Uint8Array.from(atob(packed), (letter) => letter.charCodeAt(0));
    return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"))).text();
  }

  function parsed(text) { // without a prototype, so that a row named constructor is there only where it is
    const named = (value) => value && typeof value === "object" && !Array.isArray(value);
    return JSON.parse(text, (_, value) => (named(value) ? Object.assign(Object.create(null), value) : value));
  }

  function script(file) {
    if (!waiting.has(file)) {
      waiting.set(file, new Promise((done, failed) => {
        const made = el("script", { src: file, async: true });
        made.onload = done;
        made.onerror = () => { waiting.delete(file); failed(new Error(`${file} could not be read: keep the folder data beside this page`)); };
        document.head.append(made);
      }));
    }
    return waiting.get(file);
  }

  async function record(kind, one) {
    const key = `${kind}/${one.name}`;
    if (!loaded.has(key)) await script(one.file);
    loaded.set(key, await loaded.get(key));
    return loaded.get(key);
  }

  async function vega() { // as a script of its own, which is all that a page from disk may run
    await script("data/vega.js");
    const code = await loaded.get("library");
    if (typeof vegaEmbed === "undefined") document.head.append(el("script", { textContent: code }));
  }

  const current = async () => (place.task ? { ...(await record("task", place.task)) } : { ...(await record("suite", place.suite)), table: place.suite.table });

  // ---- the table
  function columns(table) {
    const [first, ...others] = table.columns;
    const number = (title, value, cell, more = {}) => ({ title, value, cell, ...more });
    return [
      number("group", (row) => row.number, (row) => row.group, { up: true, words: true }),
      number("estimator", (row) => row.name.toLowerCase(), null, { up: true, words: true }),
      number(first.title, (row) => row.score[0], (row) => (row.partly ? el("span", { className: "within" }, row.partly) : interval(row.shown, "score"))),
      number("behind", (row) => row.behind && row.behind[0], (row) => (row.number === 1 && row.behind && row.behind[0] === 0 ? "best" : interval(row.behind_shown)), { up: true }),
      ...others.map((column, at) => number(column.title, (row) => row.values[at], (row) => row.texts[at], { up: lowerIsBetter(column.title) })),
      number("Pareto", (row) => (row.front ? 1 : null), (row) => (row.front ? el("span", { className: "tag front" }, "front") : ""), { words: true }),
      number("tasks", (row) => row.done, (row) => `${row.done}/${row.tasks}`),
      number("seeds", (row) => row.seeds[0] || null, (row) => seeds(row.seeds)),
      number("by", (row) => row.by.toLowerCase() || null, (row) => row.by, { up: true, words: true }),
      number("marks", (row) => row.marks.join(" ") || null, (row) => row.marks.map(tag), { up: true, words: true }),
    ];
  }

  const lowerIsBetter = (title) => /^(cost|grad|hvp|MB|RMSE\/sd|cleansed|fresh|coreset)/.test(title);
  const seeds = ([least, most]) => (most === 0 ? "" : least === most ? `${most}` : `${least} to ${most}`);
  const tag = (mark) => el("span", { className: `tag${plainly(mark) ? "" : " failure"}` }, mark);

  function interval(shown, kind = "") {
    const [, mean, rest] = /^(\S*)\s*(.*)$/.exec(shown);
    return shown ? [el("span", { className: kind }, mean), rest ? el("span", { className: "within" }, ` ${rest}`) : ""] : "";
  }

  function head(shown) {
    return el("tr", {}, shown.map((column) => {
      const button = el("button", { type: "button", title: TERMS[column.title] ?? "" }, column.title);
      button.addEventListener("click", () => sortBy(column));
      const cell = el("th", { scope: "col", className: `${column.words ? "words" : ""}${column.title === "estimator" ? " name" : ""}` }, button);
      if (order.key === column.title) cell.setAttribute("aria-sort", order.up ? "ascending" : "descending");
      return cell;
    }));
  }

  function sortBy(column) {
    if (order.key === column.title) order.up = !order.up;
    else Object.assign(order, { key: column.title, up: Boolean(column.up) });
    rows();
    for (const button of $("board").tHead.querySelectorAll("button")) if (button.textContent === column.title) button.focus();
  }

  function sorted(table, shown) {
    const column = shown.find((one) => one.title === order.key);
    if (!column) return table.rows;
    const compare = (one, other) => (typeof one === "string" ? one.localeCompare(other) : one - other) * (order.up ? 1 : -1);
    const keyed = table.rows.map((row) => [column.value(row), row]);
    const empty = ([value]) => value === null || value === undefined;
    return [...keyed.filter((pair) => !empty(pair)).sort(([one], [other]) => compare(one, other)), ...keyed.filter(empty)].map(([, row]) => row);
  }

  function passes(row) {
    const words = $("text").value.toLowerCase().split(/\s+/).filter(Boolean);
    const said = `${row.name} ${row.group && `group ${row.group}`} ${row.by} ${row.marks.join(" ")} ${row.front ? "front pareto" : ""}`.toLowerCase();
    return words.every((word) => said.includes(word)) && (!$("complete").checked || row.complete) && (!$("front").checked || row.front);
  }

  function line(row, shown, above) {
    const made = el("tr", { className: `${order.key === null && above && above.number !== row.number ? "head" : ""}${row.estimator && !(row.complete && row.trusted) ? " partial" : ""}${row.own ? " own" : ""}` });
    made.dataset.name = row.name;
    made.append(...shown.map((column) => {
      if (column.title !== "estimator") return el("td", { className: column.words ? "words" : "" }, column.cell(row));
      return el("th", { scope: "row", title: row.name }, row.estimator ? el("a", { href: address(here(), row.name), "aria-haspopup": "dialog" }, row.name) : row.name);
    }));
    return made;
  }

  function rows() {
    const table = $("board").records;
    if (!table) return;
    const shown = columns(table), found = sorted(table, shown).filter(passes);
    $("board").tHead.replaceChildren(head(shown));
    const nothing = el("tr", {}, el("td", { className: "empty", colSpan: shown.length }, "No row passes these filters."));
    $("board").tBodies[0].replaceChildren(...(found.length ? found.map((row, at) => line(row, shown, found[at - 1])) : [nothing]));
    $("count").textContent = `${found.length} of ${table.rows.length} rows`;
  }

  // ---- what is around the table
  function around() {
    const { suite, task } = place;
    $("suites").replaceChildren(...suites.map((one) => el("a", { href: address(one.name), "aria-current": one === suite ? "page" : null }, one.name)));
    $("heading").textContent = task ? task.name : `Suite ${suite.title}`;
    const made = task ? "" : ` ${suite.tasks.length} ${suite.tasks.length === 1 ? "task" : "tasks"}, digest ${suite.digest.slice(0, 12)}; protocol ${suite.protocol}.`;
    $("about").textContent = `${suite.about}${made}`;
    $("caption").textContent = `${task ? task.name : `Suite ${suite.title}`}: estimators, the best first; those that lack a task stand below, those not verified last.`;
    const options = [el("option", { value: suite.name }, `the whole suite (${suite.tasks.length} tasks)`), ...suite.tasks.map((one) => el("option", { value: one.name }, one.name))];
    $("task").replaceChildren(...options);
    $("task").selectedIndex = task ? suite.tasks.indexOf(task) + 1 : 0;
    const known = $("board").records?.columns.map((column) => column.title) ?? [];
    const terms = ["group", ...known.slice(0, 1), "behind", ...known.slice(1), "Pareto", "tasks", "seeds", "by", "marks"];
    $("terms").replaceChildren(...terms.filter((term) => TERMS[term]).map((term) => el("div", {}, el("dt", {}, term), el("dd", {}, TERMS[term]))));
  }

  function plain(titles, lines, caption) {
    const header = el("tr", {}, titles.map((title, at) => el("th", { scope: "col", className: at ? "" : "words" }, title)));
    const body = lines.map(([name, ...cells]) => el("tr", {}, el("th", { scope: "row" }, name), cells.map((cell) => el("td", {}, cell))));
    const table = el("table", {}, el("caption", {}, caption), el("thead", {}, header), el("tbody", {}, body));
    return el("div", { className: "scroll", role: "region", tabIndex: 0, "aria-label": caption }, table);
  }

  function limits() {
    const { suite, task } = place, tasks = task ? [task] : suite.tasks;
    const titles = [...new Set(tasks.flatMap((one) => one.limits.map(([title]) => title)))];
    if (!titles.length) return $("limits").replaceChildren();
    const lines = tasks.map((one) => [task ? one.name : one.short, ...titles.map((title) => new Map(one.limits).get(title) ?? "")]);
    const text = "The ceiling is what an estimator can hope for; the other columns say what the truth itself depends on. Means over seeds at the last horizon.";
    $("limits").replaceChildren(el("h3", { id: "limits-heading" }, task ? "Limits of this task" : "Limits of each task"), el("p", { className: "about" }, text),
      plain(["task", ...titles], lines, "Limits"));
  }

  // ---- charts
  function figure(title, note, extra = []) {
    const chart = el("div", { className: "chart waiting", role: "img", "aria-label": title });
    const caption = el("figcaption", {}, el("h3", {}, title), note);
    return { whole: el("figure", {}, caption, extra, chart), chart };
  }

  function panels() {
    const { suite, task } = place, title = $("board").records.columns[0].title;
    const cost = figure("Accuracy against cost", `A point is an estimator with all tasks; its bar the 95 % interval. Named: the Pareto front, joined by the line. Dashed: the ceiling. Point at one for its name.`);
    cost.make = (look) => charts.cost(look, $("board").records);
    cost.whole.classList.add("wide");
    if (!task) {
      const heat = figure(`${title} on each task`, "Estimators in the order of the table; \u00d7 marks a failure, a task that is not supported, or a score that is not verified. Scores below 0 have the colour of 0.");
      heat.whole.classList.add("wide");
      heat.chart.classList.add("scrolled");
      heat.make = (look) => charts.heat(look, suite, heat.chart.clientWidth);
      heat.whole.append(asTable(suite));
      return [cost, heat];
    }
    const horizons = figure("Score against horizon", "A line is an estimator; named and in colour: the Pareto front. Dashed: the ceiling. Point at a line for its name.");
    horizons.make = (look) => charts.horizons(look, loaded.get(`task/${task.name}`));
    const names = $("board").records.rows.filter((row) => row.estimator).map((row) => row.name);
    const choice = el("select", {}, names.map((name) => el("option", { value: name }, name)));
    const scatter = figure("Estimates against true effects", "A point is a sample and a query. Unit: standard deviation of the true effects.",
      [el("div", { className: "figure-bar" }, el("label", { className: "field" }, el("span", {}, "Estimator"), choice))]);
    scatter.make = (look) => { const one = loaded.get(`task/${task.name}`); return charts.pairs(look, choice.value, one.details[choice.value], one.shared); };
    choice.addEventListener("change", () => put(scatter, turn));
    scatter.quiet = true;
    return names.length ? [cost, horizons, scatter] : [cost];
  }

  function asTable(suite) {
    const details = el("details", {}, el("summary", {}, "The same as a table"));
    details.addEventListener("toggle", () => {
      if (details.childElementCount > 1) return;
      const names = suite.table.rows.filter((row) => row.estimator).map((row) => row.name);
      const cell = (found) => (typeof found === "number" ? found.toFixed(3) : found ?? "");
      const lines = names.map((name) => [name, ...suite.tasks.map((task) => cell(task.scores[name]))]);
      details.append(plain(["estimator", ...suite.tasks.map((task) => task.short)], [...lines, ["(ceiling)", ...suite.tasks.map((task) => cell(task.ceiling))]], "Scores on each task"));
    });
    return details;
  }

  async function put(panel, of) {
    const chart = panel.make(charts.theme());
    panel.chart.setAttribute("aria-label", chart.said);
    panel.drawn?.finalize();
    panel.chart.classList.remove("waiting");
    if (chart.empty) return panel.chart.replaceChildren(el("p", { className: "about" }, chart.none ?? "Nothing is known to draw here."));
    const open = panel.quiet ? null : (name, task) => { location.hash = address(task ?? here(), name === "(ceiling)" ? undefined : name); };
    const inside = el("div"); // the library gives the element it draws in a role of its own
    panel.chart.replaceChildren(inside);
    panel.drawn = await charts.draw(inside, chart, open);
    panel.chart.setAttribute("aria-label", chart.said); // the library has put its own there
    if (of !== turn && panel.lasting !== true) panel.drawn.finalize();
  }

  async function drawAll() {
    const mine = turn;
    for (const panel of drawn) panel.drawn?.finalize();
    drawn = panels();
    $("charts").replaceChildren(...drawn.map((panel) => panel.whole));
    await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
    try {
      await vega();
      for (const panel of drawn) if (mine === turn) await put(panel, mine);
    } catch (error) {
      for (const panel of drawn) if (panel.chart.classList.contains("waiting")) { panel.chart.classList.remove("waiting"); panel.chart.textContent = error.message; }
    }
    if (mine === turn) document.documentElement.dataset.drawn = here();
  }

  // ---- a row
  const dialog = $("row");

  function pairsOf(entries, className = "") {
    const said = entries.filter(([, value]) => value !== null && value !== undefined && value !== "" && value.length !== 0);
    return el("dl", { className }, said.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value))));
  }

  const code = (value) => el("code", {}, value);
  const section = (title, ...children) => el("section", {}, el("h3", {}, title), ...children);
  const lines = (values) => values.map((value, at) => [at ? el("br") : "", code(value)]).flat();

  function settings(all) {
    const shown = (one) => Object.entries(one).map(([name, value]) => [name, code(typeof value === "string" ? value : JSON.stringify(value))]);
    return all.map((one) => (Object.keys(one).length ? pairsOf(shown(one)) : el("p", {}, "It has no settings.")));
  }

  function figures(row, table) {
    const [first, ...others] = table.columns;
    return pairsOf([[first.title, row.partly || row.shown], ["group", row.group], ["behind the best", row.behind_shown], ["p of no difference", row.p],
      ...others.map((column, at) => [column.title, row.texts[at]]), ["Pareto front", row.front ? "yes" : "no"], ["tasks", `${row.done}/${row.tasks}`], ["seeds", seeds(row.seeds)], ["by", row.by], ["marks", row.marks.map(tag)]], "figures");
  }

  function provenance(one, shared) {
    const { command, commit, loobench, device, ...versions } = one;
    return pairsOf([["command", command && code(command)], ["commit", commit && code(commit)], ["loobench", loobench], ["device", device],
      ...Object.entries(versions).map(([name, value]) => [name, typeof value === "string" ? value : JSON.stringify(value)])]);
  }

  function claims(detail) { // of each task that somebody sent results of
    const figure = (value) => (value === null ? "none" : String(Number(value.toPrecision(4))));
    const one = ({ task, trusted, verdict, claimed, verified }) => [
      ["result", trusted ? "verified" : verified ? `unverified: ${verdict}` : "unverified"],
      ["claimed", figure(claimed.value)], ["claimed by", claimed.by], ["claimed when", claimed.when], ["claimed on", claimed.environment],
      ...(verified ? [["verdict", verified.verdict], ["computed again", figure(verified.value)], ["on fresh seeds", figure(verified.fresh)],
        ["largest difference", figure(verified.largest_difference)], ["seeds computed again", verified.seeds.join(", ")], ["nonce", code(verified.nonce)],
        ["verified by", verified.by], ["verified when", verified.when], ["verified on", verified.environment]] : []),
    ].map(([name, value]) => [detail.tasks ? `${task}, ${name}` : name, value]);
    return detail.claims.length ? [section("Claim and verification", pairsOf(detail.claims.flatMap(one)))] : [];
  }

  function failed(detail) { // seeds that ended alike share a line
    const all = new Map();
    for (const [task, failures] of detail.tasks ?? [["", detail.failures]]) {
      for (const [seed, status, message] of failures) {
        const key = JSON.stringify([task, status, message]);
        all.set(key, [...(all.get(key) ?? []), seed]);
      }
    }
    const said = [...all].map(([key, some]) => {
      const [task, status, message] = JSON.parse(key);
      return [`${task}${task && ", "}${some.length === 1 ? "seed" : "seeds"} ${some.join(", ")}`, [tag(status), message]];
    });
    return said.length ? [section("What did not end well", pairsOf(said))] : [];
  }

  function bySeed(detail, shared) {
    const short = (at) => el("code", { title: shared[at] }, String(shared[at]).slice(0, 12));
    const lines = detail.seeds.map(([seed, status, score, cost, memory, ...digests]) => [seed, status, score === null ? "" : score.toFixed(3),
      cost === null ? "" : cost.toPrecision(3), memory === null ? "" : memory.toFixed(0), ...digests.map(short)]);
    return section("Seeds", plain(["seed", "status", "score", "cost", "MB", "problem", "trajectory", "truth", "estimate"], lines, "Digests by seed; the results file has them whole"));
  }

  function byTask(detail) {
    const suite = place.suite, name = dialog.dataset.name;
    const scores = new Map(suite.tasks.map((task) => [task.name, task.scores[name]]));
    const lines = detail.tasks.map(([task]) => [el("a", { href: address(task, name) }, task), typeof scores.get(task) === "number" ? scores.get(task).toFixed(3) : scores.get(task) ?? ""]);
    return section("Tasks", plain(["task", "score"], lines, "A task's own row has its results file"));
  }

  function cited(row, table, detail, shared) { // pieces that rows share, with what is the row's own put back
    const own = [detail.digest, detail.digest.slice(0, 12), row.name, table.name];
    return detail.cite.map((piece) => shared[piece].replace(/[\x01-\x04]/g, (mark) => own[mark.charCodeAt(0) - 1])).join("");
  }

  function citation(text) {
    const block = el("pre", { tabIndex: 0, "aria-label": "BibTeX" }, text), said = el("span", { className: "said", role: "status" });
    const button = el("button", { type: "button", className: "plain" }, "Copy BibTeX");
    button.addEventListener("click", async () => {
      said.textContent = "";
      const done = await copy(text);
      if (!done) getSelection().selectAllChildren(block);
      said.textContent = done ? "Copied." : "The browser does not allow it: the text is marked, copy it by hand.";
    });
    return section("Citation", block, button, said);
  }

  async function copy(text) {
    try {
      await navigator.clipboard.writeText(text);
      return true;
    } catch { // no clipboard for pages from disk
      const area = el("textarea", { value: text, className: "offscreen", readOnly: true, tabIndex: -1 }), focused = document.activeElement;
      (dialog.open ? dialog : document.body).append(area);
      area.select();
      let done = false;
      try { done = document.execCommand("copy"); } catch { done = false; }
      area.remove();
      focused?.focus();
      return done;
    }
  }

  function body(row, table, detail, shared, chart) {
    const files = [detail.source && el("a", { href: detail.source }, "source"), detail.link && el("a", { href: detail.link }, "results file")].filter(Boolean);
    const digests = [["row", [detail.digest]], [place.task ? "task" : "tasks of the suite", [place.task ? detail.task_digest : place.suite.digest]],
      ...["source and settings", "source"].map((what, at) => [what, detail.digests[at].map((one) => shared[one])])];
    return [
      section("Figures", figures(row, table)),
      ...claims(detail),
      ...failed(detail),
      ...(chart ? [chart.whole] : []),
      section("Estimator", pairsOf([["paper", shared[detail.paper]], ["tuned on", detail.tuned_on], ["in units of loss", detail.loss_units ? "yes" : "no: only the order counts"], ["files", files.flatMap((one, at) => [at ? ", " : "", one])]])),
      section("Settings", ...settings(detail.settings)),
      detail.tasks ? byTask(detail) : bySeed(detail, shared),
      section("Provenance", ...detail.provenance.map((at) => provenance(shared[at]))),
      section("Digests", pairsOf(digests.map(([name, values]) => [name, lines(values)]))),
      citation(cited(row, table, detail, shared)),
    ];
  }

  async function open(name) {
    const mine = turn, found = await current(), row = found.table.rows.find((one) => one.name === name), detail = found.details[name];
    if (mine !== turn) return;
    if (!detail) return note(`There is no row ${name} in ${here()}.`);
    dialog.dataset.name = name;
    const close = el("button", { type: "button", className: "plain" }, "Close");
    close.addEventListener("click", () => dialog.close());
    const chart = place.task && detail.pairs.length ? figure("Estimates against true effects", "Unit: standard deviation of the true effects.") : null;
    dialog.replaceChildren(el("header", {}, el("div", {}, el("h2", { id: "row-name" }, name), el("p", {}, place.task ? place.task.name : `Suite ${place.suite.title}`)), close),
      el("div", { className: "body" }, ...body(row, found.table, detail, found.shared, chart)));
    if (!dialog.open) dialog.showModal();
    dialog.scrollTop = 0;
    if (!chart) return;
    await vega();
    await put({ ...chart, quiet: true, lasting: true, make: (look) => charts.pairs(look, name, detail, found.shared) }, mine);
  }

  function note(text) {
    $("count").textContent = text;
  }

  dialog.addEventListener("close", () => {
    const name = dialog.dataset.name;
    if (wanted().row !== null) history.replaceState(null, "", address(here()));
    [...$("board").tBodies[0].rows].find((row) => row.dataset.name === name)?.querySelector("a")?.focus();
  });
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());

  // ---- from the address to the page
  async function show() {
    const asked = wanted(), found = placeOf(asked.name) ?? (place || { suite: suites[0], task: null });
    const moved = !place || found.suite !== place.suite || found.task !== place.task;
    if (moved) await move(found);
    if (asked.row === null) dialog.open && dialog.close();
    else await open(asked.row);
    if (!placeOf(asked.name) && asked.name) note(`There is no suite or task ${asked.name}.`);
  }

  async function move(found) {
    const mine = ++turn;
    place = found;
    order.key = null;
    delete document.documentElement.dataset.drawn;
    try {
      $("board").records = found.task ? (await record("task", found.task)).table : found.suite.table;
    } catch (error) {
      return note(error.message);
    }
    if (mine !== turn) return;
    around();
    rows();
    limits();
    performance.mark("table");
    drawAll();
  }

  $("task").addEventListener("change", (event) => { location.hash = address(event.target.value); });
  for (const id of ["text", "complete", "front"]) $(id).addEventListener("input", rows);
  $("controls").addEventListener("submit", (event) => event.preventDefault());
  $("board").addEventListener("click", (event) => {
    const row = event.target.closest("tbody tr");
    if (row && !event.target.closest("a") && !getSelection().toString()) row.querySelector("a")?.click();
  });
  addEventListener("hashchange", show);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    drawAll();
    if (dialog.open) open(dialog.dataset.name);
  });
  let width = innerWidth, later = 0;
  addEventListener("resize", () => { // charts have the width they were drawn for; a phone's keyboard changes the height alone
    clearTimeout(later);
    later = setTimeout(() => { if (innerWidth !== width) { width = innerWidth; drawAll(); } }, 200);
  });
  unpack($("records").textContent).then((text) => { suites = parsed(text).suites; return show(); }).catch((error) => note(error.message));
  return { take, library };
})();
