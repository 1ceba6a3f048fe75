// The window that signed somebody in hands its code to the panel that opened it: to our own origin, and to no other.
"use strict";
(() => {
  const code = location.hash.slice(1);
  history.replaceState(null, "", location.pathname);
  if (!/^[A-Z2-7]{16}$/.test(code)) return;
  document.getElementById("code").textContent = code;
  document.getElementById("with-code").hidden = false;
  addEventListener("message", (event) => {
    if (event.origin === location.origin && event.data === "patina-signed-in") close();
  });
  if (opener) opener.postMessage({ patinaCode: code }, location.origin);
})();
