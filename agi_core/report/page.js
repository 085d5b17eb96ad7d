// Sorts a table by the column whose heading is chosen, and shows the pages of a `.pages` block one at a time. Without
// it everything stands below each other in the order of writing.
"use strict";
document.documentElement.classList.add("script");
const valueOf = (row, column) => {
  const text = row.cells[column].textContent.replace("−", "-").trim();
  const number = parseFloat(text);
  return Number.isNaN(number) ? (text === "–" ? -Infinity : text.toLowerCase()) : number;
};
const compare = (a, b) =>
  typeof a === typeof b ? (a < b ? -1 : a > b ? 1 : 0) : typeof a === "number" ? -1 : 1;
for (const heading of document.querySelectorAll("thead tr:last-child th")) {
  const sort = () => {
    const table = heading.closest("table"), body = table.tBodies[0], column = heading.cellIndex;
    const sign = heading.getAttribute("aria-sort") === "descending" ? 1 : -1;
    const rows = [...body.rows].filter((row) => !row.classList.contains("total"));
    rows.sort((a, b) => sign * compare(valueOf(a, column), valueOf(b, column)));
    body.prepend(...rows);
    for (const other of heading.parentNode.cells) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
  };
  heading.tabIndex = 0;
  heading.addEventListener("click", sort);
  heading.addEventListener("keydown", (event) => { if (event.key === "Enter") sort(); });
}
for (const block of document.querySelectorAll(".pages")) {
  const pages = [...block.children];
  if (pages.length < 2) continue;
  const bar = document.createElement("p"), place = document.createElement("span");
  let shown = 0;
  const show = (index) => {
    shown = (index + pages.length) % pages.length;
    pages.forEach((page, i) => page.classList.toggle("away", i !== shown));
    place.textContent = ` ${shown + 1} of ${pages.length} `;
  };
  for (const [text, step] of [["‹ previous", -1], ["next ›", 1]]) {
    const button = document.createElement("button");
    button.textContent = text;
    button.addEventListener("click", () => show(shown + step));
    bar.append(button);
  }
  bar.insertBefore(place, bar.lastChild);
  bar.className = "turn";
  block.before(bar);
  show(0);
}
