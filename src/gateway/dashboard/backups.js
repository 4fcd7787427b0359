// Sets, runs, snapshots as folders, and restoring.
import { h, card, tag, table, button, act, confirm, dialog, field, text, check, toast, size, count, time, date, failed } from './dom.js';
import { call, pathOf } from './api.js';
import { words } from './overview.js';
import { progress } from './node.js';

const TIMEOUT_S = 30;

export async function view(state, [snapshot, ...inside]) {
  if (snapshot) return folder(state, snapshot, inside.filter(Boolean));
  if (!state.owner.owner) {
    return [h('h1', {}, 'Backups'), card('No owner yet', h('p', {}, 'Backups belong to an owner: twelve words that bring everything back. '),
      h('p', {}, h('a', { href: '#/', onclick: () => sessionStorage.removeItem('later') }, 'Make them, or bring an owner back')))];
  }
  const again = ['backed_up', 'backup_failed'];
  const sets = state.live([...again, 'lease_taken'], () => setList(state, () => sets.redraw()));
  const snapshots = state.live(again, snapshotList);
  return [h('h1', {}, 'Backups'), sets, snapshots, looking(state)];
}

async function setList(state, redraw) {
  const [{ sets }, health] = await Promise.all([call('set-list'), call('health')]);
  const rows = health.sets.map(health => {
    const set = sets.find(one => one.name === health.name);
    const [kind, sentence] = words(health);
    return [
      [h('strong', {}, health.name || 'By hand'), set && h('div', { class: 'dim small mono' }, set.paths.map(shown).join(', '))],
      [tag(kind, kind === 'good' ? 'safe' : kind === 'warn' ? 'look' : 'problem'), h('div', { class: 'small' }, sentence)],
      time(health.last_backup),
      health.next_backup ? time(health.next_backup) : health.schedule || 'no schedule',
      set && h('div', { class: 'row' }, button('Run now', () => run(set, redraw), 'main'),
        button('Remove set', () => confirm(`Remove the set ${set.name}?`, 'It is not backed up any more. Its snapshots stay.', 'Remove set', async () => { await call('set-remove', { name: set.name }); redraw(); }))),
    ];
  });
  return card('Sets', table('Sets', [['Set'], ['State'], ['Last'], ['Next'], ['']], rows, 'No set yet. A set is what is backed up together, again and again.'),
    h('p', {}, button('Add a set', () => addSet(redraw))));
}

const shown = path => typeof path === 'string' ? path : `(bytes ${path.hex})`;

function addSet(redraw) {
  dialog('Add a set', close => {
    const name = text('');
    const paths = h('textarea', { rows: 3, spellcheck: 'false' });
    const schedule = h('select', {}, [['daily', 'every day'], ['every 6h', 'every 6 hours'], ['hourly', 'every hour'], ['weekly sun', 'every Sunday'], ['', 'only when I ask']].map(([value, name]) => h('option', { value }, name)));
    const at = h('input', { type: 'time', value: '03:00', required: true });
    const copies = text('', { inputmode: 'numeric' });
    const now = h('input', { type: 'checkbox', checked: true });
    return h('form', {
      onsubmit: act(async () => {
        const set = { name: name.value.trim(), paths: paths.value.split('\n').map(line => line.trim()).filter(Boolean) };
        if (schedule.value) set.schedule = /^(daily|weekly)/.test(schedule.value) ? `${schedule.value} ${at.value}` : schedule.value;
        if (copies.value.trim()) set.copies = Number(copies.value);
        const { sets } = await call('set-add', { set });
        close();
        redraw();
        toast(`The set ${set.name} is added.`);
        if (now.checked) run(sets.find(one => one.name === set.name), redraw);
      }),
    },
      field('Name', name),
      field('Paths on this machine, one a line', paths, 'Whole paths, such as /home/you/Documents'),
      field('When', schedule), field('At', at, 'For every day and every Sunday. A run that is missed while the machine is off is made up for.'),
      field('Copies on other machines', copies, 'Empty: two in a ring, none elsewhere'),
      check('Back it up now', now),
      h('div', { class: 'row' }, h('button', { class: 'main' }, 'Add'), button('Cancel', close)));
  });
}
function run(set, redraw) {
  const stop = new AbortController();
  dialog(`Backing up ${set.name}`, close => {
    const place = h('div', { 'aria-live': 'polite' }, h('p', {}, 'Beginning…'));
    const halt = button('Stop', () => { stop.abort(); close(); });
    const request = { paths: set.paths, set: set.name, tags: set.tags || [], exclusions: set.exclusions || {}, copies: set.copies ?? null };
    const warnings = [];
    call('backup', request, frame => {
      if (frame.progress) place.replaceChildren(progress(frame.progress));
      if (frame.warning) warnings.push(frame.warning);
    }, stop.signal).then(done => {
      halt.replaceWith(button('Close', close, 'main'));
      const left = [...done.unreadable, ...done.left_out];
      place.replaceChildren(
        h('p', {}, `${count(done.files, 'file')}, ${size(done.bytes)}, of which ${size(done.new_bytes)} new.`),
        h('p', {}, done.copies.asked ? `${done.copies.reached} of ${done.copies.asked} copies on other machines so far; the node goes on with the others.` : 'On this disk only: no copies on other machines are asked for.'),
        left.length ? h('div', {}, h('p', { class: 'tag warn' }, `${count(left.length, 'path')} left out`), h('ul', { class: 'problems' }, left.slice(0, 50).map(one => h('li', {}, h('span', { class: 'mono' }, one.path), ` – ${one.reason}`)))) : '',
        warnings.length ? h('ul', { class: 'problems' }, warnings.slice(0, 20).map(one => h('li', {}, one))) : '');
      redraw();
    }, error => { if (error.name !== 'AbortError') { close(); failed(error); redraw(); } });
    return [place, h('p', { class: 'row' }, halt)];
  });
}

