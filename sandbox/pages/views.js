// Renders lists and records. Every text is inserted as text, never as HTML.
export const TYPES = {
  person: { singular: "Person", plural: "People", word: "contact" },
  lead: { singular: "Lead", plural: "Leads", word: "lead" },
  company: { singular: "Company", plural: "Companies", word: "organization" },
  opportunity: { singular: "Opportunity", plural: "Opportunities", word: "deal" },
};
export const typeOf = (word) => Object.keys(TYPES).find((type) => TYPES[type].word === word);
export const addressOf = (type, id) => `#/${TYPES[type].word}/${id}`;

export function element(tag, properties = {}, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children.filter((child) => child !== null && child !== undefined && child !== ""));
  return node;
}
export const at = (id) => document.getElementById(id);
const link = (type, id, text) => element("a", { href: addressOf(type, id) }, text);
const day = (seconds, timeZone) => new Date(seconds * 1000).toLocaleDateString(undefined, { day: "numeric", month: "short", year: "numeric", timeZone });

export function initials(name) {
  const words = name.split(/\s+/).filter(Boolean);
  return ((words[0]?.[0] ?? "?") + (words.length > 1 ? words.at(-1)[0] : "")).toUpperCase();
}

const money = (value, currency = "USD") => value === null ? "" : new Intl.NumberFormat(undefined, { style: "currency", currency }).format(value);
const number = (value) => new Intl.NumberFormat(undefined, { maximumFractionDigits: 10 }).format(value);
const calendarDay = (text) => { const [month, date, year] = text.split("/"); return day(Date.UTC(year, month - 1, date) / 1000, "UTC"); };
const website = (text) => /^https?:\/\//i.test(text) ? element("a", { href: text, rel: "noopener" }, text) : text;
const tag = (text) => element("span", { className: "tag" }, text);
const FORMATS = {
  Currency: (value, field) => money(value, field.currency),
  Float: number,
  Percentage: (value) => `${number(value)}%`,
  Date: calendarDay,
  Checkbox: (value) => value ? "Yes" : "No",
  URL: website,
  MultiSelect: (value) => value.map(tag),
};
const isEmpty = (value) => value === null || value === "" || value.length === 0;
const formatted = (field) => isEmpty(field.value) ? "" : (FORMATS[field.type] ?? String)(field.value, field);
const COLUMNS = {
  person: [["Name", "name"], ["Email", "email"], ["Company", "company"], ["Title", "title"]],
  lead: [["Name", "name"], ["Email", "email"], ["Company", "company"], ["Status", "status"]],
  company: [["Name", "name"], ["Email domain", "domain"], ["City", "city"], ["Phone", "phone"]],
  opportunity: [["Name", "name"], ["Company", "company"], ["Status", "status"], ["Value", "value"]],
};

function navigationLink(list, type, count, isCurrent) {
  const listLink = element("a", { href: `#/${list}/${type}` }, TYPES[type].plural, " ", element("span", { className: "amount" }, String(count)));
  setCurrent(listLink, isCurrent);
  return listLink;
}

function setCurrent(node, isCurrent) {
  if (isCurrent) node.setAttribute("aria-current", "page");
  else node.removeAttribute("aria-current");
}

export function drawNavigation({ counts, overdue }, type, list) {
  at("types").replaceChildren(...Object.keys(TYPES).map((key) => navigationLink("list", key, counts[key], list !== "overdue" && key === type)));
  at("saved").hidden = !overdue;
  if (overdue) at("overdue-link").querySelector("span").textContent = String(Object.values(overdue).reduce((sum, count) => sum + count));
  setCurrent(at("overdue-link"), list === "overdue");
  at("tabs").hidden = list !== "overdue" || !overdue;
  at("tabs").replaceChildren(...Object.entries(overdue ?? {}).map(([key, count]) => navigationLink("overdue", key, count, key === type)));
}

