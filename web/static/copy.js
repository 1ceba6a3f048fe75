// The copy button of a secret that is shown once. Without JavaScript, one click selects it.
"use strict";
for (const button of document.querySelectorAll("[data-copy]")) {
  const source = document.getElementById(button.dataset.copy);
  const copied = document.getElementById("copied");
  const select = () => getSelection().selectAllChildren(source);
  button.hidden = false;
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(source.textContent);
      copied.textContent = "Copied";
    } catch {
      select();
      copied.textContent = document.execCommand("copy") ? "Copied" : "Press Ctrl+C or ⌘C to copy";
    }
  });
}
