"use strict";
(() => {
  const body = document.querySelector("#utterance-table tbody");
  const rows = [...body.rows];
  const byId = (id) => document.getElementById(id);
  const [run, text, errors, sound, count] = ["run-filter", "text-filter", "error-filter", "sound-filter", "count"].map(byId);

  const filter = () => {
    const wanted = text.value.trim().toUpperCase();
    let shown = 0;
    for (const row of rows) {
      row.hidden =
        (run.value !== "" && row.dataset.anchor !== run.value) ||
        (errors.checked && Number(row.dataset.attacked) < 1) ||
        (sound !== null && sound.checked && row.dataset.sound === undefined) ||
        (wanted !== "" && !row.querySelector(".hidden").textContent.toUpperCase().includes(wanted));
      shown += row.hidden ? 0 : 1;
    }
    count.textContent = `${shown} of ${rows.length} shown`;
  };
  for (const control of [run, text, errors, sound]) {
    if (control !== null) control.addEventListener("input", filter);
  }
  byId("controls").addEventListener("submit", (event) => event.preventDefault());

  const value = (row, key) => {
    const found = row.dataset[key];
    if (key === "name") return found;
    return found === "" ? -Infinity : Number(found);
  };
  const compare = (a, b) =>
    typeof a === "string" ? a.localeCompare(b, undefined, { numeric: true }) : a === b ? 0 : a < b ? -1 : 1;
  for (const button of document.querySelectorAll("#utterance-table th button")) {
    button.addEventListener("click", () => {
      const head = button.parentElement;
      const up = head.getAttribute("aria-sort") !== "ascending";
      for (const other of head.parentElement.cells) other.hasAttribute("aria-sort") && other.setAttribute("aria-sort", "none");
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const { key } = button.dataset;
      rows.sort((a, b) => (up ? 1 : -1) * compare(value(a, key), value(b, key)) || a.dataset.run - b.dataset.run);
      body.append(...rows);
    });
  }

  const open = () => {
    const target = /^#(run|audit)-/.test(location.hash) ? byId(location.hash.slice(1)) : null;
    if (target !== null) target.open = true;
  };
  window.addEventListener("hashchange", open);
  open();

  const first = rows.find((row) => Number(row.dataset.attacked) >= 0);
  if (first !== undefined && rows.length > 100) run.value = first.dataset.anchor;
  filter();
})();
