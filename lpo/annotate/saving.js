// Saves what is typed, in small batches, until the server has acknowledged it: through restarts of the server, and, by a
// copy in this browser, through the end of the page.

import { clock, send, site } from "./elements.js";

const QUIET_MS = 400;
const LONGEST_MS = 2000;
const WAITS_MS = [500, 1000, 2000, 4000, 5000];
const KEEPALIVE_BYTES = 60_000;
const IDLE_MS = 30_000;

const pause = (milliseconds) => new Promise((resolve) => { setTimeout(resolve, milliseconds); });

export class Saver {
  // `on.state(kind, text)`: kinds are saved, saving, failing, refused. `on.conflict(index, theirs, mine)`: another tab
  // saved something else. `on.locked()`: the script was handed in elsewhere.
  constructor(script, annotator, on) {
    this.script = script;
    this.annotator = annotator;
    this.on = on;
    this.tab = crypto.randomUUID();
    this.sequence = Date.now();
    this.versions = new Map();
    this.pending = new Map();
    this.seconds = 0;
    this.active = 0;
    this.timer = null;
    this.since = null;
    this.running = null;
    this.wake = null;
    for (const kind of ["keydown", "pointerdown", "scroll"]) {
      addEventListener(kind, () => { this.active = Date.now(); }, { capture: true, passive: true });
    }
    setInterval(() => {
      if (!document.hidden && Date.now() - this.active < IDLE_MS) this.seconds += 1;
    }, 1000);
    addEventListener("pagehide", () => this.leave());
    addEventListener("beforeunload", (event) => {
      this.flush();
      if (this.failing) event.preventDefault();
    });
    addEventListener("online", () => this.wake?.());
  }

  get idle() { return this.pending.size === 0; }

  // The server's version of a segment, unless something newer is under way here.
  knows(index, version) { this.versions.set(index, version); }

  version(index) { return this.versions.get(index) ?? 0; }

  change(index, { text, note, done }) {
    this.pending.delete(index);
    this.pending.set(index, { text, note, done });
    this.keepDraft(index);
    this.on.state("saving", "Saving…");
    const now = Date.now();
    this.since ??= now;
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.flush(), Math.max(0, Math.min(QUIET_MS, this.since + LONGEST_MS - now)));
  }

  // Resolves when nothing is left to be saved.
  flush() {
    clearTimeout(this.timer);
    this.since = null;
    this.wake?.();
    this.running ??= this.run().finally(() => { this.running = null; });
    return this.running;
  }

  body(index, value) {
    this.sequence += 1;
    return { annotator: this.annotator, script: this.script, segment: index, ...value, base: this.version(index),
      tab: this.tab, sequence: this.sequence, seconds: this.seconds };
  }

  async run() {
    let failures = 0;
    while (this.pending.size) {
      const [index, value] = this.pending.entries().next().value;
      try {
        const saved = await send("/api/save", this.body(index, value));
        this.versions.set(index, saved.version);
        if (this.pending.get(index) === value) this.settle(index);
        failures = 0;
        this.failing = false;
        if (this.idle) this.on.state("saved", `Saved ${clock(saved.at)}`);
      } catch (error) {
        if (error.status === 409) {
          const mine = this.pending.get(index);
          this.pending.delete(index);
          this.on.conflict(index, error.body, mine);
        } else if (error.status === 423) {
          this.pending.delete(index);
          this.on.locked();
        } else if (error.status >= 400 && error.status < 500 && error.status !== 403) {
          this.pending.delete(index);
          this.on.state("refused", `Not saved: ${error.message}`);
        } else {
          this.failing = true;
          this.on.state("failing", error.status === 403
            ? "Not saved: the server was started again with another key. Open the address it printed in this browser; "
              + "this page then goes on. Trying again…"
            : error.status ? `Not saved: ${error.message}. Trying again…`
              : "Not saved: the server does not answer. Trying again…");
          const wait = WAITS_MS[Math.min(failures, WAITS_MS.length - 1)];
          failures += 1;
          await Promise.race([pause(wait), new Promise((resolve) => { this.wake = resolve; })]);
          await pause(100);
          this.wake = null;
        }
      }
    }
  }

  // The page ends: what is under way is sent once more in a way that outlives it.
  leave() {
    let room = KEEPALIVE_BYTES;
    for (const [index, value] of this.pending) {
      const body = this.body(index, value);
      room -= new Blob([JSON.stringify(body)]).size;
      if (room < 0) return; // the copy in the browser remains
      send("/api/save", body, { keepalive: true }).catch(() => {});
    }
  }

  settle(index) {
    this.pending.delete(index);
    try { localStorage.removeItem(this.draftKey(index)); } catch { /* private window */ }
  }

  // Copies of what is not yet acknowledged.
  get draftPrefix() { return `lpo:${site}:draft:${JSON.stringify([this.annotator, this.script])}:`; }

  draftKey(index) { return `${this.draftPrefix}${index}:${this.tab}`; }

  keepDraft(index) {
    const draft = { ...this.pending.get(index), index, base: this.version(index), tab: this.tab, at: Date.now() };
    try { localStorage.setItem(this.draftKey(index), JSON.stringify(draft)); } catch { /* full, or a private window */ }
  }

  // Copies that earlier pages left, the newest of each segment; they are removed.
  takeDrafts() {
    const drafts = new Map();
    try {
      for (const key of Object.keys(localStorage).filter((name) => name.startsWith(this.draftPrefix))) {
        const draft = JSON.parse(localStorage.getItem(key));
        if (!(drafts.get(draft.index)?.at > draft.at)) drafts.set(draft.index, draft);
        localStorage.removeItem(key);
      }
    } catch { /* private window */ }
    return [...drafts.values()];
  }
}
