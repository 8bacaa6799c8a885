// Sort a table by the column of a clicked heading; undefined values stay last.
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  table.tHead.addEventListener("click", (event) => {
    const head = event.target.closest("th");
    if (!head) return;
    const down = head.getAttribute("aria-sort") === "ascending";
    for (const th of table.tHead.rows[0].cells) th.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const text = (row) => row.cells[head.cellIndex].textContent.trim();
    const numeric = head.classList.contains("num");
    const compare = (r, s) => {
      const [a, b] = [text(r), text(s)];
      if (a === "–" || b === "–") return (a === "–") - (b === "–");
      const order = numeric ? Number(a) - Number(b) : a.localeCompare(b, "en", { numeric: true });
      return down ? -order : order;
    };
    body.append(...[...body.rows].sort(compare));
  });
}

// Enlarge a picture; the browser closes the dialog on Escape.
const dialog = document.getElementById("zoom");
document.querySelector("main").addEventListener("click", (event) => {
  const picture = event.target.closest(".panels button")?.querySelector("img");
  if (!picture) return;
  dialog.querySelector("img").src = picture.src;
  dialog.querySelector("p").textContent = picture.alt;
  dialog.showModal();
});
dialog.addEventListener("click", () => dialog.close());

// Copy a digest; where the browser forbids it, its title still shows all of it.
document.querySelector("main").addEventListener("click", async (event) => {
  const button = event.target.closest("[data-copy]");
  if (!button) return;
  try {
    await navigator.clipboard.writeText(button.dataset.copy);
  } catch {
    return;
  }
  button.classList.add("copied");
  setTimeout(() => button.classList.remove("copied"), 1200);
});
