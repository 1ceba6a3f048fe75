// The parent's side of the App SDK's messages (copper-sdk 0.9.1), for an app in up to two frames: sidebar and modal.
import { at, element } from "./views.js";

const NOT_SUPPORTED = "not supported by the sandbox";
const MAX_MESSAGES = 30;
const frames = [];
window.receivedMessages = [];

export class Parent {
  // `host` implements the messages: context(), user(), navigate(), save(), api(), refresh().
  constructor(appUrl, host) {
    this.url = appUrl;
    this.host = host;
    this.requestHandlers = {
      getContext: () => host.context(),
      getUserInfo: () => host.user(),
      getConfig: () => ({ appConfig: { height: at("app").querySelector("iframe").clientHeight }, config: {} }),
      saveContext: ({ data }) => host.save(data),
      api: ({ url, options }) => host.api(url, options ?? {}),
      navigateToEntityDetail: ({ entityType, entityId }) => host.navigate(entityType, entityId),
      getRouteInfo: () => { throw NOT_SUPPORTED; },
      getSelectedRecords: () => { throw NOT_SUPPORTED; },
      navigateToSavedFilter: () => { throw NOT_SUPPORTED; },
    };
    this.notificationHandlers = {
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
    at("modal").addEventListener("close", () => this.removeFrame("modal"));
    at("add").addEventListener("click", () => this.broadcast("addButtonClicked", {}));
  }

  open(container, location) {
    const id = `sandbox-${location}`;
    const url = new URL(this.url);
    url.searchParams.set("location", location);
    url.searchParams.set("origin", window.location.origin);
    url.searchParams.set("instanceId", id);
    const iframe = element("iframe", { title: "Xero invoices", src: url, allow: "storage-access" });
    container.replaceChildren(iframe);
    frames.push({ id, location, element: iframe, origin: url.origin, ready: false });
  }

  removeFrame(location) {
    const index = frames.findIndex((frame) => frame.location === location);
    if (index >= 0) frames.splice(index, 1)[0].element.remove();
  }

  post(frame, message) {
    if (frame.ready) frame.element.contentWindow.postMessage(message, frame.origin);
  }

  broadcast(type, data) {
    for (const frame of frames) this.post(frame, { type, data, id: -1 });
  }

  async receive(event) {
    const frame = frames.find(({ element, origin }) => element.contentWindow === event.source && origin === event.origin);
    const message = event.data;
    if (!frame || !message || message.instanceId !== frame.id) return;
    window.receivedMessages.push(message);
    frame.ready = true;
    const isNotification = Object.hasOwn(this.notificationHandlers, message.type);
    if (isNotification) this.notificationHandlers[message.type](message, frame);
    else if (message.id !== -1) await this.respond(message, frame);
    this.log(message, isNotification || message.id !== -1 ? "" : NOT_SUPPORTED);
  }

  async respond(message, frame) {
    const { type, id } = message;
    try {
      if (!Object.hasOwn(this.requestHandlers, type)) throw NOT_SUPPORTED;
      this.post(frame, { type, id, data: await this.requestHandlers[type](message) });
    } catch (error) {
      this.post(frame, { type, id, error: String(error.message ?? error) });
      this.log(message, String(error.message ?? error));
    }
  }

  log(message, remark) {
    const line = element("li", {}, [message.type, message.data && JSON.stringify(message.data), remark].filter(Boolean).join(" "));
    at("messages").prepend(line);
    while (at("messages").children.length > MAX_MESSAGES) at("messages").lastChild.remove();
  }

  setUI(data, frame) {
    if (data.count !== undefined) at("count").textContent = data.count;
    if (data.height !== undefined) frame.element.style.height = typeof data.height === "number" ? `${data.height}px` : data.height;
    if (data.disableAddButton !== undefined) at("add").hidden = Boolean(data.disableAddButton);
    const supported = ["count", "height", "disableAddButton"];
    const unsupported = Object.keys(data).filter((name) => !supported.includes(name));
    if (unsupported.length) this.log({ type: "setUI" }, `${unsupported.join(", ")}: ${NOT_SUPPORTED}`);
  }

  showModal() {
    this.removeFrame("modal");
    this.open(at("modal").querySelector("div"), "modal");
    at("modal").showModal();
  }

  publish({ target, data }, from) {
    for (const frame of frames) {
      if (frame !== from && (target === "*" || target === frame.location)) this.post(frame, { type: data.type, msg: data.msg, id: -1 });
    }
  }
}
