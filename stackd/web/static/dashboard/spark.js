// A small chart of the last hour: one line for each thing that was counted, as a drawing with words.

const SPACE = "http://www.w3.org/2000/svg";
const WIDTH = 120;
const HEIGHT = 28;

/**
 * What was counted: samples, the oldest first, and the colour's name.
 *
 * @typedef {{ samples: number[], kind: string }} Series
 */

/**
 * The chart; `words` say what it shows. All lines have one scale, which begins at nothing.
 *
 * @param {Series[]} series
 * @param {number} most how many samples fill it: fewer are drawn at its right end
 * @param {string} words
 */
export function spark(series, most, words) {
  const drawing = made("svg", { class: "spark", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": words });
  drawing.setAttribute("preserveAspectRatio", "none");
  const highest = Math.max(1, ...series.flatMap(({ samples }) => samples));
  for (const { samples, kind } of series) {
    if (!samples.length) continue;
    const step = WIDTH / Math.max(1, most - 1);
    const first = WIDTH - step * (samples.length - 1);
    const points = samples.map((count, place) => {
      const x = first + step * place;
      const y = HEIGHT - 1 - ((HEIGHT - 2) * count) / highest;
      return `${x.toFixed(1)},${y.toFixed(1)}`;
    });
    if (points.length === 1) points.unshift(`${(WIDTH - step).toFixed(1)},${points[0]?.split(",")[1]}`);
    drawing.append(made("polyline", { class: `line ${kind}`, points: points.join(" ") }));
  }
  return drawing;
}

/**
 * @param {string} name
 * @param {Record<string, string>} attributes
 */
function made(name, attributes) {
  const element = document.createElementNS(SPACE, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
}
