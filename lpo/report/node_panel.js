
// What is said of one node of a search tree.
const nodePanel = (() => {
  const STATES = {
    chosen: "chosen", rejected: "rejected", vetoed: "vetoed", replaced: "refined", weak: "tried to refine",
    rewritten: "rewritten", unscored: "no score", "set-aside": "set aside",
  };
  const statesOf = (node) => [
    ...(node.role === "both" ? ["chosen", "rejected"] : ["chosen", "rejected"].filter((role) => node.role === role)),
    ...(node.vetoes ? ["vetoed"] : []),
    ...(node.refinement ? [node.refinement.outcome === "accepted" ? "replaced" : "weak"] : []),
    ...(node.refines !== undefined ? ["rewritten"] : []),
    ...(node.unscored ? ["unscored"] : []),
    ...(node.note ? ["set-aside"] : []),
  ];

  const scoreOf = (node) => node.judged ? node.judged.overall : null;
  const nameOf = (node) => node.parent === undefined ? "The beginning" : `Step ${node.id}`;

  const describe = (node) => [
    node.parent === undefined ? "the beginning, before any step" : `step ${node.id}`,
    ...(node.parent === undefined ? [] : [scoreOf(node) === null ? "no score" : `score ${number(scoreOf(node), 2)}`]),
    ...(node.visits ? [counted(node.visits, "visit")] : []),
    ...statesOf(node).filter((state) => state !== "unscored").map((state) => STATES[state]),
    ...(node.ends ? ["ends the answer"] : []),
  ].join(", ");

  // The quotes that contradict, marked where they stand.
  function withQuotes(text, quotes) {
    const spans = quotes.map((quote) => [text.indexOf(quote), quote.length]).filter(([start, size]) => start >= 0 && size)
      .sort((one, other) => one[0] - other[0]);
    const parts = [];
    let position = 0;
    for (const [start, size] of spans) {
      if (start < position) continue;
      parts.push(text.slice(position, start), element("mark", "", text.slice(start, start + size)));
      position = start + size;
    }
    return [...parts, text.slice(position)];
  }

  function prefixOf(tree, node) {
    const above = [];
    for (let at = tree.nodes[node.parent]; at; at = tree.nodes[at.parent]) above.unshift(at);
    return { words: above.reduce((sum, one) => sum + (one.words || 0), 0),
      parts: above.flatMap((one) => [one.text || "", ...leftOut(one.cut)]) };
  }

  function numbers(node) {
    const rows = [
      ["score", scoreOf(node)], ["value", node.value ?? null, "mean of what its paths were given"], ["visits", node.visits || null],
      ["prior", node.prior ?? null], ["log-prob", node.logprob ?? null, "mean of its tokens"], ["tokens", node.tokens ?? null],
      ["words", node.words || null],
    ].filter(([, value]) => value !== null);
    const list = element("dl", "node-numbers");
    list.append(...rows.map(([name, value, meaning]) => {
      const row = element("div");
      row.append(element("dt", "", name), element("dd", "", number(value)));
      if (meaning) row.title = meaning;
      return row;
    }));
    return list;
  }

  const linked = (tree, index, open, text = `step ${tree.nodes[index].id}`) => {
    const made = element("button", "link", text);
    made.type = "button";
    made.addEventListener("click", () => open(index));
    return made;
  };

  const fromWhere = (tree, index, known, open) => index === undefined || index === null ? [known] : [linked(tree, index, open)];

  function vetoes(tree, node, open) {
    return (node.vetoes || []).map((veto) => {
      const made = element("div", "veto");
      const source = element("p", "small", "a fact taken from ");
      source.append(...fromWhere(tree, veto.from, veto.fact, open));
      made.append(element("h4", "", "Vetoed: contradicts"), quoted("statement", veto.statement), source,
        element("p", "small", "These words contradict it:"), quoted("quote", veto.quote),
        ...(veto.explanation ? [element("p", "", veto.explanation)] : []));
      return made;
    });
  }

  function cutAt(text, lengths) {
    let position = 0;
    return lengths.map((size) => text.slice(position, position += size));
  }

  // A step and its rewritten version beside each other.
  function comparison(tree, [original, rewritten, ...lengths], shown, open) {
    const sides = [["original", tree.nodes[original], "base"], ["rewritten", tree.nodes[rewritten], "trained"]];
    const common = lengths[0].filter((_, place) => place % 2).reduce((sum, size) => sum + size, 0);
    const share = 2 * common / Math.max(1, lengths.flat().reduce((sum, size) => sum + size, 0));
    const made = element("div", "said");
    const scores = sides.map(([, node]) => scoreOf(node)).map((score) => score === null ? "no score" : number(score));
    made.append(element("h4", "", `Refinement: ${scores.join(" → ")}`));
    const outcome = sides[0][1].refinement;
    if (outcome) made.append(element("p", "outcome", outcome.meaning + "."));
    const both = besideEachOther(sides.map(([side, node, tone], place) => ({
      label: `Text of the ${side} step`, tone, parts: cutAt(node.text || "", lengths[place]), cut: node.cut,
      head: [`${side[0].toUpperCase()}${side.slice(1)} `, node === shown ? element("small", "", node.id)
        : linked(tree, place ? rewritten : original, open), element("b", "", scores[place])],
    })), share);
    made.append(both);
    return made;
  }

  function critiques(tree, node, open) {
    const refinement = node.refinement;
    if (!refinement) return [];
    const made = [];
    if (refinement.critiques.length) {
      const list = element("ol", "critiques");
      list.append(...refinement.critiques.map((critique) => {
        const item = element("li", critique.used ? "used" : "");
        const head = element("p", "critique-head");
        head.append(element("b", "", critique.principle.replaceAll("_", " ")), " – better: ",
          ...fromWhere(tree, critique.better, "a step that is not in the tree", open),
          element("span", "chip", `confidence ${number(critique.confidence, 1)} of 5`),
          element("span", `chip ${critique.used ? "was-used" : ""}`, critique.used ? "shown to the policy" : "not used"));
        item.append(head, element("p", "", critique.analysis));
        if (critique.relevant) item.append(quoted("quote", critique.relevant));
        item.append(element("p", "suggestion", critique.suggestion));
        return item;
      }));
      made.push(titled("What the critic says", list));
    }
    if (refinement.failed.length) made.push(titled("Critiques that could not be used", listed(refinement.failed)));
    if (!tree.refined.some(([original]) => tree.nodes[original] === node)) {
      made.unshift(titled("Refinement", element("p", "outcome", refinement.meaning + ".")));
    }
    return made;
  }

  function chips(node) {
    const list = element("ul", "chips");
    list.append(...statesOf(node).map((state) => {
      const item = element("li", `state ${state}`);
      item.append(glyph(state), state === "unscored" ? `no score: ${node.unscored}` : state === "set-aside" ? `set aside: ${node.note}` : STATES[state]);
      return item;
    }));
    if (node.ends) list.append(element("li", "", "the answer ends here"));
    return list;
  }

  function fill(panel, tree, index, scales, { open, close }) {
    const node = tree.nodes[index];
    const title = element("h3", "", nameOf(node));
    title.id = "node-title";
    title.tabIndex = -1;
    const shut = element("button", "close", "×");
    shut.type = "button";
    shut.setAttribute("aria-label", "Close");
    shut.title = "Close (Esc)";
    shut.addEventListener("click", close);
    const head = element("div", "node-head");
    head.append(title, chips(node), shut);
    const pairs = tree.refined.filter(([original, rewritten]) => original === index || rewritten === index);
    const partner = pairs.length ? pairs[0].slice(0, 2) : null;
    const columns = partner ? partner.map((place, side) => ({ name: ["Original", "Rewritten"][side], tone: ["base", "trained"][side],
      view: tree.nodes[place].judged })) : [{ name: "Score", tone: node.role === "rejected" ? "rejected" : "chosen", view: node.judged }];
    const before = prefixOf(tree, node);
    const text = pairs.length ? pairs.map((pair) => comparison(tree, pair, node, open)) : node.text
      ? [titled("Text of this step", prose("Text of this step", ...withQuotes(node.text, (node.vetoes || []).map(({ quote }) => quote)), ...leftOut(node.cut)))]
      : [element("p", "small", node.parent === undefined ? "Every path starts here, with the request alone." : "An empty step.")];
    panel.replaceChildren(head, numbers(node), ...vetoes(tree, node, open),
      ...(before.words ? [folded(`Text so far (${counted(before.words, "word")})`, prose("Text so far", ...before.parts))] : []),
      ...text, ...critiques(tree, node, open), ...principleTable(columns, scales),
      ...(node.facts ? [titled("Facts it states", listed(node.facts.map(([id, fact]) => `${id}  ${fact}`)))] : []),
      ...(node.failures ? [titled("Model calls that gave nothing usable", listed(Object.entries(node.failures).map(([call, why]) => `${call}: ${why}`)))] : []));
  }

  return { fill, describe, statesOf, scoreOf, linked, STATES };
})();
