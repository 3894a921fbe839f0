(() => {
  "use strict";
  const place = document.querySelector("[data-charts]");
  if (!place) return;
  const kinds = { latency: "p95_ms", abuse: "requests", quality: "mean_rating", drift: "score" };
  const token = (name) => {  // the colour as the page shows it now: light-dark() is settled by the browser
    const probe = document.createElement("span");
    probe.style.color = `var(--${name})`;
    document.body.append(probe);
    const value = getComputedStyle(probe).color;
    probe.remove();
    return value;
  };
  let made = [];
  let data = null;

  const draw = () => {
    for (const chart of made) chart.destroy();
    made = [];
    const volume = {};
    for (const w of data.windows) volume[w.route] = (volume[w.route] || 0) + (w.requests || 0);
    const routes = Object.keys(volume).sort((a, b) => volume[b] - volume[a]).slice(0, 4);
    const times = [...new Set(data.windows.map((w) => Date.parse(w.start) / 1000))].filter(Number.isFinite).sort((a, b) => a - b);
    const language = document.documentElement.lang;
    const day = new Intl.DateTimeFormat(language, { day: "numeric", month: "short" });
    for (const figure of place.querySelectorAll("[data-field]")) {
      const field = figure.dataset.field;
      const series = routes.map((route) => {
        const at = new Map(data.windows.filter((w) => w.route === route).map((w) => [Date.parse(w.start) / 1000, w[field]]));
        return times.map((time) => at.get(time) ?? null);
      });
      figure.hidden = !series.some((values) => values.some((value) => value !== null));
      if (figure.hidden || times.length < 2) continue;
      const axis = { stroke: token("muted"), grid: { stroke: token("grid"), width: 1 }, ticks: { show: false }, font: "11px system-ui, sans-serif" };
      const number = new Intl.NumberFormat(language, field === "score" ? { style: "percent" } : { maximumFractionDigits: 1 });
      const shade = (chart) => {
        const own = data.alerts.filter((alert) => kinds[alert.kind] === field);
        chart.ctx.save();
        chart.ctx.globalAlpha = 0.2;
        chart.ctx.fillStyle = token("warn");
        for (const alert of own) {
          const [from, to] = [alert.start, alert.end].map((time) => chart.valToPos(Date.parse(time) / 1000, "x", true));
          const left = Math.max(from, chart.bbox.left);
          chart.ctx.fillRect(left, chart.bbox.top, Math.max(2, Math.min(to, chart.bbox.left + chart.bbox.width) - left), chart.bbox.height);
        }
        chart.ctx.restore();
      };
      const box = figure.querySelector(".chart");
      made.push(new uPlot({
        width: Math.max(260, box.clientWidth), height: 140, legend: { show: true, live: false }, cursor: { drag: { x: false, y: false } },
        series: [{}, ...routes.map((route, i) => ({ label: route, stroke: token(`series-${i + 1}`), width: 1.7, points: { size: 4 } }))],
        axes: [{ ...axis, values: (_, ticks) => ticks.map((tick) => day.format(tick * 1000)), space: 60, size: 28 },
               { ...axis, size: 52, values: (_, ticks) => ticks.map((tick) => number.format(tick)) }],
        hooks: { drawClear: [shade] },
      }, [times, ...series], box));
    }
  };

  let waiting = 0;
  const again = () => { clearTimeout(waiting); waiting = setTimeout(() => data && draw(), 120); };
  fetch(place.dataset.charts, { credentials: "same-origin" }).then((response) => response.json()).then((found) => { data = found; draw(); })
    .catch(() => window.bucle.toast("unreachable"));
  new MutationObserver(again).observe(document.documentElement, { attributes: true, attributeFilter: ["lang", "data-theme"] });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", again);
  addEventListener("resize", again);
})();
