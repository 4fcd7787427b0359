// Settings, and the tail of the log.
import { h, card, tag, button, act, text, toast, date } from './dom.js';
import { call, read } from './api.js';

export async function view(state) {
  const list = state.live([], async () => {
    const { settings } = await call('settings');
    return settings.map(one => setting(one, () => list.redraw()));
  });
  return [h('h1', {}, 'Settings'),
    h('p', {}, 'Changes go to the settings file. Those marked “at once” hold from the moment they are saved; the others when the node is started again.'),
    list,
    card('This browser', h('p', {}, 'Ends this browser’s session. ', h('code', {}, 'libernet web'), ' begins a new one.'), button('Log out', state.logOut))];
}

function setting(one, redraw) {
  const id = `setting-${one.name}`;
  const input = text(one.waiting ?? one.value, { id, 'aria-describedby': `${id}-note` });
  return card('', h('form', {
    onsubmit: act(async () => {
      const told = await call('setting-set', { name: one.name, value: input.value.trim() });
      if (told.applied.includes(one.name)) toast(`${one.name} holds now.`);
      else if (one.overridden) toast(`${one.name} is saved, and the node’s flags or environment beat it.`, true);
      else if (told.waiting.includes(one.name)) toast(`${one.name} is saved and holds from the node’s next start on.`);
      else toast(`${one.name} is saved.`);
      document.activeElement.blur();
      redraw();
    }),
  },
    h('label', { for: id }, h('span', { class: 'mono' }, one.name), ' ', tag(one.live ? 'good' : '', one.live ? 'at once' : 'at the next start'),
      one.overridden && [' ', tag('warn', 'set by flags or environment')], one.waiting !== null && [' ', tag('warn', 'waits for a restart')]),
    h('p', { class: 'dim small', id: `${id}-note` }, one.meaning, ' Default: ', one.default || 'empty', '.'),
    one.waiting !== null && h('p', { class: 'small' }, 'The node goes by ', h('code', {}, one.value || 'nothing'), ' until it is started again.'),
    h('div', { class: 'row' }, input, h('button', {}, 'Save'))));
}

export async function log(state) {
  const place = h('pre', { class: 'log', tabindex: '0', 'aria-label': 'Log' });
  let next = 0;
  const pull = async () => {
    const { lines } = await read(`/api/v1/log?from=${next}`);
    const atEnd = place.scrollTop + place.clientHeight >= place.scrollHeight - 20;
    for (const line of lines) {
      next = line.number + 1;
      place.append(`${date(line.time)}  ${line.level.padEnd(5)} ${line.text}\n`);
    }
    if (!next) place.textContent = 'Nothing was logged since the node started.';
    while (place.childNodes.length > 500) place.firstChild.remove();
    if (atEnd) place.scrollTop = place.scrollHeight;
  };
  await pull();
  state.listeners.add({ names: ['status', 'warning', 'backed_up', 'backup_failed', 'peer_connected', 'peer_gone', 'jobs'], redraw: () => pull().catch(() => {}) });
  return [h('h1', {}, 'Log'), h('p', { class: 'dim' }, 'The last lines of this run: errors, warnings and what happens. RUST_LOG and -v change what the terminal shows, not this.'), card('', place)];
}
