// Elements, requests and small things that the pages share. Texts of models and people are set by textContent only:
// they are data, never markup.

export const byId = (id) => document.getElementById(id);

export function element(tag, className = "", text = "") {
  const made = document.createElement(tag);
  if (className) made.className = className;
  made.textContent = text;
  return made;
}

export function button(text, act, className = "") {
  const made = element("button", className, text);
  made.type = "button";
  made.addEventListener("click", act);
  return made;
}

export const counted = (count, noun) => `${count.toLocaleString("en")} ${noun}${count === 1 ? "" : "s"}`;

export const clock = (seconds) =>
  new Date(seconds * 1000).toLocaleTimeString("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });

export const site = document.body.dataset.site;

// The name stands in the address, so that two tabs may belong to two people; the browser remembers the last one.
export const parameter = (name) => new URLSearchParams(location.search).get(name) ?? "";
const NAME_KEY = `lpo:${site}:name`;
export const rememberName = (name) => { try { localStorage.setItem(NAME_KEY, name); } catch { /* private window */ } };
export const rememberedName = () => { try { return localStorage.getItem(NAME_KEY) ?? ""; } catch { return ""; } };

export const address = (path, values) => `${path}?${new URLSearchParams(values)}`;

export class Refusal extends Error {
  constructor(status, body) {
    super([body.error, body.mend].filter(Boolean).join(": "));
    this.status = status;
    this.body = body;
  }
}

async function answered(response) {
  const body = await response.json();
  if (!response.ok) throw new Refusal(response.status, body);
  return body;
}

export const ask = async (path, values = {}) => answered(await fetch(address(path, values)));

export const send = async (path, body, options = {}) => answered(await fetch(path, {
  method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body), ...options,
}));

// A message for everybody: shown, and read out.
export function say(text) {
  const live = byId("live");
  live.textContent = "";
  requestAnimationFrame(() => { live.textContent = text; });
}

export function tell(text, className = "") {
  const banner = byId("banner");
  banner.className = `banner ${className}`;
  banner.textContent = text;
  banner.hidden = !text;
  if (text) say(text);
}
