// Rings: members, invitations, joining.
import { h, card, tag, table, button, act, confirm, dialog, field, text, check, toast, size, time, date, copy, short } from './dom.js';
import { call, qr } from './api.js';

export async function view(state) {
  const place = state.live(['member', 'peer_gone', 'peer_connected'], async () => {
    const { rings } = await call('ring-list');
    if (!rings.length) {
      return card('No ring yet', h('p', {}, 'A ring is a group of machines that keep each other’s backups. Make one here and invite the others, or join one with the code of a member.'));
    }
    return Promise.all(rings.map(ring => one(ring, () => place.redraw())));
  });
  return [h('h1', {}, 'Rings'), place, h('div', { class: 'grid' }, create(() => place.redraw()), join(() => place.redraw()))];
}

async function one(ring, redraw) {
  const { members } = await call('ring-members', { ring: ring.ring });
  const rows = members.map(member => [
    [h('strong', {}, member.name || 'not known yet'), h('div', { class: 'small' }, short(member.peer))],
    member.online ? tag('good', 'online') : [tag('', 'offline'), h('div', { class: 'small dim' }, 'seen ', time(member.last_seen))],
    member.free_bytes === null ? '' : size(member.free_bytes),
    member.place || '',
    h('div', { class: 'row' }, button('Place', () => placeOf(ring, member, redraw)),
      button('Remove', () => confirm(`Remove ${member.name || 'this member'}?`, 'The ring gets a new secret, which the others are given when they are connected. The member keeps none of your backups from then on.', 'Remove member',
        async () => { await call('ring-remove', { ring: ring.ring, peer: member.peer }); redraw(); }), 'danger')),
  ]);
  return card(ring.ring,
    ring.generation === 0 && h('p', { class: 'tag warn' }, 'No member has let this machine in yet.'),
    ring.branches.length > 0 && h('p', { class: 'tag warn' }, `This ring has branches. Decide with: libernet ring choose ${ring.ring}`),
    h('p', { class: 'dim' }, `Joined ${date(ring.joined)}. `, ring.anywhere ? 'Members find each other anywhere, by the public meeting point.' : 'Members find each other on the local network and at known addresses.'),
    table(`Members of ${ring.ring}`, [['Machine'], ['State'], ['Free', true], ['Place'], ['']], rows, 'Nobody but this machine yet.'),
    h('div', { class: 'row' }, button('Invite', () => invite(ring.ring), 'main'), button('Leave ring', () => leave(ring.ring, redraw), 'danger')));
}

function placeOf(ring, member, redraw) {
  dialog(`Where is ${member.name || 'it'}?`, close => {
    const place = text(member.place, { maxlength: 64 });
    return h('form', { onsubmit: act(async () => { await call('ring-place', { ring: ring.ring, peer: member.peer, place: place.value.trim() }); close(); redraw(); }) },
      field('Place', place, 'Copies are asked for in different places first, such as home and office.'),
      h('div', { class: 'row' }, h('button', { class: 'main' }, 'Save'), button('Cancel', close)));
  });
}

function invite(ring) {
  dialog(`Invite to ${ring}`, close => {
    const once = h('input', { type: 'checkbox', checked: true });
    const place = h('div', {});
    return h('form', {
      onsubmit: act(async () => {
        const reply = await call('ring-invite', { ring, single_use: once.checked });
        place.replaceChildren(...code(reply, await qr(reply.code)));
      }),
    },
      h('p', {}, 'Whoever has the code can join. Pass it on only to people whom you trust with your backups’ copies: they can’t read them, but they can lose them.'),
      check('For one machine only', once), place,
      h('div', { class: 'row' }, h('button', { class: 'main' }, 'Make a code'), button('Close', close)));
  });
}

const code = (reply, picture) => [
  h('p', {}, 'On the other machine:'), h('pre', { class: 'log' }, 'libernet ring join'),
  h('p', {}, 'and then this code, until ', date(reply.until), ':'),
  h('pre', { class: 'log', id: 'invite-code' }, reply.code),
  h('img', { class: 'qr', src: picture, alt: 'The code as a QR code' }),
  h('p', {}, button('Copy', () => copy(reply.code))),
];

function leave(ring, redraw) {
  const gone = left => {
    const parts = [];
    if (left.others_alone) parts.push(`${left.others_alone} backups of others that no other member who answered keeps`);
    if (left.own_alone) parts.push(`${left.own_alone} backups of yours whose copies are all on members of this ring`);
    return parts.join(', and ');
  };
  confirm(`Leave ${ring}?`, 'The others are not told. What this machine keeps for them goes when its time is over.', 'Leave', async () => {
    try {
      await call('ring-leave', { ring });
    } catch (error) {
      confirm('Leave although copies go with it?', `${error.message}`, 'Leave anyway', async () => {
        const left = await call('ring-leave', { ring, force: true });
        if (gone(left)) toast(`Gone with it: ${gone(left)}.`, true);
        redraw();
      });
      return;
    }
    redraw();
  });
}

function create(redraw) {
  const name = text('', { maxlength: 64, required: true });
  const anywhere = h('input', { type: 'checkbox' });
  return card('Make a ring', h('form', {
    onsubmit: act(async () => {
      const reply = await call('ring-create', { name: name.value.trim(), anywhere: anywhere.checked });
      redraw();
      const picture = await qr(reply.code);
      dialog(`${reply.ring} is made`, close => [...code(reply, picture), button('Close', close, 'main')]);
    }),
  }, field('Name', name), check('Members may be anywhere: they are looked for at the public meeting point', anywhere),
    h('p', {}, h('button', { class: 'main' }, 'Make'))));
}

function join(redraw) {
  const word = text('', { required: true });
  return card('Join a ring', h('form', {
    onsubmit: act(async () => {
      const reply = await call('ring-join', { code: word.value.trim() });
      word.value = '';
      toast(`Joined ${reply.ring}. Members let this machine in when they are connected.`);
      redraw();
    }),
  }, field('Code of a member', word), h('p', {}, h('button', { class: 'main' }, 'Join'))));
}
