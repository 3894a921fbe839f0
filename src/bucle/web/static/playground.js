(() => {
  "use strict";
  const { say, toast, post, problem } = window.bucle;
  const chat = document.getElementById("chat");
  const form = document.getElementById("ask");
  if (!form) return;
  const message = document.getElementById("message");
  const model = document.getElementById("model");
  const stop = document.getElementById("stop");
  let turns = [];
  let running = null;

  const element = (tag, name, ...children) => {
    const node = document.createElement(tag);
    if (name) node.className = name;
    node.append(...children);
    return node;
  };
  const turn = (kind, ...children) => {
    const text = element("p", "", ...children);
    const node = element("div", `turn ${kind}`, text);
    chat.append(node);
    chat.scrollTop = chat.scrollHeight;
    return { node, text };
  };
  const percent = (value) => new Intl.NumberFormat(document.documentElement.lang, { style: "percent", maximumFractionDigits: 0 }).format(value);
  const fact = (key, ...values) => element("span", "", say(key), ": ", ...values);

  const about = (node, extra, trace) => {
    const line = element("div", "about");
    if (typeof extra.score === "number") line.append(fact("score", percent(extra.score)));
    const guard = extra.guard || {};
    line.append(fact("guard", ...(guard.flagged ? [say("guard_flagged"), ` (${(guard.kinds || []).join(", ")})`] : [say("guard_clear")])));
    if ((extra.citations || []).length) line.append(fact("citations", extra.citations.join("; ")));
    if (trace) {
      const link = element("a", "", trace.slice(0, 18));
      link.href = `/studio/traces/${encodeURIComponent(trace)}`;
      line.append(fact("trace", link));
    }
    node.append(line);
    chat.scrollTop = chat.scrollHeight;
  };

  // Server-sent events of one reply: `data: {...}` blocks with a blank line between them, then `data: [DONE]`.
  const events = async function* (body) {
    const reader = body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      rest += value;
      const blocks = rest.split("\n\n");
      rest = blocks.pop();
      for (const block of blocks) {
        const data = block.split("\n").filter((row) => row.startsWith("data:")).map((row) => row.slice(5).trim()).join("\n");
        if (data === "[DONE]") return;
        if (data) yield JSON.parse(data);
      }
    }
  };

  const ask = async () => {
    const text = message.value.trim();
    if (!text) return;
    if (running) { toast("busy"); return; }
    running = new AbortController();
    stop.hidden = false;
    message.value = "";
    turns.push({ role: "user", content: text });
    turn("mine", text);
    const reply = turn("", say("thinking"));
    let said = "";
    let extra = null;
    try {
      const response = await post("/v1/chat/completions", { model: model.value, messages: turns, stream: true }, running.signal);
      if (!response.ok) throw new Error(await problem(response));
      let trace = response.headers.get("x-bucle-trace");
      for await (const event of events(response.body)) {
        if (event.error) throw new Error(event.error.message);
        const piece = event.choices && event.choices[0] && event.choices[0].delta && event.choices[0].delta.content;
        if (piece) { said += piece; reply.text.textContent = said; chat.scrollTop = chat.scrollHeight; }
        if (event.bucle) { extra = event.bucle; trace = event.bucle.trace || trace; }
      }
      const places = (extra && extra.citations) || [];  // the reply ends with them; here they stand below, as sources
      const listed = places.length ? `\n\n${places.map((place, i) => `[${i + 1}] ${place}`).join("\n")}` : "";
      if (listed && said.endsWith(listed)) reply.text.textContent = said.slice(0, -listed.length);
      if (!said) reply.text.replaceChildren(extra && extra.abstained ? say("abstained") : say("no_text"));
      about(reply.node, extra || {}, trace);
      turns.push({ role: "assistant", content: said });
    } catch (error) {
      turns.pop();
      if (error.name === "AbortError") reply.text.append(" ", say("stopped"));
      else { reply.node.classList.add("bad"); reply.text.replaceChildren(...(error instanceof TypeError ? [say("unreachable")] : [error.message])); }
    } finally {
      running = null;
      stop.hidden = true;
      message.focus();
    }
  };

  form.addEventListener("submit", (event) => { event.preventDefault(); ask(); });
  message.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); ask(); }
  });
  stop.addEventListener("click", () => running && running.abort());
  const clear = () => { turns = []; for (const node of chat.querySelectorAll(".turn")) node.remove(); };
  document.getElementById("clear").addEventListener("click", clear);
  model.addEventListener("change", clear);
})();
