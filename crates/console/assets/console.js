// What pages do beyond reading and sending forms: they update themselves, ask back in a dialog, show an upload's progress.
// Everything works without this module.
const root = document.documentElement;
root.classList.add("module");

// Times: the exact one in the reader's zone on hover, the relative one kept up to date.
const units = [["day", 86400], ["hour", 3600], ["minute", 60], ["second", 1]];
const relative = new Intl.RelativeTimeFormat("en", { numeric: "always", style: "short" });
const exact = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "long" });
const grouped = new Intl.NumberFormat("en");
function tellTimes(within = document) {
  for (const time of within.querySelectorAll("time[datetime]")) {
    const at = new Date(time.dateTime);
    if (Number.isNaN(at.getTime())) continue;
    time.title = exact.format(at);
    const seconds = Math.round((at - Date.now()) / 1000);
    // What is expected is not past: it comes any moment.
    if ("due" in time.dataset && seconds < 2) { time.textContent = "now"; continue; }
    const [unit, size] = units.find(([, size]) => Math.abs(seconds) >= size) ?? units[3];
    time.textContent = Math.abs(seconds) < 2 ? "just now" : relative.format(Math.trunc(seconds / size), unit);
  }
}

// What an element is, among those beside it. Two that are alike in this are one that has changed.
const names = ["id", "class", "data-batch", "action", "href", "name", "value", "data-key"];
const likeness = (node) => node.nodeName + (node.getAttribute ? names.map((name) => node.getAttribute(name)).join("\n") : "");

// Makes an element like another in place: what stays keeps its focus, and is still selected, opened, filled in and scrolled.
function morph(old, fresh) {
  for (const { name } of [...old.attributes]) if (name !== "open" && !fresh.hasAttribute(name)) old.removeAttribute(name);
  for (const { name, value } of fresh.attributes) if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  let at = old.firstChild;
  for (const next of [...fresh.childNodes]) {
    let same = at;
    while (same && likeness(same) !== likeness(next)) same = next.nodeType === Node.ELEMENT_NODE ? same.nextSibling : null;
    if (!same) { old.insertBefore(next, at); continue; }
    while (at !== same) { const gone = at; at = at.nextSibling; gone.remove(); }
    at = same.nextSibling;
    if (same.nodeType === Node.ELEMENT_NODE) morph(same, next);
    else if (same.data !== next.data) same.data = next.data;
  }
  while (at) { const gone = at; at = at.nextSibling; gone.remove(); }
}
function renew(element, html) {
  const fresh = element.cloneNode(false);
  fresh.innerHTML = html;
  tellTimes(fresh);
  morph(element, fresh);
}

// Asks for the page again and shows what has changed.
async function refresh() {
  if (document.querySelector("dialog[open]")) return false;
  const answer = await fetch(location.href, { headers: { accept: "text/html" } });
  // The session is over: the page is no longer shown, and signing in leads back to it.
  if (answer.redirected && new URL(answer.url).pathname === "/console/sign-in") location.reload();
  // It is gone, or no longer for this key: nothing is to come of it.
  if ([403, 404, 410].includes(answer.status)) { stream?.close(); stream = undefined; }
  if (!answer.ok || answer.redirected) return false;
  if (!show(await answer.text())) return false;
  renewed = Date.now();
  watch();
  return true;
}
// Shows a page anew, as it is now. Not over a question that is open, or a form that is filled in and no longer there.
function show(html) {
  if (document.querySelector("dialog[open]")) return false;
  const main = new DOMParser().parseFromString(html, "text/html").querySelector("main");
  const filled = document.activeElement?.matches("main input, main select") && document.activeElement.form?.getAttribute("action");
  if (filled && !main.querySelector(`form[action="${CSS.escape(filled)}"]`)) return false;
  // What came by the stream is the same for everybody, without the token of this page's forms.
  const token = document.querySelector("input[name=csrf]")?.value;
  for (const field of main.querySelectorAll("input[name=csrf]")) if (!field.value) field.setAttribute("value", token);
  tellTimes(main);
  morph(document.querySelector("main"), main);
  return true;
}

