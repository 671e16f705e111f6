// The first page: who are you, how far is everybody, what is there.

import { address, ask, byId, counted, element, parameter, rememberedName, rememberName, send, tell } from "./elements.js";

const STATES = { open: "begun by", finished: "handed in by", accepted: "accepted, by", returned: "sent back to" };
const name = byId("name");
const typedName = () => name.value.trim();

function bar(label, value, total) {
  const wrapper = element("div", "measure");
  const meter = element("meter");
  Object.assign(meter, { min: 0, max: Math.max(total, 1), value });
  meter.setAttribute("aria-label", label);
  const text = element("p", "small");
  text.append(element("b", "", `${value.toLocaleString("en")} of ${total.toLocaleString("en")}`), ` ${label}`);
  wrapper.append(text, meter);
  return wrapper;
}

function showProgress({ scripts, finished, accepted, returned, segments, done }) {
  const all = byId("progress");
  all.replaceChildren(bar("scripts handed in", finished, scripts), bar("segments done", done, segments),
    bar("scripts accepted", accepted, scripts));
  if (returned) all.append(element("p", "small", `${counted(returned, "script")} sent back by an inspector`));
  all.setAttribute("aria-busy", "false");
}

function work({ annotator, state, done, working, by }, total) {
  const chip = element("li", `chip ${state}`, `${STATES[state]} ${annotator}`);
  if (state === "open") chip.append(` · ${done}/${total}${working ? " · at work" : ""}`);
  if (state === "accepted" && by) chip.append(` · inspected by ${by}`);
  return chip;
}

function script(item) {
  const line = element("li", "script");
  const link = element("a", "", item.title);
  link.href = address("/annotate", { script: item.number, as: typedName() });
  link.dir = "auto";
  link.addEventListener("click", (event) => {
    if (!typedName()) {
      event.preventDefault();
      name.reportValidity();
    } else {
      link.href = address("/annotate", { script: item.number, as: typedName() });
      rememberName(typedName());
    }
  });
  const facts = element("p", "small", counted(item.segments, "segment"));
  if (item.missing) facts.append(`, ${item.missing} missing`);
  const works = element("ul", "chips");
  works.append(...item.works.map((one) => work(one, item.segments)));
  line.append(link, facts, works);
  return line;
}

async function show() {
  const { scripts, progress } = await ask("/api/overview");
  showProgress(progress);
  byId("scripts").replaceChildren(...scripts.map(script));
}

async function showExport() {
  const { lines } = await ask("/api/export");
  byId("export-lines").textContent = lines.join("\n");
}

name.value = parameter("as") || rememberedName();
byId("who").addEventListener("submit", async (event) => {
  event.preventDefault();
  try {
    const { script: found } = await send("/api/next", { annotator: typedName() });
    rememberName(typedName());
    if (found === null) tell("No script is left to be handed out: each is handed in, or somebody is at work on it. You may "
      + "open any of the list.");
    else location.href = address("/annotate", { script: found, as: typedName() });
  } catch (error) {
    tell(error.message, "warning");
  }
});
byId("to-inspect").addEventListener("click", () => {
  if (!name.reportValidity()) return;
  rememberName(typedName());
  location.href = address("/inspect", { as: typedName() });
});
show().then(showExport).catch((error) => tell(error.message, "warning"));
addEventListener("focus", () => { show().catch(() => {}); });
if (!name.value) name.focus();
