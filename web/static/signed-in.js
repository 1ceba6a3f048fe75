// Passes the sign-in window's code to the panel that opened it, and only to our own origin. If Copper's pages have
// severed the link to the opener, the code is shown instead.
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
