// The panel's live part. It speaks the App SDK's messages with Copper, asks Patina for the record that Copper shows,
// and asks again when something changed: one request is held open until then, and none while nobody looks.
"use strict";
(() => {
  const query = new URLSearchParams(location.search);
  const origin = query.get("origin"), instanceId = query.get("instanceId"), token = query.get("token");
  const place = document.getElementById("record"), note = document.getElementById("note");
  if (!document.body.dataset.origins.split(" ").includes(origin) || !instanceId || !token) return;
  document.body.classList.add("live");

  const WAIT = 20, LONGEST_PAUSE = 60, KINDS = ["lead", "person", "company", "opportunity"];
  let record = null, choice = {}, tag = null, flight = null, timer = 0, failures = 0, asked = 0, popup = null, secret = null;

  // Copper

  const post = (type, fields = {}, id = -1) =>
    window.top.postMessage({ ...fields, instanceId, version: "0.9.1", type, id }, origin);
  const askContext = () => post("getContext", {}, ++asked);

  const heard = {
    getContext(message) {
      if (message.id !== asked || message.error || !message.data) return;
      const { entityType: type, entityData } = message.data;
      take(type, entityData && entityData.id);
    },
    contextUpdated: askContext,
  };

  function take(type, id) {
    if (record && record.type === type && record.id === id) return look();
    record = KINDS.includes(type) && id ? { type, id } : null;
    choice = {};
    tag = null;
    if (record) return look();
    stop();
    badge(0);
    show("<p class='aside'>Invoices show on leads, people, companies and opportunities.</p>");
  }

  const badge = (count) => post("setUI", { data: { count } });

  // Patina

  const headers = () => ({ Authorization: `Bearer ${token}` });
  const path = () => `/panel/records/${record.type}/${record.id}`;

  function stop() {
    clearTimeout(timer);
    if (flight) flight.abort();
    flight = null;
  }

  async function look(wait = false) {
    stop();
    if (!record) return;
    const mine = (flight = new AbortController()), began = Date.now();
    const asks = headers();
    if (tag) asks["If-None-Match"] = tag;
    if (wait) asks.Prefer = `wait=${WAIT}`;
    else place.setAttribute("aria-busy", "true");
    let answer, html;
    try {
      answer = await fetch(`${path()}?${new URLSearchParams(choice)}`, { headers: asks, signal: mine.signal, cache: "no-store" });
      html = await answer.text();
    } catch {
      if (!mine.signal.aborted) later("Not reached just now. ");
      return;
    }
    if (mine !== flight) return;
    place.setAttribute("aria-busy", "false");
    if (answer.status === 304) upToDate(answer.headers.get("X-Up-To-Date-As-Of"));
    else if (answer.ok) {
      tag = answer.headers.get("ETag");
      show(html);
      badge(Number(place.querySelector(".record").dataset.count));
    } else if (answer.status === 401 || answer.status === 403) return refused(html);
    else if (answer.status === 503 && html.includes("refused")) { tag = null; show(html); return later(""); }
    else return later("Not reached just now. ");
    failures = 0;
    note.textContent = "";
    const tooSoon = answer.status === 304 && wait && Date.now() - began < 2000;
    if (!document.hidden) timer = setTimeout(look, tooSoon ? WAIT * 1000 : 0, true);
  }

  function later(said) {
    place.setAttribute("aria-busy", "false");
    const pause = Math.min(5 * 2 ** failures++, LONGEST_PAUSE) * (0.75 + Math.random() / 2);
    if (said) note.textContent = `${said}What is shown may have changed; tried again in ${Math.round(pause)} s.`;
    if (!document.hidden) timer = setTimeout(look, pause * 1000);
  }

  function refused(html) {
    tag = null;
    badge(0);
    show(html);
    note.textContent = "";
  }

  function show(html) {
    const focused = document.activeElement && document.activeElement.id;
    place.innerHTML = html;
    place.setAttribute("aria-busy", "false");
    for (const time of place.querySelectorAll("time")) inWords(time);
    for (const why of place.querySelectorAll(".why")) why.setAttribute("aria-expanded", "false");
    if (focused) document.getElementById(focused)?.focus();
  }

  function inWords(time) {
    const at = new Date(time.dateTime), today = new Date().toDateString() === at.toDateString();
    time.title = at.toLocaleString();
    time.textContent = today ? at.toLocaleTimeString([], { timeStyle: "short" }) : at.toLocaleString([], { dateStyle: "medium", timeStyle: "short" });
  }

  function upToDate(at) {
    const time = place.querySelector(".as-of time");
    if (at && time) { time.dateTime = at; inWords(time); }
  }

  async function why(link) {
    const row = link.closest("tr"), open = row.nextElementSibling;
    if (open && open.classList.contains("reason")) {
      open.remove();
      return link.setAttribute("aria-expanded", "false");
    }
    const answer = await fetch(`/panel${new URL(link.href).pathname}`, { headers: headers() }).catch(() => null);
    const made = document.createElement("tr"), cell = made.insertCell();
    made.className = "reason";
    made.setAttribute("role", "row");
    cell.setAttribute("role", "cell");
    cell.colSpan = 7;
    if (answer && answer.ok) cell.innerHTML = await answer.text();
    else cell.textContent = "This could not be asked just now.";
    row.after(made);
    link.setAttribute("aria-expanded", "true");
  }

  // Signing in: a window of our own, whose code works with the secret of this frame alone.

  const text64 = (bytes) => btoa(String.fromCharCode(...new Uint8Array(bytes))).replaceAll("+", "-").replaceAll("/", "_").replace(/=+$/, "");

  async function signIn() {
    popup = open("", "patina-sign-in", "popup,width=520,height=680");
    secret = text64(crypto.getRandomValues(new Uint8Array(32)));
    const challenge = text64(await crypto.subtle.digest("SHA-256", new TextEncoder().encode(secret)));
    const url = `/panel/signin?challenge=${challenge}`;
    if (popup) popup.location = url;
    else note.textContent = "The browser held the window back. Allow windows for this page, and try again.";
    document.getElementById("code-form").hidden = false;
  }

  async function redeem(code) {
    const body = JSON.stringify({ code, secret });
    const answer = await fetch("/panel/session", { method: "POST", headers: { ...headers(), "Content-Type": "application/json" }, body }).catch(() => null);
    if (!answer || !answer.ok) {
      note.textContent = "That code did not work. Sign in again.";
      return;
    }
    if (popup) popup.postMessage("patina-signed-in", location.origin);
    note.textContent = "";
    await look();
    if (place.querySelector("#sign-in")) note.textContent = "The browser kept no cookie for this panel, so you stay signed out. Allow cookies for it, and try again.";
  }

  // What people do

  place.addEventListener("click", (event) => {
    const link = event.target.closest("a, #sign-in");
    if (!link) return;
    if (link.id === "sign-in") return void signIn();
    if (link.target === "_blank") return;
    event.preventDefault();
    if (link.classList.contains("why")) why(link);
    else if (link.classList.contains("more")) { choice.limit = link.dataset.limit; look(); }
    else if (link.dataset.type) post("navigateToEntityDetail", { entityType: link.dataset.type, entityId: Number(link.dataset.id) }, ++asked);
  });
  place.addEventListener("change", (event) => {
    if (event.target.id !== "status") return;
    choice = { status: event.target.value };
    look();
  });
  place.addEventListener("submit", (event) => {
    event.preventDefault();
    if (event.target.id === "code-form") redeem(event.target.elements.code.value);
  });
  document.addEventListener("visibilitychange", () => (document.hidden ? stop() : look()));
  addEventListener("message", (event) => {
    if (event.origin === location.origin && event.data && event.data.patinaCode) return void redeem(event.data.patinaCode);
    if (event.origin === origin && event.data && heard[event.data.type]) heard[event.data.type](event.data);
  });

  post("init");
  askContext();
})();
