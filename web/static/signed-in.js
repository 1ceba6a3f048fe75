// The window that signed somebody in hands its code to the panel that opened it: to our own origin, and to no other.
// It shows the code only where Copper's pages have cut it off from its opener.
"use strict";
(() => {
  const code = location.hash.slice(1);
  history.replaceState(null, "", location.pathname);
  if (!/^[A-Z2-7]{16}$/.test(code)) return;
  addEventListener("message", (event) => {
    if (event.origin === location.origin && event.data === "patina-signed-in") close();
  });
  if (opener) return opener.postMessage({ patinaCode: code }, location.origin);
  document.getElementById("code").textContent = code;
  document.getElementById("with-code").hidden = false;
})();
