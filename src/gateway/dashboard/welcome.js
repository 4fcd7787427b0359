// The first visit: an owner, from new words or from old ones.
import { h, card, button, act, field, text, toast } from './dom.js';
import { call } from './api.js';

export function welcome(state, done) {
  const place = h('div', {});
  const first = () => place.replaceChildren(
    h('div', { class: 'grid' },
      card('A new owner', h('p', {}, 'You get twelve words. They bring back everything, on any machine, even if this one is gone. Whoever has them can read your backups.'),
        button('Make the words', act(async () => fresh((await call('owner-words')).words)), 'main')),
      card('I have twelve words', h('p', {}, 'This machine joins the owner whose words you have; what was backed up before can be restored here.'),
        button('Enter the words', () => old()))),
    h('p', {}, button('Later: I only share files', () => { sessionStorage.setItem('later', '1'); done(); })));

  function fresh(words) {
    const list = words.split(' ');
    place.replaceChildren(card('Your twelve words',
      h('p', {}, h('strong', {}, 'Write them down now, on paper. They are shown this once.'), ' Nobody can give them to you again: not this program, not anybody on the network.'),
      h('ol', { class: 'words', 'aria-label': 'The twelve words' }, list.map(word => h('li', {}, word))),
      h('div', { class: 'row' }, button('Print', () => print()), button('I have written them down', () => ask(words, list), 'main'), button('Back', first))));
  }

  // Three words, at places that nobody knows before.
  function ask(words, list) {
    const places = [...list.keys()];
    const numbers = crypto.getRandomValues(new Uint32Array(list.length));
    places.sort((a, b) => numbers[a] - numbers[b]);
    const asked = places.slice(0, 3).sort((a, b) => a - b);
    const inputs = asked.map(() => text('', { required: true, autocapitalize: 'none' }));
    const name = text(state.owner.machine, { required: true });
    const secret = h('input', { type: 'password', autocomplete: 'new-password' });
    place.replaceChildren(card('Check that you have them', h('form', {
      onsubmit: act(async () => {
        const right = asked.every((at, n) => matches(inputs[n].value, list[at]));
        if (!right) throw new Error('These are not the words. Look at your paper again, or go back to see them.');
        await create(words, name, secret);
      }),
    }, asked.map((at, n) => field(`Word ${at + 1}`, inputs[n])), machine(name, secret),
      h('p', { class: 'row' }, h('button', { class: 'main' }, 'Begin'), button('Show the words again', () => fresh(words))))));
    inputs[0].focus();
  }
  const matches = (given, word) => {
    const typed = given.trim().toLowerCase();
    return typed === word || (typed.length >= 4 && word.startsWith(typed));
  };

  function old() {
    const words = h('textarea', { rows: 3, required: true, autocomplete: 'off', autocapitalize: 'none', spellcheck: 'false' });
    const name = text(state.owner.machine, { required: true });
    const secret = h('input', { type: 'password', autocomplete: 'new-password' });
    place.replaceChildren(card('Bring an owner back', h('form', { onsubmit: act(() => create(words.value, name, secret)) },
      field('The twelve words', words, 'The first four letters of each are enough.'), machine(name, secret),
      h('p', { class: 'row' }, h('button', { class: 'main' }, 'Begin'), button('Back', first)))));
    words.focus();
  }

  const machine = (name, secret) => [
    field('Name of this machine', name),
    field('Passphrase (may be empty)', secret, 'It protects the keys on this machine’s disk. With one, the node needs it once after each start before backups run by their schedule: libernet backup asks for it.')];

  async function create(words, name, secret) {
    await call('owner-create', { words, machine: name.value, passphrase: secret.value || null });
    secret.value = '';
    toast('This machine has an owner. Add a set to back up.');
    state.owner = await call('owner-info');
    location.hash = '#/backups';
  }

  first();
  return [h('h1', {}, 'Welcome to libernet'),
    h('p', {}, 'This node runs. Before it can back anything up it needs to know whose backups they are.'), place];
}
