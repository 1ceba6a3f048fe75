// The page's addresses: #/list/person, #/contact/9600012; records are fetched one at a time, lists fifty at a time.
import { Parent } from "./sdk.js";
import { TYPES, addressOf, at, drawForm, drawList, drawRecord, drawTypes, initials, typeOf } from "./views.js";

const base = location.pathname.replace(/\/app$/, "");
const logged = {};
let account, parent, current = null, arriving = Promise.resolve(), visit = 0, pages = 1, listed = null;

async function json(path, options) {
  const answer = await fetch(path, options);
  const body = await answer.json();
  if (!answer.ok) throw new Error(body.error ?? body.message ?? `the sandbox answered ${answer.status}`);
  return body;
}

const act = (name, values) => json(`/control/act/${name}`, {
  method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ ...values, account: account.id }),
});

function context() {
  if (!current) throw new Error("no record");
  const editable = current.type === "lead" ? ["name", "email"] : current.type === "person" ? ["name", "emails"] : ["name"];
  return { entityType: current.type, entityData: current.held.record, editableFields: editable };
}

const host = {
  context: async () => { await arriving; return context(); },
  user: () => ({ account: { id: account.id, name: account.name }, user: account.user }),
  navigate: (type, id) => {
    if (!Object.hasOwn(TYPES, type)) throw new Error("not played by the sandbox");
    location.hash = addressOf(type, id);
    return {};
  },
  async save({ entityType, entityData }) {
    const before = { ...current.held.record };
    const names = Object.keys(entityData).filter((name) => JSON.stringify(entityData[name]) !== JSON.stringify(before[name]));
    const others = names.filter((name) => !context().editableFields.includes(name));
    if (entityType !== current.type || entityData.id !== before.id) throw new Error("not the record that is shown");
    if (others.length) throw new Error(`${others.join(", ")} cannot be edited`);
    const emails = entityData.emails ?? (entityData.email ? [entityData.email] : undefined);
    await change({ name: entityData.name, ...(emails && { emails: emails.map((one) => one.email) }) });
    return context();
  },
  async api(url, { method = "GET", body } = {}) {
    const path = url.replace(/^\/?v1\//, "");
    return json(`${base}/api/${path}`, { method, body, headers: { "Content-Type": "application/json" } });
  },
  refresh: () => arrive({ again: true }),
};

async function change(values) {
  await act("change_record", { type: current.type, id: current.held.record.id, ...values });
  await arrive({ again: true });
}

async function showRecord(type, id, again) {
  const mine = ++visit;
  const held = await json(`${base}/records/${type}/${id}`);
  if (mine !== visit) return;
  current = { type, held };
  drawRecord(type, held, logged[`${type} ${id}`] ?? []);
  show("record", type, held.record.name, again);
  if (account.app && !parent) {
    parent = new Parent(account.app, host);
    parent.open(at("app"), "sidebar");
  } else if (parent) parent.tell("contextUpdated", context());
}

async function showList(type, again) {
  const mine = ++visit;
  const search = at("search").value.trim();
  const found = await json(`${base}/records/${type}?${new URLSearchParams({ search, pages })}`);
  if (mine !== visit) return;
  drawList(type, found.records, found.total, search);
  show("list", type, TYPES[type].many, again);
  listed = type;
}

function show(view, type, title, again) {
  at("list").hidden = view !== "list";
  at("record").hidden = view !== "record";
  at("form").hidden = true;
  at("fields").hidden = false;
  at("record-note").textContent = "";
  document.title = `${title} · Sandbox Copper`;
  drawTypes(account.counts, type);
  if (!again) { scrollTo(0, 0); at("main").focus({ preventScroll: true }); }
}

function arrive({ again = false } = {}) {
  const [, word, id] = location.hash.split("/");
  const type = typeOf(word);
  if (!type) {
    const wanted = Object.hasOwn(TYPES, id) ? id : "company";
    if (wanted !== listed) { at("search").value = ""; pages = 1; }
    arriving = showList(wanted, again);
  } else arriving = showRecord(type, Number(id), again);
  arriving = arriving.catch((error) => {
    current = null;
    for (const view of ["list", "record"]) at(view).hidden = view !== "list";
    document.querySelector("#list table").hidden = at("more").hidden = true;
    at("list-title").textContent = "Not found";
    at("list-note").textContent = String(error.message);
  });
  return arriving;
}

async function saveForm(event) {
  event.preventDefault();
  const form = new FormData(at("form"));
  const emails = form.get("emails")?.split(",").map((email) => email.trim()).filter(Boolean);
  try { await change({ name: form.get("name"), ...(emails && { emails }) }); }
  catch (error) { at("record-note").textContent = error.message; return; }
  at("edit").focus();
}

function edit(on) {
  if (on) {
    drawForm(current.type, current.held.record);
    at("cancel").addEventListener("click", () => { edit(false); at("edit").focus(); });
  }
  at("form").hidden = !on;
  at("fields").hidden = on;
  if (on) at("form").querySelector("input").focus();
}

let typed;
at("search").addEventListener("input", () => { clearTimeout(typed); typed = setTimeout(() => { pages = 1; showList(listed, true); }, 150); });
at("more").addEventListener("click", () => { pages += 1; showList(listed, true); });
at("edit").addEventListener("click", () => edit(at("form").hidden));
at("form").addEventListener("submit", saveForm);
addEventListener("keydown", (event) => {
  if (event.key === "Escape" && !at("form").hidden) { edit(false); at("edit").focus(); }
  if (event.key === "Escape") at("app-card").classList.remove("full");
});
addEventListener("hashchange", () => arrive());

account = await json(`${base}/records`);
at("account").textContent = account.name;
at("user").textContent = account.user.name;
at("user-initials").textContent = initials(account.user.name);
arrive();
