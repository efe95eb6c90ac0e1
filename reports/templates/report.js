"use strict";
// The theme first, before the page is painted: "system" follows the reader's setting, a click pins light or dark.
(function () {
  const root = document.documentElement;
  const order = ["system", "light", "dark"];
  let theme = "system";
  try { theme = localStorage.getItem("dlmbench-theme") || "system"; } catch (error) { /* a file may have no storage */ }
  if (!order.includes(theme)) theme = "system";
  const apply = function () {
    if (theme === "system") delete root.dataset.theme; else root.dataset.theme = theme;
    const button = document.getElementById("theme");
    if (button) button.textContent = "Theme: " + theme;
  };
  apply();

  // Missing values sort last both ways; ties keep their order.
  const sort = function (table, column, header) {
    const ascending = header.getAttribute("aria-sort") !== "ascending";
    table.querySelectorAll("thead th").forEach(function (th) { th.removeAttribute("aria-sort"); });
    header.setAttribute("aria-sort", ascending ? "ascending" : "descending");
    const body = table.tBodies[0];
    const keyed = Array.from(body.rows, function (row) { return [row.cells[column].dataset.sort || "", row]; });
    const numeric = keyed.every(function (entry) { return entry[0] === "" || !isNaN(Number(entry[0])); });
    keyed.sort(function (a, b) {
      if (a[0] === "" || b[0] === "") return (a[0] === "") - (b[0] === "");
      const difference = numeric ? Number(a[0]) - Number(b[0]) : a[0].localeCompare(b[0], "en", { numeric: true });
      return ascending ? difference : -difference;
    });
    keyed.forEach(function (entry) { body.appendChild(entry[1]); });
  };

  document.addEventListener("DOMContentLoaded", function () {
    apply();
    document.getElementById("theme").addEventListener("click", function () {
      theme = order[(order.indexOf(theme) + 1) % order.length];
      try { localStorage.setItem("dlmbench-theme", theme); } catch (error) { /* this page only, then */ }
      apply();
    });
    document.querySelectorAll("table.sortable").forEach(function (table) {
      table.querySelectorAll("thead th").forEach(function (header, column) {
        const button = document.createElement("button");
        button.type = "button";
        button.textContent = header.textContent;
        header.replaceChildren(button);
        button.addEventListener("click", function () { sort(table, column, header); });
      });
    });
    const copy = document.getElementById("copy");
    copy.addEventListener("click", function () {
      const text = document.getElementById("command").textContent;
      const done = function (words) { copy.textContent = words; setTimeout(function () { copy.textContent = "Copy"; }, 1500); };
      if (navigator.clipboard) {
        navigator.clipboard.writeText(text).then(function () { done("Copied"); }, function () { done("Select it"); });
      } else { done("Select it"); }
    });
  });
})();
