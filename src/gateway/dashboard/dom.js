// Elements without markup: every text stays a text.
const SVG = 'http://www.w3.org/2000/svg';

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith('on')) element.addEventListener(name.slice(2), value);
    else if (name === 'value' || name === 'checked' || name === 'disabled') element[name] = value;
    else element.setAttribute(name, value === true ? '' : value);
  }
  element.append(...children.flat(9).filter(c => c !== null && c !== undefined && c !== false));
  return element;
}
export const h = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);
export const s = (tag, attributes, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);
export const $ = id => document.getElementById(id);

export const card = (title, ...children) =>
  h('section', { class: 'card' }, title && h('h2', {}, title), ...children);
export const tag = (kind, text) => h('span', { class: `tag ${kind}` }, text);
export const button = (text, act, kind) => h('button', { type: 'button', class: kind, onclick: act }, text);
export const facts = pairs => h('dl', {}, pairs.filter(p => p).map(([name, value]) => [h('dt', {}, name), h('dd', {}, value)]));

// A table that becomes a list on narrow screens. Columns are [name, is it a number].
export function table(caption, columns, rows, empty) {
  if (!rows.length) return h('p', { class: 'dim' }, empty || 'Nothing yet.');
  return h('div', { class: 'scroll' }, h('table', { class: 'stack', 'aria-label': caption },
    h('thead', {}, h('tr', {}, columns.map(([name, number]) => h('th', { scope: 'col', class: number && 'n' }, name)))),
    h('tbody', {}, rows.map(row => h('tr', {}, row.map((cell, at) =>
      h('td', { class: columns[at][1] && 'n', 'data-name': columns[at][0] || null }, cell)))))));
}

export function size(bytes) {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB'];
  let at = 0;
  let value = Number(bytes) || 0;
  while (value >= 1024 && at < units.length - 1) { value /= 1024; at += 1; }
  return `${at === 0 || value >= 100 ? Math.round(value) : value.toFixed(1)} ${units[at]}`;
}
export const count = (n, one, many) => `${Number(n).toLocaleString('en')} ${Number(n) === 1 ? one : many || one + 's'}`;
export function span(seconds) {
  const t = Math.max(0, Math.round(seconds));
  if (t < 90) return count(t, 'second');
  if (t < 5400) return count(Math.round(t / 60), 'minute');
  if (t < 129600) return count(Math.round(t / 3600), 'hour');
  return count(Math.round(t / 86400), 'day');
}
export const date = ms => ms ? new Date(ms).toLocaleString([], { dateStyle: 'medium', timeStyle: 'short' }) : '';
export function ago(ms) {
  if (!ms) return 'never';
  const past = (Date.now() - ms) / 1000;
  return past >= 0 ? `${span(past)} ago` : `in ${span(-past)}`;
}
export const time = ms => ms ? h('time', { datetime: new Date(ms).toISOString(), title: date(ms) }, ago(ms)) : 'never';
export const short = text => text && text.length > 20 ? h('span', { class: 'mono', title: text }, `${text.slice(0, 6)}…${text.slice(-8)}`) : h('span', { class: 'mono' }, text || '');

export function toast(text, bad) {
  const box = h('div', { class: bad ? 'toast bad' : 'toast' }, text);
  // What lies above everything else hides what is said below it.
  (document.querySelector('dialog[open] .said') || $('toasts')).append(box);
  setTimeout(() => box.remove(), bad ? 12000 : 6000);
}
export const failed = error => { if (error.name !== 'AbortError') toast(error.hint ? `${error.message} – ${error.hint}` : error.message, true); };

// Runs what a button asks for, once at a time, and tells when it fails.
export const act = work => async event => {
  event.preventDefault();
  const source = event.submitter || event.currentTarget;
  if (source.disabled) return;
  source.disabled = true;
  try { await work(event); } catch (error) { failed(error); } finally { source.disabled = false; }
};

export async function copy(text) {
  try { await navigator.clipboard.writeText(text); toast('Copied.'); }
  catch { toast('The browser did not allow copying: select the text and copy it.', true); }
}

export function dialog(title, build) {
  const box = h('dialog', { 'aria-labelledby': 'dialog-title' });
  const close = () => { box.close(); box.remove(); };
  box.append(h('h2', { id: 'dialog-title' }, title), ...[build(close)].flat(), h('div', { class: 'said', role: 'status' }));
  box.addEventListener('cancel', () => box.remove());
  document.body.append(box);
  box.showModal();
  return close;
}
export const confirm = (title, text, word, work, kind = 'danger') => dialog(title, close => [
  h('p', {}, text),
  h('div', { class: 'row' },
    button(word, act(async () => { await work(); close(); }), kind),
    button('Cancel', close))]);

let fields = 0;
export function field(label, input, note) {
  const id = input.id || `field-${fields += 1}`;
  input.id = id;
  if (note) input.setAttribute('aria-describedby', `${id}-note`);
  return [h('label', { for: id }, label), input, note && h('div', { class: 'dim small', id: `${id}-note` }, note)];
}
export const text = (value, more) => h('input', { type: 'text', value: value || '', autocomplete: 'off', spellcheck: 'false', ...more });
export const check = (label, input) => h('label', { class: 'check' }, input, label);