export function drawList(type, list, { records, total, columns: customNames }, search) {
  const plural = TYPES[type].plural.toLowerCase();
  const [name, ...others] = COLUMNS[type].map(([title, key]) => ({
    title, className: key === "value" ? "number" : "", cell: (row) => key === "name" ? link(type, row.id, row.name) : key === "value" ? money(row.value) : row[key] ?? "",
  }));
  const custom = customNames.map((title, index) => ({ title, className: "number", cell: (row) => formatted(row.custom[index]) }));
  const columns = [name, ...custom, ...others];
  at("list-title").textContent = list === "overdue" ? "Xero overdue" : TYPES[type].plural;
  const emptyMessage = search ? `No ${plural} match "${search}".` : list === "overdue" ? `No ${plural} are overdue.` : `No ${plural} yet.`;
  at("list-note").textContent = total ? `${records.length} of ${total}` : emptyMessage;
  document.querySelector("#list thead").replaceChildren(element("tr", {},
    ...columns.map(({ title, className }) => element("th", { scope: "col", className }, title))));
  document.querySelector("#list tbody").replaceChildren(...records.map((row) => element("tr", {},
    ...columns.map(({ className, cell }) => element("td", { className }, cell(row))))));
  document.querySelector("#list table").hidden = !records.length;
  at("more").hidden = records.length >= total;
}

function fieldRows(type, record, data) {
  const emails = (record.emails ?? (record.email ? [record.email] : [])).map((email) => element("div", {}, email.email));
  const address = record.address ? ["street", "city", "state", "postal_code", "country"].map((part) => record.address[part]).filter(Boolean).join(", ") : "";
  const company = record.company_id ? link("company", record.company_id, record.company_name) : record.company_name;
  return [
    ["Email", emails],
    ["Email domain", record.email_domain],
    ["Phone", (record.phone_numbers ?? []).map((phone) => element("div", {}, phone.number))],
    ["Title", record.title],
    ["Company", company],
    ["Primary contact", data.primary ? link("person", record.primary_contact_id, data.primary) : null],
    ["Status", record.status],
    ["Stage", data.stage],
    ["Value", record.monetary_value === undefined ? null : money(record.monetary_value)],
    ["Close date", record.close_date],
    ["Address", address],
    ["Website", (record.websites ?? []).map((site) => element("div", {}, site.url))],
    ["Owner", data.owner],
    ["Tags", record.tags.map(tag)],
  ];
}

function drawRelated(related) {
  const cards = Object.entries(TYPES).map(([type, words]) => {
    const ofType = related.filter((end) => end.type === type);
    if (!ofType.length) return null;
    return element("section", { className: "card" },
      element("h3", {}, words.plural, element("span", { className: "count" }, String(ofType.length))),
      element("ul", {}, ...ofType.map((end) => element("li", {}, link(type, end.id, end.name), " ", element("span", {}, end.note)))));
  });
  at("links").replaceChildren(...cards.filter(Boolean));
}

function drawCustomFields(fields) {
  at("custom").hidden = !fields.length;
  at("custom-fields").replaceChildren(...fields.flatMap((field) => {
    const value = isEmpty(field.value) ? "None" : formatted(field);
    return [element("dt", {}, field.name),
      element("dd", { className: isEmpty(field.value) ? "empty" : "" }, ...(Array.isArray(value) ? value : [value]))];
  }));
}

export function drawRecord(type, data, activities) {
  const record = data.record;
  at("initials").textContent = initials(record.name);
  at("initials").classList.toggle("square", type === "company" || type === "opportunity");
  at("type").textContent = TYPES[type].singular;
  at("name").textContent = record.name;
  const rows = fieldRows(type, record, data).filter(([, value]) => value && value.length !== 0);
  at("fields").replaceChildren(...rows.flatMap(([name, value]) =>
    [element("dt", {}, name), element("dd", {}, ...(Array.isArray(value) ? value : [value]))]));
  drawCustomFields(data.custom);
  const changes = record.date_modified > record.date_created ? [["Last changed", record.date_modified]] : [];
  const lines = [...activities, ...changes, [`${TYPES[type].singular} added`, record.date_created]];
  at("activity").replaceChildren(...lines.map(([text, when]) => element("li", {}, element("time", {}, day(when)), text)));
  drawRelated(data.related);
}

export function drawForm(type, record) {
  const emails = (record.emails ?? (record.email ? [record.email] : [])).map((email) => email.email).join(", ");
  const field = (name, label, value) => element("label", {}, label, element("input", { name, value }));
  at("form").replaceChildren(...[
    field("name", "Name", record.name),
    type === "person" || type === "lead" ? field("emails", type === "person" ? "Emails, separated by commas" : "Email", emails) : null,
    element("button", { type: "submit" }, "Save"), " ", element("button", { type: "button", id: "cancel" }, "Cancel")].filter(Boolean));
}
