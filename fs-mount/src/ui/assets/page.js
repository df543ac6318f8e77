// What needs a script: coming in, regions that follow what changes, dropping files, the slider. Pages work without it.
"use strict";

const find = (selector, within = document) => within.querySelector(selector);
const all = (selector, within = document) => [...within.querySelectorAll(selector)];
const csrf = find('meta[name="csrf"]')?.content;
// Only pages of this origin are parsed, and only their regions taken: the one place where text becomes a document.
const trusted = window.trustedTypes?.createPolicy("p2pfs", { createHTML: (text) => text }) ?? { createHTML: (text) => text };

// Coming in: the key is in the part of the address that is sent to nobody, and goes from there at once.
const entering = find("#enter");
if (entering && location.hash.length > 1) {
  const token = location.hash.slice(1);
  history.replaceState(null, "", "/open");
  entering.elements.token.value = token;
  entering.submit();
}

// Regions that follow what changes. Those of the frame come from an address of their own, which looks at no file.
const here = () => location.pathname + location.search;
let wanted = null;
let running = false;

// One refresh at a time, and one remembered, of all that is asked for meanwhile: no answer overtakes another.
async function refresh(meant) {
  const others = wanted;
  wanted = others ? (region) => others(region) || meant(region) : meant;
  if (running) return;
  running = true;
  try {
    while (wanted) {
      const now = wanted;
      wanted = null;
      await fetchAnew(now);
    }
  } finally {
    running = false;
  }
}

async function fetchAnew(meant) {
  const [regions, own] = [all("[data-live], [data-path], [data-filtered]").filter(meant), here()];
  const source = (region) => region.dataset.from ?? own;
  for (const address of new Set(regions.map(source))) {
    const answer = await fetch(address, { headers: { accept: "text/html" } });
    if (answer.status === 401) return location.reload();
    const text = await answer.text();
    // Somebody moved the slider, or typed: that is wanted now, and all of this once more.
    if (here() !== own) return refresh(meant);
    // What was a file is a folder now, or the other way round.
    if (answer.redirected && address === own) return location.assign(answer.url);
    if (answer.ok) {
      if (address === own) document.body.classList.remove("gone");
      swap(regions.filter((region) => source(region) === address), text);
    } else if (address === own && GONE.includes(answer.status)) {
      leave(answer.status);
    }
  }
}

// Answers that say: this isn't there, or not for whoever looks.
const GONE = [403, 404, 410];

// What is gone doesn't stay on the screen. Its regions do, empty: it may come back.
function leave(status) {
  document.body.classList.add("gone");
  const parts = location.pathname.split("/").filter((part) => part !== "");
  const inFolder = ["files", "view"].includes(parts[0]);
  const text = status === 403 ? "You may not look at this any more." : "This is no longer here.";
  const link = document.createElement("a");
  link.href = inFolder ? ["/files", ...parts.slice(1, -1), ""].join("/") : `/${parts[0] ?? ""}`;
  link.textContent = inFolder ? "To the folder above" : "Go on from here";
  const banner = Object.assign(document.createElement("p"), { className: "warn" });
  banner.append(`${text} `, link);
  const regions = all("main [data-live], main [data-path]:not(#trail)").filter((region) => !region.dataset.from);
  regions.forEach((region) => region.replaceChildren());
  (regions[0] ?? find("main")).append(banner);
  find("#announce").textContent = text;
}

// Tells something that nothing on the page is about.
function tell(text) {
  find("#told")?.remove();
  const told = Object.assign(document.createElement("p"), { id: "told", className: "warn", textContent: text });
  told.setAttribute("role", "alert");
  find("main h1").after(told);
}

// Whether something was typed or chosen that isn't sent yet.
function isChanged(control) {
  if (control.matches("select")) return control.selectedIndex !== Math.max(0, [...control.options].findIndex((each) => each.defaultSelected));
  if (control.matches("[type=checkbox], [type=radio]")) return control.checked !== control.defaultChecked;
  return control.value !== control.defaultValue;
}

function swap(old, text) {
  const fresh = new DOMParser().parseFromString(trusted.createHTML(text), "text/html");
  for (const region of old) {
    const next = region.id && fresh.getElementById(region.id);
    const typing = region.contains(document.activeElement) && document.activeElement.matches("input, select, textarea");
    if (!next || next.isEqualNode(region)) continue;
    if (typing || all("input, select, textarea", region).some(isChanged)) {
      // What came beside that isn't kept from being seen. What was there already follows by itself.
      const fresh = all(":scope > article[id]", next).filter((each) => !document.getElementById(each.id));
      region.prepend(...fresh.map((each) => document.adoptNode(each)));
      continue;
    }
    const focused = region.contains(document.activeElement) && document.activeElement;
    const key = focused && (focused.id || focused.getAttribute("href") || focused.textContent);
    const open = all("details[open]", region).map((each) => each.id);
    region.replaceWith(document.adoptNode(next));
    open.forEach((id) => id && find(`#${CSS.escape(id)}`)?.setAttribute("open", ""));
    if (key) {
      const same = (each) => (each.id || each.getAttribute("href") || each.textContent) === key;
      all("a, button, summary", next).find(same)?.focus();
    }
    prepare(next);
  }
}

