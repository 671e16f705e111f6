// One script, segment by segment.

import { address, ask, byId, button, counted, element, parameter, rememberName, say, send, tell } from "./elements.js";
import { shortcuts } from "./keys.js";
import { Saver } from "./saving.js";
import { countWords, showDiff, showQuoted } from "./words.js";

const annotator = parameter("as");
const number = Number(parameter("script"));
const box = byId("box");
const note = byId("note");
const done = byId("done");
const ASPECTS = { factuality: "Facts", missing: "Missing", coherence: "Coherence", repetition: "Repetition" };

let view = null;
let current = 0;
let conflicts = [];
let undoText = null;

const saver = new Saver(number, annotator, {
  state(kind, text) {
    const shown = byId("save-state");
    // Every batch changes the line; only turns for the worse or the better are read out.
    if (kind !== "saving" && (shown.dataset.told ?? "saved") !== kind) {
      say(text);
      shown.dataset.told = kind;
    }
    shown.dataset.kind = kind;
    shown.textContent = text;
  },
  conflict(index, theirs, mine) {
    conflicts.push({ index, theirs, mine });
    saver.on.state("refused", "Not saved: there are two texts of one segment");
    askWhich();
  },
  locked() { refresh(); },
});

const segment = () => view.segments[current];
const text = (one) => one.text.replaceAll("\r\n", "\n").trimEnd();

// A segment as it stands in the corrected text.
function standing(one) {
  if (!text(one)) return "";
  if (one.missing && !one.prefilled) return `\n\n${text(one)}\n\n`;
  return one.lead + text(one) + one.trail;
}

function show() {
  const total = view.segments.length;
  const one = segment();
  byId("segment-title").textContent = `Segment ${current + 1} of ${total}`;
  byId("before").textContent = view.segments.slice(0, current).map(standing).join("")
    .replace(/\n{3,}/g, "\n\n").trim();
  byId("before-box").hidden = current === 0;
  byId("before").scrollTop = byId("before").scrollHeight;
  showQuoted(byId("original"), one.original, one.faults.map((fault) => fault.quote));
  byId("original").hidden = one.missing;
  byId("missing").hidden = !one.missing;
  byId("original-words").textContent = counted(countWords(one.original), "word");
  byId("faults-box").hidden = one.faults.length === 0;
  byId("faults").replaceChildren(...one.faults.map(fault));
  byId("proposal").hidden = one.prefilled === one.original;
  byId("rejected").hidden = one.rejected === null;
  byId("rejected").textContent = one.rejected === null ? "" : `${one.rejected_by} wants a change here: ${one.rejected}`;
  undoText = null;
  fill();
  byId("previous").disabled = current === 0;
  byId("next").disabled = current === total - 1;
  const place = new URL(location.href);
  place.searchParams.set("segment", String(current + 1));
  history.replaceState(null, "", place);
}

// The fields of the current segment.
function fill() {
  const one = segment();
  if (box.value !== one.text) box.value = one.text;
  if (note.value !== one.note) note.value = one.note;
  done.checked = one.done;
  for (const field of [box, note]) field.readOnly = !view.editable;
  for (const id of ["done", "done-next", "finish", "reset", "strike"]) byId(id).disabled = !view.editable;
  showChange();
}

function fault({ aspect, quote, advice }) {
  const line = element("li");
  line.append(element("b", "", ASPECTS[aspect]), element("span", "", ` ${advice}`));
  if (quote) line.append(element("q", "small", quote));
  return line;
}

function showChange() {
  const one = segment();
  const gone = !text(one) && !one.missing;
  byId("words").textContent = counted(countWords(one.text), "word");
  byId("struck").hidden = !gone;
  byId("original").classList.toggle("gone", gone);
  byId("reset").disabled = !view.editable || one.text === one.original;
  byId("strike").disabled = !view.editable || !text(one);
  byId("undo").hidden = undoText === null;
  const same = text(one) === text({ text: one.original });
  if (same) byId("diff").textContent = one.missing ? "Still missing." : "Nothing is changed.";
  else showDiff(byId("diff"), one.original, one.text);
  byId("diff").classList.toggle("same", same);
  showCounts();
}

