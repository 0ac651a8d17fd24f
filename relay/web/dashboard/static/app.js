// What the pages do beyond HTML: copy (also without HTTPS), the theme, times that grow older, and the keyboard.
"use strict";
const root = document.documentElement;

function cookie(name, value) {
  const secure = location.protocol === "https:" ? "; secure" : "";
  document.cookie = `${name}=${value}; path=/; max-age=31536000; samesite=lax${secure}`;
}

function toggleTheme() {
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
  cookie("relay-theme", root.dataset.theme);
}

async function copy(button) {
  const text = button.dataset.copy || button.parentElement.querySelector("pre").textContent;
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const area = document.createElement("textarea");
    area.value = text;
    area.className = "vh";
    button.after(area);
    area.select();
    document.execCommand("copy");
    area.remove();
    button.focus();
  }
  const was = button.textContent;
  button.textContent = "Copied";
  setTimeout(() => { button.textContent = was; }, 1200);
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-copy], [data-theme-toggle]");
  if (!button) return;
  event.preventDefault();
  if (button.dataset.copy === undefined) toggleTheme();
  else copy(button);
});

// A form is sent once, however often its button is pressed; a page from the browser's cache may send it again.
document.addEventListener("submit", (event) => {
  if (event.target.dataset.sent) event.preventDefault();
  else if (event.target.method === "post" && !event.target.querySelector("[data-theme-toggle]")) event.target.dataset.sent = "1";
});
addEventListener("pageshow", () => { for (const form of document.querySelectorAll("form[data-sent]")) delete form.dataset.sent; });
