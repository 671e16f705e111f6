
// The search trees: drawn where the report has placed their nodes, walked by pointer or keys.
(() => {
  const WIDTH = 98, HEIGHT = 26, DOWN = 35, EDGE = 12, TOP = 44, LEVELS = 6;
  const NEAREST = 128, FARTHEST = 216; // from one layer to the next
  let across = NEAREST;
  const { fill, describe, statesOf, scoreOf, linked, STATES } = nodePanel;

  const words = (text, attributes) => {
    const made = drawing("text", attributes);
    made.textContent = text;
    return made;
  };
  const left = (node) => EDGE + node.layer * across;
  const top = (node) => TOP + node.row * DOWN;
  const cut = (text, limit) => text.length > limit ? `${text.slice(0, limit - 1).trimEnd()}…` : text;

  function outline(node, states) {
    const x = left(node), y = top(node), corner = 7;
    if (!states.includes("vetoed")) {
      return ["rect", { x, y, width: WIDTH, height: HEIGHT, rx: states.includes("set-aside") ? 2 : HEIGHT / 2 }];
    }
    const [right, bottom] = [x + WIDTH, y + HEIGHT];
    return ["path", { d: `M${x + corner} ${y}H${right - corner}L${right} ${y + corner}V${bottom - corner}L${right - corner} ${bottom}`
      + `H${x + corner}L${x} ${bottom - corner}V${y + corner}Z` }];
  }

  // The ends of the colour scale: those of the tree's scores, but never so near that chance looks like a difference.
  function range(nodes) {
    const scores = nodes.map(scoreOf).filter((score) => score !== null);
    if (!scores.length) return null;
    let low = Math.min(...scores), high = Math.max(...scores);
    const missing = Math.max(0, 0.2 - (high - low)) / 2;
    low = Math.max(0, low - missing);
    return [low, Math.max(low + 0.2, high + missing)];
  }

  function drawNode(node, ends, place) {
    const states = statesOf(node);
    const score = scoreOf(node);
    const level = score === null || !ends ? "none" : Math.max(0, Math.min(LEVELS - 1, Math.floor((score - ends[0]) / (ends[1] - ends[0]) * LEVELS)));
    const made = drawing("g", {
      class: ["node", ...states].join(" "), role: "treeitem", tabindex: -1, "aria-label": describe(node), "aria-selected": "false",
      "aria-level": node.layer + 1, "aria-posinset": place[0], "aria-setsize": place[1],
    });
    const [tag, shape] = outline(node, states);
    const [x, y] = [left(node), top(node)];
    const middle = y + HEIGHT / 2 + 4;
    made.append(drawing("rect", { class: "ring", x: x - 4, y: y - 4, width: WIDTH + 8, height: HEIGHT + 8, rx: 8 }),
      drawing(tag, { ...shape, class: `shape level-${level}` }));
    states.slice(0, 3).forEach((state, index) => {
      const mark = glyph(state);
      for (const [name, value] of Object.entries({ x: x + 8 + index * 13, y: y + 7, width: 12, height: 12 })) mark.setAttribute(name, value);
      made.append(mark);
    });
    const after = x + 10 + Math.min(3, states.length) * 13;
    const label = node.parent === undefined ? "request" : score === null ? "–" : score.toFixed(2);
    made.append(words(label, { class: "score", x: after, y: middle }));
    if (node.visits) made.append(words(`×${node.visits}`, { class: "visits", x: x + WIDTH - 9, y: middle, "text-anchor": "end" }));
    if (node.ends) made.append(drawing("rect", { class: "stop", x: x + WIDTH + 3, y: y + 3, width: 4, height: HEIGHT - 6 }));
    return made;
  }

  function drawEdge(parent, node, most) {
    const [fromX, fromY] = [left(parent) + WIDTH, top(parent) + HEIGHT / 2];
    const [toX, toY] = [left(node), top(node) + HEIGHT / 2];
    const bend = (toX - fromX) / 2;
    return drawing("path", {
      class: `edge ${node.visits ? "walked" : ""}`, d: `M${fromX} ${fromY}C${fromX + bend} ${fromY} ${toX - bend} ${toY} ${toX} ${toY}`,
      "stroke-width": node.visits ? (1.6 + 4.4 * node.visits / most).toFixed(2) : 1,
    });
  }

  function drawRewriting(original, rewritten) {
    const x = left(original) - 6, from = top(original) + HEIGHT / 2 + 5, to = top(rewritten) + HEIGHT / 2 - 3;
    return drawing("path", { class: "rewriting",
      d: `M${x + 6} ${from}C${x - 4} ${from} ${x - 4} ${to} ${x + 5} ${to}M${x + 1} ${to - 3.5}L${x + 5.5} ${to}L${x + 1} ${to + 3.5}` });
  }

  function layerTitles(tree, layers) {
    return Array.from({ length: layers }, (_, layer) => {
      const section = layer ? tree.plan[layer - 1] : undefined;
      const name = layer === 0 ? "start" : section ? `${layer} ${section[0]}` : `step ${layer}`;
      const made = words(cut(name, Math.floor(across / 7.5)), { class: "layer", x: EDGE + layer * across, y: 18 });
      if (section) {
        const whole = drawing("title", {});
        whole.textContent = section[0];
        made.append(whole);
      }
      return made;
    });
  }

  function startTrees(data) {
    const panel = byId("node");
    let tree, drawn, edges, current, opened;

    const childrenOf = (index) => tree.nodes.flatMap((node, place) => node.parent === index ? [place] : []);

    const neighbours = {
      ArrowLeft: (node) => node.parent,
      ArrowRight: (node, index) => childrenOf(index).sort((one, other) => (tree.nodes[other].visits || 0) - (tree.nodes[one].visits || 0))[0],
      ArrowUp: (node, index) => beside(node, index, -1),
      ArrowDown: (node, index) => beside(node, index, 1),
      Home: () => 0,
    };

    function beside(node, index, by) {
      const layer = tree.nodes.flatMap((other, place) => other.layer === node.layer ? [place] : [])
        .sort((one, other) => tree.nodes[one].row - tree.nodes[other].row);
      return layer[layer.indexOf(index) + by];
    }

    function visit(index, focus = true) {
      drawn[current].setAttribute("tabindex", "-1");
      current = index;
      drawn[current].setAttribute("tabindex", "0");
      if (!focus) return;
      drawn[current].focus({ preventScroll: true });
      drawn[current].scrollIntoView({ block: "nearest", inline: "nearest" });
    }

    function light(index) {
      const way = new Set();
      for (let at = index; at !== undefined && at !== null; at = tree.nodes[at].parent) way.add(at);
      edges.forEach((edge, place) => edge && edge.classList.toggle("lit", way.has(place)));
      drawn.forEach((node, place) => node.setAttribute("aria-selected", String(place === index)));
    }

    // Opened from the keyboard the panel takes the focus; a click leaves it on the node.
    function open(index, focus = true) {
      visit(index, false);
      opened = index;
      light(index);
      fill(panel, tree, index, data.scales, { open, close });
      panel.hidden = false;
      const title = byId("node-title");
      if (focus) title.focus({ preventScroll: true });
      title.scrollIntoView({ block: "nearest" });
    }

    function close() {
      if (opened === undefined) return;
      opened = undefined;
      panel.hidden = true;
      light(undefined);
      visit(current);
    }

    function onKey(event) {
      if (event.altKey || event.ctrlKey || event.metaKey || event.shiftKey) return;
      const index = drawn.indexOf(event.target.closest(".node"));
      if (index < 0) return;
      const neighbour = neighbours[event.key];
      if (neighbour) {
        const wanted = neighbour(tree.nodes[index], index);
        if (wanted !== undefined) visit(wanted);
        if (wanted !== undefined && opened !== undefined) follow(wanted);
      } else if (event.key === "Enter" || event.key === " ") open(index);
      else return;
      event.preventDefault();
      event.stopPropagation(); // the pair browser listens to arrows too
    }

    function follow(index) {
      opened = index;
      light(index);
      fill(panel, tree, index, data.scales, { open, close });
    }

    function draw() {
      const { nodes } = tree;
      const ends = range(nodes);
      const most = Math.max(1, ...nodes.map((node) => node.visits || 0));
      const layers = Math.max(...nodes.map((node) => node.layer)) + 1;
      const room = byId("tree-box").clientWidth - 2 * EDGE - WIDTH - 12;
      across = Math.max(NEAREST, Math.min(FARTHEST, Math.floor(room / Math.max(1, layers - 1))));
      const width = 2 * EDGE + (layers - 1) * across + WIDTH;
      const height = TOP + Math.max(...nodes.map((node) => node.row)) * DOWN + HEIGHT + 14;
      const svg = drawing("svg", { class: "tree", width, height, viewBox: `0 0 ${width} ${height}`, role: "tree",
        "aria-label": `Search tree of: ${cut(tree.request, 80)}` });
      const siblings = (node) => nodes.filter((other) => other.parent === node.parent);
      edges = nodes.map((node) => node.parent === undefined ? null : drawEdge(nodes[node.parent], node, most));
      drawn = nodes.map((node) => drawNode(node, ends, [siblings(node).indexOf(node) + 1, siblings(node).length]));
      const behind = drawing("g", { "aria-hidden": "true" });
      const byVisits = edges.filter(Boolean).sort((one, other) => one.getAttribute("stroke-width") - other.getAttribute("stroke-width"));
      behind.append(...layerTitles(tree, layers), ...byVisits, ...tree.refined.map(([one, other]) => drawRewriting(nodes[one], nodes[other])));
      svg.append(behind, ...drawn);
      drawn.forEach((node, index) => node.addEventListener("click", () => { visit(index); open(index, false); }));
      byId("tree-box").replaceChildren(svg);
      byId("score-low").textContent = ends ? ends[0].toFixed(2) : "–";
      byId("score-high").textContent = ends ? ends[1].toFixed(2) : "–";
      const present = new Set([...nodes.flatMap(statesOf), ...(nodes.some((node) => node.ends) ? ["ends"] : [])]);
      document.querySelectorAll(".tree-legend [data-state]").forEach((item) => { item.hidden = !present.has(item.dataset.state); });
    }

    function describeTree() {
      const layers = new Set(tree.nodes.map((node) => node.parent)).size - 1;
      byId("tree-facts").textContent = [tree.method, counted(tree.nodes.length - 1, "candidate"), counted(layers, "layer"),
        ...(tree.paths.length ? [counted(tree.paths.length, "path")] : []),
        ...(tree.target ? [`${counted(tree.target, "word")} asked`] : []), `seed ${tree.seed}`, tree.id].join(" · ");
      byId("tree-request").replaceChildren(tree.request, ...leftOut(tree.request_cut));
      byId("tree-more").replaceChildren(...paths(), ...plan(), table());
    }

    function paths() {
      if (!tree.paths.length) return [];
      const list = element("ol", "tree-paths");
      list.append(...tree.paths.map((path) => {
        const item = element("li");
        const way = element("p");
        path.nodes.slice(1).forEach((index, place) => way.append(...(place ? [" → "] : []), linked(tree, index, open, tree.nodes[index].id)));
        way.append(element("b", "", path.value === null ? "no value" : `value ${number(path.value)}`));
        item.append(way);
        const { rollout } = path;
        if (rollout) {
          const score = rollout.score === null ? `no score: ${rollout.unscored}` : `score of the whole answer ${number(rollout.score)}`;
          item.append(folded(`Rollout: ${counted(rollout.words, "word")}, ${score}, ${rollout.ends ? "ends by itself" : "cut at the token limit"}`,
            prose("Text of the rollout", rollout.text, ...leftOut(rollout.cut))));
        }
        return item;
      }));
      return [folded(`Paths (${tree.paths.length})`, list)];
    }

    function plan() {
      if (!tree.plan.length) return [];
      const list = element("ol", "tree-plan");
      list.append(...tree.plan.map(([title, size]) => element("li", "", size === null ? title : `${title} (${counted(size, "word")})`)));
      return [folded(`Plan (${counted(tree.plan.length, "section")})`, list)];
    }

    function table() {
      const made = element("table", "tree-table");
      const head = element("tr");
      head.append(...["Step", "Score", "Visits", "Value", "State", "Text"].map((name) => {
        const cell = element("th", "", name);
        cell.scope = "col";
        return cell;
      }));
      const body = element("tbody"), above = element("thead");
      body.append(...tree.nodes.slice(1).map((node) => {
        const row = element("tr");
        const step = element("th", "", node.id);
        step.scope = "row";
        const score = scoreOf(node);
        const text = element("td", "begins", cut((node.text || "").replace(/\s+/g, " "), 90));
        text.dir = "auto";
        row.append(step, ...[score === null ? "–" : number(score), String(node.visits || 0), number(node.value ?? null),
          [...statesOf(node).map((state) => STATES[state]), ...(node.ends ? ["ends"] : [])].join(", ") || "unused"]
          .map((value) => element("td", "", value)), text);
        return row;
      }));
      above.append(head);
      made.append(element("caption", "hidden", "Nodes of the tree"), above, body);
      const box = element("div", "table-box");
      box.tabIndex = 0;
      box.setAttribute("role", "region");
      box.setAttribute("aria-label", "Nodes of the tree");
      box.append(made);
      return folded("Nodes as a table", box);
    }

    function choose(index) {
      tree = data.entries[index];
      current = 0;
      opened = undefined;
      panel.hidden = true;
      describeTree();
      draw();
      visit(0, false);
    }

    byId("tree-choice").addEventListener("change", (event) => choose(Number(event.target.value)));
    byId("tree-box").addEventListener("keydown", onKey);
    byId("tree-browser").addEventListener("keydown", (event) => {
      if (event.key === "Escape") close();
    });
    byId("tree-browser").hidden = false;
    choose(0);
  }

  const stored = byId("tree-data");
  if (stored) startTrees(JSON.parse(stored.textContent));
})();
