// Light or dark, before the first paint: what was chosen here, else what the system prefers.
(() => {
  let chosen = null;
  try { chosen = localStorage.getItem("emstream-theme"); } catch { /* storage is off: follow the system */ }
  const dark = chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  document.documentElement.dataset.theme = dark ? "dark" : "light";
  // The token is in a cookie now; it need not stay in the address bar.
  if (location.search.includes("token=")) history.replaceState(null, "", location.pathname);
})();
