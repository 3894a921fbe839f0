(() => {
  "use strict";
  const root = document.documentElement;
  const keep = (key, value) => { try { localStorage.setItem(key, value); } catch { /* a file page may not store */ } };
  const kept = (key) => { try { return localStorage.getItem(key); } catch { return null; } };

  const language = (value) => {
    root.lang = value;
    for (const node of document.querySelectorAll("[data-es]")) {
      const text = node.dataset[value];
      if (node.dataset.into) node.setAttribute(node.dataset.into, text); else node.textContent = text;
    }
    for (const button of document.querySelectorAll("[data-language]")) {
      button.setAttribute("aria-pressed", String(button.dataset.language === value));
    }
  };
  const theme = (value) => {
    if (value === "light" || value === "dark") root.dataset.theme = value; else delete root.dataset.theme;
    for (const button of document.querySelectorAll("[data-set-theme]")) {
      button.setAttribute("aria-pressed", String(button.dataset.setTheme === (value || "auto")));
    }
  };

  document.addEventListener("click", (event) => {
    const button = event.target.closest("[data-language], [data-set-theme]");
    if (!button) return;
    if (button.dataset.language) { language(button.dataset.language); keep("bucle-language", button.dataset.language); }
    else { theme(button.dataset.setTheme); keep("bucle-theme", button.dataset.setTheme); }
  });
  const asked = new URLSearchParams(location.search);
  const choose = (value, allowed, other) => (allowed.includes(value) ? value : other);
  const start = () => {
    theme(choose(asked.get("theme") || kept("bucle-theme"), ["light", "dark", "auto"], "auto"));
    language(choose(asked.get("lang") || kept("bucle-language"), ["es", "en"], root.lang));
  };
  start();  // before the first paint, so that nothing flashes; again once there are buttons to mark
  document.addEventListener("DOMContentLoaded", start); 
})();
