"use strict";

// Elements and drawings that the parts of the page share. Texts of models are set by textContent only: they are data,
// never markup.
const SVG = "http://www.w3.org/2000/svg";
const byId = (id) => document.getElementById(id);

const element = (tag, className = "", text = "") => {
  const made = document.createElement(tag);
  if (className) made.className = className;
  made.textContent = text;
  return made;
};

const drawing = (tag, attributes) => {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, String(value));
  return made;
};

const picture = (width, height, className, label, shapes) => {
  const svg = drawing("svg", { viewBox: `0 0 ${width} ${height}`, class: className, role: "img", "aria-label": label });
  svg.append(...shapes);
  return svg;
};

const number = (value, digits = 3) =>
  value === null ? "–" : String(Number(value.toFixed(digits))).replace("-", "−");

const counted = (count, noun) => `${count.toLocaleString("en")} ${noun}${count === 1 ? "" : "s"}`;

function bar({ name: whose, tone }, name, value, scale) {
  const [low, high] = scale;
  const width = Math.max(0, Math.min(1, (value - low) / (high - low))) * 100;
  return picture(100, 8, "score-bar", `${name}, ${whose}: ${number(value, 2)} on a scale from ${low} to ${high}`, [
    drawing("rect", { class: "track", x: 0, y: 1, width: 100, height: 6, rx: 3 }),
    drawing("rect", { class: `${tone} fill`, x: 0, y: 1, width, height: 6, rx: 3 }),
  ]);
}

function histogram({ name: whose, tone }, name, weights) {
  const label = weights.map((weight, index) => `grade ${index + 1}: ${number(weight * 100, 0)} %`).join(", ");
  return picture(weights.length * 10, 22, "grades", `${name}, ${whose}: ${label}`, weights.flatMap((weight, index) => [
    drawing("rect", { class: "track", x: index * 10, y: 20, width: 8, height: 1.5 }),
    drawing("rect", { class: `${tone} fill`, x: index * 10, y: 20 - weight * 20, width: 8, height: weight * 20 }),
  ]));
}

// A row for each principle, a cell for each column: `{ name, tone, view }`, where the view holds scores and grades.
function principleRows(columns, scales) {
  const names = [...new Set(columns.flatMap(({ view }) => Object.keys(view.scores)))];
  return names.map((name) => {
    const row = element("tr");
    const head = element("th", "", name.replaceAll("_", " "));
    head.scope = "row";
    row.append(head, ...columns.map((column) => {
      const cell = element("td");
      const value = column.view.scores[name];
      if (value !== undefined) {
        cell.append(bar(column, name, value, scales[name]), element("span", "value", number(value, 2)));
        const weights = column.view.grades[name];
        if (weights) cell.append(histogram(column, name, weights));
      }
      return cell;
    }));
    return row;
  });
}
