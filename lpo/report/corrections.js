
// Corrected answers: an overview of their segments, and one segment before and after.
(() => {
  const TONES = ["base", "trained"];

  const overall = (view) => view ? view.overall : null;
  const scoreText = (view) => !view ? "not scored" : view.overall === null ? `no score (${view.unscored})` : number(view.overall);

  function startCorrections(data) {
    const strip = byId("segment-strip"), panel = byId("segment");
    const legend = [...document.querySelectorAll("#segment-legend [data-state]")];
    const meanings = Object.fromEntries(legend.map((item) => [item.dataset.state, item.textContent.trim()]));
    const signOf = (state) => legend.filter((item) => item.dataset.state === state)
      .flatMap((item) => [...item.querySelectorAll(".glyph")]).map((sign) => sign.cloneNode(true));
    let script, current;

    const placed = (segment) => segment.inserted ? ["inserted"] : segment.struck ? ["struck out"] : [];
    const wordsOf = ({ words: [before, after] }) => before === after ? counted(before, "word") : `${before} → ${counted(after, "word")}`;

    function drawStrip() {
      strip.replaceChildren(...script.segments.map((segment, index) => {
        const tab = element("button", `segment-tab ${segment.state}`);
        tab.type = "button";
        tab.id = `segment-tab-${index}`;
        tab.setAttribute("role", "tab");
        tab.setAttribute("aria-controls", "segment");
        tab.setAttribute("aria-label", [`segment ${index + 1}`, meanings[segment.state], ...placed(segment), wordsOf(segment)].join(", "));
        tab.title = [meanings[segment.state], ...placed(segment)].join(", ");
        tab.append(...signOf(segment.state), String(index + 1));
        tab.addEventListener("click", () => choose(index));
        return tab;
      }));
      const present = new Set(script.segments.map(({ state }) => state));
      legend.forEach((item) => { item.hidden = !present.has(item.dataset.state); });
    }

    function choose(index, focus = false) {
      current = index;
      [...strip.children].forEach((tab, place) => {
        tab.setAttribute("aria-selected", String(place === index));
        tab.tabIndex = place === index ? 0 : -1;
      });
      panel.setAttribute("aria-labelledby", `segment-tab-${index}`);
      panel.replaceChildren(...filled(script.segments[index], index));
      byId("segment-position").textContent = `Segment ${index + 1} of ${script.segments.length}`;
      byId("segment-previous").disabled = index === 0;
      byId("segment-next").disabled = index === script.segments.length - 1;
      if (focus) strip.children[index].focus();
    }

    function filled(segment, index) {
      const before = script.segments.slice(0, index);
      const words = before.reduce((sum, { words: [, after] }) => sum + after, 0);
      return [
        chips(segment),
        ...(words ? [folded(`Corrected text so far (${counted(words, "word")})`, prose("Corrected text so far", ...before.flatMap(revised)))] : []),
        texts(segment), ...segment.attempts.map((attempt) => attempted(attempt, segment)),
      ];
    }

    const revised = (segment) => [segment.parts ? segment.parts[1].join("") : segment.text, ...leftOut(segment.cut[1])];

    function chips(segment) {
      const list = element("ul", "chips");
      const state = element("li", `state ${segment.state}`);
      state.append(...signOf(segment.state), meanings[segment.state]);
      list.append(state, ...[...placed(segment), wordsOf(segment)].map((text) => element("li", "", text)));
      return list;
    }

    function texts(segment) {
      if (!segment.parts) return segment.text ? prose("Text of the segment", segment.text, ...leftOut(segment.cut[0]))
        : element("p", "absent", "An empty segment.");
      return pairOf(segment, ["Original", "Revised"]);
    }

    function pairOf({ parts, cut, shared, words }, names) {
      return besideEachOther(names.map((name, side) => ({
        label: `${name} segment`, tone: TONES[side], parts: parts[side], cut: cut[side],
        head: [name, element("b", "", counted(words[side], "word"))],
      })), shared);
    }

    function attempted(attempt, segment) {
      const rounds = segment.attempts.length > 1 ? `Round ${attempt.round + 1}: ` : "";
      const by = attempt.by ? `, by ${attempt.by}` : "";
      const made = titled(`${rounds}${attempt.outcome.replaceAll("_", " ")}${by}`);
      made.classList.add("attempt");
      made.append(element("p", "outcome", `${attempt.meaning}.`));
      if (attempt.before || attempt.after) made.append(scores(attempt));
      if (attempt.failed) made.append(element("p", "small", `What could not be used: ${attempt.failed}`));
      if (attempt.faults.length) made.append(faults(attempt.faults));
      if (attempt.proposed) {
        const taken = attempt.outcome === "accepted";
        made.append(folded(taken ? "What this round changed" : "The revised text, not taken", pairOf(attempt.proposed, ["As it stood", "Revised"])));
      }
      const columns = [["Before", attempt.before], ["After", attempt.after]]
        .map(([name, view], side) => ({ name, tone: TONES[side], view }));
      const table = principleTable(columns, data.scales);
      if (table.length) made.append(folded("Scores by principle", ...table));
      return made;
    }

    function scores({ before, after }) {
      const said = element("p", "attempt-scores", "Score in its place: ");
      const gain = overall(before) !== null && overall(after) !== null ? after.overall - before.overall : null;
      said.append(element("b", "", `${scoreText(before)} → ${scoreText(after)}`));
      if (gain !== null) said.append(element("span", gain > 0 ? "gain" : "loss", `${gain > 0 ? "+" : ""}${number(gain)}`));
      return said;
    }

    function faults(found) {
      const list = element("ul", "faults");
      list.append(...found.map(([aspect, quote, advice]) => {
        const item = element("li");
        item.append(element("span", "chip", aspect));
        if (quote) item.append(quoted("quote", quote));
        item.append(element("p", "suggestion", advice));
        return item;
      }));
      return list;
    }

    const turns = {
      ArrowLeft: () => current - 1, ArrowUp: () => current - 1, ArrowRight: () => current + 1, ArrowDown: () => current + 1,
      Home: () => 0, End: () => script.segments.length - 1,
    };

    strip.addEventListener("keydown", (event) => {
      if (event.altKey || event.ctrlKey || event.metaKey || event.shiftKey || !turns[event.key]) return;
      const wanted = turns[event.key]();
      if (script.segments[wanted]) choose(wanted, true);
      event.preventDefault();
      event.stopPropagation(); // the pair browser listens to arrows too
    });

    function show(index) {
      script = data.entries[index];
      const [before, after] = script.words;
      byId("script-facts").textContent = [counted(script.segments.length, "segment"), `${before} → ${counted(after, "word")}`,
        ...(script.target ? [`${counted(script.target, "word")} asked`] : []),
        script.draft === null ? "a given text" : `answer ${script.draft}`,
        script.ends ? "it ends with its last segment" : "it was cut before its end", script.id].join(" · ");
      byId("script-request").replaceChildren(script.request, ...leftOut(script.request_cut));
      drawStrip();
      const first = script.segments.findIndex(({ state }) => state === "corrected" || state === "given");
      choose(Math.max(0, first));
    }

    byId("script-choice").addEventListener("change", (event) => show(Number(event.target.value)));
    byId("segment-previous").addEventListener("click", () => choose(current - 1));
    byId("segment-next").addEventListener("click", () => choose(current + 1));
    byId("correction-browser").hidden = false;
    show(0);
  }

  const stored = byId("correction-data");
  if (stored) startCorrections(JSON.parse(stored.textContent));
})();