const touches = (region, news) => {
  const sections = (region.dataset.live ?? "").split(" ");
  if (sections.some((each) => news.sections.includes(each) || news.sections.includes("all"))) return true;
  const place = region.dataset.path;
  if (place === undefined) return false;
  // What is in the folder, or is the file; or the folder itself went.
  return news.paths.some((path) => path === "*" || path === place || path.slice(0, Math.max(path.lastIndexOf("/"), 0)) === place);
};

let events = null;
let again;
// How long after it was refused it is tried again.
const REFUSED = 15000;
function follow() {
  clearTimeout(again);
  events?.close();
  // What changed while the page was on its way is told at once.
  events = new EventSource(`/events?seen=${find('meta[name="seen"]').content}`);
  events.onmessage = (event) => {
    const news = JSON.parse(event.data);
    if (news.say) find("#announce").textContent = news.say;
    refresh((region) => touches(region, news)).catch(() => {});
  };
  events.onopen = () => (find("#lost").hidden = true);
  events.onerror = () => {
    find("#lost").hidden = false;
    // A connection that breaks off is made anew by the browser; one that is refused is not. The session may have ended.
    if (events.readyState !== EventSource.CLOSED) return;
    refresh(() => true).catch(() => {});
    again = setTimeout(follow, REFUSED);
  };
}

if (csrf) {
  follow();
  // A browser has few connections; who doesn't look needs none.
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) {
      clearTimeout(again);
      events?.close();
    } else {
      follow();
      prepare(document);
      refresh(() => true).catch(() => {});
    }
  });
}

// Filters act as they are typed.
const asQuery = (form) => new URLSearchParams([...new FormData(form)].filter(([, value]) => value !== ""));
for (const form of all("form[data-filter]")) {
  find("button", form).hidden = true;
  let timer;
  form.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(() => {
      history.replaceState(null, "", `${location.pathname}?${asQuery(form)}`);
      refresh((region) => region.id === form.dataset.filter).catch(() => {});
    }, 150);
  });
}

// Dropping files.
const drop = find("#drop");
let takeDropped = null;
if (drop) {
  drop.hidden = false;
  const input = find("input[type=file]", drop);
  const list = find("ul", drop);
  // Files go two at a time: each is a connection, and a browser has few.
  const AT_ONCE = 2;
  const waiting = [];
  let sending = 0;
  const next = () => {
    while (sending < AT_ONCE && waiting.length > 0) {
      sending += 1;
      waiting.shift()();
    }
  };
  const queue = (file, to, row, taken) => {
    row.replaceChildren(Object.assign(document.createElement("bdi"), { textContent: file.name }), "waits");
    waiting.push(() => send(file, to, row, taken));
    next();
  };
  window.addEventListener("beforeunload", (event) => {
    if (sending > 0) event.preventDefault();
  });
  // Why something was not taken, in the server's words.
  const said = (status, type, text) => {
    if (status === 401) return "The session has ended: run p2pfs ui.";
    return text !== "" && text.length < 400 && type?.startsWith("text/plain") ? text : "It was not taken. Load the page anew, then try again.";
  };
  const send = (file, to, row, taken) => {
    const request = new XMLHttpRequest();
    const bar = document.createElement("progress");
    bar.max = 1;
    bar.value = 0;
    bar.setAttribute("aria-label", `Uploading ${file.name}`);
    const state = document.createElement("span");
    row.replaceChildren(Object.assign(document.createElement("bdi"), { textContent: file.name }), bar, state);
    request.upload.onprogress = (event) => event.lengthComputable && (bar.value = event.loaded / event.total);
    const end = (text) => {
      bar.remove();
      state.textContent = text;
    };
    request.onerror = () => end("The connection broke off. Try again.");
    request.onload = () => {
      if (request.status === 201) {
        end("Done.");
        refresh((region) => region.dataset.path !== undefined).catch(() => {});
        setTimeout(() => row.remove(), 4000);
      } else if (request.status === 409 && !taken) {
        end("is there already:");
        const choose = (label, what) => {
          const button = Object.assign(document.createElement("button"), { type: "button", textContent: label, className: "small" });
          button.onclick = () => (what ? queue(file, to, row, what) : row.remove());
          row.append(button);
        };
        // (Whoever types something else meanwhile goes on typing: it is asked, and takes no focus.)
        choose("New version of it", "replace");
        choose("Keep both", "both");
        choose("Cancel", "");
      } else {
        end(said(request.status, request.getResponseHeader("content-type"), request.responseText));
      }
    };
    request.onloadend = () => {
      sending -= 1;
      next();
    };
    const query = new URLSearchParams({ name: file.name, ...(taken && { taken }) });
    request.open("POST", `${to}?${query}`);
    request.setRequestHeader("x-csrf", csrf);
    request.send(file);
  };
  const take = (files, to) => {
    for (const file of files) {
      const row = document.createElement("li");
      list.append(row);
      queue(file, to, row, "");
    }
  };
  // A folder is made, or is there, before what is in it is sent.
  const walk = async (folder, to) => {
    const query = new URLSearchParams({ name: folder.name, folder: "yes" });
    const made = await fetch(`${to}?${query}`, { method: "POST", headers: { "x-csrf": csrf } });
    if (!made.ok && made.status !== 409) {
      return tell(`${folder.name}: ${said(made.status, made.headers.get("content-type"), await made.text())}`);
    }
    const inside = `${to.replace(/\/$/, "")}/${encodeURIComponent(folder.name.trim())}`;
    const reader = folder.createReader();
    // It tells a part of them at a time, and nothing at their end.
    for (;;) {
      const entries = await new Promise((done, failed) => reader.readEntries(done, failed));
      if (entries.length === 0) return;
      for (const entry of entries) {
        try {
          if (entry.isDirectory) await walk(entry, inside);
          else take([await new Promise((done, failed) => entry.file(done, failed))], inside);
        } catch {
          // The others can be, perhaps.
          tell(`${entry.fullPath}: it can't be read.`);
        }
      }
    }
  };
  input.addEventListener("change", () => {
    take(input.files, drop.dataset.to);
    input.value = "";
  });
  takeDropped = (items) => {
    // All of them are asked for at once: they are nobody's when this has ended.
    const folders = [];
    for (const item of items) {
      const entry = item.webkitGetAsEntry?.();
      if (entry?.isDirectory) folders.push(entry);
      else take([item.getAsFile()].filter((file) => file !== null), drop.dataset.to);
    }
    folders.forEach((folder) => walk(folder, drop.dataset.to).catch(() => tell(`${folder.name}: not all of it can be read.`)));
  };
}
// What else is dragged (text, into a field) is the browser's. Files aren't: it would leave the page for them.
if (csrf) {
  const brings = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
  document.addEventListener("dragover", (event) => {
    if (!brings(event)) return;
    event.preventDefault();
    drop?.classList.add("over");
  });
  document.addEventListener("dragleave", (event) => event.relatedTarget ?? drop?.classList.remove("over"));
  document.addEventListener("drop", (event) => {
    if (!brings(event)) return;
    event.preventDefault();
    drop?.classList.remove("over");
    const [past, gone] = ["past", "gone"].map((each) => document.body.classList.contains(each));
    if (takeDropped && !past && !gone) {
      find("#told")?.remove();
      takeDropped([...event.dataTransfer.items].filter((item) => item.kind === "file"));
    } else {
      const isPast = past || new URLSearchParams(location.search).has("at");
      tell(isPast ? "Go back to now to add files." : "Files are added on the page of a folder.");
    }
  });
}

