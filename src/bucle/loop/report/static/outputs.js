(() => {
  "use strict";
  const AT_ONCE = 25;
  const [INPUT, TARGET, SOURCE, SLICES, OUTPUTS] = [0, 1, 2, 3, 4];
  const [TEXT, SCORE, KIND, REASONING, CITATIONS] = [0, 1, 2, 3, 4];

  // Outputs are untrusted: they are only ever set as text.
  const make = (tag, name = "", text = null) => {
    const node = document.createElement(tag);
    if (name) node.className = name;
    if (text !== null) node.textContent = text;
    return node;
  };
  // Spanish and English; the page's language shows one.
  const both = ([es, en]) => es === en ? [es] : [["es", es], ["en", en]].map(([lang, text]) => {
    const node = make("span", "", text);
    node.lang = lang;
    return node;
  });
  const plain = (text) => text.normalize("NFD").replace(/\p{M}/gu, "").toLowerCase();
  const right = (output) => output[SCORE] !== null && output[SCORE] >= 0.5;

  const setUp = (box) => {
    const data = JSON.parse(box.querySelector("script").textContent);
    const list = box.querySelector("[data-list]"), more = box.querySelector("[data-more]");
    const count = box.querySelector("[data-count] strong");
    const words = {};
    for (const node of box.querySelector("[data-words]").content.children) words[node.dataset.word] = node;
    const say = (key) => [...words[key].childNodes].map((node) => node.cloneNode(true));
    const found = (by) => [...box.querySelectorAll(`[data-by="${by}"]`)];
    const [search] = found("text"), candidates = found("candidate"), [slice] = found("slice");
    const [label] = found("label"), [disagree] = found("disagree");
    for (const name of label ? data.labels : []) label.append(new Option(name, name));
    let texts = null, kept = [], shown = 0;

    const searched = (row) => plain([row[INPUT], row[TARGET] || "", ...row[OUTPUTS].flatMap((one) => one[TEXT])].join("\n"));
    const filter = () => {
      const wanted = plain(search.value.trim());
      if (wanted && !texts) texts = data.rows.map(searched);
      kept = [];
      data.rows.forEach((row, place) => {
        const marks = row[OUTPUTS].map(right);
        if (wanted && !texts[place].includes(wanted)) return;
        if (slice && slice.value && !row[SLICES].includes(Number(slice.value))) return;
        if (label && label.value && row[TARGET] !== label.value) return;
        if (disagree.checked && marks.every((mark) => mark === marks[0])) return;
        for (const select of candidates) {
          if (select.value && marks[Number(select.dataset.at)] !== (select.value === "right")) return;
        }
        kept.push(row);
      });
      count.textContent = kept.length.toLocaleString(document.documentElement.lang);
      list.replaceChildren();
      shown = 0;
      if (!kept.length) { const none = make("li", "muted"); none.append(...say("none")); list.append(none); }
      grow();
    };

    const folded = (key, content) => {
      const details = make("details"), summary = make("summary");
      summary.append(...say(key));
      details.append(summary, content);
      return details;
    };
    const draw = (output, name) => {
      const cell = make("div", "said"), about = make("p", "small muted");
      const kind = output[SCORE] === null ? "" : right(output) ? "right" : "wrong";
      about.append(make("span", "who", name));
      if (kind) {
        const mark = make("span", `badge ${kind === "right" ? "good" : "bad"}`);
        mark.append(...say(kind));
        if (output[SCORE] > 0 && output[SCORE] < 1) mark.append(` ${Math.round(100 * output[SCORE])}`);
        about.append(" ", mark);
      }
      const text = make("p", "text", output[KIND] === 2 ? null : output[TEXT]);
      if (output[KIND] === 2) { text.append(...both(output[TEXT])); const note = make("em", "muted"); note.append(...say("failed"), " "); text.prepend(note); }
      else if (output[KIND] === 1) { const note = make("em", "muted"); note.append(...say("abstains"), " "); text.prepend(note); }
      else if (!output[TEXT]) { const note = make("em", "muted"); note.append(...say("empty")); text.append(note); }
      cell.append(about, text);
      if (output[REASONING]) cell.append(folded("reasoning", make("p", "text small", output[REASONING])));
      if (output[CITATIONS].length) {
        const cited = make("ul", "small");
        for (const one of output[CITATIONS]) cited.append(make("li", "", one));
        cell.append(folded("citations", cited));
      }
      return cell;
    };
    const grow = () => {
      const some = document.createDocumentFragment();
      for (const row of kept.slice(shown, shown + AT_ONCE)) {
        const item = make("li"), target = make("p", "small muted");
        item.append(make("p", "asked", row[INPUT]));
        target.append(...say("target"), " ", make("span", "target", row[TARGET] === null ? "–" : row[TARGET]));
        if (row[SOURCE]) target.append(make("span", "source", row[SOURCE]));
        const outputs = make("div", "sides");
        row[OUTPUTS].forEach((output, place) => outputs.append(draw(output, data.candidates[place])));
        item.append(target, outputs);
        some.append(item);
      }
      shown = Math.min(shown + AT_ONCE, kept.length);
      list.append(some);
      more.hidden = shown >= kept.length;
    };

    let waiting = 0;
    box.addEventListener("input", (event) => {
      clearTimeout(waiting);
      waiting = setTimeout(filter, event.target === search ? 120 : 0);
    });
    more.addEventListener("click", () => {
      const first = list.children[shown - 1];
      grow();
      if (more.hidden && first) { first.tabIndex = -1; first.focus({ preventScroll: true }); }
    });
    const clear = () => {
      search.value = "";
      for (const select of box.querySelectorAll("select")) select.value = "";
      disagree.checked = false;
    };
    box.querySelector("[data-clear]").addEventListener("click", () => { clear(); filter(); search.focus(); });
    filter();
    return { show: (number) => { clear(); if (slice) slice.value = number; filter(); box.scrollIntoView(); (slice || search).focus(); } };
  };

  document.addEventListener("DOMContentLoaded", () => {
    const boxes = {};
    for (const box of document.querySelectorAll(".outputs")) boxes[box.id] = setUp(box);
    document.addEventListener("click", (event) => {
      const button = event.target.closest("[data-rows]");
      if (button && boxes[`outputs-${button.dataset.rows}`]) boxes[`outputs-${button.dataset.rows}`].show(button.dataset.slice);
    });
  });
})();
