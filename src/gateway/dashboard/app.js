// The page: the session, the views and what is live.
import { $, h, button, act, failed } from './dom.js';
import * as api from './api.js';
import * as overview from './overview.js';
import * as backups from './backups.js';
import * as rings from './rings.js';
import * as sharing from './sharing.js';
import * as node from './node.js';
import * as settings from './settings.js';
import { welcome } from './welcome.js';

const VIEWS = [
  ['', 'Overview', overview.view],
  ['backups', 'Backups', backups.view],
  ['rings', 'Rings', rings.view],
  ['sharing', 'Sharing', sharing.view],
  ['transfers', 'Transfers', node.transfers],
  ['network', 'Network', node.network],
  ['store', 'Store', node.store],
  ['workers', 'Workers', node.workers],
  ['settings', 'Settings', settings.view],
  ['log', 'Log', settings.log],
];

// What is known of the node, kept up to date by its events.
const state = { status: null, jobs: [], listeners: new Set() };
let shown = 0;
let stop = null;

// A part of a view that is drawn anew when one of these events comes.
state.live = (names, draw) => {
  const place = h('div', {});
  let turn = 0;
  const redraw = async () => {
    const mine = turn += 1;
    try {
      const drawn = await draw();
      const focused = document.activeElement;
      const isInside = place.contains(focused) && focused !== document.body;
      // Nobody loses a field while writing in it.
      if (mine === turn && !(isInside && /^(INPUT|TEXTAREA|SELECT)$/.test(focused.tagName))) {
        const mark = isInside ? focused.textContent : null;
        place.replaceChildren(...[drawn].flat(9).filter(Boolean));
        if (mark) [...place.querySelectorAll('button,a')].find(one => one.textContent === mark)?.focus();
      }
    } catch (error) {
      if (mine === turn) place.replaceChildren(h('p', { class: 'tag bad' }, error.message), error.hint ? h('p', { class: 'dim' }, error.hint) : '');
    }
  };
  place.redraw = redraw;
  state.listeners.add({ names, redraw });
  redraw();
  return place;
};

function heard(name, data) {
  if (name === 'status') state.status = data;
  if (name === 'jobs') state.jobs = data;
  document.body.classList.remove('lost');
  where();
  for (const one of state.listeners) if (one.names.includes(name)) one.redraw();
}

function where() {
  const lost = document.body.classList.contains('lost');
  const peers = state.status ? `${state.status.peers} ${state.status.peers === 1 ? 'peer' : 'peers'}` : '';
  $('where').textContent = lost ? 'the node does not answer – trying again' : peers;
}

function navigation(current) {
  const links = VIEWS.map(([path, name]) =>
    h('a', { href: `#/${path}`, 'aria-current': path === current ? 'page' : null }, name));
  $('nav').replaceChildren(...links);
  $('nav').hidden = false;
  $('nav').querySelector('[aria-current]')?.scrollIntoView({ block: 'nearest', inline: 'center' });
}

async function show() {
  if (!api.isKnown()) return loggedOut();
  const turn = shown += 1;
  const [path, ...rest] = location.hash.replace(/^#\/?/, '').split('/').map(part => {
    try { return decodeURIComponent(part); } catch { return part; }
  });
  const view = VIEWS.find(([name]) => name === path) || VIEWS[0];
  state.listeners.clear();
  navigation(view[0]);
  document.title = `${view[1]} – libernet`;
  let content;
  try {
    if (!state.status) state.status = await api.call('status');
    const owner = await api.call('owner-info');
    state.owner = owner;
    content = !owner.owner && path === '' && !sessionStorage.getItem('later')
      ? welcome(state, show)
      : await view[2](state, rest);
  } catch (error) {
    if (error.status === 401) return loggedOut();
    content = [h('h1', {}, view[1]), h('p', {}, error.message), error.hint && h('p', { class: 'dim' }, error.hint), button('Try again', show)];
  }
  if (turn !== shown) return;
  $('main').replaceChildren(...[content].flat(9).filter(Boolean));
  where();
}

function loggedOut() {
  shown += 1;
  stop?.abort();
  stop = null;
  api.forget();
  state.listeners.clear();
  state.status = null;
  $('nav').hidden = true;
  $('where').textContent = '';
  document.title = 'libernet';
  $('main').replaceChildren(
    h('section', { class: 'card' },
      h('h1', {}, 'Log in'),
      h('p', {}, 'Run this on this computer, as the user who runs the node:'),
      h('pre', {}, 'libernet web'),
      h('p', {}, 'It opens this page logged in. The browser stays logged in until the node stops, or for a week without use.'),
      h('p', { class: 'dim' }, 'Content of others’ links is shown without logging in, at the addresses that ', h('code', {}, 'libernet url LINK'), ' prints.')));
}

state.logOut = act(async () => { await api.logOut(); loggedOut(); });
state.show = show;

function start() {
  if (stop || !api.isKnown()) return;
  stop = new AbortController();
  api.listen(heard, () => { document.body.classList.add('lost'); where(); }, stop.signal).catch(failed);
}

api.takeKey();
api.whenLoggedOut(loggedOut);
$('skip').addEventListener('click', event => { event.preventDefault(); $('main').focus(); });
addEventListener('hashchange', () => { api.takeKey(); start(); show(); $('main').focus({ preventScroll: true }); scrollTo(0, 0); });
start();
show();
