// Line plots in SVG. Lines break where the node was not running.
import { h, s } from './dom.js';

const W = 600;
const H = 150;
const LEFT = 62;
const BOTTOM = 20;

function niceTop(value) {
  if (value <= 0) return 1;
  const power = 2 ** Math.floor(Math.log2(value));
  return [1, 1.25, 1.5, 1.75, 2].map(f => f * power).find(top => top >= value);
}

// `rows` are [seconds, ...]; `columns` are [index, name]; `form` writes a value.
export function plot(title, data, columns, form) {
  const rows = data.points;
  if (rows.length < 2) return h('p', { class: 'dim' }, 'Not enough points yet: one comes each minute.');
  const step = data.step_s;
  const day = step < 3600;
  const end = rows[rows.length - 1][0];
  const begin = Math.max(rows[0][0], end - (day ? 86400 : 31 * 86400));
  const top = niceTop(Math.max(...rows.flatMap(row => columns.map(([at]) => row[at]))));
  const x = t => LEFT + (W - LEFT - 6) * (t - begin) / Math.max(end - begin, step);
  const y = v => H - BOTTOM - (H - BOTTOM - 8) * v / top;
  const picture = s('svg', { class: 'plot', viewBox: `0 0 ${W} ${H}`, role: 'img', preserveAspectRatio: 'none' });
  const last = rows[rows.length - 1];
  const words = columns.map(([at, name]) => `${name} ${form(last[at])}`).join(', ');
  picture.append(s('title', {}, `${title}: ${words} at the end; at most ${form(top)}`));
  for (const part of [0, 0.5, 1]) {
    picture.append(s('line', { class: 'grid-line', x1: LEFT, x2: W, y1: y(top * part), y2: y(top * part) }));
    picture.append(s('text', { x: LEFT - 6, y: y(top * part) + 4, 'text-anchor': 'end' }, form(top * part)));
  }
  const label = t => new Date(t * 1000).toLocaleString([], day ? { hour: '2-digit', minute: '2-digit' } : { month: 'short', day: 'numeric' });
  for (const part of [0, 0.5, 1]) {
    const t = begin + (end - begin) * part;
    picture.append(s('text', { x: x(t), y: H - 5, 'text-anchor': ['start', 'middle', 'end'][part * 2] }, label(t)));
  }
  columns.forEach(([at], number) => {
    let path = '';
    let before = 0;
    for (const row of rows) {
      if (row[0] < begin) continue;
      path += `${row[0] - before > 3 * step ? 'M' : 'L'}${x(row[0]).toFixed(1)} ${y(row[at]).toFixed(1)}`;
      before = row[0];
    }
    picture.append(s('path', { class: 'ab'[number], d: path, 'vector-effect': 'non-scaling-stroke' }));
  });
  const key = columns.length > 1 && h('p', { class: 'key' }, columns.map(([, name], number) =>
    [h('b', { class: 'ab'[number] }, number ? '╌ ' : '— '), name, '  ']));
  return h('div', {}, picture, key);
}

// How much of a whole is used, by parts.
export function bar(title, parts, whole) {
  const picture = s('svg', { class: 'bar', viewBox: '0 0 100 10', preserveAspectRatio: 'none', role: 'img' });
  picture.append(s('title', {}, title));
  let from = 0;
  for (const [value, color] of parts) {
    const width = whole > 0 ? Math.min(100 - from, 100 * value / whole) : 0;
    picture.append(s('rect', { x: from, y: 0, width, height: 10, fill: `var(--${color})` }));
    from += width;
  }
  return picture;
}
