// The panel's script. It exchanges the App SDK's messages with Copper, loads the record that Copper shows, and follows
// its changes by long polling. One record's data never appears under another: when the context changes, the old record
// is removed at once, and a response counts only if its record and request are still the current ones.
"use strict";
(() => {
  const params = new URLSearchParams(location.search);
  const origin = params.get("origin"), instanceId = params.get("instanceId"), token = params.get("token");
  const byId = (id) => document.getElementById(id);
  const container = byId("record"), note = byId("note"), retryButton = byId("retry"), announcement = byId("announcement");
  if (!token) return;
  if (!document.body.dataset.origins.split(" ").includes(origin) || !instanceId) {
    container.setAttribute("aria-busy", "false");
    container.textContent = "This page only works inside Copper. Add its URL there as an embedded app.";
    return;
  }
  document.body.classList.add("live");
  container.tabIndex = -1;

  const RECORD_TYPES = ["lead", "person", "company", "opportunity"];
  const LONG_POLL_SECONDS = 20, REQUEST_TIMEOUT_SECONDS = 30, SLOW_AFTER_SECONDS = 4, CONTEXT_TIMEOUT_SECONDS = 5;
  const MAX_BACKOFF_SECONDS = 60, MAX_RETRY_AFTER_SECONDS = 300, SEARCH_DELAY_MS = 300, COPIED_MS = 2000;
  // The filters that are kept for the next visit, and what the server accepts of each.
  const FILTERS_KEY = "patina-filters", KEPT_FILTERS = {
    status: /^[A-Z]{1,20}$/, organisation: /^\d{1,18}$/, currency: /^\w{1,10}$/, type: /^[A-Z-]{1,30}$/, sort: /^(due|balance|unpaid)$/,
  };
  let record = null;                             // { type, id, key } of the record that Copper shows, once it is known
  let requestedView = {}, displayedView = {};    // the query parameters that the viewer asked for, and those displayed
  let etag = null, lastResponseAt = null;
  let request = null, retryTimer = 0, failures = 0, isPollingLimited = false, afterRender = null;
  let lastMessageId = 0, contextRequestId = 0, contextTimer = 0;
  let searchTimer = 0, retryAction = null, countdownTimer = 0, popup = null, secret = null, verificationNumber = "";

  // Messages with Copper

  const postToCopper = (type, fields = {}, id = -1) =>
    window.top.postMessage({ ...fields, instanceId, version: "0.9.1", type, id }, origin);
  const setBadge = (count) => postToCopper("setUI", { data: { count } });

  function requestContext() {
    contextRequestId = ++lastMessageId;
    clearTimeout(contextTimer);
    contextTimer = setTimeout(onContextUnavailable, CONTEXT_TIMEOUT_SECONDS * 1000);
    postToCopper("getContext", {}, contextRequestId);
  }

  const handlers = new Map([
    ["getContext", (message) => {
      if (!contextRequestId || message.id !== contextRequestId) return;
      contextRequestId = 0;
      clearTimeout(contextTimer);
      if (message.error || !message.data) return onContextUnavailable();
      openRecord(parseContext(message.data));
    }],
    ["contextUpdated", (message) => {
      const next = parseContext(message.data || message.msg);
      if (!record || next.key !== record.key) clearRecord();
      requestContext();
    }],
  ]);

  // The record of a context; without a key if there is none, with the text to show instead of its invoices.
  function parseContext(context) {
    const type = context?.entityType, rawId = context?.entityData?.id;
    if (!RECORD_TYPES.includes(type) || rawId === undefined || rawId === null)
      return { problem: "Open a lead, person, company or opportunity to see its invoices." };
    const id = typeof rawId === "string" && /^[1-9]\d{0,15}$/.test(rawId) ? Number(rawId) : rawId;
    if (!Number.isSafeInteger(id) || id < 1)
      return { problem: "Copper sent a record ID that isn't valid. Open the record again." };
    return { type, id, key: `${type}/${id}` };
  }

  function onContextUnavailable() {
    clearRecord();
    showNoRecord();
    const retry = () => { clearRecord(); requestContext(); };
    showNote("Copper didn't say which record is open. Open the record again, or reload the page.", retry);
  }

  function openRecord(next) {
    if (record && next.key === record.key) return load();
    clearRecord();
    if (next.key) {
      record = next;
      return load();
    }
    showNoRecord(next.problem);
  }

  // Remove the record and everything displayed of it.
  function clearRecord() {
    cancelRequest();
    clearTimeout(searchTimer);
    record = etag = lastResponseAt = afterRender = null;
    requestedView = displayedView = loadFilters();
    failures = 0;
    showNote("");
    announce("");
    setBadge(0);
    container.replaceChildren(paragraph("loading", "Loading invoices…"));
    container.setAttribute("aria-busy", "true");
  }

  function showNoRecord(text) {
    container.setAttribute("aria-busy", "false");
    container.replaceChildren(...(text ? [paragraph("aside", text)] : []));
    if (text) announce("No invoices to show.");
  }

  // Requests to Patina

  // The response with its body; null if the request failed, was aborted or timed out.
  async function fetchFromPatina(path, { headers = {}, controller = new AbortController(), ...options } = {}) {
    const timer = setTimeout(() => controller.abort(), REQUEST_TIMEOUT_SECONDS * 1000);
    try {
      const init = { ...options, headers: { Authorization: `Bearer ${token}`, ...headers }, signal: controller.signal, cache: "no-store" };
      const response = await fetch(path, init);
      return { response, body: await response.text() };
    } catch {
      return null;
    } finally {
      clearTimeout(timer);
    }
  }

  function cancelRequest() {
    clearTimeout(retryTimer);
    if (request) request.abort();
    request = null;
  }

  async function load({ isLongPoll = false } = {}) {
    cancelRequest();
    if (!record) return;
    const controller = (request = new AbortController()), view = requestedView, startedAt = Date.now();
    const showSlow = () => controller === request && showUnreachable(startedAt + REQUEST_TIMEOUT_SECONDS * 1000);
    const slowTimer = isLongPoll ? 0 : setTimeout(showSlow, SLOW_AFTER_SECONDS * 1000);
    if (!isLongPoll) {
      container.setAttribute("aria-busy", "true");
      if (countdownTimer) stopCountdown("Retrying now…");
    }
    const headers = { ...(etag && { "If-None-Match": etag }), ...(isLongPoll && { Prefer: `wait=${LONG_POLL_SECONDS}` }) };
    const result = await fetchFromPatina(`/panel/records/${record.key}?${new URLSearchParams(view)}`, { headers, controller });
    clearTimeout(slowTimer);
    if (controller !== request) return;
    request = null;
    container.setAttribute("aria-busy", "false");
    if (isLongPoll && result?.response.status === 429) return pollLater(result.response);
    const outcome = result ? handleResponse(result, view) : "failed";
    if (outcome === "failed") return onFailure(result);
    if (outcome === "unchecked") return void (retryTimer = setTimeout(load, backoffSeconds() * 1000));
    if (outcome === "denied") return;
    const endedEarly = result.response.status === 304 && isLongPoll && Date.now() - startedAt < 2000;
    if (isLongPoll) isPollingLimited = false;
    onSuccess(result.response, !endedEarly && !isPollingLimited);
    const delaySeconds = endedEarly ? LONG_POLL_SECONDS : 0;
    if (!document.hidden) retryTimer = setTimeout(load, delaySeconds * 1000, { isLongPoll: true });
  }

  // Display a response. One that is not Patina's, or is another record's, counts as a failure.
  function handleResponse({ response, body }, view) {
    if (response.status === 304 && etag) return "displayed";
    const part = parseHtml(body);
    if (part?.matches(".denied") && [401, 403, 503].includes(response.status)) {
      showDenied(part);
      return response.status === 503 ? "unchecked" : "denied";
    }
    if (!response.ok || !part?.matches(".record") || part.dataset.record !== record.key) return "failed";
    if (!fillUnchangedRows(part)) {
      etag = null;
      return "failed";
    }
    etag = response.headers.get("ETag");
    display(part, view);
    return "displayed";
  }

  // A live change has only the rows that changed; the others are as they are displayed. False if one is not.
  function fillUnchangedRows(part) {
    return [...part.querySelectorAll("tr[data-unchanged]")].every((row) => {
      const current = byId(row.id);
      if (!current) return false;
      const copy = current.cloneNode(true);
      copy.classList.remove("changed");
      row.replaceWith(copy);
      return true;
    });
  }

  function onSuccess(response, isLive) {
    failures = 0;
    showNote("");
    lastResponseAt = new Date();
    showLastSynced(isLive, response.headers.get("X-Last-Synced-At"));
  }

  // Too many panels are open for this one to be updated live: it polls at intervals instead.
  function pollLater(response) {
    isPollingLimited = true;
    showLastSynced(false);
    if (!document.hidden) retryTimer = setTimeout(load, (retryAfterSeconds(response) || LONG_POLL_SECONDS) * 1000);
  }

  const retryAfterSeconds = (response) =>
    Math.min(Number(response?.headers.get("Retry-After")), MAX_RETRY_AFTER_SECONDS) || 0;
  const backoffSeconds = () => Math.min(5 * 2 ** failures++, MAX_BACKOFF_SECONDS) * (0.75 + Math.random() / 2);

  function onFailure(result) {
    requestedView = displayedView;
    afterRender = null;
    saveFilters(displayedView);
    syncFilters();
    const response = result?.response, retryAfter = retryAfterSeconds(response), seconds = retryAfter || backoffSeconds();
    showUnreachable(Date.now() + seconds * 1000, retryAfter && [429, 503].includes(response.status));
    if (!document.hidden) retryTimer = setTimeout(load, seconds * 1000);
  }

  function showUnreachable(retryAt, isBusy = false) {
    container.querySelector(".loading")?.remove();
    const hasRecord = container.querySelector(".record");
    if (hasRecord) showLastSynced(false);
    const consequence = hasRecord ? "These figures may be out of date." : "Invoices can't be shown right now.";
    showNote(`${isBusy ? "Patina is busy" : "Can't reach Patina"}. ${consequence}`, load, retryAt);
  }

  function showDenied(part) {
    etag = null;
    setBadge(0);
    showNote("");
    container.replaceChildren(part);
    showVerificationNumber();
  }

  // Rendering

  function paragraph(className, text) {
    const element = document.createElement("p");
    element.className = className;
    element.textContent = text;
    return element;
  }

  function parseHtml(html) {
    const template = document.createElement("template");
    template.innerHTML = html;
    return template.content.firstElementChild;
  }

  function announce(text) {
    if (announcement.textContent !== text) announcement.textContent = text;
  }

  // Show a note above the rows, with a countdown to `retryAt`. Screen readers announce the text once, not the seconds.
  function showNote(text, action = null, retryAt = 0) {
    stopCountdown("");
    retryAction = action;
    if (!action && document.activeElement === retryButton) container.focus({ preventScroll: true });
    retryButton.hidden = !action;
    if (note.dataset.text !== text) note.replaceChildren(text);
    note.dataset.text = text;
    if (!retryAt) return;
    const tick = () => {
      const seconds = Math.max(Math.ceil((retryAt - Date.now()) / 1000), 0);
      showCountdown(seconds === 1 ? "Retrying in 1 second." : `Retrying in ${seconds} seconds.`);
    };
    tick();
    countdownTimer = setInterval(tick, 1000);
  }

  function showCountdown(text) {
    let countdown = note.querySelector("span");
    if (!countdown) {
      countdown = document.createElement("span");
      countdown.ariaHidden = "true";
      note.append(" ", countdown);
    }
    countdown.textContent = text;
  }

  function stopCountdown(text) {
    if (countdownTimer) showCountdown(text);
    clearInterval(countdownTimer);
    countdownTimer = 0;
  }

  function showLastSynced(isLive, syncedAt = null) {
    const line = byId("last-synced");
    if (!line) return;
    if (!isLive) return line.replaceChildren("Updated ", timeElement(lastResponseAt));
    line.replaceChildren("Live · ", ...(syncedAt ? ["Last synced ", timeElement(new Date(syncedAt))] : ["Not synced yet"]));
  }

  function timeElement(at) {
    const element = document.createElement("time"), isToday = new Date().toDateString() === at.toDateString();
    element.dateTime = at.toISOString();
    element.title = at.toLocaleString();
    element.textContent = at.toLocaleString([], isToday ? { timeStyle: "short" } : { dateStyle: "medium", timeStyle: "short" });
    return element;
  }

  const rowsById = (part) => new Map([...part.querySelectorAll("tr[data-number]")].map((row) => [row.id, row]));
  const invoiceCount = (count) => (count === 1 ? "1 invoice" : `${count.toLocaleString()} invoices`);

  function display(part, view) {
    const current = container.querySelector(".record"), focused = document.activeElement;
    setBadge(Number(part.dataset.count));
    if (!current) {
      container.replaceChildren(part);
      announce(part.dataset.summary);
    } else if (view === displayedView) updateRows(current, part);
    else {
      morph(current, keepDetails(current, part));
      const option = byId("status")?.querySelector("[selected]"), status = view.status && option ? `${option.text.replace(/ \(.*/, "")}: ` : "";
      announce(`${status}${invoiceCount(rowsById(current).size)} shown`);
    }
    displayedView = view;
    syncFilters();
    if (afterRender) afterRender();
    else if (container !== focused && focused?.id && !focused.isConnected) byId(focused.id)?.focus({ preventScroll: true });
    else if (focused?.isConnected && focused !== document.activeElement) focused.focus({ preventScroll: true });
    afterRender = null;
  }

  // Update the rows that are already displayed: changes fade in and are announced.
  function updateRows(current, part) {
    for (const row of current.querySelectorAll(".changed")) row.classList.remove("changed");
    keepDetails(current, part);
    const before = rowsById(current), after = rowsById(part), updated = [], added = [], removed = [];
    for (const [id, row] of after) {
      if (!before.has(id)) added.push(row);
      else if (!before.get(id).isEqualNode(row)) updated.push(row);
    }
    for (const [id, row] of before) if (!after.has(id)) removed.push(row);
    const changes = [[updated, "updated"], [added, "added"], [added.length ? [] : removed, "removed"]]
      .filter(([rows]) => rows.length)
      .map(([rows, verb]) => `${rows.length > 3 ? invoiceCount(rows.length) : rows.map((row) => row.dataset.number).join(", ")} ${verb}`);
    const changedIds = [...updated, ...added].map((row) => row.id);
    morph(current, part);
    for (const id of changedIds) byId(id).classList.add("changed");
    if (changes.length) announce(changes.join("; "));
  }

  // Copy open match details into the new part, so that they stay open.
  function keepDetails(current, part) {
    const rows = rowsById(part);
    for (const details of current.querySelectorAll(".details")) {
      const row = rows.get(details.previousElementSibling.id);
      if (!row) continue;
      row.after(details.cloneNode(true));
      row.querySelector(".match").setAttribute("aria-expanded", "true");
    }
    return part;
  }

  // Make `from` equal to `to` but keep its elements that have the same id, so that focus and scroll position stay.
  function morph(from, to) {
    if (from.isEqualNode(to)) return;
    for (const { name } of [...from.attributes]) if (!to.hasAttribute(name)) from.removeAttribute(name);
    for (const { name, value } of to.attributes) if (from.getAttribute(name) !== value) from.setAttribute(name, value);
    const newIds = new Set([...to.children].map((child) => child.id));
    for (const child of [...from.children]) if (child.id && !newIds.has(child.id)) child.remove();
    const existing = new Map([...from.children].map((child) => [child.id, child]));
    let next = from.firstChild;
    const removeNext = () => { const node = next; next = next.nextSibling; node.remove(); };
    for (const child of [...to.childNodes]) {
      let match = child.id ? existing.get(child.id) : next && !next.id && next.nodeName === child.nodeName ? next : null;
      if (child.id && match) while (next && next !== match && !next.id) removeNext();
      if (!match) from.insertBefore(child, next);
      else {
        if (match !== next) from.insertBefore(match, next);
        if (match.nodeType !== Node.ELEMENT_NODE) match.nodeValue = child.nodeValue;
        else morph(match, child);
        next = match.nextSibling;
      }
    }
    while (next) removeNext();
  }

  // Match details

  function toggleDetails(button) {
    const row = button.closest("tr"), open = byId(button.getAttribute("aria-controls"));
    if (open) {
      if (open.dataset.loading) return;
      open.remove();
      return button.setAttribute("aria-expanded", "false");
    }
    const details = document.createElement("tr"), cell = details.insertCell();
    details.className = "details";
    details.id = button.getAttribute("aria-controls");
    details.setAttribute("role", "row");
    details.ariaLabel = button.textContent;
    cell.setAttribute("role", "cell");
    cell.colSpan = row.cells.length;
    row.after(details);
    button.setAttribute("aria-expanded", "true");
    loadDetails(details, button.dataset.path);
  }

  async function loadDetails(details, path) {
    const recordAtStart = record, cell = details.cells[0];
    details.dataset.loading = "true";
    cell.textContent = "Loading…";
    const result = await fetchFromPatina(`/panel${path}`);
    if (record !== recordAtStart || !details.isConnected) return;
    delete details.dataset.loading;
    const { response, body } = result || {};
    if (response?.ok) cell.innerHTML = body;
    else if (response?.status === 404) cell.textContent = "This invoice is no longer on this record.";
    else if (response && [401, 403].includes(response.status)) load();
    else {
      const retry = document.createElement("button");
      retry.className = "quiet retry-details";
      retry.textContent = "Try again.";
      cell.replaceChildren("Couldn't load the reason. ", retry);
    }
  }

  // Signing in happens in a pop-up of our own, whose code works only with this panel's secret.

  const base64Url = (bytes) => btoa(String.fromCharCode(...new Uint8Array(bytes))).replaceAll("+", "-").replaceAll("/", "_").replace(/=+$/, "");

  async function signIn() {
    popup = window.open("", "patina-sign-in", "popup,width=520,height=680");
    secret = base64Url(crypto.getRandomValues(new Uint8Array(32)));
    const digest = await crypto.subtle.digest("SHA-256", new TextEncoder().encode(secret)), challenge = base64Url(digest);
    verificationNumber = String((new DataView(digest).getUint16(0) % 90) + 10);
    if (popup) popup.location = `/panel/signin?challenge=${challenge}`;
    else showNote("Your browser blocked the sign-in window. Allow pop-ups for this page and try again.");
    showVerificationNumber();
  }

  // The pop-up asks for this number, so that nobody signs in for a panel that they don't see.
  function showVerificationNumber() {
    if (!byId("code-form")) return;
    byId("code-form").hidden = byId("number-hint").hidden = !secret;
    byId("number").textContent = verificationNumber;
  }

  async function exchangeCode(code) {
    const body = JSON.stringify({ code, secret });
    const result = await fetchFromPatina("/panel/session", { method: "POST", headers: { "Content-Type": "application/json" }, body });
    if (!result) return showNote("Can't reach Patina. Try again.");
    if (!result.response.ok) return showNote("That code isn't valid. Sign in again.");
    secret = null;
    if (popup) popup.postMessage("patina-signed-in", location.origin);
    await load();
    if (byId("sign-in")) showNote("Your browser blocked the sign-in cookie. Allow cookies for this panel and try again.");
  }

  // User actions

  // Follow a link to another view of the same record: other rows, or more of them.
  function showView(link) {
    const count = rowsById(container).size;
    if (link.id === "more") afterRender = () => [...rowsById(container).values()][count]?.querySelector("a").focus({ preventScroll: true });
    if (link.id === "fewer") afterRender = () => byId("more")?.focus();
    if (link.id === "clear-link") afterRender = () => byId("search")?.focus({ preventScroll: true });
    requestView(Object.fromEntries(new URLSearchParams(link.search)));
  }

  function requestView(view) {
    clearTimeout(searchTimer);
    requestedView = view;
    saveFilters(view);
    load();
  }

  function applyFilters() {
    const chosen = [...new FormData(byId("filter"))].filter(([name, value]) => value && !(name === "sort" && value === "created"));
    const view = Object.fromEntries(chosen), isNew = new URLSearchParams(view).toString() !== new URLSearchParams(requestedView).toString();
    if (isNew) requestView(view);
  }

  // Show in the form what is filtered by; a text that is being typed is left alone.
  function syncFilters() {
    for (const field of byId("filter")?.elements || []) {
      if (field.id === "search" && field === document.activeElement) continue;
      const value = displayedView[field.name] ?? (field.name === "sort" ? "created" : "");
      if (field.name) field.value = field.options && ![...field.options].some((option) => option.value === value) ? "" : value;
    }
  }

  // A viewer's filters are kept in the browser, if it lets a frame keep anything; the search text is not.
  function saveFilters(view) {
    const kept = Object.fromEntries(Object.keys(KEPT_FILTERS).filter((name) => view[name]).map((name) => [name, view[name]]));
    try {
      localStorage.setItem(FILTERS_KEY, JSON.stringify(kept));
    } catch { /* Storage is off or full: the filters last as long as the panel. */ }
  }

  function loadFilters() {
    try {
      const kept = JSON.parse(localStorage.getItem(FILTERS_KEY)) || {};
      return Object.fromEntries(Object.entries(KEPT_FILTERS)
        .filter(([name, pattern]) => typeof kept[name] === "string" && pattern.test(kept[name])).map(([name]) => [name, kept[name]]));
    } catch {
      return {};
    }
  }

  // A row is one tab stop: the arrow keys reach its other controls, and the other rows.
  const controlsOf = (row) => [...row.querySelectorAll("td > a, td > button")];

  function moveFocus(event) {
    const row = event.target.closest?.("tr[data-number]"), controls = row ? controlsOf(row) : [], index = controls.indexOf(event.target);
    const steps = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0] }[event.key];
    if (index < 0 || !steps || event.altKey || event.ctrlKey || event.metaKey) return;
    const rows = [...rowsById(container).values()], next = rows[rows.indexOf(row) + steps[0]];
    const target = next && controlsOf(next)[index + steps[1]];
    if (!target) return;
    event.preventDefault();
    target.focus();
  }

  // Copy a text; false if the browser allows it neither way. The button that was clicked keeps the focus.
  async function copyText(text, button) {
    try {
      await navigator.clipboard.writeText(text);
      return true;
    } catch {
      const field = document.createElement("input");
      field.value = text;
      document.body.append(field);
      field.select();
      const isCopied = document.execCommand("copy");
      field.remove();
      button.focus({ preventScroll: true });
      return isCopied;
    }
  }

  async function copyNumber(button) {
    const number = button.closest("tr").dataset.number, label = button.firstChild, text = label.nodeValue;
    const isCopied = await copyText(number, button);
    announce(isCopied ? `${number} copied` : "Your browser doesn't allow copying here.");
    if (!isCopied || text !== "Copy") return;
    label.nodeValue = "Copied";
    setTimeout(() => (label.nodeValue = "Copy"), COPIED_MS);
  }

  // Request the link of an invoice and copy it. Browsers allow that only shortly after a click, so if the response was
  // slow, the link is shown and selected instead.
  async function copyCustomerLink(button) {
    const message = button.nextElementSibling;
    if (button.ariaDisabled) return;
    button.ariaDisabled = "true";
    showLinkMessage(message, "Getting the link from Xero…");
    const result = await fetchFromPatina(`/panel${button.dataset.path}`, { method: "POST" });
    button.ariaDisabled = null;
    if (!button.isConnected) return;
    if (result && [401, 403].includes(result.response.status)) return load();
    const { url, detail } = parseJson(result?.body) || {};
    if (!result?.response.ok || !url) return showLinkMessage(message, detail || "Can't reach Patina. Try again.");
    if (await copyText(url, button)) return showLinkMessage(message, "Link copied.");
    showLinkMessage(message, "Press Ctrl+C or ⌘C to copy the link:");
    const field = document.createElement("input");
    field.readOnly = true;
    field.value = url;
    field.ariaLabel = "Link for the customer";
    message.append(" ", field);
    field.select();
  }

  function showLinkMessage(message, text) {
    message.textContent = text;
    announce(text);
  }

  function parseJson(text) {
    try {
      return JSON.parse(text);
    } catch {
      return null;
    }
  }

  function retryDetails(details) {
    const button = details.previousElementSibling.querySelector(".match");
    button.focus({ preventScroll: true });
    loadDetails(details, button.dataset.path);
  }

  container.addEventListener("click", (event) => {
    const target = event.target.closest("a, button");
    if (!target || target.target === "_blank") return;
    if (target.localName === "a") event.preventDefault();
    if (target.id === "sign-in") signIn();
    else if ("view" in target.dataset) showView(target);
    else if (target.classList.contains("copy")) copyNumber(target);
    else if (target.classList.contains("copy-link")) copyCustomerLink(target);
    else if (target.classList.contains("match")) event.detail < 2 && toggleDetails(target);
    else if (target.classList.contains("retry-details")) retryDetails(target.closest("tr"));
    else if (target.dataset.type)
      postToCopper("navigateToEntityDetail", { entityType: target.dataset.type, entityId: Number(target.dataset.id) }, ++lastMessageId);
  });
  container.addEventListener("change", (event) => {
    if (event.target.form?.id === "filter") applyFilters();
  });
  container.addEventListener("input", (event) => {
    if (event.target.id !== "search") return;
    clearTimeout(searchTimer);
    searchTimer = setTimeout(applyFilters, SEARCH_DELAY_MS);
  });
  container.addEventListener("keydown", moveFocus);
  container.addEventListener("submit", (event) => {
    event.preventDefault();
    if (event.target.id === "filter") applyFilters();
    if (event.target.id === "code-form") exchangeCode(event.target.elements.code.value);
  });
  container.addEventListener("animationend", (event) => event.target.closest("tr")?.classList.remove("changed"));
  retryButton.addEventListener("click", () => retryAction && retryAction());
  addEventListener("online", () => failures && load());
  document.addEventListener("visibilitychange", () => (document.hidden ? cancelRequest() : load()));
  addEventListener("message", ({ origin: senderOrigin, data }) => {
    if (!data || typeof data !== "object") return;
    if (senderOrigin === location.origin && typeof data.patinaCode === "string") return void exchangeCode(data.patinaCode);
    if (senderOrigin === origin) handlers.get(data.type)?.(data);
  });

  postToCopper("init");
  requestContext();
})();
