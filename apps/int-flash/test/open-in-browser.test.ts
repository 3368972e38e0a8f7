import { describe, expect, it } from 'vitest';
import { openerOf } from '../src/open-in-browser.js';

describe('openerOf', () => {
  it.each([
    ['darwin', {}, ['open']],
    ['win32', {}, ['explorer.exe']],
    ['linux', { DISPLAY: ':0' }, ['xdg-open']],
    ['linux', { WAYLAND_DISPLAY: 'wayland-0' }, ['xdg-open']],
    ['linux', {}, undefined],
    ['linux', { DISPLAY: ':10', SSH_CONNECTION: '::1 1 ::1 22' }, undefined],
    ['darwin', { SSH_CONNECTION: '::1 1 ::1 22' }, undefined],
  ] as const)('%s with %j', (platform, env, opener) => {
    expect(openerOf(platform, env)).toEqual(opener);
  });
});
