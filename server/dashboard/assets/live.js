// Keeps a page up to date while the ledger grows: the server says that something is new, the page fetches itself again
// and puts the parts that have changed in their place. Without this, a reload does the same.
"use strict";

const LEAST_MS = 1000;
const news = document.getElementById("news");
let version = document.body.dataset.version;
let running = false;
let again = false;
let last = 0;

function fetched() {
  return new Promise((done, failed) => {
    const request = new XMLHttpRequest();
    request.open("GET", location.href);
    request.responseType = "document";
    request.onload = () => (request.status === 200 && request.response ? done(request.response) : failed());
    request.onerror = failed;
    request.send();
  });
}

function openDetails(part) {
  return [...part.querySelectorAll("details")].map((one) => one.open);
}

function scrolled(part) {
  return [...part.querySelectorAll(".scroll")].map((one) => one.scrollLeft);
}

function takeOver(old, fresh) {
  const open = openDetails(old);
  const places = scrolled(old);
  const focused = old.contains(document.activeElement) ? document.activeElement : null;
  const link = focused && focused.getAttribute("href");
  const at = focused && [...old.querySelectorAll(focused.tagName)].indexOf(focused);
  const tag = focused && focused.tagName;
  const mine = document.adoptNode(fresh);
  [...mine.querySelectorAll("details")].forEach((one, place) => { one.open = Boolean(open[place]); });
  old.replaceWith(mine);
  [...mine.querySelectorAll(".scroll")].forEach((one, place) => { one.scrollLeft = places[place] || 0; });
  if (focused) {
    const all = [...mine.querySelectorAll(tag)];
    const next = (link && all.find((one) => one.getAttribute("href") === link)) || all[at];
    if (next) next.focus({ preventScroll: true });
  }
  mine.classList.add("fresh");
}

function say(words) {
  news.textContent = words;
  clearTimeout(say.timer);
  if (words) say.timer = setTimeout(() => { news.textContent = ""; }, 6000);
}

async function refresh() {
  if (running) { again = true; return; }
  running = true;
  try {
    await new Promise((go) => setTimeout(go, Math.max(0, last + LEAST_MS - Date.now())));
    last = Date.now();
    const page = await fetched();
    version = page.body.dataset.version;
    let changed = false;
    const seal = page.getElementById("seal");
    if (seal && seal.innerHTML !== document.getElementById("seal").innerHTML) {
      document.getElementById("seal").replaceWith(document.adoptNode(seal));
    }
    const before = [...document.querySelectorAll("main [data-live]")].map((one) => one.id).join();
    const after = [...page.querySelectorAll("main [data-live]")].map((one) => one.id).join();
    if (before !== after) {
      document.querySelector("main > .frame").replaceWith(document.adoptNode(page.querySelector("main > .frame")));
      changed = true;
    } else {
      for (const fresh of page.querySelectorAll("main [data-live]")) {
        const old = document.getElementById(fresh.id);
        if (shape(old) !== shape(fresh)) { takeOver(old, fresh); changed = true; }
      }
    }
    if (changed) say(document.body.dataset.updated);
  } catch {
    say(document.body.dataset.lost);
  } finally {
    running = false;
    if (again) { again = false; refresh(); }
  }
}

function shape(part) {
  const copy = part.cloneNode(true);
  copy.querySelectorAll("details").forEach((one) => { one.open = false; });
  return copy.innerHTML;
}

const events = new EventSource("/events");
events.addEventListener("standing", (event) => { if (event.data !== version) refresh(); });