// Live: one stream a page. It is closed while nobody looks at the page: browsers have few connections to one host.
let stream;
// What a page was last fetched anew for. A watcher may show an older look than the page: that is not fetched again and again.
let asked;
// When the page was last shown anew as a whole. A group of failed rows that came new is shown so seldom: many may look at a batch.
let renewed = Date.now();
const anew = 20000;
// Counts the groups of failed rows on; no: there is one that the page does not show yet.
function count(groups) {
  let all = true;
  for (const [key, rows] of groups) {
    const link = document.querySelector(`.group[data-key="${CSS.escape(key)}"] header a`);
    if (link) link.textContent = `${grouped.format(rows)} ${rows === 1 ? "row" : "rows"}`;
    else all = false;
  }
  return all;
}
// How long to wait before another stream, when one has ended for good: the session is over, or something on the way answered instead of
// the service.
const [shortest, longest] = [5000, 60000];
let pause = shortest;
function watch() {
  stream?.close();
  stream = undefined;
  const list = document.querySelector("[data-watch]");
  const one = document.querySelector("[data-watch-batch]");
  const news = document.querySelector("[data-newer]");
  const asks = new URLSearchParams();
  if (one) asks.set("batch", one.dataset.watchBatch);
  if (list?.dataset.watch) asks.set("batches", list.dataset.watch);
  if (news) asks.set("newer", news.dataset.newer);
  const live = document.querySelector("[data-live]");
  if (live) asks.set("page", live.dataset.live);
  if (!asks.size || document.hidden) return;
  const mine = new EventSource(`/console/events?${asks}`);
  stream = mine;
  stream.addEventListener("open", () => { pause = shortest; });
  stream.addEventListener("error", () => {
    if (mine !== stream || mine.readyState !== EventSource.CLOSED) return;
    setTimeout(async () => {
      if (mine === stream && !(await refresh().catch(() => false)) && mine === stream) watch();
    }, pause * (0.5 + Math.random()));
    pause = Math.min(2 * pause, longest);
  });
  stream.addEventListener("new", (event) => {
    const link = document.createElement("a");
    link.href = "/console/batches";
    link.textContent = "Show";
    news.replaceChildren(`${grouped.format(event.data)} new ${event.data === "1" ? "batch" : "batches"}. `, link);
  });
  stream.addEventListener("batch", async (event) => {
    const { id, state, groups, html } = JSON.parse(event.data);
    if (one) {
      if (one.dataset.state === state) asked = undefined;
      else if (asked === state) return;
      else {
        asked = state;
        if (await refresh()) return;
        asked = undefined;
      }
      renew(one, html);
      if (!count(groups) && Date.now() - renewed > anew) {
        renewed = Date.now();
        await refresh().catch(() => false);
      }
    } else {
      const line = document.querySelector(`tr[data-batch="${CSS.escape(id)}"]`);
      if (line) renew(line, html);
    }
  });
  stream.addEventListener("page", (event) => { show(JSON.parse(event.data)); });
  stream.addEventListener("end", () => { stream.close(); });
}

// What cannot be undone asks back: the page that asks is shown as a dialog.
async function ask(form) {
  const answer = await fetch(form.action, { headers: { accept: "text/html" } });
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  const question = page.querySelector("form.confirm");
  if (!question) { location.assign(form.action); return; }
  const heading = question.querySelector("h1");
  const title = document.createElement("h2");
  title.id = "question";
  title.textContent = heading.textContent;
  heading.replaceWith(title);
  const dialog = document.createElement("dialog");
  dialog.setAttribute("aria-labelledby", "question");
  dialog.append(question);
  document.body.append(dialog);
  dialog.addEventListener("close", () => dialog.remove());
  question.querySelector("[data-dismiss]")?.addEventListener("click", (event) => { event.preventDefault(); dialog.close(); });
  dialog.showModal();
}

