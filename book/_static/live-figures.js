/* Figures that answer to sliders (bncourse.plots.interactive). Only pages that hold one load this file and Plotly.

   The picture that Matplotlib drew stays in the page; this script puts a chart with sliders in its place. Nothing is
   fetched, nothing moves by itself, and all text goes in as text, never as HTML. */
(function () {
  "use strict";

  /* ---- The closed forms, as in bncourse.averages; the tests compare the two. ---- */

  const startShare = (momentum, steps) => momentum ** steps;

  /** Weight of each of the last `steps` values, by age: the newest first. */
  const weights = (momentum, steps) =>
    Array.from({ length: steps }, (_, age) => (1 - momentum) * momentum ** age);

  const effectiveWindow = (momentum) => (1 + momentum) / (1 - momentum);
  const meanAge = (momentum) => momentum / (1 - momentum);

  /** First number of updates after which the start's share is at most `share`. */
  function stepsUntil(share, momentum) {
    if (momentum <= share) return 1;
    const steps = Math.round(Math.log(share) / Math.log(momentum));
    return startShare(momentum, steps) <= share ? steps : steps + 1;
  }

  /** The moving average after each of the values, from the start value 0. */
  function run(values, momentum) {
    let average = 0;
    return values.map((value) => (average = momentum * average + (1 - momentum) * value));
  }

  /** The same averages without the share of the start. */
  const biasCorrected = (averages, momentum) =>
    averages.map((average, step) => average / (1 - startShare(momentum, step + 1)));

  /** What the batches would say without noise: 1, a drift, and a jump half-way. */
  const truth = (steps, jump, drift) =>
    Array.from({ length: steps }, (_, step) => 1 + drift * step + (step >= steps / 2 ? jump : 0));

  /** What they do say: the standard deviation of one sample is 1. */
  const batchMeans = (level, noise, batchSize) =>
    level.map((value, step) => value + noise[step] / Math.sqrt(batchSize));

  const maths = {
    startShare, weights, effectiveWindow, meanAge, stepsUntil, run, biasCorrected, truth, batchMeans,
  };
  if (typeof module !== "undefined" && module.exports) {
    module.exports = maths;
    return;
  }

  /* ---- What each chart shows for given positions of its sliders. ---- */

  const plural = (count, word) => `${count.toLocaleString("en")} ${word}${count === 1 ? "" : "s"}`;
  const percent = (share) => `${(100 * share).toFixed(1)} %`;
  const rounded = (number) => (number >= 10 ? Math.round(number).toLocaleString("en") : number.toFixed(1));

  const charts = {
    weights({ momentum, steps }) {
      const share = startShare(momentum, steps);
      const each = weights(momentum, steps);
      const ages = each.map((_, age) => age);
      const window = effectiveWindow(momentum);
      const level = 100 / window;
      return {
        lines: [
          { name: "moving average", x: ages, y: each.map((weight) => 100 * weight), look: 0 },
          { name: "bias-corrected", x: ages, y: each.map((weight) => (100 * weight) / (1 - share)), look: 1 },
          { name: "plain mean, as quiet and as late", look: 2,
            x: [-0.5, -0.5, window - 0.5, window - 0.5], y: [0, level, level, 0] },
        ],
        x: { title: "batches ago", range: [-1, 1.02 * Math.max(steps, window)] },
        y: { title: "weight (%)" },
        text: `The start still weighs ${percent(share)}. A batch counts half as much as the newest after ` +
          `${plural(stepsUntil(0.5, momentum), "step")}. Mean age ${rounded(meanAge(momentum))} steps; ` +
          `as quiet as a plain mean of ${rounded(window)} batches.`,
      };
    },

    response({ momentum, batch_size: batchSize, jump, drift }, noise) {
      const level = truth(noise.length, jump, drift);
      const means = batchMeans(level, noise, batchSize);
      const average = run(means, momentum);
      const batches = noise.map((_, step) => step + 1);
      const wobble = Math.sqrt(1 / effectiveWindow(momentum) / batchSize);
      return {
        lines: [
          { name: "batch means", x: batches, y: means, look: "dots" },
          { name: "truth", x: batches, y: level, look: "truth" },
          { name: "moving average", x: batches, y: average, look: 0 },
          { name: "bias-corrected", x: batches, y: biasCorrected(average, momentum), look: 1 },
        ],
        x: { title: "batches seen", range: [0, noise.length] },
        y: { title: "mean of the channel" },
        text: `90 % of a jump is seen after ${plural(stepsUntil(0.1, momentum), "step")}. ` +
          `Behind the drift by ${(drift * meanAge(momentum)).toFixed(2)} in the end. ` +
          `Noise of one batch ${(1 / Math.sqrt(batchSize)).toFixed(2)}, of the average ${wobble.toFixed(3)}.`,
      };
    },
  };

  /* ---- Drawing. Lines differ in dashes, too; the colours are those of bncourse.plots, lighter on a dark page. ---- */

  const dashes = ["solid", "dash", "dot"];
  const palettes = {
    light: { lines: ["#0072B2", "#D55E00", "#009E73"], dots: "#767676", ink: "#1f2328", grid: "#dddddd" },
    dark: { lines: ["#56B4E9", "#E69F00", "#2fc79b"], dots: "#9a9a9a", ink: "#e6e6e6", grid: "#444444" },
  };

  function trace({ name, x, y, look }, palette) {
    const common = { name, x, y, hoverinfo: "x+y+name" };
    if (look === "dots") return { ...common, mode: "markers", marker: { size: 3, color: palette.dots } };
    if (look === "truth") return { ...common, mode: "lines", line: { color: palette.ink, width: 1.5, dash: "dashdot" } };
    return { ...common, mode: "lines", line: { color: palette.lines[look], width: 2.5, dash: dashes[look] } };
  }

  function axis({ title, range }, palette) {
    const colours = { color: palette.ink, gridcolor: palette.grid, zerolinecolor: palette.grid };
    return { title: { text: title }, range, fixedrange: true, automargin: true, ...colours };
  }

  function draw(place, shown) {
    const palette = palettes[document.documentElement.dataset.theme === "dark" ? "dark" : "light"];
    const layout = {
      height: 380,
      margin: { l: 10, r: 10, t: 10, b: 10 },
      dragmode: false,
      font: { color: palette.ink, size: 13 },
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0 },
      xaxis: axis(shown.x, palette),
      yaxis: axis(shown.y, palette),
    };
    const lines = shown.lines.map((line) => trace(line, palette));
    return Plotly.react(place, lines, layout, { displayModeBar: false, responsive: true });
  }

  /* ---- The panel: sliders, chart, one sentence with the figures. ---- */

  function element(name, attributes = {}, text = "") {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.textContent = text;
    return made;
  }

  /** Return a labelled slider over a list of values. */
  function control(slider, id, onInput) {
    const row = element("div", { class: "bn-live-slider" });
    const input = element("input", {
      type: "range", id, min: 0, max: slider.values.length - 1, step: 1,
    });
    const output = element("output", { for: id });
    input.value = slider.values.indexOf(slider.start);
    const show = () => {
      const text = String(slider.values[input.value]);
      output.textContent = text;
      input.setAttribute("aria-valuetext", text);
    };
    input.addEventListener("input", () => { show(); onInput(); });
    show();
    row.append(element("label", { for: id }, slider.label), input, output);
    return { row, value: () => slider.values[input.value] };
  }

  function build(holder) {
    const known = JSON.parse(holder.dataset.live);
    const figure = document.getElementById(known.figure);
    const picture = figure.querySelector("img");
    const panel = element("div", { class: "bn-live-panel" });
    const chart = element("div", { role: "img", "aria-label": known.label });
    const sentence = element("p", { "aria-live": "polite" });

    const shown = () => {
      const positions = known.sliders.map((slider, place) => [slider.name, controls[place].value()]);
      return charts[known.chart](Object.fromEntries(positions), known.noise);
    };
    const update = () => {
      const now = shown();
      sentence.textContent = now.text;
      return draw(chart, now);
    };
    const controls = known.sliders.map((slider) =>
      control(slider, `${known.figure}-${slider.name}`, update));

    panel.append(...controls.map(({ row }) => row), chart, sentence);
    picture.before(panel);
    picture.style.display = "none";
    const watch = new MutationObserver(update);
    watch.observe(document.documentElement, { attributeFilter: ["data-theme"] });
    return update().catch((error) => {
      watch.disconnect();
      panel.remove();
      picture.style.display = "";
      throw error;
    });
  }

  if (typeof Plotly !== "undefined") document.querySelectorAll(".bn-live").forEach(build);
})();
