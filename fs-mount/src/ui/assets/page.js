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

// Regions that follow what changes.
const regions = (wanted) => all("[data-live], [data-path]").filter(wanted);

async function refresh(wanted, address = location.href) {
  const old = regions(wanted);
  if (old.length === 0) return;
  const answer = await fetch(address, { headers: { accept: "text/html" } });
  if (answer.status === 401) return location.reload();
  if (!answer.ok) return;
  const fresh = new DOMParser().parseFromString(trusted.createHTML(await answer.text()), "text/html");
  for (const region of old) {
    const next = region.id && fresh.getElementById(region.id);
    const typing = region.contains(document.activeElement) && document.activeElement.matches("input, select, textarea");
    if (!next || typing || next.isEqualNode(region)) continue;
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
let pending = null;
function follow() {
  events?.close();
  // What changed while the page was on its way is told at once.
  events = new EventSource(`/events?seen=${find('meta[name="seen"]').content}`);
  events.onmessage = (event) => {
    const news = JSON.parse(event.data);
    if (news.say) find("#announce").textContent = news.say;
    pending = pending ? { sections: [...pending.sections, ...news.sections], paths: [...pending.paths, ...news.paths] } : news;
    const told = pending;
    queueMicrotask(() => {
      if (pending !== told) return;
      pending = null;
      refresh((region) => touches(region, told)).catch(() => {});
    });
  };
  events.onopen = () => (find("#lost").hidden = true);
  events.onerror = () => (find("#lost").hidden = false);
}

if (csrf) {
  follow();
  // A browser has few connections; who doesn't look needs none.
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) {
      events?.close();
    } else {
      follow();
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
      refresh((region) => (region.dataset.live ?? "").split(" ").includes(form.dataset.filter)).catch(() => {});
    }, 150);
  });
}

// Dropping files.
const drop = find("#drop");
if (drop) {
  drop.hidden = false;
  const input = find("input[type=file]", drop);
  const list = find("ul", drop);
  const send = (file, row, taken) => {
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
          button.onclick = () => (what ? send(file, row, what) : row.remove());
          row.append(button);
          return button;
        };
        choose("New version of it", "replace").focus();
        choose("Keep both", "both");
        choose("Cancel", "");
      } else {
        end(request.status < 500 && request.responseText.length < 400 ? request.responseText : "It was not taken.");
      }
    };
    const query = new URLSearchParams({ name: file.name, ...(taken && { taken }) });
    request.open("POST", `${drop.dataset.to}?${query}`);
    request.setRequestHeader("x-csrf", csrf);
    request.send(file);
  };
  const take = (files) => {
    for (const file of files) {
      const row = document.createElement("li");
      list.append(row);
      send(file, row, "");
    }
  };
  input.addEventListener("change", () => {
    take(input.files);
    input.value = "";
  });
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    drop.classList.add("over");
  });
  document.addEventListener("dragleave", (event) => event.relatedTarget ?? drop.classList.remove("over"));
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    take(event.dataTransfer.files);
  });
}

// Travelling in time.
const slider = find("#slider");
if (slider) {
  const choice = find("#moments");
  find("#slide").hidden = false;
  find("#choose").classList.add("quiet");
  choice.tabIndex = -1;
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
    document.body.classList.toggle("past", at !== "");
    const address = `${location.pathname}?${query}`;
    history.replaceState(null, "", address);
    refresh((region) => region.dataset.path !== undefined, address).catch(() => location.reload());
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
  const unread = find("[data-read]", within) ?? (within.matches?.("[data-read]") ? within : null);
  if (unread && !document.hidden) {
    const body = new URLSearchParams({ csrf, numbers: unread.dataset.read });
    fetch("/messages/read", { method: "POST", body }).catch(() => {});
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
