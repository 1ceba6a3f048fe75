// The parent's side of the App SDK's messages (copper-sdk 0.9.1), for one app in up to two frames: sidebar and modal.
import { at, element } from "./views.js";

const NOT_PLAYED = "not played by the sandbox";
const MOST_MESSAGES = 30;
const frames = [];
window.heard = [];

export class Parent {
  // `host` gives what the messages ask for: context(), user(), navigate(), save(), api(), refresh().
  constructor(appUrl, host) {
    this.url = appUrl;
    this.host = host;
    this.answers = {
      getContext: () => host.context(),
      getUserInfo: () => host.user(),
      getConfig: () => ({ appConfig: { height: at("app").querySelector("iframe").clientHeight }, config: {} }),
      saveContext: ({ data }) => host.save(data),
      api: ({ url, options }) => host.api(url, options ?? {}),
      navigateToEntityDetail: ({ entityType, entityId }) => host.navigate(entityType, entityId),
      getRouteInfo: () => { throw NOT_PLAYED; },
      getSelectedRecords: () => { throw NOT_PLAYED; },
      navigateToSavedFilter: () => { throw NOT_PLAYED; },
    };
    this.tellings = {
      init: () => {},
      setUI: (message, frame) => this.setUI(message.data ?? {}, frame),
      showModal: () => this.showModal(),
      closeModal: () => at("modal").close(),
      showFullScreen: () => at("app-card").classList.add("full"),
      closeFullScreen: () => at("app-card").classList.remove("full"),
      refreshUI: () => host.refresh(),
      publishMessage: (message, frame) => this.publish(message, frame),
    };
    addEventListener("message", (event) => this.receive(event));
    at("close-modal").addEventListener("click", () => at("modal").close());
    at("modal").addEventListener("close", () => this.drop("modal"));
    at("add").addEventListener("click", () => this.tell("addButtonClicked", {}));
  }

  open(place, location) {
    const id = `sandbox-${location}`;
    const url = new URL(this.url);
    url.searchParams.set("location", location);
    url.searchParams.set("origin", window.location.origin);
    url.searchParams.set("instanceId", id);
    const made = element("iframe", { title: "Xero invoices", src: url, allow: "storage-access" });
    place.replaceChildren(made);
    frames.push({ id, location, element: made, origin: url.origin, ready: false });
  }

  drop(location) {
    const index = frames.findIndex((frame) => frame.location === location);
    if (index >= 0) frames.splice(index, 1)[0].element.remove();
  }

  post(frame, message) {
    if (frame.ready) frame.element.contentWindow.postMessage(message, frame.origin);
  }

  tell(type, data) {
    for (const frame of frames) this.post(frame, { type, data, id: -1 });
  }

  async receive(event) {
    const frame = frames.find((one) => one.element.contentWindow === event.source && one.origin === event.origin);
    const message = event.data;
    if (!frame || !message || message.instanceId !== frame.id) return;
    window.heard.push(message);
    frame.ready = true;
    const known = Object.hasOwn(this.tellings, message.type);
    if (known) this.tellings[message.type](message, frame);
    else if (message.id !== -1) await this.answer(message, frame);
    this.log(message, known || message.id !== -1 ? "" : NOT_PLAYED);
  }

  async answer(message, frame) {
    const { type, id } = message;
    try {
      if (!Object.hasOwn(this.answers, type)) throw NOT_PLAYED;
      this.post(frame, { type, id, data: await this.answers[type](message) });
    } catch (error) {
      this.post(frame, { type, id, error: String(error.message ?? error) });
      this.log(message, String(error.message ?? error));
    }
  }

  log(message, remark) {
    const line = element("li", {}, [message.type, message.data && JSON.stringify(message.data), remark].filter(Boolean).join(" "));
    at("messages").prepend(line);
    while (at("messages").children.length > MOST_MESSAGES) at("messages").lastChild.remove();
  }

  setUI(data, frame) {
    if (data.count !== undefined) at("count").textContent = data.count;
    if (data.height !== undefined) frame.element.style.height = typeof data.height === "number" ? `${data.height}px` : data.height;
    if (data.disableAddButton !== undefined) at("add").hidden = Boolean(data.disableAddButton);
    const played = ["count", "height", "disableAddButton"];
    const others = Object.keys(data).filter((name) => !played.includes(name));
    if (others.length) this.log({ type: "setUI" }, `${others.join(", ")}: ${NOT_PLAYED}`);
  }

  showModal() {
    this.drop("modal");
    this.open(at("modal").querySelector("div"), "modal");
    at("modal").showModal();
  }

  publish({ target, data }, from) {
    for (const frame of frames) {
      if (frame !== from && (target === "*" || target === frame.location)) this.post(frame, { type: data.type, msg: data.msg, id: -1 });
    }
  }
}
