(() => {
  "use strict";
  const NS = "http://www.w3.org/2000/svg";
  const WIDE = 1000, HIGH = 560, EDGE = 16;
  const FIELD = { topic: 2, label: 3, side: 4 };
  const NAMES = { topic: "topics", label: "labels", side: "sides" };

  // Both languages side by side, as everywhere on the page; the text is only ever text.
  const both = (node, [es, en]) => {
    if (es === en) { node.append(es); return node; }
    for (const [lang, text] of [["es", es], ["en", en]]) {
      const part = document.createElement("span");
      part.lang = lang;
      part.textContent = text;
      node.append(part);
    }
    return node;
  };

  const setUp = (box) => {
    const data = JSON.parse(box.querySelector("script").textContent);
    const svg = box.querySelector("svg.points"), tip = box.querySelector(".tip");
    const chosen = box.querySelector(".chosen"), legend = box.querySelector(".legend");
    const empty = [...chosen.childNodes].map((node) => node.cloneNode(true));
    const points = data.points;
    const radius = points.length > 2500 ? 3 : points.length > 600 ? 4 : 6;
    const at = points.map(([x, y]) => [EDGE + x * (WIDE - 2 * EDGE), EDGE + (1 - y) * (HIGH - 2 * EDGE)]);
    const dots = at.map(([x, y]) => {
      const dot = document.createElementNS(NS, "circle");
      dot.setAttribute("cx", x.toFixed(1));
      dot.setAttribute("cy", y.toFixed(1));
      dot.setAttribute("r", radius);
      return dot;
    });
    const ring = document.createElementNS(NS, "circle");
    ring.setAttribute("class", "ring");
    ring.setAttribute("r", radius + 4);
    svg.append(...dots);
    // Where the keyboard begins: the point nearest the middle of the map.
    const off = ([x, y]) => (x - WIDE / 2) ** 2 + (y - HIGH / 2) ** 2;
    const middle = at.reduce((best, one, index) => (off(one) < off(at[best]) ? index : best), 0);
    let by = "topic", only = -1, current = -1, pinned = -1;

    const colour = (value) => Math.min(value, data.colours);
    const paint = () => {
      points.forEach((point, index) => {
        const its = colour(point[FIELD[by]]);
        dots[index].setAttribute("class", `k${its}${only >= 0 && its !== only ? " dim" : ""}`);
      });
      for (const button of legend.querySelectorAll("button")) {
        button.setAttribute("aria-pressed", String(Number(button.dataset.of) === only));
      }
    };
    const list = () => {
      legend.replaceChildren();
      const names = data[NAMES[by]];
      const shown = names.slice(0, data.colours).concat(names.length > data.colours ? [data.other] : []);
      shown.forEach((name, place) => {
        const button = document.createElement("button");
        button.type = "button";
        button.className = `k${place}`;
        button.dataset.of = place;
        both(button, name[0] === "" ? ["–", "–"] : name);
        button.addEventListener("click", () => { only = only === place ? -1 : place; paint(); });
        legend.append(button);
      });
    };
    const say = (node, index) => {
      const [, , topic, label, side, text, source] = points[index];
      const said = document.createElement("p");
      said.textContent = text;
      const about = document.createElement("p");
      about.className = "muted";
      const facts = [data.topics[topic], data.labels[label], data.sides[side], [source, source]];
      let first = true;
      facts.forEach((fact, place) => {
        if (!fact || fact[0] === "" || fact[0] === "–") return;
        if (!first) about.append(" · ");
        first = false;
        both(about, data.names[place]);
        about.append(": ");
        both(about, fact);
      });
      node.replaceChildren(said, about);
    };
    const tell = (index) => {
      say(chosen, index);
      if (index !== pinned) return;
      const mark = document.createElement("p");
      mark.className = "muted";
      both(mark, data.pinned);
      chosen.append(mark);
    };
    const show = (index, withTip) => {
      current = index;
      if (index < 0) {
        tip.hidden = true;
        if (pinned < 0) { ring.remove(); chosen.replaceChildren(...empty.map((node) => node.cloneNode(true))); }
        else { place(ring, pinned); tell(pinned); }
        return;
      }
      place(ring, index);
      tip.hidden = !withTip;
      if (withTip) {
        say(tip, index);
        const scale = svg.clientWidth / WIDE || svg.getBoundingClientRect().width / WIDE;
        const x = at[index][0] * scale, y = svg.getBoundingClientRect().top - box.getBoundingClientRect().top + at[index][1] * scale;
        const right = x > svg.getBoundingClientRect().width / 2;
        const width = tip.offsetWidth;
        tip.style.left = `${Math.max(0, right ? x - width - 12 : Math.min(x + 12, box.clientWidth - width))}px`;
        tip.style.top = `${y + 12}px`;
      } else tell(index);
    };
    const place = (mark, index) => {
      mark.setAttribute("cx", at[index][0]);
      mark.setAttribute("cy", at[index][1]);
      svg.append(mark);
    };
    const near = (event) => {
      const frame = svg.getBoundingClientRect();
      const x = (event.clientX - frame.left) / frame.width * WIDE, y = (event.clientY - frame.top) / frame.height * HIGH;
      let best = -1, least = (24 * WIDE / frame.width) ** 2;
      at.forEach(([px, py], index) => {
        if (only >= 0 && colour(points[index][FIELD[by]]) !== only) return;
        const far = (px - x) ** 2 + (py - y) ** 2;
        if (far < least) { least = far; best = index; }
      });
      return best;
    };
    const pin = (index) => {
      pinned = index === pinned ? -1 : index;
      box.dataset.pinned = pinned;
      if (pinned >= 0) {
        place(ring, pinned);
        tell(pinned);
      } else show(-1, false);
    };
    const step = (dx, dy) => {
      const from = current >= 0 ? current : pinned >= 0 ? pinned : -1;
      if (from < 0) { show(middle, false); return; }
      let best = -1, least = Infinity;
      at.forEach(([x, y], index) => {
        if (index === from || (only >= 0 && colour(points[index][FIELD[by]]) !== only)) return;
        const along = (x - at[from][0]) * dx + (y - at[from][1]) * dy;
        const aside = Math.abs((x - at[from][0]) * dy) + Math.abs((y - at[from][1]) * dx);
        if (along <= 0.01) return;
        const far = along + 2 * aside;
        if (far < least) { least = far; best = index; }
      });
      if (best >= 0) show(best, false);
    };
    svg.addEventListener("pointermove", (event) => { if (event.pointerType !== "touch") show(near(event), true); });
    svg.addEventListener("pointerleave", () => show(-1, false));
    svg.addEventListener("click", (event) => { const found = near(event); if (found >= 0) { tip.hidden = true; pin(found); } });
    svg.addEventListener("keydown", (event) => {
      const ways = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
      if (ways[event.key]) step(...ways[event.key]);
      else if (event.key === "Enter" || event.key === " ") { if (current >= 0) pin(current); }
      else if (event.key === "Escape") { pinned = -1; box.dataset.pinned = -1; show(-1, false); }
      else return;
      event.preventDefault();
    });
    for (const button of box.querySelectorAll("[data-colour]")) {
      button.addEventListener("click", () => {
        by = button.dataset.colour;
        only = -1;
        for (const one of box.querySelectorAll("[data-colour]")) one.setAttribute("aria-pressed", String(one === button));
        list();
        paint();
      });
    }
    list();
    paint();
    box.dataset.ready = "1";
  };
  document.addEventListener("DOMContentLoaded", () => document.querySelectorAll(".map").forEach(setUp));
})();
