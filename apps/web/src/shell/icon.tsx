/** Drawn on a grid of 24, in the colour of the text around. */
const PATHS = {
  send: 'M12 20V5M5.5 11.5 12 5l6.5 6.5',
  stop: 'M7 7h10v10H7z',
  again: 'M19.5 12a7.5 7.5 0 1 1-2.2-5.3M19.5 3.5v4h-4',
  copy: 'M9 9h10v11H9zM15 9V5H5v11h4',
  check: 'm5 12.5 4.5 4.5L19 7.5',
  settings: 'M4 7h9M17 7h3M4 17h3M11 17h9M15 4.5v5M9 14.5v5',
  fresh: 'M12 5v14M5 12h14',
  close: 'm6 6 12 12M18 6 6 18',
  light:
    'M12 8a4 4 0 1 0 0 8 4 4 0 0 0 0-8M12 2.5v2M12 19.5v2M2.5 12h2M19.5 12h2M5.3 5.3l1.4 1.4M17.3 17.3l1.4 1.4M5.3 18.7l1.4-1.4M17.3 6.7l1.4-1.4',
  dark: 'M19.5 14.5A8 8 0 0 1 9.5 4.5a8 8 0 1 0 10 10',
} as const;

export type IconName = keyof typeof PATHS;

export function Icon({ name }: { name: IconName }) {
  return (
    <svg class="icon" viewBox="0 0 24 24" aria-hidden="true">
      <path d={PATHS[name]} />
    </svg>
  );
}
