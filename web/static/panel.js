// The panel's live part. It speaks the App SDK's messages with Copper, loads the record that Copper shows, and follows
// its changes by one held request. Nothing of one record is ever shown as another's: when the context changes, the old
// record goes at once, and an answer counts only for the record and the request that are current when it arrives.
"use strict";
(() => {
  const params = new URLSearchParams(location.search);
  const origin = params.get("origin"), instanceId = params.get("instanceId"), token = params.get("token");
  const byId = (id) => document.getElementById(id);
  const place = byId("record"), note = byId("note"), retryButton = byId("retry"), announcement = byId("announcement");
  if (!token) return;
  if (!document.body.dataset.origins.split(" ").includes(origin) || !instanceId) {
    place.setAttribute("aria-busy", "false");
    place.textContent = "This page only works inside Copper. Add its URL there as an embedded app.";
    return;
  }
  document.body.classList.add("live");
  place.tabIndex = -1;

  const TYPES = ["lead", "person", "company", "opportunity"];
  const WAIT = 20, TIMEOUT = 30, SLOW = 4, CONTEXT_TIMEOUT = 5, MAX_PAUSE = 60, MAX_RETRY_AFTER = 300; // seconds
  let record = null;          // { type, id, key }: what Copper shows, once it has said so
  let choice = {};            // the status and number of rows that the viewer wants, and those of the rows on screen
  let shownChoice = {}, etag = null, answeredAt = null;
  let request = null, retryTimer = 0, failures = 0, crowded = false, afterRender = null;
  let lastId = 0, contextId = 0, contextTimer = 0;
  let retry = null, countdown = 0, popup = null, secret = null, number = "";

  // Messages with Copper

  const post = (type, fields = {}, id = -1) =>
    window.top.postMessage({ ...fields, instanceId, version: "0.9.1", type, id }, origin);
  const badge = (count) => post("setUI", { data: { count } });

  function askContext() {
    contextId = ++lastId;
    clearTimeout(contextTimer);
    contextTimer = setTimeout(contextUnknown, CONTEXT_TIMEOUT * 1000);
    post("getContext", {}, contextId);
  }

  const handlers = new Map([
    ["getContext", (message) => {
      if (!contextId || message.id !== contextId) return;
      contextId = 0;
      clearTimeout(contextTimer);
      if (message.error || !message.data) return contextUnknown();
      open(readContext(message.data));
    }],
    ["contextUpdated", (message) => {
      const named = readContext(message.data || message.msg);
      if (!record || named.key !== record.key) clear();
      askContext();
    }],
  ]);

  // The record that a context names; or, with no key, what to say instead of its invoices.
  function readContext(context) {
    const type = context?.entityType, given = context?.entityData?.id;
    if (!TYPES.includes(type) || given === undefined || given === null)
      return { problem: "Open a lead, person, company or opportunity to see its invoices." };
    const id = typeof given === "string" && /^[1-9]\d{0,15}$/.test(given) ? Number(given) : given;
    if (!Number.isSafeInteger(id) || id < 1)
      return { problem: "Copper sent a record ID that isn't valid. Open the record again." };
    return { type, id, key: `${type}/${id}` };
  }

  function contextUnknown() {
    clear();
    idle();
    const again = () => { clear(); askContext(); };
    say("Copper didn't say which record is open. Open the record again, or reload the page.", again);
  }

  function open(named) {
    if (record && named.key === record.key) return load();
    clear();
    if (named.key) {
      record = named;
      return load();
    }
    idle(named.problem);
  }

  // Forget the record and all that is shown of it.
  function clear() {
    cancel();
    record = etag = answeredAt = afterRender = null;
    choice = shownChoice = {};
    failures = 0;
    say("");
    announce("");
    badge(0);
    place.replaceChildren(paragraph("loading", "Loading invoices…"));
    place.setAttribute("aria-busy", "true");
  }

  function idle(text) {
    place.setAttribute("aria-busy", "false");
    place.replaceChildren(...(text ? [paragraph("aside", text)] : []));
    if (text) announce("No invoices to show.");
  }

  // Requests to Patina

  // An answer with its body, or null: not reached, given up, or out of time.
  async function ask(path, { headers = {}, controller = new AbortController(), ...options } = {}) {
    const timer = setTimeout(() => controller.abort(), TIMEOUT * 1000);
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

  function cancel() {
    clearTimeout(retryTimer);
    if (request) request.abort();
    request = null;
  }

  async function load({ held = false } = {}) {
    cancel();
    if (!record) return;
    const controller = (request = new AbortController()), wanted = choice, startedAt = Date.now();
    const slow = held ? 0 : setTimeout(() => controller === request && unreachable(startedAt + TIMEOUT * 1000), SLOW * 1000);
    if (!held) {
      place.setAttribute("aria-busy", "true");
      if (countdown) stopCountdown("Retrying now…");
    }
    const headers = { ...(etag && { "If-None-Match": etag }), ...(held && { Prefer: `wait=${WAIT}` }) };
    const answer = await ask(`/panel/records/${record.key}?${new URLSearchParams(wanted)}`, { headers, controller });
    clearTimeout(slow);
    if (controller !== request) return;
    request = null;
    place.setAttribute("aria-busy", "false");
    if (held && answer?.response.status === 429) return followLater(answer.response);
    const outcome = answer ? take(answer, wanted) : "failed";
    if (outcome === "failed") return fail(answer);
    if (outcome === "unchecked") return void (retryTimer = setTimeout(load, pause() * 1000));
    if (outcome === "refused") return;
    const tooSoon = answer.response.status === 304 && held && Date.now() - startedAt < 2000;
    if (held) crowded = false;
    followed(answer.response, !tooSoon && !crowded);
    if (!document.hidden) retryTimer = setTimeout(load, tooSoon ? WAIT * 1000 : 0, { held: true });
  }

  // Show what an answer holds. An answer that is none of Patina's, or another record's, is a failure.
  function take({ response, body }, wanted) {
    if (response.status === 304 && etag) return "shown";
    const part = parse(body);
    if (part?.matches(".refused") && [401, 403, 503].includes(response.status)) {
      refuse(part);
      return response.status === 503 ? "unchecked" : "refused";
    }
    if (!response.ok || !part?.matches(".record") || part.dataset.record !== record.key) return "failed";
    etag = response.headers.get("ETag");
    show(part, wanted);
    return "shown";
  }

  function followed(response, isLive) {
    failures = 0;
    say("");
    answeredAt = new Date();
    freshness(isLive, response.headers.get("X-Up-To-Date-As-Of"));
  }

  // More panels are open than Patina keeps live: this one looks again by itself.
  function followLater(response) {
    crowded = true;
    freshness(false);
    if (!document.hidden) retryTimer = setTimeout(load, (retryAfter(response) || WAIT) * 1000);
  }

  const retryAfter = (response) => Math.min(Number(response?.headers.get("Retry-After")), MAX_RETRY_AFTER) || 0;
  const pause = () => Math.min(5 * 2 ** failures++, MAX_PAUSE) * (0.75 + Math.random() / 2);

  function fail(answer) {
    choice = shownChoice;
    afterRender = null;
    if (byId("status")) byId("status").value = choice.status || "";
    const response = answer?.response, wait = retryAfter(response), seconds = wait || pause();
    unreachable(Date.now() + seconds * 1000, wait && [429, 503].includes(response.status));
    if (!document.hidden) retryTimer = setTimeout(load, seconds * 1000);
  }

  function unreachable(until, isBusy = false) {
    place.querySelector(".loading")?.remove();
    const isShown = place.querySelector(".record");
    if (isShown) freshness(false);
    const meaning = isShown ? "These figures may be out of date." : "Invoices can't be shown right now.";
    say(`${isBusy ? "Patina is busy" : "Can't reach Patina"}. ${meaning}`, load, until);
  }

  function refuse(part) {
    etag = null;
    badge(0);
    say("");
    place.replaceChildren(part);
    showNumber();
  }

  // What is on screen

  function paragraph(className, text) {
    const made = document.createElement("p");
    made.className = className;
    made.textContent = text;
    return made;
  }

  function parse(html) {
    const template = document.createElement("template");
    template.innerHTML = html;
    return template.content.firstElementChild;
  }

  function announce(text) {
    if (announcement.textContent !== text) announcement.textContent = text;
  }

  // Say what is wrong above the rows; `until` counts down to the next try. Seconds are not announced, the words are once.
  function say(text, action = null, until = 0) {
    stopCountdown("");
    retry = action;
    if (!action && document.activeElement === retryButton) place.focus({ preventScroll: true });
    retryButton.hidden = !action;
    if (note.dataset.text !== text) note.replaceChildren(text);
    note.dataset.text = text;
    if (!until) return;
    const tick = () => {
      const seconds = Math.max(Math.ceil((until - Date.now()) / 1000), 0);
      tell(seconds === 1 ? "Retrying in 1 second." : `Retrying in ${seconds} seconds.`);
    };
    tick();
    countdown = setInterval(tick, 1000);
  }

  function tell(text) {
    let seconds = note.querySelector("span");
    if (!seconds) {
      seconds = document.createElement("span");
      seconds.ariaHidden = "true";
      note.append(" ", seconds);
    }
    seconds.textContent = text;
  }

  function stopCountdown(text) {
    if (countdown) tell(text);
    clearInterval(countdown);
    countdown = 0;
  }

  function freshness(isLive, syncedAt = null) {
    const line = byId("as-of");
    if (!line) return;
    if (!isLive) return line.replaceChildren("Updated ", time(answeredAt));
    line.replaceChildren("Live · ", ...(syncedAt ? ["Last synced ", time(new Date(syncedAt))] : ["Not synced yet"]));
  }

  function time(at) {
    const made = document.createElement("time"), isToday = new Date().toDateString() === at.toDateString();
    made.dateTime = at.toISOString();
    made.title = at.toLocaleString();
    made.textContent = at.toLocaleString([], isToday ? { timeStyle: "short" } : { dateStyle: "medium", timeStyle: "short" });
    return made;
  }

  const rowsOf = (part) => new Map([...part.querySelectorAll("tr[data-number]")].map((row) => [row.id, row]));
  const named = (count) => (count === 1 ? "1 invoice" : `${count.toLocaleString()} invoices`);

  function show(part, wanted) {
    const current = place.querySelector(".record"), focused = document.activeElement;
    badge(Number(part.dataset.count));
    if (!current) {
      place.replaceChildren(part);
      announce(part.dataset.summary);
    } else if (wanted === shownChoice) update(current, part);
    else {
      morph(current, keepDetails(current, part));
      const select = byId("status"), status = wanted.status ? `${select?.selectedOptions[0].text.replace(/ \(.*/, "")}: ` : "";
      announce(`${status}${named(rowsOf(current).size)} shown`);
    }
    shownChoice = wanted;
    if (byId("status")) byId("status").value = wanted.status || "";
    if (afterRender) afterRender();
    else if (place !== focused && focused?.id && !focused.isConnected) byId(focused.id)?.focus({ preventScroll: true });
    else if (focused?.isConnected && focused !== document.activeElement) focused.focus({ preventScroll: true });
    afterRender = null;
  }

  // A change of the rows that the viewer already sees: it fades in, and is announced.
  function update(current, part) {
    for (const row of current.querySelectorAll(".changed")) row.classList.remove("changed");
    keepDetails(current, part);
    const before = rowsOf(current), after = rowsOf(part), updated = [], added = [], removed = [];
    for (const [id, row] of after) {
      if (!before.has(id)) added.push(row);
      else if (!before.get(id).isEqualNode(row)) updated.push(row);
    }
    for (const [id, row] of before) if (!after.has(id)) removed.push(row);
    const said = [[updated, "updated"], [added, "added"], [added.length ? [] : removed, "removed"]]
      .filter(([rows]) => rows.length)
      .map(([rows, what]) => `${rows.length > 3 ? named(rows.length) : rows.map((row) => row.dataset.number).join(", ")} ${what}`);
    const changed = [...updated, ...added].map((row) => row.id);
    morph(current, part);
    for (const id of changed) byId(id).classList.add("changed");
    if (said.length) announce(said.join("; "));
  }

  // Open match details stay open: they are put into the new part as they are.
  function keepDetails(current, part) {
    const rows = rowsOf(part);
    for (const details of current.querySelectorAll(".details")) {
      const row = rows.get(details.previousElementSibling.id);
      if (!row) continue;
      row.after(details.cloneNode(true));
      row.querySelector(".match").setAttribute("aria-expanded", "true");
    }
    return part;
  }

  // Make `from` like `to` and keep every element that has the same id, so that focus and scroll stay.
  function morph(from, to) {
    if (from.isEqualNode(to)) return;
    for (const { name } of [...from.attributes]) if (!to.hasAttribute(name)) from.removeAttribute(name);
    for (const { name, value } of to.attributes) if (from.getAttribute(name) !== value) from.setAttribute(name, value);
    const wanted = new Set([...to.children].map((child) => child.id));
    for (const child of [...from.children]) if (child.id && !wanted.has(child.id)) child.remove();
    const known = new Map([...from.children].map((child) => [child.id, child]));
    let at = from.firstChild;
    const skip = () => { const gone = at; at = at.nextSibling; gone.remove(); };
    for (const child of [...to.childNodes]) {
      let match = child.id ? known.get(child.id) : at && !at.id && at.nodeName === child.nodeName ? at : null;
      if (child.id && match) while (at && at !== match && !at.id) skip();
      if (!match) from.insertBefore(child, at);
      else {
        if (match !== at) from.insertBefore(match, at);
        if (match.nodeType !== Node.ELEMENT_NODE) match.nodeValue = child.nodeValue;
        else morph(match, child);
        at = match.nextSibling;
      }
    }
    while (at) skip();
  }

  // Match details

  function toggleDetails(button) {
    const row = button.closest("tr"), shown = byId(button.getAttribute("aria-controls"));
    if (shown) {
      if (shown.dataset.loading) return;
      shown.remove();
      return button.setAttribute("aria-expanded", "false");
    }
    const details = document.createElement("tr"), cell = details.insertCell();
    details.className = "details";
    details.id = button.getAttribute("aria-controls");
    details.setAttribute("role", "row");
    details.ariaLabel = button.textContent;
    cell.setAttribute("role", "cell");
    cell.colSpan = 7;
    row.after(details);
    button.setAttribute("aria-expanded", "true");
    fillDetails(details, button.dataset.path);
  }

  async function fillDetails(details, path) {
    const asked = record, cell = details.cells[0];
    details.dataset.loading = "true";
    cell.textContent = "Loading…";
    const answer = await ask(`/panel${path}`);
    if (record !== asked || !details.isConnected) return;
    delete details.dataset.loading;
    const { response, body } = answer || {};
    if (response?.ok) cell.innerHTML = body;
    else if (response?.status === 404) cell.textContent = "This invoice is no longer on this record.";
    else if (response && [401, 403].includes(response.status)) load();
    else {
      const again = document.createElement("button");
      again.className = "quiet again";
      again.textContent = "Try again.";
      cell.replaceChildren("Couldn't load the reason. ", again);
    }
  }

  // Signing in: a window of our own, whose code works with the secret of this frame alone.

  const text64 = (bytes) => btoa(String.fromCharCode(...new Uint8Array(bytes))).replaceAll("+", "-").replaceAll("/", "_").replace(/=+$/, "");

  async function signIn() {
    popup = window.open("", "patina-sign-in", "popup,width=520,height=680");
    secret = text64(crypto.getRandomValues(new Uint8Array(32)));
    const digest = await crypto.subtle.digest("SHA-256", new TextEncoder().encode(secret)), challenge = text64(digest);
    number = String((new DataView(digest).getUint16(0) % 90) + 10);
    if (popup) popup.location = `/panel/signin?challenge=${challenge}`;
    else say("Your browser blocked the sign-in window. Allow pop-ups for this page and try again.");
    showNumber();
  }

  // The window asks for the number of the panel that opened it, so that nobody signs in for a panel they don't see.
  function showNumber() {
    if (!byId("code-form")) return;
    byId("code-form").hidden = byId("number-said").hidden = !secret;
    byId("number").textContent = number;
  }

  async function redeem(code) {
    const body = JSON.stringify({ code, secret });
    const answer = await ask("/panel/session", { method: "POST", headers: { "Content-Type": "application/json" }, body });
    if (!answer) return say("Can't reach Patina. Try again.");
    if (!answer.response.ok) return say("That code isn't valid. Sign in again.");
    secret = null;
    if (popup) popup.postMessage("patina-signed-in", location.origin);
    await load();
    if (byId("sign-in")) say("Your browser blocked the sign-in cookie. Allow cookies for this panel and try again.");
  }

  // What people do

  function showRows(limit) {
    const count = rowsOf(place).size;
    choice = { ...(choice.status && { status: choice.status }), ...(limit && { limit }) };
    afterRender = limit
      ? () => [...rowsOf(place).values()][count]?.querySelector("a").focus({ preventScroll: true })
      : () => byId("more")?.focus();
    load();
  }

  place.addEventListener("click", (event) => {
    const target = event.target.closest("a, button");
    if (!target || target.target === "_blank") return;
    if (target.localName === "a") event.preventDefault();
    if (target.id === "sign-in") signIn();
    else if (target.id === "more") showRows(target.dataset.limit);
    else if (target.id === "fewer") showRows();
    else if (target.classList.contains("match")) event.detail < 2 && toggleDetails(target);
    else if (target.classList.contains("again")) reload(target.closest("tr"));
    else if (target.dataset.type)
      post("navigateToEntityDetail", { entityType: target.dataset.type, entityId: Number(target.dataset.id) }, ++lastId);
  });
  function reload(details) {
    const button = details.previousElementSibling.querySelector(".match");
    button.focus({ preventScroll: true });
    fillDetails(details, button.dataset.path);
  }
  place.addEventListener("change", (event) => {
    if (event.target.id !== "status") return;
    choice = event.target.value ? { status: event.target.value } : {};
    load();
  });
  place.addEventListener("submit", (event) => {
    event.preventDefault();
    if (event.target.id === "code-form") redeem(event.target.elements.code.value);
  });
  place.addEventListener("animationend", (event) => event.target.closest("tr")?.classList.remove("changed"));
  retryButton.addEventListener("click", () => retry && retry());
  addEventListener("online", () => failures && load());
  document.addEventListener("visibilitychange", () => (document.hidden ? cancel() : load()));
  addEventListener("message", ({ origin: from, data }) => {
    if (!data || typeof data !== "object") return;
    if (from === location.origin && typeof data.patinaCode === "string") return void redeem(data.patinaCode);
    if (from === origin) handlers.get(data.type)?.(data);
  });

  post("init");
  askContext();
})();
