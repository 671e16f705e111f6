// Inspectors see what was changed, and accept it or send it back.

import { address, ask, byId, button, clock, counted, element, parameter, rememberName, say, send, tell } from "./elements.js";
import { shortcuts } from "./keys.js";
import { countWords, showDiff } from "./words.js";

const inspector = parameter("as");
const STATES = { finished: "waits", accepted: "accepted", returned: "sent back" };
let view = null;

const named = () => ({ inspector, script: view.number, annotator: view.annotator, version: view.version });
const chosenNow = () => ({ script: parameter("script"), annotator: parameter("annotator") });

async function list() {
  const { works } = await ask("/api/inspection");
  byId("no-works").hidden = works.length > 0;
  const now = chosenNow();
  byId("works").replaceChildren(...works.map((work) => {
    const line = element("li", work.state);
    const link = element("a", "", work.title);
    link.dir = "auto";
    link.href = address("/inspect", { as: inspector, script: work.number, annotator: work.annotator });
    if (String(work.number) === now.script && work.annotator === now.annotator) link.setAttribute("aria-current", "page");
    line.append(link, element("p", "small", `${work.annotator} · ${STATES[work.state]}${work.by ? `, ${work.by}` : ""}`));
    return line;
  }));
  return works;
}

async function show() {
  const now = chosenNow();
  view = await ask("/api/inspected", now);
  byId("script").hidden = false;
  byId("title").textContent = view.request.split("\n").find((line) => line.trim()) ?? view.id;
  byId("request").textContent = view.request;
  const changed = view.segments.filter((one) => one.text !== one.original).length;
  const words = (pick) => view.segments.reduce((sum, one) => sum + countWords(pick(one)), 0);
  byId("facts").textContent = `By ${view.annotator} · ${changed} of ${counted(view.segments.length, "segment")} changed · `
    + `${words((one) => one.original).toLocaleString("en")} → ${counted(words((one) => one.text), "word")}`
    + `${view.target_words ? ` of ${view.target_words.toLocaleString("en")} asked for` : ""}`
    + ` · ${Math.max(1, Math.round(view.seconds / 60))} min`;
  byId("segments").replaceChildren(...view.segments.map(segment));
  byId("history").replaceChildren(...view.history.map(event));
  const waits = view.state === "finished";
  const rejected = view.segments.filter((one) => one.rejected !== null).length;
  byId("decision").hidden = view.state === "returned" || view.state === "open";
  byId("accept").disabled = !waits || rejected > 0;
  byId("accept").title = rejected ? `${counted(rejected, "segment")} rejected` : "";
  if (!waits) {
    tell(view.state === "accepted" ? `Accepted by ${view.decided_by}. It can still be sent back.`
      : `With ${view.annotator} again${view.decided_by ? `: sent back by ${view.decided_by}. ${view.reason}` : "."}`);
  }
}

function segment(one, index) {
  const line = element("li");
  line.tabIndex = -1;
  const head = element("div", "head");
  const kind = one.text === one.original ? "unchanged" : one.missing ? "written anew" : one.text ? "changed" : "struck out";
  head.append(element("h2", "", `Segment ${index + 1}`), element("span", `chip ${kind.split(" ")[0]}`, kind));
  const diff = element("div", `prose diff${kind === "unchanged" ? " same" : ""}`);
  diff.dir = "auto";
  if (!one.text && !one.original) diff.textContent = "Left out by the writer, and by the annotator.";
  else showDiff(diff, one.original, one.text);
  line.append(head, diff);
  if (one.note) line.append(labelled("Note", one.note));
  if (one.rejected !== null) line.append(labelled(`Rejected by ${one.rejected_by}`, one.rejected, "warning"));
  if (view.state === "finished") line.append(verdict(one, index));
  return line;
}

function labelled(label, words, className = "") {
  const line = element("p", `remark ${className}`);
  line.append(element("b", "", `${label}: `), words);
  return line;
}

function verdict(one, index) {
  const form = element("form", "row verdict");
  if (one.rejected !== null) {
    form.append(button("Withdraw the rejection", () => mark(index, null)));
    return form;
  }
  const reason = element("input");
  Object.assign(reason, { maxLength: 4000, placeholder: "What is wrong with it?", id: `reason-${index}` });
  reason.setAttribute("aria-label", `Why segment ${index + 1} is rejected`);
  const reject = element("button", "", "Reject");
  reject.setAttribute("aria-label", `Reject segment ${index + 1}`);
  form.append(reason, reject);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (!reason.value.trim()) {
      say("Say what is wrong with it");
      reason.focus();
    } else {
      mark(index, reason.value.trim());
    }
  });
  return form;
}

function event({ at, who, what, segment: index, reason }) {
  const line = element("li", "small");
  line.append(`${new Date(at * 1000).toLocaleDateString("en-GB")} ${clock(at)} · ${who} · ${what}`);
  if (index !== null) line.append(` (segment ${index + 1})`);
  if (reason) line.append(`: ${reason}`);
  return line;
}

async function attempt(path, body) {
  try {
    await send(path, { ...named(), ...body });
    tell("");
    return true;
  } catch (error) {
    await Promise.all([list(), show()]);
    tell(error.message, "warning");
    return false;
  }
}

async function mark(index, reason) {
  if (!await attempt("/api/mark", { segment: index, reason })) return;
  await show();
  say(reason === null ? "Withdrawn" : "Rejected");
  focusSegment(index);
}

async function decide(accept) {
  if (!view || byId("decision").hidden || (accept && byId("accept").disabled)) return;
  if (!await attempt("/api/decide", { accept, reason: byId("reason").value.trim() })) return;
  byId("reason").value = "";
  const works = await list();
  const next = works.find((work) => work.state === "finished");
  if (next) {
    location.href = address("/inspect", { as: inspector, script: next.number, annotator: next.annotator });
  } else {
    await show();
    tell(accept ? "Accepted. Nothing else waits." : "Sent back. Nothing else waits.", "good");
  }
}

const lines = () => [...byId("segments").children];
const focused = () => lines().findIndex((line) => line.contains(document.activeElement));

function focusSegment(index) {
  const line = lines()[Math.min(Math.max(index, 0), lines().length - 1)];
  line?.focus({ preventScroll: true });
  line?.scrollIntoView({ block: "nearest" });
}

async function start() {
  if (!inspector) throw new Error("go to the first page and say who you are");
  rememberName(inspector);
  byId("back").href = address("/", { as: inspector });
  byId("where").textContent = `Inspection · ${inspector}`;
  const works = await list();
  if (parameter("script")) {
    await show();
  } else if (works.length) {
    location.replace(address("/inspect", { as: inspector, script: works[0].number, annotator: works[0].annotator }));
  }
}

byId("accept").addEventListener("click", () => decide(true));
byId("send-back").addEventListener("click", () => decide(false));
byId("decision").addEventListener("submit", (submitted) => submitted.preventDefault());
shortcuts([
  ["Alt+ArrowDown", "Next segment", () => focusSegment(focused() + 1)],
  ["Alt+ArrowUp", "Previous segment", () => focusSegment(focused() - 1)],
  ["Alt+KeyX", "Reject this segment: write why, then Enter", () => byId(`reason-${Math.max(0, focused())}`)?.focus()],
  ["Alt+KeyT", "To the reason for sending it back", () => byId("reason").focus()],
  ["Ctrl+Enter", "Accept the script", () => decide(true)],
  ["Alt+KeyB", "Send the script back", () => decide(false)],
]);
start().catch((error) => tell(error.message, "warning"));
