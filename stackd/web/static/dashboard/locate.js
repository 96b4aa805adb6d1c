// Where in a YAML text a path stands. Good for the block style that people write; else the nearest line above.

const KEY = /^("(?:[^"\\]|\\.)*"|'(?:[^']|'')*'|[^\s#'"[{&*!|>%@`-][^:#]*?|-[^\s:#][^:#]*?)\s*:(?=\s|$)/;

/** Line numbers (from 1) by path, such as `spec.containers[0].image`. */
export function lines(text) {
  const found = new Map();
  const frames = [{ indent: -1, list: false, path: "", child: "", count: 0 }];
  let folded = null; // the indentation of the key whose block of text is being passed over
  text.split("\n").forEach((line, index) => {
    const indent = line.search(/[^ ]/);
    if (indent < 0 || line[indent] === "#") return;
    if (folded !== null && indent > folded) return;
    folded = null;
    let column = indent;
    let rest = line.slice(indent);
    while (rest === "-" || rest.startsWith("- ")) {
      const list = item(frames, column);
      list.child = `${list.path}[${list.count++}]`;
      found.set(list.child, index + 1);
      const inner = rest.slice(1).search(/\S/);
      if (inner < 0) return;
      column += 1 + inner;
      rest = rest.slice(1 + inner);
    }
    const match = KEY.exec(rest);
    if (!match) return;
    const map = mapping(frames, column);
    map.child = below(map.path, unquoted(match[1]));
    if (!found.has(map.child)) found.set(map.child, index + 1);
    if (/^\s*[|>]/.test(rest.slice(match[0].length))) folded = column;
  });
  return found;
}

/** The line of a path, or of the nearest thing around it; null where the path is of something else. */
export function lineOf(path, known) {
  for (let rest = path; rest; rest = rest.replace(/(?:\.[^.[\]]+|\[[^\]]*\]|^[^.[]+)$/, "")) {
    if (known.has(rest)) return known.get(rest);
    if (!/[.[]/.test(rest)) break;
  }
  return null;
}

/** The API's sentence about a spec, taken apart: `{ line, text }` for each thing that is wrong. */
export function mistakes(sentence, text) {
  const known = lines(text);
  const reasons = sentence
    .replace(/^invalid pod spec: /, "")
    .split(/; (?=(?:\(root\)|line \d+, column \d+|character \d+|[A-Za-z_][\w.[\]"?/-]*): )/);
  return reasons.map((reason) => {
    const said = /\bline (\d+)\b/.exec(reason);
    const path = /^([A-Za-z_][\w.[\]"?/-]*): /.exec(reason)?.[1];
    const line = said ? Number(said[1]) : path ? lineOf(path, known) : null;
    return { line, text: reason };
  });
}

function item(frames, column) {
  while (frames.at(-1).indent > column) frames.pop();
  const top = frames.at(-1);
  if (top.list && top.indent === column) return top;
  const made = { indent: column, list: true, path: top.child, child: "", count: 0 };
  frames.push(made);
  return made;
}

function mapping(frames, column) {
  while (frames.at(-1).indent > column || (frames.at(-1).list && frames.at(-1).indent === column)) frames.pop();
  const top = frames.at(-1);
  if (!top.list && top.indent === column) return top;
  const made = { indent: column, list: false, path: top.child, child: "", count: 0 };
  frames.push(made);
  return made;
}

function below(path, key) {
  if (!/^[A-Za-z_][A-Za-z0-9_]*$/.test(key)) return `${path}["${key}"]`;
  return path ? `${path}.${key}` : key;
}

function unquoted(key) {
  return /^["']/.test(key) ? key.slice(1, -1) : key;
}
