// Putting, links, pins and how often they were asked for.
import { h, card, table, button, act, confirm, dialog, field, text, toast, size, count, time, copy, failed } from './dom.js';
import { call, putFile, qr, pathOf } from './api.js';
import { progress } from './node.js';

const LOOKED_AT = 20;

export async function view(state) {
  const pins = state.live([], () => pinList(() => pins.redraw()));
  const redraw = () => pins.redraw();
  return [h('h1', {}, 'Sharing'), put(redraw), h('div', { class: 'grid' }, local(redraw), fetchLink(redraw)), pins];
}

function put(redraw) {
  const place = h('div', { 'aria-live': 'polite' });
  const choose = h('input', { type: 'file', multiple: true, id: 'put-files', onchange: () => take([...choose.files]) });
  async function take(files) {
    for (const file of files) {
      const line = h('div', {}, h('p', {}, h('strong', {}, file.name), ' ', h('span', { class: 'dim' }, size(file.size))));
      const bar = h('div', {});
      line.append(bar);
      place.prepend(line);
      try {
        const done = await putFile(file, frame => { if (frame.progress) bar.replaceChildren(progress(frame.progress)); });
        bar.replaceChildren(linkLine(done.link));
        redraw();
      } catch (error) {
        bar.replaceChildren(h('p', { class: 'tag bad' }, error.message));
      }
    }
    choose.value = '';
  }
  const zone = h('div', {
    class: 'drop',
    ondragover: event => { event.preventDefault(); zone.classList.add('over'); },
    ondragleave: () => zone.classList.remove('over'),
    ondrop: event => {
      event.preventDefault();
      zone.classList.remove('over');
      const items = [...event.dataTransfer.items];
      if (items.some(item => item.webkitGetAsEntry?.()?.isDirectory)) return toast('A folder can’t be dropped: give its path below.', true);
      take([...event.dataTransfer.files]);
    },
  }, h('p', {}, 'Drop files here, or ', h('label', { for: 'put-files' }, 'choose files')), choose);
  return card('Share files', h('p', {}, 'A file becomes encrypted blocks and a link. Whoever has the link can read the file; nobody else can.'), zone, place);
}

const linkLine = link => h('div', {}, h('pre', { class: 'log' }, link),
  h('div', { class: 'row' }, button('Copy link', () => copy(link)), button('QR code', act(() => show(link))),
    h('a', { class: 'button', href: pathOf(link), target: '_blank', rel: 'noopener' }, 'Open')));

async function show(link) {
  const picture = await qr(link);
  dialog('Link', close => [h('pre', { class: 'log' }, link), h('img', { class: 'qr', src: picture, alt: 'The link as a QR code' }),
    h('p', { class: 'row' }, button('Copy link', () => copy(link)), button('Close', close, 'main'))]);
}

function local(redraw) {
  const path = text('', { required: true, placeholder: '/home/you/photos' });
  const place = h('div', { 'aria-live': 'polite' });
  return card('Share a folder', h('form', {
    onsubmit: act(async () => {
      const done = await call('put', { path: path.value.trim(), pin: true, announce: true }, frame => { if (frame.progress) place.replaceChildren(progress(frame.progress)); });
      const left = done.unreadable.length + done.left_out.length;
      place.replaceChildren(h('p', {}, `${count(done.files, 'file')}, ${size(done.bytes)}${left ? `; ${left} left out` : ''}`), linkLine(done.link));
      redraw();
    }),
  }, field('Path on this machine', path), h('p', {}, h('button', { class: 'main' }, 'Share')), place));
}

function fetchLink(redraw) {
  const link = text('', { required: true });
  const place = h('div', { 'aria-live': 'polite' });
  return card('Keep what a link names', h('form', {
    onsubmit: act(async () => {
      const done = await call('pin-add', { link: link.value.trim(), timeout_s: 60 }, frame => { if (frame.progress) place.replaceChildren(progress(frame.progress)); });
      if (done.missing.length) throw new Error(`${count(done.missing.length, 'part')} could not be had: ${done.missing[0].reason}`);
      place.replaceChildren(h('p', {}, `${count(done.blocks, 'block')}, ${size(done.bytes)}, kept from now on.`));
      link.value = '';
      redraw();
    }),
  }, field('Link', link, 'All of it is fetched and stays until you unpin it.'), h('p', {}, h('button', { class: 'main' }, 'Fetch and keep')), place));
}

async function pinList(redraw) {
  const pins = (await call('pin-ls')).pins.filter(pin => !['backup snapshot', 'backup log'].includes(pin.name)).reverse();
  const asked = new Map();
  await Promise.all(pins.filter(pin => pin.link).slice(0, LOOKED_AT).map(async pin => {
    try { asked.set(pin.id, (await call('bundle-stat', { link: pin.link, timeout_s: 2 })).served); } catch (error) { if (error.status === 401) failed(error); }
  }));
  const rows = pins.slice(0, 300).map(pin => {
    const served = asked.get(pin.id);
    return [
      [h('strong', {}, pin.name || 'without a name'), h('div', { class: 'small dim' }, time(pin.created))],
      size(pin.bytes), pin.blocks.toLocaleString('en'), served ? String(served.count) : '',
      h('div', { class: 'row' },
        pin.link && [button('Copy link', () => copy(pin.link)), button('QR code', act(() => show(pin.link))), h('a', { class: 'button', href: pathOf(pin.link), target: '_blank', rel: 'noopener' }, 'Open')],
        button('Unpin', () => confirm(`Unpin ${pin.name || 'this'}?`, 'Its blocks may be dropped when room is needed. Others who have them still give them.', 'Unpin', async () => { await call('pin-rm', { id: pin.id }); redraw(); }), 'danger')),
    ];
  });
  const popular = pins.filter(pin => asked.get(pin.id)?.count).sort((a, b) => asked.get(b.id).count - asked.get(a.id).count).slice(0, 5);
  return [
    card('Kept here', table('Pins', [['Name'], ['Size', true], ['Blocks', true], ['Blocks given', true], ['']], rows, 'Nothing is shared or kept yet.'),
      pins.length > LOOKED_AT && h('p', { class: 'dim small' }, `Blocks given are counted for the newest ${LOOKED_AT}.`)),
    popular.length > 0 && card('Asked for most', h('ol', {}, popular.map(pin => h('li', {}, `${pin.name || pin.id}: ${count(asked.get(pin.id).count, 'block')} given, last `, time(asked.get(pin.id).last))))),
  ];
}
