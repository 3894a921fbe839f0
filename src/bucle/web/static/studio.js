// Ratings and corrections go to /v1/feedback as JSON: another origin cannot send that without being allowed, and none is.
window.bucle = (() => {
  "use strict";
  const texts = {};
  for (const node of document.getElementById("texts").content.querySelectorAll("[data-key]")) texts[node.dataset.key] = node;

  // A text in both languages, as nodes: whatever else is put on the page goes in as text, never as HTML.
  const say = (key) => { const copy = texts[key].cloneNode(true); copy.removeAttribute("data-key"); return copy; };
  const toast = (key, detail) => {
    const place = document.getElementById("toast");
    place.replaceChildren(say(key), detail ? ` ${detail}` : "");
    clearTimeout(toast.timer);
    toast.timer = setTimeout(() => place.replaceChildren(), 6000);
  };
  const post = (url, body, signal) => fetch(url, {
    method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body), signal, credentials: "same-origin",
  });
  const problem = async (response) => {
    try { return (await response.json()).error.message; } catch { return String(response.status); }
  };
  const rate = async (trace, values) => {
    try {
      const response = await post("/v1/feedback", { trace_id: trace, by: "studio", ...values });
      if (!response.ok) { toast("failed", await problem(response)); return false; }
      toast("sent");
      return true;
    } catch { toast("unreachable"); return false; }
  };

  document.addEventListener("click", async (event) => {
    const button = event.target.closest("[data-rating]");
    const form = button && button.closest("[data-feedback]");
    if (!form) return;
    if (await rate(form.dataset.feedback, { rating: Number(button.dataset.rating) })) {
      for (const other of form.querySelectorAll("[data-rating]")) other.setAttribute("aria-pressed", String(other === button));
    }
  });
  document.addEventListener("submit", async (event) => {
    const form = event.target.closest("form[data-feedback]");
    if (!form) return;
    event.preventDefault();
    const field = form.elements.correction;
    if (!field.value.trim()) { field.focus(); return; }
    if (await rate(form.dataset.feedback, { correction: field.value.trim() })) field.value = "";
  });

  document.addEventListener("htmx:afterSwap", (event) => {
    if (event.detail.target.id !== "trace") return;
    event.detail.target.focus({ preventScroll: true });
    for (const row of document.querySelectorAll(".trace-row")) {
      row.setAttribute("aria-current", String(row.getAttribute("hx-get") === event.detail.pathInfo.requestPath));
    }
  });
  // Show the studio's own error pages (they say what to do), and a message when nothing answers.
  document.addEventListener("htmx:beforeSwap", (event) => {
    if (event.detail.xhr.status >= 400 && event.detail.target.id !== "live") { event.detail.shouldSwap = true; event.detail.isError = false; }
  });
  document.addEventListener("htmx:sendError", () => toast("unreachable"));
  return { say, toast, post, problem };
})();
