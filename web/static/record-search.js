// Lists matching records while somebody types. Without JavaScript, the form's button finds them.
"use strict";
const DELAY_MS = 250;
const form = document.querySelector("[data-record-search]");
const input = form.querySelector("[name=q]");
const choice = document.getElementById("choice");
const message = document.getElementById("search-status");
const list = document.createElement("ul");
let timer = 0;
let request = null;
let active = -1;

list.id = "search-results";
list.className = "search-results";
list.setAttribute("role", "listbox");
list.setAttribute("aria-label", "Records");
list.hidden = true;
input.after(list);
const attributes = { role: "combobox", "aria-autocomplete": "list", "aria-controls": list.id, "aria-expanded": "false" };
for (const [name, value] of Object.entries(attributes)) input.setAttribute(name, value);

function close() {
  list.hidden = true;
  active = -1;
  input.setAttribute("aria-expanded", "false");
  input.removeAttribute("aria-activedescendant");
}

function activate(index) {
  active = (index + list.children.length) % list.children.length;
  [...list.children].forEach((option, number) => option.setAttribute("aria-selected", String(number === active)));
  list.children[active].scrollIntoView({ block: "nearest" });
  input.setAttribute("aria-activedescendant", list.children[active].id);
}

function select(record) {
  const button = choice.querySelector("button");
  const name = record.name || String(record.id);
  input.value = name;
  button.value = `${button.dataset.contact} ${record.type} ${record.id}`;
  button.textContent = `Link to ${name} (${record.type} ${record.id})`;
  choice.hidden = false;
  close();
  button.focus();
}

function show(records) {
  list.replaceChildren(...records.map((record, index) => {
    const option = document.createElement("li");
    const detail = document.createElement("span");
    option.id = `search-result-${index}`;
    option.setAttribute("role", "option");
    option.setAttribute("aria-selected", "false");
    option.textContent = record.name || String(record.id);
    detail.className = "aside";
    detail.textContent = ` ${record.type} ${record.id}${record.email ? ` · ${record.email}` : ""}`;
    option.append(detail);
    option.addEventListener("mousedown", (event) => { event.preventDefault(); select(record); });
    option.record = record;
    return option;
  }));
  close();
  list.hidden = !records.length;
  input.setAttribute("aria-expanded", String(records.length > 0));
  message.textContent = records.length === 1 ? "1 record" : `${records.length || "No"} records`;
}

async function search() {
  request?.abort();
  const own = request = new AbortController();
  const text = input.value.trim();
  if (text.length < 2) return close();
  try {
    const response = await fetch(form.dataset.recordSearch, {
      method: "POST", body: new URLSearchParams(new FormData(form)), signal: own.signal, redirect: "error",
    });
    if (!response.ok) return close();
    const { results } = await response.json();
    if (own === request) show(results);
  } catch {
    if (own === request) close();
  }
}

input.addEventListener("input", () => {
  choice.hidden = true;
  clearTimeout(timer);
  timer = setTimeout(search, DELAY_MS);
});
input.addEventListener("blur", close);
input.addEventListener("keydown", (event) => {
  if (list.hidden) return;
  if (event.key === "ArrowDown" || event.key === "ArrowUp") activate(active + (event.key === "ArrowDown" ? 1 : active < 0 ? 0 : -1));
  else if (event.key === "Enter" && active >= 0) select(list.children[active].record);
  else if (event.key === "Escape") close();
  else return;
  event.preventDefault();
});