// An id of the page's own, under which the server tells how far it is. `randomUUID` is for secure pages alone.
function uuid() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6] & 15) | 64;
  bytes[8] = (bytes[8] & 63) | 128;
  const digits = [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  return digits.replace(/^(.{8})(.{4})(.{4})(.{4})/, "$1-$2-$3-$4-");
}
function upload(form) {
  const shown = form.querySelector("[data-progress]");
  const [bar, words] = [shown.querySelector("progress"), shown.querySelector("p")];
  const button = form.querySelector("button.primary");
  const request = new XMLHttpRequest();
  const id = uuid();
  let [sent, checked, ended] = ["", "", false];
  const tell = () => { words.textContent = [sent, checked].filter(Boolean).join(" "); };
  const fail = (text) => { button.disabled = false; words.textContent = text; };
  // Once a second: rows and errors so far, as the server counts them.
  const follow = async () => {
    if (ended) return;
    const answer = await fetch(`/console/upload/${id}`).catch(() => undefined);
    if (ended) return;
    if (answer?.status === 200 && !answer.redirected) {
      const { rows, errors } = await answer.json();
      checked = `${grouped.format(rows)} rows are checked, ${errors ? `${grouped.format(errors)} errors so far` : "no errors so far"}.`;
      shown.classList.toggle("bad", errors > 0);
      tell();
    }
    setTimeout(follow, 1000);
  };
  shown.classList.remove("bad");
  uploading = true;
  request.addEventListener("loadend", () => { ended = true; uploading = false; });
  shown.hidden = false;
  button.disabled = true;
  request.upload.addEventListener("progress", (event) => {
    bar.max = event.total;
    bar.value = event.loaded;
    sent = `${grouped.format(event.loaded)} of ${grouped.format(event.total)} bytes are sent.`;
    tell();
  });
  request.upload.addEventListener("load", () => { sent = "All of it is sent; its last rows are checked."; tell(); });
  let all = false;
  request.upload.addEventListener("load", () => { all = true; });
  // When all of it was sent, the answer is what got lost: the batch may be there.
  const look = "Look under Batches first: if the file is not there, upload it again.";
  request.addEventListener("error", () =>
    fail(all ? `The connection broke off before the answer came. ${look}` : "The upload broke off. Nothing was stored; upload it again."));
  request.addEventListener("load", () => {
    if (request.status < 400) { location.assign(request.responseURL); return; }
    const page = new DOMParser().parseFromString(request.responseText, "text/html");
    const errors = page.querySelector("#errors, .problem");
    if (!errors) { fail(request.status >= 500 ? `The service did not answer. ${look}` : "The upload was refused."); return; }
    document.querySelector("#errors, .problem")?.remove();
    form.before(errors);
    shown.hidden = true;
    button.disabled = false;
    errors.tabIndex = -1;
    errors.focus();
  });
  request.open("POST", form.action);
  request.setRequestHeader("upload-progress", id);
  request.send(new FormData(form));
  setTimeout(follow, 500);
}

// Days begin in the reader's zone, and the server is told which that is on each of them.
function offsetOn(day) {
  const minutes = -new Date(`${day}T00:00`).getTimezoneOffset();
  const two = (number) => String(Math.trunc(number)).padStart(2, "0");
  return day && `${minutes < 0 ? "-" : "+"}${two(Math.abs(minutes) / 60)}:${two(Math.abs(minutes) % 60)}`;
}
function tellZones(form) {
  for (const day of form.querySelectorAll("input[type=date]")) {
    const offset = form.elements[`${day.name}_offset`];
    // A list that somebody in another zone has sent keeps that, and says so.
    day.closest("label").querySelector("[data-zone]").hidden = !day.value || offset.value === offsetOn(day.value);
    day.addEventListener("change", () => {
      offset.value = offsetOn(day.value);
      day.closest("label").querySelector("[data-zone]").hidden = true;
    });
  }
}

// Who signs out in one window does in all: each looks whether its session is over. Not while it uploads, which would end it.
const windows = new BroadcastChannel("penstock-console");
let uploading = false;
function watchWindows() {
  if (document.querySelector("form.sign-in")) windows.postMessage("signed out");
  else windows.addEventListener("message", async () => {
    const answer = uploading ? undefined : await fetch(location.href, { method: "HEAD" }).catch(() => undefined);
    if (answer?.redirected && new URL(answer.url).pathname === "/console/sign-in") location.reload();
  });
}

function begin() {
  watchWindows();
  tellTimes();
  watch();
  document.querySelectorAll("form.filters").forEach(tellZones);
  const form = document.querySelector("form[data-upload]");
  if (!form) return;
  const chosen = form.querySelector("[data-chooses]");
  const choose = () => {
    for (const fields of form.querySelectorAll("[data-pipeline]")) {
      fields.hidden = fields.disabled = fields.dataset.pipeline !== chosen.value;
    }
  };
  chosen.addEventListener("change", choose);
  choose();
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    upload(form);
  });
  const drop = form.querySelector("[data-drop]");
  for (const kind of ["dragenter", "dragover"]) {
    drop.addEventListener(kind, (event) => { event.preventDefault(); drop.classList.add("over"); });
  }
  for (const kind of ["dragleave", "drop"]) drop.addEventListener(kind, () => drop.classList.remove("over"));
  drop.addEventListener("drop", (event) => {
    event.preventDefault();
    drop.querySelector("input").files = event.dataTransfer.files;
  });
}

document.addEventListener("visibilitychange", watch);
document.addEventListener("submit", (event) => {
  if (!event.target.matches("form[data-ask]")) return;
  event.preventDefault();
  // Without an answer the browser says why.
  ask(event.target).catch(() => event.target.submit());
});
setInterval(() => {
  if (document.hidden) return;
  tellTimes();
  // Pages without a stream.
  if (document.querySelector("[data-refresh]")) refresh().catch(() => false);
}, 15000);
begin();
