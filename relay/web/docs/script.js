// The search, the copying, and the address at which this page was opened in the examples.
const origin = location.href.replace(/\/docs.*$/, "");
for (const pre of document.querySelectorAll(".curl pre")) pre.textContent = pre.textContent.replace("$RELAY_URL", origin);

const search = document.getElementById("search");
function filter() {
  const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
  let shown = 0;
  for (const part of document.querySelectorAll("[data-find]")) {
    const text = part.dataset.find.toLowerCase();
    part.hidden = !words.every((word) => text.includes(word));
    shown += part.hidden ? 0 : 1;
  }
  for (const group of document.querySelectorAll("[data-group]")) group.hidden = !group.querySelector("li:not([hidden])");
  document.getElementById("none").hidden = shown > 0;
}
search.addEventListener("input", filter);

document.addEventListener("keydown", (event) => {
  if (event.key === "/" && !event.target.closest("input")) {
    event.preventDefault();
    search.focus();
  } else if (event.key === "Escape" && event.target === search) {
    search.value = "";
    filter();
  }
});

document.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-copy]");
  if (!button) return;
  const pre = button.parentElement.querySelector("pre");
  try {
    await navigator.clipboard.writeText(pre.textContent);
  } catch {
    // Without https the browser has no clipboard for pages: the old way copies what is selected.
    getSelection().selectAllChildren(pre);
    document.execCommand("copy");
  }
  button.textContent = "Copied";
  setTimeout(() => { button.textContent = "Copy"; }, 1200);
});
