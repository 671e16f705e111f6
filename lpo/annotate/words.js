// Words of a text, and which of them were changed.

const HAN = /[\u4e00-\u9fff]/g;
const ASCII_WORD = /(?<![\p{L}\p{N}_])[a-zA-Z]+(?![\p{L}\p{N}_])/gu;
const TOKEN = /\s+|\p{Script=Han}|[\p{L}\p{M}\p{N}_]+|[^\s]/gu;
const MAX_CELLS = 4_000_000;

// As lpo.words.count_words: Chinese characters, and runs of ASCII letters.
export const countWords = (text) => (text.match(HAN) ?? []).length + (text.match(ASCII_WORD) ?? []).length;

// Pieces { kind: "same" | "del" | "ins", text }: those that are not "ins" joined are `before`, those that are not "del"
// are `after`.
export function diffWords(before, after) {
  const a = before.match(TOKEN) ?? [];
  const b = after.match(TOKEN) ?? [];
  let start = 0;
  while (start < a.length && start < b.length && a[start] === b[start]) start += 1;
  let end = 0;
  while (end < a.length - start && end < b.length - start && a[a.length - 1 - end] === b[b.length - 1 - end]) end += 1;
  const pieces = [];
  const put = (kind, text) => {
    if (!text) return;
    const last = pieces.at(-1);
    if (last?.kind === kind) last.text += text;
    else pieces.push({ kind, text });
  };
  put("same", a.slice(0, start).join(""));
  between(a.slice(start, a.length - end), b.slice(start, b.length - end), put);
  put("same", a.slice(a.length - end).join(""));
  return pieces;
}

// The longest common subsequence; what is too large for the table is one piece of each kind.
function between(a, b, put) {
  if ((a.length + 1) * (b.length + 1) > MAX_CELLS || !a.length || !b.length) {
    put("del", a.join(""));
    put("ins", b.join(""));
    return;
  }
  const width = b.length + 1;
  const common = new Uint32Array((a.length + 1) * width);
  for (let i = a.length - 1; i >= 0; i -= 1) {
    for (let j = b.length - 1; j >= 0; j -= 1) {
      common[i * width + j] = a[i] === b[j]
        ? common[(i + 1) * width + j + 1] + 1
        : Math.max(common[(i + 1) * width + j], common[i * width + j + 1]);
    }
  }
  let i = 0;
  let j = 0;
  while (i < a.length && j < b.length) {
    if (a[i] === b[j]) {
      put("same", a[i]);
      i += 1;
      j += 1;
    } else if (common[(i + 1) * width + j] >= common[i * width + j + 1]) {
      put("del", a[i]);
      i += 1;
    } else {
      put("ins", b[j]);
      j += 1;
    }
  }
  put("del", a.slice(i).join(""));
  put("ins", b.slice(j).join(""));
}

export function showDiff(target, before, after) {
  target.replaceChildren(...diffWords(before, after).map(({ kind, text }) => {
    const piece = document.createElement(kind === "same" ? "span" : kind);
    piece.textContent = text;
    return piece;
  }));
}

// The text, with the places where a quote stands marked.
export function showQuoted(target, text, quotes) {
  const spans = quotes.filter(Boolean).map((quote) => [text.indexOf(quote), quote.length])
    .filter(([at]) => at >= 0).sort(([one], [other]) => one - other);
  const children = [];
  let done = 0;
  for (const [at, length] of spans) {
    if (at < done) continue;
    const mark = document.createElement("mark");
    mark.textContent = text.slice(at, at + length);
    children.push(text.slice(done, at), mark);
    done = at + length;
  }
  target.replaceChildren(...children, text.slice(done));
}
