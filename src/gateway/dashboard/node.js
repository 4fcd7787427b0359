// Transfers, network, store and background work.
import { h, card, tag, table, facts, size, count, span, time, short } from './dom.js';
import { call } from './api.js';
import { bar } from './chart.js';
import { reach, plots } from './overview.js';

const NAMES = { put: 'Put', get: 'Get', pin_add: 'Fetch and keep', backup: 'Backup', restore: 'Restore', prune: 'Prune', check: 'Check', leave: 'Leave' };

export function progress(p) {
  const [done, all] = p.bytes_total ? [p.bytes, p.bytes_total] : [p.files, p.files_total];
  return h('div', {},
    h('progress', all ? { max: all, value: String(done), 'aria-label': 'Progress' } : { 'aria-label': 'Progress' }),
    h('p', { class: 'small dim' }, [p.files || p.files_total ? `${p.files}${p.files_total ? ` of ${p.files_total}` : ''} files` : '',
      p.bytes || p.bytes_total ? `${size(p.bytes)}${p.bytes_total ? ` of ${size(p.bytes_total)}` : ''}` : '', p.blocks ? `${p.blocks} blocks` : ''].filter(Boolean).join(', ')));
}

export async function transfers(state) {
  const seen = new Map();
  let before = null;
  const jobs = state.live(['jobs'], () => {
    const now = Date.now();
    return card('Work under way', state.jobs.length ? state.jobs.map(job => {
      const p = job.progress;
      const first = seen.get(job.id) || [now, p ? p.bytes : 0];
      seen.set(job.id, first);
      const seconds = (now - first[0]) / 1000;
      const rate = p && seconds > 1 ? (p.bytes - first[1]) / seconds : 0;
      return h('div', {}, h('h3', {}, NAMES[job.call] || job.call, ' ', h('span', { class: 'dim small' }, 'begun ', time(job.since), rate > 0 ? `, ${size(rate)}/s` : '')), p ? progress(p) : h('p', { class: 'dim' }, 'Beginning…'));
    }) : h('p', { class: 'dim' }, 'Nothing is put, fetched, backed up or restored at the moment.'));
  });
  const traffic = state.live(['status'], async () => {
    const { exchange, limits } = state.status;
    const now = Date.now();
    let rates = ['', ''];
    if (before && now - before[0] > 500) {
      const seconds = (now - before[0]) / 1000;
      rates = [exchange.served_bytes - before[1], exchange.fetched_bytes - before[2]].map(bytes => bytes > 0 ? ` (${size(bytes / seconds)}/s)` : '');
    }
    before = [now, exchange.served_bytes, exchange.fetched_bytes];
    return card('Blocks exchanged with peers', facts([
      ['Given', `${count(exchange.served_blocks, 'block')}, ${size(exchange.served_bytes)}${rates[0]}`],
      ['Taken', `${count(exchange.fetched_blocks, 'block')}, ${size(exchange.fetched_bytes)}${rates[1]}`],
      ['Limit up', limits.up ? `${size(limits.up)}/s` : 'none'],
      ['Limit down', limits.down ? `${size(limits.down)}/s` : 'none'],
      limits.hours && ['Limits hold', `${limits.hours}${limits.holding ? ', now' : ', not now'}`],
    ]));
  });
  const ledger = state.live([], async () => {
    const { peers } = await call('ledger');
    const amount = one => one ? size(one.bytes) : '';
    return card('What peers and this node did for each other', table('Ledger', [['Peer'], ['Standing'], ['Given', true], ['Taken', true], ['Keeps for us', true], ['Kept for it', true]],
      peers.slice(0, 50).map(one => [short(one.peer), one.standing.replace('_', ' '), amount(one.served), amount(one.taken), amount(one.keeps_for_us), amount(one.kept_for_it)]), 'Nothing was exchanged yet.'));
  });
  return [h('h1', {}, 'Transfers'), jobs, traffic, ledger];
}

