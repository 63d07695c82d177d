// In the head of the page, before Gradio starts: the language and the scheme that were chosen, Esc,
// and what a screen reader has to be told. look.py fills in the languages.
const lmapps = {
  languages: LANGUAGES, // by code: what Gradio calls each

  language() {
    const cookie = document.cookie.match(/(?:^|; )lmapps_language=([\w-]+)/);
    return (cookie?.[1] ?? navigator.language).split("-")[0];
  },

  choose(language) {
    document.cookie = `lmapps_language=${language}; path=/; max-age=31536000; SameSite=Lax`;
    location.reload();
  },

  scheme() {
    const kept = localStorage.getItem("lmapps-scheme");
    return kept ?? (lmapps.system("(prefers-color-scheme: dark)").matches ? "dark" : "light");
  },

  // What is pressed stands for the system's own choice from now on.
  switchScheme() {
    localStorage.setItem("lmapps-scheme", lmapps.scheme() === "dark" ? "light" : "dark");
    lmapps.paint();
  },

  paint() {
    const dark = lmapps.scheme() === "dark";
    document.documentElement.dataset.scheme = dark ? "dark" : "light";
    document.body?.classList.toggle("dark", dark);
  },

  // What this browser remembers of a page, as JSON.
  remember(key, value) {
    localStorage.setItem(key, JSON.stringify(value));
  },

  remembered(key) {
    try {
      return JSON.parse(localStorage.getItem(key));
    } catch {
      return null; // written by an older page
    }
  },

  system: window.matchMedia.bind(window),

  arrive() {
    const language = lmapps.language();
    document.querySelector("#language").value = language in lmapps.languages ? language : "en";
    lmapps.announce();
    lmapps.restore();
  },

  // A page belongs to the process that made it, which alone knows what is open on it. Where another
  // one answers, after a restart or in the place of one that is gone, the page begins anew there,
  // with what was typed. A reply under way comes to its end before.
  lost: false, // whether the process is gone, or did not answer
  follow(process) {
    lmapps.lost = process !== null && process !== String(window.gradio_config?.app_id);
    const replies = [...document.querySelectorAll("button.stop-reply")];
    if (lmapps.lost && !replies.some((button) => !button.disabled)) location.reload();
  },

  boxes() {
    const all = [...document.querySelectorAll("textarea, input[type=text]")];
    return all.filter((box) => box.offsetParent && !box.readOnly && box.closest("[id]"));
  },

  keep() {
    if (!lmapps.lost) return;
    const typed = lmapps.boxes().map((box) => [box.closest("[id]").id, box.value]);
    const tab = document.querySelector('[role="tab"][aria-selected="true"]')?.dataset.tabId;
    sessionStorage.setItem("lmapps-typed", JSON.stringify({ tab, typed }));
  },

  restore() {
    const kept = JSON.parse(sessionStorage.getItem("lmapps-typed") ?? "null");
    sessionStorage.removeItem("lmapps-typed");
    if (!kept) return;
    document.querySelector(`[role="tab"][data-tab-id="${kept.tab}"]`)?.click();
    const typed = new Map(kept.typed.filter(([, text]) => text));
    let tries = 50; // what is in a tab is there a moment after it was opened
    const filling = setInterval(() => {
      for (const box of lmapps.boxes()) {
        const { id } = box.closest("[id]");
        if (!box.value && typed.has(id)) {
          box.value = typed.get(id);
          box.dispatchEvent(new Event("input", { bubbles: true }));
        }
        typed.delete(id);
      }
      if (!typed.size || !--tries) clearInterval(filling);
    }, 100);
  },

  // Gradio gives its components no roles for what changes by itself.
  announce() {
    for (const line of document.querySelectorAll(".status:not([role])"))
      line.setAttribute("role", "status");
    for (const reply of document.querySelectorAll(".reply:not([aria-live])"))
      reply.setAttribute("aria-live", "polite");
    for (const talk of document.querySelectorAll(".bubble-wrap:not([data-followed])")) {
      talk.dataset.followed = "";
      lmapps.takeAlong(talk);
    }
    for (const empty of document.querySelectorAll("div.empty[aria-label]:not([role])"))
      empty.setAttribute("role", "img");
  },

  // What was asked for is written where nobody sees it: go there.
  reveal(place) {
    const reply = document.querySelector(place);
    const { top, bottom } = reply?.getBoundingClientRect() ?? {};
    if (top > innerHeight - 120 || bottom < 0)
      reply.scrollIntoView({ block: "start", behavior: "smooth" });
  },

  // A conversation that grows is followed by whoever looks at its end, and by nobody else.
  takeAlong(talk) {
    const atEnd = () => talk.scrollHeight - talk.scrollTop - talk.clientHeight < 8;
    const asked = () => {
      const all = talk.querySelectorAll(".user.message");
      return all.length + (all[all.length - 1]?.textContent ?? "");
    };
    let follows = true, place = talk.scrollTop, questions = asked();
    const grown = () => {
      if (asked() !== questions) follows = true; // it was sent just now, or is another one
      questions = asked();
      if (follows && !atEnd()) talk.scrollTop = talk.scrollHeight;
    };
    talk.addEventListener("scroll", () => {
      if (atEnd()) follows = true;
      else if (talk.scrollTop < place) follows = false;
      place = talk.scrollTop;
    });
    new MutationObserver(grown).observe(talk, {
      childList: true, subtree: true, characterData: true,
    });
    new ResizeObserver(grown).observe(talk); // of a tab that is opened
    grown();
  },

  gone: GONE, // by code: what is told where the server does not answer
  missed: 0,

  // One calm line while something does not work (trouble.py). One answer alone may get lost.
  answered(answer) {
    const isThere = answer && answer.status < 500;
    lmapps.missed = isThere ? 0 : lmapps.missed + 1;
    const told = answer?.headers.get("x-lmapps-trouble");
    if (told || isThere) lmapps.tell(decodeURIComponent(told ?? ""));
    else if (lmapps.missed > 1) lmapps.tell(lmapps.gone[lmapps.language()] ?? lmapps.gone.en);
  },

  tell(text) {
    let line = document.querySelector("#trouble");
    if (!line) {
      line = document.createElement("div");
      line.id = "trouble";
      line.setAttribute("role", "status");
      document.body.prepend(line);
    }
    if (line.textContent !== text) line.textContent = text;
    line.hidden = !text;
  },

  stop(event) {
    if (event.key !== "Escape" || event.defaultPrevented) return;
    const buttons = [...document.querySelectorAll("button.stop-reply")];
    buttons.find((button) => button.offsetParent && !button.disabled)?.click();
  },
};

{
  const locale = lmapps.languages[lmapps.language()];
  if (locale) Object.defineProperty(navigator, "language", { get: () => locale });

  window.matchMedia = (query) => {
    const asked = lmapps.system(query);
    if (!/prefers-color-scheme: *dark/.test(query)) return asked;
    return new Proxy(asked, {
      get: (target, key) => {
        if (key === "matches") return lmapps.scheme() === "dark";
        const value = target[key];
        return typeof value === "function" ? value.bind(target) : value;
      },
    });
  };

  lmapps.paint();
  document.addEventListener("keydown", lmapps.stop);
  // On a phone the list of conversations is folded away when one is chosen, also the one that is open.
  document.addEventListener("click", ({ target }) => {
    if (target.closest?.("#conversations label, #new-chat"))
      target.closest(".chat-list")?.classList.remove("unfolded");
  });
  window.addEventListener("pagehide", lmapps.keep);
  document.addEventListener("change", ({ target }) => {
    if (target.id === "language") lmapps.choose(target.value);
  });
  let waiting = 0;
  new MutationObserver(() => {
    waiting ||= setTimeout(() => {
      waiting = 0;
      lmapps.announce();
    }, 300);
  }).observe(document, { childList: true, subtree: true });
}
