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
const day = (seconds) => new Date(seconds * 1000).toLocaleDateString(undefined, { day: "numeric", month: "short", year: "numeric" });

export function initials(name) {
  const words = name.split(/\s+/).filter(Boolean);
  return ((words[0]?.[0] ?? "?") + (words.length > 1 ? words.at(-1)[0] : "")).toUpperCase();
}

const money = (value) => value === null ? "" : new Intl.NumberFormat(undefined, { style: "currency", currency: "USD" }).format(value);
const COLUMNS = {
  person: [["Name", "name"], ["Email", "email"], ["Company", "company"], ["Title", "title"]],
  lead: [["Name", "name"], ["Email", "email"], ["Company", "company"], ["Status", "status"]],
  company: [["Name", "name"], ["Email domain", "domain"], ["City", "city"], ["Phone", "phone"]],
  opportunity: [["Name", "name"], ["Company", "company"], ["Status", "status"], ["Value", "value"]],
};

export function drawTypes(counts, current) {
  document.querySelector(".types").replaceChildren(...Object.entries(TYPES).map(([type, words]) => {
    const typeLink = element("a", { href: `#/list/${type}` }, words.plural, element("span", { className: "amount" }, String(counts[type])));
    if (type === current) typeLink.setAttribute("aria-current", "page");
    return typeLink;
  }));
}

export function drawList(type, rows, total, search) {
  const columns = COLUMNS[type];
  const number = (key) => key === "value" ? "number" : "";
  at("list-title").textContent = TYPES[type].plural;
  const emptyMessage = search ? `No ${TYPES[type].plural.toLowerCase()} match "${search}".` : `No ${TYPES[type].plural.toLowerCase()} yet.`;
  at("list-note").textContent = total ? `${rows.length} of ${total}` : emptyMessage;
  document.querySelector("#list thead").replaceChildren(element("tr", {},
    ...columns.map(([title, key]) => element("th", { scope: "col", className: number(key) }, title))));
  document.querySelector("#list tbody").replaceChildren(...rows.map((row) => element("tr", {}, ...columns.map(([, key]) =>
    element("td", { className: number(key) }, key === "name" ? link(type, row.id, row.name) : key === "value" ? money(row.value) : row[key] ?? "")))));
  document.querySelector("#list table").hidden = !rows.length;
  at("more").hidden = rows.length >= total;
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
    ["Tags", record.tags.map((tag) => element("span", { className: "tag" }, tag))],
    ...data.custom.map((field) => [field.name, field.value === null ? null : String(field.value)]),
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

export function drawRecord(type, data, activities) {
  const record = data.record;
  at("initials").textContent = initials(record.name);
  at("initials").classList.toggle("square", type === "company" || type === "opportunity");
  at("type").textContent = TYPES[type].singular;
  at("name").textContent = record.name;
  const rows = fieldRows(type, record, data).filter(([, value]) => value && value.length !== 0);
  at("fields").replaceChildren(...rows.flatMap(([name, value]) =>
    [element("dt", {}, name), element("dd", {}, ...(Array.isArray(value) ? value : [value]))]));
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