export async function network(state) {
  const about = state.live(['status', 'reachable'], async () => {
    const { status } = state;
    const a = status.announcing;
    return h('div', { class: 'grid' },
      card('This node', facts([
        ['Name', h('span', { class: 'mono' }, status.peer)],
        ['Network', status.network],
        ['Reachable', reach(status.reach)],
        ['Router', { none: 'none before it', cone: 'can be passed directly', symmetric: 'changes ports for each peer', some: 'of some kind', unknown: 'not known' }[status.reach.nat] || status.reach.nat],
        ['Port mapping', { off: 'off', none: 'the router promised none', promised: `promised: ${status.reach.mapped.join(' ')}` }[status.reach.port_mapping] || status.reach.port_mapping],
        ['Listens on', h('span', { class: 'mono small' }, status.addresses.join(' ') || 'nothing')],
        ['Relays for others', status.reach.relaying.on ? `yes, ${status.reach.relaying.circuits} connections now` : 'no'],
      ])),
      card('Announcing', a ? [facts([
        ['In time', `${a.on_time} of ${count(a.parts, 'part')}`],
        ['Waiting', String(a.waiting)],
        ['Late by', a.late_s ? span(a.late_s) : 'nothing'],
        ['Announced since the start', count(a.keys, 'key')],
      ]), a.warning && h('p', { class: 'tag warn' }, a.warning)] : h('p', { class: 'dim' }, 'Nothing is announced at the moment.')));
  });
  const peers = state.live(['peer_connected', 'peer_gone'], async () => {
    const { peers } = await call('peers');
    return card(`Peers (${peers.length})`, table('Peers', [['Peer'], ['Address'], ['Round trip', true], ['Connected'], ['How']],
      peers.slice(0, 300).map(one => [[short(one.peer), one.agent && h('div', { class: 'small dim' }, one.agent)],
        h('span', { class: 'mono small' }, one.addresses[0] || ''), one.rtt_ms === null ? '' : `${one.rtt_ms.toFixed(one.rtt_ms < 10 ? 1 : 0)} ms`,
        span(one.connected_s), [one.direction, one.source && ` by ${one.source}`, one.relayed ? [' ', tag('', 'relayed')] : '']]), 'Nobody is connected.'));
  });
  const ways = state.live([], async () => {
    const mesh = await call('mesh-status');
    return card('Ways into the mesh', h('p', {}, mesh.meet === 'off' ? 'The public meeting point is off.' : mesh.joined ? 'This node is found at the public meeting point, as you agreed.' : 'This node does not use the public meeting point for the mesh (libernet mesh join changes that).'),
      table('Ways', [['Kind'], ['Address'], ['Last worked']], mesh.ways.map(way => [way.kind, h('span', { class: 'mono small' }, way.address), time(way.last_ok)]), 'None is known.'),
      mesh.error && h('p', { class: 'tag warn' }, mesh.error));
  });
  return [h('h1', {}, 'Network'), about, peers, ways];
}

export async function store(state) {
  const about = state.live(['status'], async () => {
    const { store, limits, popularity } = state.status;
    const other = Math.max(0, store.disk_bytes - store.pinned_bytes - store.leased_bytes - store.cached_bytes);
    return [card('Use', bar('Use of the quota', [[store.pinned_bytes, 'plot1'], [store.leased_bytes, 'plot2'], [store.cached_bytes, 'dim']], store.quota),
      h('p', {}, `${size(store.disk_bytes)} of ${size(store.quota)} on disk, ${count(store.blocks, 'block')}.`),
      table('Classes', [['Why it is kept'], ['Size', true], ['Goes when']], [
        ['Pinned: your own', size(store.pinned_bytes), 'you unpin or forget it'],
        ['Leased: kept for owners', size(store.leased_bytes), 'the lease ends'],
        ['Cached: popular or passing', size(store.cached_bytes), 'room is needed'],
        ['Index and room not yet given back', size(other), ''],
      ]),
      h('p', { class: 'dim' }, `At most ${size(limits.lend)} are lent to others. “quota” and “lend” are settings that hold at once.`)),
    card('Health of the store', facts([
      ['Damaged blocks found since the start', String(store.corrupt)],
      ['Cached blocks that made room, ever', store.evicted.toLocaleString('en')],
      ['Of these without a known copy elsewhere', store.evicted_unsure.toLocaleString('en')],
      ['Pins', store.pins.toLocaleString('en')],
      ['Copies made because of popularity', popularity.copied_blocks.toLocaleString('en')],
    ]))];
  });
  const held = state.live(['lease_taken'], async () => {
    const { leases, bytes } = await call('lease-held');
    return card('Kept for others', h('p', {}, `${count(leases.length, 'backup')}, ${size(bytes)}.`),
      table('Leases', [['Machine'], ['Blocks', true], ['Size', true], ['Whole'], ['Came'], ['Until']],
        leases.slice(0, 200).map(one => [one.machine || short(one.peer), one.blocks.toLocaleString('en'), size(one.bytes), one.whole ? 'yes' : 'not yet', time(one.received), time(one.until)]), 'Nothing is kept for others.'));
  });
  return [h('h1', {}, 'Store'), about, held, await plots(state)];
}

export async function workers(state) {
  const list = state.live(['status'], async () => card('', table('Background jobs', [['Job'], ['State'], ['Doing']],
    state.status.workers.map(one => [h('strong', {}, one.name), one.error ? tag('bad', 'failed') : tag('good', 'well'), [one.state, one.error && h('div', { class: 'small' }, one.error)]]))));
  return [h('h1', {}, 'Background work'), list];
}
