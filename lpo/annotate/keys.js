// Shortcuts and the panel that lists them. Each has a modifier: plain letters are for typing, and for screen readers.

import { byId, element } from "./elements.js";

const isMac = /Mac|iPhone|iPad/.test(navigator.platform);
const SHOWN = { Ctrl: isMac ? "⌘" : "Ctrl", Alt: isMac ? "⌥" : "Alt", ArrowDown: "↓", ArrowUp: "↑", Slash: "/" };

// `bindings`: [keys, what it does, function]; keys like "Alt+ArrowDown", "Ctrl+Enter", "Alt+KeyR" (codes of keys, so that
// they are the same on every layout).
export function shortcuts(bindings) {
  const help = byId("help");
  const all = [...bindings, ["Ctrl+Slash", "Show these shortcuts", () => toggle(help)]];
  byId("help-list").replaceChildren(...all.flatMap(([keys, what]) => {
    const term = element("dt");
    term.append(...keys.split("+").flatMap((key, index) => [
      ...(index ? [" + "] : []), element("kbd", "", SHOWN[key] ?? key.replace("Key", ""))]));
    return [term, element("dd", "", what)];
  }));
  byId("help-open").addEventListener("click", () => toggle(help));
  byId("help-close").addEventListener("click", () => help.close());
  addEventListener("keydown", (event) => {
    if (event.isComposing || event.repeat && event.code !== "ArrowDown" && event.code !== "ArrowUp") return;
    const pressed = [...(event.ctrlKey || event.metaKey ? ["Ctrl"] : []), ...(event.altKey ? ["Alt"] : []),
      ...(event.shiftKey ? ["Shift"] : []), event.code === "NumpadEnter" ? "Enter" : event.code].join("+");
    const binding = all.find(([keys]) => keys === pressed);
    if (!binding || (document.querySelector("dialog[open]") && binding[0] !== "Ctrl+Slash")) return;
    event.preventDefault();
    binding[2]();
  });
}

function toggle(dialog) {
  if (dialog.open) dialog.close();
  else if (!document.querySelector("dialog[open]")) dialog.showModal();
}