function showCounts() {
  const finished = view.segments.filter((one) => one.done).length;
  const total = view.segments.length;
  byId("meter").style.setProperty("width", `${(100 * finished) / total}%`);
  byId("count").textContent = `${finished} of ${total} segments done`;
  const words = view.segments.reduce((sum, one) => sum + countWords(one.text), 0);
  byId("script-words").textContent =
    `· ${counted(words, "word")}${view.target_words ? ` of ${view.target_words.toLocaleString("en")} asked for` : ""}`;
  byId("segments").replaceChildren(...view.segments.map((one, index) => {
    const item = element("li");
    const kinds = [one.done && "done", one.rejected !== null && "rejected", one.missing && "missing",
      text(one) !== text({ text: one.original }) && "changed"].filter(Boolean);
    const chip = button(String(index + 1), () => go(index, false), kinds.join(" "));
    chip.setAttribute("aria-label", [`Segment ${index + 1}`, ...kinds].join(", "));
    if (index === current) chip.setAttribute("aria-current", "step");
    item.append(chip);
    return item;
  }));
}

function change(values) {
  if (!view.editable) return;
  Object.assign(segment(), values);
  saver.change(current, segment());
  showChange();
}

function go(index, toBox = true) {
  if (index < 0 || index >= view.segments.length) return;
  saver.flush();
  current = index;
  show();
  if (!toBox) return;
  box.focus({ preventScroll: true });
  box.setSelectionRange(0, 0);
  box.scrollTop = 0;
  byId("segment").scrollIntoView({ block: "nearest" });
}

// Buttons replace the text, so they give it back as well.
function replace(words) {
  undoText = segment().text;
  box.value = words;
  change({ text: words });
  box.focus();
}

function doneAndNext() {
  if (!view.editable) return;
  done.checked = true;
  change({ done: true });
  const rest = [...view.segments.keys()];
  const open = [...rest.slice(current + 1), ...rest.slice(0, current)].find((index) => !view.segments[index].done);
  if (open !== undefined) {
    go(open);
    return;
  }
  saver.flush();
  say("All segments are done: hand the script in.");
  byId("finish").focus();
}

async function finish() {
  const open = [...view.segments.keys()].filter((index) => !view.segments[index].done);
  if (open.length) {
    notice(`Not done yet: ${open.slice(0, 12).map((index) => index + 1).join(", ")}${open.length > 12 ? ", …" : ""}. `
      + "Mark those that stay as they are as well.", "warning");
    go(open[0]);
    return;
  }
  await act("/api/finish");
  if (!view.editable) byId("go-on").focus();
}

async function act(path) {
  await saver.flush();
  if (!saver.idle || conflicts.length) return;
  let failed = "";
  try {
    await send(path, { annotator, script: number, version: view.version });
  } catch (error) {
    failed = error.message;
  }
  await refresh();
  if (failed) notice(failed, "warning");
}

function notice(words, kind = "") {
  tell(words, kind);
  byId("notice").hidden = !words && view.editable;
}

function showState() {
  const words = {
    open: ["", ""],
    finished: ["Handed in. It waits for an inspector; to change something, take it back.", "good"],
    accepted: [`Accepted by ${view.decided_by}.${view.reason ? ` ${view.reason}` : ""}`, "good"],
    returned: [`Sent back by ${view.decided_by}${view.reason ? `: ${view.reason}` : ". The segments marked red want a change."}`,
      "warning"],
  }[view.state];
  byId("go-on").hidden = view.editable;
  byId("take-back").hidden = view.state !== "finished";
  notice(...words);
}

async function refresh() {
  const fresh = await ask("/api/script", { script: number, annotator });
  const stateChanged = fresh.state !== view.state || fresh.version !== view.version;
  fresh.segments.forEach((one, index) => {
    const mine = view.segments[index];
    const waits = saver.pending.has(index) || conflicts.some((conflict) => conflict.index === index);
    if (waits || one.version < saver.version(index)) {
      Object.assign(one, { text: mine.text, note: mine.note, done: mine.done });
    } else {
      saver.knows(index, one.version);
    }
  });
  const cameBack = fresh.state === "returned" && view.state !== "returned";
  view = fresh;
  if (stateChanged) {
    if (cameBack) current = Math.max(0, view.segments.findIndex((one) => one.rejected !== null));
    showState();
    show();
  } else {
    fill();
  }
}

function askWhich() {
  const dialog = byId("conflict");
  if (dialog.open || !conflicts.length) return;
  const { index, theirs, mine } = conflicts[0];
  byId("conflict-why").textContent =
    `Segment ${index + 1} was changed in another tab after this page had read it. Nothing is lost: choose.`;
  showDiff(byId("theirs"), mine.text, theirs.text);
  showDiff(byId("mine"), theirs.text, mine.text);
  dialog.showModal();
  byId("conflict-title").focus();
}

