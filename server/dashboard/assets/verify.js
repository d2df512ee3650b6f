// Verifies one entry in the browser: leaf hash and path by RFC 6962, the checkpoint by its C2SP signed note. Nothing of
// what the server says about the result is used: only the entry, the hashes beside its path, the note and the key.
"use strict";

const box = document.getElementById("verify");
const button = box.querySelector("button");
const steps = box.querySelector(".steps");
const verdict = box.querySelector(".verdict");

const fromHex = (text) => Uint8Array.from(text.match(/../g) || [], (pair) => parseInt(pair, 16));
const toHex = (bytes) => [...bytes].map((one) => one.toString(16).padStart(2, "0")).join("");
const fromBase64 = (text) => Uint8Array.from(atob(text), (one) => one.charCodeAt(0));

async function sha256(...parts) {
  const whole = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) { whole.set(part, at); at += part.length; }
  return new Uint8Array(await crypto.subtle.digest("SHA-256", whole));
}

// RFC 9162, 2.1.3.2. Sizes may pass 2^32, so they are divided and not shifted.
async function rootFrom(leaf, index, size, proof) {
  let place = index;
  let last = size - 1;
  let found = leaf;
  for (const sibling of proof) {
    if (last === 0) return null;
    if (place % 2 === 1 || place === last) {
      found = await sha256(Uint8Array.of(1), sibling, found);
      while (place !== 0 && place % 2 === 0) { place = Math.floor(place / 2); last = Math.floor(last / 2); }
    } else {
      found = await sha256(Uint8Array.of(1), found, sibling);
    }
    place = Math.floor(place / 2);
    last = Math.floor(last / 2);
  }
  return last === 0 ? found : null;
}

// "origin\nsize\nroot\n\n— name base64(key id, signature)\n…"
function readNote(note) {
  const cut = note.indexOf("\n\n");
  const text = note.slice(0, cut + 1);
  const [origin, size, root] = text.split("\n");
  const signatures = note.slice(cut + 2).split("\n").filter(Boolean).map((line) => {
    const [, name, blob] = line.split(" ");
    return { name, blob: fromBase64(blob) };
  });
  return { text, origin, size: Number(size), root: fromBase64(root), signatures };
}

async function signedBy(note, raw) {
  const name = new TextEncoder().encode(note.origin);
  const id = (await sha256(name, Uint8Array.of(10, 1), raw)).slice(0, 4);
  const line = note.signatures.find((one) => one.name === note.origin && toHex(one.blob.slice(0, 4)) === toHex(id));
  if (!line) return false;
  const key = await crypto.subtle.importKey("raw", raw, { name: "Ed25519" }, false, ["verify"]);
  return crypto.subtle.verify({ name: "Ed25519" }, key, line.blob.slice(4), new TextEncoder().encode(note.text));
}

async function knowsEd25519() {
  try {
    await crypto.subtle.importKey("raw", new Uint8Array(32), { name: "Ed25519" }, false, ["verify"]);
    return true;
  } catch {
    return false;
  }
}

function tell(step, good, more) {
  const item = document.createElement("li");
  item.className = good ? "done" : "wrong";
  const mark = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
  use.setAttribute("href", good ? "#m-tick" : "#m-rejected");
  mark.setAttribute("aria-hidden", "true");
  mark.append(use);
  item.append(mark, box.dataset["step" + step]);
  if (more) {
    const code = document.createElement("code");
    code.className = "digest";
    code.textContent = more;
    item.append(document.createElement("br"), code);
  }
  steps.append(item);
  return good;
}

function end(words, good) {
  verdict.className = "verdict " + (good ? "good" : "bad");
  verdict.textContent = box.dataset[words];
}

async function verify() {
  steps.replaceChildren();
  verdict.textContent = "";
  if (!globalThis.crypto || !crypto.subtle) { end("noCrypto", false); return; }
  let told;
  try {
    const answer = await fetch(box.dataset.proof, { cache: "no-store" });
    if (!answer.ok) throw new Error(String(answer.status));
    told = await answer.json();
  } catch {
    end("failed", false);
    return;
  }
  tell("Fetch", true);
  const leaf = await sha256(Uint8Array.of(0), fromBase64(told.entry));
  tell("Leaf", true, toHex(leaf));
  const note = told.checkpoint ? readNote(told.checkpoint) : null;
  const size = note ? note.size : told.size;
  const root = await rootFrom(leaf, told.index, size, told.proof.map(fromHex));
  if (!tell("Path", root !== null, root ? toHex(root) : "")) { end("bad", false); return; }
  if (!note) {
    end(toHex(root) === told.root ? "goodUnsigned" : "bad", toHex(root) === told.root);
    return;
  }
  if (!tell("Root", toHex(root) === toHex(note.root), toHex(note.root))) { end("bad", false); return; }
  if (!(await knowsEd25519())) { end("goodNoEd", true); return; }
  const good = note.origin === told.origin && (await signedBy(note, fromHex(told.key)));
  tell("Signature", good, told.vkey);
  end(good ? "good" : "bad", good);
}

async function pressed() {
  button.disabled = true;
  try {
    await verify();
  } catch {
    end("bad", false);
  } finally {
    button.disabled = false;
    button.focus();
  }
}

button.hidden = false;
box.querySelector(".without").hidden = true;
button.addEventListener("click", pressed);
