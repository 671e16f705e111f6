
// Texts and what stands around them, as the parts of the page that a script fills share them.
const WHOLE = 0.25; // at least this share of the words is common: then what differs is tinted, else what is common is grey

const glyph = (name) => {
  const svg = drawing("svg", { class: `glyph ${name}`, viewBox: "0 0 12 12", "aria-hidden": "true" });
  svg.append(drawing("use", { href: `#glyph-${name}` }));
  return svg;
};

const prose = (label, ...parts) => {
  const made = element("div", "prose");
  made.dir = "auto";
  made.tabIndex = 0;
  made.setAttribute("role", "region");
  made.setAttribute("aria-label", label);
  made.append(...parts);
  return made;
};

const leftOut = (cut) => cut ? [element("span", "left-out", ` … ${counted(cut, "more character")} in trees.jsonl`)] : [];

const quoted = (className, text) => {
  const made = element("blockquote", className, text);
  made.dir = "auto";
  return made;
};

const folded = (title, ...content) => {
  const made = element("details", "fold");
  made.append(element("summary", "", title), ...content);
  return made;
};

const titled = (title, ...content) => {
  const made = element("div", "said");
  made.append(element("h4", "", title), ...content);
  return made;
};

const listed = (texts) => {
  const list = element("ul", "plain");
  list.append(...texts.map((text) => element("li", "", text)));
  return list;
};

// Parts of a text, differing and shared ones in turn.
const markedParts = (parts) => parts.flatMap((part, index) =>
  part ? [element(index % 2 ? "span" : "mark", index % 2 ? "shared" : "differs", part)] : []);

// Two texts beside each other: `{ label, tone, head, parts, cut }` each, and the share of their words that is common.
function besideEachOther(sides, share) {
  const both = element("div", "sides");
  both.append(...sides.map(({ label, tone, head, parts, cut }) => {
    const box = element("div", `side ${tone}`);
    const title = element("h3");
    title.append(element("span", `swatch ${tone}`), ...head);
    const text = prose(label, ...markedParts(parts), ...leftOut(cut));
    text.classList.add(share >= WHOLE ? "tinted" : "dimmed");
    box.append(title, text);
    return box;
  }));
  return both;
}

// A table of scores, a column for each judgement that has any.
function principleTable(columns, scales) {
  const scored = columns.filter(({ view }) => view && Object.keys(view.scores).length);
  if (!scored.length) return [];
  const table = element("table", "principles");
  const head = element("tr");
  head.append(...["Principle", ...scored.map(({ name }) => name)].map((name) => {
    const cell = element("th", "", name);
    cell.scope = "col";
    return cell;
  }));
  const top = element("thead"), body = element("tbody");
  top.append(head);
  body.append(...principleRows(scored, scales));
  table.append(element("caption", "hidden", "Scores by principle"), top, body);
  const made = titled("Scores by principle", table);
  if (scored.some(({ view }) => Object.keys(view.grades).length)) {
    made.append(element("p", "small", "Small columns: the judge's probabilities of the grades 1 to 5."));
  }
  return [made];
}