async function snapshotList() {
  let reply;
  try {
    reply = await call('snapshots', { timeout_s: 5 });
  } catch (error) {
    if (error.kind !== 'not_found') throw error;
    return card('Snapshots', h('p', {}, 'No snapshot yet, and no connected machine knows of one. After the first backup they are listed here.'),
      h('p', { class: 'dim' }, 'If this owner has backups elsewhere, connect this node to a machine that keeps them: join its ring, or its local network.'));
  }
  const names = new Map(reply.machines.map(one => [one.machine, one.name]));
  const rows = reply.snapshots.slice().reverse().slice(0, 200).map(one => [
    [h('a', { href: `#/backups/${one.snapshot}` }, date(one.time)), one.misdated ? tag('warn', 'clock was wrong') : ''],
    one.set || 'by hand', names.get(one.machine) || '', h('span', { class: 'mono small' }, one.paths.join(', ')),
    one.files.toLocaleString('en'), size(one.bytes), size(one.new_bytes),
  ]);
  const more = reply.snapshots.length - rows.length;
  return card('Snapshots', table('Snapshots', [['Time'], ['Set'], ['Machine'], ['Paths'], ['Files', true], ['Size', true], ['New', true]], rows, 'No snapshot yet.'),
    more > 0 && h('p', { class: 'dim' }, `${count(more, 'older one')} not shown: libernet snapshots lists all.`),
    reply.notes.map(note => h('p', { class: 'dim' }, note)));
}

// A folder of a snapshot.
async function folder(state, snapshot, path) {
  const { info, tree } = await call('snapshot-tree', { snapshot, timeout_s: TIMEOUT_S });
  const list = h('div', {});
  const inside = path.join('/');
  const here = (parts, name) => h('a', { href: `#/backups/${snapshot}/${parts.map(encodeURIComponent).join('/')}` }, name);
  const rows = [];
  const more = button('Show more', act(() => load()));
  async function load() {
    const reply = await call('ls', { link: tree, path: inside, skip: rows.length, limit: 500, timeout_s: TIMEOUT_S });
    for (const entry of reply.entries) rows.push(line(entry));
    list.replaceChildren(table('Entries', [['Name'], ['Kind'], ['Size', true], ['Changed'], ['']], rows, 'An empty folder.'), reply.more ? more : '');
  }
  function line(entry) {
    const whole = [...path, entry.name];
    const odd = entry.name_hex;
    const name = odd ? h('span', { class: 'mono' }, entry.name)
      : entry.kind === 'dir' ? here(whole, `${entry.name}/`)
        : entry.kind === 'file' ? h('a', { href: pathOf(tree, whole.join('/')), target: '_blank', rel: 'noopener' }, entry.name) : entry.name;
    return [name, { dir: 'folder', file: 'file', symlink: `link to ${entry.target || ''}` }[entry.kind] || entry.kind,
      entry.kind === 'file' ? size(entry.bytes) : '', date(entry.mtime_s * 1000),
      odd || !['dir', 'file'].includes(entry.kind) ? '' : button('Restore', () => restore(info, whole))];
  }
  await load();
  return [
    h('h1', {}, `Snapshot of ${date(info.time)}`),
    h('p', { class: 'dim' }, `${info.set || 'Paths given by hand'}, ${count(info.files, 'file')}, ${size(info.bytes)}`),
    h('nav', { class: 'crumbs', 'aria-label': 'Folder' }, h('a', { href: '#/backups' }, 'Backups'), '›', here([], 'All'),
      path.map((name, at) => ['›', here(path.slice(0, at + 1), name)])),
    card('', list),
    button(path.length ? 'Restore this folder' : 'Restore everything', () => restore(info, path), 'main'),
  ];
}

