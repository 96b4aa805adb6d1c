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
    for (const button of document.querySelectorAll("[data-theme-toggle]")) {
      button.textContent = theme === "dark" ? "Light" : "Dark";
      button.setAttribute("aria-label", `Switch to ${theme === "dark" ? "light" : "dark"} colours`);
    }
  };
  apply();
  system.addEventListener("change", apply);
  document.addEventListener("DOMContentLoaded", apply);
  document.addEventListener("click", ({ target }) => {
    if (!(target instanceof Element && target.closest("[data-theme-toggle]"))) return;
    chosen = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
    try {
      localStorage.setItem("stackd.theme", chosen);
    } catch {}
    apply();
  });
})();