// Travelling in time. What can be gone to is looked for when somebody opens that.
find("#travel")?.addEventListener("toggle", async (event) => {
  const stops = find("#stops");
  if (!event.target.open || stops.dataset.open !== undefined) return;
  const answer = await fetch(stops.dataset.from, { headers: { accept: "text/html" } }).catch(() => null);
  if (answer?.ok) swap([stops], await answer.text());
});

function slide(slider) {
  const choice = find("#moments");
  find("#slide").hidden = false;
  find("#choose").hidden = true;
  const show = () => {
    const option = choice.options[choice.options.length - 1 - slider.value];
    find("#moment").textContent = option.textContent;
    slider.setAttribute("aria-valuetext", option.textContent);
    return option;
  };
  slider.addEventListener("input", show);
  slider.addEventListener("change", () => {
    const at = show().value;
    const query = new URLSearchParams(location.search);
    at ? query.set("at", at) : query.delete("at");
    query.set("slide", "1");
    // A page that began in the past has nothing of what can be done now.
    if (at === "" && !find(".now-only")) return location.assign(`${location.pathname}?${query}`);
    document.body.classList.toggle("past", at !== "");
    history.replaceState(null, "", `${location.pathname}?${query}`);
    refresh((region) => region.dataset.path !== undefined).catch(() => location.reload());
  });
  show();
}

// What is done to a part of a page as it is shown.
function prepare(within) {
  for (const button of all("[data-copy]", within)) {
    button.hidden = false;
    button.onclick = async () => {
      await navigator.clipboard.writeText(find(button.dataset.copy).value);
      button.textContent = "Copied";
    };
  }
  const slider = find("#slider", within);
  if (slider && find("#slide").hidden) slide(slider);
  // What somebody sees they have read, without a button for it.
  const unread = find("form[data-read]", within);
  if (unread) unread.hidden = true;
  if (unread && !document.hidden) {
    fetch(unread.action, { method: "POST", body: new URLSearchParams(new FormData(unread)) }).catch(() => {});
  }
  const last = find(".talk li:last-child", within);
  if (last && find("#say")) last.scrollIntoView({ block: "nearest" });
}
prepare(document);

// Return sends, with shift it makes a line.
find("#say")?.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    event.target.form.requestSubmit();
  }
});
