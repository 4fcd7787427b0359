// Is everything safe, and is anything to be done.
import { h, card, tag, facts, size, span, count, time, ago } from './dom.js';
import { call, read } from './api.js';
import { plot, bar } from './chart.js';

// What one set's health means, in words: [kind, sentence].
export function words(set) {
  if (set.problem) return ['bad', set.problem];
  if (set.never) return ['warn', 'It has never been backed up.'];
  if (set.lost) return ['bad', `${count(set.lost, 'backup')} lost blocks on this machine; copies elsewhere stay.`];
  if (set.overdue_since) return ['warn', `A backup was due ${ago(set.overdue_since)} and has not run.`];
  if (set.copies_asked === 0) return ['warn', 'On this disk only: no copies on other machines are asked for.'];
  if (set.copies_min < set.copies_asked) {
    return ['warn', set.copies_min === 0
      ? `On this disk only: ${set.copies_asked} copies on other machines are asked for, none is complete.`
      : `${set.copies_min} of ${set.copies_asked} copies on other machines are complete.`];
  }
  return ['good', `${count(set.copies_min, 'copy', 'copies')} on other machines. It survives the loss of any ${set.survives === 1 ? 'one machine' : `${set.survives} machines`}.`];
}

function todo(health, status) {
  const list = [...health.problems, ...health.clocks, ...health.doubts];
  for (const one of health.requests) {
    if (one.state !== 'withdrawn') list.push(`${one.by_name || 'A machine'} asks to forget a backup of ${one.machine_name || 'this machine'} (${one.set || 'paths given by hand'}). To keep it: libernet unforget ${one.snapshot.slice(0, 12)}`);
  }
  if (health.head && !(health.head.told > 0 && health.head.log && !health.head.overtaken)) {
    list.push('The twelve words alone would not lead to the newest backup now: no connected machine told it when it was read back.');
  }
  if (status.twin) list.push(`Another node with this node’s key was seen at ${status.twin}: the data directory was copied.`);
  if (status.leaving) list.push('This node is leaving: it takes nothing more for others.');
  if (status.announcing && status.announcing.warning) list.push(status.announcing.warning);
  for (const worker of status.workers) if (worker.error) list.push(`Background job ${worker.name}: ${worker.error}`);
  if (status.store.corrupt) list.push(`${count(status.store.corrupt, 'damaged block')} found since the start. Check the disk; “Backups” has a check that mends from copies.`);
  if (status.store.disk_bytes > 0.95 * status.store.quota) list.push('The store is nearly full: raise “quota” in the settings, or forget and prune.');
  return list;
}

function verdict(health, list) {
  const sets = health.sets.map(words);
  if (!health.owner) return ['warn', 'Nothing is backed up', 'This machine has no owner yet.'];
  if (!health.sets.length) return ['warn', 'Nothing is backed up', 'There is no set yet: add one under “Backups”.'];
  if (sets.some(([kind]) => kind === 'bad')) return ['bad', 'Not everything is safe', 'See below what is wrong.'];
  if (sets.some(([kind]) => kind === 'warn')) return ['warn', 'Not everything is as asked', 'See below what is missing.'];
  if (list.length) return ['warn', 'Backups are as asked, and something needs a look', ''];
  return ['good', 'Everything is safe', 'Each backup is as new as its schedule says and has the copies that were asked for.'];
}

export async function view(state) {
  const health = state.live(['backed_up', 'backup_failed', 'member', 'peer_gone', 'lease_taken'], async () => {
    const [health, status] = await Promise.all([call('health'), call('status')]);
    const list = todo(health, status);
    const [kind, title, more] = verdict(health, list);
    return [
      h('section', { class: `card verdict ${kind}` }, h('strong', {}, title), more && h('span', {}, more)),
      list.length > 0 && card('To be done', h('ul', { class: 'problems' }, list.map(text => h('li', {}, text)))),
      health.sets.length > 0 && card('Backups', health.sets.map(set => {
        const [kind, text] = words(set);
        return h('div', {}, h('h3', {}, set.name || 'Paths given by hand', ' ', tag(kind, kind === 'good' ? 'safe' : kind === 'warn' ? 'look' : 'problem')),
          h('p', {}, text),
          h('p', { class: 'dim small' }, 'Last ', time(set.last_backup), set.next_backup ? [', next ', time(set.next_backup)] : set.schedule ? '' : ', no schedule',
            set.holders.length ? ` · kept by ${set.holders.map(one => `${one.name || `…${one.peer.slice(-6)}`}${one.online ? '' : ' (offline)'}`).join(', ')}` : ''));
      }), h('p', {}, h('a', { href: '#/backups' }, 'Look at backups'))),
    ];
  });
  const node = state.live(['status'], async () => {
    const { status } = state;
    const { store } = status;
    return h('div', { class: 'grid' },
      card('This node', facts([
        ['Reachable', reach(status.reach)],
        ['Peers', String(status.peers)],
        ['Mesh', status.bootstrapped ? 'joined' : 'not joined'],
        ['Running for', span(status.uptime_s)],
        ['Version', status.version],
      ])),
      card('Store', bar('Use of the quota', [[store.pinned_bytes, 'plot1'], [store.leased_bytes, 'plot2'], [store.cached_bytes, 'dim']], store.quota),
        facts([
          ['On disk', `${size(store.disk_bytes)} of ${size(store.quota)}`],
          ['Own', size(store.pinned_bytes)],
          ['Kept for others', size(store.leased_bytes)],
          ['Passing', size(store.cached_bytes)],
        ])),
      card('Traffic since the start', facts([
        ['Given to others', size(status.exchange.served_bytes)],
        ['Taken from others', size(status.exchange.fetched_bytes)],
        ['Wrong answers', String(status.exchange.wrong_blocks)],
      ])));
  });
  return [h('h1', {}, 'Overview'), health, node, await plots(state)];
}

export function reach(reach) {
  return { public: 'directly from outside', relay: 'from outside through a relay', no: 'not from outside', unknown: 'not known yet' }[reach.reachable] || reach.reachable;
}

export async function plots() {
  const place = h('div', { class: 'grid' });
  const draw = async span => {
    const data = await read(`/api/v1/series?span=${span}`);
    const unit = data.step_s === 60 ? 'a minute' : 'an hour';
    place.replaceChildren(
      card('Stored', plot('Stored bytes', data, [[1, 'on disk']], size)),
      card(`Traffic, ${unit}`, plot('Traffic', data, [[2, 'given'], [3, 'taken']], size)),
      card(`Requests, ${unit}`, plot('Requests', data, [[4, 'requests']], v => String(Math.round(v)))));
  };
  const choose = h('select', { 'aria-label': 'Span of the plots', onchange: event => draw(event.target.value) },
    h('option', { value: 'day' }, 'Last day'), h('option', { value: 'month' }, 'Last month'));
  await draw('day');
  return h('section', {}, h('div', { class: 'row between' }, h('h2', {}, 'Over time'), choose), place);
}