function chosen(keepMine) {
  const { index, theirs, mine } = conflicts.shift();
  saver.knows(index, theirs.version);
  saver.settle(index);
  const { text: words, note: remark, done: marked } = keepMine ? mine : theirs;
  Object.assign(view.segments[index], { text: words, note: remark, done: marked });
  if (keepMine) saver.change(index, view.segments[index]);
  else saver.on.state("saved", "Saved already");
  byId("conflict").close();
  fill();
  box.focus();
  askWhich();
}

async function start() {
  await send("/api/open", { annotator, script: number });
  view = await ask("/api/script", { script: number, annotator });
  rememberName(annotator);
  view.segments.forEach((one, index) => saver.knows(index, one.version));
  byId("back").href = address("/", { as: annotator });
  byId("where").textContent = `Script ${number} · ${annotator}`;
  byId("title").textContent = view.request.split("\n").find((line) => line.trim()) ?? view.id;
  document.title = `Script ${number} – lpo annotate`;
  byId("request").textContent = view.request;
  byId("document-box").hidden = view.context === null;
  byId("document").textContent = view.context ?? "";
  current = Math.min(Math.max(0, Number(parameter("segment") || 1) - 1), view.segments.length - 1);
  if (!parameter("segment")) {
    const wanted = view.segments.findIndex((one) => one.rejected !== null || !one.done);
    current = Math.max(0, wanted);
  }
  restore();
  showState();
  show();
  box.focus({ preventScroll: true });
  box.setSelectionRange(0, 0);
  setInterval(() => {
    if (!document.hidden && view.editable) send("/api/open", { annotator, script: number }).catch(() => {});
  }, 60_000);
}

// What an earlier page typed and could not save.
function restore() {
  if (!view.editable) return;
  for (const draft of saver.takeDrafts()) {
    const one = view.segments[draft.index];
    if (!one || (draft.text === one.text && draft.note === one.note && draft.done === one.done)) continue;
    const mine = { text: draft.text, note: draft.note, done: draft.done };
    if (one.version === draft.base || one.tab === draft.tab) {
      Object.assign(one, mine);
      saver.change(draft.index, one);
    } else {
      conflicts.push({ index: draft.index, theirs: { ...one }, mine });
    }
  }
  askWhich();
}

box.addEventListener("input", () => {
  undoText = null;
  change({ text: box.value });
});
note.addEventListener("input", () => change({ note: note.value }));
done.addEventListener("change", () => change({ done: done.checked }));
for (const field of [box, note]) field.addEventListener("blur", () => { if (!saver.idle) saver.flush(); });
byId("reset").addEventListener("click", () => replace(segment().original));
byId("strike").addEventListener("click", () => replace(""));
byId("undo").addEventListener("click", () => {
  const words = undoText;
  replace(words);
  undoText = null;
  showChange();
});
byId("previous").addEventListener("click", () => go(current - 1, false));
byId("next").addEventListener("click", () => go(current + 1, false));
byId("done-next").addEventListener("click", doneAndNext);
byId("finish").addEventListener("click", finish);
byId("take-back").addEventListener("click", () => act("/api/take-back"));
byId("go-on").addEventListener("click", async () => {
  const { script } = await send("/api/next", { annotator });
  if (script === null) location.href = address("/", { as: annotator });
  else location.href = address("/annotate", { script, as: annotator });
});
byId("take-theirs").addEventListener("click", () => chosen(false));
byId("keep-mine").addEventListener("click", () => chosen(true));
byId("conflict").addEventListener("cancel", (event) => event.preventDefault());
document.addEventListener("visibilitychange", () => {
  if (!view) return;
  if (document.hidden) saver.flush();
  else refresh().catch(() => {});
});
addEventListener("focus", () => { if (view) refresh().catch(() => {}); });
shortcuts([
  ["Alt+ArrowDown", "Next segment", () => go(current + 1)],
  ["Alt+ArrowUp", "Previous segment", () => go(current - 1)],
  ["Ctrl+Enter", "Done, and on to the next that is not", doneAndNext],
  ["Alt+KeyR", "Reset to the original", () => { if (!byId("reset").disabled) replace(segment().original); }],
  ["Alt+KeyX", "Strike out", () => { if (!byId("strike").disabled) replace(""); }],
  ["Alt+KeyT", "To the text", () => box.focus()],
  ["Alt+KeyN", "To the note", () => note.focus()],
  ["Alt+KeyI", "Hand in", finish],
]);
start().catch((error) => {
  tell(error.message, "warning");
  byId("notice").hidden = false;
});
