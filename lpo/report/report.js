
// The pair browser.
(() => {
  const SIDES = ["chosen", "rejected"];

  function fillSide(side, pair) {
    const view = pair[side];
    byId(`${side}-overall`).textContent = view.overall === null ? "" : number(view.overall);
    byId(`${side}-facts`).textContent = [
      counted(view.words, "word"), view.ends ? "ends the answer here" : "the answer goes on",
    ].join(" · ");
    const target = byId(side);
    target.replaceChildren(...markedParts(view.parts));
    if (view.cut) target.append(element("span", "left-out", ` … ${counted(view.cut, "more character")}`));
    target.classList.toggle("tinted", pair.shared >= WHOLE);
    target.classList.toggle("dimmed", pair.shared < WHOLE);
    target.scrollTop = 0;
  }

  function explainMarks(pair) {
    const share = `${number(pair.shared * 100, 0)} % of the words stand in passages that both sides share`;
    if (pair.shared === 0) return "The two sides share no passage: all of it differs.";
    return pair.shared >= WHOLE ? `${share}. What differs is tinted.` : `${share}; they are grey. The rest differs.`;
  }

  function fillPrinciples(pair, scales) {
    const rows = principleRows(SIDES.map((side) => ({ name: side, tone: side, view: pair[side] })), scales);
    byId("by-principle").hidden = rows.length === 0;
    byId("grades-note").hidden = !SIDES.some((side) => Object.keys(pair[side].grades).length);
    byId("principles").replaceChildren(...rows);
  }

  function fillSiblings(pair) {
    byId("among").hidden = pair.siblings.length < 2;
    if (pair.siblings.length < 2) return;
    const scores = pair.siblings.map(([score]) => score);
    const low = Math.min(...scores), high = Math.max(...scores);
    const place = (score) => 16 + (high > low ? (score - low) / (high - low) : 0.5) * 268;
    const order = { unused: 0, rejected: 1, chosen: 2 };
    const dots = [...pair.siblings].sort((one, two) => order[one[1]] - order[two[1]]).map(([score, role]) =>
      drawing("circle", { class: `${role} mark`, cx: place(score), cy: 18, r: role === "unused" ? 5 : 7 }));
    const label = pair.siblings.map(([score, role]) => `${role} ${number(score)}`).join(", ");
    const text = (x, anchor, value) => {
      const made = drawing("text", { class: "tick", x, y: 44, "text-anchor": anchor });
      made.textContent = number(value);
      return made;
    };
    byId("siblings").replaceChildren(picture(300, 50, "chart", `Scores of the candidates: ${label}`, [
      drawing("line", { class: "baseline", x1: 8, y1: 18, x2: 292, y2: 18 }), ...dots,
      text(16, "start", low), text(284, "end", high),
    ]));
  }

  function show(pair, scales) {
    byId("pair-facts").replaceChildren(...[
      ["margin", pair.margin === null ? "no margin" : `margin ${pair.margin > 0 ? "+" : ""}${number(pair.margin)}`], ["", pair.place],
      ...(pair.document ? [["", `about a document of ${counted(pair.document, "word")}`]] : []),
      ["", pair.method], ["id", pair.id],
    ].map(([className, text]) => element("li", className, text)));
    byId("request").textContent = pair.request;
    if (pair.request_cut) byId("request").append(element("span", "left-out", ` … ${counted(pair.request_cut, "more character")}`));
    byId("before").hidden = pair.prefix === "";
    byId("before-words").textContent = counted(pair.prefix_words, "word");
    byId("prefix").replaceChildren();
    if (pair.prefix_cut) byId("prefix").append(element("span", "left-out", `${counted(pair.prefix_cut, "character")} before … `));
    byId("prefix").append(pair.prefix);
    byId("prefix").scrollTop = byId("prefix").scrollHeight;
    byId("prefix").classList.toggle("long", byId("prefix").scrollTop > 0);
    byId("how-marked").textContent = explainMarks(pair);
    SIDES.forEach((side) => fillSide(side, pair));
    fillPrinciples(pair, scales);
    fillSiblings(pair);
  }

  function startBrowser(data) {
    let passing = data.entries;
    let current = 0;

    const refresh = () => {
      const pair = passing[current];
      byId("pair").hidden = !pair;
      byId("nothing").hidden = Boolean(pair);
      byId("previous").disabled = current <= 0;
      byId("next").disabled = current >= passing.length - 1;
      byId("position").textContent = pair ? `Pair ${current + 1} of ${passing.length}` : "No pair";
      if (pair) show(pair, data.scales);
    };

    const turn = (by) => {
      const wanted = Math.max(0, Math.min(passing.length - 1, current + by));
      if (wanted === current) return;
      current = wanted;
      refresh();
    };

    const filter = () => {
      const group = byId("filter-prompt").value;
      const least = Number(byId("filter-margin").value);
      const kept = passing[current];
      byId("least-margin").textContent = number(least);
      passing = data.entries.filter((pair) =>
        (!group || pair.group === group) && (least === 0 || (pair.margin !== null && pair.margin >= least)));
      current = Math.max(0, passing.indexOf(kept));
      refresh();
    };

    const inView = () => {
      const box = byId("browser").getBoundingClientRect();
      return box.top < window.innerHeight && box.bottom > 0;
    };

    byId("previous").addEventListener("click", () => turn(-1));
    byId("next").addEventListener("click", () => turn(1));
    byId("filter-prompt").addEventListener("change", filter);
    byId("filter-margin").addEventListener("input", filter);
    document.addEventListener("keydown", (event) => {
      const elsewhere = event.altKey || event.ctrlKey || event.metaKey || event.shiftKey || !inView();
      if (elsewhere || ["INPUT", "SELECT", "TEXTAREA"].includes(event.target.tagName)) return;
      if (event.key === "ArrowLeft") turn(-1);
      if (event.key === "ArrowRight") turn(1);
    });
    byId("browser").hidden = false;
    refresh();
  }

  const stored = byId("pair-data");
  if (stored) startBrowser(JSON.parse(stored.textContent));

  // On paper everything is open.
  let closed = [];
  window.addEventListener("beforeprint", () => {
    closed = [...document.querySelectorAll("details:not([open]):not(.numbers)")];
    closed.forEach((details) => { details.open = true; });
  });
  window.addEventListener("afterprint", () => closed.forEach((details) => { details.open = false; }));
})();
