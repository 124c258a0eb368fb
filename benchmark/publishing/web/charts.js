"use strict";
// Charts as Vega-Lite specifications: functions of records and of the page's colours.
const charts = (() => {
  const FRONT = "datum.front", OTHER = "!datum.front";

  /* What a chart takes from the page: its colours and its type. */
  function theme() {
    const style = getComputedStyle(document.documentElement);
    const of = (name) => style.getPropertyValue(`--${name}`).trim();
    return {
      ink: of("ink"), muted: of("muted"), line: of("line"), strong: of("strong"), accent: of("accent"), mark: of("mark"),
      paper: of("paper"), font: of("sans"), dark: matchMedia("(prefers-color-scheme: dark)").matches,
    };
  }

  function config(look) {
    const axis = {
      labelColor: look.muted, titleColor: look.ink, gridColor: look.line, domainColor: look.strong, tickColor: look.strong,
      labelFontSize: 12, titleFontSize: 12, titleFontWeight: "normal", titlePadding: 8, gridOpacity: 0.7,
    };
    return { font: look.font, background: "transparent", view: { stroke: null }, axis, aria: false, text: { fontSize: 12, color: look.ink } };
  }

  function spec(look, parts) {
    return { config: config(look), width: "container", height: 340, autosize: { type: "fit-x", contains: "padding" }, ...parts };
  }

  const steps = (low, high) => { // 1, 2 and 5 times powers of ten, or the powers alone over many decades
    const powers = Array.from({ length: 40 }, (_, at) => 10 ** (at - 20)), factors = high / low > 2000 ? [1] : [1, 2, 5];
    return powers.flatMap((power) => factors.map((factor) => Number((factor * power).toPrecision(2)))).filter((at) => at >= low / 2 && at <= high * 2);
  };
  const some = (values) => values.length > 0;
  const ends = (values) => [Math.min(...values), Math.max(...values)];
  const range = (values, pad) => {
    const low = Math.min(...values), high = Math.max(...values), room = (high - low || 1) * pad;
    return [low - room, high + room];
  };

  function ceilingLayers(look, value, name = "ceiling") {
    if (value === null) return [];
    const data = { values: [{ value, text: `${name} ${value.toFixed(3)}` }] };
    const y = { field: "value", type: "quantitative" };
    return [
      { data, mark: { type: "rule", strokeDash: [5, 4], color: look.mark }, encoding: { y } },
      { data, mark: { type: "text", align: "left", baseline: "bottom", dx: 4, dy: -3, color: look.mark },
        encoding: { y, x: { value: 0 }, text: { field: "text" } } },
    ];
  }

  /* Labels beside marks where there is room for them: Vega's label transform, which Vega-Lite does not name. */
  function labelled(look, mark, avoid, anchor) {
    return (compiled) => {
      if (!compiled.marks.some((one) => one.name === mark)) return compiled;
      compiled.marks.push({
        type: "text", name: "labels", interactive: false, from: { data: mark },
        encode: { enter: { text: { field: "datum.name" }, fill: { value: look.accent }, fontSize: { value: 12 }, font: { value: look.font } } },
        transform: [{ type: "label", size: { signal: "[width, height]" }, anchor, offset: [5], avoidMarks: avoid, avoidBaseMark: true, padding: 0 }],
      });
      return compiled;
    };
  }

  /* Score against cost, of rows with both; the rows of the Pareto front joined and labelled. */
  function cost(look, table) {
    const rows = table.rows.filter((row) => row.complete && row.trusted && row.score[0] !== null && row.cost > 0);
    const values = rows.map((row) => ({
      name: row.name, front: row.front, cost: row.cost, score: row.score[0], low: row.score[1], high: row.score[2],
      shown: row.shown, group: row.group, relative: `${Number(row.cost.toPrecision(3))}`,
    }));
    const title = table.columns[0].title;
    const top = [...values.map((one) => one.score), 1, ...(table.ceiling === null ? [] : [table.ceiling])];
    const barred = values.filter((one) => one.low !== null);
    const truth = { data: { values: [{ cost: 1, score: 1, name: "exact retraining" }] } };
    const y = { field: "score", type: "quantitative", title: `${title} (1 is best)`, scale: { domain: range(top, 0.1), nice: false, zero: false } };
    const x = { field: "cost", type: "quantitative", title: "cost, relative to exact retraining (log scale)", scale: { type: "log", nice: false, padding: 48, domain: ends([...values.map((one) => one.cost), 1]) },
      axis: { format: "~g", labelOverlap: true, grid: false, values: steps(...ends([...values.map((one) => one.cost), 1])) } };
    const tooltip = [{ field: "name", title: "estimator" }, { field: "shown", title }, { field: "relative", title: "cost" }, { field: "group", title: "group" }];
    const front = values.filter((one) => one.front).sort((one, other) => one.cost - other.cost), others = values.filter((one) => !one.front);
    const point = { type: "point", filled: true, clip: true, cursor: "pointer" };
    const layer = [
      ...ceilingLayers(look, table.ceiling),
      { ...truth, name: "truth", mark: { type: "point", shape: "diamond", size: 90, color: look.mark, strokeWidth: 1.5, opacity: 1 }, encoding: { x, y } },
      { ...truth, mark: { type: "text", text: "exact retraining", dy: -13, color: look.mark }, encoding: { x, y } },
      some(front) && { data: { values: front }, mark: { type: "line", interpolate: "step-after", color: look.accent, strokeWidth: 1.25, opacity: 0.7, clip: true },
        encoding: { x, y } },
      some(barred) && { name: "bars", data: { values: barred }, mark: { type: "rule", clip: true, strokeWidth: 1 },
        encoding: { x, y: { ...y, field: "low" }, y2: { field: "high" },
          color: { condition: { test: FRONT, value: look.accent }, value: look.strong }, opacity: { condition: { test: FRONT, value: 0.8 }, value: 0.4 } } },
      some(others) && { name: "others", data: { values: others }, mark: { ...point, size: 42, color: look.muted, opacity: 0.75 }, encoding: { x, y, tooltip } },
      some(front) && { name: "chosen", data: { values: front }, mark: { ...point, size: 75, color: look.accent, opacity: 1 }, encoding: { x, y, tooltip } },
    ].filter(Boolean);
    const said = `Scatter plot of ${title} against cost, ${values.length} estimators. On the Pareto front, from cheap to dear: `
      + `${front.map((one) => `${one.name} (${one.shown}, cost ${one.relative})`).join("; ") || "none"}.`
      + (table.ceiling === null ? "" : ` The ceiling is ${table.ceiling.toFixed(3)}.`);
    return { empty: !values.length, said, spec: spec(look, { data: { values }, layer }),
      patch: labelled(look, "chosen_marks", ["truth_marks", ...(some(others) ? ["others_marks"] : []), ...(some(barred) ? ["bars_marks"] : [])],
        ["top-left", "left", "bottom-right", "right", "top-right", "bottom-left"]) };
  }

  /* Score at each horizon, a line for each estimator; those of the front in colour. */
  function horizons(look, record) {
    const rows = record.table.rows.filter((row) => row.trusted && record.details[row.name]?.curve.length);
    const front = new Set(rows.filter((row) => row.front).map((row) => row.name));
    const values = rows.flatMap((row) => record.details[row.name].curve.map(([horizon, score]) => ({ name: row.name, front: front.has(row.name), horizon, score })));
    const title = record.table.columns[0].title;
    const x = { field: "horizon", type: "quantitative", title: "horizon (epochs)", scale: { zero: false, nice: false, padding: 10, domain: ends(values.map((one) => one.horizon)) }, axis: { tickMinStep: 1, format: "d" } };
    const top = record.ceiling.filter(([, value]) => value !== null).map(([horizon, value]) => ({ horizon, value }));
    const y = { field: "score", type: "quantitative", title: `${title} (1 is best)`, scale: { domain: range([...values.map((one) => one.score), ...top.map((one) => one.value)], 0.08), zero: false, nice: false } };
    const last = values.length ? Math.max(...values.map((one) => one.horizon)) : 0;
    const tips = values.filter((one) => one.front && one.horizon === last);
    const lines = (filter, mark) => ({ transform: [{ filter }], mark: { type: "line", clip: true, ...mark }, encoding: { x, y, detail: { field: "name" } } });
    const layer = [
      some(top) && { name: "ceiling", data: { values: top }, mark: { type: "line", strokeDash: [5, 4], color: look.mark, clip: true }, encoding: { x, y: { ...y, field: "value" } } },
      { data: { values: top.slice(0, 1) }, mark: { type: "text", align: "left", dy: -9, text: "ceiling", color: look.mark }, encoding: { x, y: { ...y, field: "value" } } },
      lines(OTHER, { color: look.muted, strokeWidth: 1, opacity: 0.5 }),
      lines(FRONT, { color: look.accent, strokeWidth: 1.75, opacity: 0.9 }),
      { transform: [{ filter: { param: "hover", empty: false } }], mark: { type: "line", color: look.ink, strokeWidth: 2.5 }, encoding: { x, y, detail: { field: "name" } } },
      { name: "points", params: [{ name: "hover", select: { type: "point", fields: ["name"], on: "pointerover", clear: "pointerout" } }],
        mark: { type: "point", filled: true, size: 60, opacity: 0.01, cursor: "pointer", color: look.ink, clip: true },
        encoding: { x, y, tooltip: [{ field: "name", title: "estimator" }, { field: "horizon", title: "horizon" }, { field: "score", title, format: ".3f" }] } },
      some(tips) && { name: "ends", data: { values: tips }, mark: { type: "point", filled: true, size: 40, color: look.accent, opacity: 1 }, encoding: { x, y } },
    ].filter(Boolean);
    const curves = rows.filter((row) => row.front).map((row) => `${row.name} ${record.details[row.name].curve.map(([at, score]) => `${score.toFixed(3)} at ${at}`).join(", ")}`);
    const said = `Line chart of ${title} against horizon for ${rows.length} estimators. On the Pareto front: ${curves.join("; ") || "none"}.`;
    return { empty: !values.length, said, spec: spec(look, { data: { values }, layer, height: 340 }),
      patch: labelled(look, "ends_marks", some(top) ? ["ceiling_marks"] : [], ["top-left", "bottom-left", "left"]) };
  }

  /* Predicted against true effects of one estimator on one task. */
  function pairs(look, name, detail, shared) {
    const values = detail.pairs.flatMap(([seed, truth, guess]) => shared[truth].map((t, at) => ({ seed, true: t, predicted: guess[at] })))
      .filter((one) => one.true !== null && one.predicted !== null);
    const unit = detail.loss_units;
    const x = { field: "true", type: "quantitative", title: "true effect (its standard deviations)", scale: { zero: false, nice: false, padding: 12 }, axis: { tickCount: 7 } };
    const y = { field: "predicted", type: "quantitative", title: unit ? "estimate (same unit)" : "estimate (own unit; only the order counts)", scale: { zero: false, nice: false, padding: 12 } };
    const [low, high] = values.length ? range(values.map((one) => one.true), 0) : [0, 1];
    const identity = { data: { values: [{ at: low }, { at: high }] }, mark: { type: "line", strokeDash: [5, 4], color: look.mark },
      encoding: { x: { ...x, field: "at" }, y: { ...y, field: "at" } } };
    const dots = { name: "points", mark: { type: "point", filled: true, size: 34, opacity: 0.5, color: look.accent },
      encoding: { x, y, tooltip: [{ field: "seed" }, { field: "true", format: ".3f" }, { field: "predicted", title: "estimate", format: ".3f" }] } };
    const seeds = detail.pairs.length, spread = correlation(values);
    const said = `Scatter plot of ${values.length} pairs of sample and query from ${seeds} ${seeds === 1 ? "seed" : "seeds"}: estimates of ${name} against true effects`
      + `${spread === null ? "" : `; their correlation is ${spread.toFixed(3)}`}.${unit ? " On the dashed line both are equal." : ""}`;
    return { empty: !values.length, none: "No pairs were kept of this estimator.", said, spec: spec(look, { data: { values }, layer: unit ? [identity, dots] : [dots], height: 340 }) };
  }

  function correlation(values) {
    const mean = (key) => values.reduce((sum, one) => sum + one[key], 0) / values.length;
    const t = mean("true"), p = mean("predicted"), sum = (of) => values.reduce((total, one) => total + of(one), 0);
    const over = Math.sqrt(sum((one) => (one.true - t) ** 2) * sum((one) => (one.predicted - p) ** 2));
    return over > 0 ? sum((one) => (one.true - t) * (one.predicted - p)) / over : null;
  }

  /* Score of each estimator on each task; `room` is the width in pixels. */
  function heat(look, suite, room) {
    const rows = suite.table.rows.filter((row) => row.estimator).map((row) => row.name);
    const ceilings = suite.tasks.some((task) => task.ceiling !== null);
    const cells = suite.tasks.flatMap((task) => [
      ...(task.ceiling === null ? [] : [{ row: "(ceiling)", task: task.short, full: task.name, score: task.ceiling }]),
      ...rows.filter((name) => name in task.scores).map((name) => {
        const found = task.scores[name], known = typeof found === "number";
        return { row: name, task: task.short, full: task.name, score: known ? found : null, word: known ? "" : found };
      }),
    ]).map((one) => ({ ...one, said: one.score === null ? one.word || "not defined" : one.score.toFixed(3) }));
    const step = Math.max(17, Math.min(56, Math.floor((room - 190) / suite.tasks.length)));
    const across = { field: "task", type: "nominal", sort: null, title: null, axis: { orient: "top", labelAngle: -60, labelLimit: 230, domain: false, ticks: false } };
    const down = { field: "row", type: "nominal", sort: ceilings ? ["(ceiling)", ...rows] : rows, title: null, axis: { labelLimit: Math.min(170, 0.4 * room), domain: false, ticks: false } };
    const tooltip = [{ field: "row", title: "estimator" }, { field: "full", title: "task" }, { field: "said", title: suite.table.columns[0].title }];
    const colour = { field: "score", type: "quantitative", title: `${suite.table.columns[0].title}`, scale: { domain: [0, 1], clamp: true, interpolate: "rgb", range: look.dark ? ["#23282e", "#2f648f", "#b4dcf8"] : ["#eff2f5", "#8ab4d4", "#174b77"] },
      legend: { orient: "bottom", direction: "horizontal", gradientLength: 160, gradientThickness: 10, labelColor: look.muted, titleColor: look.ink, titleFontWeight: "normal", values: [0, 0.5, 1], offset: 8 } };
    const light = look.dark ? "datum.score < 0.68" : "datum.score > 0.62";
    const layer = [
      { transform: [{ filter: "isValid(datum.score)" }], mark: { type: "rect", cursor: "pointer", stroke: look.paper, strokeWidth: 1 }, encoding: { x: across, y: down, color: colour, tooltip } },
      { transform: [{ filter: "!isValid(datum.score)" }], mark: { type: "text", text: "\u00d7", color: look.mark, fontSize: 13 }, encoding: { x: across, y: down, tooltip } },
    ];
    if (step >= 38) layer.push({ transform: [{ filter: "isValid(datum.score)" }], mark: { type: "text", fontSize: 11, tooltip: false },
      encoding: { x: across, y: down, text: { field: "score", format: ".2f" }, color: { condition: { test: light, value: "#ffffff" }, value: "#15181b" } } });
    const best = suite.tasks.map((task) => {
      const known = Object.entries(task.scores).filter(([, score]) => typeof score === "number").sort((one, other) => other[1] - one[1]);
      return known.length ? `${task.short}: ${known[0][0]} (${known[0][1].toFixed(3)})` : `${task.short}: none`;
    });
    const said = `Heat map of ${rows.length} estimators on ${suite.tasks.length} tasks. The best on each: ${best.join("; ")}.`;
    return { empty: !cells.length, said, wide: true, canvas: cells.length > 800,
      spec: { config: { ...config(look), axis: { ...config(look).axis, grid: false } }, data: { values: cells }, width: { step }, height: { step: 19 }, layer } };
  }

  /* Draws a chart into an element; returns what frees it. */
  async function draw(at, chart, open) {
    const width = chart.spec.width === "container" ? Math.max(240, at.clientWidth) : chart.spec.width;
    const made = await vegaEmbed(at, { $schema: "https://vega.github.io/schema/vega-lite/v6.json", ...chart.spec, width }, {
      actions: false, renderer: chart.canvas ? "canvas" : "svg", patch: chart.patch, mode: "vega-lite", tooltip: { theme: "custom" },
    });
    if (open) made.view.addEventListener("click", (_, item) => item?.datum?.name ? open(item.datum.name) : item?.datum?.row && open(item.datum.row, item.datum.full));
    return made;
  }

  return { theme, cost, horizons, pairs, heat, draw };
})();
