// Routes: #/list/person, #/overdue/person, #/contact/9600012. Records are fetched individually, lists in pages of fifty.
import { Parent } from "./sdk.js";
import { TYPES, addressOf, at, drawForm, drawList, drawNavigation, drawRecord, initials, typeOf } from "./views.js";

const base = location.pathname.replace(/\/app$/, "");
const activities = {};
let account, parent, current = null, navigation = Promise.resolve(), visit = 0, pages = 1, listed = null;

async function json(path, options) {
  const response = await fetch(path, options);
  const body = await response.json();
  if (!response.ok) throw new Error(body.error ?? body.message ?? `the sandbox returned ${response.status}`);
  return body;
}

const simulate = (name, values) => json(`/control/actions/${name}`, {
  method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ ...values, account: account.id }),
});

function context() {
  if (!current) throw new Error("no record");
  const editable = current.type === "lead" ? ["name", "email"] : current.type === "person" ? ["name", "emails"] : ["name"];
  return { entityType: current.type, entityData: current.data.record, editableFields: editable };
}

const host = {
  context: async () => { await navigation; return context(); },
  user: () => ({ account: { id: account.id, name: account.name }, user: account.user }),
  navigate: (type, id) => {
    if (!Object.hasOwn(TYPES, type)) throw new Error("not supported by the sandbox");
    location.hash = addressOf(type, id);
    return {};
  },
  async save({ entityType, entityData }) {
    const before = { ...current.data.record };
    const changed = Object.keys(entityData).filter((name) => JSON.stringify(entityData[name]) !== JSON.stringify(before[name]));
    const readOnly = changed.filter((name) => !context().editableFields.includes(name));
    if (entityType !== current.type || entityData.id !== before.id) throw new Error("not the current record");
    if (readOnly.length) throw new Error(`${readOnly.join(", ")} cannot be edited`);
    const emails = entityData.emails ?? (entityData.email ? [entityData.email] : undefined);
    await updateRecord({ name: entityData.name, ...(emails && { emails: emails.map((entry) => entry.email) }) });
    return context();
  },
  async api(url, { method = "GET", body } = {}) {
    const path = url.replace(/^\/?v1\//, "");
    return json(`${base}/api/${path}`, { method, body, headers: { "Content-Type": "application/json" } });
  },
  refresh: () => navigate({ refresh: true }),
};

async function updateRecord(values) {
  await simulate("update_record", { type: current.type, id: current.data.record.id, ...values });
  await navigate({ refresh: true });
}

async function showRecord(type, id, refresh) {
  const thisVisit = ++visit;
  const [data, latest] = await Promise.all([json(`${base}/records/${type}/${id}`), json(`${base}/records`)]);
  if (thisVisit !== visit) return;
  account = latest;
  current = { type, data };
  drawRecord(type, data, activities[`${type} ${id}`] ?? []);
  show("record", type, "record", data.record.name, refresh);
  if (account.app && !parent) {
    parent = new Parent(account.app, host);
    parent.open(at("app"), "sidebar");
  } else if (parent) parent.broadcast("contextUpdated", context());
}

async function showList(type, list, refresh) {
  const thisVisit = ++visit;
  const search = at("search").value.trim();
  const query = new URLSearchParams({ search, pages, ...(list === "overdue" && { saved: list }) });
  const [page, latest] = await Promise.all([json(`${base}/records/${type}?${query}`), json(`${base}/records`)]);
  if (thisVisit !== visit) return;
  account = latest;
  drawList(type, list, page, search);
  show("list", type, list, at("list-title").textContent, refresh);
  listed = { type, list };
}

// `list` is the list in the navigation that is current: "list" for all records of a type, "overdue", or "record" for none.
function show(view, type, list, title, refresh) {
  at("list").hidden = view !== "list";
  at("record").hidden = view !== "record";
  at("form").hidden = true;
  at("fields").hidden = false;
  at("record-note").textContent = "";
  document.title = `${title} · Sandbox Copper`;
  drawNavigation(account, type, list);
  if (!refresh) { scrollTo(0, 0); at("main").focus({ preventScroll: true }); }
}

function navigate({ refresh = false } = {}) {
  const [, word, id] = location.hash.split("/");
  const recordType = typeOf(word);
  if (!recordType) {
    const type = Object.hasOwn(TYPES, id) ? id : "company";
    const list = word === "overdue" ? "overdue" : "list";
    if (type !== listed?.type || list !== listed.list) { at("search").value = ""; pages = 1; }
    navigation = showList(type, list, refresh);
  } else navigation = showRecord(recordType, Number(id), refresh);
  navigation = navigation.catch((error) => {
    current = null;
    for (const view of ["list", "record"]) at(view).hidden = view !== "list";
    document.querySelector("#list table").hidden = at("more").hidden = at("tabs").hidden = true;
    at("list-title").textContent = "Not found";
    at("list-note").textContent = String(error.message);
  });
  return navigation;
}

async function saveForm(event) {
  event.preventDefault();
  const form = new FormData(at("form"));
  const emails = form.get("emails")?.split(",").map((email) => email.trim()).filter(Boolean);
  try { await updateRecord({ name: form.get("name"), ...(emails && { emails }) }); }
  catch (error) { at("record-note").textContent = error.message; return; }
  at("edit").focus();
}

function setEditing(editing) {
  if (editing) {
    drawForm(current.type, current.data.record);
    at("cancel").addEventListener("click", () => { setEditing(false); at("edit").focus(); });
  }
  at("form").hidden = !editing;
  at("fields").hidden = editing;
  if (editing) at("form").querySelector("input").focus();
}

let searchTimer;
at("search").addEventListener("input", () => { clearTimeout(searchTimer); searchTimer = setTimeout(() => { pages = 1; showList(listed.type, listed.list, true); }, 150); });
at("more").addEventListener("click", () => { pages += 1; showList(listed.type, listed.list, true); });
at("edit").addEventListener("click", () => setEditing(at("form").hidden));
at("form").addEventListener("submit", saveForm);
addEventListener("keydown", (event) => {
  if (event.key === "Escape" && !at("form").hidden) { setEditing(false); at("edit").focus(); }
  if (event.key === "Escape") at("app-card").classList.remove("full");
});
addEventListener("hashchange", () => navigate());

account = await json(`${base}/records`);
at("account").textContent = account.name;
at("user").textContent = account.user.name;
at("user-initials").textContent = initials(account.user.name);
navigate();
