// Sort and filter the table of cases. The page is complete without.
(function () {
  "use strict";
  var table = document.getElementById("cases-table");
  if (!table) { return; }
  var body = table.tBodies[0], titles = Array.from(table.tHead.rows[0].cells);

  function value(row, column) {
    var text = row.cells[column].dataset.value;
    return text !== "" && !isNaN(text) ? Number(text) : text;
  }

  function compare(a, b) {
    if (a === "" || b === "") { return (a === "") - (b === ""); }
    if (typeof a === "number" && typeof b === "number") { return a - b; }
    return String(a).localeCompare(String(b), "en", { numeric: true });
  }

  titles.forEach(function (title, column) {
    title.firstElementChild.addEventListener("click", function () {
      var down = title.getAttribute("aria-sort") === "ascending";
      titles.forEach(function (other) { other.setAttribute("aria-sort", "none"); });
      title.setAttribute("aria-sort", down ? "descending" : "ascending");
      var rows = Array.from(body.rows);
      rows.sort(function (a, b) {
        var x = value(a, column), y = value(b, column), order = compare(x, y);
        return down && x !== "" && y !== "" ? -order : order;
      });
      rows.forEach(function (row) { body.appendChild(row); });
    });
  });

  document.getElementById("filter").addEventListener("input", function () {
    var wanted = this.value.toLowerCase(), shown = 0;
    Array.from(body.rows).forEach(function (row) {
      row.hidden = !row.cells[0].dataset.value.toLowerCase().includes(wanted);
      shown += row.hidden ? 0 : 1;
    });
    document.getElementById("shown").textContent = shown + (shown === 1 ? " case" : " cases");
  });
})();
