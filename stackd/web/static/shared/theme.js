// Light or dark: what the person chose, else what the system prefers. Loaded before the page is painted.

(() => {
  const system = matchMedia("(prefers-color-scheme: dark)");
  const kept = () => {
    try {
      return localStorage.getItem("stackd.theme");
    } catch {
      return null; // storage may be forbidden
    }
  };
  const apply = () => {
    const theme = kept() ?? (system.matches ? "dark" : "light");
    document.documentElement.dataset.theme = theme;
    for (const button of document.querySelectorAll("[data-theme-toggle]")) {
      button.textContent = theme === "dark" ? "Light" : "Dark";
      button.setAttribute("aria-label", theme === "dark" ? "Switch to light colours" : "Switch to dark colours");
    }
  };
  const toggle = () => {
    const next = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
    try {
      localStorage.setItem("stackd.theme", next);
    } catch {
      document.documentElement.dataset.theme = next;
      return;
    }
    apply();
  };
  apply();
  system.addEventListener("change", apply);
  document.addEventListener("DOMContentLoaded", apply);
  document.addEventListener("click", (event) => {
    if (event.target instanceof Element && event.target.closest("[data-theme-toggle]")) toggle();
  });
})();