function restore(info, path) {
  dialog(`Restore ${path.length ? path[path.length - 1] : 'everything'}`, close => {
    const target = text('', { required: true, placeholder: '/home/you/restored' });
    const over = h('select', {}, [['never', 'leave them alone'], ['changed', 'replace those that differ'], ['always', 'replace all']].map(([value, name]) => h('option', { value }, name)));
    const verify = h('input', { type: 'checkbox', checked: true });
    const place = h('div', { 'aria-live': 'polite' });
    const stop = new AbortController();
    const form = h('form', {
      onsubmit: act(async () => {
        const request = {
          snapshot: info.snapshot, timeout_s: 120, target: target.value.trim(), overwrite: over.value, verify: verify.checked,
          path: '', include: path.length ? [`/${path.map(glob).join('/')}`] : [],
        };
        const done = await call('restore', request, frame => { if (frame.progress) place.replaceChildren(progress(frame.progress)); }, stop.signal);
        const bad = done.missing_total;
        place.replaceChildren(
          h('p', {}, tag(bad ? 'bad' : 'good', bad ? `${count(bad, 'part')} could not be restored` : 'restored'), ` ${count(done.files, 'file')}, ${size(done.bytes)}, in ${done.target}.`,
            done.verified ? ' Every byte was checked.' : ''),
          done.skipped ? h('p', {}, `${count(done.skipped, 'file')} were there, differ, and were left alone.`) : '',
          bad ? h('ul', { class: 'problems' }, done.missing.slice(0, 50).map(one => h('li', {}, one.path, ` – ${one.reason}`))) : '');
      }),
    },
      h('p', { class: 'mono' }, `/${path.join('/')}`),
      field('To the folder on this machine', target, 'A whole path. What is restored lies below it, with its own path.'),
      field('Files that are there already', over),
      check('Read everything back and compare', verify),
      place,
      h('div', { class: 'row' }, h('button', { class: 'main' }, 'Restore'), button('Close', () => { stop.abort(); close(); })));
    return form;
  });
}
const glob = name => name.replace(/[\\*?[\]!#]/g, c => `\\${c}`).replace(/ $/, '\\ ');

// Checks of what is kept.
function looking() {
  const place = h('div', { 'aria-live': 'polite' });
  const check = (title, request) => button(title, act(async () => {
    place.replaceChildren(h('p', {}, 'Checking…'));
    const done = await call('check', { timeout_s: 60, ...request }, frame => { if (frame.progress) place.replaceChildren(progress(frame.progress)); });
    const bad = done.errors_total + done.unreadable_total;
    place.replaceChildren(h('p', {}, tag(bad ? 'bad' : 'good', bad ? `${count(bad, 'problem')}` : 'no damage found'),
      ` ${count(done.snapshots, 'snapshot')}, ${count(done.blocks, 'block')}; ${size(done.read_bytes)} read${done.mended_total ? `; ${count(done.mended_total, 'block')} mended` : ''}${done.elsewhere ? `; ${count(done.elsewhere, 'snapshot')} kept elsewhere not looked at` : ''}.`));
  }));
  return card('Check',
    h('p', {}, 'A check looks whether all blocks of the snapshots are here; reading all of them finds damage of the disk, too.'),
    h('div', { class: 'row' }, check('Check', { read_data_percent: 0 }), check('Read everything', { read_data_percent: 100 }), check('Ask other machines', { read_data_percent: 0, remote: true })),
    place,
    h('h3', {}, 'Drill'),
    h('p', {}, 'Only a rehearsal shows that the words and other machines bring everything back. It needs the twelve words, which this page never asks for again: run ', h('code', {}, 'libernet drill'), ' in a terminal.'));
}
