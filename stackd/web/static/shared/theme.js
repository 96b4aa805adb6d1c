// Light or dark: what the person chose, else what the system prefers. Loaded before the page is painted.

(() => {
  const system = matchMedia("(prefers-color-scheme: dark)");
  let chosen = "";
  try {
    chosen = localStorage.getItem("stackd.theme") ?? "";
  } catch {} // storage may be forbidden
  const apply = () => {
    const theme = chosen || (system.matches ? "dark" : "light");
    document.documentElement.dataset.theme = theme;
    for (const each of document.querySelectorAll("[data-theme-toggle]")) {
      const button = /** @type {HTMLElement} */ (each);
      const [light = "Light", dark = "Dark"] = button.dataset.words?.split("|") ?? [];
      button.textContent = theme === "dark" ? light : dark;
    }
  };
  apply();
  system.addEventListener("change", apply);
  document.addEventListener("DOMContentLoaded", apply);
  addEventListener("languagechange", apply);
  document.addEventListener("click", ({ target }) => {
    if (!(target instanceof Element && target.closest("[data-theme-toggle]"))) return;
    chosen = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
    try {
      localStorage.setItem("stackd.theme", chosen);
    } catch {}
    apply();
  });
})();
