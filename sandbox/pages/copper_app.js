// The parent's side of the App SDK's messages, for one app in one frame.
"use strict";
(async () => {
  const base = location.pathname.replace(/\/app$/, "");
  const held = await (await fetch(`${base}/records`)).json();
  const words = { lead: "lead", contact: "person", organization: "company", deal: "opportunity" };
  const instanceId = "sandbox-1";
  let current = null, frame = null, origin = null, ready = false;
  window.heard = [];

  const named = (type) => Object.keys(words).find((word) => words[word] === type);
  const find = (type, id) => (held.records[type] || []).find((one) => one.id === id);
  document.getElementById("account").textContent = held.account;
  document.getElementById("list").append(...Object.entries(held.records).flatMap(([type, records]) => {
    const title = document.createElement("h3");
    title.textContent = type;
    return [title, ...records.slice(0, 50).map((one) => {
      const link = document.createElement("a");
      link.href = `#/${named(type)}/${one.id}`;
      link.textContent = one.name;
      return link;
    })];
  }));

  if (held.app) {
    frame = document.createElement("iframe");
    const url = new URL(held.app);
    url.searchParams.set("origin", location.origin);
    url.searchParams.set("instanceId", instanceId);
    origin = url.origin;
    frame.title = "Xero invoices";
    frame.src = url;
    frame.allow = "storage-access";
    document.getElementById("app").replaceChildren(frame);
  }

  const post = (type, fields, id) => ready && frame.contentWindow.postMessage({ ...fields, type, id }, origin);
  const context = () => ({ entityType: current.type, entityData: current.record, editableFields: [] });
  const answers = {
    getContext: () => { if (!current) throw "no record"; return context(); },
    getUserInfo: () => held.user,
    getConfig: () => ({ appConfig: {}, config: {} }),
    navigateToEntityDetail: ({ entityType, entityId }) => { location.hash = `#/${named(entityType)}/${entityId}`; return {}; },
  };
  addEventListener("message", (event) => {
    if (!frame || event.source !== frame.contentWindow || event.origin !== origin) return;
    const message = event.data;
    if (!message || message.instanceId !== instanceId) return;
    window.heard.push(message);
    ready = true;
    if (message.type === "setUI") document.getElementById("count").textContent = message.data.count;
    const answer = answers[message.type];
    if (!answer || message.id === -1) return;
    try { post(message.type, { data: answer(message) }, message.id); }
    catch (error) { post(message.type, { error: String(error) }, message.id); }
  });

  function choose() {
    const [, word, id] = location.hash.split("/");
    const record = find(words[word], Number(id));
    if (!record) return;
    current = { type: words[word], record };
    document.getElementById("name").textContent = record.name;
    const emails = (record.emails || (record.email ? [record.email] : [])).map((one) => one.email);
    document.getElementById("fields").textContent = [current.type, ...emails].join(" · ");
    for (const link of document.querySelectorAll("nav a")) link.toggleAttribute("aria-current", link.hash === location.hash);
    post("contextUpdated", { data: context() }, -1);
  }
  addEventListener("hashchange", choose);
  choose();
})();
