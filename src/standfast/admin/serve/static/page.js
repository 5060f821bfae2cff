// Renews the page while nobody is using it: what has the focus or is selected stays as it is.
"use strict";
const PAUSE_MS = 3000;

async function renew() {
  const main = document.getElementById("main");
  const busy = main.contains(document.activeElement) || !document.getSelection().isCollapsed;
  if (!busy && !document.hidden) {
    try {
      const response = await fetch(location.pathname, { headers: { Accept: "text/html" } });
      if (response.ok) {
        const next = new DOMParser().parseFromString(await response.text(), "text/html");
        const before = document.getElementById("now");
        const fresh = next.getElementById("main");
        const after = fresh && fresh.querySelector("#now");
        // The sentence is replaced only when it is another one, so that it is read out once.
        if (before && after && before.textContent === after.textContent) {
          after.replaceWith(before);
        }
        main.replaceChildren(...fresh.childNodes);
        document.title = next.title;
        document.body.classList.remove("lost");
      }
    } catch {
      document.body.classList.add("lost");
    }
  }
  setTimeout(renew, PAUSE_MS);
}

setTimeout(renew, PAUSE_MS);
