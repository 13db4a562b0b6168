"use strict";
// The site is read without this script. It sorts and filters tables, and switches the theme.

(() => {
  const KEY = "medbench-theme";
  const root = document.documentElement;

  // Storage may be refused, for files opened from disk above all; the theme is then not remembered.
  function remembered() {
    try {
      return localStorage.getItem(KEY);
    } catch {
      return null;
    }
  }

  function remember(theme) {
    try {
      localStorage.setItem(KEY, theme);
    } catch {
      // not remembered
    }
  }

  // Before the body is there, so that nothing is painted in the other theme.
  const saved = remembered();
  if (saved === "light" || saved === "dark") root.dataset.theme = saved;

  function themes(button) {
    const system = matchMedia("(prefers-color-scheme: dark)");
    const dark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);
    // The button says what it does.
    const show = () => (button.textContent = dark() ? "Light theme" : "Dark theme");
    button.addEventListener("click", () => {
      root.dataset.theme = dark() ? "light" : "dark";
      remember(root.dataset.theme);
      show();
    });
    system.addEventListener("change", show);
    button.hidden = false;
    show();
  }

  const text = new Intl.Collator("en", { numeric: true, sensitivity: "base" });

  // What a cell is sorted by: its data-v where it has one, else its text. An empty one is last in both directions.
  function value(row, column) {
    const cell = row.cells[column];
    return (cell.dataset.v ?? cell.textContent).trim();
  }

  function sort(table, heading, say) {
    const first = heading.dataset.first ?? "ascending";
    const other = first === "ascending" ? "descending" : "ascending";
    const direction = heading.getAttribute("aria-sort") === first ? other : first;
    const sign = direction === "ascending" ? 1 : -1;
    const column = Number(heading.dataset.column);
    const numbers = heading.dataset.sort === "number";
    const body = table.tBodies[0];
    const rows = [...body.rows].map((row) => [value(row, column), row]);
    rows.sort(([a], [b]) => {
      if (a === "" || b === "") return Number(a === "") - Number(b === "");
      return sign * (numbers ? Number(a) - Number(b) : text.compare(a, b));
    });
    body.append(...rows.map(([, row]) => row));
    for (const each of table.querySelectorAll("th[aria-sort]")) each.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", direction);
    say(`sorted by ${heading.dataset.label ?? heading.textContent.trim()}, ${direction}`);
  }

  function sortable(table, say) {
    for (const heading of table.querySelectorAll("th[data-sort]")) {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...heading.childNodes);
      if (heading.dataset.label) button.setAttribute("aria-label", `sort by ${heading.dataset.label}`);
      heading.append(button);
      button.addEventListener("click", () => sort(table, heading, say));
    }
  }

  // A row stays if it holds every word, and is of what each list says.
  function filters(tools, tables, say) {
    const words = tools.querySelector("input");
    const lists = [...tools.querySelectorAll("select")];
    const apply = () => {
      const wanted = words.value.toLowerCase().split(/\s+/).filter(Boolean);
      let shown = 0;
      let all = 0;
      for (const table of tables) {
        for (const row of table.tBodies[0].rows) {
          const found = row.dataset.find;
          const stays =
            wanted.every((word) => found.includes(word)) &&
            lists.every((list) => list.value === "" || row.dataset[list.name] === list.value);
          row.hidden = !stays;
          shown += Number(stays);
          all += 1;
        }
      }
      say(`${shown} of ${all} rows`);
    };
    for (const control of [words, ...lists]) control.addEventListener("input", apply);
    tools.hidden = false;
    if (words.value || lists.some((list) => list.value)) apply(); // a browser fills them in again on reload
  }

  document.addEventListener("DOMContentLoaded", () => {
    themes(document.querySelector("button.theme"));
    const status = document.querySelector("[role=status]");
    const say = (line) => {
      if (status) status.textContent = line;
    };
    const tables = [...document.querySelectorAll("table.rows")];
    for (const table of tables) sortable(table, say);
    const tools = document.querySelector(".tools");
    if (tools) filters(tools, tables, say);
  });
})();
