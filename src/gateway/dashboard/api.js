// The API as this page uses it: the cookie goes by itself, the key is kept in the storage of this origin.
const KEY = 'libernet-session';

// Takes the key of a new session out of the address.
export function takeKey() {
  const found = location.hash.match(/^#key=([0-9a-f]{64})$/);
  if (!found) return;
  localStorage.setItem(KEY, found[1]);
  history.replaceState(null, '', '/#/');
}
export const isKnown = () => Boolean(localStorage.getItem(KEY));
export const forget = () => localStorage.removeItem(KEY);

export class Failure extends Error {
  constructor(error, status) {
    super(error.message || 'The node gave no answer that can be read.');
    this.kind = error.kind;
    this.hint = error.hint;
    this.status = status;
  }
}

let onLoggedOut = () => {};
export const whenLoggedOut = act => { onLoggedOut = act; };

async function send(method, path, body, signal) {
  const headers = { 'x-libernet-session': localStorage.getItem(KEY) || '' };
  if (method === 'POST') headers['x-libernet-watched'] = '1';
  let answer;
  try {
    answer = await fetch(path, { method, headers, body, signal, cache: 'no-store' });
  } catch (error) {
    if (error.name === 'AbortError') throw error;
    throw new Failure({ message: 'The node does not answer.', hint: 'is it running? `libernet up` starts it' });
  }
  if (answer.ok) return answer;
  const said = await answer.json().catch(() => ({}));
  if (answer.status === 401) onLoggedOut();
  throw new Failure(said.error || {}, answer.status);
}

// Lines of an answer as they come.
async function* lines(answer) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = '';
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const parts = (rest + value).split('\n');
    rest = parts.pop();
    yield* parts;
  }
}

async function frames(answer, heard) {
  for await (const line of lines(answer)) {
    if (!line) continue;
    const frame = JSON.parse(line);
    if ('done' in frame) return frame.done;
    if (frame.error) throw new Failure(frame.error);
    if (heard) heard(frame);
  }
  throw new Failure({ message: 'The node broke off its answer.' });
}

// A call by name. `heard` is told of progress and warnings.
export const call = async (name, request = {}, heard, signal) =>
  frames(await send('POST', `/api/v1/${name}`, JSON.stringify(request), signal), heard);
export const read = async path => (await send('GET', path)).json();
export const putFile = async (file, heard, signal) =>
  frames(await send('POST', `/api/v1/put-stream?name=${encodeURIComponent(file.name)}`, file, signal), heard);
export async function qr(text) {
  const answer = await send('POST', '/api/v1/qr', text);
  return `data:image/svg+xml,${encodeURIComponent(await answer.text())}`;
}
export async function logOut() {
  await send('POST', '/logout').catch(() => {});
  forget();
}

// What happens on the node, until `signal` fires; begins again when the connection breaks.
export async function listen(heard, broken, signal) {
  for (let wait = 1000; !signal.aborted; wait = Math.min(wait * 2, 30000)) {
    try {
      const answer = await send('GET', '/api/v1/events', undefined, signal);
      let name = '';
      for await (const line of lines(answer)) {
        wait = 1000;
        if (line.startsWith('event: ')) name = line.slice(7);
        else if (line.startsWith('data: ')) heard(name, JSON.parse(line.slice(6)));
      }
    } catch (error) {
      if (signal.aborted || error.status === 401) return;
    }
    broken();
    await new Promise(done => setTimeout(done, wait));
  }
}

const BASE32 = 'abcdefghijklmnopqrstuvwxyz234567';
function unbase32(text) {
  const bytes = [];
  let bits = 0;
  let value = 0;
  for (const c of text) {
    value = (value << 5 | BASE32.indexOf(c)) & 0xffff;
    bits += 5;
    if (bits >= 8) { bits -= 8; bytes.push(value >> bits & 255); }
  }
  return bytes;
}
const hex = bytes => bytes.map(b => b.toString(16).padStart(2, '0')).join('');

// Where this node shows a link, and a path in it.
export function pathOf(link, inside = '') {
  const [cid, key] = link.replace(/^libernet:/, '').split('.');
  const [, , code, , ...digest] = unbase32(cid.slice(1));
  const name = code === 0x12 ? 'sha256' : 'sha384';
  const path = inside.split('/').filter(Boolean).map(encodeURIComponent).join('/');
  return `/${name}/${hex(digest)}/aes256/${hex(unbase32(key))}/${path}`;
}
