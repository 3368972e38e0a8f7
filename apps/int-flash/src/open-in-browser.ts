import { spawn } from 'node:child_process';

/**
 * Asks the desktop to open a page, where there is one; whoever asks prints the address too, so nothing is lost where there is none.
 *
 * @param url Of this process's own making: it goes to the desktop as one argument, past no shell.
 */
export function openInBrowser(url: string, env: NodeJS.ProcessEnv, platform: NodeJS.Platform = process.platform): void {
  const opener = openerOf(platform, env);
  if (!opener) return;
  const [command, ...args] = [...opener, url];
  const child = spawn(command!, args, { detached: true, stdio: 'ignore' });
  child.on('error', () => {}); // not installed: the address is on the screen
  child.unref();
}

/** The desktop's own command, or undefined where no desktop is to be expected. */
export function openerOf(platform: NodeJS.Platform, env: NodeJS.ProcessEnv): readonly string[] | undefined {
  if (env.SSH_CONNECTION) return undefined; // its browser would open on a screen that nobody sits at
  if (platform === 'darwin') return ['open'];
  if (platform === 'win32') return ['explorer.exe'];
  return env.DISPLAY || env.WAYLAND_DISPLAY ? ['xdg-open'] : undefined;
}
